"""Seven members in one process really retrain a small run, two of them misbehave in one way.

Three verifiers have every interval, so that one of them is honest, and five of seven are honest on
the panel: then whatever the two say or leave unsaid, a clean record is VALID and a poisoned one
INVALID, by the step at which the poison begins.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple, TypeVar

import pytest
from msgspec.structs import replace

from milepost_consensus.blocks import Block
from milepost_consensus.encoding import decode
from milepost_consensus.params import Params
from milepost_consensus.payloads import Attest, PanelVote, Witness, compute_submission_id
from milepost_consensus.submissions import AGREES, LAZY, MISSED, Submission
from milepost_consensus.transactions import decode_payload
from milepost_consensus.verdicts import INVALID, VALID, Verdict
from milepost_ml.admission import build_submit
from milepost_ml.files import encode_manifest
from milepost_node.gradients import get_gradients_folder
from milepost_node.jobs import RecomputeStep, RetraceInterval
from milepost_node.questions import compute_false_digest
from tests.support.ledger import make_signer
from tests.support.node_processes import record_run
from tests.support.nodes import FAST, put_files, wait_until
from tests.support.records import EVERY, INTERVALS
from tests.support.retraining import RetrainingCluster, ThreadWorkers

pytestmark = pytest.mark.slow

NODES = 7
LIARS = (5, 6)
POISONED = 2
STEP = POISONED * EVERY + 1
"""Where the poison begins."""
PARAMS = replace(FAST, auditors=3)


Said = TypeVar("Said", Attest, Witness, PanelVote)


class Runs(NamedTuple):
    clean: Path
    poisoned: Path


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Runs:
    folder = tmp_path_factory.mktemp("runs")
    poison = range(STEP, (POISONED + 1) * EVERY)
    return Runs(record_run(folder, "clean"), record_run(folder, "bad", poisoned=poison))


class Trial:
    """A network with two misbehaving members, and what came of the runs submitted to it."""

    def __init__(
        self, folder: Path, name: str, clique: Sequence[str] = (), *, params: Params = PARAMS
    ) -> None:
        self.cluster = RetrainingCluster(
            folder, NODES, params=params, malicious=dict.fromkeys(LIARS, name)
        )
        for index in LIARS:
            with (self.cluster.homes[index] / "node.toml").open("a") as file:
                file.write(f"clique = {list(clique)}\n".replace("'", '"'))
        self.liars = {make_signer(f"node-{index}").public for index in LIARS}
        self.workers: dict[int, ThreadWorkers] = {}

    async def __aenter__(self) -> Trial:
        self.workers = self.cluster.start_all()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.cluster.stop()

    async def judge(self, run: Path) -> Verdict:
        """The verdict on a run once every node has it."""
        submit, manifest = build_submit(run)
        files = {bytes.fromhex(f.digest): (run / f.name).read_bytes() for f in manifest.files}
        files[submit.manifest] = encode_manifest(manifest)
        nodes = self.cluster.nodes
        await wait_until(
            lambda: all(
                submit.device_class in standing.device_classes
                for standing in nodes[0].runtime.state.standings.values()
                if standing.id != make_signer("submitter").public
            ),
            "every verifier's statement of what it serves",
        )
        async with self.cluster.connect(0) as client:
            await put_files(client, files)
            tx = self.cluster.sign(submit, height=nodes[0].runtime.state.height)
            answer = await client.post("/v1/transactions", content=tx)
            assert answer.status_code == 202, answer.text
        submission = compute_submission_id(
            make_signer("submitter").public, submit, nodes[0].network
        )
        await wait_until(
            lambda: all(submission in node.runtime.state.verdicts for node in nodes.values()),
            "a verdict on every node",
        )
        return nodes[0].runtime.state.verdicts[submission]

    def get(self, verdict: Verdict) -> Submission:
        return self.cluster.nodes[0].runtime.state.submissions[verdict.submission]

    def find_said(self, verdict: Verdict, kind: type[Said]) -> list[Said]:
        """What of one kind the liars said about a submission, as the blocks have it."""
        node = self.cluster.nodes[0]
        said = []
        for height in range(1, node.runtime.state.height + 1):
            stored = node.store.get_block(height)
            assert stored is not None
            for tx in decode(Block, stored.block).txs:
                payload = decode_payload(tx)
                if tx.sender in self.liars and isinstance(payload, kind):
                    said.append(payload)
        return [each for each in said if each.submission == verdict.submission]

    def count_retrained(self) -> int:
        """Intervals and steps that the liars trained again."""
        return sum(
            isinstance(job, RetraceInterval | RecomputeStep)
            for index in LIARS
            for job in self.workers[index].asked
        )


ACCUSERS = ("chaotic", "false-witness", "colluding")
FRIENDLY, HOSTILE = ("submitter",), ("somebody else",)


@pytest.mark.parametrize(
    ("name", "clique"),
    [
        ("ordered", ()),
        ("chaotic", ()),
        ("lazy", ()),
        ("copycat", ()),
        ("colluding", FRIENDLY),
        ("colluding", HOSTILE),
        ("false-witness", ()),
    ],
)
async def test_verdicts_are_right_whatever_two_say(
    tmp_path: Path, runs: Runs, name: str, clique: tuple[str, ...]
) -> None:
    async with Trial(tmp_path, name, clique) as trial:
        verdict = await trial.judge(runs.clean)
        assert verdict.outcome == VALID
        accuses = name in ACCUSERS and clique != FRIENDLY
        assert set(verdict.overruled) <= (trial.liars if accuses else set())
        duties = [d for d in trial.get(verdict).duties if d.verifier in trial.liars]
        accused = trial.find_said(verdict, Witness)
        assert len(accused) == (len(duties) if accuses else 0)
        submit = trial.get(verdict).submit
        assert all(said.recomputed == compute_false_digest(submit, said.leaf) for said in accused)
        assert len(trial.find_said(verdict, Attest)) == (0 if accuses else len(duties))

        verdict = await trial.judge(runs.poisoned)
        check_poison_was_found(verdict)
        assert set(verdict.overruled) <= trial.liars
        (accusation,) = (a for a in trial.get(verdict).accusations if a.interval == POISONED)
        vouches = name in ("ordered", "chaotic", "lazy") or clique == FRIENDLY
        for vote in trial.find_said(verdict, PanelVote):
            if vote.interval == POISONED:
                assert (vote.recomputed == accusation.leaf) == vouches
        assert (trial.count_retrained() == 0) == (name in ("lazy", "copycat"))


def check_poison_was_found(verdict: Verdict) -> None:
    assert verdict.outcome == INVALID
    assert [(each.interval, each.step) for each in verdict.refuted] == [(POISONED, STEP)]


async def test_who_did_not_retrain_is_refuted_by_those_who_did(tmp_path: Path, runs: Runs) -> None:
    """All seven audit every interval, so the answers of the lazy stand beside honest ones."""
    params = replace(PARAMS, auditors=7, witness_window=10)
    async with Trial(tmp_path, "lazy", params=params) as trial:
        verdict = await trial.judge(runs.clean)
        assert verdict.outcome == VALID
        submission = trial.get(verdict)
        theirs = [duty for duty in submission.duties if duty.verifier in trial.liars]
        assert {duty.answer for duty in theirs} == {LAZY}
        assert len(theirs) == len(LIARS) * INTERVALS
        assert all(row.agreed == NODES - len(LIARS) for row in verdict.retraced)
        standings = trial.cluster.nodes[0].runtime.state.standings
        struck = {key for key, standing in standings.items() if standing.strikes}
        assert struck == trial.liars
        # What was kept for this is forgotten with the verdict.
        for home in trial.cluster.homes[:2]:
            folder = get_gradients_folder(home / "blobs")
            await wait_until(lambda folder=folder: not any(folder.iterdir()), "an empty folder")  # type: ignore[misc]


async def test_duties_of_silent_members_pass_to_others(tmp_path: Path, runs: Runs) -> None:
    params = replace(PARAMS, attest_window=25, idle_block_ms=50, max_extensions=5)
    async with Trial(tmp_path, "silent", params=params) as trial:
        verdict = await trial.judge(runs.clean)
        assert verdict.outcome == VALID
        submission = trial.get(verdict)
        theirs = [duty for duty in submission.duties if duty.verifier in trial.liars]
        assert theirs
        assert {duty.answer for duty in theirs} == {MISSED}
        assert submission.extensions
        for interval in range(INTERVALS):
            answered = [
                duty
                for duty in submission.duties
                if duty.interval == interval and duty.answer == AGREES
            ]
            assert len(answered) >= PARAMS.auditors, "somebody else took over"
        check_poison_was_found(await trial.judge(runs.poisoned))
        assert not trial.find_said(verdict, Attest)
        assert trial.count_retrained() == 0


async def test_withholding_members_stop_nobody_from_fetching(tmp_path: Path, runs: Runs) -> None:
    async with Trial(tmp_path, "withholding") as trial:
        verdict = await trial.judge(runs.clean)
        assert verdict.outcome == VALID
        nodes = trial.cluster.nodes
        files = nodes[0].records.get_files(trial.get(verdict).submit.manifest)
        await wait_until(
            lambda: not any(node.blobs.get_missing(files) for node in nodes.values()),
            "every file on every node",
        )
        for index, expected in ((0, 200), (LIARS[0], 404), (LIARS[1], 404)):
            async with trial.cluster.connect(index) as client:
                for digest in files:
                    for ask in (client.get, client.head):
                        assert (await ask(f"/v1/blobs/{digest.hex()}")).status_code == expected
        check_poison_was_found(await trial.judge(runs.poisoned))


async def test_what_a_misbehaving_node_does_is_on_its_sleeve(tmp_path: Path) -> None:
    async with Trial(tmp_path, "lazy") as trial:
        for index, expected in ((0, None), (LIARS[0], "lazy")):
            async with trial.cluster.connect(index) as client:
                assert ((await client.get("/v1/status")).json()["behaviour"] or None) == expected
                assert (await client.get("/health/ready")).json().get("behaviour") == expected
