"""A small recipe made by hand, and ways to change it."""

from __future__ import annotations

from milepost_ml.initial import Constant, Given, Uniform
from milepost_ml.nodes import Graph, Input, Node, Ref
from milepost_ml.recipe import Parameter, Recipe
from milepost_ml.snapshots import TensorSpec
from milepost_ml.updates import SGD, Group, Rates, Settings

LINEAR = Node("linear", (Ref(0), Ref(1), Ref(2)))
LOSS = Node("mse_loss", (Ref(5), Ref(3), 1))


def make_graph(*nodes: Node, loss: int | None = None) -> Graph:
    """data.0 (0), weight (1), bias (2), data.1 (3), a buffer (4), then the nodes from 5 on."""
    inputs = (
        Input("data", "data.0"),
        Input("parameter", "weight"),
        Input("parameter", "bias"),
        Input("data", "data.1"),
        Input("buffer", "scale"),
    )
    chosen = nodes or (LINEAR, LOSS)
    return Graph(inputs, chosen, len(inputs) + len(chosen) - 1 if loss is None else loss)


MOMENTUM = SGD(momentum=0.9, dampening=0.0, weight_decay=0.0, nesterov=False)


def make_groups(
    optimizer: Settings = MOMENTUM, rates: Rates = ((3, 0.1), (4, 0.05))
) -> tuple[Group, ...]:
    """One group with the recipe's trained parameter."""
    return (Group(("weight",), optimizer, rates),)


def make_recipe() -> Recipe:
    """Ten records, batches of two, seven steps in intervals of three."""
    return Recipe(
        device_class="torch-2.13.0/x86_64/avx512/threads-1/kat-0000000000000000",
        seed="00" * 32,
        data=(TensorSpec("data.0", "F32", (10, 4)), TensorSpec("data.1", "F32", (10, 3))),
        batch_size=2,
        steps=7,
        steps_per_interval=3,
        steps_per_digest=1,
        parameters=(Parameter("weight", (3, 4), True), Parameter("bias", (3,), False)),
        buffers=(TensorSpec("scale", "F32", ()),),
        initial=(Given(), Uniform(0.5), Constant(1.0)),
        groups=make_groups(),
        graph=make_graph(),
        profile="class",
    )
