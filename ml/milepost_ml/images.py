"""Tensors laid out as their content digest reads them, so that one call hashes them all.

A recorder hashes the complete state after every step.  Hashing tensor by tensor would cost a few
Python calls for each; an image keeps headers and values in one buffer whose headers never change,
so a step copies values into place and hashes the buffer as a whole (also from another thread).
"""

from __future__ import annotations

import ctypes
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Final

import numpy as np
from blake3 import blake3

from milepost_ml.digests import NUMPY_CODES, encode_content_start, encode_tensor_header
from milepost_ml.snapshots import TensorSpec

if TYPE_CHECKING:
    from milepost_ml.digests import Array

SMALL_BYTES: Final = 64 * 1024
"""Up to this size, calling a function on a tensor costs more than reading it."""


def unify_nans(array: Array) -> Array:
    """The array, or a copy in which all NaNs are one value if there are any."""
    if array.dtype.kind != "f" or not array.size or not np.isnan(array.min()):
        return array
    return np.where(np.isnan(array), array.dtype.type(np.nan), array)


def _is_small(values: Array) -> bool:
    return values.dtype == np.float32 and values.nbytes <= SMALL_BYTES


def _holds_nan(values: Array) -> bool:
    return bool(np.isnan(np.minimum.reduce(values)))


class ContentImage:
    """The byte stream of one content digest over tensors of fixed names, dtypes and shapes."""

    def __init__(self, specs: Sequence[TensorSpec]) -> None:
        ordered = sorted(specs, key=lambda spec: spec.name)
        self.names = tuple(spec.name for spec in ordered)
        buffer = bytearray(encode_content_start(len(ordered)))
        places = []
        for spec in ordered:
            buffer += encode_tensor_header(spec.name, spec.dtype, spec.shape)
            places.append(slice(len(buffer), len(buffer) + spec.size_bytes))
            buffer += bytes(spec.size_bytes)
        self._buffer = memoryview(buffer)
        self._places = places
        # The buffer never grows, so its address stays.
        start = ctypes.addressof(ctypes.c_char.from_buffer(buffer))
        self._targets = [(start + place.start, place.stop - place.start) for place in places]
        self._specs = ordered
        self.values = tuple(self._buffer[place] for place in places)
        """The raw values of every tensor, in the order of `names`."""
        floats = [
            array.reshape(-1)
            for array in self.get_arrays().values()
            if array.dtype.kind == "f" and array.size
        ]
        self._large = [values for values in floats if not _is_small(values)]
        self._small = [values for values in floats if _is_small(values)]
        self._gathered = np.empty(sum(values.size for values in self._small), np.float32)

    @property
    def size_bytes(self) -> int:
        return len(self._buffer)

    def fill(self, addresses: Iterable[int]) -> None:
        """Copy in the values of every tensor, in the order of `names`.

        `addresses` are where tensors in C order of exactly the specified sizes begin; whoever calls
        has checked that (`watch.get_address`).  Copying by address takes half a microsecond a
        tensor; a numpy view of it would take ten times that, at every step.
        """
        for (target, size), source in zip(self._targets, addresses, strict=True):
            ctypes.memmove(target, source, size)

    def unify_nans(self) -> None:
        """Make all NaNs in it one value; costs a reading of the image where there is none."""
        suspects = [values for values in self._large if _holds_nan(values)]
        if self._small:
            # One look at all of them: for each alone, the calls would cost more than the reading.
            np.concatenate(self._small, out=self._gathered)
            suspects += self._small if _holds_nan(self._gathered) else []
        for values in suspects:
            values[np.isnan(values)] = np.nan

    def compute_digest(self) -> bytes:
        """The content digest of what was last filled in."""
        return blake3(self._buffer).digest()

    def get_arrays(self) -> dict[str, Array]:
        """The tensors as views of the image, valid until it is filled again."""
        return {
            spec.name: np.frombuffer(self._buffer[place], dtype=NUMPY_CODES[spec.dtype]).reshape(
                spec.shape
            )
            for spec, place in zip(self._specs, self._places, strict=True)
        }
