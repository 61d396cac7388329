"""What looking for the cause of a difference found, and how people hear it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import msgspec

from milepost_ml.diagnosis.passage import END

LISTED: Final = 3
"""How many names a sentence lists."""


class Cause(msgspec.Struct, frozen=True):
    """What made the difference."""

    name: str
    confirmed: bool
    """Whether it was tried and gave what was recorded; otherwise it is what usually does this."""
    text: str
    evidence: str = ""
    """What confirmed it, unless the text says that."""


class Diagnosis(msgspec.Struct, frozen=True):
    """What looking closely at one interval found."""

    interval: int
    repeats: bool
    step: int | None = None
    """The first step that differs; None if it is one of the stride and nothing tells which."""
    stride: tuple[int, int] | None = None
    """First and last step of what was compared at once."""
    parts: tuple[str, ...] = ()
    """What differs there: batch, gradient, loss, state; or failed; or, within a tolerance, end."""
    tensors: tuple[str, ...] = ()
    """Those that differ."""
    tensors_of: str = ""
    """Of what: gradient or state (after the stride), or end (of the interval)."""
    compared: int = 0
    """How many tensors were compared."""
    cause: Cause | None = None
    tried: tuple[str, ...] = ()
    """What was tried and does not explain it."""


def describe(found: Diagnosis) -> list[tuple[str, str]]:
    """What was found, as labelled sentences."""
    if found.repeats:
        return []
    assert found.stride is not None
    assert found.cause is not None
    first, last = found.stride
    where = f"one of steps {first} to {last}" if found.step is None else f"step {found.step}"
    if found.parts == (END,):
        where += f", as far as losses tell; only the end of steps {first} to {last} is compared"
    else:
        if last > first:
            where += f" (steps {first} to {last} are compared together)"
        where += f", in the {_join(found.parts)}"
    said = [("first difference", f"{where}.")]
    if found.tensors_of:
        said.append(("tensors", _describe_tensors(found)))
    if found.cause.confirmed:
        said.append(("cause", f"{found.cause.text}."))
        if found.cause.evidence:
            said.append(("confirmed", f"{found.cause.evidence}."))
    else:
        said.append(("usual cause", f"{found.cause.text}."))
    if found.tried and not found.cause.confirmed:
        said.append(("tried, not it", f"{'; '.join(found.tried)}."))
    return said


def _describe_tensors(found: Diagnosis) -> str:
    what = {
        "gradient": "gradients differ",
        "state": "tensors of the state after it differ",
        "end": "tensors of the snapshot at the interval's end differ",
    }[found.tensors_of]
    names = f": {list_names(found.tensors)}" if found.tensors else ""
    return f"{len(found.tensors)} of {found.compared} {what}{names}."


def _join(parts: Sequence[str]) -> str:
    return parts[0] if len(parts) == 1 else f"{', '.join(parts[:-1])} and {parts[-1]}"


def list_names(names: Sequence[str]) -> str:
    """The first few, and how many more."""
    more = f" and {len(names) - LISTED} more" if len(names) > LISTED else ""
    return ", ".join(names[:LISTED]) + more
