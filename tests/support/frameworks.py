"""The training frameworks that only the tests of their adapters need, installed apart."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from tests.support.install import install_apart

TIMEOUT_SECONDS: Final = 300
LIGHTNING: Final = (
    *("lightning==2.6.6", "pytorch-lightning==2.6.6", "lightning-utilities==0.15.3"),
    *("torchmetrics==1.9.0", "pyyaml==6.0.3", "tqdm==4.70.1"),
)
TRANSFORMERS: Final = (
    *("transformers==5.23.0", "accelerate==1.15.0", "huggingface-hub==2.4.0"),
    *("tokenizers==0.23.3", "regex==2026.11.15", "pyyaml==6.0.3", "tqdm==4.70.1"),
    *("psutil==7.2.2", "httpx2==2.16.2", "httpcore2==2.16.2"),
    *("truststore==0.10.5", "hf-xet==1.8.0"),
)
"""All that they import and this environment lacks; their torch is this environment's."""


def run_with(
    packages: Sequence[str], script: Path, *arguments: str | Path, folder: Path
) -> subprocess.CompletedProcess[str]:
    """Run a script in `folder`, offline, with these packages on its path besides ours."""
    path = [each for each in sys.path if each]
    if packages:
        first, *others = packages
        path.append(str(install_apart(first, "--no-deps", *others)))
    return subprocess.run(
        [sys.executable, str(script), *map(str, arguments)],
        cwd=folder,
        env=os.environ | {"PYTHONPATH": os.pathsep.join(path), "HF_HUB_OFFLINE": "1"},
        capture_output=True,
        text=True,
        timeout=TIMEOUT_SECONDS,
        check=False,
    )


def assert_refused(said: dict[str, str], words: dict[str, str]) -> None:
    """Every attempt named in `words` was refused, in a sentence with that word, and no other."""
    for name, word in words.items():
        text = said.pop(name)
        assert text.startswith("RecordingError"), text
        assert word in text
    assert not said
