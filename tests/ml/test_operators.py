"""The table against PyTorch: every entry exists there and takes what the table says."""

from __future__ import annotations

import pytest
import torch

from milepost_ml.graph import get_operator
from milepost_ml.operators import EQUATION, INSTEAD, MULTIPLE, OPERATORS, Argument, get_instead

KINDS = {
    "Tensor": "TN",
    "Optional[Tensor]": "T",
    "List[Tensor]": "L",
    "List[Optional[Tensor]]": "O",
    "int": "id",
    "Optional[int]": "id",
    "float": "f",
    "Optional[float]": "f",
    "bool": "b",
    "str": "se",
    "Optional[str]": "s",
    "number": "n",
    "Optional[number]": "n",
    "List[int]": "I",
    "Optional[List[int]]": "I",
    "Optional[List[float]]": "F",
}
ATEN = sorted(set(OPERATORS) - {"getitem"})
LEFT_OUT = {
    *("device", "layout", "pin_memory", "memory_format", "generator"),
    *("sparse_grad", "implicit", "path"),
}


def get_schema(name: str) -> torch.FunctionSchema:
    function = get_operator(name)
    assert isinstance(function, torch._ops.OpOverload)
    return function._schema


@pytest.mark.parametrize("name", ATEN)
def test_arguments_are_those_of_pytorch(name: str) -> None:
    schema = get_schema(name)
    positional = [item for item in schema.arguments if not item.kwarg_only]
    keywords = {item.name: item for item in schema.arguments if item.kwarg_only}
    listed = [argument for argument in OPERATORS[name] if argument.name is None]
    named = [argument for argument in OPERATORS[name] if argument.name is not None]
    pairs: list[tuple[Argument, torch.Argument]] = list(zip(listed, positional, strict=False))
    pairs += [(argument, keywords[argument.name or ""]) for argument in named]
    assert len(listed) <= len(positional)
    for argument, item in pairs:
        assert argument.kind in KINDS[str(item.type)], (name, item.name, str(item.type))
        if argument.optional:
            assert str(item.type).startswith("Optional"), (name, item.name)
    rest = {item.name for item in positional[len(listed) :]} | (
        set(keywords) - {argument.name for argument in named}
    )
    assert rest <= LEFT_OUT, (name, rest)


@pytest.mark.parametrize("name", ATEN)
def test_results_are_one_tensor_or_declared_as_several(name: str) -> None:
    returns = get_schema(name).returns
    several = len(returns) > 1 or str(returns[0].type) == "List[Tensor]"
    assert several == (name in MULTIPLE)


def test_nothing_else_can_be_looked_up() -> None:
    for name in ("system", "record_stream", "from_file", "linear.out", "__class__", ""):
        with pytest.raises(KeyError):
            get_operator(name)


def test_no_listed_operator_writes_but_in_place_ones() -> None:
    for name in ATEN:
        writes = [
            item.name
            for item in get_schema(name).arguments
            if item.alias_info is not None and item.alias_info.is_write
        ]
        assert bool(writes) == name.partition(".")[0].endswith("_"), name


def test_refused_operators_have_advice() -> None:
    assert not set(INSTEAD) & set(OPERATORS)
    assert "register_buffer" in get_instead("lift_fresh_copy")
    assert "where" in get_instead("nonzero.out")
    assert "operators.py" in get_instead("some_new_operator")


@pytest.mark.parametrize("equation", ["ij,jk->ik", "bhid, bhjd -> bhij", "...i,ij", "ii"])
def test_equations_are_recognised(equation: str) -> None:
    assert EQUATION.fullmatch(equation)


@pytest.mark.parametrize("equation", ["", "ij;jk", "__import__('os')", "i" * 41])
def test_other_words_are_no_equations(equation: str) -> None:
    assert not EQUATION.fullmatch(equation)
