"""What is written while training goes on, and in which order."""

from __future__ import annotations

import json
import time
from pathlib import Path

import msgspec
import numpy as np
import pytest

from milepost_consensus.step_digests import compute_gradient_commitment
from milepost_ml.digests import (
    compute_content_digest,
    compute_record_digests,
    compute_snapshot_digest,
)
from milepost_ml.errors import RecordingError
from milepost_ml.files import FolderFiles
from milepost_ml.initial import Given
from milepost_ml.keyed import make_seed
from milepost_ml.nodes import Graph, Input, Node, Ref
from milepost_ml.recipe import Parameter, Recipe
from milepost_ml.record_files import read_recipe, read_steps
from milepost_ml.recording import Recording
from milepost_ml.run_folder import Begun, Progress, begin_folder, make_folder
from milepost_ml.scribe import MIN_IMAGES, Scribe
from milepost_ml.snapshots import TensorSpec, read_tensors
from milepost_ml.strides import RecordedStep, StepImages
from milepost_ml.updates import SGD, Group

DATA = {
    "data.0": np.arange(8, dtype=np.float32).reshape(4, 2),
    "data.1": np.arange(4, dtype=np.float32),
}
RECORDS = np.array([0, 2])
"""The batch of every step."""
RECIPE = Recipe(
    device_class="here",
    seed=make_seed(1).hex(),
    data=(TensorSpec("data.0", "F32", (4, 2)), TensorSpec("data.1", "F32", (4,))),
    batch_size=2,
    steps=0,
    steps_per_interval=3,
    steps_per_digest=1,
    parameters=(Parameter("w", (2,), True),),
    buffers=(TensorSpec("n", "I64", ()),),
    initial=(Given(), Given()),
    groups=(Group(("w",), SGD(momentum=0.9, dampening=0.0, weight_decay=0.0, nesterov=False), ()),),
    graph=Graph(
        (Input("data", "data.0"), Input("parameter", "w"), Input("data", "data.1")),
        (Node("mv", (Ref(0), Ref(1))), Node("mse_loss", (Ref(3), Ref(2), 1))),
        4,
    ),
    profile="class",
)


def open_scribe(folder: Path, profile: str = "class", stride: int = 1) -> Scribe:
    start = {"model.w": np.zeros(2, dtype=np.float32), "model.n": np.array(0)}
    recipe = msgspec.structs.replace(
        RECIPE,
        profile=profile,
        device_class="here" if profile == "class" else f"{profile}/1",
        steps_per_digest=stride,
    )
    begun = Begun(recipe, 9, (), "", "", "")
    begin_folder(folder, begun, data=DATA, start=start, about={"name": "test"})
    return Scribe(
        folder,
        recipe,
        progress=Progress(start),
        record_digests=compute_record_digests(DATA),
        about={"name": "test"},
    )


def put(scribe: Scribe, value: float, rate: float = 0.1, *, ends_stride: bool = True) -> None:
    """A step whose state, gradient and loss are all made of one number."""
    images = make_images(scribe, value) if ends_stride else None
    scribe.put(RecordedStep(images, RECORDS, value, (rate,), 0.5))


def make_images(scribe: Scribe | Recording, value: float) -> StepImages:
    """What a digest covers, all made of one number."""
    images = scribe.take()
    weights = np.full(2, value, dtype=np.float32)
    count = np.array(int(value) if np.isfinite(value) else 0)
    images.model.fill([{"w": weights, "n": count}[name].ctypes.data for name in images.model.names])
    images.optimizer.fill([weights.ctypes.data])
    images.gradient.fill([weights.ctypes.data])
    return images


def read_about(folder: Path) -> dict[str, object]:
    found: dict[str, object] = json.loads((folder / "run.json").read_text())
    return found


