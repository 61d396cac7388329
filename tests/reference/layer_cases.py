"""The cases of tests/vectors/exact/operators.json: layers to chance [E21-E32]."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from tests.reference.cases import SPECIALS, make_pairs, make_rough
from tests.reference.generator import make_integers, make_values
from tests.reference.gradients import GRADIENTS
from tests.reference.losses import log_softmax, softmax
from tests.reference.normalization import batch_norm, layer_norm
from tests.reference.pooling import adaptive_avg_pool2d, avg_pool2d, max_pool2d
from tests.reference.vectors import Case

Array = npt.NDArray[Any]

SEED: Final = 0x123456789ABCDEF
IGNORED: Final = -100
ROWS: Final[tuple[tuple[tuple[int, ...], int], ...]] = (
    *(((3, 5), 5), ((17, 32), 32), ((2, 3, 33), 33), ((2, 4, 3), 12)),
)
CHANNELS: Final[tuple[tuple[int, ...], ...]] = (
    *((2, 3, 4, 5), (17, 2, 3, 3), (33, 4), (3, 5, 10), (1, 2, 3, 3), (18, 1, 2, 2)),
)


def _make_softmax() -> Iterator[Case]:
    shapes = ((3, 10), 1), ((2, 17, 3), 1), ((33, 2), 0), ((4, 1), 1), ((2, 3, 16), 2), ((5,), 0)
    for shape, dim in shapes:
        name = f"{'x'.join(map(str, shape))} over {dim}"
        x, g = make_values(f"softmax/x/{name}", shape, 3), make_rough(f"softmax/g/{name}", shape)
        yield Case("E21", "softmax", name, {"x": x, "dim": dim})
        yield Case("E21", "log_softmax", name, {"x": x, "dim": dim})
        past = {"gradient": g, "result": softmax(x, dim), "dim": dim}
        yield Case("E21", "softmax_backward", name, past)
        past = {"gradient": g, "result": log_softmax(x, dim), "dim": dim}
        yield Case("E21", "log_softmax_backward", name, past)
    inf, nan = np.inf, np.nan
    rows = [[0, -inf, 1, -inf], [-inf] * 4, [inf, 0, 1, 2], [nan, 0, 1, 2], [200, 95, 94, -300]]
    x = np.array([*rows, [-0.0, 0.0, -0.0, -1e-45]], np.float32)
    for name in ("softmax", "log_softmax"):
        yield Case("E21", name, "special numbers", {"x": x, "dim": 1})


def _make_losses() -> Iterator[Case]:
    for count, classes in ((1, 3), (21, 7), (35, 3)):
        name = f"{count} of {classes}"
        x = -np.abs(make_rough(f"nll/{name}", (count, classes)))
        target = make_integers(f"nll/target/{name}", (count,), classes)
        weight = np.abs(make_rough(f"nll/weight/{name}", (classes,)))
        for weighted in (None, weight):
            for reduction, word in enumerate(("none", "mean", "sum")):
                for ignored in (IGNORED, 2):
                    settings = {
                        "x": x,
                        "target": target,
                        "weight": weighted,
                        "reduction": reduction,
                        "ignore_index": ignored,
                    }
                    title = f"{name}, {word}, {'no' if weighted is None else 'with'} weights"
                    title += "" if ignored == IGNORED else f", {ignored} ignored"
                    yield Case("E22", "nll_loss", title, settings)
                    g = make_rough(f"nll/g/{name}", (count,) if reduction == 0 else ())
                    total = np.asarray(abs(make_values("nll/total", ())) + np.float32(1))
                    settings = {"gradient": g, **settings, "total": total}
                    yield Case("E22", "nll_loss_backward", title, settings)
    x, target = make_values("nll/all", (3, 4)), np.full(3, IGNORED, np.int64)
    settings = {"x": x, "target": target, "weight": None, "reduction": 1, "ignore_index": IGNORED}
    yield Case("E22", "nll_loss", "all ignored", settings)


def _make_norms() -> Iterator[Case]:
    for shape, count in ROWS:
        name = f"{'x'.join(map(str, shape))}, rows of {count}"
        x, g = make_rough(f"ln/{name}", shape, 2), make_rough(f"ln/g/{name}", shape)
        weight, bias = make_values(f"ln/w/{name}", (count,)), make_values(f"ln/b/{name}", (count,))
        for title, affine in ((name, True), (f"{name}, plain", False)):
            w, b = (weight, bias) if affine else (None, None)
            settings = {"x": x, "count": count, "weight": w, "bias": b, "eps": 1e-5}
            yield Case("E23", "layer_norm", title, settings)
            _, m, r = layer_norm(x, count, w, b, 1e-5)
            past = {"gradient": g, "x": x, "mean": m, "rstd": r, "weight": w}
            yield Case("E23", "layer_norm_backward", title, past)


def _make_batch_norms() -> Iterator[Case]:
    for shape in CHANNELS:
        name, channels = "x".join(map(str, shape)), shape[1]
        x, g = make_rough(f"bn/{name}", shape, 2), make_rough(f"bn/g/{name}", shape)
        weight, bias, mean = (make_values(f"bn/{k}/{name}", (channels,)) for k in "wbm")
        variance = np.abs(make_values(f"bn/v/{name}", (channels,)))
        for title, w, b, m, v, training in (
            (name, weight, bias, mean, variance, True),
            (f"{name}, plain, nothing running", None, None, None, None, True),
            (f"{name}, evaluation", weight, bias, mean, variance, False),
        ):
            settings: dict[str, Any] = {
                "x": x,
                "weight": w,
                "bias": b,
                "running_mean": m,
                "running_var": v,
                "training": training,
                "momentum": 0.1,
                "eps": 1e-5,
            }
            copies = {
                key: value.copy() if isinstance(value, np.ndarray) else value
                for key, value in settings.items()
            }
            yield Case("E24", "batch_norm", title, copies)
            _, m, r = batch_norm(**settings)
            past = {"gradient": g, "x": x, "weight": w, "mean": m, "rstd": r}
            yield Case("E24", "batch_norm_backward", title, {**past, "training": training})


def _make_pools() -> Iterator[Case]:
    for name, size, kernel, stride, padding, dilation, ceil_mode in (
        ("2x2", (2, 3, 6, 6), (2, 2), (2, 2), (0, 0), (1, 1), False),
        ("3x3, overlapping, padded", (1, 2, 7, 8), (3, 3), (2, 1), (1, 1), (1, 1), False),
        ("rounded up", (1, 2, 7, 8), (3, 2), (2, 3), (1, 0), (1, 1), True),
        ("rounded up beyond the padding", (1, 1, 5, 5), (2, 2), (3, 3), (1, 1), (1, 1), True),
        ("dilated", (1, 2, 9, 9), (3, 2), (1, 2), (1, 1), (2, 3), False),
        ("the whole plane", (2, 2, 4, 5), (4, 5), (4, 5), (0, 0), (1, 1), False),
    ):
        shape = {
            "kernel": kernel,
            "stride": stride,
            "padding": padding,
            "dilation": dilation,
            "ceil_mode": ceil_mode,
        }
        # Few different numbers, so that the largest is there more than once.
        x = make_integers(f"pool/{name}", size, 5).astype(np.float32) - np.float32(2)
        x[0, 0, 1, 1], x[0, 0, 3, 3], x[0, 0, 2, 2] = np.nan, -np.inf, -0.0
        y, indices = max_pool2d(x, shape)
        g = make_rough(f"pool/g/{name}", y.shape)
        yield Case("E25", "max_pool2d", name, {"x": x, "shape": shape})
        past = {"gradient": g, "indices": indices, "size": size}
        yield Case("E25", "max_pool2d_backward", name, past)
        if dilation != (1, 1):
            continue
        x = make_rough(f"pool/x/{name}", size)
        for include, divisor in ((True, None), (False, None), (False, 3)):
            options = {"shape": shape, "count_include_pad": include, "divisor": divisor}
            title = f"{name}, {'with' if include else 'without'} padding, divisor {divisor}"
            g = make_rough(f"pool/a/{name}", avg_pool2d(x, shape, include, divisor).shape)
            yield Case("E25", "avg_pool2d", title, {"x": x, **options})
            yield Case(
                "E25", "avg_pool2d_backward", title, {"gradient": g, "size": size, **options}
            )
    x = make_rough("adaptive", (2, 3, 7, 10))
    for out in ((1, 1), (3, 4), (7, 10), (9, 11)):
        name = f"7x10 to {out[0]}x{out[1]}"
        yield Case("E25", "adaptive_avg_pool2d", name, {"x": x, "size": out})
        g = make_rough(f"adaptive/{out}", adaptive_avg_pool2d(x, out).shape)
        yield Case("E25", "adaptive_avg_pool2d_backward", name, {"gradient": g, "size": x.shape})


def _make_tables() -> Iterator[Case]:
    for count, width, skip in ((40, 5, -1), (40, 17, 3), (0, 4, -1), (65, 3, 0)):
        table = np.zeros((7, width), np.float32)
        index = make_integers(f"table/{count}", (count,), 7)
        rows = make_rough(f"table/rows/{count}/{width}", (count, width))
        name = f"{count} rows of {width}, {skip} left out"
        arguments = {"index": index, "rows": rows, "skip": skip}
        yield Case("E26", "index_add", f"{name}, to zeros", {"base": table, **arguments})
        base = {"base": make_rough(f"table/base/{width}", (7, width)), **arguments}
        yield Case("E26", "index_add", name, base)
    for batch, heads, length, width in ((1, 2, 5, 8), (1, 1, 17, 3), (1, 2, 9, 5)):
        q, k, v, g = (
            make_values(f"attention/{key}/{length}", (batch, heads, length, width), 1)
            for key in "qkvg"
        )
        for causal, scale in ((True, None), (False, None), (False, 0.3)):
            settings = {"q": q, "k": k, "v": v, "causal": causal, "scale": scale}
            name = f"{length} of {width}, {'causal' if causal else 'full'}, scale {scale}"
            yield Case("E27", "attention", name, settings)
            yield Case("E31", "attention_backward", name, {"gradient": g, **settings})


def _make_lists(label: str) -> tuple[list[Array], list[Array]]:
    """Parameters and gradients of several sizes, some special."""
    shapes = ((3,), (17, 2), (), (5, 13), (1,))
    parameters = [make_rough(f"{label}/p/{i}", shape, 4) for i, shape in enumerate(shapes)]
    gradients = [make_rough(f"{label}/g/{i}", shape, 4) for i, shape in enumerate(shapes)]
    a, b = make_pairs(SPECIALS[[0, 1, 2, 6, 9, 10, 11, 12, 15]])
    return [*parameters, a], [*gradients, b]


def _make_optimizers() -> Iterator[Case]:
    plain = {"momentum": 0.0, "dampening": 0.0, "weight_decay": 0.0, "nesterov": False}
    for name, settings in (
        ("plain", {"first": True}),
        ("weight decay", {"weight_decay": 0.0005, "first": False}),
        ("momentum, first step", {"momentum": 0.9, "dampening": 0.1, "first": True}),
        ("momentum", {"momentum": 0.9, "first": False}),
        ("dampening", {"momentum": 0.9, "dampening": 0.3, "weight_decay": 0.01, "first": False}),
        ("nesterov, first step", {"momentum": 0.9, "nesterov": True, "first": True}),
        ("nesterov", {"momentum": 0.9, "weight_decay": 0.01, "nesterov": True, "first": False}),
    ):
        parameters, gradients = _make_lists(f"sgd/{name}")
        full: dict[str, Any] = plain | settings
        momenta = [make_rough(f"sgd/{name}/{i}", p.shape, 4) for i, p in enumerate(parameters)]
        if full["first"]:
            momenta = [np.zeros_like(p) for p in parameters]
        state = {"parameters": parameters, "gradients": gradients}
        state["momenta"] = momenta if full["momentum"] else []
        yield Case("E28", "sgd", name, {**state, "lr": 0.03, **full})
    for kind, decoupled in (("Adam", False), ("AdamW", True)):
        for step, decay, amsgrad in (
            (1, 0.0, False),
            (1, 0.01, True),
            (37, 0.01, False),
            (1000, 0.1, True),
        ):
            name = f"{kind}, step {step}, weight decay {decay}{', amsgrad' if amsgrad else ''}"
            parameters, gradients = _make_lists(name)
            averages = [make_rough(f"{name}/m/{i}", p.shape, 4) for i, p in enumerate(parameters)]
            squares, maxima = (
                [
                    np.asarray(np.abs(make_rough(f"{name}/{k}/{i}", p.shape, 4)))
                    for i, p in enumerate(parameters)
                ]
                for k in "vw"
            )
            state = {
                "parameters": parameters,
                "gradients": gradients,
                "averages": averages,
                "squares": squares,
                "maxima": maxima if amsgrad else [],
                "steps": [np.array(step, np.float32) for _ in parameters],
            }
            factors = {"lr": 0.003, "beta1": 0.9, "beta2": 0.999, "weight_decay": decay}
            yield Case(
                "E29", "adam", name, {**state, **factors, "eps": 1e-8, "decoupled": decoupled}
            )


def _make_clipping() -> Iterator[Case]:
    for bound in (0.3, 1000.0):
        _, gradients = _make_lists(f"clip/{bound}")
        finite = {"gradients": gradients[:-1], "bound": bound}
        yield Case("E36", "clip_norm", f"to {bound}", finite)
        everything = {"gradients": gradients, "bound": bound}
        yield Case("E36", "clip_value", f"to {bound}", everything)
    nothing = [np.zeros((2, 3), np.float32), np.zeros(4, np.float32)]
    yield Case("E36", "clip_norm", "of zeros", {"gradients": nothing, "bound": 1.0})
    _, gradients = _make_lists("clip/special")
    yield Case("E36", "clip_norm", "with NaN", {"gradients": gradients, "bound": 1.0})


def _make_chance() -> Iterator[Case]:
    for skip, shape in ((0, (10,)), (1, (3, 5)), (2, (1,))):
        key = {"seed": SEED, "skip": skip, "shape": shape}
        name = f"after {skip} draws"
        yield Case("E30", "rand", name, key)
        yield Case("E30", "uniform", name, {**key, "low": -0.1, "high": 0.3})
        yield Case("E30", "bernoulli", name, {**key, "p": 0.3})
    x = make_rough("dropout", (7, 9))
    x[0, :3] = np.inf, np.nan, -0.0
    for p in (0.1, 0.5):
        yield Case("E30", "dropout", f"p {p}", {"seed": SEED, "skip": 1, "x": x, "p": p})
    yield Case("E30", "rand", "another seed", {"seed": 2**63 - 1, "skip": 0, "shape": (9,)})
    a, b, c, g = (make_rough(f"accumulate/{key}", (50,), 4) for key in "abcg")
    yield Case("E31", "accumulate", "three uses", {"a": a, "b": b, "c": c, "g": g})
    yield Case("E32", "words", "words of a label", {"label": "label", "shape": (5,)})
    for exponent in (0, -3, 4):
        settings = {"label": "label", "shape": (2, 3), "exponent": exponent}
        yield Case("E32", "values", f"exponent {exponent}", settings)


def _make_composites() -> Iterator[Case]:
    x, target = make_rough("composite/x", (3, 17, 2), 3), make_values("composite/t", (3, 17, 2))
    for dims in ([1], [0, 2], [0, 1, 2]):
        for correction in (0, 1):
            settings = {"x": x, "dims": dims, "correction": correction}
            yield Case("E33", "var", f"over {dims}, correction {correction}", settings)
        yield Case("E33", "std", f"over {dims}", {"x": x, "dims": dims, "correction": 1})
        for order in (1, 2, "inf"):
            settings = {"x": x, "order": order, "dims": dims}
            yield Case("E33", "norm", f"{order} over {dims}", settings)
    for reduction, word in enumerate(("none", "mean", "sum")):
        g = make_rough("composite/g", x.shape if reduction == 0 else (), 3)
        settings = {"x": x, "target": target, "reduction": reduction}
        for name in ("mse_loss", "bce_with_logits"):
            yield Case("E34", name, word, settings)
            yield Case("E34", f"{name}_backward", word, {"gradient": g, **settings})


SHAPES: Final[dict[str, tuple[tuple[int, ...], ...]]] = {
    "add a row": ((6, 7), (1, 7)),
    "mul a column": ((6, 7), (6, 1)),
    "matmul": ((6, 7), (7, 5)),
    "linear": ((2, 3, 7), (5, 7), (5,)),
    "embedding": ((4, 5),),
}
"""Inputs of the operators whose gradients have vectors; others have one or two of 6x7."""
BINARY: Final = ("add alpha", "sub", "mul", "div", "maximum", "minimum")
RESULTS: Final[dict[str, tuple[int, ...]]] = {
    "matmul": (6, 5),
    "linear": (2, 3, 5),
    "embedding": (9, 5),
    "two rows": (7,),
    **dict.fromkeys(("amax", "sum", "mean", "var"), (6,)),
}


def _make_gradients() -> Iterator[Case]:
    for name in GRADIENTS:
        shapes = SHAPES.get(name, ((6, 7),) * (2 if name in BINARY else 1))
        inputs = [make_rough(f"gradient/{name}/{i}", shape, 2) for i, shape in enumerate(shapes)]
        if name in ("log", "sqrt", "rsqrt"):
            inputs = [np.abs(x) for x in inputs]
        if name in ("maximum", "minimum"):
            inputs[0][0] = inputs[1][0]
        if name == "amax":
            inputs[0][0, [2, 4]] = 50
        if name == "embedding":
            inputs.append(make_integers("gradient/index", (9,), 4))
        g = make_rough(f"gradient/{name}/g", RESULTS.get(name, (6, 7)), 2)
        yield Case("E31", "gradient", name, {"of": name, "gradient": g, "inputs": inputs})


def make_layer_cases() -> Iterator[Case]:
    """In the order of the rules."""
    yield from _make_softmax()
    yield from _make_losses()
    yield from _make_norms()
    yield from _make_batch_norms()
    yield from _make_pools()
    yield from _make_tables()
    yield from _make_optimizers()
    yield from _make_chance()
    yield from _make_gradients()
    yield from _make_composites()
    yield from _make_clipping()
