"""Learning rates that are known before the first step."""

from __future__ import annotations

import pytest

from milepost_ml.errors import RecordingError
from milepost_ml.rates import (
    compress_rates,
    validate_foreseen,
    validate_rates,
    validate_recorded,
)


def test_rates_are_compressed_by_group() -> None:
    rates = [(1.0, 2.0), (1.0, 3.0), (1.0, 3.0)]
    assert compress_rates(rates) == [((3, 1.0),), ((1, 2.0), (2, 3.0))]


@pytest.mark.parametrize(
    "rates",
    [[(0.1,)], [(0.1,), (0.1, 0.2)], [(0.1,), (-0.1,)], [(0.1,), (float("nan"),)]],
    ids=["too-few", "too-many-groups", "negative", "no-number"],
)
def test_what_is_no_plan_is_refused(rates: list[tuple[float, ...]]) -> None:
    validate_foreseen([(0.1,), (0.0,)], steps=2, groups=1)
    with pytest.raises(RecordingError, match=rf"{len(rates)} learning rates for 2 steps") as caught:
        validate_foreseen(rates, steps=2, groups=1)
    assert caught.value.slug == "bad-plan"


def test_other_rates_than_planned_are_told_with_their_step() -> None:
    validate_rates(3, [0.5], (0.5,))
    validate_recorded(3, [0.5], (0.5,))
    with pytest.raises(RecordingError, match=r"step 3 used .* 0\.1, registered was 0\.2") as used:
        validate_rates(3, (0.1,), (0.2,))
    with pytest.raises(RecordingError, match=r"step 3 .* 0\.1, recorded was 0\.2") as scheduled:
        validate_recorded(3, (0.1,), (0.2,))
    slugs = (used.value.slug, scheduled.value.slug)
    assert slugs == ("not-registered-recipe", "cannot-resume")
