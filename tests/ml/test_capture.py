"""Models that cannot be captured are refused by name, with what to use instead."""

from __future__ import annotations

import random
from collections.abc import Callable

import pytest
import torch
from torch import nn
from torch.nn import functional

from milepost_ml.arithmetic.profiles import ExactProfile, Profile, RoundedProfile
from milepost_ml.capture import Captured, capture
from milepost_ml.device import configure_torch
from milepost_ml.errors import RecordingError
from tests.support.models import make_model, make_task

CLASS = Profile()


@pytest.fixture(autouse=True)
def configured() -> None:
    configure_torch()


class Layer(nn.Module):
    """A linear layer with any function of its output, and a buffer to use."""

    def __init__(self, function: Callable[[Layer, torch.Tensor], torch.Tensor]) -> None:
        super().__init__()
        self.linear = nn.Linear(4, 3)
        self.register_buffer("seen", torch.zeros(()))
        self.function = (function,)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.function[0](self, self.linear(x))


X, Y = torch.arange(8.0).reshape(2, 4) / 8, torch.tensor([0, 2])


def run(function: Callable[[Layer, torch.Tensor], torch.Tensor]) -> Captured:
    return capture(
        Layer(function), functional.cross_entropy, (X, Y), generator_seed=0, profile=CLASS
    )


def without_gradient(layer: Layer, x: torch.Tensor) -> torch.Tensor:
    with torch.no_grad():
        offset = x.mean()
    return x - offset


UNKNOWN: list[tuple[str, Callable[[Layer, torch.Tensor], torch.Tensor], str]] = [
    ("lift_fresh_copy", lambda _, x: x * torch.tensor([1.0, 2.0, 3.0]), "register_buffer"),
    ("wrap_with_set_grad_enabled", without_gradient, "detach"),
    ("bernoulli", lambda _, x: x * torch.bernoulli(x.sigmoid().detach()), "rand_like"),
    ("scatter_add", lambda _, x: x.scatter_add(1, torch.zeros_like(x).long(), x), "one_hot"),
    ("linalg_det", lambda _, x: x * torch.linalg.det(x[:, :2]), "operators.py"),
    ("copy_", lambda s, x: x + s.get_buffer("seen").copy_(x.mean().detach()), "new tensor"),
]


@pytest.mark.parametrize(("name", "function", "advice"), UNKNOWN, ids=lambda v: str(v)[:20])
def test_unlisted_operators_are_refused_by_name(
    name: str, function: Callable[[Layer, torch.Tensor], torch.Tensor], advice: str
) -> None:
    with pytest.raises(RecordingError) as caught:
        run(function)
    assert caught.value.slug == "unknown-operator"
    assert name in str(caught.value)
    assert advice in str(caught.value)


def test_the_layer_is_named() -> None:
    odd = Layer(lambda _, x: x.cumprod(1))
    odd.linear = nn.Linear(3, 3)
    model = nn.Sequential(nn.Linear(4, 3), nn.Sequential(odd))
    with pytest.raises(RecordingError, match=r"layer '1\.0'.*cumprod"):
        capture(model, functional.cross_entropy, (X, Y), generator_seed=0, profile=CLASS)


def test_operators_without_an_exact_kernel_are_refused_by_layer() -> None:
    model = nn.Sequential(nn.Linear(4, 3), nn.Sequential(nn.ReLU(), nn.Softplus()))
    with pytest.raises(RecordingError, match=r"layer '1\.1' uses softplus.*rounded") as caught:
        capture(model, functional.cross_entropy, (X, Y), generator_seed=0, profile=ExactProfile())
    assert caught.value.slug == "no-exact-kernel"
    assert capture(
        model, functional.cross_entropy, (X, Y), generator_seed=0, profile=RoundedProfile()
    ).trained == {"0.weight", "0.bias"}
    assert {parameter.dtype for parameter in model.parameters()} == {torch.float32}


