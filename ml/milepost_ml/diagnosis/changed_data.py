"""Which records of the data are not those that a run was fed.

A record of the run commits to batches, not to single records of the data.  A record in a batch that
agrees is unchanged; what is in batches that differ and in none that agrees is suspect, and the more
epochs there are, the fewer remain.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from milepost_ml.digests import compute_batch_digest
from milepost_ml.errors import InvalidRecord
from milepost_ml.files import FolderFiles
from milepost_ml.keyed import make_order
from milepost_ml.recipe import Recipe, get_steps
from milepost_ml.record_files import read_record_digests, read_steps


class ChangedData(NamedTuple):
    """What the batches of a run tell about its data file."""

    changed: tuple[int, ...]
    """Records that are not those that were fed."""
    suspect: tuple[int, ...]
    """Records of which some are not; nothing more can be told."""
    other_step: int | None
    """The step whose batch, by the recipe, is the one that was fed in the step asked about."""
    agreeing: int
    """How many steps have the batch that they should."""
    steps: int


def find_changed_data(folder: Path, recipe: Recipe, step: int) -> ChangedData:
    """Look through all batches of a run, of which that of `step` differs.

    Raises InvalidRecord for data that cannot be read.
    """
    digests, order = read_record_digests(FolderFiles(folder), recipe), make_order(recipe)
    planned: dict[bytes, int] = {}
    fed: dict[int, bytes] = {}
    unchanged: set[int] = set()
    differing: list[set[int]] = []
    for number, batch in _iterate_batches(folder, recipe):
        records = order.get_step_records(number)
        expected = compute_batch_digest([digests[record] for record in records])
        planned.setdefault(expected, number)
        fed[number] = batch
        if batch == expected:
            unchanged.update(records)
        else:
            differing.append(set(records))
    suspects = [records - unchanged for records in differing]
    single = {record for records in suspects if len(records) == 1 for record in records}
    open_ones = [records for records in suspects if not records & single]
    return ChangedData(
        changed=tuple(sorted(single)),
        suspect=tuple(sorted(set().union(*open_ones))),
        other_step=planned.get(fed[step]),
        agreeing=len(fed) - len(differing),
        steps=len(fed),
    )


def _iterate_batches(folder: Path, recipe: Recipe) -> Iterator[tuple[int, bytes]]:
    """Every step's recorded batch digest, as far as the files can be read."""
    for interval in range(recipe.intervals):
        try:
            rows = read_steps(FolderFiles(folder), recipe, interval)
        except InvalidRecord:
            return
        batches = (batch for row in rows for batch in row.batches)
        yield from zip(get_steps(recipe, interval), batches, strict=True)
