"""A machine says that it computes exactly only after it has done so."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable

import pytest
import torch
from torch.nn import functional

from milepost_ml import device
from milepost_ml.arithmetic import known_answer
from milepost_ml.arithmetic.known_answer import choose_device
from milepost_ml.arithmetic.profiles import ExactProfile, RoundedProfile
from milepost_ml.device import compute_device_class
from milepost_ml.errors import MissingGpu
from milepost_ml.gpus import CPU

CLASSES = (compute_device_class(), compute_device_class(autocast=True), "tolerance/1")

CODE = """
import sys, torch
torch.set_num_threads(int(sys.argv[1]))
from milepost_ml.arithmetic.known_answer import compute_known_answer, compute_rounded_answer
print(compute_known_answer().hex(), compute_rounded_answer().hex())
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
    expected = f"{known_answer.KNOWN_ANSWER} {known_answer.ROUNDED_ANSWER}"
    assert ask(2, ATEN_CPU_CAPABILITY="default", **first) == expected


@pytest.mark.slow
def test_the_rounded_known_answer_is_the_known_one_and_leaves_the_generator_alone() -> None:
    torch.manual_seed(3)
    state = torch.random.get_rng_state()
    assert known_answer.compute_rounded_answer().hex() == known_answer.ROUNDED_ANSWER
    assert torch.equal(torch.random.get_rng_state(), state)
    assert torch.get_default_dtype() is torch.float32


def answer(
    name: str, monkeypatch: pytest.MonkeyPatch, compute: Callable[[torch.device], bytes]
) -> None:
    """Let the known answer of a portable class be computed like this."""
    expected = known_answer._PORTABLE[name][1]
    monkeypatch.setitem(known_answer._PORTABLE, name, (compute, expected))


def answer_rightly(monkeypatch: pytest.MonkeyPatch, *names: str) -> None:
    for name in names:
        right = bytes.fromhex(known_answer._PORTABLE[name][1])
        answer(name, monkeypatch, lambda device, right=right: right)  # type: ignore[misc]


def test_the_names_are_those_of_the_profiles() -> None:
    assert [ExactProfile().get_device_class(), RoundedProfile().get_device_class()] == list(
        known_answer._PORTABLE
    )