def test_arguments_that_recipes_leave_out_are_refused() -> None:
    def convert(_: Layer, x: torch.Tensor) -> torch.Tensor:
        return x.reshape(1, 3, 2, 1).contiguous(memory_format=torch.channels_last).reshape(2, 3)

    with pytest.raises(RecordingError, match="memory_format") as caught:
        run(convert)
    assert caught.value.slug == "unknown-operator"


def test_half_precision_is_refused() -> None:
    with pytest.raises(RecordingError, match="bfloat16") as caught:
        run(lambda _, x: x.to(torch.bfloat16).float())
    assert caught.value.slug == "unknown-operator"


def branch(_: Layer, x: torch.Tensor) -> torch.Tensor:
    return x if x.sum() > 0 else -x


def test_branches_on_values_cannot_be_captured() -> None:
    with pytest.raises(RecordingError, match="forward") as caught:
        run(branch)
    assert caught.value.slug == "cannot-capture"


def test_foreign_randomness_is_noticed() -> None:
    with pytest.raises(RecordingError, match="numpy randomness") as caught:
        run(lambda _, x: x * random.random())
    assert caught.value.slug == "cannot-capture"


def test_a_state_outside_buffers_is_noticed() -> None:
    counts = [0]

    def count(_: Layer, x: torch.Tensor) -> torch.Tensor:
        counts[0] += 1
        return x * counts[0]

    with pytest.raises(RecordingError) as caught:
        run(count)
    assert caught.value.slug == "cannot-capture"


@pytest.mark.parametrize(
    "loss",
    [
        lambda output, target: functional.cross_entropy(output, target, reduction="none"),
        lambda output, target: functional.cross_entropy(output, target).double(),
        lambda output, target: functional.cross_entropy(output, target).item(),
        lambda output, target: functional.cross_entropy(output.detach(), target),
    ],
)
def test_a_loss_must_be_one_trainable_number(
    loss: Callable[[torch.Tensor, torch.Tensor], torch.Tensor],
) -> None:
    with pytest.raises(RecordingError) as caught:
        capture(Layer(lambda _, x: x), loss, (X, Y), generator_seed=0, profile=CLASS)
    assert caught.value.slug in ("cannot-capture", "bad-recipe", "unknown-operator")


def test_sparse_gradients_are_refused() -> None:
    model = nn.Sequential(nn.Embedding(5, 4, sparse=True), nn.Flatten(), nn.Linear(8, 3))
    x = torch.tensor([[0, 1], [2, 3]])
    with pytest.raises(RecordingError, match="sparse") as caught:
        capture(model, functional.cross_entropy, (x, Y), generator_seed=0, profile=CLASS)
    assert caught.value.slug == "sparse-gradients"


def test_capturing_changes_nothing() -> None:
    task = make_task("convnet")
    model = make_model(task)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    generator = torch.random.get_rng_state()
    capture(model, task.loss, (task.inputs[:8], task.targets[:8]), generator_seed=1, profile=CLASS)
    assert torch.equal(torch.random.get_rng_state(), generator)
    assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())
    assert all(parameter.grad is None for parameter in model.parameters())
    assert model.training


def test_only_parameters_with_a_gradient_count_as_trained() -> None:
    model = Layer(lambda _, x: x)
    model.register_parameter("unused", nn.Parameter(torch.ones(2)))
    model.linear.bias.requires_grad_(False)
    captured = capture(model, functional.cross_entropy, (X, Y), generator_seed=0, profile=CLASS)
    assert captured.trained == {"linear.weight"}
    assert {item.name for item in captured.graph.inputs} == {
        *("linear.weight", "linear.bias", "data.0", "data.1")
    }


def test_shared_tensors_are_recorded_once_under_their_first_name() -> None:
    task = make_task("transformer")
    captured = capture(
        make_model(task),
        task.loss,
        (task.inputs[:4], task.targets[:4]),
        generator_seed=0,
        profile=CLASS,
    )
    names = [item.name for item in captured.graph.inputs if item.source == "parameter"]
    assert "embed.weight" in names
    assert "head.weight" not in names
    assert len(names) == len(set(names))
