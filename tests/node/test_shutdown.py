"""A node told to end in the middle of a retraining ends, and finishes it when it is back."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import pytest

from milepost_consensus.verdicts import VALID
from tests.support.node_processes import NodeProcesses, poll, record_run

pytestmark = [pytest.mark.e2e, pytest.mark.slow]

END_SECONDS = 60
"""Far more than it takes, and far less than a job may: an hour."""


def find_trainer(parent: int) -> int:
    """The process that retrains for a node."""
    for entry in Path("/proc").iterdir():
        if entry.name.isdecimal():
            try:
                words = (entry / "cmdline").read_bytes().split(b"\0")
                fields = (entry / "stat").read_text().rpartition(")")[2].split()
            except OSError:
                continue
            if int(fields[1]) == parent and b"training" in words:
                return int(entry.name)
    raise AssertionError(f"process {parent} has no worker that retrains")


def is_there(pid: int) -> bool:
    return Path(f"/proc/{pid}").exists()


def test_sigterm_in_the_middle_of_a_retraining_loses_nothing(tmp_path: Path) -> None:
    run = record_run(tmp_path, "run")
    with NodeProcesses(tmp_path / "net", 4) as nodes:
        nodes.start(0, 1, 2, 3)
        nodes.wait_ready()
        trainers = {i: find_trainer(process.pid) for i, process in nodes.running.items()}
        try:
            # Held, they are in the middle of whatever they are asked.
            for pid in trainers.values():
                os.kill(pid, signal.SIGSTOP)
            _, submission = nodes.submit(0, run)

            def find_busy() -> int | None:
                waiting = {i: nodes.get(i, "/v1/status")["retrace_queue"] for i in trainers}
                return next((i for i, count in waiting.items() if count), None)

            busy = poll(lambda: find_busy() is not None and [find_busy()], 60, "a duty")[0]
            process = nodes.running.pop(busy)
            process.send_signal(signal.SIGTERM)
            assert process.wait(END_SECONDS) == 0, nodes.read_log(busy)
            assert "node stopped" in nodes.read_log(busy)
            assert "Traceback" not in nodes.read_log(busy)
            poll(lambda: not is_there(trainers[busy]), 30, "no worker left behind")
        finally:
            for pid in trainers.values():
                if is_there(pid):
                    os.kill(pid, signal.SIGCONT)
        nodes.start(busy)
        nodes.wait_ready()
        for index in range(4):
            assert nodes.wait_verdict(index, submission)["outcome"] == VALID
        key = nodes.get(busy, "/v1/status")["key"]
        duties = nodes.get(0, f"/v1/submissions/{submission}")["submission"]["duties"]
        own = [duty["answer"] for duty in duties if duty["verifier"] == key]
        assert own
        assert set(own) == {"agrees"}, "its duties were done by itself, none was missed"
