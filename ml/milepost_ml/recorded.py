"""What a run folder holds by now, also while it is recorded and after a crash.

recipe.json says how many steps a run has only once it is finished.  Until then the recipe follows
from what the run was begun with and from the journal, as far as intervals are whole on disk.
Importing this module loads no framework.
"""

from __future__ import annotations

import json
from pathlib import Path

import msgspec

from milepost_ml.errors import InvalidRecord
from milepost_ml.files import BEGUN, RUN, FolderFiles, get_snapshot_name
from milepost_ml.recipe import Recipe, set_rates
from milepost_ml.record_files import read_recipe
from milepost_ml.run_folder import Begun, read_begun, read_journal_rates


def read_recorded(folder: Path) -> Recipe:
    """The recipe of all intervals that are whole on disk.

    Raises InvalidRecord: incomplete if there is none yet, or as `read_recipe`.
    """
    begun = _read_unfinished(folder)
    if begun is None:
        return read_recipe(FolderFiles(folder))[1]
    intervals = 0
    while (folder / get_snapshot_name(intervals + 1)).is_file():
        intervals += 1
    try:
        steps, rates = read_journal_rates(folder, begun.recipe, intervals)
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise InvalidRecord(
            f"the journal of {folder} cannot be read: {error}", slug="incomplete"
        ) from error
    if not steps:
        raise InvalidRecord(
            f"{folder} holds no whole interval yet; its first ends with step"
            f" {begun.recipe.steps_per_interval - 1}",
            slug="incomplete",
        )
    return set_rates(begun.recipe, steps, rates)


def _read_unfinished(folder: Path) -> Begun | None:
    """What a run that is not finished was begun with."""
    try:
        if json.loads((folder / RUN).read_bytes())["complete"] is True:
            return None
        return read_begun(folder)
    except FileNotFoundError:
        return None
    except (OSError, ValueError, KeyError, TypeError, msgspec.DecodeError) as error:
        raise InvalidRecord(
            f"{folder} was not finished, and its {RUN} or {BEGUN} cannot be read: {error}",
            slug="incomplete",
        ) from error
