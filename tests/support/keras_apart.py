"""Processes that have TensorFlow, which is installed for them alone."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Final

from tests.support.install import install_apart

TENSORFLOW: Final = "tensorflow-cpu==2.21.0"
KERAS: Final = "keras==3.15.1"
TIMEOUT_SECONDS: Final = 600


def run_with_keras(
    *arguments: str, cwd: Path | None = None, **environment: str
) -> subprocess.CompletedProcess[str]:
    """Run Python with TensorFlow on its path, behind everything that is there already."""
    path = [*(folder for folder in sys.path if folder), str(install_apart(TENSORFLOW, KERAS))]
    settings = {"PYTHONPATH": os.pathsep.join(path), "TF_CPP_MIN_LOG_LEVEL": "3"}
    return subprocess.run(
        [sys.executable, *arguments],
        env=os.environ | settings | environment,
        cwd=cwd,
        capture_output=True,
        text=True,
        timeout=TIMEOUT_SECONDS,
        check=False,
    )
