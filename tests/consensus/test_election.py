"""Elections: unbiased, the same everywhere, and as hard to capture as the committee maths says."""

from __future__ import annotations

from collections import Counter
from itertools import permutations
from math import comb, sqrt

import pytest
from hypothesis import given
from hypothesis import strategies as st

from milepost_consensus.election import (
    Drbg,
    Election,
    compute_seed,
    compute_work_step,
    elect,
)
from milepost_consensus.params import Params
from milepost_consensus.payloads import get_interval_steps
from tests.support.ledger import make_hash, make_record

VERIFIERS = [make_hash("verifier", i) for i in range(12)]


def run(
    seed: object = 0,
    *,
    eligible: int = 9,
    intervals: int = 8,
    flagged: tuple[int, ...] = (),
    **params: object,
) -> Election:
    return elect(
        seed=make_hash("seed", seed),
        submit=make_record(intervals=intervals, cut=3).submit,
        eligible=VERIFIERS[:eligible],
        flagged=flagged,
        params=Params(**params),  # type: ignore[arg-type]
    )


def get_holders(election: Election, interval: int) -> list[bytes]:
    return [duty.verifier for duty in election.duties if duty.interval == interval]


def compute_chi_square(counts: Counter[object], cells: int) -> float:
    expected = counts.total() / cells
    seen = sum((count - expected) ** 2 / expected for count in counts.values())
    return seen + (cells - len(counts)) * expected


def get_chi_square_limit(degrees: int) -> float:
    """The 99.9 % point (Wilson and Hilferty's approximation)."""
    return float(degrees * (1 - 2 / (9 * degrees) + 3.09 * sqrt(2 / (9 * degrees))) ** 3)


# The generator -----------------------------------------------------------------------------------


@pytest.mark.parametrize("limit", [2, 3, 7, 10, 100])
def test_draws_are_uniform(limit: int) -> None:
    drbg = Drbg(make_hash("uniform"), "test")
    counts: Counter[object] = Counter(drbg.below(limit) for _ in range(20_000))
    assert compute_chi_square(counts, limit) < get_chi_square_limit(limit - 1)


def test_draws_near_the_word_size_are_not_biased_downwards() -> None:
    # Taking words modulo 3 * 2^62 would give numbers below 2^62 with probability 1/2, not 1/3.
    drbg = Drbg(make_hash("bias"), "test")
    low = sum(drbg.below(3 << 62) < 1 << 62 for _ in range(6_000))
    assert abs(low / 6_000 - 1 / 3) < 0.03


def test_shuffles_reach_every_order_equally_often() -> None:
    drbg = Drbg(make_hash("shuffle"), "test")
    counts: Counter[object] = Counter(tuple(drbg.shuffle(range(4))) for _ in range(12_000))
    assert set(counts) == set(permutations(range(4)))
    assert compute_chi_square(counts, 24) < get_chi_square_limit(23)


@given(st.binary(max_size=64), st.integers(1, 2**64))
def test_draws_stay_below_their_limit_and_repeat(seed: bytes, limit: int) -> None:
    first, second = Drbg(seed, "x"), Drbg(seed, "x")
    draws = [first.below(limit) for _ in range(5)]
    assert all(0 <= draw < limit for draw in draws)
    assert draws == [second.below(limit) for _ in range(5)]


def test_labels_and_seeds_give_independent_streams() -> None:
    streams = {
        tuple(Drbg(seed, label).below(1 << 64) for _ in range(2))
        for seed in (b"a", b"b", b"")
        for label in ("x", "y", "")
    }
    assert len(streams) == 9


def test_seeds_depend_on_block_and_submission() -> None:
    blocks = [make_hash("block", i) for i in range(2)]
    submissions = [make_hash("submission", i) for i in range(2)]
    assert len({compute_seed(b, s) for b in blocks for s in submissions}) == 4


# Who is elected ----------------------------------------------------------------------------------


def test_every_eligible_verifier_is_in_the_quorum_or_a_standby() -> None:
    for size in (0, 1, 4, 9, 50):
        election = run(eligible=9, quorum_size=size)
        assert len(election.quorum) == (min(size, 9) or 9)
        assert sorted(election.quorum + election.standbys) == sorted(VERIFIERS[:9])
        assert {duty.verifier for duty in election.duties} <= set(election.quorum)


