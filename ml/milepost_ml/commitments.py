"""What the files of a record amount to, derived in one walk that checks how they hang together.

What is declared as derived starts as the seed says.  The order of the data follows from the seed
too, so the batch digest of every step follows from the data file; the last step of an interval ends
in the next snapshot; scores follow from two snapshots.  At most the parameters of one snapshot and
the whole of the next are in memory, and the data never as a whole.  Whether a step follows from the
one before is not asked here: that takes retraining.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final, NamedTuple

from milepost_consensus.merkle import compute_root
from milepost_consensus.step_digests import compute_state_digest
from milepost_ml.digests import (
    compute_batch_digest,
    compute_content_digest,
    compute_dataset_root,
    split_state,
)
from milepost_ml.distance import compute_change_score
from milepost_ml.errors import InvalidRecord
from milepost_ml.files import (
    DATA,
    RecordFiles,
    get_snapshot_name,
    get_steps_name,
)
from milepost_ml.initial import validate_start
from milepost_ml.keyed import Order, make_order
from milepost_ml.recipe import Recipe, get_model_specs, get_steps
from milepost_ml.record_files import (
    StepCommitment,
    compute_step_digests,
    get_parameters,
    read_record_digests,
    read_state,
    read_steps,
)

SHOWN: Final = 3
"""How many records or tensors a message names before it counts the rest."""


class Commitments(NamedTuple):
    """What a record's files amount to."""

    dataset_root: bytes
    snapshots: tuple[bytes, ...]
    step_roots: tuple[bytes, ...]
    change_scores: tuple[int, ...]
    initial_model_digest: bytes
    initial_optimizer_digest: bytes
    model_digest: bytes
    optimizer_digest: bytes


def compute_commitments(files: RecordFiles, recipe: Recipe) -> Commitments:
    """Walk the record once, snapshot by snapshot, checking that its parts lead to one another."""
    records = read_record_digests(files, recipe)
    order = make_order(recipe)
    snapshots: list[bytes] = []
    roots: list[bytes] = []
    scores: list[int] = []
    state = read_state(files, recipe, 0)
    validate_start(
        recipe.seed_bytes, get_model_specs(recipe), recipe.initial, split_state(state)[0]
    )
    parts = initial = [compute_content_digest(part) for part in split_state(state)]
    snapshots.append(compute_state_digest(0, *initial))
    for interval in range(recipe.intervals):
        before = get_parameters(recipe, state)
        state = read_state(files, recipe, interval + 1)
        parts = [compute_content_digest(part) for part in split_state(state)]
        steps = get_steps(recipe, interval)
        rows = read_steps(files, recipe, interval)
        _validate_batches(interval, steps, rows, records, order)
        snapshots.append(compute_state_digest(steps.stop, *parts))
        if rows[-1].post != snapshots[-1]:
            raise InvalidRecord(
                f"{get_snapshot_name(interval + 1)} is not the state with which"
                f" {get_steps_name(interval)} ends: one of the two was changed after recording",
                slug="bad-record",
            )
        roots.append(compute_root(compute_step_digests(snapshots[interval], rows)))
        scores.append(compute_change_score(before, get_parameters(recipe, state)))
    return Commitments(
        compute_dataset_root(records),
        tuple(snapshots),
        tuple(roots),
        tuple(scores),
        *initial,
        *parts,
    )


def _validate_batches(
    interval: int,
    steps: range,
    rows: Sequence[StepCommitment],
    records: Sequence[bytes],
    order: Order,
) -> None:
    """Raises InvalidRecord (data-changed) unless each step saw the records that its number says."""
    wrong: list[int] = []
    same: set[int] = set()
    suspects: set[int] = set()
    seen = [batch for row in rows for batch in row.batches]
    for step, batch in zip(steps, seen, strict=True):
        indices = order.get_step_records(step)
        if compute_batch_digest(records[index] for index in indices) == batch:
            same.update(indices)
        else:
            wrong.append(step)
            suspects.update(indices)
    if wrong:
        suspects -= same
        raise InvalidRecord(
            f"{DATA} is not the data that was recorded: in interval {interval}, {len(wrong)} of"
            f" {len(steps)} steps saw other records (first: step {wrong[0]}). What changed is among"
            f" {len(suspects)} records ({join_few(sorted(suspects))}). Restore the file, or record"
            " again",
            slug="data-changed",
        )


def join_few(items: Sequence[object]) -> str:
    """The first SHOWN items as text, with dots for the rest."""
    shown = ", ".join(str(item) for item in items[:SHOWN])
    return f"{shown} ..." if len(items) > SHOWN else shown
