"""The cases of tests/vectors/exact/operators.json: sums to functions [E5-E20].

`layer_cases` holds the others.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from tests.reference.generator import make_integers, make_values, make_words
from tests.reference.vectors import Case

Array = npt.NDArray[Any]

SPECIALS: Final = np.array(
    [
        *(0x00000000, 0x80000000, 0x00000001, 0x80000001, 0x007FFFFF, 0x807FFFFF),  # subnormal
        *(0x00800000, 0x80800000, 0x7F7FFFFF, 0xFF7FFFFF, 0x7F800000, 0xFF800000),  # extreme
        *(0x7FC00000, 0xFFC00001, 0x7F800001),  # NaN and other ways to write it
        *(0x3F800000, 0xBF800000, 0x3F7FFFFF, 0x3F800001, 0x40000000, 0xC0400000),  # about one
    ],
    "<u4",
).view("<f4")
EDGES: Final = np.array(
    [
        *(88.72283, 88.72284, 88.9, 89.0, 89.00001, -87.33655, -103.97208, -103.9721, -104.0),
        *(-104.00001, 0.34657359, 0.3465736, 0.70710677, 0.70710684, 1.4142135, 1.4142137),
        *(2.0**-12, -(2.0**-12), 2.0**-12 - 2.0**-36, 2.0**-13, 5.75, -5.75, 5.749999, 3.9192059),
        *(350.0, -350.0, 700.0, -701.0, 8.131728, -5.5, 1e-30, -1e-20, 4.5, 9.011, 0.5),
    ],
    np.float32,
)
"""Where a function's formula or its rounding changes."""

Reduction = tuple[tuple[int, ...], list[int]]
SUMS: Final[tuple[Reduction, ...]] = (
    *(((3, 18), [1]), ((18, 3), [0]), ((35, 19), [0, 1]), ((2, 0, 3), [1]), ((0, 4), [1])),
    *(((5, 3, 4, 5), [0, 2, 3]), ((5, 3, 4, 5), [1, 2]), ((3, 17, 2), [0, 2])),
    *(((2, 3, 4, 5), [0, 1, 2, 3]), ((4, 1, 20), [0, 2]), ((20, 2, 3), [0])),
    *(((2, 3, 2, 3, 4), [0, 2, 4]), ((17, 2, 33), [0, 2]), ((2, 2, 19, 3), [2])),
)
MEANS: Final[tuple[Reduction, ...]] = ((3, 7, 5), [1, 2]), ((3, 7, 5), [0]), ((33,), [0])


def make_rough(label: str, shape: Sequence[int], spread: int = 8) -> Array:
    """Numbers of very different sizes: every other order of adding them shows."""
    steps = make_integers(f"{label}/exponent", shape, 2 * spread + 1) - spread
    return np.asarray(np.ldexp(make_values(label, shape), steps), np.float32)


def make_bits(label: str, count: int) -> Array:
    """Numbers of any bits."""
    return make_words(label, count).view("<f4").astype(np.float32)


def make_samples(label: str) -> Array:
    """Numbers where functions are interesting."""
    wide, rough = make_values(f"{label}/wide", (60,), 4), make_rough(label, (40,), 20)
    return np.concatenate([SPECIALS, EDGES, wide, rough, make_bits(f"{label}/bits", 24)])


def make_pairs(values: Array) -> tuple[Array, Array]:
    """Every value with every other."""
    a, b = np.meshgrid(values, values)
    return a.reshape(-1).copy(), b.reshape(-1).copy()


