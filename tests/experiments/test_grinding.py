"""The grinding experiment, small: the raw hash yields, the beacon does not."""

from __future__ import annotations

import random
from pathlib import Path

import pytest
from milepost_experiments import grinding
from milepost_experiments.grinding import (
    MEMBERS,
    Beacon,
    World,
    compute_capture,
    grind_hash,
    run,
    write,
)
from milepost_experiments.intervals import compute_wilson


def test_the_honest_draw_is_the_hypergeometric_of_the_literature() -> None:
    for percent, expected in ((10, 4.7e-7), (20, 1.2e-4), (30, 1.4e-3)):
        p = compute_capture(MEMBERS, MEMBERS * percent // 100, 5)
        assert p == pytest.approx(expected, rel=0.04)


def test_a_grinding_proposer_gets_the_sub_quorum_it_wants() -> None:
    chance = random.Random(1)
    tries = [grind_hash(World(chance, 25)) for _ in range(40)]
    assert all(tries)
    # The mean of 40 geometric waiting times lies within half and double of 1 / p.
    assert 0.5 < sum(tries) / 40 * compute_capture(MEMBERS, 25, 5) < 2.0


def test_colluding_proposers_choose_little_under_the_beacon() -> None:
    chance = random.Random(2)
    p = compute_capture(MEMBERS, 25, 5)
    hits = sum(Beacon(World(chance, 25)).play() for _ in range(600))
    low, high = compute_wilson(hits, 600)
    assert low < 4 * p
    assert high > p / 2


def test_with_no_choice_at_all_the_beacon_is_an_honest_draw(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Whoever never gives its turn up gets what an honest draw gives."""
    monkeypatch.setattr(Beacon, "_value", lambda *_: -1.0)
    chance = random.Random(3)
    hits = sum(Beacon(World(chance, 25)).play() for _ in range(600))
    low, high = compute_wilson(hits, 600)
    assert low <= compute_capture(MEMBERS, 25, 5) <= high


def test_the_same_seed_writes_the_same_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(grinding, "SHARES", (50,))
    files = [tmp_path / f"{i}.csv" for i in range(3)]
    for file, seed in zip(files, (0, 0, 1), strict=True):
        write(run(hashes=2, beacons=5, seed=seed), file)
    first, second, other = (file.read_bytes() for file in files)
    assert first == second != other
    assert first.startswith(b"malicious,honest_draw,")


def test_wilson_intervals() -> None:
    assert compute_wilson(17, 20) == pytest.approx((0.640, 0.948), abs=0.002)
    low, high = compute_wilson(0, 100)
    assert low == pytest.approx(0.0, abs=1e-12)
    assert 0.03 < high < 0.04