def test_a_run_is_written_interval_by_interval(tmp_path: Path) -> None:
    scribe = open_scribe(tmp_path)
    assert read_about(tmp_path) == {"name": "test", "steps": 0, "intervals": 0, "complete": False}
    for number in range(1, 8):
        put(scribe, float(number), rate=0.1 if number < 5 else 0.05)
    scribe.close()
    assert scribe.error is None
    assert scribe.intervals == 3
    assert read_about(tmp_path)["complete"] is False
    recipe = scribe.finish()
    assert (recipe.steps, recipe.groups[0].rates) == (7, ((4, 0.1), (3, 0.05)))
    assert read_recipe(FolderFiles(tmp_path))[1] == recipe
    scribe.write_complete()
    about = read_about(tmp_path)
    assert (about["steps"], about["intervals"], about["complete"]) == (7, 3, True)
    # The last interval is short, and the model is its end.
    assert len(read_steps(FolderFiles(tmp_path), recipe, 2)) == 1
    model = read_tensors(tmp_path / "model.safetensors")
    assert model["w"].tolist() == [7.0, 7.0]
    assert int(model["n"]) == 7
    row = read_steps(FolderFiles(tmp_path), recipe, 0)[1]
    gradient = compute_content_digest({"w": np.full(2, 2.0, dtype=np.float32)})
    assert row.gradient == compute_gradient_commitment(gradient)
    assert row.loss == np.float32(2.0).tobytes()


@pytest.mark.parametrize(("profile", "unified"), [("exact", True), ("class", False)])
def test_nans_on_the_way_are_one_value_in_comparable_profiles(
    profile: str, unified: bool, tmp_path: Path
) -> None:
    scribe = open_scribe(tmp_path, profile)
    odd = np.array([0xFFC00001, 0x3F800000], dtype=np.uint32).view(np.float32)
    images = scribe.take()
    count = np.array(1)
    images.model.fill([{"w": odd, "n": count}[name].ctypes.data for name in images.model.names])
    images.optimizer.fill([odd.ctypes.data])
    images.gradient.fill([odd.ctypes.data])
    scribe.put(RecordedStep(images, RECORDS, 1.0, (0.1,), 0.5))
    put(scribe, 2.0)
    put(scribe, 3.0)
    scribe.close()
    recipe = scribe.finish()
    row = read_steps(FolderFiles(tmp_path), recipe, 0)[0]
    one = np.array([0x7FC00000, 0x3F800000], dtype=np.uint32).view(np.float32)
    expected = one if unified else odd
    assert row.gradient == compute_gradient_commitment(compute_content_digest({"w": expected}))
    state = {"model.w": expected, "model.n": count, "optimizer.w.momentum_buffer": expected}
    assert row.post == compute_snapshot_digest(1, state)


def test_interval_0_can_be_retraced_before_the_end(tmp_path: Path) -> None:
    scribe = open_scribe(tmp_path)
    for number in range(1, 5):
        put(scribe, float(number))
    while not scribe.intervals and scribe.error is None:
        time.sleep(0.001)
    _, recipe = read_recipe(FolderFiles(tmp_path))
    assert (recipe.steps, recipe.intervals) == (3, 1)
    scribe.close()


def test_weights_that_are_not_finite_are_an_error_and_no_snapshot(tmp_path: Path) -> None:
    scribe = open_scribe(tmp_path)
    for value in (1.0, 2.0, float("inf"), 3.0):
        put(scribe, value)
    scribe.close()
    assert isinstance(scribe.error, RecordingError)
    assert scribe.error.slug == "not-finite"
    assert scribe.intervals == 0
    assert not (tmp_path / "mileposts" / "00001.safetensors").exists()


def test_training_never_waits_for_a_thread_that_failed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    scribe = open_scribe(tmp_path)

    def fail(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("milepost_ml.scribe.write_bytes", fail)
    for number in range(1, 30):
        put(scribe, float(number))
    scribe.close()
    assert isinstance(scribe.error, OSError)
    assert scribe.intervals == 0


def test_a_large_state_is_copied_no_oftener_than_needed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made: list[StepImages] = []

    class Counted(StepImages):
        def __init__(self, recipe: Recipe) -> None:
            super().__init__(recipe)
            made.append(self)

    monkeypatch.setattr("milepost_ml.scribe.StepImages", Counted)
    monkeypatch.setattr("milepost_ml.scribe.MAX_WAITING_BYTES", 1)
    scribe = open_scribe(tmp_path)
    for number in range(1, 8):
        put(scribe, float(number))
    scribe.close()
    assert len(made) == MIN_IMAGES
    assert scribe.intervals == 3


def test_folders_never_collide(tmp_path: Path) -> None:
    names = [make_folder(tmp_path / "runs", "a").name for _ in range(3)]
    assert names == ["a-0001", "a-0002", "a-0003"]
    (tmp_path / "runs" / "a-9999").write_text("a file, no folder")
    assert make_folder(tmp_path / "runs", "a").name == "a-10000"
    assert make_folder(tmp_path / "runs", "a-0001").name == "a-0001-0001"
