from __future__ import annotations

from pathlib import Path

from milepost_node.gradients import GradientStore, get_gradients_folder
from tests.support.ledger import make_hash, make_record

ONE, TWO = (make_record(name, intervals=3, steps_per_interval=4).submit for name in ("one", "two"))
GRADIENTS = [make_hash("gradient", step) for step in range(4)]


def test_what_was_kept_is_read_by_step(tmp_path: Path) -> None:
    store = GradientStore(tmp_path / "gradients")
    store.write(ONE, 2, GRADIENTS)
    assert [store.read(ONE, 2, step) for step in range(8, 12)] == GRADIENTS
    assert store.read(ONE, 2, 12) == b""
    assert store.read(ONE, 1, 4) == b""
    assert store.read(TWO, 2, 8) == b""


def test_retracing_again_replaces_what_was_kept(tmp_path: Path) -> None:
    store = GradientStore(tmp_path / "gradients")
    store.write(ONE, 0, GRADIENTS)
    store.write(ONE, 0, GRADIENTS[::-1])
    assert store.read(ONE, 0, 0) == GRADIENTS[3]
    assert [path.name for path in (tmp_path / "gradients").rglob("*") if path.is_file()] == ["0"]


def test_only_open_submissions_are_kept(tmp_path: Path) -> None:
    store = GradientStore(tmp_path / "gradients")
    store.keep_only([ONE])  # nothing is there yet
    for submit in (ONE, TWO):
        store.write(submit, 0, GRADIENTS)
    store.keep_only([TWO])
    assert store.read(ONE, 0, 0) == b""
    assert store.read(TWO, 0, 0) == GRADIENTS[0]


def test_they_lie_beside_the_blobs_where_nothing_is_served(tmp_path: Path) -> None:
    blobs = tmp_path / "blobs"
    folder = get_gradients_folder(blobs)
    assert folder.parent == tmp_path
    assert blobs not in folder.parents
