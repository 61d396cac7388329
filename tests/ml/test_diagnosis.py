"""`diagnose` on loops that really break in one way: step, tensors and cause are named."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional

from milepost_ml import graph
from milepost_ml.augmentation import Flip
from milepost_ml.diagnosis.findings import Diagnosis, describe
from milepost_ml.diagnosis.search import diagnose
from milepost_ml.files import DATA, TENSORS
from milepost_ml.keyed import Order, make_seed
from milepost_ml.recipe import get_snapshot_specs
from milepost_ml.recorded import read_recorded
from milepost_ml.snapshots import read_tensors, write_tensors
from milepost_ml.tensor_digests import read_tensor_digests
from tests.support.models import Task, make_task
from tests.support.training import Cheat, Loop, record

pytestmark = pytest.mark.slow  # every test records, and trains again in several ways

MLP_TENSORS = ("first.weight", "first.bias", "second.weight", "second.bias")


class SwitchedLoss:
    """The declared loss, until a loop switches to another."""

    def __init__(self, declared: Callable[..., torch.Tensor], other: Callable[..., torch.Tensor]):
        self._declared, self._other = declared, other
        self.is_other = False

    def __call__(self, output: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
        return (self._other if self.is_other else self._declared)(output, target)

    def switch(self, first: int) -> Cheat:
        """From this batch on."""

        def cheat(number: int, loop: Loop) -> None:
            self.is_other = number >= first

        return cheat


def at(number: int, action: Callable[[Loop], object]) -> Cheat:
    """Do something before one batch's forward pass."""

    def cheat(now: int, loop: Loop) -> None:
        if now == number:
            action(loop)

    return cheat


def poison(loop: Loop) -> None:
    loop.batch[1] = (loop.batch[1] + 1) % 4


def stop_zeroing(loop: Loop) -> None:
    loop.optimizer.zero_grad = lambda *args: None  # type: ignore[method-assign]


def pass_again(loop: Loop) -> None:
    with torch.no_grad():
        loop.model(loop.batch[0])


def evaluate_forward(loop: Loop) -> None:
    """Every forward pass from here on is one in evaluation mode."""
    loop.model.register_forward_pre_hook(lambda model, args: model.eval() and None)
    loop.model.register_forward_hook(lambda model, args, output: model.train() and None)


def confirm(found: Diagnosis, cause: str, step: int) -> None:
    assert not found.repeats
    assert found.cause is not None
    assert (found.cause.name, found.cause.confirmed, found.step) == (cause, True, step)
    assert "{" not in found.cause.text


def test_a_run_that_repeats_has_nothing_to_explain(tmp_path: Path) -> None:
    folder = record(tmp_path)
    for interval in range(3):
        assert diagnose(folder, interval) == Diagnosis(interval, repeats=True)
    assert describe(diagnose(folder, 1)) == []


@pytest.mark.parametrize(
    "profile",
    ["class", "rounded", "exact"],
)
@pytest.mark.parametrize("stride", [1, 5])
def test_gradients_that_are_not_cleared(profile: str, stride: int, tmp_path: Path) -> None:
    folder = record(tmp_path, cheat=at(0, stop_zeroing), profile=profile, stride=stride)
    found = diagnose(folder, 0)
    confirm(found, "kept-gradients", 1)
    assert found.tensors == MLP_TENSORS
    assert found.tensors_of == "gradient"


@pytest.mark.parametrize(
    ("cause", "options"),
    [
        ("clipped-norm", {"clip": lambda m: nn.utils.clip_grad_norm_(m.parameters(), 0.5)}),
        ("clipped-value", {"clip": lambda m: nn.utils.clip_grad_value_(m.parameters(), 0.1)}),
        ("not-clipped", {"clip_norm": 0.5}),
        ("clipped-norm", {
            "clip": lambda m: nn.utils.clip_grad_norm_(m.parameters(), 0.25), "clip_norm": 0.5,
        }),
    ],
)  # fmt: skip
def test_clipping_that_is_not_as_declared(
    cause: str, options: dict[str, Any], tmp_path: Path
) -> None:
    found = diagnose(record(tmp_path, **options), 0)
    confirm(found, cause, 0)
    assert "loss" not in found.parts


