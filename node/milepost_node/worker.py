"""The process in which records are read and retrained: `python -m milepost_node.worker`.

It runs beside its node at low priority, so that retraining never delays the ledger, and does one
job at a time, in the order in which they arrive on standard input.  A node has two: one retrains
and has the framework loaded, one reads records and never loads it.  A worker opens no connection,
reads only the blob folder, runs no code of a submitter, and ends when its standard input does.
"""

from __future__ import annotations

import argparse
import os
import queue
import resource
import signal
import sys
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import BinaryIO, Final

from milepost_consensus.crypto import ZERO_DIGEST
from milepost_consensus.encoding import decode, encode
from milepost_consensus.errors import InvalidInput
from milepost_consensus.payloads import Submit
from milepost_consensus.registrations import Registration
from milepost_consensus.submissions import Duty
from milepost_ml.errors import MilepostMLError
from milepost_ml.files import MAX_MANIFEST_BYTES, BlobFiles, decode_manifest
from milepost_node.blobs import get_blob_path, store_bytes
from milepost_node.gradients import GradientStore, get_gradients_folder
from milepost_node.jobs import (
    Answer,
    DeviceClasses,
    Failed,
    GetDeviceClasses,
    GetStepCommitment,
    Job,
    RecomputeStep,
    Refused,
    Refutation,
    RefuteWork,
    Retrace,
    RetraceInterval,
    StepCommitment,
    StepDigest,
    Unable,
    Valid,
    ValidateRecord,
    encode_frame,
    read_job,
)

NICENESS: Final = 10
"""Below everything the node itself does."""
MAX_OPEN_FILES: Final = 256
GPU_DRIVER: Final = Path("/dev/nvidiactl")


class Worker:
    """Performs jobs against one blob folder; `threads` is how many may retrain a run whose bits do
    not depend on it."""

    def __init__(self, blobs: Path, *, threads: int = 1) -> None:
        self._blobs = blobs
        self._gradients = GradientStore(get_gradients_folder(blobs))
        self._threads = threads

    def preload(self, *, training: bool) -> None:
        """Import what the jobs will need, before the first one waits for it."""
        from milepost_ml import admission, replay  # noqa: F401 neither loads the framework

        if training:
            from milepost_ml import stepper  # noqa: F401 loads the framework

    def perform(self, job: Job) -> Answer:
        """The answer to a job.  Never raises: one bad job must not end the process."""
        try:
            return self._dispatch(job)
        except (InvalidInput, MilepostMLError) as error:
            return Refused(error.slug, self._clean(str(error)))
        except Exception as error:
            return Failed(self._clean(f"{type(error).__name__}: {error}"))

    def is_spent(self) -> bool:
        """Whether only another process can use the GPU again; the node starts one."""
        if "torch" not in sys.modules:
            return False
        from milepost_ml.gpus import is_broken

        return is_broken()

    def _dispatch(self, job: Job) -> Answer:
        match job:
            case GetDeviceClasses():
                from milepost_ml.arithmetic.known_answer import get_device_classes

                self._set_threads()
                return DeviceClasses(*get_device_classes())
            case ValidateRecord():
                return self._validate(job)
            case RetraceInterval():
                return self._retrace(job)
            case RecomputeStep():
                return self._recompute(job)
            case GetStepCommitment():
                return self._get_commitment(job)
            case RefuteWork():
                return self._refute(job)

    def _open(self, data: bytes) -> tuple[Submit, BlobFiles]:
        submit = decode(Submit, data)
        with get_blob_path(self._blobs, submit.manifest).open("rb") as file:
            manifest = decode_manifest(file.read(MAX_MANIFEST_BYTES + 1))
        return submit, BlobFiles(manifest, lambda digest: get_blob_path(self._blobs, digest))

    def _validate(self, job: ValidateRecord) -> Answer:
        from milepost_ml.admission import validate_record

        registration = decode(Registration, job.registration) if job.registration else None
        validate_record(*self._open(job.submit), registration)
        return Valid()

    def _retrace(self, job: RetraceInterval) -> Answer:
        from milepost_ml.replay import retrace_interval

        submit, files = self._open(job.submit)
        if (unable := self._test(submit)) is not None:
            return unable
        found = retrace_interval(
            submit, files, job.interval, verifier=job.verifier, work_step=job.work_step
        )
        if found.gradients:
            self._gradients.write(submit, job.interval, found.gradients)
        return Retrace(
            agrees=found.agrees,
            step=found.step or 0,
            leaf=found.leaf,
            path=tuple(found.path),
            recomputed=found.recomputed,
            pre_state=(
                store_bytes(self._blobs, found.pre_state) if found.pre_state else ZERO_DIGEST
            ),
            part=found.part,
            work_digest=found.work_digest,
            distance_ppb=found.distance_ppb,
            milliseconds=round(1000 * found.seconds),
        )

    def _recompute(self, job: RecomputeStep) -> Answer:
        from milepost_ml.replay import recompute_step

        submit, files = self._open(job.submit)
        if (unable := self._test(submit)) is not None:
            return unable
        state = get_blob_path(self._blobs, job.pre_state) if job.pre_state else None
        if state is not None and not state.is_file():
            state = None
        return StepDigest(recompute_step(submit, files, job.interval, job.step, pre_state=state))

    def _get_commitment(self, job: GetStepCommitment) -> Answer:
        from milepost_ml.replay import get_step_commitment

        leaf, path = get_step_commitment(*self._open(job.submit), job.interval, job.step)
        return StepCommitment(leaf, tuple(path))

    def _refute(self, job: RefuteWork) -> Answer:
        from milepost_ml.refutation import refute_work

        submit, files = self._open(job.submit)
        duty = decode(Duty, job.duty)
        gradient = self._gradients.read(submit, duty.interval, duty.work_step)
        if not gradient:
            return Refutation(b"")
        found = refute_work(submit, files, duty, submission=job.submission, gradient=gradient)
        return Refutation(b"" if found is None else encode(found))

    def _test(self, submit: Submit) -> Unable | None:
        """Whether this process computes right just now, which its settings or a library that was
        replaced under it may have changed; sets up training."""
        from milepost_ml.arithmetic.known_answer import find_fault

        self._set_threads()
        fault = find_fault(submit.device_class)
        self._set_threads()
        return Unable(submit.device_class, self._clean(fault)) if fault else None

    def _set_threads(self) -> None:
        """Before every training, because one of profile `class` goes down to one thread."""
        from milepost_ml.device import configure_torch

        configure_torch(threads=self._threads)

    def _clean(self, message: str) -> str:
        """Messages reach people over HTTP: without this machine's paths, and bounded."""
        return message.replace(str(self._blobs), "")[:2_000]