@pytest.mark.parametrize("wrong", ["exact/1", "rounded/1"])
def test_a_wrong_answer_takes_a_class_off_the_list(
    wrong: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    (right,) = {"exact/1", "rounded/1"} - {wrong}
    answer_rightly(monkeypatch, right)
    answer(wrong, monkeypatch, lambda device: b"\x01" * 32)
    names, fault = known_answer.get_device_classes()
    assert names == (right, *CLASSES)
    assert fault.startswith(f"{wrong}: the known answer is ")
    assert "01" * 32 in fault


def test_a_machine_without_kernels_says_why(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(device: torch.device) -> bytes:
        raise OSError("no compiler")

    answer_rightly(monkeypatch, "rounded/1")
    answer("exact/1", monkeypatch, fail)
    names, fault = known_answer.get_device_classes()
    assert "exact/1" not in names
    assert fault == "exact/1: OSError: no compiler"


def test_right_answers_put_exact_first(monkeypatch: pytest.MonkeyPatch) -> None:
    answer_rightly(monkeypatch, "exact/1", "rounded/1")
    names, fault = known_answer.get_device_classes()
    assert names == ("exact/1", "rounded/1", *CLASSES)
    assert fault == ""


# On a GPU -----------------------------------------------------------------------------------------

GPU = torch.device("cpu", 0)
"""Stands for a GPU: PyTorch computes on it as on the processor, and tells the two apart."""


@pytest.fixture
def gpu(monkeypatch: pytest.MonkeyPatch) -> torch.device:
    monkeypatch.setattr(known_answer, "find_gpu", lambda: GPU)
    monkeypatch.setattr(known_answer, "_chosen", {})
    return GPU


def answer_on_gpu(monkeypatch: pytest.MonkeyPatch, name: str, *answers: bytes) -> None:
    """What a GPU says, one time after the other; the processor answers rightly."""
    right, said = bytes.fromhex(known_answer._PORTABLE[name][1]), iter(answers)
    answer(name, monkeypatch, lambda device: next(said) if device == GPU else right)


def test_without_a_gpu_everything_is_computed_on_the_processor() -> None:
    for name in ("exact/1", "rounded/1", *CLASSES):
        assert choose_device(name) == CPU
    with pytest.raises(MissingGpu, match="sees none"):
        choose_device("torch-2.13.0/cuda-13.0/kat-00")
    assert known_answer.find_fault("torch-2.13.0/cuda-13.0/kat-00").startswith("MissingGpu: ")


def test_a_gpu_computes_exactly_if_it_knows_the_answer(
    gpu: torch.device, monkeypatch: pytest.MonkeyPatch
) -> None:
    right, wrong = bytes.fromhex(known_answer.KNOWN_ANSWER), b"\x01" * 32
    answer_on_gpu(monkeypatch, "exact/1", right, wrong, right)
    assert choose_device("exact/1") == gpu
    assert choose_device("exact/1") == gpu, "found once"
    with pytest.warns(UserWarning, match="not computed on the GPU: the known answer is"):
        assert known_answer.find_fault("exact/1") == "", "the processor computes right"
    assert choose_device("exact/1") == CPU
    assert known_answer.find_fault("exact/1") == ""
    assert choose_device("exact/1") == gpu, "found anew before each task"


def test_only_exact_arithmetic_and_its_own_class_go_to_a_gpu(gpu: torch.device) -> None:
    for name in ("rounded/1", "tolerance/1", *CLASSES, "tensorflow-2.21.0/keras-3.15.1"):
        assert choose_device(name) == CPU
    with pytest.raises(MissingGpu):  # this process has none but the one that stands for it
        choose_device("torch-2.13.0/cuda-13.0/kat-00")


def test_a_gpus_classes_are_served_beside_the_processors(
    gpu: torch.device, monkeypatch: pytest.MonkeyPatch
) -> None:
    answer_rightly(monkeypatch, "exact/1", "rounded/1")
    plain = device.find_device_class

    def find(*, autocast: bool = False, device: torch.device = CPU) -> str:
        if device == gpu:
            return f"torch-2.13.0/cuda-13.0{'/bfloat16' if autocast else ''}/kat-00"
        return plain(autocast=autocast)

    monkeypatch.setattr(known_answer, "find_device_class", find)
    monkeypatch.setattr(known_answer, "require_gpu", lambda name: gpu)
    own = ("torch-2.13.0/cuda-13.0/kat-00", "torch-2.13.0/cuda-13.0/bfloat16/kat-00")
    names, fault = known_answer.get_device_classes()
    assert (names, fault) == (("exact/1", "rounded/1", *CLASSES[:2], *own, CLASSES[2]), "")
    assert [known_answer.find_fault(name) for name in (*own, *CLASSES)] == [""] * 5
    assert known_answer.find_fault(f"{own[0]}1") == f"this machine is {own[0]}"


def test_a_gpu_that_cannot_repeat_its_own_answer_has_no_class(
    gpu: torch.device, monkeypatch: pytest.MonkeyPatch
) -> None:
    answer_rightly(monkeypatch, "exact/1", "rounded/1")

    def find(*, autocast: bool = False, device: torch.device = CPU) -> str:
        if device == gpu:
            raise RuntimeError("no driver")
        return compute_device_class(autocast=autocast)

    monkeypatch.setattr(known_answer, "find_device_class", find)
    names, fault = known_answer.get_device_classes()
    assert names == ("exact/1", "rounded/1", *CLASSES)
    assert fault == "cpu:0: no driver"


# Before a task: nothing that was found out earlier counts ----------------------------------------


def test_this_machines_class_is_repeated_and_no_other() -> None:
    mine = compute_device_class()
    assert known_answer.find_fault(mine) == ""
    assert known_answer.find_fault("torch-1.0/sparc") == f"this machine is {mine}"


def test_a_class_of_tensorflow_needs_tensorflow(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(known_answer, "is_keras_installed", lambda: False)
    told = known_answer.find_fault("tensorflow-2.21.0/keras-3.15.1/sparc")
    assert told == "this machine is without TensorFlow"


def test_a_flag_that_was_flipped_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever changes the bits, though no setting names it."""
    mine = compute_device_class()
    gelu = functional.gelu
    monkeypatch.setattr(functional, "gelu", lambda x: gelu(x, approximate="tanh"))
    assert known_answer.find_fault(mine).startswith("this machine is torch-")
    assert known_answer.find_fault("rounded/1").startswith("the known answer is ")
    monkeypatch.undo()
    assert known_answer.find_fault(mine) == ""


def test_a_library_or_a_thread_count_that_changed_is_noticed(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    mine = compute_device_class()
    with monkeypatch.context() as patch:
        patch.setattr(torch, "__version__", "99.0.0+cpu")
        assert "torch-99.0.0/" in known_answer.find_fault(mine)
    with monkeypatch.context() as patch:
        patch.setattr(device, "configure_torch", lambda: torch.set_num_threads(2))
        assert "/threads-2/" in known_answer.find_fault(mine)
    torch.set_num_threads(2)
    assert known_answer.find_fault(mine) == "", "what the worker sets itself is put right"