def _make_sums() -> Iterator[Case]:
    for n in (0, 1, 7, 8, 15, 16, 17, 31, 32, 33, 100, 259):
        yield Case("E6", "sum", f"{n} numbers", {"x": make_rough(f"sum/{n}", (n,)), "dims": [0]})
    for shape, dims in SUMS:
        name = f"{'x'.join(map(str, shape))} over {dims}"
        yield Case("E7", "sum", name, {"x": make_rough(name, shape), "dims": dims})
    for name, values in (
        ("the worked example", [1, *[2.0**-24] * 17]),
        ("negative zero becomes zero", [-0.0]),
        ("infinities of both signs", [np.inf, 1, -np.inf]),
        ("infinity", [1, np.inf]),
        ("not a number", [1] * 20 + [np.nan]),
        ("subnormal", [1e-45, 1e-45, -1e-44, 3e-39, -2.9e-39]),
        ("overflow on the way", [3e38, *[0] * 7, 3e38, -3e38, *[0] * 14, -3e38]),
    ):
        yield Case("E6", "sum", name, {"x": np.array(values, np.float32), "dims": [0]})
    for shape, dims in MEANS:
        name = f"{'x'.join(map(str, shape))} over {dims}"
        yield Case("E8", "mean", name, {"x": make_rough(f"mean/{name}", shape), "dims": dims})
    integers = np.array([0, -1, 2**24 + 1, 2**24 + 3, -(2**24) - 1, 2**53 + 1, 2**62], np.int64)
    yield Case("E5", "float32", "rounding of integers", {"integers": integers})


def _make_products() -> Iterator[Case]:
    for sizes in (
        *((1, 1, 1), (0, 3, 2), (2, 0, 3), (2, 3, 0), (5, 17, 33), (16, 16, 16), (9, 40, 10)),
        *((33, 5, 18), (1, 100, 1), (7, 31, 15), (3, 4, 3, 9), (5, 2, 17, 8)),
    ):
        *batch, m, k, n = sizes
        name = " x ".join(map(str, sizes))
        a, b = make_rough(f"a/{name}", (*batch, m, k)), make_rough(f"b/{name}", (*batch, k, n))
        yield Case("E10", "matmul", name, {"a": a, "b": b, "bias": None})
        if not batch and m * n < 1000:
            bias = make_rough(f"bias/{name}", (n,))
            yield Case("E10", "matmul", f"{name}, bias", {"a": a, "b": b, "bias": bias})
    a, b = make_pairs(SPECIALS)
    for name, left, right in (
        ("products of special numbers", a.reshape(-1, 1), np.ones((1, 1), np.float32)),
        ("pairs of special numbers", np.stack([a, b], 1), SPECIALS[[15, 19]].reshape(2, 1)),
        (
            "a fused product differs",
            np.array([[-1, 1 + 2.0**-12]], np.float32),
            np.array([[1 + 2.0**-11], [1 + 2.0**-12]], np.float32),
        ),
    ):
        yield Case("E9", "matmul", name, {"a": left, "b": right, "bias": None})
    square = {name: make_rough(f"addmm/{name}", (9, 9)) for name in ("bias", "a", "b")}
    for beta, alpha in ((1.0, 0.3), (0.7, 1.0), (0.0, 1.0), (0.0, 0.1), (0.7, -1.1)):
        factors = {"beta": beta, "alpha": alpha}
        yield Case("E10", "addmm", f"beta {beta}, alpha {alpha}", square | factors)


