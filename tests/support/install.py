"""Packages that only a few tests need, in folders of their own beside the environment."""

from __future__ import annotations

import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Final

import pytest

TIMEOUT_SECONDS: Final = 600


def install_apart(requirement: str, *options: str) -> Path:
    """The folder to have on one's path for "name==version", installed when it is first needed."""
    folder = Path(sys.prefix) / requirement.replace("==", "-")
    if folder.is_dir():
        return folder
    with tempfile.TemporaryDirectory(dir=folder.parent) as work:
        target = Path(work) / "site"
        command = [sys.executable, "-m", "pip", "install", "--quiet", "--target", str(target)]
        answer = subprocess.run(
            [*command, *options, requirement],
            capture_output=True,
            text=True,
            timeout=TIMEOUT_SECONDS,
            check=False,
        )
        if answer.returncode != 0:
            pytest.fail(f"pip cannot install {requirement} for these tests:\n{answer.stderr}")
        try:
            target.rename(folder)
        except OSError:
            assert folder.is_dir()  # another process was faster
    return folder
