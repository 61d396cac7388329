"""Pages of mapped files: asked for before they are read, given back once they are done with.

A process counts every page of a file that it has looked at through a map as its own memory until it
gives the page back.  Whoever walks a large map in windows keeps only the window.  For arrays that
lie in memory of their own, all of this does nothing.
"""

from __future__ import annotations

import mmap
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

_POPULATE_READ: Final = 22
"""Linux's MADV_POPULATE_READ, which Python does not name: map all pages in one call."""
_AROUND_BYTES: Final = 2 * 1024 * 1024
"""A system maps neighbours of the page that was asked for, up to what one large page holds."""
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
        _advise(array, _POPULATE_READ, around_bytes=0)
    try:
        yield
    finally:
        _release(arrays, around_bytes=0)


def release_around(*arrays: NDArray[Any]) -> None:
    """Give back what reading these views piece by piece may have mapped on both sides of them.

    Another thread may have been done there, and nobody else would give it back.
    """
    _release(arrays, around_bytes=_AROUND_BYTES)


def _release(arrays: Iterable[NDArray[Any]], *, around_bytes: int) -> None:
    if _RELEASE is not None:
        for array in arrays:
            _advise(array, _RELEASE, around_bytes=around_bytes)


def _find_map(array: NDArray[Any]) -> mmap.mmap | None:
    base: object = array
    while isinstance(base, np.ndarray):
        base = base.base
    if isinstance(base, memoryview):
        base = base.obj
    # What was written into a private map would be lost with its pages.
    return base if isinstance(base, mmap.mmap) and memoryview(base).readonly else None


def _advise(array: NDArray[Any], advice: int, *, around_bytes: int) -> None:
    owner = _find_map(array)
    if owner is None or not array.size:
        return
    start = array.ctypes.data - np.frombuffer(owner, np.uint8).ctypes.data
    first = max(0, start - around_bytes)
    first -= first % mmap.PAGESIZE
    stop = min(len(owner), start + array.nbytes + around_bytes)
    # It is advice: an older system reads page by page, and gives back when memory gets short.
    with suppress(OSError, AttributeError):
        owner.madvise(advice, first, stop - first)
