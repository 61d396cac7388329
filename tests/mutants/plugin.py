"""Loaded into the test runs of mutants: the copy is what runs, and nothing drifts."""

from __future__ import annotations

import os
import pkgutil
from importlib import import_module
from pathlib import Path

from hypothesis import settings

import milepost_consensus

FOLDER_VARIABLE = "MILEPOST_MUTANT_FOLDER"
"""Environment variable with the folder that the mutated package was copied to."""


def pytest_configure() -> None:
    """Refuse to judge the original, or a copy that is merely broken; make properties repeat."""
    folder = Path(os.environ[FOLDER_VARIABLE])
    assert milepost_consensus.__file__ is not None
    found = Path(milepost_consensus.__file__).parent.parent
    assert found == folder, f"{found} would be tested instead of {folder}"
    for module in pkgutil.iter_modules(milepost_consensus.__path__):
        import_module(f"{milepost_consensus.__name__}.{module.name}")
    settings.register_profile("mutants", derandomize=True, database=None)
    settings.load_profile("mutants")
