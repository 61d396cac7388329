"""Augmentation: every image is moved as the seed says, in the loop and by whoever retraces."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest

from milepost_ml.admission import build_submit, validate_record
from milepost_ml.augmentation import Crop, Flip, augment_batch
from milepost_ml.errors import RecordingError
from milepost_ml.files import RECIPE, FolderFiles
from milepost_ml.keyed import Order, make_seed
from milepost_ml.recipe import encode_recipe
from milepost_ml.record_files import read_recipe
from milepost_ml.replay import retrace_recorded
from tests.support.models import make_task
from tests.support.slow_images import move_images
from tests.support.training import Loop, record

SEED = make_seed(5)
BOTH = (Flip(), Crop(padding=2))
IMAGES = np.arange(6 * 2 * 5 * 4, dtype=np.float32).reshape(6, 2, 5, 4) + 1


def test_images_move_as_the_format_says() -> None:
    images = IMAGES[:, 0].astype(np.int64)
    for number, transformations in ((0, BOTH), (7, BOTH), (3, (Crop(padding=3), Flip(True, True)))):
        found = augment_batch(images, transformations, seed=SEED, number=number)
        assert found.tolist() == move_images(images.tolist(), transformations, SEED, number)
        assert found.flags.c_contiguous
        assert not np.array_equal(found, images)


def test_channels_move_together() -> None:
    found = augment_batch(IMAGES, BOTH, seed=SEED, number=0)
    for channel in range(2):
        alone = augment_batch(IMAGES[:, channel], BOTH, seed=SEED, number=0)
        assert np.array_equal(found[:, channel], alone)


def test_batches_and_seeds_move_differently() -> None:
    def move(seed: bytes, number: int) -> bytes:
        return augment_batch(IMAGES, BOTH, seed=seed, number=number).tobytes()

    assert move(SEED, 3) == move(SEED, 3)
    assert len({move(SEED, 3), move(SEED, 4), move(make_seed(6), 3)}) == 3


def test_both_flips_of_images_without_channels() -> None:
    many = np.arange(64 * 6, dtype=np.uint8).reshape(64, 2, 3)
    found = augment_batch(many, (Flip(horizontal=True, vertical=True),), seed=SEED, number=0)
    turned = [many, many[:, ::-1], many[:, :, ::-1], many[:, ::-1, ::-1]]
    counts = [int((found == other).all(axis=(1, 2)).sum()) for other in turned]
    assert sum(counts) == 64
    assert min(counts) > 4


def test_a_crop_reaches_every_place() -> None:
    one = np.zeros((400, 5, 5), dtype=np.float32)
    one[:, 2, 2] = 1
    found = augment_batch(one, (Crop(padding=2),), seed=SEED, number=0)
    places = {tuple(place) for place in np.argwhere(found)[:, 1:].tolist()}
    assert places == {(y, x) for y in range(5) for x in range(5)}


@pytest.mark.parametrize("profile", ["exact", "rounded", "class"])
def test_augmented_runs_retrace(profile: str, tmp_path: Path) -> None:
    seen: list[np.ndarray[Any, Any]] = []

    def watch(_: int, loop: Loop) -> None:
        seen.append(loop.batch[0].numpy().copy())

    folder = record(
        tmp_path, task="convnet", steps=6, profile=profile, accumulate=2, augment=BOTH, cheat=watch
    )
    _, recipe = read_recipe(FolderFiles(folder))
    assert recipe.augment == BOTH
    assert all(retrace_recorded(folder, k).agrees for k in range(2))
    submit, _ = build_submit(folder)
    validate_record(submit, FolderFiles(folder))
    images = make_task("convnet").inputs.numpy()
    order = Order(seed=recipe.seed_bytes, records=40, batch_size=8)
    for number, batch in enumerate(seen):
        rows = images[order.get_indices(number)]
        expected = augment_batch(rows, BOTH, seed=recipe.seed_bytes, number=number)
        assert np.array_equal(batch, expected.astype(batch.dtype))


@pytest.mark.parametrize(
    "lie",
    [(), (Flip(),), BOTH[::-1], (Flip(vertical=True), Crop(padding=2)), (Flip(), Crop(padding=1))],
    ids=["none", "no crop", "order", "vertical", "padding"],
)
def test_other_augmentation_than_declared_is_found(lie: Any, tmp_path: Path) -> None:
    folder = record(tmp_path, task="convnet", profile="exact", steps=2, every=2, augment=BOTH)
    _, recipe = read_recipe(FolderFiles(folder))
    told = msgspec.structs.replace(recipe, augment=lie)
    (folder / RECIPE).write_bytes(encode_recipe(told))
    found = retrace_recorded(folder, 0)
    assert (found.step, found.part) == (0, "gradient")


def test_augmentation_under_another_seed_is_found(tmp_path: Path) -> None:
    """The batches are those of the seed, but the images of step 3 were moved by another one."""

    def cheat(number: int, loop: Loop) -> None:
        if number == 3:
            loop.batch[0] = loop.batch[0].flip(-1)

    folder = record(
        tmp_path, task="convnet", profile="exact", steps=4, every=4, augment=[Flip()], cheat=cheat
    )
    found = retrace_recorded(folder, 0)
    assert (found.step, found.part) == (3, "gradient")


@pytest.mark.parametrize(
    ("augment", "told"),
    [
        ([Crop(padding=0)], "padding 0"),
        ([Crop(padding=12)], "allow 1 to 11"),
        ([Flip(horizontal=False)], "no direction"),
        ([Flip()] * 9, "9 transformations"),
        (["flip"], "milepost.Flip"),
    ],
)
def test_impossible_augmentation_is_refused(augment: Any, told: str, tmp_path: Path) -> None:
    with pytest.raises(RecordingError, match=told) as caught:
        record(tmp_path, task="convnet", augment=augment)
    assert caught.value.slug in ("bad-plan", "bad-recipe")


def test_only_images_are_augmented(tmp_path: Path) -> None:
    with pytest.raises(RecordingError, match=r"\[40, 12\]"):
        record(tmp_path, augment=[Flip()])
