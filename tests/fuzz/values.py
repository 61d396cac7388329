"""Values of every wire type, made from the types themselves."""

from __future__ import annotations

import importlib
import pkgutil
import typing
from typing import Any, get_args, get_origin

from hypothesis import strategies as st

import milepost_consensus
from milepost_consensus.encoding import MAX_UINT, Wire

UINTS = st.sampled_from((0, 1, 127, 128, 255, 256, 65_535, 65_536, 2**32, MAX_UINT)) | st.integers(
    0, MAX_UINT
)
TEXTS = st.text(st.characters(min_codepoint=32, max_codepoint=126), max_size=40)
BYTES = st.one_of(
    st.binary(min_size=32, max_size=32),
    st.binary(min_size=64, max_size=64),
    st.binary(max_size=300),
)


def get_wire_types() -> list[type[Wire]]:
    """Every wire type of the consensus package, by name."""
    for module in pkgutil.iter_modules(milepost_consensus.__path__, "milepost_consensus."):
        importlib.import_module(module.name)
    found: set[type[Wire]] = set()
    waiting = list(Wire.__subclasses__())
    while waiting:
        kind = waiting.pop()
        found.add(kind)
        waiting += kind.__subclasses__()
    ours = [kind for kind in found if kind.__module__.startswith("milepost_consensus.")]
    return sorted(ours, key=lambda kind: kind.__name__)


def make_values(kind: Any) -> st.SearchStrategy[Any]:
    """Values of a field type of wire objects, or of a wire type."""
    if kind is int:
        return UINTS
    if kind is str:
        return TEXTS
    if kind is bytes:
        return BYTES
    if get_origin(kind) is tuple:
        return st.lists(make_values(get_args(kind)[0]), max_size=3).map(tuple)
    assert issubclass(kind, Wire), kind
    hints = typing.get_type_hints(kind)
    return st.builds(
        kind,
        **{name: make_values(hint) for name, hint in hints.items() if not name.startswith("__")},
    )


def make_zero(kind: Any) -> Any:
    """The smallest value of a type."""
    if kind in (int, str, bytes):
        return kind()
    if get_origin(kind) is tuple:
        return ()
    hints = typing.get_type_hints(kind)
    return kind(**{name: make_zero(hints[name]) for name in kind.__struct_fields__})


def get_lists(kind: type[Wire]) -> list[tuple[str, Any]]:
    """Name and item type of the fields of a wire type that are lists."""
    hints = typing.get_type_hints(kind)
    return [
        (name, get_args(hints[name])[0])
        for name in kind.__struct_fields__
        if get_origin(hints[name]) is tuple
    ]
