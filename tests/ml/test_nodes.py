"""Graphs of strangers: anything that is not a sound computation by listed operators is refused."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from milepost_ml.errors import InvalidRecord
from milepost_ml.nodes import (
    MAX_LIST,
    MAX_NODES,
    DType,
    Graph,
    Infinity,
    Input,
    Node,
    Ref,
    validate_graph,
)
from milepost_ml.recipe import decode_recipe, encode_recipe
from tests.support.recipes import LINEAR, LOSS, make_graph, make_recipe


def round_trip(graph: Graph) -> Graph:
    """Through the recipe's text, as a verifier gets it."""
    recipe = msgspec.structs.replace(make_recipe(), graph=graph)
    found = decode_recipe(encode_recipe(recipe)).graph
    assert isinstance(found, Graph)
    return found


def refuse(graph: Graph) -> InvalidRecord:
    with pytest.raises(InvalidRecord) as caught:
        round_trip(graph)
    return caught.value


def test_every_kind_of_argument_survives() -> None:
    x = Ref(0)
    nodes = (
        Node("split.Tensor", (x, 2, -1)),
        Node("getitem", (Ref(5), 0)),
        Node("masked_fill.Scalar", (Ref(6), Ref(6), Infinity(-1))),
        Node("add.Tensor", (x, 2.0, 1)),
        Node("to.dtype", (x, DType("float64"), False, False)),
        Node("gelu", (x, "tanh")),
        Node("einsum", ("ij,kj->ik", (x, Ref(1)))),
        Node("index.Tensor", (x, (None, Ref(3)))),
        Node("conv2d", (x, Ref(1), None, (1, 1), (0, 0), (1, 1), 1)),
        Node("upsample_nearest2d.vec", (x, None, (2.0, 2.0))),
        Node("sum", (x, None)),
    )
    graph = make_graph(*nodes)
    assert round_trip(graph) == graph


def test_integers_and_floats_stay_apart() -> None:
    graph = make_graph(Node("mul.Tensor", (Ref(0), 2.0)), Node("mul.Tensor", (Ref(5), 2)))
    first, second = (node.args[1] for node in round_trip(graph).nodes)
    assert type(first) is float
    assert type(second) is int


@pytest.mark.parametrize("name", ["from_file", "item", "nonzero", "linear.out", "os.system", ""])
def test_operators_that_are_not_listed_are_refused_by_name(name: str) -> None:
    error = refuse(make_graph(Node(name, (Ref(0),))))
    assert error.slug == "unknown-operator"
    assert repr(name) in str(error)


BAD_NODES: dict[str, tuple[Any, ...]] = {
    "reads itself": (Node("relu", (Ref(5),)),),
    "reads forward": (Node("relu", (Ref(6),)), Node("relu", (Ref(0),))),
    "reads nothing": (Node("relu", (Ref(-1),)),),
    "reads far away": (Node("relu", (Ref(2**62),)),),
    "too few arguments": (Node("linear", (Ref(0), Ref(1))),),
    "too many arguments": (Node("relu", (Ref(0), Ref(1))),),
    "no arguments": (Node("relu", ()),),
    "number for tensor": (Node("relu", (1.0,)),),
    "null for tensor": (Node("relu", (None,)),),
    "text for number": (Node("leaky_relu", (Ref(0), "1")),),
    "tensor for number": (Node("leaky_relu", (Ref(0), Ref(1))),),
    "float for integer": (Node("softmax.int", (Ref(0), 1.0, None)),),
    "truth value for integer": (Node("softmax.int", (Ref(0), True, None)),),
    "integer for float": (Node("dropout", (Ref(0), 1, True)),),
    "number for truth value": (Node("dropout", (Ref(0), 0.5, 1)),),
    "unknown word": (Node("gelu", (Ref(0), "exact")),),
    "unknown dtype": (Node("sum", (Ref(0), DType("complex64"))),),
    "bad equation": (Node("einsum", ("__import__", (Ref(0),))),),
    "list for number": (Node("leaky_relu", (Ref(0), (1.0,))),),
    "number for list": (Node("permute", (Ref(0), 1)),),
    "wrong list": (Node("permute", (Ref(0), (0, 1.0))),),
    "null in a list of tensors": (Node("cat", ((Ref(0), None), 0)),),
    "forward in a list": (Node("cat", ((Ref(0), Ref(9)), 0)),),
    "long list": (Node("permute", (Ref(0), (0,) * (MAX_LIST + 1))),),
    "several results as one": (Node("chunk", (Ref(0), 2, 0)), Node("relu", (Ref(5),))),
    "one result as several": (Node("relu", (Ref(0),)), Node("getitem", (Ref(5), 0))),
    "a loss of several": (Node("chunk", (Ref(0), 2, 0)),),
    "huge integer": (Node("select.int", (Ref(0), 0, 2**63)),),
}


@pytest.mark.parametrize("nodes", BAD_NODES.values(), ids=BAD_NODES.keys())
def test_unsound_nodes_are_refused(nodes: tuple[Node, ...]) -> None:
    assert refuse(make_graph(*nodes)).slug == "bad-recipe"


def test_unsound_graphs_are_refused() -> None:
    sound = make_graph()
    inputs = sound.inputs
    for graph in (
        make_graph(LINEAR, LOSS, loss=0),
        make_graph(LINEAR, LOSS, loss=7),
        make_graph(LINEAR, LOSS, loss=-1),
        Graph(inputs, (), 0),
        Graph((*inputs, inputs[0]), sound.nodes, 7),
        Graph((*inputs[:-1], Input("buffer", "unknown")), sound.nodes, 6),
        Graph((*inputs[:-1], Input("parameter", "scale")), sound.nodes, 6),
        make_graph(*[Node("relu", (Ref(0),))] * (MAX_NODES + 1)),
    ):
        assert refuse(graph).slug == "bad-recipe"


def test_not_a_number_is_refused() -> None:
    graph = make_graph(Node("mul.Tensor", (Ref(0), float("nan"))))
    known = {"data": {"data.0", "data.1"}, "parameter": {"weight", "bias"}, "buffer": {"scale"}}
    with pytest.raises(InvalidRecord):
        validate_graph(graph, known)
