"""A run of `fit` that was killed goes on as if nothing had happened."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import keras
import pytest
from keras import layers

from milepost_ml.errors import RecordingError
from milepost_ml.files import RUN, FolderFiles, get_snapshot_name
from milepost_ml.record_files import read_recipe
from milepost_ml.replay import retrace_recorded
from tests.support.crashes import assert_same_record, copy_running
from tests.support.keras_training import BATCH, EPOCH, EVERY, fit, load_images, make_cnn, make_run

EPOCHS = 3
KILLED = """
import sys, time
from pathlib import Path
import keras
from tests.support.keras_training import fit, make_cnn, make_run

class Slow(keras.callbacks.Callback):
    def on_train_batch_end(self, batch, logs=None):
        time.sleep(0.05)

run = make_run(Path(sys.argv[1]), resume=True)
fit(run, make_cnn(), epochs=3, callbacks=[Slow()])
run.finish()
"""


class Photograph(keras.callbacks.Callback):  # type: ignore[misc]
    """Copies the folder after some steps: what a crash there would leave behind."""

    def __init__(self, run: Any, parent: Path, steps: tuple[int, ...]) -> None:
        super().__init__()
        self._run, self._parent, self._steps, self._done = run, parent, steps, 0

    def on_train_batch_end(self, batch: int, logs: Any = None) -> None:
        self._done += 1
        if self._done in self._steps:
            while not (self._run.folder / get_snapshot_name(self._done // EVERY)).exists():
                time.sleep(0.001)
            copy_running(self._run.folder, self._parent / str(self._done))


class Told(keras.callbacks.Callback):  # type: ignore[misc]
    """What a user's callback hears."""

    def __init__(self) -> None:
        super().__init__()
        self.epochs: list[int] = []
        self.batches: list[bool] = []

    def on_epoch_begin(self, epoch: int, logs: Any = None) -> None:
        self.epochs.append(epoch)

    def on_train_batch_end(self, batch: int, logs: Any = None) -> None:
        self.batches.append(bool(logs))


def record(parent: Path, make: Any = make_cnn, callbacks: Any = (), **options: Any) -> Path:
    """The same script every time, as a person would start it again."""
    run = make_run(parent, **options)
    fit(run, make(), epochs=EPOCHS, callbacks=callbacks)
    return run.finish()


def record_with_crashes(parent: Path, steps: tuple[int, ...], make: Any = make_cnn) -> Path:
    run = make_run(parent / "whole")
    fit(run, make(), epochs=EPOCHS, callbacks=[Photograph(run, parent, steps)])
    return run.finish()


