"""Order and generator seeds are functions of seed and step."""

from __future__ import annotations

import hashlib

import numpy as np
import pytest

from milepost_ml.keyed import Order, compute_generator_seed, compute_order, make_seed

SEED = bytes(range(32))
VECTOR_ORDER = [1, 3, 0, 6, 2, 8, 7, 4, 5, 9]
VECTOR_SEED = 9105767745916665275


def test_seeds_are_taken_made_or_drawn() -> None:
    assert make_seed(SEED) == SEED
    assert make_seed(5) == bytes(31) + b"\x05"
    assert len(make_seed(None)) == 32
    assert make_seed(None) != make_seed(None)


@pytest.mark.parametrize("seed", [-1, 2**256, b"short"])
def test_other_seeds_are_refused(seed: bytes | int) -> None:
    with pytest.raises(ValueError):
        make_seed(seed)


def test_an_order_sorts_a_stream_that_anybody_can_recompute() -> None:
    body = SEED + (3).to_bytes(8, "big")
    digest = hashlib.sha256(b"milepost/v1/order\x00" + body).digest()
    key = np.array([int.from_bytes(digest[i : i + 8], "little") for i in (0, 8)], dtype=np.uint64)
    stream = np.random.Philox(key=key).random_raw(50)
    expected = sorted(range(50), key=lambda i: (int(stream[i]), i))
    assert compute_order(SEED, 3, 50).tolist() == expected


def test_the_order_stays_what_it_was() -> None:
    # A vector: numpy promises that Philox never changes; this notices if it does.
    assert compute_order(SEED, 0, 10).tolist() == VECTOR_ORDER
    assert compute_generator_seed(SEED, 0) == VECTOR_SEED


def test_epochs_are_different_permutations() -> None:
    first, second = compute_order(SEED, 0, 100), compute_order(SEED, 1, 100)
    assert sorted(first.tolist()) == sorted(second.tolist()) == list(range(100))
    assert first.tolist() != second.tolist()


def test_batches_cut_the_epochs_and_drop_the_rest() -> None:
    order = Order(seed=SEED, records=10, batch_size=3)
    zero, one = compute_order(SEED, 0, 10), compute_order(SEED, 1, 10)
    assert order.get_indices(0).tolist() == zero[:3].tolist()
    assert order.get_indices(2).tolist() == zero[6:9].tolist()
    assert order.get_indices(3).tolist() == one[:3].tolist()
    # Going back gives the same again: nothing is remembered.
    assert order.get_indices(1).tolist() == zero[3:6].tolist()


@pytest.mark.parametrize("batch_size", [0, 11])
def test_impossible_batches_are_refused(batch_size: int) -> None:
    with pytest.raises(ValueError):
        Order(seed=SEED, records=10, batch_size=batch_size)


def test_generator_seeds_fit_63_bits_and_differ_by_step() -> None:
    seeds = {compute_generator_seed(SEED, step) for step in range(100)}
    assert len(seeds) == 100
    assert all(0 <= seed < 2**63 for seed in seeds)
