"""Reading and retraining records, as the rest of the node asks for it.

Two worker processes stand behind it: a record that comes in is validated at once, whatever is
being retrained.
"""

from __future__ import annotations

from pathlib import Path
from typing import Protocol

from milepost_consensus.encoding import encode
from milepost_consensus.payloads import Submit
from milepost_node.jobs import (
    DeviceClasses,
    GetDeviceClasses,
    GetStepCommitment,
    RecomputeStep,
    Retrace,
    RetraceInterval,
    StepCommitment,
    StepDigest,
    Valid,
    ValidateRecord,
)
from milepost_node.worker_process import WorkerProcess


class Retracer(Protocol):
    """Whoever reads and retrains records.  All raise InvalidRequest (the record's fault) or
    WorkerError (this machine's)."""

    async def start(self) -> None:
        """Get ready for the first job."""

    async def get_device_classes(self) -> DeviceClasses: ...

    async def validate_record(self, submit: Submit) -> None: ...

    async def retrace_interval(
        self, submit: Submit, interval: int, *, verifier: bytes, work_step: int
    ) -> Retrace: ...

    async def recompute_step(
        self, submit: Submit, interval: int, step: int, *, pre_state: bytes
    ) -> bytes: ...

    async def get_step_commitment(
        self, submit: Submit, interval: int, step: int
    ) -> StepCommitment: ...

    async def stop(self) -> None: ...


class Workers:
    """The Retracer of a real node."""

    def __init__(
        self, blobs: Path, *, memory_bytes: int, limit_seconds: float, threads: int
    ) -> None:
        self._reader = WorkerProcess(
            blobs,
            memory_bytes=memory_bytes,
            limit_seconds=limit_seconds,
            options=("--preload", "reading"),
        )
        self._trainer = WorkerProcess(
            blobs,
            memory_bytes=memory_bytes,
            limit_seconds=limit_seconds,
            options=("--preload", "training", "--threads", str(threads)),
        )

    async def start(self) -> None:
        await self._reader.start()
        await self._trainer.start()

    async def get_device_classes(self) -> DeviceClasses:
        answer = await self._trainer.run(GetDeviceClasses())
        assert isinstance(answer, DeviceClasses)
        return answer

    async def validate_record(self, submit: Submit) -> None:
        answer = await self._reader.run(ValidateRecord(encode(submit)))
        assert isinstance(answer, Valid)

    async def retrace_interval(
        self, submit: Submit, interval: int, *, verifier: bytes, work_step: int
    ) -> Retrace:
        job = RetraceInterval(encode(submit), interval, verifier, work_step)
        answer = await self._trainer.run(job)
        assert isinstance(answer, Retrace)
        return answer

    async def recompute_step(
        self, submit: Submit, interval: int, step: int, *, pre_state: bytes
    ) -> bytes:
        job = RecomputeStep(encode(submit), interval, step, pre_state)
        answer = await self._trainer.run(job)
        assert isinstance(answer, StepDigest)
        return answer.recomputed

    async def get_step_commitment(self, submit: Submit, interval: int, step: int) -> StepCommitment:
        answer = await self._reader.run(GetStepCommitment(encode(submit), interval, step))
        assert isinstance(answer, StepCommitment)
        return answer

    async def stop(self) -> None:
        await self._reader.stop()
        await self._trainer.stop()
