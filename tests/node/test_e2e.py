"""Four real node processes and tiny real records: verdicts, a liar, crashes, an orderly end."""

from __future__ import annotations

import signal
from pathlib import Path

import pytest

from milepost_consensus.light import load_proof, make_trust, open_envelope, verify_bundle
from milepost_consensus.verdicts import INVALID, VALID
from tests.support.node_processes import NodeProcesses, poll, record_run
from tests.support.records import EVERY

pytestmark = [pytest.mark.e2e, pytest.mark.slow]


def test_honest_run_is_valid_and_poisoned_run_is_refuted(tmp_path: Path) -> None:
    honest = record_run(tmp_path, "honest")
    poisoned = record_run(tmp_path, "poisoned", poisoned=range(2 * EVERY + 1, 3 * EVERY))
    with NodeProcesses(tmp_path / "net", 4, malicious={3: "chaotic"}) as nodes:
        nodes.start(0, 1, 2, 3)
        nodes.wait_ready()
        _, submission = nodes.submit(0, honest)
        for index in range(4):
            assert nodes.wait_verdict(index, submission)["outcome"] == VALID
        proof = nodes.get(3, f"/v1/submissions/{submission}/proof")
        verify_bundle(open_envelope(load_proof(proof)), make_trust(nodes.genesis))

        _, submission = nodes.submit(1, poisoned)
        for index in range(4):
            verdict = nodes.wait_verdict(index, submission)
            assert verdict["outcome"] == INVALID
            # The first step of the poison, in the middle of its interval.
            assert verdict["refuted"][0] == {"interval": 2, "step": 2 * EVERY + 1}
        assert nodes.get(3, "/v1/status")["behaviour"] == "chaotic"
        assert "MISBEHAVING" in nodes.read_log(3)
        assert "MISBEHAVING" not in nodes.read_log(0)


def test_node_killed_while_it_works_goes_on_from_its_disk(tmp_path: Path) -> None:
    run = record_run(tmp_path, "run")
    with NodeProcesses(tmp_path / "net", 4) as nodes:
        nodes.start(0, 1, 2, 3)
        nodes.wait_ready()
        _, submission = nodes.submit(0, run)
        poll(lambda: nodes.get(2, f"/v1/submissions/{submission}"), 60, "the submission at node 2")
        assert nodes.end(2, signal.SIGKILL) == -signal.SIGKILL
        nodes.start(2)
        for index in range(4):
            nodes.wait_ready()
            assert nodes.wait_verdict(index, submission)["outcome"] == VALID
        heights = {nodes.get(index, "/v1/status")["height"] for index in range(4)}
        top = min(heights)
        ids = {nodes.get(index, f"/v1/blocks/{top}")["id"] for index in range(4)}
        assert len(ids) == 1


def test_nodes_end_in_order_when_told_to_and_can_be_started_again(tmp_path: Path) -> None:
    run = record_run(tmp_path, "run")
    with NodeProcesses(tmp_path / "net", 4) as nodes:
        nodes.start(0, 1, 2, 3)
        nodes.wait_ready()
        _, submission = nodes.submit(0, run)
        for index in range(4):
            assert nodes.end(index, signal.SIGTERM) == 0, nodes.read_log(index)
            assert "node stopped" in nodes.read_log(index)
            assert "Traceback" not in nodes.read_log(index)
        nodes.start(0, 1, 2, 3)
        nodes.wait_ready()
        assert nodes.wait_verdict(0, submission)["outcome"] == VALID


def test_start_that_cannot_succeed_says_why(tmp_path: Path) -> None:
    with NodeProcesses(tmp_path / "net", 1) as nodes:
        nodes.start(0)
        nodes.wait_ready()
        first = nodes.running[0]
        nodes.start(0)
        assert nodes.running[0].wait(60) == 2
        assert "port-in-use" in nodes.read_log(0)
        toml = nodes.homes[0] / "node.toml"
        toml.write_text(toml.read_text().replace("port = ", "port = 1"))
        nodes.start(0)
        assert nodes.running[0].wait(60) == 2
        assert "bad-config" in nodes.read_log(0)
        first.terminate()
        assert first.wait(60) == 0