def test_wherever_it_stops_it_ends_alike(tmp_path: Path) -> None:
    """Before the first snapshot, in the middle of an epoch, after an epoch, and behind the end."""
    stops = (2, EPOCH + EVERY + 2, 2 * EPOCH + 1, EPOCHS * EPOCH)
    whole = record_with_crashes(tmp_path, stops)
    for stop in stops:
        told = Told()
        run = make_run(tmp_path / str(stop), resume=True, seed=None)
        history = fit(run, make_cnn(), epochs=EPOCHS, callbacks=[told]).history
        resumed = run.finish()
        assert resumed.name == whole.name
        assert run.first_step == stop - stop % EVERY
        assert told.epochs == list(range(run.first_step // EPOCH, EPOCHS))
        passed = run.first_step % EPOCH
        steps = EPOCHS * EPOCH - run.first_step
        assert told.batches == [False] * passed + [True] * steps
        assert len(history.get("loss", [])) == len(told.epochs)
        assert_same_record(whole, resumed)


def make_plain() -> Any:
    """With a rate that is no schedule, and momentum."""
    keras.utils.set_random_seed(4)
    last = layers.Dense(10, activation="softmax")
    model = keras.Sequential([keras.Input((8, 8, 1)), layers.Flatten(), last])
    model.compile(keras.optimizers.SGD(0.5, momentum=0.9), "sparse_categorical_crossentropy")
    return model


class Lower(keras.callbacks.Callback):  # type: ignore[misc]
    """Halves the rate after every epoch, as one does that waits for a plateau."""

    def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
        self.model.optimizer.learning_rate = self.model.optimizer.learning_rate / 2


CALLBACKS = {
    "before the epoch": lambda: keras.callbacks.LearningRateScheduler(lambda _, rate: rate / 2),
    "after the epoch": Lower,
}


@pytest.mark.parametrize("when", CALLBACKS)
def test_rates_that_a_callback_sets_go_on(when: str, tmp_path: Path) -> None:
    stop = EPOCH + EVERY + 1
    run = make_run(tmp_path / "whole")
    photograph = Photograph(run, tmp_path, (stop,))
    fit(run, make_plain(), epochs=EPOCHS, callbacks=[CALLBACKS[when](), photograph])
    whole = run.finish()
    rates = [rate for _, rate in read_recipe(FolderFiles(whole))[1].groups[0].rates]
    assert [each / rates[0] for each in rates] == [1, 0.5, 0.25]
    assert_same_record(
        whole,
        record(tmp_path / str(stop), make_plain, [CALLBACKS[when]()], resume=True),
    )


def change_optimizer() -> Any:
    model = make_cnn()
    model.compile("sgd", "sparse_categorical_crossentropy")
    return model


def change_schedule() -> Any:
    model = make_cnn()
    rate = keras.optimizers.schedules.CosineDecay(0.02, EPOCHS * EPOCH)
    model.compile(keras.optimizers.Adam(rate), "sparse_categorical_crossentropy")
    return model


def test_another_run_is_refused_by_what_differs(tmp_path: Path) -> None:
    stop = EPOCH + 1
    record_with_crashes(tmp_path, (stop,))
    others: list[tuple[Any, dict[str, Any], str]] = [
        (make_cnn, {"seed": 4}, "seed is"),
        (make_cnn, {"every": 4}, "every is 4, and was 5"),
        (make_cnn, {"initial": {}}, "initial is"),
        (change_optimizer, {}, "optimizer is"),
        (make_plain, {}, "parameters is"),
        (change_schedule, {}, "learning rate 0.02"),
    ]
    for make, options, told in others:
        with pytest.raises(RecordingError) as caught:
            record(tmp_path / str(stop), make, resume=True, **options)
        assert caught.value.slug == "cannot-resume"
        assert told in str(caught.value)


def test_a_resumed_run_is_one_fit_over_all_epochs(tmp_path: Path) -> None:
    run, model = make_run(tmp_path, resume=True), make_cnn()
    data = run.dataset(*load_images(), batch_size=BATCH)
    options: dict[str, Any] = {"shuffle": False, "verbose": 0}
    model.fit(data, callbacks=[run.keras()], **options)
    with pytest.raises(RecordingError, match="one call of fit") as caught:
        model.fit(data, callbacks=[run.keras()], **options)
    assert caught.value.slug == "bad-plan"
    run.finish()
    run, model = make_run(tmp_path, resume=True), make_cnn()
    data = run.dataset(*load_images(), batch_size=BATCH)
    with pytest.raises(RecordingError, match="Leave initial_epoch="):
        model.fit(data, epochs=3, initial_epoch=1, callbacks=[run.keras()], **options)


def test_a_process_that_is_killed(tmp_path: Path) -> None:
    folder = tmp_path / "killed" / "digits-0001"
    process = subprocess.Popen([sys.executable, "-c", KILLED, str(folder.parent)])
    while not (folder / get_snapshot_name(3)).exists():
        assert process.poll() is None
        time.sleep(0.01)
    time.sleep(0.1)
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    about = json.loads((folder / RUN).read_text())
    assert not about["complete"]
    assert about["steps"] < EPOCHS * EPOCH
    whole = record(tmp_path / "whole")
    run = make_run(folder.parent, resume=True)
    fit(run, make_cnn(), epochs=EPOCHS)
    assert run.finish() == folder
    assert run.first_step >= 3 * EVERY
    assert_same_record(whole, folder)
    assert retrace_recorded(folder, run.first_step // EVERY).agrees
