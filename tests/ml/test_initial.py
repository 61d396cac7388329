"""Derived initial weights: the same bits as an independent computation, and the right shape."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from milepost_ml.errors import InvalidRecord
from milepost_ml.initial import (
    MAX_SCALE,
    MIN_SCALE,
    Constant,
    Distribution,
    Given,
    Normal,
    Parent,
    Uniform,
    derive_tensor,
    describe,
    validate_initial,
    validate_start,
)
from milepost_ml.snapshots import TensorSpec
from tests.support.philox import draw_initial

VECTORS = json.loads((Path(__file__).parent.parent / "vectors" / "initial.json").read_text())
SEED = bytes(range(32))

scales = st.floats(MIN_SCALE, MAX_SCALE)


def make_spec(count: int, name: str = "w", dtype: str = "F32") -> TensorSpec:
    return TensorSpec(name, dtype, (count,))


@settings(deadline=None, max_examples=40)
@given(
    st.binary(min_size=32, max_size=32),
    st.from_regex(r"[a-z][a-z0-9.]{0,30}", fullmatch=True),
    st.sampled_from(("uniform", "normal")),
    scales,
    st.integers(1, 40),
)
def test_the_bits_are_those_of_plain_integers(
    seed: bytes, name: str, kind: str, scale: float, count: int
) -> None:
    initial: Distribution = Uniform(scale) if kind == "uniform" else Normal(scale)
    values = derive_tensor(seed, make_spec(count, name), initial)
    assert values.tobytes() == draw_initial(seed, name, kind, scale, count)


@pytest.mark.parametrize("case", VECTORS["tensors"], ids=lambda case: case["name"])
def test_vectors(case: dict[str, object]) -> None:
    kinds: dict[str, Callable[[float], Distribution]] = {
        "uniform": Uniform,
        "normal": Normal,
        "constant": Constant,
    }
    initial = kinds[str(case["kind"])]
    assert isinstance(case["shape"], list)
    spec = TensorSpec(str(case["name"]), str(case["dtype"]), tuple(case["shape"]))
    seed = bytes.fromhex(VECTORS["seed"])
    assert isinstance(case["scale"], float)
    assert derive_tensor(seed, spec, initial(case["scale"])).tobytes().hex() == case["values"]


@given(scales)
def test_no_value_is_so_small_that_a_processor_could_flush_it(scale: float) -> None:
    for initial in (Uniform(scale), Normal(scale)):
        values = np.abs(derive_tensor(SEED, make_spec(500), initial))
        assert np.all((values == 0) | (values >= np.finfo(np.float32).tiny))


def test_a_large_tensor_is_drawn_in_blocks_without_a_seam() -> None:
    for initial in (Uniform(0.25), Normal(0.02)):
        large = derive_tensor(SEED, make_spec(200_000), initial)
        assert large[:70_000].tobytes() == derive_tensor(SEED, make_spec(70_000), initial).tobytes()


def test_uniform_fills_its_range() -> None:
    values = derive_tensor(SEED, make_spec(200_000), Uniform(0.5)).astype(np.float64)
    assert -0.5 < values.min() < -0.4999
    assert 0.4999 < values.max() < 0.5
    assert abs(values.mean()) < 0.002
    assert abs(values.std() - 1 / math.sqrt(12)) < 0.001


def test_normal_has_its_deviation_and_the_kurtosis_that_twelve_numbers_give() -> None:
    values = derive_tensor(SEED, make_spec(400_000), Normal(2.0)).astype(np.float64) / 2
    assert abs(values.mean()) < 0.006
    assert abs(values.std() - 1) < 0.004
    assert abs((values**4).mean() / values.var() ** 2 - 2.9) < 0.04
    assert np.abs(values).max() < 6


def test_tensors_and_seeds_do_not_share_values() -> None:
    one = derive_tensor(SEED, make_spec(50, "a"), Uniform(1.0))
    assert not np.intersect1d(one, derive_tensor(SEED, make_spec(50, "b"), Uniform(1.0))).size
    other = bytes(32)
    assert not np.intersect1d(one, derive_tensor(other, make_spec(50, "a"), Uniform(1.0))).size


@pytest.mark.parametrize(
    ("initial", "dtype"),
    [
        (Uniform(0.0), "F32"),
        (Uniform(-1.0), "F32"),
        (Normal(math.inf), "F32"),
        (Normal(MIN_SCALE / 2), "F32"),
        (Constant(math.nan), "F32"),
        (Constant(2 * MAX_SCALE), "F32"),
        (Constant(1e-30), "F32"),
        (Normal(1.0), "F64"),
        (Uniform(1.0), "I64"),
        (Constant(0.5), "I64"),
        (Constant(-1.0), "U8"),
        (Constant(300.0), "I8"),
        (Constant(2.0), "BOOL"),
        (Constant(7.0), "F16"),
    ],
)
def test_what_no_tensor_can_start_from_is_refused(initial: Distribution, dtype: str) -> None:
    with pytest.raises(InvalidRecord, match="cannot start as") as caught:
        validate_initial(initial, make_spec(2, dtype=dtype))
    assert caught.value.slug == "bad-recipe"


@pytest.mark.parametrize("dtype", ["BOOL", "U8", "I64", "F16", "F32", "F64"])
def test_constants_of_every_type(dtype: str) -> None:
    spec = make_spec(3, dtype=dtype)
    validate_initial(Constant(1.0), spec)
    assert derive_tensor(SEED, spec, Constant(1.0)).tolist() == [1, 1, 1]


def test_one_bit_off_is_named() -> None:
    spec = TensorSpec("body.weight", "F32", (2, 3))
    values = derive_tensor(SEED, spec, Uniform(0.5))
    validate_start(SEED, [spec], [Uniform(0.5)], {"body.weight": values})
    changed = values.copy()
    changed.reshape(-1).view(np.uint32)[4] ^= 1
    with pytest.raises(InvalidRecord, match=r"1 of 6 values of body\.weight") as caught:
        validate_start(SEED, [spec], [Uniform(0.5)], {"body.weight": changed})
    assert caught.value.slug == "wrong-initial-weights"


def test_minus_zero_is_not_zero() -> None:
    spec = make_spec(1)
    with pytest.raises(InvalidRecord, match="some of 1 values"):
        validate_start(SEED, [spec], [Constant(0.0)], {"w": np.array([-0.0], dtype=np.float32)})


@pytest.mark.parametrize("initial", [Given(), Parent()])
def test_what_is_not_derived_is_not_compared(initial: Given | Parent) -> None:
    validate_start(SEED, [make_spec(1)], [initial], {"w": np.array([5], dtype=np.float32)})


def test_declarations_in_words() -> None:
    assert describe(Uniform(0.5)) == "uniform(-0.5, 0.5)"
    assert describe(Normal(0.02)) == "normal(0, 0.02)"
    assert describe(Constant(1.0)) == "constant 1"
