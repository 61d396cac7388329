"""What the worker does with real records, honest, altered and missing."""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from msgspec.structs import replace

from milepost_consensus.crypto import ZERO_DIGEST
from milepost_consensus.encoding import decode, encode
from milepost_consensus.merkle import verify_path
from milepost_consensus.payloads import Register, Submit, WorkRefutation, get_interval_steps
from milepost_consensus.registrations import Registration
from milepost_consensus.step_digests import (
    compute_gradient_commitment,
    compute_step_digest,
    compute_work_digest,
)
from milepost_consensus.submissions import Duty
from milepost_ml import gpus
from milepost_ml.admission import build_submit
from milepost_ml.device import compute_device_class
from milepost_ml.files import build_manifest, encode_manifest
from milepost_node import worker
from milepost_node.blobs import BlobStore, store_bytes
from milepost_node.jobs import (
    DeviceClasses,
    Failed,
    GetDeviceClasses,
    GetStepCommitment,
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
)
from milepost_node.worker import Worker
from tests.support.node_processes import record_run
from tests.support.records import EVERY, Spoilt, record_tiny_run

pytestmark = pytest.mark.slow

ME = b"\x05" * 32
POISON = 2 * EVERY + 1
"""The first poisoned step, in the middle of interval 2."""


class Desk:
    """A worker and its blob folder."""

    def __init__(self, folder: Path, *, threads: int = 1) -> None:
        self.blobs = folder / "blobs"
        BlobStore(self.blobs, store_bytes=10**9)
        self.worker = Worker(self.blobs, threads=threads)

    def store(self, run: Path) -> None:
        """Put the files of a run into the blob folder."""
        manifest = build_manifest(run)
        store_bytes(self.blobs, encode_manifest(manifest))
        for file in manifest.files:
            assert store_bytes(self.blobs, (run / file.name).read_bytes()).hex() == file.digest

    def ask(self, submit: Submit, duty: Duty) -> WorkRefutation | None:
        """What the worker has against an answer."""
        answer = self.worker.perform(RefuteWork(ME, encode(submit), encode(duty)))
        assert isinstance(answer, Refutation)
        return decode(WorkRefutation, answer.payload) if answer.payload else None


@pytest.fixture
def desk(tmp_path: Path) -> Desk:
    return Desk(tmp_path)


def test_honest_record(desk: Desk, tiny_run: Path, tiny_submit: Submit) -> None:
    desk.store(tiny_run)
    data = encode(tiny_submit)
    assert desk.worker.perform(ValidateRecord(data)) == Valid()
    answer = desk.worker.perform(RetraceInterval(data, 1, ME, EVERY + 1))
    assert isinstance(answer, Retrace)
    assert answer.agrees
    assert answer.pre_state == ZERO_DIGEST
    other = desk.worker.perform(RetraceInterval(data, 1, b"\x06" * 32, EVERY + 1))
    assert isinstance(other, Retrace)
    assert other.work_digest != answer.work_digest, "work cannot be copied from a colleague"


def test_what_was_retraced_tells_who_did_not(
    desk: Desk, tiny_run: Path, tiny_submit: Submit
) -> None:
    desk.store(tiny_run)
    data, other = encode(tiny_submit), b"\x07" * 32
    right = desk.worker.perform(RetraceInterval(data, 1, other, EVERY + 1))
    assert isinstance(right, Retrace)
    duty = Duty(1, other, 0, EVERY + 1, "agrees", right.work_digest)
    lazy = replace(duty, work_digest=bytes(32))
    assert desk.ask(tiny_submit, duty) is None
    refutation = desk.ask(tiny_submit, lazy)
    assert refutation is not None
    assert (refutation.submission, refutation.interval) == (ME, 1)
    leaf = compute_step_digest(
        pre=refutation.pre,
        batch=refutation.batch,
        gradient=compute_gradient_commitment(refutation.gradient),
        loss=refutation.loss,
        post=refutation.post,
    )
    root = tiny_submit.step_roots[1]
    verify_path(root, leaf, index=1, count=EVERY, path=refutation.path)
    assert compute_work_digest(other, refutation.gradient) == right.work_digest
    first = replace(lazy, work_step=EVERY)
    found = desk.ask(tiny_submit, first)
    assert found is not None
    assert found.pre == tiny_submit.snapshots[1]
    # An interval that was not retraced here tells nothing, and an accuser is asked for no work.
    assert desk.ask(tiny_submit, replace(lazy, interval=2, work_step=2 * EVERY)) is None
    assert desk.ask(tiny_submit, replace(lazy, answer="differs")) is None


