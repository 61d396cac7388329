"""What a declared update is in PyTorch: the optimizer, and clipping before its step.

Recorder and stepper meet here: what the user's loop does with PyTorch's functions, the stepper does
with the same ones.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import msgspec
import torch

from milepost_ml.keras_optimizers import KerasOptimizer
from milepost_ml.recipe import Recipe
from milepost_ml.updates import SGD, Adam, ClipNorm, Group, Settings

Parameters = Mapping[str, torch.nn.Parameter]


def make_optimizer(groups: Sequence[Group], parameters: Parameters) -> torch.optim.Optimizer:
    """PyTorch's optimizer with the declared groups and settings; its rates are 0 so far."""
    declared = [
        {
            "params": [parameters[name] for name in group.parameters],
            **_get_options(group.optimizer),
        }
        for group in groups
    ]
    kind = groups[0].optimizer
    if isinstance(kind, SGD):
        return torch.optim.SGD(declared, lr=0.0, foreach=False)
    make = torch.optim.Adam if isinstance(kind, Adam) else torch.optim.AdamW
    return make(declared, lr=0.0, foreach=False)


def _get_options(optimizer: Settings | KerasOptimizer) -> dict[str, object]:
    """A group's settings by PyTorch's names."""
    assert not isinstance(optimizer, KerasOptimizer)
    options = msgspec.structs.asdict(optimizer)
    if not isinstance(optimizer, SGD):
        options["betas"] = (options.pop("beta1"), options.pop("beta2"))
    return options


def average(losses: Sequence[float]) -> float:
    """A step's loss: its batches' losses, added in order in float64, by their number."""
    total = losses[0]
    for loss in losses[1:]:  # not sum(), which compensates in some versions of Python
        total += loss
    return total / len(losses)


def clip_gradients(recipe: Recipe, parameters: Parameters) -> None:
    """Clip the gradients of all trained parameters as the recipe says, if it does."""
    clip = recipe.clip
    if clip is None:
        return
    if isinstance(clip, ClipNorm) and clip.over == "groups":
        names = [name for group in recipe.groups for name in group.parameters]
    else:
        names = [item.name for item in recipe.parameters if item.trained]
    trained = [parameters[name] for name in names]
    if isinstance(clip, ClipNorm):
        torch.nn.utils.clip_grad_norm_(trained, clip.max_norm)
    else:
        torch.nn.utils.clip_grad_value_(trained, clip.max_value)


def collect_optimizer_slots(
    optimizer: torch.optim.Optimizer, parameters: Parameters
) -> dict[str, torch.Tensor]:
    """An optimizer's tensors as "<parameter>.<slot>"; slots it has not filled yet are left out."""
    return {
        f"{name}.{slot}": value
        for name, parameter in parameters.items()
        if parameter in optimizer.state
        for slot, value in optimizer.state[parameter].items()
        if isinstance(value, torch.Tensor)
    }
