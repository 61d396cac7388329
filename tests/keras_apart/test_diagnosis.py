"""Looking for what differs in a record of Keras: what can be told without trying other loops."""

from __future__ import annotations

from pathlib import Path

from milepost_ml.diagnosis.search import diagnose
from milepost_ml.files import DATA, TENSORS, get_steps_name
from milepost_ml.record_files import BATCH_BYTES
from milepost_ml.snapshots import read_tensors, write_tensors
from tests.support.keras_training import record_cnn


def test_differences_of_a_keras_record_are_named(tmp_path: Path) -> None:
    folder = record_cnn(tmp_path)
    assert diagnose(folder, 0).repeats
    assert diagnose(folder, 1).repeats
    steps = folder / get_steps_name(0)
    genuine = steps.read_bytes()
    forged = bytearray(genuine)
    forged[BATCH_BYTES] ^= 1  # the gradient of step 0
    steps.write_bytes(forged)
    found = diagnose(folder, 0)
    assert found.cause is not None
    assert (found.step, found.parts, found.tensors) == (0, ("gradient",), ())
    assert (found.cause.name, found.cause.confirmed) == ("steps-changed", True)
    (folder / TENSORS).unlink()
    found = diagnose(folder, 0)
    assert found.cause is not None
    assert (found.cause.name, found.cause.confirmed) == ("backward", False)
    assert found.tried[0] == "the same once more on this machine"
    steps.write_bytes(genuine)
    data = read_tensors(folder / DATA)
    data["data.0"][40] += 1
    write_tensors(folder / DATA, data)
    first, second = diagnose(folder, 0), diagnose(folder, 1)
    assert first.repeats != second.repeats, "each record is fed once in these two"
    changed = second if first.repeats else first
    assert changed.cause is not None
    assert changed.cause.name == "data-records"
    assert "40" in changed.cause.text