@pytest.mark.parametrize("profile", ["exact", "rounded", "tolerance"])
def test_runs_of_every_machine_with_threads_of_this_ones(
    profile: str, tmp_path: Path, tiny_run: Path, tiny_submit: Submit
) -> None:
    before = torch.get_num_threads()
    desk = Desk(tmp_path, threads=2)
    run = record_tiny_run(tmp_path, profile=profile)
    submit = build_submit(run)[0]
    desk.store(run)
    desk.store(tiny_run)
    try:
        for _ in range(2):
            answer = desk.worker.perform(RetraceInterval(encode(submit), 1, ME, EVERY + 1))
            assert isinstance(answer, Retrace)
            assert answer.agrees
            assert torch.get_num_threads() == 2
            # One of profile class in between goes down to one thread, and only that one.
            answer = desk.worker.perform(RetraceInterval(encode(tiny_submit), 1, ME, EVERY + 1))
            assert isinstance(answer, Retrace)
            assert answer.agrees
            assert torch.get_num_threads() == 1
    finally:
        torch.set_num_threads(before)


def test_device_classes_are_those_that_records_are_made_on(desk: Desk, tiny_submit: Submit) -> None:
    answer = desk.worker.perform(GetDeviceClasses())
    own = (tiny_submit.device_class, compute_device_class(autocast=True))
    assert answer == DeviceClasses(("exact/1", "rounded/1", *own, "tolerance/1"), "")


def test_a_gpu_is_hidden_unless_it_is_wanted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "1")
    monkeypatch.setattr(worker, "GPU_DRIVER", tmp_path / "nvidiactl")
    assert not worker.prepare_gpu(wanted=True), "without a driver addresses are limited"
    (tmp_path / "nvidiactl").touch()
    assert worker.prepare_gpu(wanted=True)
    assert os.environ["CUDA_VISIBLE_DEVICES"] == "1"
    assert not worker.prepare_gpu(wanted=False)
    assert os.environ["CUDA_VISIBLE_DEVICES"] == ""


