"""What other people's models say in their own words, as recipes write it."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch.nn.functional import mse_loss

from milepost_ml.arithmetic.profiles import make_profile
from milepost_ml.capture import capture
from milepost_ml.errors import RecordingError
from milepost_ml.graph import get_operator
from milepost_ml.respelling import make_constant


class Model(torch.nn.Module):
    def __init__(self, compute: Callable[[torch.Tensor], torch.Tensor]) -> None:
        super().__init__()
        self.layer = torch.nn.Linear(3, 3)
        self._compute = compute

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self._compute(self.layer(x))


def list_operators(compute: Callable[[torch.Tensor], torch.Tensor]) -> list[str]:
    torch.manual_seed(0)
    batch = (torch.rand(4, 3), torch.rand(4, 3))
    graph = capture(
        Model(compute), mse_loss, batch, generator_seed=1, profile=make_profile("class")
    ).graph
    return [node.op for node in graph.nodes]


@pytest.mark.parametrize(
    ("compute", "listed"),
    [
        (lambda y: y * torch.tensor(1.5), "scalar_tensor"),
        (lambda y: y * torch.tensor([2.0, 2.0, 2.0]), "full"),
        (lambda y: y + torch.tensor([[0, 1, 2], [0, 1, 2], [0, 1, 2], [0, 1, 2]]), "expand"),
        (lambda y: y * y.new_ones(3), "ones"),
        (lambda y: y + y.new_zeros((4, 3)), "zeros"),
        (lambda y: y * ((y > 0) & (y < 1)), "bitwise_and.Tensor"),
        (lambda y: y * ((y > 0) | (y < -1)), "bitwise_or.Tensor"),
        (lambda y: y * (y > 0).to(device="cpu", dtype=torch.float32), "to.dtype"),
    ],
)
def test_it_is_written_with_a_listed_operator(
    compute: Callable[[torch.Tensor], torch.Tensor], listed: str
) -> None:
    # Capturing compares the graph's loss and gradients with the model's, bit for bit.
    assert listed in list_operators(compute)


def test_values_without_a_pattern_stay_refused() -> None:
    with pytest.raises(RecordingError, match="lift_fresh_copy") as caught:
        list_operators(lambda y: y * torch.tensor([0.5, 0.25, 2.0]))
    assert caught.value.slug == "unknown-operator"


@pytest.mark.parametrize(
    "tensor",
    [
        torch.tensor(3),
        torch.tensor(True),
        torch.tensor(float("-inf")),
        torch.zeros(2, 3, dtype=torch.int64),
        torch.full((4,), -1.5),
        torch.arange(5),
        torch.arange(4).expand(2, 4),
    ],
)
def test_a_constant_is_rebuilt_with_all_its_bits(tensor: torch.Tensor) -> None:
    calls = make_constant(tensor)
    assert calls is not None
    made = torch.empty(0)
    for call in calls:
        values = [list(each) if isinstance(each, tuple) else each for each in call.values]
        options = {"dtype": values.pop()} if isinstance(values[-1], torch.dtype) else {}
        made = get_operator(call.name)(*[made][: call.previous], *values, **options)
    assert made.dtype == tensor.dtype
    assert torch.equal(made, tensor)


@pytest.mark.parametrize(
    "tensor", [torch.tensor([1.0, 2.0]), torch.arange(3.0), torch.arange(1, 4), torch.empty(0)]
)
def test_other_constants_have_no_pattern(tensor: torch.Tensor) -> None:
    assert make_constant(tensor) is None
