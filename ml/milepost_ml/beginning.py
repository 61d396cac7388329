"""Begins a record, or takes up one that was begun and not finished.

A run that is taken up must be the same one: data, recipe, seed and origin.  Then whoever trains
gives model and optimizer the state of its last snapshot and the schedule the step it stood at;
batches and random numbers follow from the seed, so every later step has the bits it would have had.
No framework is loaded here.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec

from milepost_ml.digests import compute_dataset_root, split_state
from milepost_ml.errors import RecordingError
from milepost_ml.initial import Distribution, Given, Initial, Parent
from milepost_ml.keyed import make_seed
from milepost_ml.rates import compress_rates
from milepost_ml.recipe import Recipe, set_rates
from milepost_ml.recording import Recording
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
from milepost_ml.run_settings import validate_name, validate_settings
from milepost_ml.selfcheck import RunningCheck
from milepost_ml.starting import compute_derived, read_parent
from milepost_ml.updates import Rates

if TYPE_CHECKING:
    from milepost_ml.digests import Array


def _choose_start(
    initial: Mapping[str, Distribution] | None,
    *,
    continued: bool,
    registered: bool,
    seeded: bool,
) -> Mapping[str, Distribution] | Initial:
    """What the tensors of a run start from: a parent's, derived from the seed, or as they are.

    Raises RecordingError (bad-plan) for options that exclude each other.
    """
    if registered and seeded:
        raise RecordingError(
            "seed= and register= exclude each other: the network gives a registered run its seed",
            slug="bad-plan",
        )
    if continued:
        if initial is not None:
            raise RecordingError(
                "initial= and parent= exclude each other: a run continues its parent's whole model",
                slug="bad-plan",
            )
        return Parent()
    if initial is not None:
        return initial
    return {} if registered else Given()


class Beginning:
    """How one run begins; from `look_for_unfinished` on, its methods are called in the order in
    which they stand here."""

    def __init__(
        self,
        name: str,
        *,
        every: int,
        folder: str | Path,
        seed: bytes | int | None,
        profile: str | None,
        initial: Mapping[str, Distribution] | None,
        parent: ParentModel | None,
        register: Register | None,
        resume: bool,
        selfcheck: RunningCheck | None,
        say: Say,
    ) -> None:
        """What the script says, as `Run` and `KerasRun` explain it; raises RecordingError."""
        validate_name(name)
        validate_settings(every=every, profile=profile)
        try:
            self.seed = make_seed(seed)
        except ValueError as error:
            raise RecordingError(str(error), slug="bad-plan") from error
        self.initial = _choose_start(
            initial,
            continued=parent is not None,
            registered=register is not None,
            seeded=seed is not None,
        )
        self.is_registered = register is not None
        self._name, self._parent_folder, self._seeded = name, Path(folder), seed is not None
        self._parent, self._register = parent, register
        self._resume, self._check, self._say = resume, selfcheck, say
        self._earlier: Unfinished | None = None
        self.progress: Progress | None = None
        """Where an earlier run goes on; None where a new one starts."""
        self._registered: Registered | None = None
        self._begun: Begun | None = None
        self._record_digests: Sequence[bytes] = ()
        self._rates: list[tuple[float, ...]] = []
        """The learning rates of every step, of a registered run."""

    def look_for_unfinished(self) -> None:
        """With `resume`, take up the last run of the name, if it was not finished.

        What it chose is chosen again: its seed here, profile and stride below.  What the script
        says is kept, and refused in one place with all other differences.  Raises RecordingError.
        """
        if not self._resume:
            return
        self._earlier = find_unfinished(self._parent_folder, self._name)
        if self._earlier is None:
            self._say(
                f"no unfinished run {self._name} in {self._parent_folder}: recording a new one"
            )
            return
        claim_folder(self._earlier.folder)
        if not self._seeded:
            self.seed = self._earlier.begun.recipe.seed_bytes

    def choose_profiles(self, profiles: Sequence[str]) -> Sequence[str]:
        """The profile of an earlier run, if it is one of these."""
        earlier = self._earlier
        found = earlier is not None and earlier.begun.recipe.profile in profiles
        return (earlier.begun.recipe.profile,) if earlier is not None and found else profiles

    def choose_stride(self, stride: int | None, *, every: int) -> int | None:
        """That of an earlier run, unless one is given; no more than an interval has room for."""
        if stride is not None or self._earlier is None:
            return stride
        return min(self._earlier.begun.recipe.steps_per_digest, every)

    def settle(
        self,
        recipe: Recipe,
        record_digests: Sequence[bytes],
        steps: int,
        foresee: Callable[[], list[tuple[float, ...]]],
    ) -> Recipe:
        """Register the run, if it is to be; the recipe under its final seed, which is `seed` then.

        `foresee` gives the learning rates of all steps, one a group, without doing any.  Raises
        RecordingError (cannot-resume) if the earlier run was another one.
        """
        self._record_digests = record_digests
        parent = self._parent
        rates: tuple[Rates, ...] = ()
        if self._register is not None:
            self._rates = foresee()
            rates = tuple(compress_rates(self._rates))
            complete = set_rates(recipe, steps, rates)
            self._registered = self._find_registered() or obtain_seed(
                self._register, complete, record_digests, parent, self._say
            )
            recipe = msgspec.structs.replace(recipe, seed=self._registered.seed.hex())
        self.seed = recipe.seed_bytes
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
        self.progress = restore_progress(earlier)

    def find_weights(
        self, recipe: Recipe, get_present: Callable[[], Mapping[str, Array]]
    ) -> Mapping[str, Array]:
        """The tensors that the model has to be given before the run starts, or goes on.

        `get_present` gives those that it has.  Raises RecordingError.
        """
        if self.progress is not None:
            return split_state(self.progress.state)[0]
        if self._parent is not None:
            return read_parent(self._parent, get_present())
        return compute_derived(recipe)

    def open(
        self,
        get_start: Callable[[], Mapping[str, Array]],
        data: Mapping[str, Array],
        *,
        environment: Mapping[str, object],
        note: str,
    ) -> Recording:
        """The record in the folder of the run, made now unless it was there; raises OSError.

        `note` says what the profile means for the training.
        """
        assert self._begun is not None
        if self._earlier is not None and self.progress is not None:
            self._say(
                f"resuming {self._earlier.folder} at step {self.progress.steps}, the last milepost"
                " that is whole"
            )
            return self._record(self._earlier.folder, self.progress, self._earlier.about)
        recipe, stride = self._begun.recipe, self._begun.recipe.steps_per_digest
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
            "environment": environment,
            **describe_origin(self._parent, self._registered),
        }
        folder = make_folder(self._parent_folder, self._name)
        claim_folder(folder)
        begin_folder(folder, self._begun, data=data, start=start, about=about)
        digests = f", a digest every {stride}" if stride > 1 else ""
        self._say(
            f"recording {self._name} to {folder}, a milepost every {recipe.steps_per_interval}"
            f" steps{digests}, with profile {recipe.profile}: {note}"
        )
        return self._record(folder, Progress(start), about)

    def _record(self, folder: Path, progress: Progress, about: Mapping[str, object]) -> Recording:
        assert self._begun is not None
        return Recording(
            folder,
            self._begun.recipe,
            progress=progress,
            record_digests=self._record_digests,
            about=about,
            rates=self._rates,
            check=self._check,
            say=self._say,
        )
