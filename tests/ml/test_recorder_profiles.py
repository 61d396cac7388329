"""What the three arithmetic profiles make of a run, and that it leaves nothing of them behind."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional

from milepost_consensus.payloads import KNOWN_PROFILES, PROFILES
from milepost_ml.admission import build_submit
from milepost_ml.arithmetic.exact import is_active
from milepost_ml.errors import RecordingError, RefusedOperator
from milepost_ml.files import FolderFiles
from milepost_ml.keyed import Order
from milepost_ml.record_files import read_recipe, read_state
from milepost_ml.recorder import Run
from milepost_ml.replay import retrace_recorded
from tests.support.models import MLP, make_task
from tests.support.training import Loop, make_sgd, record

pytestmark = pytest.mark.slow  # trains

CLASSES = {"exact": "exact/1", "rounded": "rounded/1"}


@pytest.fixture(autouse=True)
def undisturbed() -> Iterator[None]:
    """Every test must leave PyTorch's modes, types and threads as they were."""
    threads = torch.get_num_threads()
    yield
    assert not is_active()
    assert torch.get_default_dtype() == torch.float32
    torch.set_num_threads(threads)


def make_adam(model: nn.Module) -> torch.optim.Optimizer:
    return torch.optim.AdamW(model.parameters(), 1e-2, amsgrad=True)


def make_run(tmp_path: Path, **options: Any) -> tuple[Run, MLP, torch.optim.Optimizer]:
    torch.manual_seed(1)
    model = MLP()
    optimizer = make_sgd(model)
    settings = {"loss": functional.cross_entropy, "every": 3, "folder": tmp_path, "seed": 1}
    settings |= {"selfcheck": False, "quiet": True, **options}
    return Run("test", model, optimizer, **settings), model, optimizer  # type: ignore[arg-type]


def begin(run: Run, steps: int = 6) -> Iterator[tuple[torch.Tensor, ...]]:
    task = make_task("mlp")
    return run.batches(task.inputs, task.targets, batch_size=8, steps=steps)


def step(model: nn.Module, optimizer: torch.optim.Optimizer, batch: Any) -> torch.Tensor:
    loss = functional.cross_entropy(model(batch[0]), batch[1])
    optimizer.zero_grad()
    loss.backward()  # type: ignore[no-untyped-call]
    optimizer.step()
    return loss


@pytest.mark.parametrize("profile", ["exact", "rounded"])
@pytest.mark.parametrize("task", ["mlp-mse", "lenet", "convnet", "transformer"])
@pytest.mark.parametrize("make", [make_sgd, make_adam])
def test_runs_retrace_with_any_number_of_threads(
    profile: str, task: str, make: Callable[[nn.Module], torch.optim.Optimizer], tmp_path: Path
) -> None:
    torch.set_num_threads(2)
    folder = record(tmp_path, task=task, make=make, profile=profile)
    torch.set_num_threads(1)
    assert all(retrace_recorded(folder, k).agrees for k in range(3))
    submit, _ = build_submit(folder)
    assert (submit.profile, submit.device_class) == (profile, CLASSES[profile])
    specs = read_state(FolderFiles(folder), read_recipe(FolderFiles(folder))[1], 3)
    assert {array.dtype for array in specs.values() if array.dtype.kind == "f"} == {
        np.dtype(np.float32)
    }


def test_the_profiles_differ_in_their_bits(tmp_path: Path) -> None:
    models = {
        (record(tmp_path, profile=profile) / "model.safetensors").read_bytes()
        for profile in PROFILES
    }
    assert len(models) == 3


@pytest.mark.parametrize("profile", ["exact", "rounded", "tolerance"])
def test_the_number_of_threads_is_the_users(profile: str, tmp_path: Path) -> None:
    torch.set_num_threads(2)
    record(tmp_path, steps=2, every=2, profile=profile)
    assert torch.get_num_threads() == 2


