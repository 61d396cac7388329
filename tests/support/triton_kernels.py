"""Runs the GPU kernels without a GPU, in a process of its own, as `python -m`:

    operators              interpreted by NumPy on the vectors of operators.json
    training MODEL STEPS   likewise the first steps of a model of training.json
    compile CAPABILITY     compiled for a GPU of that capability, as the operators' vectors need

The answer is JSON on standard output.  The first two need TRITON_INTERPRET=1 from the start, since
Triton reads it when it is imported; the third must not have it.
"""

from __future__ import annotations

import json
import re
import sys
import warnings
from collections import Counter
from collections.abc import Callable
from typing import Any, Final

import numpy as np
import torch
import triton

from milepost_ml.arithmetic import select
from milepost_ml.arithmetic.exact import ExactMode
from milepost_ml.arithmetic.gpu import (
    convolution,
    elementwise,
    embedding,
    normalization,
    optimizers,
    pooling,
    products,
    softmax,
    sums,
)
from milepost_ml.arithmetic.gpu.backend import GPU
from tests.reference.vectors import Case, encode
from tests.support.exact_training import train
from tests.support.exact_vectors import LAYOUTS, load_cases, run_case


def _load_operations() -> list[tuple[Case, list[Any]]]:
    """The vectors of functions that backends have."""
    return [(case, outputs) for case, outputs in load_cases() if hasattr(GPU, case.function)]


def check_operators() -> dict[str, Any]:
    """How many vectors of each function were computed, and which came out otherwise.

    Layouts of tensors take turns.
    """
    counts: Counter[str] = Counter()
    failures = []
    for number, (case, outputs) in enumerate(_load_operations()):
        layout = LAYOUTS[number % len(LAYOUTS)]
        counts[case.function] += 1
        if run_case(case, GPU, layout=layout) != encode(outputs):
            failures.append(f"{case.rule} {case.function}: {case.name} ({layout})")
    return {"counts": counts, "failures": failures, "refused": _find_refused()}


def _find_refused() -> list[str]:
    """Functions that raise IndexError for an index outside."""
    rows, index = torch.ones(2, 3), torch.tensor([0, 3])
    calls: dict[str, Callable[[], Any]] = {
        "index_add": lambda: GPU.index_add(rows, index, rows, -1),
        "nll_loss": lambda: GPU.nll_loss(rows, index, None, 1, -100),
        "within": lambda: GPU.nll_loss(rows, index, None, 1, 3),
    }
    refused = []
    for name, call in calls.items():
        try:
            call()
        except IndexError:
            refused.append(name)
    return refused


def _enlarge_tiles() -> None:
    """The interpreter's time goes by operations, not by numbers; tiles are not arithmetic."""
    for module in (elementwise, normalization, optimizers, pooling):
        vars(module)["_BLOCK"] = 1 << 17
    for module in (normalization, softmax, sums):
        vars(module)["_ROWS"] = 1 << 10
    vars(embedding)["_TILE"] = 1 << 15
    vars(products).update(_ROWS=128, _COLUMNS=256)
    vars(convolution).update(_CHANNELS=16, _PLACES=1 << 14, _TAPS=32)


def check_training(name: str, steps: int) -> list[str]:
    """Losses of the first steps of a model."""
    _enlarge_tiles()
    losses: list[str] = train(name, ExactMode(), steps=steps)["losses"]
    return losses


_FLOATS: Final = re.compile(r"\b[a-z][\w.]*\.f(?:32|64)\b")
_MACHINE: Final = re.compile(r"\b[FD](?:FMA|MUL|ADD)\b[\w.]*")


class _Driver:
    """Answers what Triton asks a GPU's driver before it compiles a kernel."""

    def __init__(self, capability: int) -> None:
        self._target = triton.backends.compiler.GPUTarget("cuda", capability, 32)

    def get_current_device(self) -> int:
        return 0

    def get_current_stream(self, device: int) -> int:
        return 0

    def get_current_target(self) -> Any:
        return self._target


def _describe(name: str, compiled: Any) -> dict[str, Any]:
    floats = Counter(_FLOATS.findall(compiled.asm["ptx"]))
    # In machine code, division and square root are sequences that fuse; no other operation may.
    divides = any(name.startswith(("div.", "sqrt.")) for name in floats)
    return {
        "kernel": name,
        "ptx": floats,
        "flushes": "ftz" in compiled.asm["ptx"],
        "machine": {} if divides else Counter(_MACHINE.findall(compiled.asm["sass"])),
    }


def check_compiled(capability: int) -> list[dict[str, Any]]:
    """Instructions of every kernel with every choice that its constants make.

    Launches go as far as they can without a GPU.  Triton compiles integers that are 1 as constants,
    so kernels are seen with and without.
    """
    found: dict[str, dict[str, Any]] = {}
    compile_only = triton.runtime.jit.JITFunction.run

    def record(kernel: Any, *values: Any, grid: Any, warmup: bool, **options: Any) -> None:
        choices = {key: value for key, value in options.items() if type(value) is not int}
        has_one = any(type(value) is int and value == 1 for value in values)
        key = f"{kernel.fn} {choices} {has_one}"
        if key not in found:
            compiled = compile_only(kernel, *values, grid=grid, warmup=True, **options)
            found[key] = _describe(f"{kernel.fn.__module__}.{kernel.fn.__name__}", compiled)

    triton.runtime.driver.set_active(_Driver(capability))
    triton.runtime.jit.JITFunction.run = record
    for case, _ in _load_operations():
        run_case(case, GPU, layout=LAYOUTS[0])
    return list(found.values())


def main(command: str, *arguments: str) -> None:
    vars(select)["CPU"] = GPU
    warnings.simplefilter("ignore", RuntimeWarning)  # NumPy's, of infinities and NaN
    with np.errstate(all="ignore"):
        if command == "operators":
            answer: Any = check_operators()
        elif command == "training":
            answer = check_training(arguments[0], int(arguments[1]))
        else:
            answer = check_compiled(int(arguments[0]))
    json.dump(answer, sys.stdout)


if __name__ == "__main__":
    main(*sys.argv[1:])
