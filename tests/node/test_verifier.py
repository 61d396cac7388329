"""One node's share of the work: what it takes on, what it says, when it stays silent."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import replace as replace_fields
from pathlib import Path

import pytest
from msgspec.structs import replace

from milepost_consensus.crypto import ZERO_DIGEST
from milepost_consensus.members import VALIDATOR
from milepost_consensus.payloads import Attest, Hold, PanelVote, Submit, Witness
from milepost_consensus.rules import check_tx
from milepost_consensus.transactions import Tx
from milepost_node.blobs import BlobStore, store_bytes
from milepost_node.errors import InvalidRequest, WorkerError
from milepost_node.jobs import DeviceClasses, Retrace
from milepost_node.mempool import Mempool
from milepost_node.records import Records
from milepost_node.tasks import plan_records, plan_retracing
from milepost_node.verifier import ATTEMPTS
from tests.support.nodes import (
    DEVICE,
    OTHER_DEVICE,
    Upload,
    make_upload,
    wait_until,
)
from tests.support.verifiers import UPLOAD, Desk, count_duties, working

EXACT_CLASS = "exact/1"


async def test_nothing_is_loaded_to_retrain_before_the_node_is_a_verifier(tmp_path: Path) -> None:
    desk = Desk(tmp_path)
    desk.have_files()
    state = desk.ledger.state
    bare = replace(state.members[desk.me], roles=VALIDATOR)
    desk.ledger.state = replace_fields(state, members={**state.members, desk.me: bare})
    submission = desk.ledger.submit(UPLOAD.record)
    async with working(desk):
        await wait_until(lambda: desk.said == [Hold(submission)])
        assert ("start", 0) not in desk.retracer.asked
        desk.ledger.state = replace_fields(desk.ledger.state, members=state.members)
        desk.verifier.on_decided()
        await wait_until(lambda: ("start", 0) in desk.retracer.asked)


async def test_record_is_fetched_validated_and_held(tmp_path: Path) -> None:
    desk = Desk(tmp_path)
    desk.served = {digest.hex(): data for digest, data in UPLOAD.files.items()}
    submission = desk.ledger.submit(UPLOAD.record)
    async with working(desk):
        await wait_until(lambda: desk.said)
    assert desk.said == [Hold(submission)]
    assert desk.retracer.asked.count(("validate", 0)) == 1
    assert not desk.blobs.get_missing(UPLOAD.files)


async def test_record_that_nobody_serves_is_tried_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("milepost_node.verifier.RETRY_FIRST_SECONDS", 0.001)
    monkeypatch.setattr("milepost_node.verifier.LOOK_SECONDS", 0.01)
    desk = Desk(tmp_path)
    submission = desk.ledger.submit(UPLOAD.record)
    files = {digest.hex(): data for digest, data in UPLOAD.files.items()}
    async with working(desk):
        await wait_until(lambda: desk.verifier.put_off)
        # A peer that serves other bytes under the name is as good as none.
        desk.served = dict.fromkeys(files, b"something else")
        await asyncio.sleep(0)
        assert not desk.said
        desk.served = files
        await wait_until(lambda: desk.said)
    assert desk.said == [Hold(submission)]


async def test_invalid_record_is_never_held(tmp_path: Path) -> None:
    desk = Desk(tmp_path)
    desk.have_files()
    desk.retracer.refusal = InvalidRequest("NaN", slug="not-finite")
    desk.ledger.submit(UPLOAD.record)
    async with working(desk):
        await wait_until(lambda: desk.verifier.done)
        desk.advance()
        await asyncio.sleep(0)
    assert desk.said == []
    assert desk.retracer.asked.count(("validate", 0)) == 1, "not over and over"


async def test_every_duty_is_answered_once(tmp_path: Path) -> None:
    desk = Desk(tmp_path)
    desk.have_files()
    submission = desk.ledger.start(UPLOAD.record)
    count = count_duties(desk, submission)
    assert count == 4
    async with working(desk):
        await wait_until(lambda: desk.say_count(Attest) == count)
        desk.advance()
        assert len(desk.answers) == 0, "what a block carried is settled"
    work = [task for task in desk.retracer.asked if task[0] == "retrace"]
    assert len(work) == len(set(work)) == count
    mine = [d for d in desk.ledger.get(submission).duties if d.verifier == desk.me]
    assert {duty.answer for duty in mine} == {"agrees"}


async def test_restarted_verifier_does_what_the_chain_lacks_and_no_more(tmp_path: Path) -> None:
    desk = Desk(tmp_path)
    desk.have_files()
    submission = desk.ledger.start(UPLOAD.record)
    mine = [d for d in desk.ledger.get(submission).duties if d.verifier == desk.me]
    desk.ledger.apply([desk.ledger.attest(submission, duty) for duty in mine[:2]])
    async with working(desk):
        await wait_until(lambda: desk.say_count(Attest) == 2)
    assert sorted(k for kind, k in desk.retracer.asked if kind == "retrace") == sorted(
        duty.interval for duty in mine[2:]
    )


async def test_difference_becomes_a_witness_that_the_rules_accept(tmp_path: Path) -> None:
    desk = Desk(tmp_path)
    desk.have_files()
    desk.retracer.faults = {2: 9}
    submission = desk.ledger.start(UPLOAD.record)
    async with working(desk):
        await wait_until(lambda: len(desk.said) == 4)
    [witness] = [payload for payload in desk.said if isinstance(payload, Witness)]
    assert (witness.interval, witness.step) == (2, 9)
    assert witness.recomputed == desk.retracer.compute_truth(UPLOAD.submit, 2, 9)
    desk.advance()
    [accusation] = desk.ledger.get(submission).accusations
    assert accusation.accusers == (desk.me,)


async def test_panel_comes_before_retracing(tmp_path: Path) -> None:
    desk = Desk(tmp_path)
    submission = desk.ledger.start(UPLOAD.record)
    witness = UPLOAD.record.make_witness(submission, 9, recomputed=b"\x09" * 32)
    desk.ledger.apply([desk.ledger.sign(witness, desk.others[0])])
    kinds = [task.key[0] for task in plan_retracing(desk.ledger.state, desk.me)]
    assert kinds == ["panel"] + ["retrace"] * 4
    assert list(plan_records(desk.ledger.state, desk.me)) == []


async def test_a_panel_unmasks_a_liar_and_its_other_accusations_cost_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    desk = Desk(tmp_path)
    monkeypatch.setattr(desk.retracer, "get_device_classes", get_exact_classes)
    exact = replace_submit(
        UPLOAD, replace(UPLOAD.submit, profile="exact", device_class=EXACT_CLASS)
    )
    desk.have_files(exact)
    submission = desk.ledger.start(exact.record)
    liar, first, second = desk.others
    witnesses = [
        exact.record.make_witness(submission, step, recomputed=b"\x09" * 32) for step in (5, 9, 13)
    ]
    desk.ledger.apply(desk.ledger.sign(witness, liar) for witness in witnesses)
    async with working(desk):
        await wait_until(lambda: desk.say_count(Attest) == 4)
        assert [v.step for v in desk.said if isinstance(v, PanelVote)] == [5]
        desk.advance()
        leaf = witnesses[0].leaf
        desk.ledger.apply(
            desk.ledger.vote(submission, witnesses[0], leaf, v) for v in (first, second)
        )
        outcomes = [each.outcome for each in desk.ledger.get(submission).accusations]
        assert outcomes == ["refuted", "dismissed", "dismissed"]
        desk.verifier.on_decided()
        # An honest member finds that step 9 does not follow: that is looked at.
        desk.ledger.apply([desk.ledger.sign(witnesses[1], first)])
        desk.verifier.on_decided()
        await wait_until(lambda: desk.say_count(PanelVote) == 2)
    assert [v.step for v in desk.said if isinstance(v, PanelVote)] == [5, 9]
    assert [k for kind, k in desk.retracer.asked if kind == "recompute"] == [1, 2]


async def get_exact_classes() -> DeviceClasses:
    return DeviceClasses((EXACT_CLASS,), "")


async def test_state_of_an_accusation_is_fetched_from_the_accuser(tmp_path: Path) -> None:
    desk = Desk(tmp_path)
    desk.have_files()
    state = b"the state before step 9"
    folder = tmp_path / "elsewhere"
    BlobStore(folder, store_bytes=10**6)
    digest = store_bytes(folder, state)
    desk.served[digest.hex()] = state
    submission = desk.ledger.start(UPLOAD.record)
    witness = replace(
        UPLOAD.record.make_witness(submission, 9, recomputed=b"\x09" * 32), pre_state=digest
    )
    desk.ledger.apply([desk.ledger.sign(witness, desk.others[0])])
    async with working(desk):
        await wait_until(lambda: desk.say_count(PanelVote))
    assert desk.blobs.has(digest)


async def test_other_device_class_means_silence(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    desk = Desk(tmp_path)
    upload = make_upload("elsewhere")
    submit = replace(upload.submit, profile="class", device_class="cuda-9.0")
    other = replace_submit(upload, submit)
    desk.have_files(other)
    # It says so on chain, though its machine is another by now.
    desk.ledger.serve("cuda-9.0")
    submission = desk.ledger.start(other.record)
    witness = other.record.make_witness(submission, 9, recomputed=b"\x09" * 32)
    desk.ledger.apply([desk.ledger.sign(witness, desk.others[0])])
    async with working(desk):
        await wait_until(lambda: len(desk.verifier.done) == 5)
    assert desk.said == []
    assert desk.retracer.asked == [("start", 0)]
    slugs = [getattr(record, "slug", "") for record in caplog.records]
    assert slugs.count("device-class") == 5


async def test_every_device_class_of_the_machine_is_retrained(tmp_path: Path) -> None:
    desk = Desk(tmp_path)
    upload = make_upload("elsewhere")
    submit = replace(upload.submit, profile="exact", device_class=OTHER_DEVICE)
    other = replace_submit(upload, submit)
    desk.have_files(other)
    desk.ledger.start(other.record)
    async with working(desk):
        await wait_until(lambda: desk.say_count(Attest))
    assert desk.verifier.device_classes == (OTHER_DEVICE, DEVICE)


async def test_wrong_arithmetic_is_said_loudly(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    desk = Desk(tmp_path)
    desk.retracer.fault = "the known answer is 1, here 2"
    async with working(desk):
        await wait_until(lambda: desk.verifier.device_classes)
    (record,) = [each for each in caplog.records if "ARITHMETIC IS WRONG" in each.getMessage()]
    assert (record.levelname, getattr(record, "reason", "")) == ("ERROR", desk.retracer.fault)


def replace_submit(upload: Upload, submit: Submit) -> Upload:
    """The same upload under another statement."""
    return replace_fields(upload, record=replace_fields(upload.record, submit=submit))


async def test_worker_that_keeps_failing_is_not_asked_for_ever(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("milepost_node.verifier.RETRY_FIRST_SECONDS", 0.001)
    monkeypatch.setattr("milepost_node.verifier.LOOK_SECONDS", 0.01)
    desk = Desk(tmp_path)
    desk.have_files()
    tries = 0

    async def fail(*_: object, **__: object) -> Retrace:
        nonlocal tries
        tries += 1
        raise WorkerError("died")

    monkeypatch.setattr(desk.retracer, "retrace_interval", fail)
    desk.ledger.start(UPLOAD.record)
    async with working(desk):
        await wait_until(lambda: len(desk.verifier.done) == 4)
    assert tries == 4 * ATTEMPTS
    assert desk.said == []


async def test_defect_in_one_task_does_not_stop_the_others(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    desk = Desk(tmp_path)
    desk.have_files()
    honest = desk.retracer.retrace_interval

    async def fail_once(
        submit: Submit, interval: int, *, verifier: bytes, work_step: int
    ) -> Retrace:
        if interval == 1:
            raise RuntimeError("a defect")
        return await honest(submit, interval, verifier=verifier, work_step=work_step)

    monkeypatch.setattr(desk.retracer, "retrace_interval", fail_once)
    desk.ledger.start(UPLOAD.record)
    async with working(desk):
        await wait_until(lambda: len(desk.verifier.done) == 4)
    assert desk.say_count(Attest) == 3


# Answers -----------------------------------------------------------------------------------------


def make_clock(monkeypatch: pytest.MonkeyPatch) -> Callable[[float], None]:
    """A clock that only the test moves."""
    now = [100.0]
    monkeypatch.setattr("milepost_node.answers.read_monotonic", lambda: now[0])

    def forward(seconds: float) -> None:
        now[0] += seconds

    return forward


async def test_answer_is_signed_anew_when_it_expired_and_dropped_when_it_stands(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("milepost_node.answers.VALID_FOR", 2)
    desk = Desk(tmp_path)
    submission = desk.ledger.submit(UPLOAD.record)
    desk.answers.put(("hold", submission, 0, 0), Hold(submission))
    first = desk.mempool.take()
    for _ in range(3):
        # Blocks that do not carry it.
        block = desk.ledger.apply()
        desk.mempool.apply_block(block, desk.ledger.state)
        desk.answers.settle()
    second = desk.mempool.take()
    assert len(first) == len(second) == 1
    assert first != second
    check_tx(desk.ledger.state, second[0])
    desk.advance()
    assert len(desk.answers) == len(desk.mempool) == 0


async def test_answer_is_repeated_while_it_waits(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    forward = make_clock(monkeypatch)
    desk = Desk(tmp_path)
    sent: list[Tx] = []
    monkeypatch.setattr(desk.answers, "_send", sent.append)
    submission = desk.ledger.submit(UPLOAD.record)
    desk.answers.put(("hold", submission, 0, 0), Hold(submission))
    desk.answers.repeat()
    assert len(sent) == 1
    forward(10.0)
    desk.answers.repeat()
    assert len(sent) == 2
    assert sent[0] == sent[1]


async def test_answer_that_found_no_room_is_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    forward = make_clock(monkeypatch)
    desk = Desk(tmp_path)
    desk.mempool = Mempool(desk.ledger.state.network, limit=0, per_sender=1)
    submission = desk.ledger.submit(UPLOAD.record)
    desk.answers.put(("hold", submission, 0, 0), Hold(submission))
    assert (len(desk.said), len(desk.answers)) == (0, 1)
    desk.mempool = Mempool(desk.ledger.state.network, limit=1, per_sender=1)
    forward(10.0)
    desk.answers.repeat()
    assert desk.said == [Hold(submission)]


def test_zero_digest_is_no_blob_to_fetch(tmp_path: Path) -> None:
    desk = Desk(tmp_path)
    records = Records(desk.blobs, desk.peers, blob_bytes=1)
    found = asyncio.run(records.fetch_state(UPLOAD.submit, ZERO_DIGEST, accusers=()))
    assert found == b""
