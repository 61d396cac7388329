"""What a run records: model, optimizer, the loss of a batch, and what the loop does besides."""

from __future__ import annotations

from typing import NamedTuple

import torch

from milepost_ml.errors import RecordingError
from milepost_ml.loop import Loop, LoopOptions, choose_profiles, make_loop
from milepost_ml.preflight import describe_optimizer, validate_model
from milepost_ml.rehearsal import Loss, WholeStep


class Subject(NamedTuple):
    """The same, looked at before anything is recorded."""

    model: torch.nn.Module
    optimizer: torch.optim.Optimizer
    loss: Loss | WholeStep
    loop: Loop
    profiles: tuple[str, ...]
    """To try, strongest first."""


def make_subject(
    model: torch.nn.Module | None,
    optimizer: torch.optim.Optimizer | None,
    loss: Loss | WholeStep | None,
    options: LoopOptions,
    profile: str | None,
) -> Subject | None:
    """None if none of the three is known yet, because a framework's adapter brings them.

    Raises RecordingError for what cannot be recorded.
    """
    if model is None and optimizer is None and loss is None:
        return None
    if model is None or optimizer is None or loss is None:
        raise RecordingError(
            "a run takes a model, its optimizer and loss= together; without all three it is"
            " recorded by a framework's adapter, such as run.lightning() or run.attach(trainer)",
            slug="bad-plan",
        )
    validate_model(model)
    describe_optimizer(optimizer, model)
    loop = make_loop(options, model)
    return Subject(model, optimizer, loss, loop, choose_profiles(loop, profile))


def require_subject(subject: Subject | None) -> Subject:
    """Raises RecordingError (bad-plan) for a run that nobody gave a model."""
    if subject is None:
        raise RecordingError(
            "this run has neither model nor optimizer: pass both and loss=, or record it through"
            " run.lightning() or run.attach(trainer)",
            slug="bad-plan",
        )
    return subject
