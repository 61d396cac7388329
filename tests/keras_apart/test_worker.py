"""A verifier's worker really retrains what Keras trained."""

from __future__ import annotations

from pathlib import Path

import pytest

from milepost_consensus.crypto import ZERO_DIGEST
from milepost_consensus.encoding import encode
from milepost_consensus.payloads import Submit
from milepost_consensus.step_digests import compute_work_digest
from milepost_ml.admission import build_submit
from milepost_ml.files import build_manifest, encode_manifest
from milepost_ml.refutation import read_gradient
from milepost_node.blobs import BlobStore, store_bytes
from milepost_node.jobs import (
    DeviceClasses,
    GetDeviceClasses,
    RecomputeStep,
    Retrace,
    RetraceInterval,
    StepDigest,
    Unable,
    Valid,
    ValidateRecord,
)
from milepost_node.worker import Worker
from tests.support.keras_training import EVERY, record_cnn

ME = b"\x05" * 32


def store(blobs: Path, run: Path) -> Submit:
    """Put the files of a run into a blob folder; its submission."""
    manifest = build_manifest(run)
    store_bytes(blobs, encode_manifest(manifest))
    for file in manifest.files:
        assert store_bytes(blobs, (run / file.name).read_bytes()).hex() == file.digest
    return build_submit(run)[0]


def test_a_worker_validates_and_retrains_a_keras_record(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    blobs = tmp_path / "blobs"
    BlobStore(blobs, store_bytes=10**9)
    run = record_cnn(tmp_path / "runs")
    submit = store(blobs, run)
    worker = Worker(blobs, threads=2)
    classes = worker.perform(GetDeviceClasses())
    assert isinstance(classes, DeviceClasses)
    assert submit.device_class in classes.names
    assert submit.device_class.startswith("tensorflow-2.21.0/keras-3.15.1/")
    assert worker.perform(ValidateRecord(encode(submit))) == Valid()
    step = EVERY + 2
    found = worker.perform(RetraceInterval(encode(submit), 1, ME, step))
    assert isinstance(found, Retrace), found
    assert (found.agrees, found.part, found.distance_ppb) == (True, "", 0)
    assert found.work_digest == compute_work_digest(ME, read_gradient(run, submit, step))
    again = worker.perform(RecomputeStep(encode(submit), 1, step, ZERO_DIGEST))
    assert isinstance(again, StepDigest), again
    monkeypatch.setattr("milepost_ml.keras_training.known_answer._STEPS", 2)
    unable = worker.perform(RetraceInterval(encode(submit), 1, ME, step))
    assert isinstance(unable, Unable), unable
    assert unable.fault.startswith("this machine is tensorflow-2.21.0/")
