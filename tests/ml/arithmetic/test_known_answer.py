"""A machine says that it computes exactly only after it has done so."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest
import torch

from milepost_ml.arithmetic import known_answer
from milepost_ml.device import compute_device_class

CLASSES = (compute_device_class(), compute_device_class(autocast=True))

CODE = """
import sys, torch
torch.set_num_threads(int(sys.argv[1]))
from milepost_ml.arithmetic.known_answer import compute_known_answer
print(compute_known_answer().hex())
"""


def ask(threads: int, **environment: str) -> str:
    done = subprocess.run(
        [sys.executable, "-c", CODE, str(threads)],
        env={**os.environ, **environment},
        check=True,
        capture_output=True,
        text=True,
    )
    return done.stdout.strip()


@pytest.mark.slow
def test_the_exact_known_answer_is_the_known_one_and_leaves_the_generator_alone() -> None:
    torch.manual_seed(3)
    state = torch.random.get_rng_state()
    assert known_answer.compute_known_answer().hex() == known_answer.KNOWN_ANSWER
    assert torch.equal(torch.random.get_rng_state(), state)


@pytest.mark.slow
def test_another_processor_and_other_threads_know_the_same_answer() -> None:
    first = {"NUMBA_CPU_NAME": "x86-64", "NUMBA_CPU_FEATURES": ""}
    if torch.backends.cpu.get_cpu_capability() not in ("AVX2", "AVX512"):
        first = {}  # no x86-64: only the threads can differ
    assert ask(2, ATEN_CPU_CAPABILITY="default", **first) == known_answer.KNOWN_ANSWER


def test_a_wrong_answer_takes_exact_off_the_list(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(known_answer, "compute_known_answer", lambda: b"\x01" * 32)
    names, fault = known_answer.get_device_classes.__wrapped__()
    assert names == ("rounded/1", *CLASSES)
    assert "01" * 32 in fault


def test_a_machine_without_kernels_says_why(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail() -> bytes:
        raise OSError("no compiler")

    monkeypatch.setattr(known_answer, "compute_known_answer", fail)
    names, fault = known_answer.get_device_classes.__wrapped__()
    assert "exact/1" not in names
    assert fault == "OSError: no compiler"


def test_a_right_answer_puts_exact_first(monkeypatch: pytest.MonkeyPatch) -> None:
    right = bytes.fromhex(known_answer.KNOWN_ANSWER)
    monkeypatch.setattr(known_answer, "compute_known_answer", lambda: right)
    names, fault = known_answer.get_device_classes.__wrapped__()
    assert names == ("exact/1", "rounded/1", *CLASSES)
    assert fault == ""