@pytest.mark.parametrize(
    ("cause", "other", "task"),
    [
        ("summed", {"reduction": "sum"}, "mlp"),
        ("summed", {"reduction": "sum"}, "mlp-mse"),
        ("smoothed", {"label_smoothing": 0.1}, "mlp"),
    ],
)
def test_another_loss_than_declared(
    cause: str, other: dict[str, Any], task: str, tmp_path: Path
) -> None:
    chosen = make_task(task)
    loss = SwitchedLoss(chosen.loss, lambda output, target: chosen.loss(output, target, **other))
    found = diagnose(record(tmp_path, task=chosen._replace(loss=loss), cheat=loss.switch(2)), 0)
    confirm(found, cause, 2)
    assert found.parts == ("gradient", "loss", "state")


def test_a_loss_that_is_not_divided_for_accumulation(tmp_path: Path) -> None:
    def undo(model: nn.Module) -> None:
        for parameter in model.parameters():
            assert parameter.grad is not None
            parameter.grad.mul_(2)

    confirm(diagnose(record(tmp_path, clip=undo, accumulate=2, steps=6), 0), "undivided", 0)


@pytest.mark.parametrize("stride", [1, 5])
def test_a_forward_pass_in_evaluation_mode(stride: int, tmp_path: Path) -> None:
    folder = record(tmp_path, task="convnet", cheat=at(3, evaluate_forward), stride=stride)
    confirm(diagnose(folder, 0), "eval-mode", 3)


@pytest.mark.parametrize("stride", [1, 5])
def test_a_forward_pass_too_many(stride: int, tmp_path: Path) -> None:
    folder = record(tmp_path, task="convnet", cheat=at(2, pass_again), stride=stride)
    confirm(diagnose(folder, 0), "forward-before", 2)


def test_a_forward_pass_that_moves_buffers_alone(tmp_path: Path) -> None:
    task = make_task("convnet")
    batch = task.inputs[Order(seed=make_seed(3), records=40, batch_size=8).get_indices(0)]

    def measure(model: nn.Module) -> None:
        with torch.no_grad():
            model(batch)

    found = diagnose(record(tmp_path, task=task, clip=measure), 0)
    confirm(found, "forward-after", 0)
    assert found.parts == ("state",)
    assert found.tensors[0] == "model.body.1.running_mean"
    assert len(found.tensors) == 6


def test_augmentation_that_is_not_done(tmp_path: Path) -> None:
    task = make_task("lenet")
    order = Order(seed=make_seed(3), records=40, batch_size=8)

    def use_plain(number: int, loop: Loop) -> None:
        loop.batch[0] = task.inputs[order.get_indices(number)]

    folder = record(
        tmp_path,
        task=task,
        cheat=use_plain,
        steps=4,
        augment=(Flip(horizontal=True, vertical=False),),
    )
    confirm(diagnose(folder, 0), "not-augmented", 0)


def test_autocast_that_is_not_declared(tmp_path: Path) -> None:
    model_of = make_task("mlp")

    def cast(loop: Loop) -> None:
        def forward(x: torch.Tensor, plain: Any = loop.model.forward) -> torch.Tensor:
            with torch.autocast("cpu", torch.bfloat16):
                result: torch.Tensor = plain(x)
            return result.float()

        loop.model.forward = forward

    found = diagnose(record(tmp_path, task=model_of, cheat=at(1, cast)), 0)
    confirm(found, "autocast", 1)


@pytest.mark.parametrize(
    ("cause", "choose"),
    [
        ("other-batch", lambda order, number: order.get_indices(7)),
        ("unshuffled", lambda order, number: np.arange(24, 32)),
        ("reversed-batch", lambda order, number: order.get_indices(number)[::-1].copy()),
        ("sorted-batch", lambda order, number: np.sort(order.get_indices(number))),
    ],
)
@pytest.mark.parametrize("stride", [1, 5])
def test_another_batch_than_the_one_that_was_given(
    stride: int, cause: str, choose: Callable[[Order, int], Any], tmp_path: Path
) -> None:
    task = make_task("mlp")
    rows = choose(Order(seed=make_seed(3), records=40, batch_size=8), 3)

    def swap(loop: Loop) -> None:
        loop.batch[:] = [task.inputs[rows], task.targets[rows]]

    found = diagnose(record(tmp_path, task=task, cheat=at(3, swap), stride=stride), 0)
    confirm(found, cause, 3)
    if cause == "other-batch":
        assert found.cause is not None
        assert "trained batch 7 where it was given batch 3" in found.cause.text


