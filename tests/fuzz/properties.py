"""How properties of hostile input are run: few fixed examples, or many random ones."""

from __future__ import annotations

import tracemalloc
from collections.abc import Callable
from typing import TypeVar

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from milepost_consensus.errors import InvalidInput
from milepost_consensus.problems import PROBLEMS
from milepost_ml.errors import MilepostMLError

AMPLIFICATION = 48
"""Bytes of memory that decoding may take for each byte of input: the smallest structs of a list
take five bytes as input and a hundred and some in memory."""
SPARE_BYTES = 1024 * 1024

T = TypeVar("T")
THOROUGH = [
    pytest.param(1, id="fast"),
    pytest.param(5, id="thorough", marks=pytest.mark.slow),
]
"""By how much to multiply the number of examples."""


def run_property(
    check: Callable[[T], None], inputs: st.SearchStrategy[T], *, examples: int, times: int = 1
) -> None:
    """Try `examples` fixed inputs, or `times` as many random ones."""
    settings(
        max_examples=examples * times,
        derandomize=times == 1,
        deadline=None,
        database=None,
        print_blob=True,
        suppress_health_check=list(HealthCheck),
    )(given(inputs)(check))()


def refuse_or_return(read: Callable[[bytes], T], data: bytes) -> T | None:
    """What `read` makes of the bytes; None if it refuses them as it should."""
    try:
        return read(data)
    except (InvalidInput, MilepostMLError) as error:
        refusal = error
    assert_explained(refusal, refusal.slug)
    return None


def assert_explained(refusal: Exception, slug: str) -> None:
    """A refusal has a long text, and its own can be written to a log and into an answer."""
    assert slug in PROBLEMS
    assert len(str(refusal)) < 2_000, "an error repeats a whole input"
    str(refusal).encode()


def measure_peak(read: Callable[[bytes], object], data: bytes) -> int:
    """Bytes that were held at once while reading, the input itself not counted."""
    tracemalloc.start()
    try:
        refuse_or_return(read, data)
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


def assert_bounded(read: Callable[[bytes], object], data: bytes) -> None:
    """Reading takes memory in proportion to the input, however it is refused."""
    peak = measure_peak(read, data)
    assert peak <= AMPLIFICATION * len(data) + SPARE_BYTES, (peak, len(data))
