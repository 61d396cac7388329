"""What checking a part of a run promises: exact combinatorics in integers, for anybody to call.

An altered interval goes unseen if nobody retraces it, or if all who do are liars: under rule
witness one honest verifier of an interval is enough, as long as the liars are no majority of all
verifiers.  Every function is pure.  Probabilities are parts per million, rounded up where they are
a risk, so that what is printed never says more than is true.
"""

from __future__ import annotations

from fractions import Fraction
from math import comb
from typing import Final, NamedTuple

MILLION: Final = 1_000_000


def compute_miss_ppm(intervals: int, retraced: int, altered: int) -> int:
    """The chance that none of `altered` intervals is among those retraced, rounded up.

    Hypergeometric: C(n - b, r) / C(n, r) for r of n intervals drawn without regard to content.
    """
    if altered > intervals - retraced:
        return 0
    return -(-comb(intervals - altered, retraced) * MILLION // comb(intervals, retraced))


def compute_needed_audits(intervals: int, altered: int, *, detect_ppm: int) -> int:
    """The fewest intervals to retrace, drawn at random, so that one of `altered` is among them.

    With at least `detect_ppm`, which is above 0 and at most a million.
    """
    assert 1 <= altered <= intervals
    assert 0 < detect_ppm <= MILLION
    return next(
        retraced
        for retraced in range(1, intervals + 1)
        if compute_miss_ppm(intervals, retraced, altered) <= MILLION - detect_ppm
    )


def compute_capture_ppm(verifiers: int, liars: int, seats: int, *, needed: int = 0) -> int:
    """The chance that liars hold at least `needed` seats of a sub-quorum, rounded up.

    All of them where `needed` is 0, which is what deceives rule witness; rule majority is deceived
    by `seats // 2 + 1`.
    """
    return _round_up(
        sum(
            (_draw(verifiers, liars, seats, held) for held in range(needed or seats, seats + 1)),
            Fraction(0),
        )
    )


def compute_needed_seats(verifiers: int, liars: int, *, risk_ppm: int) -> int:
    """The fewest seats of a sub-quorum that are all liars' with at most this chance."""
    assert 0 <= liars < verifiers
    return next(
        seats
        for seats in range(1, verifiers + 1)
        if compute_capture_ppm(verifiers, liars, seats) <= risk_ppm
    )


class Setting(NamedTuple):
    """How one submission is checked under rule witness.  The names are those of Params."""

    intervals: int
    verifiers: int
    """Eligible ones, taken to be the panel too."""
    liars: int
    flagged: int = 0
    """Flagged intervals, none of them the first or the last."""
    quorum_size: int = 0
    sub_quorum_size: int = 5
    auditors: int = 1
    audit_permille: int = 1_000

    @property
    def quorum(self) -> int:
        """Verifiers among whom duties are dealt."""
        return min(self.quorum_size or self.verifiers, self.verifiers)

    @property
    def foreseen(self) -> int:
        """Intervals of which everybody knows beforehand that they are retraced."""
        return self.flagged + min(2, self.intervals)

    @property
    def drawn(self) -> int:
        """Intervals that are drawn beside them."""
        target = max(1, -(-self.intervals * self.audit_permille // 1_000))
        return max(0, target - self.foreseen)


def compute_escape_ppm(setting: Setting, *, ordinary: int = 0, flagged: int = 0) -> int:
    """The chance that altered intervals escape every honest verifier, rounded up.

    `ordinary` of them look like the rest of the run and are neither first nor last, `flagged` were
    flagged.  Exact where one shuffle of the quorum serves all audits and sub-quorums are disjoint.
    Beyond, audits are counted as independent, as those from different shuffles are, and altered
    flagged intervals as if they shared one sub-quorum, which some do: that favours the liars.
    """
    assert 0 <= flagged <= setting.flagged
    assert 0 <= ordinary <= setting.intervals - setting.foreseen
    if setting.liars > setting.verifiers // 2:
        return MILLION  # the panel is theirs
    return _round_up(
        sum(
            _draw(setting.verifiers, setting.liars, setting.quorum, within)
            * _escape_sub_quorums(setting, within, flagged)
            * _escape_auditors(setting, within, ordinary)
            for within in range(setting.quorum + 1)
        )
    )


def _escape_sub_quorums(setting: Setting, liars: int, altered: int) -> Fraction:
    """That all seats on the altered flagged intervals are liars', with so many in the quorum."""
    seats = min(setting.sub_quorum_size, setting.quorum)
    disjoint = setting.flagged * seats <= setting.quorum
    taken = seats * (altered if disjoint else min(altered, 1))
    return _draw(setting.quorum, liars, taken, taken)


def _escape_auditors(setting: Setting, liars: int, altered: int) -> Fraction:
    """Likewise on the altered ordinary ones, of which some are drawn."""
    rest, hand = setting.intervals - setting.foreseen, min(setting.auditors, setting.quorum)
    audited = setting.drawn + min(2, setting.intervals)
    one_shuffle = audited * max(hand, 1) <= setting.quorum
    return sum(
        (
            _draw(rest, altered, setting.drawn, seen)
            * (
                _draw(setting.quorum, liars, seen * hand, seen * hand)
                if one_shuffle
                else _draw(setting.quorum, liars, hand, hand) ** seen
            )
            for seen in range(altered + 1)
        ),
        Fraction(0),
    )


def _draw(total: int, marked: int, drawn: int, hits: int) -> Fraction:
    """That exactly `hits` of `drawn` items are marked, out of `total` without replacement."""
    if drawn > total or hits > drawn:
        return Fraction(0)
    return Fraction(comb(marked, hits) * comb(total - marked, drawn - hits), comb(total, drawn))


def _round_up(probability: Fraction | int) -> int:
    return -(-MILLION * probability.numerator // probability.denominator)
