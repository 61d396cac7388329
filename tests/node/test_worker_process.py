"""The worker process: one that dies, hangs or garbles is replaced, and the node goes on."""

from __future__ import annotations

import asyncio
import io
import logging
import os
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from milepost_consensus.problems import PROBLEMS
from milepost_node.errors import InvalidRequest, KnownAnswerFailed, WorkerError
from milepost_node.jobs import (
    Answer,
    DeviceClasses,
    GetDeviceClasses,
    Job,
    RecomputeStep,
    Retrace,
    RetraceInterval,
    ValidateRecord,
    encode_frame,
    read_answer,
    read_job,
)
from milepost_node.worker_process import WorkerProcess
from tests.support import odd_worker
from tests.support.nodes import wait_until

pytestmark = pytest.mark.slow

VALIDATE = ValidateRecord(b"submit")


@asynccontextmanager
async def open_worker(
    folder: Path, mode: str, *, limit_seconds: float = 60.0
) -> AsyncIterator[WorkerProcess]:
    worker = WorkerProcess(
        folder,
        memory_bytes=2**40,
        limit_seconds=limit_seconds,
        command=(sys.executable, odd_worker.__file__, mode, str(folder / "seen")),
    )
    try:
        yield worker
    finally:
        await worker.stop()


async def get_name(worker: WorkerProcess) -> str:
    """The device class that a worker states; here its process id."""
    answer = await worker.run(GetDeviceClasses())
    assert isinstance(answer, DeviceClasses)
    return answer.names[0]


def is_alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


async def test_jobs_go_to_one_process_in_turn(tmp_path: Path) -> None:
    async with open_worker(tmp_path, "") as worker:
        names = await asyncio.gather(*(get_name(worker) for _ in range(3)))
        assert names == [f"pid {worker.pid}"] * 3
        await worker.run(VALIDATE)


@pytest.mark.parametrize("mode", ["once-die", "once-garble", "once-half"])
async def test_worker_that_dies_or_garbles_is_replaced(tmp_path: Path, mode: str) -> None:
    async with open_worker(tmp_path, mode) as worker:
        with pytest.raises(WorkerError) as caught:
            await get_name(worker)
        assert caught.value.slug in PROBLEMS
        assert worker.pid is None
        assert await get_name(worker) == f"pid {worker.pid}"


async def test_worker_that_hangs_is_killed_and_replaced(tmp_path: Path) -> None:
    async with open_worker(tmp_path, "once-hang", limit_seconds=2.0) as worker:
        job = asyncio.create_task(get_name(worker))
        await wait_until(lambda: worker.pid is not None)
        hung = worker.pid
        assert hung is not None
        with pytest.raises(WorkerError, match="longer than 2 s") as caught:
            await job
        worker.limit_seconds = 60.0
        (tmp_path / "seen").touch()
        assert caught.value.slug == "worker-timeout"
        await wait_until(lambda: not is_alive(hung))
        assert await get_name(worker) == f"pid {worker.pid}"


async def test_worker_killed_from_outside_is_replaced(tmp_path: Path) -> None:
    async with open_worker(tmp_path, "") as worker:
        await get_name(worker)
        assert worker.pid is not None
        os.kill(worker.pid, 9)
        with pytest.raises(WorkerError):
            await get_name(worker)
        assert await get_name(worker) == f"pid {worker.pid}"


async def test_worker_that_ends_after_its_answer_is_replaced(tmp_path: Path) -> None:
    async with open_worker(tmp_path, "once-leave") as worker:
        await worker.run(VALIDATE)
        first = worker.pid
        assert first is not None
        await wait_until(lambda: not is_alive(first))
        assert await get_name(worker) == f"pid {worker.pid}"
        assert worker.pid != first


async def test_cancelled_job_leaves_no_answer_for_the_next(tmp_path: Path) -> None:
    async with open_worker(tmp_path, "once-hang") as worker:
        job = asyncio.create_task(worker.run(VALIDATE))
        await wait_until((tmp_path / "seen").exists)
        job.cancel()
        with pytest.raises(asyncio.CancelledError):
            await job
        assert await get_name(worker) == f"pid {worker.pid}"


async def test_stop_ends_a_worker_in_the_middle_of_a_job_for_good(tmp_path: Path) -> None:
    async with open_worker(tmp_path, "hang") as worker:
        job = asyncio.create_task(get_name(worker))
        await wait_until(lambda: worker.pid is not None)
        pid = worker.pid
        assert pid is not None
        await worker.stop()
        assert not is_alive(pid)
        with pytest.raises(WorkerError):
            await job
        with pytest.raises(WorkerError, match="stopping"):
            await get_name(worker)


async def test_fault_of_the_record_and_fault_of_the_machine_are_told_apart(
    tmp_path: Path,
) -> None:
    async with open_worker(tmp_path, "refuse") as worker:
        with pytest.raises(InvalidRequest, match="Milepost 3 holds NaN") as caught:
            await worker.run(VALIDATE)
        assert caught.value.slug == "not-finite"
    async with open_worker(tmp_path, "fail") as worker:
        with pytest.raises(WorkerError, match="no memory"):
            await worker.run(VALIDATE)


async def test_a_failed_known_answer_names_its_class(tmp_path: Path) -> None:
    async with open_worker(tmp_path, "unable") as worker:
        with pytest.raises(KnownAnswerFailed, match="here 2") as caught:
            await worker.run(VALIDATE)
    assert (caught.value.slug, caught.value.device_class) == ("known-answer-failed", "exact/1")


async def test_what_libraries_print_is_logged_and_garbles_nothing(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "milepost_node")
    async with open_worker(tmp_path, "chatter") as worker:
        await worker.run(VALIDATE)
        await worker.run(VALIDATE)
    lines = [getattr(record, "line", "") for record in caplog.records]
    assert "a library prints" in lines
    assert "to standard output" in lines
    assert all(len(line) <= 4_096 for line in lines)


async def test_frames() -> None:
    jobs: list[Job] = [
        GetDeviceClasses(),
        RetraceInterval(b"s", 1, b"v", 2),
        RecomputeStep(b"s", 1, 2, b""),
    ]
    pipe = io.BytesIO(b"".join(encode_frame(job) for job in jobs) + b"\x00\x00")
    assert [read_job(pipe) for _ in jobs] == jobs
    assert read_job(pipe) is None
    reader = asyncio.StreamReader()
    answers: list[Answer] = [
        DeviceClasses(("x", "y"), "fault"),
        Retrace(False, 3, b"l", (b"p",), b"r", b"s", "loss", b"w", 5, 6),
    ]
    for answer in answers:
        reader.feed_data(encode_frame(answer))
    assert [await read_answer(reader) for _ in answers] == answers
    reader.feed_data(b"\xff\xff\xff\xff")
    with pytest.raises(ValueError, match="an answer of"):
        await read_answer(reader)
