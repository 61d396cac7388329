"""The recipe of a run before its first step: what is captured, chosen and foreseen."""

from __future__ import annotations

import copy
import warnings
from collections.abc import Mapping, Sequence, Set
from pathlib import Path
from typing import Required

import torch
from torch.optim.lr_scheduler import LRScheduler

from milepost_consensus.payloads import EXACT
from milepost_ml.arithmetic.known_answer import find_wrong_answer
from milepost_ml.arithmetic.profiles import Profile, make_profile
from milepost_ml.capture import Captured, capture
from milepost_ml.errors import InvalidRecord, RecordingError
from milepost_ml.graph import DTYPE_NAMES
from milepost_ml.initial import Distribution, Initial
from milepost_ml.initial_rules import choose_initial
from milepost_ml.keyed import Order, compute_generator_seed
from milepost_ml.loop import Loop, LoopOptions
from milepost_ml.preflight import describe_optimizer, get_model_device, read_rates, validate_model
from milepost_ml.rates import validate_foreseen
from milepost_ml.recipe import Parameter, Recipe, set_rates, validate_recipe
from milepost_ml.registration import Say
from milepost_ml.rehearsal import Loss, WholeStep
from milepost_ml.snapshots import TensorSpec
from milepost_ml.updates import Group, Settings

Model = torch.nn.Module
Optimizer = torch.optim.Optimizer
Schedule = LRScheduler | Sequence[float | Sequence[float]]
"""A scheduler that steps once a step, or for every step the learning rate: one, or one a group."""


class Options(LoopOptions, total=False):
    """What a run takes besides its model, its optimizer and where it comes from."""

    loss: Loss | None
    every: Required[int]
    folder: str | Path
    seed: bytes | int | None
    profile: str | None
    tolerance: float | None
    initial: Mapping[str, Distribution] | None
    schedule: Schedule | None
    stride: int | None
    resume: bool
    selfcheck: bool
    quiet: bool


def declare(
    model: torch.nn.Module,
    optimizer: torch.optim.Optimizer,
    loss: Loss | WholeStep,
    tensors: Sequence[torch.Tensor],
    *,
    profiles: Sequence[str],
    seed: bytes,
    batch_size: int,
    every: int,
    initial: Mapping[str, Distribution] | Initial,
    loop: Loop,
    say: Say,
    tolerance_ppb: int = 0,
) -> tuple[Profile, Recipe]:
    """A recipe in the first of `profiles` that computes the model, but for steps and rates.

    `initial` is one declaration for all tensors, or distributions by name, where what is left out
    starts by the rule of its layer.  Raises RecordingError.
    """
    validate_model(model)
    described = describe_optimizer(optimizer, model)
    buffers = tuple(
        TensorSpec(name, DTYPE_NAMES[tensor.dtype], tuple(tensor.shape))
        for name, tensor in model.named_buffers()
    )
    names = [name for name, _ in model.named_parameters()] + [spec.name for spec in buffers]
    if isinstance(initial, Mapping):
        chosen: Mapping[str, Initial] = choose_initial(model, initial)
    else:
        chosen = dict.fromkeys(names, initial)
    profile, captured = _capture(
        model,
        loss,
        tensors,
        profiles=profiles,
        autocast=loop.autocast is not None,
        seed=seed,
        batch_size=batch_size,
        say=say,
    )
    recipe = Recipe(
        device_class=profile.get_device_class(),
        seed=seed.hex(),
        data=tuple(
            TensorSpec(f"data.{index}", DTYPE_NAMES[tensor.dtype], tuple(tensor.shape))
            for index, tensor in enumerate(tensors)
        ),
        batch_size=batch_size,
        steps=0,
        steps_per_interval=every,
        steps_per_digest=1,
        parameters=tuple(
            Parameter(name, tuple(tensor.shape), trained=name in captured.trained)
            for name, tensor in model.named_parameters()
        ),
        buffers=buffers,
        initial=tuple(chosen[name] for name in names),
        groups=_make_groups(model, optimizer, described, captured.trained),
        graph=captured.graph,
        profile=profile.name,
        tolerance_ppb=tolerance_ppb,
        clip=loop.clip,
        accumulate=loop.accumulate,
        augment=loop.augment,
        autocast=loop.autocast,
        ema_decay=loop.ema.decay if loop.ema is not None else None,
    )
    try:
        validate_recipe(set_rates(recipe, 1, [((1, 0.0),)] * len(recipe.groups)))
    except InvalidRecord as error:
        raise RecordingError(str(error), slug=error.slug) from error
    return profile, recipe


