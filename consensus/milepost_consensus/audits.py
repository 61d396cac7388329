"""What checking a part of a run promises: exact combinatorics in integers, for anybody to call.

An altered interval goes unseen if nobody retraces it, or if all who do are liars.  Every function
is pure; probabilities are parts per million, rounded up where they are a risk and down where they
are a promise, so that what is printed never says more than is true.
"""

from __future__ import annotations

from math import comb
from typing import Final

MILLION: Final = 1_000_000


def compute_miss_ppm(intervals: int, retraced: int, altered: int) -> int:
    """The chance that none of `altered` intervals is among those retraced, rounded up.

    Hypergeometric: C(n - b, r) / C(n, r) for r of n intervals drawn without regard to content.
    """
    if altered > intervals - retraced:
        return 0
    return -(-comb(intervals - altered, retraced) * MILLION // comb(intervals, retraced))
