"""Is a record well formed?  Everything that can be checked without training a step.

`validate_record` is what every holder of a record runs on a stranger's files before it says so on
chain; `build_submit` makes the submission from a run folder and finds on the submitter's machine
what would be refused later.  Both derive the same commitments from the files, so that a record is
admitted exactly if its submission says what its files say.  What stays open is whether the steps
follow from one another; that is what retraining is for.

Nothing here imports the framework.  At most the parameters of one snapshot and the whole of the
next are in memory, and the data never as a whole.
"""

from __future__ import annotations

import hashlib
import json
import math
from pathlib import Path
from typing import Final, NamedTuple

from milepost_consensus.errors import InvalidInput
from milepost_consensus.params import MAX_STEP_US
from milepost_consensus.payloads import Submit, validate_submit
from milepost_consensus.registrations import Registration
from milepost_ml.commitments import compute_commitments, join_few
from milepost_ml.digests import split_state
from milepost_ml.errors import InvalidRecord
from milepost_ml.files import (
    JOURNAL,
    MODEL,
    RUN,
    FolderFiles,
    Manifest,
    RecordFiles,
    compute_manifest,
    encode_manifest,
    get_snapshot_name,
    open_file,
)
from milepost_ml.model_files import VALUES, compare_models, read_model
from milepost_ml.origin import validate_origin
from milepost_ml.recipe import (
    Recipe,
    compute_rate_sum,
    compute_recipe_digest,
    get_rates,
    get_steps,
)
from milepost_ml.record_files import read_recipe, read_state

MAX_RUN_BYTES: Final = 64 * 1024 * 1024
"""run.json and the journal are the submitter's own, yet not read without bound."""


def validate_record(
    submit: Submit, files: RecordFiles, registration: Registration | None = None
) -> None:
    """Raises InvalidRecord unless the files are whole, strict and exactly what `submit` says.

    `registration` is the one that the submission names, None where it names none.  Slugs: those of
    `validate_origin`; wrong-initial-weights where derived weights are not those of the seed;
    bad-record where submission and files contradict each other or themselves; data-changed where
    the data is not what the steps saw; incomplete, snapshot-broken, wrong-tensors, not-finite,
    pickle-refused, bad-recipe, unknown-operator, too-large for single files; and those of
    `validate_submit`.
    """
    _validate_form(submit)
    validate_origin(read_recipe(files)[1], submit, registration)
    found, _ = _derive_submit(files, _Free(*(getattr(submit, name) for name in _Free._fields)))
    _validate_fields(submit, found)


def build_submit(folder: Path, *, unregistered: bool = False) -> tuple[Submit, Manifest]:
    """The submission of a finished run folder, with the manifest of its files.

    `unregistered` leaves out the registration that the run has.  The name and the seconds per step
    come from the files for people and are the submitter's word; everything else is computed from
    the record.  Raises InvalidRecord as `validate_record`, and incomplete for a run that did not
    finish, wrong-architecture or model-changed where model.safetensors is not the last snapshot.
    """
    files = FolderFiles(folder)
    about = _read_about(folder)
    _, recipe = read_recipe(files)
    _validate_model(files, recipe)
    name, registration, parent = about.get("name"), about.get("registration"), about.get("parent")
    free = _Free(
        name=name if isinstance(name, str) else folder.name,
        step_us=_read_step_us(folder, recipe),
        registration=(
            _read_id(registration.get("id"))
            if isinstance(registration, dict) and not unregistered
            else b""
        ),
        parent=_read_id(parent) if parent is not None else b"",
    )
    submit, manifest = _derive_submit(files, free)
    _validate_form(submit)
    return submit, manifest


class _Free(NamedTuple):
    """The fields of a submission that do not follow from its files."""

    name: str
    step_us: int
    registration: bytes
    parent: bytes


def _derive_submit(files: RecordFiles, free: _Free) -> tuple[Submit, Manifest]:
    """What a submission of these files must say, given its free fields."""
    data, recipe = read_recipe(files)
    commitments = compute_commitments(files, recipe)
    manifest = compute_manifest(files, recipe.intervals)
    submit = Submit(
        recipe=compute_recipe_digest(data),
        dataset_root=commitments.dataset_root,
        records=recipe.records,
        profile=recipe.profile,
        device_class=recipe.device_class,
        steps=recipe.steps,
        steps_per_interval=recipe.steps_per_interval,
        steps_per_digest=recipe.steps_per_digest,
        snapshots=commitments.snapshots,
        step_roots=commitments.step_roots,
        change_scores=commitments.change_scores,
        rate_sums=tuple(
            compute_rate_sum(get_rates(recipe, get_steps(recipe, interval)))
            for interval in range(recipe.intervals)
        ),
        initial_model_digest=commitments.initial_model_digest,
        initial_optimizer_digest=commitments.initial_optimizer_digest,
        model_digest=commitments.model_digest,
        optimizer_digest=commitments.optimizer_digest,
        manifest=hashlib.sha256(encode_manifest(manifest)).digest(),
        size_bytes=manifest.size_bytes,
        tolerance_ppb=recipe.tolerance_ppb,
        **free._asdict(),
    )
    return submit, manifest


