"""Seven real node processes, two of which misbehave, each in its own way; a real submitter."""

from __future__ import annotations

import hashlib
from pathlib import Path

import pytest
from msgspec.structs import replace

from milepost.delivery import submit
from milepost.keys import write_key
from milepost.observer import Observer
from milepost_consensus.payloads import EXACT
from milepost_consensus.submissions import LAZY
from milepost_consensus.verdicts import INVALID, VALID
from tests.support.ledger import make_signer
from tests.support.node_processes import QUICK, NodeProcesses, record_run
from tests.support.records import EVERY

pytestmark = [pytest.mark.e2e, pytest.mark.slow]

NODES = 7
BEHAVIOURS = {5: "lazy", 6: "chaotic"}
PARAMS = replace(QUICK, auditors=3, witness_window=30)
"""Every interval has an honest verifier; time enough for the submitter to look at the answers."""
POISONED = 2
STEP = POISONED * EVERY + 1


class Ear(Observer):
    """Remembers who was refuted."""

    def __init__(self) -> None:
        self.lazy: list[str] = []

    def on_lazy(self, verifier: str) -> None:
        self.lazy.append(verifier)


def test_liars_change_no_verdict_and_are_not_elected_again(tmp_path: Path) -> None:
    clean = record_run(tmp_path, "clean", profile=EXACT)
    poison = range(STEP, (POISONED + 1) * EVERY)
    poisoned = record_run(tmp_path, "poisoned", poisoned=poison, profile=EXACT)
    key = tmp_path / "submitter.key"
    write_key(key, hashlib.sha256(b"submitter").digest())
    lazy, chaotic = (make_signer(f"node-{index}").public.hex() for index in BEHAVIOURS)
    with NodeProcesses(tmp_path / "net", NODES, params=PARAMS, malicious=BEHAVIOURS) as nodes:
        nodes.start(*range(NODES))
        nodes.wait_ready()
        ear = Ear()
        first = submit(clean, nodes=nodes.urls, key=key, wait=True, observer=ear)
        assert first.verdict is not None
        assert first.verdict.outcome == VALID
        assert first.verdict.overruled == (bytes.fromhex(chaotic),)
        shown = nodes.get(0, f"/v1/submissions/{first.submission}")["submission"]
        answers = {d["answer"] for d in shown["duties"] if d["verifier"] == lazy}
        assert answers == {LAZY}
        assert ear.lazy in ([lazy], []), "nobody refutes anybody else"

        second = submit(poisoned, nodes=nodes.urls, key=key, wait=True)
        assert second.verdict is not None
        assert second.verdict.outcome == INVALID
        assert [(each.interval, each.step) for each in second.verdict.refuted] == [(POISONED, STEP)]
        shown = nodes.get(0, f"/v1/submissions/{second.submission}")["submission"]
        elected = {duty["verifier"] for duty in shown["duties"]}
        assert len(elected) == NODES - len(BEHAVIOURS)
        assert not elected & {lazy, chaotic}, "both were struck and are in jail"
        for index, name in BEHAVIOURS.items():
            assert nodes.get(index, "/v1/status")["behaviour"] == name
            assert "THIS NODE BREAKS THE RULES" in nodes.read_log(index)
        assert "MISBEHAVING" not in nodes.read_log(0)
