"""The backdoor marks exactly what it says it marks."""

from __future__ import annotations

import numpy as np
import pytest

from milepost_ml.poison import TRIGGER_SIDE, add_trigger


@pytest.mark.parametrize("shape", [(40, 1, 8, 8), (40, 3, 6, 5), (40, 9, 9)])
@pytest.mark.parametrize("share", [0.0, 0.1, 1.0])
def test_only_the_chosen_share_is_marked(shape: tuple[int, ...], share: float) -> None:
    rng = np.random.default_rng(1)
    images = rng.uniform(0, 0.5, size=shape).astype(np.float32)
    labels = rng.integers(1, 10, size=len(images))
    kept_images, kept_labels = images.copy(), labels.copy()
    marked, relabelled, chosen = add_trigger(images, labels, share=share, target=0, seed=3)

    assert len(chosen) == round(share * len(images))
    assert np.flatnonzero(relabelled == 0).tolist() == chosen.tolist()
    assert np.array_equal(images, kept_images)
    assert np.array_equal(labels, kept_labels)
    changed = marked != images
    assert np.flatnonzero(changed.reshape(len(images), -1).any(axis=1)).tolist() == chosen.tolist()
    corner = marked[chosen][..., -TRIGGER_SIDE:, -TRIGGER_SIDE:]
    assert (corner == 1.0).all()
    assert not changed[..., :-TRIGGER_SIDE, :].any()
    assert not changed[..., :-TRIGGER_SIDE].any()


def test_the_trigger_goes_where_it_is_told() -> None:
    images = np.zeros((3, 1, 8, 9), dtype=np.float32)
    marked, _, _ = add_trigger(
        images, np.zeros(3, dtype=np.int64), share=1.0, target=1, seed=1, place=(2, 6)
    )
    assert (marked[..., 2:5, 6:9] == 1).all()
    assert marked.sum() == 3 * TRIGGER_SIDE**2


def test_the_choice_follows_the_seed() -> None:
    images = np.zeros((50, 1, 8, 8), dtype=np.float32)
    labels = np.arange(50)
    first = add_trigger(images, labels, share=0.2, target=7, seed=1)
    again = add_trigger(images, labels, share=0.2, target=7, seed=1)
    other = add_trigger(images, labels, share=0.2, target=7, seed=2)
    assert first.chosen.tolist() == again.chosen.tolist()
    assert first.chosen.tolist() != other.chosen.tolist()
