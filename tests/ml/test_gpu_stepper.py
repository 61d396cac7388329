"""What a GPU cannot do says nothing of a record: the processor tells whether a step fails."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import msgspec
import pytest
import torch

from milepost_ml import replay, stepping
from milepost_ml.arithmetic import known_answer
from milepost_ml.errors import MissingGpu
from milepost_ml.files import DATA, FolderFiles
from milepost_ml.gpu_stepper import GpuStepper
from milepost_ml.gpus import CPU
from milepost_ml.recipe import Recipe
from milepost_ml.record_files import read_recipe, read_state
from milepost_ml.selfcheck import check_interval
from milepost_ml.stepper import Stepper
from milepost_ml.steps import StepFailed
from tests.support.training import record

GPU = torch.device("cpu", 0)
"""Stands for a GPU: PyTorch computes on it as on the processor, and tells the two apart."""
OWN_CLASS = "torch-2.13.0/cuda-13.0/kat-0000000000000000"
FULL = torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")
LOST = RuntimeError("CUDA error: device-side assert triggered")


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("gpu")
    return record(folder, steps=6, every=6, stride=3, profile="exact")


def fail(monkeypatch: pytest.MonkeyPatch, error: Exception, *, at: int, also: bool = False) -> None:
    """Let batch `at` fail on the GPU, and also on the processor if told so.

    What is on a GPU is copied to the processor, as here too then.
    """
    differentiate, keep = Stepper._differentiate, Stepper._keep

    def try_to(self: Stepper, number: int) -> float:
        if number == at and (also or self._profile.device != CPU):
            raise error
        return differentiate(self, number)

    def keep_copies(self: Stepper, *parts: dict[str, torch.Tensor]) -> None:
        model, slots = ({name: each.clone() for name, each in part.items()} for part in parts)
        keep(self, model, slots)

    monkeypatch.setattr(Stepper, "_differentiate", try_to)
    monkeypatch.setattr(Stepper, "_keep", keep_copies)


def read(run: Path) -> Recipe:
    return read_recipe(FolderFiles(run))[1]


def start(run: Path, recipe: Recipe) -> GpuStepper:
    stepper = GpuStepper(recipe, run / DATA, GPU)
    stepper.load(0, read_state(FolderFiles(run), read(run), 0))
    return stepper


def own_class(recipe: Recipe) -> Recipe:
    return msgspec.structs.replace(recipe, profile="class", device_class=OWN_CLASS)


@pytest.mark.parametrize("error", [FULL, LOST])
def test_memory_of_a_gpu_that_is_short_fails_no_step(
    run: Path, error: Exception, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An accusation of it would be false; so would be one of another fault of the GPU."""
    fail(monkeypatch, error, at=4)
    recipe = read(run)
    alone = Stepper(recipe, run / DATA, GPU)
    alone.load(0, read_state(FolderFiles(run), recipe, 0))
    with pytest.raises(MemoryError if error is FULL else StepFailed):
        alone.run_stride(6)
    monkeypatch.setattr(known_answer, "choose_device", lambda name: torch.device("cuda", 0))
    monkeypatch.setattr("milepost_ml.gpu_stepper.Stepper", put_elsewhere)
    assert replay.retrace_recorded(run, 0).agrees
    assert check_interval(run, 0).identical


def put_elsewhere(recipe: Recipe, data: Path, device: torch.device = CPU) -> Stepper:
    return Stepper(recipe, data, CPU if device == CPU else GPU)


def test_the_processor_goes_on_where_the_gpu_ended(
    run: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fail(monkeypatch, FULL, at=4)
    recipe = read(run)
    plain = Stepper(recipe, run / DATA)
    plain.load(0, read_state(FolderFiles(run), recipe, 0))
    stepper = start(run, recipe)
    for _ in range(2):  # the second stride fails after one of its steps
        assert stepper.run_stride(3) == plain.run_stride(3)
    assert stepper.get_batch_digest(2) == plain.get_batch_digest(2)
    for got, wanted in (
        (stepper.get_state(), plain.get_state()),
        (stepper.get_parameters(), plain.get_parameters()),
    ):
        assert got.keys() == wanted.keys()
        assert all((got[name] == wanted[name]).all() for name in got)


def test_a_step_that_fails_on_the_processor_too_is_the_records_fault(
    run: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fail(monkeypatch, IndexError("index 12 is out of bounds"), at=1, also=True)
    for recipe in (read(run), own_class(read(run))):
        stepper = start(run, recipe)
        stepper.run_step()
        with pytest.raises(StepFailed, match="index 12"):
            stepper.run_stride(2)


@pytest.mark.parametrize("error", [FULL, LOST])
def test_a_gpus_own_class_cannot_go_on_elsewhere(
    run: Path, error: Exception, monkeypatch: pytest.MonkeyPatch
) -> None:
    fail(monkeypatch, error, at=1)
    stepper = start(run, own_class(read(run)))
    stepper.run_step()
    with pytest.raises(MissingGpu, match="the GPU cannot"):
        stepper.run_step()


@pytest.mark.parametrize("own", [False, True])
def test_a_state_too_large_for_the_gpu_is_loaded_by_the_processor(
    run: Path, own: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    take: Callable[..., torch.Tensor] = Stepper._take

    def refuse(self: Stepper, array: object) -> torch.Tensor:
        if self._profile.device != CPU:
            raise FULL
        return take(self, array)

    monkeypatch.setattr(Stepper, "_take", refuse)
    if own:
        with pytest.raises(MissingGpu, match="OutOfMemoryError"):
            start(run, own_class(read(run)))
    else:
        assert start(run, read(run)).run_step().batch


def test_whoever_retraces_goes_where_the_class_is_computed(
    run: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert isinstance(stepping.make_stepper(read(run), run / DATA), Stepper)
    with pytest.raises(MissingGpu):
        stepping.make_stepper(own_class(read(run)), run / DATA)
    monkeypatch.setattr(known_answer, "choose_device", lambda name: torch.device("meta"))
    assert isinstance(stepping.make_stepper(read(run), run / DATA), GpuStepper)


def test_a_self_check_without_the_gpu_says_so(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def miss(name: str) -> torch.device:
        raise MissingGpu(f"{name} needs a GPU")

    monkeypatch.setattr(known_answer, "choose_device", miss)
    found = check_interval(run, 0)
    assert found.identical is None
    assert found.message == "interval 0 could not be retraced: exact/1 needs a GPU"