def prepare_gpu(*, wanted: bool) -> bool:
    """Hide the GPU from the frameworks unless it is wanted; whether one may be there.

    Before they are loaded.
    """
    if not wanted:
        os.environ["CUDA_VISIBLE_DEVICES"] = ""
    return wanted and GPU_DRIVER.exists()


def limit_resources(memory_bytes: int, *, gpu: bool) -> None:
    """Low priority, bounded memory and files, no core dumps."""
    os.nice(NICENESS)
    # A GPU's driver reserves addresses for all memory of the GPU and the machine.
    kind = resource.RLIMIT_DATA if gpu else resource.RLIMIT_AS
    resource.setrlimit(kind, (memory_bytes, memory_bytes))
    resource.setrlimit(resource.RLIMIT_NOFILE, (MAX_OPEN_FILES, MAX_OPEN_FILES))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))


def take_pipes() -> tuple[BinaryIO, BinaryIO]:
    """Standard input and output as private files; whatever libraries print goes to stderr."""
    jobs = os.fdopen(os.dup(0), "rb")
    answers = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)
    nothing = os.open(os.devnull, os.O_RDONLY)
    os.dup2(nothing, 0)
    os.close(nothing)
    return jobs, answers


def _forward_jobs(pipe: BinaryIO, jobs: queue.SimpleQueue[Job]) -> None:
    """Read jobs until the node is gone; then there is nobody left to work for."""
    while (job := read_job(pipe)) is not None:
        jobs.put(job)
    os._exit(0)


def main(arguments: Sequence[str] | None = None) -> None:
    """Serve jobs until standard input ends."""
    parser = argparse.ArgumentParser(prog="milepost_node.worker", description=__doc__)
    parser.add_argument("--blobs", type=Path, required=True, help="the node's blob folder")
    parser.add_argument("--memory-bytes", type=int, required=True, help="limit of address space")
    parser.add_argument("--preload", choices=("reading", "training"), help="what to import at once")
    parser.add_argument("--threads", type=int, default=1, help="threads that retrain")
    parser.add_argument("--gpu", action="store_true", help="retrain on the GPU, if there is one")
    options = parser.parse_args(arguments)
    # Ctrl-C reaches the whole terminal group; the node decides when its worker ends.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    source, sink = take_pipes()
    limit_resources(options.memory_bytes, gpu=prepare_gpu(wanted=options.gpu))
    jobs: queue.SimpleQueue[Job] = queue.SimpleQueue()
    threading.Thread(target=_forward_jobs, args=(source, jobs), daemon=True).start()
    worker = Worker(options.blobs, threads=options.threads)
    if options.preload:
        worker.preload(training=options.preload == "training")
    while not worker.is_spent():
        sink.write(encode_frame(worker.perform(jobs.get())))
        sink.flush()


if __name__ == "__main__":
    main(sys.argv[1:])