def test_a_worker_whose_gpu_failed_for_good_is_spent(
    desk: Desk, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert not desk.worker.is_spent()
    monkeypatch.setattr(gpus, "is_broken", lambda: True)
    assert desk.worker.is_spent()


@pytest.mark.parametrize("gpu", [False, True])
def test_memory_is_limited_with_a_gpu_and_without(gpu: bool) -> None:
    code = (
        "from milepost_node.worker import limit_resources\n"
        f"limit_resources(2**29, gpu={gpu})\n"
        "bytearray(2**20)\n"
        "try: bytearray(2**30)\n"
        "except MemoryError: print('short')\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "short\n"


def test_what_computes_otherwise_than_its_class_retraces_nothing(
    desk: Desk, tiny_run: Path, tiny_submit: Submit, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Found before each task, whatever was found before the last one."""
    desk.store(tiny_run)
    jobs = (
        RetraceInterval(encode(tiny_submit), 1, ME, EVERY + 1),
        RecomputeStep(encode(tiny_submit), 1, EVERY, b""),
    )
    assert isinstance(desk.worker.perform(jobs[0]), Retrace)
    gelu = torch.nn.functional.gelu
    with monkeypatch.context() as patch:
        patch.setattr(torch.nn.functional, "gelu", lambda x: gelu(x, approximate="tanh"))
        for job in jobs:
            answer = desk.worker.perform(job)
            assert isinstance(answer, Unable)
            assert answer.device_class == tiny_submit.device_class
            assert answer.fault.startswith("this machine is torch-")
    assert isinstance(desk.worker.perform(jobs[1]), StepDigest)


def test_a_registered_run_is_held_only_if_it_is_as_registered(
    desk: Desk, tiny_run: Path, tiny_submit: Submit
) -> None:
    desk.store(tiny_run)
    submit = replace(tiny_submit, registration=b"r" * 32)
    register = Register(b"u" * 32, submit.dataset_root, submit.records, parent=b"", attempt=0)
    registration = Registration(submit.registration, b"s" * 32, register, 7, b"k" * 32)
    answer = desk.worker.perform(ValidateRecord(encode(submit)))
    assert isinstance(answer, Refused)
    assert answer.slug == "unknown-registration"
    answer = desk.worker.perform(ValidateRecord(encode(submit), encode(registration)))
    assert isinstance(answer, Refused)
    assert answer.slug == "not-registered-recipe"


def test_poisoned_record_is_well_formed_but_does_not_retrace(desk: Desk, tmp_path: Path) -> None:
    from milepost_ml.admission import build_submit

    run = record_run(tmp_path, "poisoned", poisoned=range(POISON, 3 * EVERY))
    submit, _ = build_submit(run)
    desk.store(run)
    data = encode(submit)
    assert desk.worker.perform(ValidateRecord(data)) == Valid()
    found = desk.worker.perform(RetraceInterval(data, 2, ME, POISON))
    assert isinstance(found, Retrace)
    assert (found.agrees, found.step) == (False, POISON)
    assert found.distance_ppb == 0, "it stopped at the step that differs"
    steps = get_interval_steps(submit, 2)
    verify_path(
        submit.step_roots[2],
        found.leaf,
        index=POISON - steps.start,
        count=len(steps),
        path=found.path,
    )
    committed = desk.worker.perform(GetStepCommitment(data, 2, POISON))
    assert committed == StepCommitment(found.leaf, found.path)
    # The state before the step is a blob now; with it and without, the panel gets the same.
    stored = (desk.blobs / found.pre_state.hex()[:2] / found.pre_state.hex()).read_bytes()
    assert hashlib.sha256(stored).digest() == found.pre_state
    for state in (found.pre_state, b"", b"\x01" * 32):
        answer = desk.worker.perform(RecomputeStep(data, 2, POISON, state))
        assert answer == StepDigest(found.recomputed)


def test_bad_files_are_the_records_fault(desk: Desk, spoilt: Spoilt) -> None:
    spoilt.edit_bytes("mileposts/00001.safetensors", lambda data: data.__delitem__(slice(9, None)))
    desk.store(spoilt.folder)
    answer = desk.worker.perform(ValidateRecord(encode(spoilt.resubmit())))
    assert isinstance(answer, Refused)
    assert answer.slug == "snapshot-broken"
    assert str(desk.blobs) not in answer.message


def test_missing_files_never_raise_and_show_no_paths(
    desk: Desk, tiny_run: Path, tiny_submit: Submit
) -> None:
    data = encode(tiny_submit)
    desk.store(tiny_run)
    gone = encode(replace(tiny_submit, manifest=b"\x01" * 32))
    for job in (
        ValidateRecord(gone),
        RetraceInterval(gone, 0, ME, 0),
        GetStepCommitment(gone, 0, 0),
        RetraceInterval(data, 99, ME, 0),
        RecomputeStep(data, 0, 10**6, b""),
        ValidateRecord(b"rubbish"),
    ):
        answer = desk.worker.perform(job)
        assert isinstance(answer, Refused | Failed), job
        assert str(desk.blobs) not in answer.message