@pytest.mark.parametrize(
    ("factor", "cause", "text"),
    [(0.0, "gradient-zero", "zero"), (0.5, "gradient-scaled", "0.5 times")],
)
def test_one_gradient_that_was_changed_is_named(
    factor: float, cause: str, text: str, tmp_path: Path
) -> None:
    def change(model: nn.Module) -> None:
        gradient = model.get_parameter("second.weight").grad
        assert gradient is not None
        gradient.mul_(factor)

    found = diagnose(record(tmp_path, clip=change), 0)
    confirm(found, cause, 0)
    assert found.tensors == ("second.weight",)
    assert found.cause is not None
    assert f"second.weight are {text}" in found.cause.text


def test_a_loss_that_is_logged_times_a_factor(tmp_path: Path) -> None:
    task = make_task("mlp")

    class Logged(torch.autograd.Function):
        """Twice the loss, with the gradient of the loss."""

        @staticmethod
        def forward(ctx: Any, loss: torch.Tensor) -> torch.Tensor:
            return 2 * loss

        @staticmethod
        def backward(ctx: Any, *gradients: torch.Tensor) -> torch.Tensor:
            return gradients[0]

    def double(output: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
        result: torch.Tensor = Logged.apply(  # type: ignore[no-untyped-call]
            task.loss(output, target)
        )
        return result

    loss = SwitchedLoss(task.loss, double)
    found = diagnose(record(tmp_path, task=task._replace(loss=loss), cheat=loss.switch(1)), 0)
    confirm(found, "loss-scaled", 1)
    assert found.parts == ("loss",)


def hook_step(change: Callable[[nn.Module], None], number: int) -> Cheat:
    """Let the optimizer's step change something more, from a batch on."""

    def cheat(loop: Loop) -> None:
        # Before the recorder's own hook, which copies the state.
        handle = next(iter(loop.optimizer._optimizer_step_post_hooks))
        recorded = loop.optimizer._optimizer_step_post_hooks[handle]

        def changed(*args: Any) -> Any:
            change(loop.model)
            return recorded(*args)

        loop.optimizer._optimizer_step_post_hooks[handle] = changed

    return at(number, cheat)


@torch.no_grad()
def clamp(model: nn.Module) -> None:
    model.get_parameter("first.weight").clamp_(-0.1, 0.1)


def test_weights_that_something_else_changes(tmp_path: Path) -> None:
    found = diagnose(record(tmp_path, cheat=hook_step(clamp, 2)), 0)
    assert found.cause is not None
    assert (found.step, found.parts, found.tensors) == (2, ("state",), ("model.first.weight",))
    assert (found.cause.name, found.cause.confirmed) == ("state-parameter", False)
    assert "first.weight" in found.cause.text
    assert found.tried


def test_a_buffer_that_something_else_changes(tmp_path: Path) -> None:
    def drift(model: nn.Module) -> None:
        model.get_buffer("body.1.running_mean").add_(0.1)

    found = diagnose(record(tmp_path, task="convnet", clip=drift), 0)
    assert found.cause is not None
    assert (found.step, found.tensors) == (0, ("model.body.1.running_mean",))
    assert (found.cause.name, found.cause.confirmed) == ("state-buffer", False)
    assert "buffers (body.1.running_mean)" in found.cause.text


class Counting(nn.Module):
    """Remembers how often it was called, where nobody sees it."""

    def __init__(self) -> None:
        super().__init__()
        self.only = nn.Linear(12, 4)
        self.calls = 0

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        self.calls += not torch.compiler.is_exporting()
        result: torch.Tensor = self.only(x) / (1.0 if self.calls < 4 else 2.0)
        return result


def test_state_that_is_not_registered(tmp_path: Path) -> None:
    found = diagnose(record(tmp_path, task=make_task("mlp")._replace(make=Counting)), 0)
    assert found.cause is not None
    assert found.parts == ("gradient", "loss", "state")
    assert found.tensors == ("only.weight", "only.bias")
    assert found.cause.name == "forward"
    assert "without registering it as a buffer" in found.cause.text


def test_weights_that_stay_where_they_were(tmp_path: Path) -> None:
    kept: list[torch.Tensor] = []

    def keep(number: int, loop: Loop) -> None:
        kept[:] = [loop.model.get_parameter("first.bias").detach().clone()]
        if number == 2:
            hook_step(restore, 2)(2, loop)

    @torch.no_grad()
    def restore(model: nn.Module) -> None:
        model.get_parameter("first.bias").copy_(kept[0])

    found = diagnose(record(tmp_path, cheat=keep), 0)
    confirm(found, "frozen", 2)
    assert found.tensors == ("model.first.bias",)


@pytest.mark.parametrize(
    ("cause", "average", "step"), [("averaged-weights", 0.5, 3), ("restored-weights", None, 8)]
)
def test_weights_that_are_not_those_of_the_step_before(
    cause: str, average: float | None, step: int, tmp_path: Path
) -> None:
    """`.data` is not counted as a change by PyTorch."""
    averages: dict[str, torch.Tensor] = {}

    def follow(number: int, loop: Loop) -> None:
        """What the run's own averages are; without decay, the weights at the interval's start."""
        for name, weight in loop.model.named_parameters():
            if average is not None and number:
                averages[name].lerp_(weight.detach(), 1 - average)
            elif number in (0, 5):
                averages[name] = weight.detach().clone()
        if number == step:
            for name, weight in loop.model.named_parameters():
                weight.data.copy_(averages[name])

    found = diagnose(record(tmp_path, cheat=follow, average=average), step // 5)
    confirm(found, cause, step)


def test_what_nothing_explains_says_what_was_tried(tmp_path: Path) -> None:
    found = diagnose(record(tmp_path, cheat=at(2, poison)), 0)
    assert found.cause is not None
    assert (found.step, found.tensors, found.compared) == (2, MLP_TENSORS, 4)
    assert (found.cause.name, found.cause.confirmed) == ("forward", False)
    assert "other batches" in found.tried
    assert [label for label, _ in describe(found)] == [
        "first difference", "tensors", "usual cause", "tried, not it",
    ]  # fmt: skip


def test_later_intervals_name_tensors_of_their_end(tmp_path: Path) -> None:
    found = diagnose(record(tmp_path, cheat=at(6, poison)), 1)
    assert (found.step, found.tensors_of) == (6, "end")
    assert found.tensors[0] == "model.first.weight"
    assert "zero_grad() left out" in found.tried
    assert any("at the interval's end" in text for _, text in describe(found))
    first = diagnose(record(tmp_path, cheat=at(5, poison)), 1)
    assert first.step == 5
    assert "zero_grad() left out" not in first.tried, "the gradient before it is not at hand"
    last = diagnose(record(tmp_path, cheat=hook_step(clamp, 9)), 1)
    assert (last.step, last.tensors_of, last.tensors) == (9, "state", ("model.first.weight",))


def test_changed_data_are_named(tmp_path: Path) -> None:
    folder = record(tmp_path, steps=30)
    data = read_tensors(folder / DATA)
    data["data.0"][17] += 1
    write_tensors(folder / DATA, data)
    order = Order(seed=make_seed(3), records=40, batch_size=8)
    step = next(step for step in range(5) if 17 in order.get_indices(step))
    found = diagnose(folder, 0)
    confirm(found, "data-records", step)
    assert found.cause is not None
    assert "record 17 is not what was fed" in found.cause.text
    data["data.0"] += 1
    write_tensors(folder / DATA, data)
    confirm(diagnose(folder, 0), "data-records", 0)


def test_an_operator_that_answers_differently_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = record(tmp_path)
    plain, calls = graph.get_operator, iter(range(1_000_000))

    def get_operator(name: str) -> Callable[..., Any]:
        kernel = plain(name)
        if name != "tanh":
            return kernel
        return lambda value: kernel(value) * (1 + 1e-6 * next(calls))

    monkeypatch.setattr(graph, "get_operator", get_operator)
    found = diagnose(folder, 0)
    confirm(found, "unsteady", 0)
    assert found.cause is not None
    assert "the operator tanh" in found.cause.text
    assert "after first.weight, first.bias" in found.cause.text


def test_an_operator_whose_gradient_differs_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = record(tmp_path)
    plain, calls = graph.get_operator, iter(range(1_000_000))

    class Noisy(torch.autograd.Function):
        """tanh with a gradient that is another one each time."""

        @staticmethod
        def forward(ctx: Any, value: torch.Tensor) -> torch.Tensor:
            return torch.tanh(value)

        @staticmethod
        def backward(ctx: Any, *gradients: torch.Tensor) -> torch.Tensor:
            return gradients[0] * next(calls)

    def get_operator(name: str) -> Callable[..., Any]:
        return Noisy.apply if name == "tanh" else plain(name)

    monkeypatch.setattr(graph, "get_operator", get_operator)
    found = diagnose(folder, 0)
    confirm(found, "unsteady", 0)
    assert found.cause is not None
    assert "the backward pass, in first.weight" in found.cause.text


def test_within_a_tolerance_the_end_decides(tmp_path: Path) -> None:
    options: dict[str, Any] = {"profile": "tolerance", "tolerance": 1e-3, "every": 5}
    assert diagnose(record(tmp_path, **options), 0).repeats
    clipped = record(
        tmp_path, clip=lambda m: nn.utils.clip_grad_norm_(m.parameters(), 0.5), **options
    )
    found = diagnose(clipped, 0)
    confirm(found, "clipped-norm", 0)
    assert found.tensors_of == "end"
    assert any("only the end of steps 0 to 4" in text for _, text in describe(found))
    strange = diagnose(record(tmp_path, cheat=at(3, poison), **options), 0)
    assert strange.cause is not None
    assert (strange.step, strange.cause.name) == (3, "forward")


def test_another_number_of_threads(tmp_path: Path) -> None:
    """Two threads divide the sums of a convolution's gradient otherwise than one."""
    before = torch.get_num_threads()
    try:
        folder = record(
            tmp_path, task=make_task("lenet", 200), batch_size=128, steps=2, every=2,
            cheat=at(0, lambda loop: torch.set_num_threads(2)),
        )  # fmt: skip
    finally:
        torch.set_num_threads(before)
    confirm(diagnose(folder, 0), "threads", 0)


def test_digests_by_tensor_are_kept_of_the_first_interval(tmp_path: Path) -> None:
    folder = record(tmp_path, steps=9, every=5, stride=2)
    recipe = read_recorded(folder)
    rows = read_tensor_digests(folder, recipe)
    assert rows is not None
    assert len(rows) == 3
    assert set(rows[0].gradients) == set(MLP_TENSORS)
    assert set(rows[0].state) == {spec.name for spec in get_snapshot_specs(recipe, 1)}
    kept = (folder / TENSORS).read_bytes()
    (folder / TENSORS).write_bytes(kept[: len(kept) // 3])
    assert read_tensor_digests(folder, recipe) == rows[:1]
    (folder / TENSORS).write_bytes(b"x")
    assert read_tensor_digests(folder, recipe) is None
    assert diagnose(folder, 0).repeats


def test_records_without_them_name_tensors_of_the_end(tmp_path: Path) -> None:
    folder = record(tmp_path, cheat=at(2, poison))
    (folder / TENSORS).unlink()
    assert diagnose(folder, 0).tensors_of == "end"


def test_a_step_that_cannot_be_computed_says_why(tmp_path: Path) -> None:
    task: Task = make_task("mlp")
    folder = record(tmp_path, task=task)
    data = read_tensors(folder / DATA)
    data["data.1"][:] = 9
    write_tensors(folder / DATA, data)
    found = diagnose(folder, 0)
    assert found.parts == ("failed",)
    assert found.cause is not None
    assert "Target 9 is out of bounds" in found.cause.text


def test_functional_losses_are_edited_where_they_stand(tmp_path: Path) -> None:
    """A mean that is declared as a product is no reduction to swap."""
    task = make_task("mlp")
    loss = SwitchedLoss(
        lambda output, target: functional.cross_entropy(output, target, reduction="sum"),
        functional.cross_entropy,
    )
    found = diagnose(record(tmp_path, task=task._replace(loss=loss), cheat=loss.switch(1)), 0)
    confirm(found, "averaged", 1)
