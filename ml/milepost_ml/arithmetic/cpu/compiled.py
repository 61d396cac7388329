"""Machine code for functions over an array of 64-bit integers, kept on disk from run to run.

Nothing here loads PyTorch: what walks snapshots must start without it.
"""

from __future__ import annotations

import ctypes
import functools
import hashlib
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final, NamedTuple

from numba import cfunc, types

_SIGNATURE: Final = types.void(types.CPointer(types.int64))


class Compiled(NamedTuple):
    """A function as machine code."""

    address: int
    call: Callable[[int], None]
    """Runs it on the integers at an address; other Python threads go on meanwhile."""
    owner: object
    """Keeps the machine code alive."""


@functools.cache
def _compute_source_digest() -> str:
    """Of all modules that kernels are made from: Numba itself looks at one file only."""
    digest = hashlib.sha256()
    for path in sorted(Path(__file__).parent.glob("*.py")):
        digest.update(path.read_bytes())
    return digest.hexdigest()[:16]


def name_by_source(function: Callable[[Any], None]) -> Callable[[Any], None]:
    """Put the sources' digest into the name under which Numba keeps the function's code."""
    function.__qualname__ += f".{_compute_source_digest()}"
    return function


def compile_function(function: Callable[[Any], None]) -> Compiled:
    """Compile for the processor at hand, or take what was compiled for it before."""
    options = {"nopython": True, "error_model": "numpy"}
    try:
        compiled = cfunc(_SIGNATURE, cache=True, **options)(function)
    except RuntimeError:  # no folder that can be written for the compiled code
        compiled = cfunc(_SIGNATURE, **options)(function)
    call = ctypes.CFUNCTYPE(None, ctypes.c_void_p)(compiled.address)
    return Compiled(compiled.address, call, compiled)
