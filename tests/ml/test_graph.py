"""The interpreter gives the bits of the eager module, and finds what cannot fit beforehand."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.nn import functional

from milepost_ml.arithmetic.profiles import Profile
from milepost_ml.capture import capture
from milepost_ml.device import configure_torch
from milepost_ml.errors import InvalidRecord
from milepost_ml.graph import MAX_VALUES, GraphRunner
from milepost_ml.nodes import Node, Ref
from tests.support.models import TASKS, make_model, make_task
from tests.support.recipes import make_graph

CLASS = Profile()


@pytest.fixture(autouse=True)
def configured() -> None:
    configure_torch()


@pytest.mark.parametrize("name", TASKS)
def test_loss_gradients_and_buffers_are_those_of_the_module(name: str) -> None:
    task = make_task(name)
    model = make_model(task)
    captured = capture(
        model, task.loss, (task.inputs[:8], task.targets[:8]), generator_seed=3, profile=CLASS
    )
    runner = GraphRunner(captured.graph)
    parameters = {
        key: value.detach().clone().requires_grad_(value.requires_grad)
        for key, value in model.named_parameters()
    }
    buffers = {key: value.clone() for key, value in model.named_buffers()}
    for step in range(3):
        x, y = task.inputs[8 * step :][:8], task.targets[8 * step :][:8]
        torch.manual_seed(step)
        expected = task.loss(model(x), y)
        model.zero_grad()
        expected.backward()  # type: ignore[no-untyped-call]
        torch.manual_seed(step)
        data = {"data.0": x, "data.1": y}
        loss = runner.run({"parameter": parameters, "buffer": buffers, "data": data})
        for value in parameters.values():
            value.grad = None
        loss.backward()  # type: ignore[no-untyped-call]
        assert torch.equal(loss, expected)
        for key, value in model.named_parameters():
            assert value.grad is not None
            found = parameters[key].grad
            assert found is not None
            assert found.numpy().tobytes() == value.grad.numpy().tobytes(), (step, key)
        for key, value in model.named_buffers():
            assert torch.equal(buffers[key], value), (step, key)


def test_sizes_are_found_without_memory() -> None:
    shapes: dict[str, dict[str, tuple[str, tuple[int, ...]]]] = {
        "data": {"data.0": ("F32", (2, 4)), "data.1": ("F32", (2, 3))},
        "parameter": {"weight": ("F32", (3, 4)), "bias": ("F32", (3,))},
        "buffer": {"scale": ("F32", ())},
    }
    GraphRunner(make_graph()).validate(shapes, CLASS)
    enormous = [
        make_graph(Node("ones", ((2**20, 2**20), None)), Node("sum", (Ref(5), None))),
        make_graph(
            *(Node("repeat", (Ref(0 if i == 0 else 4 + i), (64, 1))) for i in range(6)),
            Node("sum", (Ref(10), None)),
        ),
        make_graph(
            *(Node("ones", ((MAX_VALUES // 4,), None)) for _ in range(5)),
            Node("sum", (Ref(5), None)),
        ),
    ]
    unfit = [
        make_graph(Node("matmul", (Ref(0), Ref(0))), Node("sum", (Ref(5), None))),
        make_graph(Node("view", (Ref(0), (3, 3))), Node("sum", (Ref(5), None))),
        make_graph(Node("relu", (Ref(0),))),
        make_graph(Node("sum", (Ref(0), None)), Node("gt.Scalar", (Ref(5), 0))),
        make_graph(Node("ones", ((-1,), None)), Node("sum", (Ref(5), None))),
    ]
    for graph in (*enormous, *unfit):
        with pytest.raises(InvalidRecord) as caught:
            GraphRunner(graph).validate(shapes, CLASS)
        assert caught.value.slug == "bad-recipe"


class Zoo(nn.Module):
    """Many listed operators in one forward."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv1d(3, 4, 3, padding="same")
        self.up = nn.ConvTranspose1d(4, 4, 2, stride=2)
        self.group = nn.GroupNorm(2, 4)
        self.instance = nn.InstanceNorm1d(4, affine=True)
        self.prelu = nn.PReLU()
        self.register_buffer("weights", torch.tensor([0.5, 1.5, 1.0, 1.0]))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.prelu(self.group(self.conv(x)))
        x = self.instance(self.up(x)) * self.get_buffer("weights")[None, :, None]
        x = functional.pad(x, (1, 1), mode="replicate")
        first, second = torch.split(x, [2, 2], dim=1)
        x = torch.cat([functional.silu(first), functional.softplus(second)], dim=1)
        x = torch.where(x > 0.5, x, x.clamp(min=-1.0).exp())
        x = x + torch.rand_like(x) * 0.01
        x = torch.einsum("bcl,bdl->bcd", x, x) / x.shape[-1]
        x = x.roll(1, dims=(1,)).flip(2)
        x = x[:, torch.arange(4), torch.arange(4)]
        return functional.normalize(x, dim=-1) + x.var(dim=1, keepdim=True).sqrt()


def test_many_operators_capture_and_repeat() -> None:
    torch.manual_seed(0)
    model = Zoo()
    x, y = torch.randn(4, 3, 8), torch.randn(4, 4)
    for loss in (
        nn.SmoothL1Loss(),
        nn.HuberLoss(delta=0.5),
        nn.BCEWithLogitsLoss(),
        nn.L1Loss(reduction="sum"),
        lambda output, target: functional.kl_div(
            output.log_softmax(1), target.softmax(1), reduction="batchmean"
        ),
    ):
        targets = torch.sigmoid(y) if isinstance(loss, nn.BCEWithLogitsLoss) else y
        # capture compares loss and all gradients with the module's, bit for bit.
        captured = capture(model, loss, (x, targets), generator_seed=9, profile=CLASS)
        assert len(captured.trained) == len(list(model.parameters()))
