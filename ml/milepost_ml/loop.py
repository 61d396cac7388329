"""What a training loop does besides forward, backward and the optimizer's step, as it is declared.

The loop goes on doing these things itself, with PyTorch's own functions; the recipe states them,
and whoever retraces does the same.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, NamedTuple, TypedDict

import torch

from milepost_consensus.payloads import CLASS, PROFILES
from milepost_ml.augmentation import Crop, Flip, Transformation
from milepost_ml.averages import EMA
from milepost_ml.device import AUTOCAST
from milepost_ml.errors import InvalidRecord, RecordingError
from milepost_ml.updates import Clip, ClipNorm, ClipValue, validate_clip


class LoopOptions(TypedDict, total=False):
    """The options of `Run` that say what the loop does."""

    clip_norm: float | ClipNorm | None
    """The loop calls torch.nn.utils.clip_grad_norm_(model.parameters(), this) before opt.step()."""
    clip_value: float | None
    """Likewise clip_grad_value_."""
    accumulate: int
    """Batches a step: the loop calls (loss / accumulate).backward() for each, and opt.step() after
    the last of them."""
    augment: Sequence[Transformation]
    """`batches` gives the images of its first tensor flipped and cropped in this order."""
    ema: EMA | None
    """A running average of the weights, which the run updates after every step."""
    autocast: Literal["bfloat16"] | None
    """The loop computes model and loss within torch.autocast("cpu", torch.bfloat16), backward and
    opt.step() outside; profile "class"."""


class Loop(NamedTuple):
    """The same, checked."""

    clip: Clip | None
    accumulate: int
    augment: tuple[Transformation, ...]
    ema: EMA | None
    autocast: Literal["bfloat16"] | None


def make_loop(options: LoopOptions, model: torch.nn.Module) -> Loop:
    """The loop of a run of `model`.

    Raises RecordingError (bad-plan) for options that cannot be or exclude each other, and TypeError
    for unknown ones.
    """
    for name in sorted(set(options) - set(LoopOptions.__annotations__)):
        raise TypeError(f"Run() got an unexpected keyword argument {name!r}")
    loop = Loop(
        clip=_make_clip(options.get("clip_norm"), options.get("clip_value")),
        accumulate=options.get("accumulate", 1),
        augment=tuple(options.get("augment", ())),
        ema=options.get("ema"),
        autocast=_get_autocast(options.get("autocast")),
    )
    if loop.accumulate < 1:
        raise RecordingError(f"accumulate={loop.accumulate}: at least one batch", slug="bad-plan")
    if loop.ema is not None and not loop.ema.is_of(model):
        raise RecordingError("ema= averages another model than the run's", slug="bad-plan")
    for each in loop.augment:
        if not isinstance(each, Flip | Crop):
            raise RecordingError(
                f"augment= holds {each!r:.80}; milepost.Flip and milepost.Crop can be repeated",
                slug="bad-plan",
            )
    try:
        validate_clip(loop.clip)
    except InvalidRecord as error:
        raise RecordingError(str(error), slug="bad-plan") from error
    return loop


def _get_autocast(wanted: str | None) -> Literal["bfloat16"] | None:
    if wanted is None:
        return None
    if wanted == AUTOCAST:
        return AUTOCAST
    raise RecordingError(
        f"autocast={wanted!r} cannot be recorded; autocast={AUTOCAST!r} can. float16 needs a"
        " GradScaler, whose scale is state outside every snapshot and which leaves steps out",
        slug="unsupported-precision",
    )


def choose_profiles(loop: Loop, profile: str | None) -> tuple[str, ...]:
    """The profiles to try, strongest first; raises RecordingError (unsupported-precision)."""
    if loop.autocast is None:
        return PROFILES if profile is None else (profile,)
    if profile not in (None, CLASS):
        raise RecordingError(
            f"profile={profile!r} has no rules for {loop.autocast}: with autocast= only profile"
            f" {CLASS!r} is possible, which is taken if profile= is left out",
            slug="unsupported-precision",
        )
    return (CLASS,)


def _make_clip(norm: float | ClipNorm | None, value: float | None) -> Clip | None:
    if norm is not None and value is not None:
        raise RecordingError(
            "clip_norm= and clip_value= exclude each other: a step clips its gradients once",
            slug="bad-plan",
        )
    if value is not None:
        return ClipValue(float(value))
    return norm if norm is None or isinstance(norm, ClipNorm) else ClipNorm(float(norm))
