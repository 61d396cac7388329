"""What a behaviour is, and how a node finds the one that its operator named.

A behaviour is a function from a question to an answer, made one by its decorator:

    @behaviour("hasty")
    async def hasty(question: Question) -> Answer | None:
        \"\"\"Retrains nothing on the panel, but does its duties.\"\"\"
        if isinstance(question, StepQuestion):
            return await question.vouch()
        return await question.tell_truth()

Those that come with the node stand in `builtin`; an operator's own stand in a file of theirs.
"""

from __future__ import annotations

import importlib.util
import inspect
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from milepost_consensus.transactions import Answer
from milepost_node.errors import SettingsError
from milepost_node.questions import Question

Answering = Callable[[Question], Awaitable[Answer | None]]


@dataclass(frozen=True)
class Behaviour:
    """How a verifier answers questions; the empty name is that of honest ones."""

    name: str
    summary: str
    answer: Answering
    """What it says to a question; None is silence."""
    serves_files: bool = True
    """Whether it gives files of records to anybody who asks."""


async def _tell_truth(question: Question) -> Answer | None:
    return await question.tell_truth()


HONEST = Behaviour("", "Finds out and says so.", _tell_truth)


def behaviour(name: str, *, serves_files: bool = True) -> Callable[[Answering], Behaviour]:
    """Make a function a behaviour under this name; its docstring says what it does."""

    def decorate(function: Answering) -> Behaviour:
        summary = inspect.cleandoc(function.__doc__ or "").partition("\n\n")[0].replace("\n", " ")
        return Behaviour(name, summary, function, serves_files)

    return decorate


def collect_behaviours(namespace: Mapping[str, object]) -> Mapping[str, Behaviour]:
    """The behaviours among the names of a module, by their own name and in its order."""
    found = [value for value in namespace.values() if isinstance(value, Behaviour)]
    return {each.name: each for each in found}


def load_behaviours(file: Path) -> Mapping[str, Behaviour]:
    """The behaviours in an operator's own Python file; raises SettingsError if it does not run."""
    spec = importlib.util.spec_from_file_location(f"milepost_behaviours_{file.stem}", file)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    try:
        spec.loader.exec_module(module)
    except Exception as error:
        raise SettingsError(
            f"node.toml: the file of behaviours {file.name} does not run:"
            f" {type(error).__name__}: {error}"
        ) from error
    return collect_behaviours(vars(module))
