"""GPU kernels: interpreted by NumPy, compiled for two kinds of GPU, and run where there is one."""

from __future__ import annotations

import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any, Final

import pytest
import torch

from milepost_ml.arithmetic.backends import Backend
from tests.reference.training import MODELS
from tests.support.exact_vectors import (
    find_mismatches,
    find_training_mismatch,
    load_cases,
    load_trainings,
)
from tests.support.install import install_apart

TRITON: Final = "3.9.0"
RUN_TIMEOUT_SECONDS: Final = 1200
STEPS: Final = 2
"""The second loss depends on the first gradients and on the optimizer."""

FUNCTIONS: Final = sorted({case.function for case, _ in load_cases()})
OPERATIONS: Final = {name for name in vars(Backend) if not name.startswith("_")}

requires_gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no GPU")


@pytest.fixture(scope="session")
def triton_path() -> list[str]:
    """What a process must have on its path to import Triton."""
    if importlib.util.find_spec("triton") is not None:
        return []
    return [str(install_apart(f"triton=={TRITON}", "--no-deps"))]


def _run(path: list[str], tmp_path: Path, *arguments: str, interpreted: bool) -> Any:
    root = Path(__file__).parents[3]
    folders = [*path, str(root), *(str(root / name) for name in ("consensus", "ml"))]
    environment = os.environ | {
        "PYTHONPATH": os.pathsep.join(folders),
        "TRITON_CACHE_DIR": str(tmp_path / "triton"),
        "TRITON_INTERPRET": "1" if interpreted else "0",
    }
    answer = subprocess.run(
        [sys.executable, "-m", "tests.support.triton_kernels", *arguments],
        capture_output=True,
        text=True,
        env=environment,
        cwd=root,
        timeout=RUN_TIMEOUT_SECONDS,
        check=False,
    )
    assert answer.returncode == 0, answer.stderr[-4000:]
    return json.loads(answer.stdout)


@pytest.mark.slow
def test_interpreted_kernels_give_exact_operator_vectors(
    triton_path: list[str], tmp_path: Path
) -> None:
    answer = _run(triton_path, tmp_path, "operators", interpreted=True)

    assert answer["failures"] == []
    assert set(answer["counts"]) == OPERATIONS
    assert answer["refused"] == ["index_add", "nll_loss"]


@pytest.mark.slow
@pytest.mark.parametrize("name", ["resnet", "transformer"])
def test_interpreted_kernels_give_exact_training_vectors(
    triton_path: list[str], tmp_path: Path, name: str
) -> None:
    losses = _run(triton_path, tmp_path, "training", name, str(STEPS), interpreted=True)

    assert losses == load_trainings()[name]["losses"][:STEPS]


@pytest.mark.slow
@pytest.mark.parametrize("capability", [80, 120])
def test_compiled_kernels_round_every_operation(
    triton_path: list[str], tmp_path: Path, capability: int
) -> None:
    kernels = _run(triton_path, tmp_path, "compile", str(capability), interpreted=False)

    folder = Path(__file__).parents[3] / "ml" / "milepost_ml" / "arithmetic" / "gpu"
    launched = {kernel["kernel"].rpartition(".")[0].rpartition(".")[2] for kernel in kernels}
    assert launched == {
        path.stem for path in folder.glob("*.py") if "    launch(" in path.read_text()
    }
    rounding = ("add.rn.", "sub.rn.", "mul.rn.", "div.rn.", "sqrt.rn.", "cvt.")
    exact = ("abs.", "neg.", "selp.", "setp.", "mov.")
    seen = set()
    for kernel in kernels:
        assert not kernel["flushes"], kernel
        for instruction in kernel["ptx"]:
            assert instruction.startswith(rounding + exact), (instruction, kernel)
            seen.add(instruction)
        assert not any("FMA" in name or "FTZ" in name for name in kernel["machine"]), kernel
    assert any({"FMUL", "FADD"} <= set(kernel["machine"]) for kernel in kernels)
    assert seen >= {f"{name}.rn.f32" for name in ("add", "sub", "mul", "div", "sqrt")}
    assert seen >= {f"{name}.rn.f64" for name in ("add", "sub", "mul", "div")}


def test_nothing_is_imported_without_a_gpu() -> None:
    if not torch.cuda.is_available():
        assert not [name for name in sys.modules if name.startswith("milepost_ml.arithmetic.gpu")]


@pytest.mark.gpu
@requires_gpu
@pytest.mark.parametrize("function", FUNCTIONS)
def test_gpu_gives_exact_operator_vectors(function: str) -> None:
    from milepost_ml.arithmetic.gpu.backend import GPU

    assert list(find_mismatches(GPU, function, device="cuda")) == []


@pytest.mark.gpu
@requires_gpu
@pytest.mark.parametrize("name", sorted(MODELS))
def test_gpu_gives_exact_training_vectors(name: str) -> None:
    assert find_training_mismatch(name, device="cuda") is None
