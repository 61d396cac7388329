"""Confidence intervals of shares."""

from __future__ import annotations

import math
from typing import Final

_Z95: Final = 1.959964


def compute_wilson(hits: int, trials: int) -> tuple[float, float]:
    """The 95 % interval of a share by Wilson's score."""
    share, z2 = hits / trials, _Z95**2
    middle = (share + z2 / (2 * trials)) / (1 + z2 / trials)
    reach = (
        _Z95
        / (1 + z2 / trials)
        * math.sqrt(share * (1 - share) / trials + z2 / (4 * trials * trials))
    )
    return max(0.0, middle - reach), min(1.0, middle + reach)