def _make_convolutions() -> Iterator[Case]:
    for name, x, w, stride, padding, dilation, groups in (
        ("3x3", (3, 2, 6, 7), (5, 2, 3, 3), (1, 1), (0, 0), (1, 1), 1),
        ("3x3 padded, 17 images", (17, 1, 4, 4), (2, 1, 3, 3), (1, 1), (1, 1), (1, 1), 1),
        ("33 images", (33, 2, 3, 3), (3, 2, 2, 2), (1, 1), (0, 0), (1, 1), 1),
        ("5x5 padded by 2", (1, 1, 9, 9), (6, 1, 5, 5), (1, 1), (2, 2), (1, 1), 1),
        ("stride 2", (1, 3, 8, 8), (4, 3, 3, 3), (2, 2), (1, 1), (1, 1), 1),
        ("1x1, stride 2", (1, 4, 7, 7), (8, 4, 1, 1), (2, 2), (0, 0), (1, 1), 1),
        ("uneven", (1, 2, 9, 8), (3, 2, 2, 3), (3, 2), (1, 2), (2, 1), 1),
        ("dilation 3 beyond the stride", (1, 2, 9, 9), (2, 2, 3, 3), (2, 2), (2, 2), (3, 3), 1),
        ("padding wider than the kernel", (1, 1, 3, 3), (1, 1, 2, 2), (1, 1), (3, 3), (1, 1), 1),
        ("two groups", (3, 4, 5, 5), (6, 2, 3, 3), (1, 1), (1, 1), (1, 1), 2),
        ("a group for every channel", (2, 5, 6, 6), (5, 1, 3, 3), (2, 2), (1, 1), (1, 1), 5),
        ("one dimension", (3, 3, 1, 20), (4, 3, 1, 5), (1, 2), (0, 2), (1, 1), 1),
        ("17 channels", (1, 17, 3, 3), (3, 17, 2, 2), (1, 1), (1, 1), (1, 1), 1),
    ):
        shape = {"stride": stride, "padding": padding, "dilation": dilation, "groups": groups}
        values, weight = make_rough(f"x/{name}", x), make_rough(f"w/{name}", w)
        bias = make_rough(f"b/{name}", w[:1])
        size = [
            (x[2 + i] + 2 * padding[i] - dilation[i] * (w[2 + i] - 1) - 1) // stride[i] + 1
            for i in (0, 1)
        ]
        gradient = make_rough(f"g/{name}", (x[0], w[0], *size))
        arguments = {"x": values, "weight": weight, "bias": bias, "shape": shape}
        yield Case("E11", "convolution", name, arguments)
        arguments = {"gradient": gradient, "weight": weight, "size": x, "shape": shape}
        yield Case("E12", "convolution_input", name, arguments)
        arguments = {"gradient": gradient, "x": values, "size": w, "shape": shape}
        yield Case("E13", "convolution_weight", name, arguments)
    shape = {"stride": (1, 1), "padding": (1, 1), "dilation": (1, 1), "groups": 1}
    image, weight = make_values("special/x", (1, 1, 4, 4)), make_values("special/w", (1, 1, 3, 3))
    image[0, 0, 0, 0], weight[0, 0, 1, 2] = np.nan, np.inf
    arguments = {"x": image, "weight": weight, "bias": None, "shape": shape}
    yield Case("E11", "convolution", "infinity times the padding", arguments)
    arguments = {"gradient": image, "weight": weight, "size": image.shape, "shape": shape}
    yield Case("E12", "convolution_input", "infinity times the padding", arguments)
    gradient = weight[:, :, :2, 1:]
    arguments = {"gradient": gradient, "x": image, "size": (1, 1, 5, 5), "shape": shape}
    yield Case("E13", "convolution_weight", "infinity times the padding", arguments)


