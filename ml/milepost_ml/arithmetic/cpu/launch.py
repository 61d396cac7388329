"""Compiles kernels and runs them on the threads that PyTorch already keeps.

A kernel is one function over an array of 64-bit integers: `a[0]` counts the pieces of work handed
out, `a[1:]` are addresses, sizes and float bits as its caller packed them.  It asks `take_chunk(a)`
for the number of its next piece until there is none left.  Which thread does which piece cannot
change a bit, because a piece holds whole results, never parts of a sum.

Threads come from PyTorch's own OpenMP pool, so that two pools never fight for the same cores.
"""

from __future__ import annotations

import ctypes
import functools
import math
import struct
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final, Protocol

import torch

from milepost_ml.arithmetic.cpu.compiled import Compiled, compile_function, name_by_source

MAX_ARGUMENTS: Final = 48
"""Integers that a kernel may be given."""

_FLOAT: Final = struct.Struct("<f")
_INT: Final = struct.Struct("<i")


class _Pool(Protocol):
    def __call__(self, function: int, data: int, threads: int, flags: int) -> None: ...


@functools.cache
def _find_pool() -> _Pool | None:
    """GOMP_parallel of the OpenMP library that PyTorch has loaded; None if it uses another one."""
    root = Path(torch.__file__).parent
    for folder in (root / "lib", root.parent / "torch.libs"):
        for path in sorted(folder.glob("libgomp*.so*")):
            try:
                start = ctypes.CDLL(str(path)).GOMP_parallel
            except (OSError, AttributeError):
                continue
            start.argtypes = [ctypes.c_void_p, ctypes.c_void_p, ctypes.c_uint, ctypes.c_uint]
            start.restype = None
            return start
    return None


class Kernel:
    """A compiled kernel.  Compiled for the processor at hand when it is first called."""

    def __init__(self, function: Callable[[Any], None]) -> None:
        self._function = function
        self._compiled: Compiled | None = None
        self._local = threading.local()
        functools.update_wrapper(self, function)
        name_by_source(function)

    def __call__(self, pieces: int, *arguments: int) -> None:
        """Run with these arguments, which follow the counter; `pieces` bounds useful threads."""
        if self._compiled is None:
            self._compiled = compile_function(self._function)
        try:
            buffer, address = self._local.buffer
        except AttributeError:
            buffer = (ctypes.c_int64 * MAX_ARGUMENTS)()
            address = ctypes.addressof(buffer)
            self._local.buffer = buffer, address
        buffer[0] = 0
        buffer[1 : 1 + len(arguments)] = arguments
        threads = min(pieces, torch.get_num_threads())
        pool = _find_pool() if threads > 1 else None
        if pool is None:
            self._compiled.call(address)
        else:
            pool(self._compiled.address, address, threads, 0)


_LOCAL = threading.local()


def get_scratch(numbers: int) -> int:
    """The address of memory for `numbers` float32 until this thread's next call."""
    scratch: torch.Tensor | None = getattr(_LOCAL, "scratch", None)
    if scratch is None or scratch.numel() < numbers:
        scratch = _LOCAL.scratch = torch.empty(numbers)
    return scratch.data_ptr()


def kernel(function: Callable[[Any], None]) -> Kernel:
    """Decorator: make a function over packed integers a kernel."""
    return Kernel(function)


def pack_float(value: float) -> int:
    """A float32's bits as a kernel argument; `lanes.unpack_float` reads it."""
    try:
        (bits,) = _INT.unpack(_FLOAT.pack(value))
    except OverflowError:  # beyond the largest float32: infinity, as E4 rounds it
        return pack_float(math.copysign(math.inf, value))
    return int(bits)


def pack_double(value: float) -> int:
    """A float64's bits as a kernel argument; `lanes.unpack_double` reads it."""
    (bits,) = struct.unpack("<q", struct.pack("<d", value))
    return int(bits)
