"""The node's side of a worker process: start it, hand it jobs, replace it when it fails.

One job at a time.  A worker that dies or exceeds the time limit is killed; the job raises
WorkerError and the next job gets a new process.  Nothing here blocks the event loop.
"""

from __future__ import annotations

import asyncio
import logging
import os
import sys
from pathlib import Path
from typing import Final

from milepost_node.errors import InvalidRequest, KnownAnswerFailed, WorkerError
from milepost_node.jobs import Answer, Failed, Job, Refused, Unable, encode_frame, read_answer

logger = logging.getLogger(__name__)

STOP_SECONDS: Final = 2.0
"""How long a worker gets to notice that its input ended before it is killed."""
LINE_BYTES: Final = 4_096
"""Of what the worker prints, this much of a line is logged."""


class WorkerProcess:
    """One worker, started with its first job if not before."""

    def __init__(
        self,
        blobs: Path,
        *,
        memory_bytes: int,
        limit_seconds: float,
        options: tuple[str, ...] = (),
        command: tuple[str, ...] = (sys.executable, "-m", "milepost_node.worker"),
    ) -> None:
        self._command = (
            *command,
            *("--blobs", str(blobs), "--memory-bytes", str(memory_bytes)),
            *options,
        )
        self.limit_seconds = limit_seconds
        """What a job may take, the start of a process included."""
        self._process: asyncio.subprocess.Process | None = None
        self._printing: asyncio.Task[None] | None = None
        self._turn = asyncio.Lock()
        self._stopped = False

    @property
    def pid(self) -> int | None:
        """The worker's process id while one runs."""
        return self._process.pid if self._process else None

    async def start(self) -> None:
        """Start the process ahead of its first job; raises WorkerError if that is not possible."""
        async with self._turn:
            try:
                if self._process is None:
                    await self._start()
            except OSError as error:
                raise WorkerError(f"no worker could be started: {error.strerror}") from error

    async def run(self, job: Job) -> Answer:
        """The answer to one job.

        Raises InvalidRequest (the record's fault), KnownAnswerFailed or WorkerError.
        """
        async with self._turn:
            answer = await self._exchange(job)
        if isinstance(answer, Refused):
            raise InvalidRequest(answer.message, slug=answer.slug)
        if isinstance(answer, Unable):
            raise KnownAnswerFailed(answer.fault, device_class=answer.device_class)
        if isinstance(answer, Failed):
            raise WorkerError(f"the worker could not do its job: {answer.message}")
        return answer

    async def _exchange(self, job: Job) -> Answer:
        name = type(job).__name__
        finished = False
        if self._process is not None and self._process.returncode is not None:
            self._process = None  # it ended after its last answer
        try:
            async with asyncio.timeout(self.limit_seconds):
                process = self._process or await self._start()
                assert process.stdin is not None
                assert process.stdout is not None
                process.stdin.write(encode_frame(job))
                await process.stdin.drain()
                answer = await read_answer(process.stdout)
            finished = True
        except TimeoutError as error:
            raise WorkerError(
                f"{name} took longer than {self.limit_seconds:g} s; the worker was stopped",
                slug="worker-timeout",
            ) from error
        except (EOFError, OSError, ValueError) as error:
            raise WorkerError(f"the worker ended in the middle of {name}") from error
        finally:
            # After anything but an answer the pipe may hold half a frame: start afresh.
            if not finished:
                self._kill()
        return answer

    async def _start(self) -> asyncio.subprocess.Process:
        if self._stopped:
            raise WorkerError("the node is stopping")
        process = await asyncio.create_subprocess_exec(
            *self._command,
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
            # One thread unless the worker is told otherwise: more would starve the ledger.
            env={**os.environ, "OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"},
        )
        assert process.stderr is not None
        self._process = process
        self._printing = asyncio.create_task(_log_lines(process.stderr))
        logger.info("worker started", extra={"pid": process.pid})
        return process

    def _kill(self) -> None:
        process, self._process = self._process, None
        if process is not None and process.returncode is None:
            logger.warning("worker killed", extra={"pid": process.pid})
            process.kill()

    async def stop(self) -> None:
        """End the worker, in the middle of a job if need be, for good."""
        self._stopped = True
        process, self._process = self._process, None
        if process is not None:
            assert process.stdin is not None
            process.stdin.close()
            try:
                async with asyncio.timeout(STOP_SECONDS):
                    await process.wait()
            except TimeoutError:
                process.kill()
                await process.wait()
        if self._printing is not None:
            await self._printing


async def _log_lines(stream: asyncio.StreamReader) -> None:
    """Log what the worker prints, until it ends."""
    rest = b""
    while chunk := await stream.read(LINE_BYTES):
        *lines, rest = (rest + chunk).split(b"\n")
        for line in lines:
            logger.info("worker says", extra={"line": line[:LINE_BYTES].decode(errors="replace")})
        rest = rest[:LINE_BYTES]