def _validate_form(submit: Submit) -> None:
    """`validate_submit` with this package's error."""
    try:
        validate_submit(submit)
    except InvalidInput as error:
        raise InvalidRecord(str(error), slug=error.slug) from error


def _validate_fields(said: Submit, found: Submit) -> None:
    """Raises InvalidRecord (bad-record) at the first field in which two submissions differ."""
    for field in Submit.__struct_fields__:
        mine, theirs = getattr(found, field), getattr(said, field)
        if mine == theirs:
            continue
        if isinstance(mine, tuple) and len(mine) == len(theirs):
            index = next(
                i for i, pair in enumerate(zip(mine, theirs, strict=True)) if len({*pair}) > 1
            )
            field, mine, theirs = f"{field}[{index}]", mine[index], theirs[index]
        raise _contradiction(field, f"{_show(theirs)}, the record gives {_show(mine)}")


def _show(value: object) -> str:
    if isinstance(value, bytes):
        return value.hex()[:16]
    if isinstance(value, tuple):
        return f"{len(value)} entries"
    return str(value)


def _contradiction(field: str, what: str) -> InvalidRecord:
    return InvalidRecord(f"the submission says {field} = {what}", slug="bad-record")


def _validate_model(files: RecordFiles, recipe: Recipe) -> None:
    """Raises InvalidRecord unless model.safetensors holds exactly the last snapshot's model."""
    last = get_snapshot_name(recipe.intervals)
    expected, _ = split_state(read_state(files, recipe, recipe.intervals))
    with open_file(files, MODEL):
        found = read_model(files.path(MODEL))
    differences = compare_models(expected, found)
    if not differences:
        return
    others = [f"{item.kind} {item.name}" for item in differences if item.kind != VALUES]
    if others:
        raise InvalidRecord(
            f"{last} has {len(expected)} tensors, {MODEL} has {len(found)} ({join_few(others)})."
            " Submit the model as it was trained: put back the file that the recorder wrote",
            slug="wrong-architecture",
        )
    raise InvalidRecord(
        f"{MODEL} is not the model of {last}: {len(differences)} of {len(expected)} tensors"
        f" differ: {join_few(differences)}. Put back the file that the recorder wrote",
        slug="model-changed",
    )


def _read_about(folder: Path) -> dict[str, object]:
    """What run.json says; raises InvalidRecord (incomplete) unless the run finished."""
    with open_file(FolderFiles(folder), RUN) as stream:
        text = stream.read(MAX_RUN_BYTES)
    try:
        about = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise InvalidRecord(f"{RUN} cannot be read: {error}", slug="incomplete") from error
    if not isinstance(about, dict) or about.get("complete") is not True:
        raise InvalidRecord(
            f"{folder.name} is not complete: the run stopped before its last step, or"
            " run.finish() was not called. Record it again to the end",
            slug="incomplete",
        )
    return about


def _read_id(text: object) -> bytes:
    try:
        return bytes.fromhex(str(text))
    except ValueError as error:
        raise InvalidRecord(
            f"{RUN} names a registration or parent that is no id", slug="incomplete"
        ) from error


def _read_step_us(folder: Path, recipe: Recipe) -> int:
    """Declared microseconds per step: the journal's seconds over all steps, at least 1."""
    with open_file(FolderFiles(folder), JOURNAL) as stream:
        text = stream.read(MAX_RUN_BYTES)
    try:
        seconds = sum(float(json.loads(line)["seconds"]) for line in text.splitlines())
    except (ValueError, KeyError, TypeError, OverflowError, RecursionError) as error:
        raise InvalidRecord(f"{JOURNAL} cannot be read: {error}", slug="incomplete") from error
    if not 0 <= seconds < math.inf:
        raise InvalidRecord(f"{JOURNAL} sums up to {seconds} seconds", slug="incomplete")
    return min(MAX_STEP_US, max(1, math.ceil(1e6 * seconds / recipe.steps)))
