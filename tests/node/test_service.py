"""What a node serves: stated when it starts, withdrawn when a known-answer test fails."""

from __future__ import annotations

from dataclasses import replace as replace_fields
from pathlib import Path

import pytest
from msgspec.structs import replace

from milepost_consensus.members import VALIDATOR
from milepost_consensus.payloads import Attest, PanelVote, Serve
from milepost_consensus.problems import PROBLEMS
from milepost_node.errors import WorkerError
from milepost_node.jobs import DeviceClasses
from tests.support.nodes import DEVICE, OTHER_DEVICE, wait_until
from tests.support.verifiers import UPLOAD, Desk, count_duties, working

BOTH = tuple(sorted((DEVICE, OTHER_DEVICE)))


def get_served(desk: Desk) -> tuple[str, ...]:
    return desk.ledger.state.standings[desk.me].device_classes


async def test_what_the_worker_found_is_stated_once(tmp_path: Path) -> None:
    desk = Desk(tmp_path)
    async with working(desk):
        await wait_until(lambda: desk.stated)
        desk.advance()
        assert get_served(desk) == BOTH
        desk.advance()
        desk.advance()
    assert desk.stated == [Serve(0, BOTH)]


async def test_a_restarted_node_that_serves_the_same_says_nothing(tmp_path: Path) -> None:
    desk = Desk(tmp_path)
    desk.ledger.serve(*BOTH)
    async with working(desk):
        await wait_until(lambda: desk.verifier.device_classes)
        desk.advance()
    assert desk.stated == []


async def test_a_restarted_node_that_serves_something_else_says_so(tmp_path: Path) -> None:
    desk = Desk(tmp_path)
    desk.ledger.serve("torch-1/old")
    desk.retracer.device_classes = (DEVICE,)
    desk.retracer.fault = "exact/1: the known answer is 1, here 2"
    async with working(desk):
        await wait_until(lambda: desk.stated)
    assert desk.stated == [Serve(1, (DEVICE,))]


async def test_who_is_no_verifier_states_nothing_until_it_is_one(tmp_path: Path) -> None:
    desk = Desk(tmp_path)
    async with working(desk):
        await wait_until(lambda: desk.verifier.device_classes)
        desk.stated.clear()
        state = desk.ledger.state
        bare = replace(state.members[desk.me], roles=VALIDATOR)
        desk.ledger.state = replace_fields(state, members={**state.members, desk.me: bare})
        desk.mempool.take()
        desk.verifier.on_decided()
        assert desk.stated == []


async def test_a_failed_known_answer_refuses_the_task_and_withdraws_the_class(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    desk = Desk(tmp_path)
    desk.have_files()
    desk.retracer.failing = frozenset({DEVICE})
    submission = desk.ledger.start(UPLOAD.record)
    async with working(desk):
        await wait_until(lambda: len(desk.verifier.done) == count_duties(desk, submission))
        await wait_until(lambda: desk.stated)
        desk.advance()
        await wait_until(lambda: len(desk.stated) == 2 or get_served(desk) == (OTHER_DEVICE,))
        desk.advance()
        assert get_served(desk) == (OTHER_DEVICE,)
        assert desk.verifier.device_classes == (OTHER_DEVICE,)
    assert desk.say_count(Attest) == 0
    failed = [each for each in caplog.records if "KNOWN-ANSWER TEST FAILED" in each.getMessage()]
    (record,) = failed
    assert record.levelname == "ERROR"
    assert getattr(record, "device_class", "") == DEVICE
    assert getattr(record, "remedy", "") == PROBLEMS["known-answer-failed"].remedy
    # The other duties are refused without asking the worker again.
    assert [kind for kind, _ in desk.retracer.asked].count("retrace") == 1


async def test_a_panel_gets_no_answer_from_a_machine_that_fails_its_test(tmp_path: Path) -> None:
    desk = Desk(tmp_path)
    desk.have_files()
    desk.retracer.failing = frozenset({DEVICE})
    submission = desk.ledger.start(UPLOAD.record)
    witness = UPLOAD.record.make_witness(submission, 9, recomputed=b"\x09" * 32)
    desk.ledger.apply([desk.ledger.sign(witness, desk.others[0])])
    async with working(desk):
        await wait_until(lambda: len(desk.verifier.done) == 5)
    assert desk.say_count(PanelVote) == 0
    assert ("recompute", 2) in desk.retracer.asked


async def test_a_machine_that_became_another_states_its_new_class(tmp_path: Path) -> None:
    """As when PyTorch was replaced under a node: the next worker names another build."""
    desk = Desk(tmp_path)
    desk.have_files()
    desk.retracer.failing = frozenset({DEVICE})
    desk.ledger.start(UPLOAD.record)
    async with working(desk):
        await wait_until(lambda: desk.stated)
        desk.retracer.device_classes = (OTHER_DEVICE, "torch-2/new")
        await wait_until(lambda: desk.verifier.done)
        desk.advance()
        desk.advance()
    assert set(get_served(desk)) <= {OTHER_DEVICE, "torch-2/new"}
    assert DEVICE not in get_served(desk)


async def test_a_node_whose_worker_does_not_start_serves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("milepost_node.verifier.RETRY_LAST_SECONDS", 0.01)
    desk = Desk(tmp_path)
    broken = True
    found = desk.retracer.get_device_classes

    async def get_device_classes() -> DeviceClasses:
        if broken:
            raise WorkerError("no memory")
        return await found()

    monkeypatch.setattr(desk.retracer, "get_device_classes", get_device_classes)
    async with working(desk):
        await wait_until(lambda: desk.stated)
        desk.advance()
        assert get_served(desk) == ()
        assert desk.ledger.state.standings[desk.me].statements == 1
        broken = False
        await wait_until(lambda: len(desk.stated) == 2)
        desk.advance()
        assert get_served(desk) == BOTH
