"""What Keras trained is retraced bit for bit by a process that knows only the record."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest

from milepost_ml.admission import build_submit, validate_record
from milepost_ml.digests import compute_content_digest
from milepost_ml.files import DATA, FolderFiles, get_snapshot_name
from milepost_ml.frameworks.keras_tracker import KerasTracker
from milepost_ml.keras_graph import KerasGraph
from milepost_ml.keras_layers import MultiHeadAttention
from milepost_ml.keyed import Order
from milepost_ml.recipe import get_rates
from milepost_ml.record_files import read_recipe
from milepost_ml.replay import AGREES, recompute_step, retrace_interval, retrace_recorded
from milepost_ml.snapshots import read_tensors, write_tensors
from milepost_ml.stepping import make_stepper
from milepost_ml.steps import StepFailed
from tests.support.keras_training import (
    BATCH,
    EPOCH,
    EVERY,
    RECORDS,
    fit,
    load_images,
    make_cnn,
    make_run,
    record_cnn,
)

VERIFIER = bytes(32)
RETRACE = """
import json, sys
from pathlib import Path
from milepost_ml.files import FolderFiles
from milepost_ml.record_files import read_recipe
from milepost_ml.replay import retrace_recorded
folder = Path(sys.argv[1])
intervals = range(read_recipe(FolderFiles(folder))[1].intervals)
# Backwards: each interval is retraced alone.
print(json.dumps([retrace_recorded(folder, each).part for each in reversed(intervals)]))
assert "torch" not in sys.modules
"""


def retrace_elsewhere(folder: Path) -> list[str]:
    """What differs in every interval, found by a process of its own."""
    answer = subprocess.run(
        [sys.executable, "-c", RETRACE, str(folder)], capture_output=True, text=True, check=False
    )
    assert answer.returncode == 0, answer.stderr
    parts: list[str] = json.loads(answer.stdout)
    return parts


def test_dropout_batch_norm_adam_and_a_schedule(tmp_path: Path) -> None:
    run, model = make_run(tmp_path), make_cnn()
    images, targets = load_images()
    data = run.dataset(images, targets, batch_size=BATCH)
    options: dict[str, Any] = {"shuffle": False, "verbose": 0, "validation_data": (images, targets)}
    model.fit(data, epochs=2, callbacks=[run.keras()], **options)
    history = model.fit(data, epochs=1, callbacks=[run.keras()], **options).history
    folder = run.finish()
    assert set(history) == {"accuracy", "loss", "val_accuracy", "val_loss"}
    files = FolderFiles(folder)
    _, recipe = read_recipe(files)
    assert recipe.steps == 3 * EPOCH
    assert len(set(get_rates(recipe, range(recipe.steps)))) == recipe.steps
    assert retrace_elsewhere(folder) == [AGREES] * (3 * EPOCH // EVERY)
    validate_record(build_submit(folder)[0], files)
    last = read_tensors(files.path(get_snapshot_name(recipe.intervals)))
    np.testing.assert_array_equal(last["model.0.conv2d.kernel"], model.layers[0].kernel)


def make_transformer() -> Any:
    """A functional model: embedding, causal attention, a shared and a frozen layer, two inputs."""
    layers = keras.layers
    keras.utils.set_random_seed(2)
    tokens = keras.Input((64,), dtype="int32")
    extra = keras.Input((3,))
    embedded = layers.Embedding(17, 8)(tokens)
    attended = layers.MultiHeadAttention(2, 4, dropout=0.1)(
        query=embedded, value=embedded, use_causal_mask=True
    )
    x = layers.LayerNormalization()(layers.Add()([embedded, attended]))
    shared = layers.Dense(8, activation="silu")
    x = layers.GlobalAveragePooling1D()(shared(shared(x)))
    frozen = layers.Dense(5)
    x = layers.Concatenate()([x, frozen(layers.Rescaling(2.0)(extra))])
    frozen.trainable = False
    model = keras.Model([tokens, extra], layers.Dense(10)(x))
    optimizer = keras.optimizers.SGD(0.05, momentum=0.9, nesterov=True, global_clipnorm=1.0)
    model.compile(
        optimizer, keras.losses.CategoricalCrossentropy(from_logits=True, label_smoothing=0.1)
    )
    return model


def test_attention_embedding_clipping_and_a_frozen_layer(tmp_path: Path) -> None:
    images, targets = load_images()
    tokens = (images.reshape(RECORDS, 64) * 16).astype(np.int32)
    extra = images[:, 3, 3:6, 0].astype(np.float64)
    run, model = make_run(tmp_path), make_transformer()
    plan: dict[str, Any] = {"shuffle": False, "verbose": 0, "callbacks": [run.keras()]}
    model.fit(run.dataset((tokens, extra), np.eye(10)[targets], batch_size=BATCH), **plan)
    folder = run.finish()
    _, recipe = read_recipe(FolderFiles(folder))
    assert isinstance(recipe.graph, KerasGraph)
    assert [call.causal for call in recipe.graph.calls].count(True) == 1
    assert any(isinstance(item.layer, MultiHeadAttention) for item in recipe.graph.layers)
    assert len(recipe.graph.calls) == len(recipe.graph.layers) + 1
    assert sum(not item.trained for item in recipe.parameters) == 2
    assert [spec.dtype for spec in recipe.data] == ["I32", "F32", "F32"]
    assert retrace_elsewhere(folder) == [AGREES] * (EPOCH // EVERY)


def test_a_recorded_training_is_the_training_that_keras_does(tmp_path: Path) -> None:
    def make() -> Any:
        keras.utils.set_random_seed(5)
        layers = [keras.Input((8, 8, 1)), keras.layers.Flatten(), keras.layers.Dense(10)]
        model = keras.Sequential(layers)
        loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
        model.compile(keras.optimizers.AdamW(0.01, weight_decay=0.1), loss, metrics=["accuracy"])
        return model

    run, recorded, plain = make_run(tmp_path), make(), make()
    logs = fit(run, recorded, epochs=2).history
    folder = run.finish()
    images, targets = load_images()
    order = Order(seed=run.seed, records=RECORDS, batch_size=BATCH)
    losses = []
    for step in range(2 * EPOCH):
        rows = order.get_indices(step)
        losses.append(plain.train_on_batch(images[rows], targets[rows], return_dict=True)["loss"])
    for mine, theirs in zip(recorded.weights, plain.weights, strict=True):
        np.testing.assert_allclose(mine, theirs, rtol=1e-4, atol=1e-6)
    np.testing.assert_allclose(logs["loss"][-1], np.mean(losses[EPOCH:]), rtol=0.2)
    assert retrace_recorded(folder, 0).agrees


def test_a_poisoned_step_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    poisoned, run_step = 2 * EVERY + 1, KerasTracker.run

    def poison(self: KerasTracker, step: int, records: Any, rows: Any, take: Any) -> Any:
        if step == poisoned:
            rows = [*rows[:-1], (rows[-1] + 1) % 10]
        return run_step(self, step, records, rows, take)

    monkeypatch.setattr(KerasTracker, "run", poison)
    folder = record_cnn(tmp_path)
    monkeypatch.undo()
    submit, _ = build_submit(folder)
    files = FolderFiles(folder)
    found = [
        retrace_interval(submit, files, each, verifier=VERIFIER, work_step=each * EVERY)
        for each in range(2 * EPOCH // EVERY)
    ]
    assert [each.step for each in found] == [None, None, poisoned, None]
    assert (found[2].part, found[2].trained) == ("gradient", 3)
    state = tmp_path / "state.safetensors"
    state.write_bytes(found[2].pre_state)
    for offered in (state, None):
        digest = recompute_step(submit, files, 2, poisoned, pre_state=offered)
        assert digest == found[2].recomputed != found[2].leaf


def test_a_step_that_tensorflow_cannot_compute_fails_alike_everywhere(tmp_path: Path) -> None:
    folder = record_cnn(tmp_path)
    _, recipe = read_recipe(FolderFiles(folder))
    data = read_tensors(folder / DATA)
    data["data.1"][:] = 99  # there are ten classes
    write_tensors(folder / DATA, data)
    stepper = make_stepper(recipe, folder / DATA)
    stepper.load(0, read_tensors(folder / get_snapshot_name(0)))
    with pytest.raises(StepFailed) as caught:
        stepper.run_step()
    assert caught.value.batch == stepper.get_batch_digest(0)
    found = retrace_recorded(folder, 0)
    assert (found.agrees, found.part) == (False, "failed")


def test_the_intervals_of_a_run_share_what_was_traced(tmp_path: Path) -> None:
    folder = record_cnn(tmp_path)
    _, recipe = read_recipe(FolderFiles(folder))
    first, second = (make_stepper(recipe, folder / DATA) for _ in range(2))
    second.load(0, read_tensors(folder / get_snapshot_name(0)))
    with pytest.raises(AssertionError, match="taken over"):
        first.run_step()
    second.run_stride(EVERY)
    after = read_tensors(folder / get_snapshot_name(1))
    assert compute_content_digest(second.get_state()) == compute_content_digest(after)
    held = second.get_parameters()["0.conv2d.kernel"]
    third = make_stepper(recipe, folder / DATA)
    third.load(EVERY, after)
    assert third.get_parameters()["0.conv2d.kernel"].tobytes() == held.tobytes()
