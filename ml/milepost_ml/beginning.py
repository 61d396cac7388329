"""Begins a record, or takes up one that was begun and not finished.

A run that is taken up must be the same one: data, recipe, seed and origin.  Then model and
optimizer get the state of its last snapshot and the schedule the step it stood at; batches and
random numbers follow from the seed, so every later step has the bits it would have had.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import msgspec
import torch
from torch.optim.lr_scheduler import LRScheduler

from milepost_ml.arithmetic.profiles import Profile
from milepost_ml.averages import EMA
from milepost_ml.declaration import Schedule, compress_rates, foresee_rates, format_rates
from milepost_ml.device import describe_environment
from milepost_ml.digests import MODEL_PREFIX, OPTIMIZER_PREFIX, compute_dataset_root
from milepost_ml.errors import RecordingError
from milepost_ml.preflight import read_rates
from milepost_ml.recipe import Recipe, set_rates
from milepost_ml.registration import (
    ParentModel,
    Register,
    Registered,
    Say,
    describe_origin,
    obtain_seed,
)
from milepost_ml.run_folder import (
    Begun,
    Progress,
    Unfinished,
    begin_folder,
    claim_folder,
    find_difference,
    find_unfinished,
    get_now,
    make_folder,
    restore_progress,
)
from milepost_ml.starting import set_derived, set_parent
from milepost_ml.updates import AVERAGE, Rates, expand_rates

if TYPE_CHECKING:
    from milepost_ml.digests import Array


class Origin(NamedTuple):
    """Where a run comes from, as its script says."""

    parent: ParentModel | None
    register: Register | None
    schedule: Schedule | None


class Opened(NamedTuple):
    """A folder that is ready for the steps of a run."""

    folder: Path
    progress: Progress
    about: Mapping[str, object]
    """What run.json says besides progress."""


class Beginning:
    """How one run begins; its methods are called in the order in which they stand here."""

    def __init__(self, name: str, parent: Path, origin: Origin, say: Say) -> None:
        self._name, self._parent, self._origin, self._say = name, parent, origin, say
        self._earlier: Unfinished | None = None
        self._progress: Progress | None = None
        """Where an earlier run goes on."""
        self._registered: Registered | None = None
        self._begun: Begun | None = None
        self.rates: list[tuple[float, ...]] = []
        """The learning rates of every step, of a registered run."""

    def look_for_unfinished(self) -> None:
        """Take up the last run of the name, if it was not finished; raises RecordingError."""
        self._earlier = find_unfinished(self._parent, self._name)
        if self._earlier is None:
            self._say(f"no unfinished run {self._name} in {self._parent}: recording a new one")
        else:
            claim_folder(self._earlier.folder)

    def choose_seed(self, seed: bytes, *, given: bool) -> bytes:
        """What an earlier run chose, unless the script says something else, which then is refused
        in one place with all other differences; so with profile and stride."""
        return seed if given or self._earlier is None else self._earlier.begun.recipe.seed_bytes

    def choose_profiles(self, profiles: Sequence[str]) -> Sequence[str]:
        """See `choose_seed`."""
        earlier = self._earlier
        found = earlier is not None and earlier.begun.recipe.profile in profiles
        return (earlier.begun.recipe.profile,) if earlier is not None and found else profiles

    def choose_stride(self, stride: int | None, *, every: int) -> int | None:
        """See `choose_seed`; never more than there is room for in an interval."""
        if stride is not None or self._earlier is None:
            return stride
        return min(self._earlier.begun.recipe.steps_per_digest, every)

    def settle(
        self,
        recipe: Recipe,
        optimizer: torch.optim.Optimizer,
        record_digests: Sequence[bytes],
        steps: int,
    ) -> Recipe:
        """Register the run, if it is to be; the recipe under its final seed.

        Raises RecordingError (cannot-resume) if the earlier run was another one.
        """
        parent, register = self._origin.parent, self._origin.register
        rates: tuple[Rates, ...] = ()
        if register is not None:
            self.rates = foresee_rates(self._origin.schedule, optimizer, steps)
            rates = tuple(compress_rates(self.rates))
            complete = set_rates(recipe, steps, rates)
            self._registered = self._find_registered() or obtain_seed(
                register, complete, record_digests, parent, self._say
            )
            recipe = msgspec.structs.replace(recipe, seed=self._registered.seed.hex())
        self._begun = Begun(
            recipe=recipe,
            steps=steps,
            rates=rates,
            dataset_root=compute_dataset_root(record_digests).hex(),
            registration=self._registered.id.hex() if self._registered is not None else "",
            parent=parent.submission.hex() if parent is not None else "",
        )
        if self._earlier is not None:
            self._take_up(self._earlier, self._begun)
        return recipe

    def _find_registered(self) -> Registered | None:
        """The registration of the earlier run: nothing is registered twice."""
        if self._earlier is None or not self._earlier.begun.registration:
            return None
        about = self._earlier.about["registration"]
        return Registered(
            id=bytes.fromhex(about["id"]),
            seed=self._earlier.begun.recipe.seed_bytes,
            number=about["number"],
            height=about["height"],
        )

    def _take_up(self, earlier: Unfinished, now: Begun) -> None:
        difference = find_difference(earlier.begun, now)
        if difference:
            raise RecordingError(
                f"{earlier.folder} cannot be resumed: {difference}. Undo that, or record a new run"
                " without resume=True",
                slug="cannot-resume",
            )
        self._progress = restore_progress(earlier)

    def set_weights(self, model: torch.nn.Module, recipe: Recipe) -> None:
        """Give the model the weights from which the run starts, or goes on."""
        if self._progress is not None:
            restore_model(model, self._progress)
            return
        if self._origin.parent is not None:
            set_parent(model, self._origin.parent)
        set_derived(model, recipe)

    def set_optimizer(
        self,
        optimizer: torch.optim.Optimizer,
        model: torch.nn.Module,
        profile: Profile,
        ema: EMA | None,
    ) -> None:
        """Give optimizer, averages and schedule the state with which the run goes on."""
        if self._progress is not None:
            restore_optimizer(optimizer, model, self._progress, profile, ema)
            advance_schedule(self._origin.schedule, optimizer, self._progress)

    def open(
        self,
        get_start: Callable[[], Mapping[str, Array]],
        data: Mapping[str, Array],
        profile: Profile,
    ) -> Opened:
        """The folder of the run, made now unless it was there; raises OSError."""
        assert self._begun is not None
        recipe, stride = self._begun.recipe, self._begun.recipe.steps_per_digest
        if self._earlier is not None and self._progress is not None:
            self._say(
                f"resuming {self._earlier.folder} at step {self._progress.steps}, the last milepost"
                " that is whole"
            )
            return Opened(self._earlier.folder, self._progress, self._earlier.about)
        start = get_start()
        about = {
            "name": self._name,
            "created": get_now(),
            "batch_size": recipe.batch_size,
            "accumulate": recipe.accumulate,
            "records": recipe.records,
            "every": recipe.steps_per_interval,
            "stride": stride,
            "seed": recipe.seed,
            "profile": recipe.profile,
            "environment": describe_environment(recipe.device_class),
            **describe_origin(self._origin.parent, self._registered),
        }
        folder = make_folder(self._parent, self._name)
        claim_folder(folder)
        begin_folder(folder, self._begun, data=data, start=start, about=about)
        digests = f", a digest every {stride}" if stride > 1 else ""
        self._say(
            f"recording {self._name} to {folder}, a milepost every {recipe.steps_per_interval}"
            f" steps{digests}, with profile {recipe.profile}: {profile.note}"
        )
        return Opened(folder, Progress(start), about)


def restore_model(model: torch.nn.Module, progress: Progress) -> None:
    """Give a model, in place, the weights and buffers of a snapshot."""
    tensors = dict(model.named_parameters()) | dict(model.named_buffers())
    with torch.no_grad():
        for name, tensor in tensors.items():
            tensor.copy_(torch.from_numpy(progress.state[MODEL_PREFIX + name]))


def restore_optimizer(
    optimizer: torch.optim.Optimizer,
    model: torch.nn.Module,
    progress: Progress,
    profile: Profile,
    ema: EMA | None,
) -> None:
    """Give a fresh optimizer, and averages, the state of a snapshot, in the profile's types."""
    parameters = dict(model.named_parameters())
    for name, array in sorted(progress.state.items()):
        if name.startswith(OPTIMIZER_PREFIX):
            owner, _, slot = name.removeprefix(OPTIMIZER_PREFIX).rpartition(".")
            tensor = profile.take(torch.from_numpy(array.copy()))
            if slot == AVERAGE and ema is not None:
                ema.averages[owner] = tensor
            else:
                optimizer.state[parameters[owner]][slot] = tensor


def advance_schedule(
    schedule: Schedule | None, optimizer: torch.optim.Optimizer, progress: Progress
) -> None:
    """Bring a scheduler to the step at which a run goes on.

    Raises RecordingError (cannot-resume) if it gives other learning rates than were recorded.
    """
    if not isinstance(schedule, LRScheduler):
        return
    steps = range(progress.steps)
    recorded = zip(*(expand_rates(rates, steps) for rates in progress.rates), strict=True)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that it steps before its optimizer
        for step, rates in enumerate(recorded):
            now = read_rates(optimizer)
            if now != rates:
                raise RecordingError(
                    f"the run cannot be resumed: schedule= gives step {step} the learning rate"
                    f" {format_rates(now)}, recorded was {format_rates(rates)}",
                    slug="cannot-resume",
                )
            schedule.step()