def _make_elementwise() -> Iterator[Case]:
    a, b = make_pairs(SPECIALS)
    x, y = make_rough("elementwise/x", (7, 9), 30), make_rough("elementwise/y", (7, 9), 30)
    z = make_rough("elementwise/z", (7, 9), 30)
    samples, gradient = make_samples("elementwise"), make_rough("elementwise/g", (180,))
    for name in ("add", "sub", "mul", "div"):
        yield Case("E14", name, "special numbers", {"a": a, "b": b})
        yield Case("E14", name, "numbers", {"a": x, "b": y})
    for name in ("abs", "neg", "sqrt", "reciprocal", "rsqrt", "sign", "round"):
        yield Case("E14", name, "samples", {"x": samples})
    for exponent in (2, 3, 0.5, -1, 0, 1, 7, -3, -0.5):
        yield Case("E14", "pow", f"{exponent}", {"x": samples, "exponent": exponent})
    for number in (3.0, 0.1, 49):
        yield Case("E14", "div_number", f"{number}", {"x": samples, "number": number})
    for alpha in (0.3, -2.0):
        pairs = {"a": a, "b": b, "alpha": alpha}
        yield Case("E14", "add_scaled", f"alpha {alpha}, special numbers", pairs)
        yield Case("E14", "add_scaled", f"alpha {alpha}", {"a": x, "b": y, "alpha": alpha})
        yield Case("E14", "sub_scaled", f"alpha {alpha}", {"a": a, "b": b, "alpha": alpha})
    row = {"a": x, "b": y[:1], "alpha": 0.1}
    yield Case("E14", "add_scaled", "a row for all rows", row)
    for value in (1.0, -0.7):
        triple = {"a": x, "b": y, "c": z, "value": value}
        yield Case("E14", "addcmul", f"value {value}", triple)
        yield Case("E14", "addcdiv", f"value {value}", triple)
        special = {"a": SPECIALS[7], "b": a, "c": b, "value": value}
        special["a"] = np.asarray(SPECIALS[7])
        yield Case("E14", "addcmul", f"value {value}, special numbers", special)
        yield Case("E14", "addcdiv", f"value {value}, special numbers", special)
    for weight in (0.25, 0.9):
        yield Case("E14", "lerp", f"weight {weight}", {"start": x, "end": y, "weight": weight})
        yield Case(
            "E14", "lerp", f"weight {weight}, special", {"start": a, "end": b, "weight": weight}
        )
    for name in ("maximum", "minimum"):
        yield Case("E15", name, "special numbers", {"a": a, "b": b})
    for low, high in ((-1.0, 1.0), (0.0, 6.0), (-0.0, 0.1)):
        limits = {"x": samples, "low": low, "high": high}
        yield Case("E15", "clamp", f"{low} to {high}", limits)
        yield Case("E15", "hardtanh_backward", f"{low} to {high}", {"gradient": gradient, **limits})
    yield Case("E15", "relu", "samples", {"x": samples})
    for threshold in (0.0, 0.5):
        arguments = {"gradient": gradient, "x": samples, "threshold": threshold}
        yield Case("E15", "threshold_backward", f"{threshold}", arguments)
    for slope in (0.01, -0.2):
        sloped = {"x": samples, "slope": slope}
        yield Case("E15", "leaky_relu", f"slope {slope}", sloped)
        yield Case("E15", "leaky_relu_backward", f"slope {slope}", {"gradient": gradient, **sloped})
    for name, values, dims in (
        ("numbers", make_rough("amax", (5, 4, 19)), [2]),
        ("first and last", make_rough("amax", (5, 4, 19)), [0, 2]),
        ("zeros of both signs", np.array([[-0.0, -0.0], [0.0, -0.0]], np.float32), [1]),
        ("special numbers", np.stack([a, b]), [0]),
    ):
        yield Case("E15", "amax", name, {"x": values, "dims": dims})


def _make_functions() -> Iterator[Case]:
    samples, gradient = make_samples("functions"), make_rough("functions/g", (180,))
    for rule, name in (
        *(("E16", "exp"), ("E17", "log"), ("E18", "sigmoid"), ("E18", "tanh"), ("E18", "silu")),
        ("E19", "erf"),
    ):
        yield Case(rule, name, "samples", {"x": samples})
    yield Case("E17", "log", "positive numbers", {"x": np.abs(make_rough("log", (181,), 60))})
    yield Case("E18", "silu_backward", "samples", {"gradient": gradient, "x": samples})
    for name in ("sigmoid_backward", "tanh_backward"):
        yield Case("E18", name, "samples", {"gradient": gradient, "result": samples})
    for kind in ("none", "tanh"):
        yield Case("E20", "gelu", kind, {"x": samples, "approximate": kind})
        arguments = {"gradient": gradient, "x": samples, "approximate": kind}
        yield Case("E20", "gelu_backward", kind, arguments)


def make_cases() -> Iterator[Case]:
    """In the order of the rules."""
    yield from _make_sums()
    yield from _make_products()
    yield from _make_convolutions()
    yield from _make_elementwise()
    yield from _make_functions()
