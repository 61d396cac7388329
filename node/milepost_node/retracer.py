"""Reading and retraining records, as the rest of the node asks for it.

Two worker processes stand behind it: a record that comes in is validated at once, whatever is
being retrained.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Protocol

from milepost_consensus.encoding import decode, encode
from milepost_consensus.payloads import Submit, WorkRefutation
from milepost_consensus.registrations import Registration
from milepost_consensus.submissions import Duty
from milepost_node.gradients import GradientStore, get_gradients_folder
from milepost_node.jobs import (
    DeviceClasses,
    GetDeviceClasses,
    GetStepCommitment,
    RecomputeStep,
    Refutation,
    RefuteWork,
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
    WorkerError (this machine's); who retrains also KnownAnswerFailed."""

    async def start(self) -> None:
        """Get ready for the first job."""

    async def get_device_classes(self) -> DeviceClasses: ...

    async def validate_record(self, submit: Submit, registration: Registration | None) -> None: ...

    async def retrace_interval(
        self, submit: Submit, interval: int, *, verifier: bytes, work_step: int
    ) -> Retrace: ...

    async def recompute_step(
        self, submit: Submit, interval: int, step: int, *, pre_state: bytes
    ) -> bytes: ...

    async def get_step_commitment(
        self, submit: Submit, interval: int, step: int
    ) -> StepCommitment: ...

    async def refute_work(
        self, submission: bytes, submit: Submit, duty: Duty
    ) -> WorkRefutation | None: ...

    def forget_all_but(self, submits: Iterable[Submit]) -> None:
        """Drop what is kept for refuting work, but for these submissions."""

    async def stop(self) -> None: ...


class Workers:
    """The Retracer of a real node."""

    def __init__(
        self, blobs: Path, *, memory_bytes: int, limit_seconds: float, threads: int, gpu: bool
    ) -> None:
        self._gradients = GradientStore(get_gradients_folder(blobs))
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
            options=(
                *("--preload", "training", "--threads", str(threads)),
                *(("--gpu",) if gpu else ()),
            ),
        )

    async def start(self) -> None:
        await self._reader.start()
        await self._trainer.start()

    async def get_device_classes(self) -> DeviceClasses:
        answer = await self._trainer.run(GetDeviceClasses())
        assert isinstance(answer, DeviceClasses)
        return answer

    async def validate_record(self, submit: Submit, registration: Registration | None) -> None:
        job = ValidateRecord(encode(submit), encode(registration) if registration else b"")
        answer = await self._reader.run(job)
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

    async def refute_work(
        self, submission: bytes, submit: Submit, duty: Duty
    ) -> WorkRefutation | None:
        # Beside retraining, for the witness window is short.
        answer = await self._reader.run(RefuteWork(submission, encode(submit), encode(duty)))
        assert isinstance(answer, Refutation)
        return decode(WorkRefutation, answer.payload) if answer.payload else None

    def forget_all_but(self, submits: Iterable[Submit]) -> None:
        self._gradients.keep_only(submits)

    async def stop(self) -> None:
        await self._reader.stop()
        await self._trainer.stop()