def test_the_order_in_which_verifiers_are_given_does_not_matter() -> None:
    submit, params = make_record().submit, Params()
    results = {
        elect(seed=b"s", submit=submit, eligible=order, flagged=(1,), params=params)
        for order in (VERIFIERS, VERIFIERS[::-1], sorted(VERIFIERS))
    }
    assert len(results) == 1


def test_three_verifier_sub_quorums_are_uniform() -> None:
    # All 120 ordered triples of the first three of six.
    counts: Counter[object] = Counter(
        run(i, eligible=6, quorum_size=3, auditors=0).quorum for i in range(6_000)
    )
    assert compute_chi_square(counts, 120) < get_chi_square_limit(119)


def test_nobody_eligible_elects_nobody() -> None:
    for rule in ("witness", "majority"):
        assert run(eligible=0, flagged=(1,), rule=rule) == Election((), (), ())


# What they are dealt -----------------------------------------------------------------------------


@given(
    st.integers(0, 10_000),
    st.integers(1, 12),
    st.integers(1, 12),
    st.sets(st.integers(0, 7)),
    st.integers(0, 12),
    st.integers(0, 5),
)
def test_rule_witness_covers_what_it_promises(
    seed: int, eligible: int, sub_quorum: int, flags: set[int], quorum_size: int, auditors: int
) -> None:
    flagged = tuple(sorted(flags))
    election = run(
        seed,
        eligible=eligible,
        flagged=flagged,
        quorum_size=quorum_size,
        sub_quorum_size=sub_quorum,
        auditors=auditors,
    )
    size = len(election.quorum)
    for interval in range(8):
        holders = get_holders(election, interval)
        assert len(set(holders)) == len(holders)
        if interval in flagged:
            assert len(holders) == min(sub_quorum, size)
        elif interval in (0, 7):
            assert len(holders) == min(max(auditors, 1), size)
        else:
            assert len(holders) == min(auditors, size)
    assert all(duty.flagged == (duty.interval in flagged) for duty in election.duties)
    assert all(not duty.answer for duty in election.duties)
    assert [d.interval for d in election.duties] == sorted(d.interval for d in election.duties)


