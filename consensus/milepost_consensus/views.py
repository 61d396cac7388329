"""Wire objects as plain JSON data for people, HTTP answers and files, and back again.

A view is never hashed or signed: bytes become lowercase hex, tuples become lists, structs become
objects with named fields.  `from_view` rebuilds the object, whose canonical bytes then decide.
"""

from __future__ import annotations

import json
import math
import typing
from typing import Any, TypeVar, get_args, get_origin

from milepost_consensus.encoding import MAX_UINT, Wire, decode, encode
from milepost_consensus.errors import InvalidEncoding

View = dict[str, Any]
W = TypeVar("W", bound=Wire)


def _dump(value: object) -> Any:
    if isinstance(value, bytes):
        return value.hex()
    if isinstance(value, Wire):
        return to_view(value)
    if isinstance(value, tuple):
        return [_dump(item) for item in value]
    return value


def _load(kind: Any, value: object, where: str) -> Any:
    if isinstance(kind, type) and issubclass(kind, Wire):
        return _from(kind, value, where)
    if kind is bytes:
        if not isinstance(value, str):
            raise InvalidEncoding(f"{where}: hex text expected")
        try:
            data = bytes.fromhex(value)
        except ValueError as error:
            raise InvalidEncoding(f"{where}: not hex") from error
        if data.hex() != value:
            raise InvalidEncoding(f"{where}: not lowercase hex without spaces")
        return data
    if get_origin(kind) is tuple:
        if not isinstance(value, list):
            raise InvalidEncoding(f"{where}: a list expected")
        inner = get_args(kind)[0]
        return tuple(_load(inner, item, f"{where}[{i}]") for i, item in enumerate(value))
    assert kind in (int, str), kind
    if type(value) is not kind:
        raise InvalidEncoding(f"{where}: {kind.__name__} expected")
    if isinstance(value, int) and not 0 <= value <= MAX_UINT:
        raise InvalidEncoding(f"{where}: not an integer from 0 to {MAX_UINT}")
    if isinstance(value, str) and not value.isascii():
        raise InvalidEncoding(f"{where}: not ASCII")
    return value


def _from(kind: type[W], view: object, where: str) -> W:
    if not isinstance(view, dict):
        raise InvalidEncoding(f"{where}: an object expected")
    hints = typing.get_type_hints(kind)
    names = set(kind.__struct_fields__)
    if view.keys() != names:
        odd = sorted(ascii(name)[:40] for name in view.keys() ^ names)
        raise InvalidEncoding(f"{where}: missing or unknown fields {', '.join(odd[:5])}")
    return kind(**{name: _load(hints[name], view[name], f"{where}.{name}") for name in names})


def parse_json(text: str | bytes) -> object:
    """The plain data in a JSON text of somebody else's; bytes are UTF-8 and nothing else.

    Raises InvalidEncoding for what is not JSON, and for JSON that two readers may understand
    differently: a name that stands twice in one object, NaN and numbers without bound.
    """
    try:
        return json.loads(
            text if isinstance(text, str) else text.decode(),
            object_pairs_hook=_load_unique,
            parse_float=_load_finite,
            parse_constant=_load_finite,
        )
    except (ValueError, RecursionError) as error:
        raise InvalidEncoding(f"not JSON: {error}") from error


def _load_unique(pairs: list[tuple[str, object]]) -> View:
    table = dict(pairs)
    if len(table) != len(pairs):
        raise ValueError("a name stands twice in one object")
    return table


def _load_finite(text: str) -> float:
    number = float(text)
    if not math.isfinite(number):
        raise ValueError(f"{text[:20]} is no number")
    return number


def to_view(value: Wire) -> View:
    """The JSON data of a wire object."""
    return {name: _dump(getattr(value, name)) for name in value.__struct_fields__}


def from_view(kind: type[W], view: object) -> W:
    """The wire object of JSON data; raises InvalidEncoding unless it has exactly its fields."""
    value = _from(kind, view, kind.__name__)
    return decode(kind, encode(value))
