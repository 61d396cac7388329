"""Everybody who computes exact arithmetic gets the committed vectors: the reference program, the
kernels, whole trainings in PyTorch, and processors that are made to look older than they are.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy._core._multiarray_umath import (  # type: ignore[import-not-found]
    __cpu_dispatch__ as numpy_features,
)

from milepost_ml.arithmetic.cpu.backend import CPU
from tests.reference import training
from tests.reference.cases import make_cases
from tests.reference.generator import make_block
from tests.reference.layer_cases import make_layer_cases
from tests.reference.vectors import render_cases
from tests.support.exact_vectors import (
    FOLDER,
    THREADS,
    find_mismatches,
    find_training_mismatch,
    load_cases,
    load_trainings,
)

ROOT = Path(__file__).parents[3]
FUNCTIONS = sorted({case.function for case, _ in load_cases()})
SSE2 = {
    "NUMBA_CPU_NAME": "x86-64",
    "NUMBA_CPU_FEATURES": "",
    "ATEN_CPU_CAPABILITY": "default",
    "NPY_DISABLE_CPU_FEATURES": " ".join(numpy_features),
}
AVX2 = {
    "NUMBA_CPU_NAME": "haswell",
    "NUMBA_CPU_FEATURES": "",
    "ATEN_CPU_CAPABILITY": "avx2",
    "NPY_DISABLE_CPU_FEATURES": " ".join(numpy_features[1:]),
}


@pytest.fixture(params=THREADS)
def threads(request: pytest.FixtureRequest) -> Iterator[int]:
    before = torch.get_num_threads()
    torch.set_num_threads(request.param)
    yield request.param
    torch.set_num_threads(before)


def test_reference_writes_exact_operator_vectors() -> None:
    text = render_cases([*make_cases(), *make_layer_cases()])
    stored = (FOLDER / "operators.json").read_text()
    assert text == stored, "a changed vector is a changed arithmetic; see the README beside it"


@pytest.mark.parametrize("name", training.MODELS)
def test_reference_begins_exact_training_vectors(name: str) -> None:
    vector, begun = load_trainings()[name], training.train(name, 10)
    assert begun["losses"] == vector["losses"][:10]
    assert begun["digests"] == vector["digests"][:1]
    assert begun["start"] == vector["start"]


@pytest.mark.slow
def test_reference_writes_exact_training_vectors() -> None:
    assert training.render() == (FOLDER / "training.json").read_text()


def test_reference_generator_gives_vector_words_of_numpy_exact() -> None:
    words = np.random.Philox(key=[7, 3]).random_raw(8)
    assert [*make_block(7, 3, 1), *make_block(7, 3, 2)] == words.tolist()


@pytest.mark.parametrize("function", FUNCTIONS)
def test_backend_gives_exact_operator_vectors(function: str, threads: int) -> None:
    assert list(find_mismatches(CPU, function)) == []


@pytest.mark.slow
@pytest.mark.parametrize("name", training.MODELS)
@pytest.mark.parametrize("threads", [1], indirect=True)
def test_pytorch_trains_to_exact_vectors(name: str, threads: int) -> None:
    assert find_training_mismatch(name) is None


@pytest.mark.slow
@pytest.mark.parametrize("processor", [{}, AVX2, SSE2], ids=["native", "avx2", "sse2"])
def test_every_processor_gives_exact_vectors(processor: dict[str, str]) -> None:
    """Operators and trainings, on one thread and on two."""
    # Threads that wait must not keep the others from a processor that other tests share.
    environment = {**os.environ, **processor, "OMP_WAIT_POLICY": "passive"}
    result = subprocess.run(
        [sys.executable, "-m", "tests.support.exact_vectors"],
        cwd=ROOT,
        env={**environment, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=False,
        timeout=600,
    )
    assert result.returncode == 0, result.stderr
    assert json.loads(result.stdout) == []
