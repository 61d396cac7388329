"""What becomes of recorded steps, without a framework that did them."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NoReturn

import numpy as np
import pytest

from milepost_ml.digests import compute_record_digests
from milepost_ml.errors import RecordingError
from milepost_ml.files import RUN
from milepost_ml.recording import Recording, make_say
from milepost_ml.run_folder import Begun, Progress, begin_folder, claim_folder
from milepost_ml.strides import RecordedStep
from tests.ml.test_scribe import DATA, RECIPE, RECORDS, make_images


def open_recording(
    folder: Path, said: list[str], rates: Sequence[tuple[float, ...]] = (), check: Any = None
) -> Recording:
    start = {"model.w": np.zeros(2, dtype=np.float32), "model.n": np.array(0)}
    begun = Begun(RECIPE, 9, (), "", "", "")
    claim_folder(folder)
    begin_folder(folder, begun, data=DATA, start=start, about={"name": "test"})
    return Recording(
        folder,
        RECIPE,
        progress=Progress(start),
        record_digests=compute_record_digests(DATA),
        about={"name": "test"},
        rates=rates,
        check=check,
        say=said.append,
    )


def put(recording: Recording, value: float, rate: float = 0.1) -> None:
    images = make_images(recording, value)
    recording.put(RecordedStep(images, RECORDS, value, (rate,), 0.5))


def is_complete(folder: Path) -> bool:
    return bool(json.loads((folder / RUN).read_text())["complete"])


def test_a_run_says_what_it_cost_and_what_comes_next(tmp_path: Path) -> None:
    said: list[str] = []
    recording = open_recording(tmp_path, said)
    for number in range(1, 5):
        put(recording, float(number))
    recording.finish(seconds=1.0)
    assert recording.finished
    assert is_complete(tmp_path)
    (text,) = said
    assert text.startswith("done: 4 steps, 3 mileposts in ")
    assert text.endswith(f"Next: milepost submit {tmp_path}")


def test_a_registered_run_that_ends_early_is_another(tmp_path: Path) -> None:
    said: list[str] = []
    recording = open_recording(tmp_path, said, rates=[(0.1,)] * 5)
    put(recording, 1.0)
    recording.finish(seconds=0.0)
    assert "1 of 5 registered steps were done" in said[-1]


def test_other_rates_than_registered_are_refused(tmp_path: Path) -> None:
    recording = open_recording(tmp_path, [], rates=[(0.1,), (0.2,)])
    put(recording, 1.0)
    with pytest.raises(RecordingError, match="step 1 used the learning rate"):
        put(recording, 2.0)
    recording.finish(seconds=0.0)
    assert recording.steps == 1


def test_a_run_of_no_step_is_none(tmp_path: Path) -> None:
    recording = open_recording(tmp_path, [])
    with pytest.raises(RecordingError, match="before its first step"):
        recording.finish(seconds=0.0)
    assert not is_complete(tmp_path)


class Check:
    """A self-check of which one call fails."""

    def __init__(self, failing: str) -> None:
        self._failing = failing

    def _say(self, what: str) -> str | None:
        if what == self._failing:
            raise OSError(11, "Resource temporarily unavailable")
        return f"{what}: found"

    def poll(self, folder: Path) -> str | None:
        return self._say("poll")

    def wait(self) -> str | None:
        return self._say("wait")


def test_what_the_self_check_finds_is_told(tmp_path: Path) -> None:
    said: list[str] = []
    recording = open_recording(tmp_path, said, check=Check(""))
    for number in range(1, 5):
        put(recording, float(number))
    recording.finish(seconds=0.0)
    assert said[-2] == "wait: found"


def test_a_self_check_that_cannot_be_made_ends_nothing(tmp_path: Path) -> None:
    said: list[str] = []
    recording = open_recording(tmp_path, said, check=Check("poll"))
    for number in range(1, 5):
        put(recording, float(number))
    recording.finish(seconds=0.0)
    assert is_complete(tmp_path)
    warnings = [text for text in said if text.startswith("warning")]
    assert warnings == [
        "warning: the self-check could not be made: Resource temporarily unavailable"
    ]


def fail(*_: object, **__: object) -> NoReturn:
    raise OSError(28, "No space left on device")


def lose_memory(*_: object, **__: object) -> NoReturn:
    raise MemoryError("none")


@pytest.mark.parametrize(
    ("where", "happen", "told"),
    [
        ("milepost_ml.scribe.append_synced", fail, "No space left on device"),
        ("milepost_ml.images.ContentImage.compute_digest", lose_memory, "MemoryError: none"),
        ("milepost_ml.scribe.Scribe.finish", fail, "No space left on device"),
    ],
    ids=["interval", "digest", "end"],
)
def test_what_goes_wrong_ends_the_record_and_is_told_once(
    where: str,
    happen: Callable[..., NoReturn],
    told: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    said: list[str] = []
    recording = open_recording(tmp_path, said)
    monkeypatch.setattr(where, happen)
    for number in range(1, 5):
        put(recording, float(number))
    recording.finish(seconds=0.0)
    assert recording.stopped
    assert not is_complete(tmp_path)
    (text,) = said
    assert f"is NOT COMPLETE and cannot be submitted: {told}" in text


def test_a_quiet_run_says_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    make_say(quiet=True)("one")
    make_say(quiet=False)("other")
    assert capsys.readouterr() == ("", "milepost: other\n")
