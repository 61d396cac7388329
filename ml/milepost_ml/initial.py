"""Where the tensors of a model start from, as a declaration, and the values that follow from it.

    given       the submitter's own word
    constant    one value everywhere
    uniform     between -bound and bound       } a function of (seed, name of the tensor)
    normal      bell-shaped, deviation `std`   }
    parent      the final model of an earlier submission

Derived values are the same bits on every machine.  Their source is the raw output of Philox
4x64-10; integers are added exactly, and what remains is one float64 product and one rounding to
float32.  IEEE 754 fixes each of these results, no two operations stand together that a compiler
could fuse, and there is no logarithm or root for libraries to disagree about.  Nor can a value be
so small that a processor would flush it to zero.

Numbers i = 0, 1, ... of a tensor, in row-major order, from its words w:

    uniform     m = 2 * (w[i] >> 40) + 1 - 2^24,  an odd number below 2^24 either way;
                value = m * (bound * 2^-24)
    normal      s = the sum of the upper and lower halves of w[6 i] ... w[6 i + 5], less its mean
                6 * (2^32 - 1);  value = s * (std * 2^-32): twelve uniform numbers, whose sum has
                deviation 1, kurtosis 2.9 and no value beyond 6
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Final

import msgspec

from milepost_consensus.crypto import compute_digest
from milepost_ml.digests import NUMPY_CODES
from milepost_ml.errors import InvalidRecord
from milepost_ml.snapshots import TensorSpec

if TYPE_CHECKING:
    import numpy as np

    from milepost_ml.digests import Array

MIN_SCALE: Final = 1e-12
MAX_SCALE: Final = 1e6
"""Of bounds, deviations and constants other than 0: every value then is 0 or a normal float32."""
_WORDS: Final = 6
_MEAN: Final = _WORDS * (2**32 - 1)
_BLOCK: Final = 2**16
"""Values drawn at a time, so that a large tensor needs little more memory than itself."""


class Given(msgspec.Struct, frozen=True, forbid_unknown_fields=True, tag_field="kind", tag="given"):
    """Nobody says where the values come from."""


class Constant(
    msgspec.Struct, frozen=True, forbid_unknown_fields=True, tag_field="kind", tag="constant"
):
    """The same value everywhere."""

    value: float


class Uniform(
    msgspec.Struct, frozen=True, forbid_unknown_fields=True, tag_field="kind", tag="uniform"
):
    """Evenly spread between -bound and bound."""

    bound: float


class Normal(
    msgspec.Struct, frozen=True, forbid_unknown_fields=True, tag_field="kind", tag="normal"
):
    """Bell-shaped around 0 with standard deviation `std`."""

    std: float


class Parent(
    msgspec.Struct, frozen=True, forbid_unknown_fields=True, tag_field="kind", tag="parent"
):
    """The tensor of the same name in the parent's final model."""


Distribution = Constant | Uniform | Normal
"""What is derived from the seed."""
Initial = Given | Constant | Uniform | Normal | Parent


def describe(initial: Initial) -> str:
    """For people."""
    match initial:
        case Constant(value):
            return f"constant {value:g}"
        case Uniform(bound):
            return f"uniform({-bound:g}, {bound:g})"
        case Normal(std):
            return f"normal(0, {std:g})"
        case Given():
            return "given"
        case Parent():
            return "the parent's"


def validate_initial(initial: Initial, spec: TensorSpec) -> None:
    """Raises InvalidRecord (bad-recipe) unless a tensor can start so."""
    match initial:
        case Constant(value):
            _require(spec, value == 0 or _is_scale(abs(value)), describe(initial))
            if spec.dtype in ("BOOL", "F16"):
                _require(spec, value in (0, 1), f"{describe(initial)}: only 0 and 1 are possible")
            elif not spec.dtype.startswith("F"):
                low = 0 if spec.dtype.startswith("U") else -128
                fits = value == int(value) and low <= value <= 127
                _require(spec, fits, f"{describe(initial)}: it holds integers")
        case Uniform(scale) | Normal(scale):
            _require(spec, _is_scale(scale), describe(initial))
            _require(spec, spec.dtype == "F32", f"{describe(initial)}: it is not float32")
        case _:
            pass


def _is_scale(value: float) -> bool:
    return math.isfinite(value) and MIN_SCALE <= value <= MAX_SCALE


def _require(spec: TensorSpec, condition: bool, what: str) -> None:
    if not condition:
        raise InvalidRecord(
            f"the recipe cannot be used: {spec.name} cannot start as {what}", slug="bad-recipe"
        )


def derive_tensor(seed: bytes, spec: TensorSpec, initial: Distribution) -> Array:
    """The initial values of one tensor under a seed of 32 bytes: an array of the spec's type."""
    import numpy as np

    values = np.empty(math.prod(spec.shape), dtype=NUMPY_CODES[spec.dtype])
    if isinstance(initial, Constant):
        values.fill(initial.value)
        return values.reshape(spec.shape)
    digest = compute_digest("initial", seed + spec.name.encode())
    stream = np.random.Philox(key=np.frombuffer(digest[:16], dtype="<u8").astype(np.uint64))
    for start in range(0, values.size, _BLOCK):
        block = values[start : start + _BLOCK]
        block[:] = _draw(stream, initial, block.size)
    return values.reshape(spec.shape)


def _draw(stream: np.random.Philox, initial: Uniform | Normal, count: int) -> Array:
    import numpy as np

    if isinstance(initial, Uniform):
        units = 2 * (stream.random_raw(count) >> np.uint64(40)).astype(np.int64) + (1 - 2**24)
        scale = initial.bound * 2.0**-24
    else:
        words = stream.random_raw(_WORDS * count).reshape(count, _WORDS)
        halves = (words >> np.uint64(32)) + (words & np.uint64(2**32 - 1))
        units = halves.astype(np.int64).sum(axis=1) - _MEAN
        scale = initial.std * 2.0**-32
    # Two separate operations: both factors are exact, the product is rounded, then rounded again.
    return (units.astype(np.float64) * scale).astype(np.float32)


def validate_start(
    seed: bytes,
    specs: Sequence[TensorSpec],
    initials: Sequence[Initial],
    model: Mapping[str, Array],
) -> None:
    """Raises InvalidRecord (wrong-initial-weights) at the first tensor that is not as derived."""
    for spec, initial in zip(specs, initials, strict=True):
        if isinstance(initial, Given | Parent):
            continue
        expected, found = derive_tensor(seed, spec, initial), model[spec.name]
        if expected.tobytes() == found.tobytes():
            continue
        wrong = int((expected != found).sum())
        raise InvalidRecord(
            f"snapshot 0 does not start as the recipe says: {wrong or 'some'} of {found.size}"
            f" values of {spec.name} are not those that the seed gives for {describe(initial)}",
            slug="wrong-initial-weights",
        )