@given(st.integers(0, 10_000), st.integers(1, 12), st.sets(st.integers(0, 7)), st.integers(0, 1000))
def test_rule_majority_deals_the_flagged_and_fills_up(
    seed: int, eligible: int, flags: set[int], permille: int
) -> None:
    election = run(
        seed,
        eligible=eligible,
        flagged=tuple(sorted(flags)),
        rule="majority",
        audit_permille=permille,
    )
    selected = Counter(duty.interval for duty in election.duties)
    assert flags <= set(selected)
    assert len(selected) == max(1, len(flags), -(-8 * permille // 1000))
    # Round-robin: nobody has two duties more than anybody else, no interval two voters more.
    load = Counter(duty.verifier for duty in election.duties)
    assert max(load.values()) - min(load.values()) <= 1
    assert len(load) == len(election.quorum) or max(load.values()) == 1
    assert max(selected.values()) - min(selected.values()) <= 1
    assert len({(d.interval, d.verifier) for d in election.duties}) == len(election.duties)


def test_the_papers_parameters_give_ten_groups_of_five() -> None:
    verifiers = [make_hash("many", i) for i in range(100)]
    election = elect(
        seed=b"s",
        submit=make_record(intervals=20).submit,
        eligible=verifiers,
        flagged=(3, 9),
        params=Params(rule="majority", audit_permille=500, quorum_size=50),
    )
    groups = Counter(duty.interval for duty in election.duties)
    assert len(groups) == 10
    assert set(groups.values()) == {5}
    assert {3, 9} <= set(groups)


@pytest.mark.parametrize(
    ("permille", "intervals", "flagged", "checked"),
    [(500, 12, (), 6), (500, 12, (3, 4), 6), (1, 12, (), 2), (1, 12, (3,), 3), (250, 12, (0,), 3)],
)
def test_rule_witness_checks_a_share_and_the_ends_always(
    permille: int, intervals: int, flagged: tuple[int, ...], checked: int
) -> None:
    election = run(
        eligible=9, intervals=intervals, flagged=flagged, audit_permille=permille, auditors=2
    )
    groups = Counter(duty.interval for duty in election.duties)
    assert len(groups) == checked
    assert {0, intervals - 1, *flagged} <= set(groups)
    assert all(count == (5 if k in flagged else 2) for k, count in groups.items())


def test_what_is_audited_beside_the_ends_is_drawn_by_the_seed() -> None:
    drawn = Counter(
        duty.interval
        for i in range(300)
        for duty in run(i, eligible=3, intervals=12, audit_permille=250).duties
    )
    assert drawn.pop(0) == drawn.pop(11) == 300
    # One of ten, 300 times: each about thirty times.
    assert set(drawn) == set(range(1, 11))
    assert all(10 <= count <= 60 for count in drawn.values())


def test_audits_are_spread_evenly_over_the_quorum() -> None:
    election = run(eligible=7, intervals=21)
    load = Counter(duty.verifier for duty in election.duties)
    assert set(load.values()) == {3}


def test_sub_quorums_are_disjoint_as_long_as_the_quorum_lasts() -> None:
    election = run(eligible=12, flagged=(2, 5), sub_quorum_size=5)
    assert not set(get_holders(election, 2)) & set(get_holders(election, 5))


def test_work_steps_are_any_of_the_second_half_of_the_interval() -> None:
    submit = make_record(intervals=5, steps_per_interval=4, cut=3).submit
    seen: dict[int, set[int]] = {}
    for interval in range(5):
        for i in range(60):
            step = compute_work_step(make_hash(i), submit, interval, VERIFIERS[0])
            seen.setdefault(interval, set()).add(step)
    for interval in range(4):
        assert seen[interval] == set(get_interval_steps(submit, interval)[2:])
    assert seen[4] == {16}  # it has one step only


def test_an_extension_draws_other_work_steps() -> None:
    submit = make_record(intervals=1, steps_per_interval=1_000).submit
    steps = {
        compute_work_step(make_hash("seed"), submit, 0, VERIFIERS[0], extension=extension)
        for extension in range(4)
    }
    assert len(steps) == 4


def test_verifiers_of_one_interval_have_different_work_steps() -> None:
    election = elect(
        seed=b"s",
        submit=make_record(intervals=2, steps_per_interval=1_000).submit,
        eligible=VERIFIERS,
        flagged=(0,),
        params=Params(),
    )
    steps = {duty.work_step for duty in election.duties if duty.interval == 0}
    assert len(steps) == 5


# Capture -----------------------------------------------------------------------------------------


def compute_capture(count: int, liars: int, size: int, least: int) -> float:
    """P[at least `least` of a uniform `size`-subset of `count` are among the liars]."""
    hits = sum(comb(liars, k) * comb(count - liars, size - k) for k in range(least, size + 1))
    return hits / comb(count, size)


@pytest.mark.parametrize(
    ("count", "size", "percent", "majority", "everybody"),
    [
        (10, 3, 20, 6.67, 0),
        (10, 3, 30, 18.3, 0.83),
        (10, 5, 30, 8.33, 0),
        (20, 5, 40, 29.6, 0.36),
        (50, 5, 30, 15.2, 0.14),
        (50, 5, 50, 50, 2.51),
        (100, 5, 20, 5.32, 0.02),
        (100, 7, 30, 11.8, 0.01),
    ],
)
def test_exact_capture_is_that_of_the_committee_table(
    count: int, size: int, percent: int, majority: float, everybody: float
) -> None:
    liars = count * percent // 100
    exact = 100 * compute_capture(count, liars, size, size // 2 + 1)
    assert exact == pytest.approx(majority, rel=0.005, abs=0.006)
    exact = 100 * compute_capture(count, liars, size, size)
    assert exact == pytest.approx(everybody, rel=0.05, abs=0.006)


@pytest.mark.parametrize(("percent", "quorum_size"), [(30, 0), (50, 0), (50, 6)])
def test_elected_sub_quorums_are_captured_as_often_as_the_table_says(
    percent: int, quorum_size: int
) -> None:
    # N = 10, s = 3. Drawing through a smaller quorum first changes nothing.
    liars, rounds = set(VERIFIERS[: percent // 10]), 4_000
    hits = Counter(
        sum(verifier in liars for verifier in get_holders(election, 3))
        for election in (
            run(
                (percent, i),
                eligible=10,
                flagged=(1, 3),
                sub_quorum_size=3,
                quorum_size=quorum_size,
                auditors=0,
            )
            for i in range(rounds)
        )
    )
    for least in (2, 3):
        exact = compute_capture(10, len(liars), 3, least)
        seen = sum(hits[k] for k in range(least, 4)) / rounds
        assert abs(seen - exact) < 4 * sqrt(exact * (1 - exact) / rounds)