def _make_groups(
    model: torch.nn.Module,
    optimizer: torch.optim.Optimizer,
    described: Sequence[Settings],
    trained: Set[str],
) -> tuple[Group, ...]:
    names = {id(tensor): name for name, tensor in model.named_parameters()}
    held = [[names[id(item)] for item in group["params"]] for group in optimizer.param_groups]
    return tuple(
        Group(tuple(name for name in group if name in trained), settings, ())
        for group, settings in zip(held, described, strict=True)
    )


def _capture(
    model: torch.nn.Module,
    loss: Loss | WholeStep,
    tensors: Sequence[torch.Tensor],
    *,
    profiles: Sequence[str],
    autocast: bool,
    seed: bytes,
    batch_size: int,
    say: Say,
) -> tuple[Profile, Captured]:
    order = Order(seed=seed, records=len(tensors[0]), batch_size=batch_size)
    indices = torch.from_numpy(order.get_indices(0))
    batch = tuple(tensor.index_select(0, indices) for tensor in tensors)
    generator_seed = compute_generator_seed(seed, 0)
    *others, last = profiles
    device = get_model_device(model)

    def attempt(name: str) -> tuple[Profile, Captured]:
        profile = make_profile(name, autocast=autocast, device=device)
        profile.configure()
        _require_device(profile)
        return profile, capture(model, loss, batch, generator_seed=generator_seed, profile=profile)

    for name in others:
        try:
            return attempt(name)
        except RecordingError as error:
            if name == EXACT and error.slug != "no-exact-kernel":
                raise
            say(f"not with profile {name}: {error}")
    return attempt(last)


def _require_device(profile: Profile) -> None:
    """Raises RecordingError (no-exact-kernel, unsupported-model) where nobody would get the bits
    that a profile has on the model's device."""
    if profile.device.type == "cpu":
        return
    if not profile.on_gpus:
        raise RecordingError(
            f"the model is on {profile.device}, which draws other random numbers than a processor;"
            f" profile {profile.name} is recorded on the CPU: model.cpu()",
            slug="unsupported-model",
        )
    if profile.name == EXACT:
        fault = find_wrong_answer(profile.get_device_class(), profile.device)
        if fault:
            raise RecordingError(
                f"{profile.device} does not compute exactly: {fault}", slug="no-exact-kernel"
            )


def foresee_rates(
    schedule: Schedule | None, optimizer: torch.optim.Optimizer, steps: int
) -> list[tuple[float, ...]]:
    """The learning rates of every step before the first is done, one a group.

    Without a schedule the optimizer's present ones; it stays as it is.  Raises RecordingError
    (bad-plan).
    """
    first = read_rates(optimizer)
    if schedule is None:
        rates = [first] * steps
    elif isinstance(schedule, LRScheduler):
        rates = _follow(schedule, optimizer, steps)
    else:
        rates = [_spread(rate, len(first)) for rate in schedule]
    validate_foreseen(rates, steps=steps, groups=len(first))
    return rates


def _spread(rate: float | Sequence[float], groups: int) -> tuple[float, ...]:
    return tuple(map(float, rate)) if isinstance(rate, Sequence) else (float(rate),) * groups


def _follow(
    schedule: LRScheduler, optimizer: torch.optim.Optimizer, steps: int
) -> list[tuple[float, ...]]:
    if schedule.optimizer is not optimizer:
        raise RecordingError("schedule= belongs to another optimizer", slug="bad-plan")
    # The copies share the weights, which a scheduler does not touch.
    shared = {id(item): item for group in optimizer.param_groups for item in group["params"]}
    twin = copy.deepcopy(schedule, shared)
    rates: list[tuple[float, ...]] = []
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that it steps before its optimizer
        try:
            for step in range(steps):
                if step:
                    twin.step()
                rates.append(read_rates(twin.optimizer))
        except (TypeError, ValueError) as error:
            raise RecordingError(
                f"the rates of {type(schedule).__name__} cannot be foreseen: {error}. A registered"
                " run needs all of them before it starts; pass schedule=[one rate a step]",
                slug="bad-plan",
            ) from error
    return rates
