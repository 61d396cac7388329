"""Loaded into the test runs of mutants: the copy is what runs, and nothing drifts."""

from __future__ import annotations

import os
import pkgutil
import resource
from importlib import import_module
from pathlib import Path

from hypothesis import settings

import milepost_consensus

FOLDER_VARIABLE = "MILEPOST_MUTANT_FOLDER"
"""Environment variable with the folder that the mutated package was copied to."""
MEMORY_BYTES = 4 * 1024**3
"""Many times what the tests need: a bug that loops and collects must not take the machine along."""


def pytest_configure() -> None:
    """Refuse to judge the original, or a copy that is merely broken; make properties repeat."""
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY_BYTES, MEMORY_BYTES))
    folder = Path(os.environ[FOLDER_VARIABLE])
    assert milepost_consensus.__file__ is not None
    found = Path(milepost_consensus.__file__).parent.parent
    assert found == folder, f"{found} would be tested instead of {folder}"
    for module in pkgutil.iter_modules(milepost_consensus.__path__):
        import_module(f"{milepost_consensus.__name__}.{module.name}")
    settings.register_profile("mutants", derandomize=True, database=None)
    settings.load_profile("mutants")
