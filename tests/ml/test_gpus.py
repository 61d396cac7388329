"""What a device class says of a GPU, here of one that only seems to be there."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator

import pytest
import torch

from milepost_consensus.encoding import validate_text
from milepost_ml import device, gpus
from milepost_ml.device import compute_known_answer, configure_torch, find_device_class
from milepost_ml.errors import MissingGpu
from milepost_ml.gpus import CPU, find_gpu, is_gpu_class, keep_generators, seed_generators

GPU = torch.device("cuda", 0)


@pytest.fixture
def seeming_gpu(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.version, "cuda", "13.0")
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: (9, 0))
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: "NVIDIA H100 80GB HBM3")
    monkeypatch.setattr(torch.backends.cudnn, "version", lambda: 91002)
    monkeypatch.setenv("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    find_gpu.cache_clear()
    yield
    find_gpu.cache_clear()


def compute_elsewhere(*, autocast: bool, device: torch.device) -> bytes:
    assert device == GPU
    return (b"\x02" if autocast else b"\x01") * 32


@pytest.mark.usefixtures("seeming_gpu")
def test_the_class_of_a_gpu_names_builds_model_flags_and_known_answer(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(device, "compute_known_answer", compute_elsewhere)
    assert find_gpu() == GPU
    version = torch.__version__.split("+")[0]
    start = f"torch-{version}/cuda-13.0/cudnn-91002/h100-80gb-hbm3/sm-90/cublas-4096-8"
    text = find_device_class(device=GPU)
    assert text == f"{start}/kat-{'01' * 8}"
    assert find_device_class(autocast=True, device=GPU) == f"{start}/bfloat16/kat-{'02' * 8}"
    assert is_gpu_class(text)
    validate_text("device_class", text)


@pytest.mark.usefixtures("seeming_gpu")
def test_the_longest_name_of_a_gpu_fits_into_a_class(monkeypatch: pytest.MonkeyPatch) -> None:
    name = "NVIDIA RTX PRO 6000 Blackwell Max-Q Workstation Edition MIG 1g.24gb"
    monkeypatch.setattr(device, "compute_known_answer", compute_elsewhere)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: name)
    monkeypatch.setattr(torch, "__version__", "2.13.10.dev20260101+cu130")
    text = find_device_class(autocast=True, device=GPU)
    assert "/rtx-pro-6000-blackwell-max-q/" in text
    validate_text("device_class", text)


def test_a_gpu_that_is_not_nvidias_is_none(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.version, "cuda", None)
    find_gpu.cache_clear()
    try:
        assert find_gpu() is None
        assert not gpus.is_broken()
        with pytest.raises(MissingGpu):
            gpus.require_gpu("torch-2.13.0/cuda-13.0")
    finally:
        find_gpu.cache_clear()


@pytest.mark.usefixtures("seeming_gpu")
def test_a_gpu_that_failed_is_told_by_asking_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "synchronize", lambda device: None)
    assert not gpus.is_broken()

    def fail(device: torch.device) -> None:
        raise RuntimeError("CUDA error: device-side assert triggered")

    monkeypatch.setattr(torch.cuda, "synchronize", fail)
    assert gpus.is_broken()


def test_flags_are_set_and_those_of_the_user_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("CUBLAS_WORKSPACE_CONFIG", raising=False)
    monkeypatch.setattr(torch.backends.cudnn, "benchmark", True)
    configure_torch()
    assert os.environ["CUBLAS_WORKSPACE_CONFIG"] == ":4096:8"
    assert torch.backends.cudnn.deterministic
    assert not torch.backends.cudnn.benchmark
    assert not torch.backends.cudnn.allow_tf32
    assert not torch.backends.cuda.matmul.allow_tf32
    monkeypatch.setenv("CUBLAS_WORKSPACE_CONFIG", ":16:8")
    configure_torch()
    assert os.environ["CUBLAS_WORKSPACE_CONFIG"] == ":16:8"


def test_a_processors_class_is_no_gpus() -> None:
    assert re.search("/threads-1/", find_device_class())
    assert not is_gpu_class(find_device_class())
    assert not is_gpu_class("exact/1")


def test_generators_are_seeded_and_kept() -> None:
    before = torch.random.get_rng_state()
    with keep_generators(CPU):
        seed_generators(CPU, 7)
        first = torch.rand(3)
    assert torch.equal(torch.random.get_rng_state(), before)
    with keep_generators(CPU):
        torch.manual_seed(7)
        assert torch.equal(torch.rand(3), first)
    assert compute_known_answer() == compute_known_answer(device=torch.device("cpu", 0))
