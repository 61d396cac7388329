"""What a run says to the network before it starts, and what it gets back.

This package opens no connection: whoever wants a registered run hands over a function that
registers a request and returns once the network has given the seed.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

from milepost_ml.digests import compute_dataset_root
from milepost_ml.recipe import Recipe, compute_unseeded_digest


class Request(NamedTuple):
    """What is fixed before the seed is known."""

    recipe: bytes
    """Digest of the recipe without its seed."""
    dataset_root: bytes
    records: int
    parent: bytes
    """Id of the submission whose final model this one starts from; empty without one."""


class Registered(NamedTuple):
    """A registration with the seed that the network gave it."""

    id: bytes
    seed: bytes
    number: int
    """The how many-th registration of this submitter it is, counted from 1."""
    height: int


class ParentModel(NamedTuple):
    """A judged model to start from."""

    submission: bytes
    model_digest: bytes
    weights: Path | None
    """Its file; without one, the model in memory must hold these weights already."""


Say = Callable[[str], None]
"""Tells a person one line."""
Register = Callable[[Request, Say], Registered]


def obtain_seed(
    register: Register,
    recipe: Recipe,
    record_digests: Sequence[bytes],
    parent: ParentModel | None,
    say: Say,
) -> Registered:
    """Register a run, whose recipe is complete but for its seed."""
    request = Request(
        recipe=compute_unseeded_digest(recipe),
        dataset_root=compute_dataset_root(record_digests),
        records=recipe.records,
        parent=parent.submission if parent is not None else b"",
    )
    return register(request, say)


def describe_origin(parent: ParentModel | None, registered: Registered | None) -> dict[str, object]:
    """What run.json says so that the submission of the run can name both."""
    about: dict[str, object] = {}
    if parent is not None:
        about["parent"] = parent.submission.hex()
    if registered is not None:
        about["registration"] = {
            "id": registered.id.hex(),
            "number": registered.number,
            "height": registered.height,
        }
    return about


def summarize(recipe: Recipe, folder: Path, *, planned: int, share: float) -> str:
    """What a finished run says: `planned` steps were registered, 0 if none; `share` of the time."""
    done = (
        f"done: {recipe.steps} steps, {recipe.intervals + 1} mileposts in {folder};"
        f" recording took {100 * share:.1f} % of the time. Next: milepost submit {folder}"
    )
    if recipe.steps >= planned:
        return done
    return (
        f"{done} --unregistered, because {recipe.steps} of {planned} registered steps were done:"
        " this is not the run that was registered"
    )
