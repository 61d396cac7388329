"""Weight analysis as a replicated rule: which intervals moved unlike the rest of their run.

Everything is integer arithmetic, so that every machine flags the same intervals.  A flag only
buys an interval more verifiers; it never convicts and its absence never acquits.

Rule `robust`, on y_k = log2(change_score_k) - log2(rate_sum_k) in steps of 2^-16:

1. Trend.  A run's movement decays roughly like a power of k, so y is fitted by a line in
   x_k = log2(k + 1).  Slope: Theil's incomplete method (H. Theil 1950), the median of
   (y_j - y_i) / (x_j - x_i) over the pairs (i, i + n // 2) of fitted points.  Intercept: the
   median of y - slope * x.  The first `BURN_IN` intervals always move more; they are not fitted.
2. Scale.  The median absolute residual (MAD), at least `MIN_MAD`.
3. Two-sided test.  |residual| > 3.5 * 1.4826 * MAD flags (Iglewicz and Hoaglin 1993).  Training
   on poisoned data moves little once the loss is low, and the clean interval after it jumps: an
   upward flag therefore implicates the predecessor as well.
4. Zero test.  An interval that stands still although it declares a learning rate, or moves
   although it declares none, is flagged whatever the others do.

With fewer than `MIN_INTERVALS` intervals only the zero test applies.

Rule `upper` is the threshold of the Diffusion paper: score > mean + 2 standard deviations.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

LOG_BITS: Final = 16
"""Fraction bits of a fixed-point logarithm."""
MIN_INTERVALS: Final = 9
"""Gives six fitted points and three slopes: with fewer, one outlier bends the trend itself."""
BURN_IN: Final = 3
"""Intervals at the start of a run that are neither fitted nor tested against the trend: with two,
eight in ten clean runs had their second and third interval flagged (experiments/LOG.md)."""
MIN_MAD: Final = (1 << LOG_BITS) // 20
"""0.05 in log2, 3.5 %: steadier runs than that are not called suspicious for a ripple."""
CUTOFF: Final = 51_891
"""3.5 * 1.4826 in units of 10^-4; 1.4826 makes the MAD of normal residuals their deviation."""
_CUTOFF_UNIT: Final = 10_000
_MANTISSA_BITS: Final = 63


def compute_flags(
    change_scores: Sequence[int], rate_sums: Sequence[int], rule: str
) -> tuple[int, ...]:
    """The flagged intervals in ascending order, by the network's `flag_rule`."""
    assert len(change_scores) == len(rate_sums)
    if rule == "upper":
        return _compute_upper_flags(change_scores)
    assert rule == "robust", rule
    return tuple(
        sorted(
            {
                *_compute_zero_flags(change_scores, rate_sums),
                *_compute_trend_flags(change_scores, rate_sums),
            }
        )
    )


def compute_log2(value: int) -> int:
    """floor(log2(value) * 2^16) for value >= 1, up to the last bit's truncation error.

    The mantissa is squared once per fraction bit; whether the square reaches 2 is the next bit.
    Doubling the value adds exactly 2^16.
    """
    assert value >= 1
    exponent = value.bit_length() - 1
    mantissa = (value << _MANTISSA_BITS) >> exponent
    result = exponent
    for _ in range(LOG_BITS):
        mantissa = (mantissa * mantissa) >> _MANTISSA_BITS
        result <<= 1
        if mantissa >> (_MANTISSA_BITS + 1):
            mantissa >>= 1
            result |= 1
    return result


def _compute_zero_flags(change_scores: Sequence[int], rate_sums: Sequence[int]) -> set[int]:
    return {
        interval
        for interval, (score, rate) in enumerate(zip(change_scores, rate_sums, strict=True))
        if (score == 0) != (rate == 0)
    }


def _compute_trend_flags(change_scores: Sequence[int], rate_sums: Sequence[int]) -> set[int]:
    if len(change_scores) < MIN_INTERVALS:
        return set()
    points = [
        (interval, compute_log2(score) - compute_log2(rate))
        for interval, (score, rate) in enumerate(zip(change_scores, rate_sums, strict=True))
        if interval >= BURN_IN and score > 0 and rate > 0
    ]
    if len(points) < MIN_INTERVALS - BURN_IN:
        return set()
    residuals = _compute_residuals(points)
    scale = max(MIN_MAD, _median([abs(residual) for _, residual in residuals]))
    flags: set[int] = set()
    for interval, residual in residuals:
        if abs(residual) * _CUTOFF_UNIT > CUTOFF * scale:
            flags.add(interval)
            if residual > 0:
                flags.add(interval - 1)
    return flags


def _compute_residuals(points: Sequence[tuple[int, int]]) -> list[tuple[int, int]]:
    logs = [(interval, compute_log2(interval + 1), value) for interval, value in points]
    half = len(logs) // 2
    slope = _median(
        [
            ((late[2] - early[2]) << LOG_BITS) // (late[1] - early[1])
            for early, late in zip(logs, logs[half:], strict=False)
        ]
    )
    rests = [(interval, value - ((slope * x) >> LOG_BITS)) for interval, x, value in logs]
    level = _median([rest for _, rest in rests])
    return [(interval, rest - level) for interval, rest in rests]


def _compute_upper_flags(change_scores: Sequence[int]) -> tuple[int, ...]:
    # n * score - sum > 0 and its square > 4 * n^2 * variance, with n^2 * variance kept integer.
    count, total = len(change_scores), sum(change_scores)
    variance = count * sum(score * score for score in change_scores) - total * total
    return tuple(
        interval
        for interval, score in enumerate(change_scores)
        if count * score > total and (count * score - total) ** 2 > 4 * variance
    )


def _median(values: Sequence[int]) -> int:
    ordered = sorted(values)
    middle = len(ordered) // 2
    if len(ordered) % 2:
        return ordered[middle]
    return (ordered[middle - 1] + ordered[middle]) // 2