def test_exact_is_the_default(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run, model, optimizer = make_run(tmp_path, quiet=False)
    for batch in begin(run):
        assert batch[0].dtype == torch.float32
        run.log(step(model, optimizer, batch))
    assert build_submit(run.finish())[0].device_class == "exact/1"
    assert "with profile exact: the same bits on every processor" in capsys.readouterr().err


class Odd(nn.Module):
    """A model with an operator that no rule of exact arithmetic covers."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Linear(12, 4)
        self.odd = nn.Softplus()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        result: torch.Tensor = self.odd(self.first(x))
        return result


def train_odd(tmp_path: Path, model: nn.Module, profile: str | None) -> Path:
    task = make_task("mlp")
    optimizer = make_sgd(model)
    run = Run(
        "odd", model, optimizer, loss=task.loss, every=2, folder=tmp_path, profile=profile,
        selfcheck=False,
    )  # fmt: skip
    for batch in run.batches(task.inputs, task.targets, batch_size=4, steps=2):
        run.log(step(model, optimizer, batch))
    return run.finish()


def test_an_operator_without_a_kernel_is_refused_by_name_and_layer(tmp_path: Path) -> None:
    with pytest.raises(RecordingError, match=r"layer 'odd' uses softplus, .* no exact") as caught:
        train_odd(tmp_path, Odd(), "exact")
    assert caught.value.slug == "no-exact-kernel"
    assert not list(tmp_path.iterdir())


def test_the_next_profile_is_taken_and_said(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = train_odd(tmp_path, Odd(), None)
    told = capsys.readouterr().err
    assert "not with profile exact: layer 'odd' uses softplus" in told
    assert "with profile rounded" in told
    assert build_submit(folder)[0].profile == "rounded"
    assert retrace_recorded(folder, 0).agrees


class Single(Odd):
    """A model that asks for float32 in the middle."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = super().forward(x)
        return y * y.detach().to(torch.float32).exp()


def test_a_model_that_insists_on_float32_is_not_rounded(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(RecordingError, match=r"computes in torch\.float32"):
        train_odd(tmp_path, Single(), "rounded")
    assert build_submit(train_odd(tmp_path, Single(), None))[0].profile == "class"
    assert "not with profile rounded" in capsys.readouterr().err


def test_an_unknown_profile_is_refused(tmp_path: Path) -> None:
    with pytest.raises(RecordingError) as caught:
        make_run(tmp_path, profile="magic")
    assert caught.value.slug == "bad-profile"


# Nothing is left behind --------------------------------------------------------------------------


@pytest.mark.parametrize("profile", KNOWN_PROFILES)
def test_model_and_optimizer_are_as_before(profile: str, tmp_path: Path) -> None:
    run, model, optimizer = make_run(tmp_path, profile=profile)
    options = {**optimizer.param_groups[0], "params": None}
    for batch in begin(run):
        run.log(step(model, optimizer, batch))
    folder = run.finish()
    assert {**optimizer.param_groups[0], "params": None} == options
    state = read_state(FolderFiles(folder), read_recipe(FolderFiles(folder))[1], 2)
    for name, parameter in model.named_parameters():
        assert parameter.dtype == torch.float32
        assert parameter.grad is not None
        assert parameter.grad.dtype == torch.float32
        assert np.array_equal(parameter.detach().numpy(), state[f"model.{name}"])
        slot = optimizer.state[parameter]["momentum_buffer"]
        assert slot.dtype == torch.float32
        assert np.array_equal(slot.numpy(), state[f"optimizer.{name}.momentum_buffer"])
    step(model, optimizer, (make_task("mlp").inputs, make_task("mlp").targets))


@pytest.mark.parametrize("profile", KNOWN_PROFILES)
@pytest.mark.parametrize("how", ["break", "error", "refusal", "finish inside", "held"])
def test_the_arithmetic_ends_with_the_loop(profile: str, how: str, tmp_path: Path) -> None:
    run, model, optimizer = make_run(tmp_path, profile=profile)
    batches = begin(run) if how in ("held", "finish inside") else None

    def loop() -> None:
        for batch in batches if batches is not None else begin(run):
            assert is_active() == (profile == "exact")
            run.log(step(model, optimizer, batch))
            if how == "break":
                return
            if how == "error":
                raise KeyError
            if how == "finish inside":
                run.finish()
                assert not is_active()
                return
            optimizer.step()

    if how in ("break", "finish inside"):
        loop()
    else:
        with pytest.raises(KeyError if how == "error" else RecordingError):
            loop()
    assert not is_active()
    assert torch.get_default_dtype() == torch.float32


@pytest.mark.parametrize("profile", KNOWN_PROFILES)
def test_a_pause_is_plain_pytorch_and_no_part_of_the_run(profile: str, tmp_path: Path) -> None:
    task = make_task("convnet")
    folders = []
    for paused in (False, True):
        torch.manual_seed(1)
        model = task.make()
        optimizer = make_sgd(model)
        run = Run(
            "p", model, optimizer, loss=task.loss, every=2, folder=tmp_path, seed=1,
            profile=profile, selfcheck=False, quiet=True,
        )  # fmt: skip
        for batch in run.batches(task.inputs, task.targets, batch_size=8, steps=4):
            loss = task.loss(model(batch[0]), batch[1])
            if paused:
                with run.paused():
                    model.eval()
                    assert not is_active()
                    assert model(task.inputs).softmax(1).cumsum(1).dtype == torch.float32
                    torch.rand(3)
                    model.train()
            optimizer.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            optimizer.step()
            run.log(loss)
        folders.append(run.finish())
    first, second = ((folder / "model.safetensors").read_bytes() for folder in folders)
    assert first == second
    assert retrace_recorded(folders[1], 1).agrees


def test_a_pause_outside_a_run_is_refused(tmp_path: Path) -> None:
    run, _, _ = make_run(tmp_path)
    with pytest.raises(RecordingError), run.paused():
        pass


def test_evaluation_with_odd_operators_needs_a_pause(tmp_path: Path) -> None:
    run, model, _ = make_run(tmp_path, profile="exact")

    def loop() -> None:
        for batch in begin(run):
            functional.softplus(model(batch[0]))

    with pytest.raises(RefusedOperator, match=r"run\.paused"):
        loop()


def test_a_record_that_cannot_begin_leaves_the_model_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("milepost_ml.run_folder.write_tensors", fail)
    run, model, optimizer = make_run(tmp_path, profile="rounded")
    with pytest.raises(OSError, match="No space"):
        begin(run)
    assert {item.dtype for item in model.parameters()} == {torch.float32}
    assert not optimizer.param_groups[0]["fused"]


# What is recorded --------------------------------------------------------------------------------


def test_the_rounded_state_is_what_training_goes_on_with(tmp_path: Path) -> None:
    def look(_: int, loop: Loop) -> None:
        for tensor in loop.model.parameters():
            assert tensor.dtype == torch.float64
            assert torch.equal(tensor, tensor.float().double())
            slot = loop.optimizer.state[tensor]["momentum_buffer"]
            assert slot.dtype == torch.float64
            assert torch.equal(slot, slot.float().double())

    record(tmp_path, profile="rounded", after=look)


def test_rounded_steps_are_float64_steps_rounded(tmp_path: Path) -> None:
    folder = record(tmp_path, task="mlp-mse", profile="rounded", steps=1, every=1)
    files = FolderFiles(folder)
    _, recipe = read_recipe(files)
    before, after = read_state(files, recipe, 0), read_state(files, recipe, 1)
    task = make_task("mlp-mse")
    indices = Order(seed=recipe.seed_bytes, records=40, batch_size=8).get_indices(0)
    x, y = (array.numpy()[indices].astype(np.float64) for array in (task.inputs, task.targets))
    w1, b1, w2, b2 = (
        before[f"model.{name}"].astype(np.float64)
        for name in ("first.weight", "first.bias", "second.weight", "second.bias")
    )
    h = np.tanh(x @ w1.T + b1)
    g = (2 * (h @ w2.T + b2 - y) / y.size).sum(0)
    rounded = torch.from_numpy(g).to(torch.bfloat16).double().numpy()
    expected = b2 - 0.05 * (rounded + 1e-3 * b2)
    assert after["model.second.bias"].tolist() == expected.astype(np.float32).tolist()
