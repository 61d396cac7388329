"""Pages of mapped files: asked for before they are read, given back once they are done with.

A process counts every page of a file that it has looked at through a map as its own memory until it
gives the page back.  Whoever walks a large map in windows keeps only the window.  For arrays that
lie in memory of their own, all of this does nothing.
"""

from __future__ import annotations

import mmap
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

_POPULATE_READ: Final = 22
"""Linux's MADV_POPULATE_READ, which Python does not name: map all pages in one call."""
_RELEASE: Final[int | None] = getattr(mmap, "MADV_DONTNEED", None)


def is_mapped(array: NDArray[Any]) -> bool:
    """Whether the array is a view of a file that is mapped for reading only."""
    return _find_map(array) is not None


@contextmanager
def paged(*arrays: NDArray[Any]) -> Iterator[None]:
    """Read contiguous views inside: their pages come at once, and are given back at the end.

    They can be read again later, at the price of reading.
    """
    for array in arrays:
        _advise(array, _POPULATE_READ)
    try:
        yield
    finally:
        if _RELEASE is not None:
            for array in arrays:
                _advise(array, _RELEASE)


def _find_map(array: NDArray[Any]) -> mmap.mmap | None:
    base: object = array
    while isinstance(base, np.ndarray):
        base = base.base
    if isinstance(base, memoryview):
        base = base.obj
    # What was written into a private map would be lost with its pages.
    return base if isinstance(base, mmap.mmap) and memoryview(base).readonly else None


def _advise(array: NDArray[Any], advice: int) -> None:
    owner = _find_map(array)
    if owner is None or not array.size:
        return
    start = array.ctypes.data - np.frombuffer(owner, np.uint8).ctypes.data
    first = start - start % mmap.PAGESIZE
    # It is advice: an older system reads page by page, and gives back when memory gets short.
    with suppress(OSError, AttributeError):
        owner.madvise(advice, first, start + array.nbytes - first)
