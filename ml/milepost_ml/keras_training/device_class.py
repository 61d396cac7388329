"""On what arithmetic this process computes Keras models, as a text that two machines can compare.

Like `milepost_ml.device`'s, the text names the builds and ends in the digest of a small training
whose bits were really computed here.  `python -m milepost_ml.keras_training.device_class` prints
it, so that a process which only has to know it need not load TensorFlow.
"""

from __future__ import annotations

import importlib
import importlib.util
import os
import platform
import subprocess
import sys
from typing import Final

from milepost_ml.keras_training.device import configure_tensorflow, load_keras
from milepost_ml.keras_training.known_answer import compute_known_answer

MAX_SECONDS: Final = 120.0
"""What loading TensorFlow and a few small steps may take at most."""


def is_installed() -> bool:
    """Whether Keras and TensorFlow are there, without loading them."""
    return all(importlib.util.find_spec(name) is not None for name in ("tensorflow", "keras"))


def _get_instructions() -> str:
    """The widest vector instructions, by their usual names."""
    features = importlib.import_module("numpy._core._multiarray_umath").__cpu_features__
    for name, found in (("avx512", "AVX512F"), ("avx2", "AVX2"), ("neon", "NEON")):
        if features.get(found):
            return name
    return "base"


def compute_device_class() -> str:
    """For example "tensorflow-2.21.0/keras-3.15.1/x86_64/avx512/threads-1/kat-<16 hex>".

    Computed every time; sets TensorFlow up for the whole process, as the recorder does, and raises
    RuntimeError where it has been set up otherwise.
    """
    tf, keras = load_keras()
    configure_tensorflow()
    return "/".join(
        (
            f"tensorflow-{tf.__version__}",
            f"keras-{keras.__version__}",
            platform.machine().lower() or "unknown",
            _get_instructions(),
            "threads-1",
            f"kat-{compute_known_answer().hex()[:16]}",
        )
    )


def find_device_class() -> str:
    """This machine's device class, found out by another process; empty without TensorFlow."""
    if not is_installed():
        return ""
    path = os.pathsep.join(folder for folder in sys.path if folder)
    try:
        answer = subprocess.run(
            [sys.executable, "-P", "-m", "milepost_ml.keras_training.device_class"],
            env=os.environ | {"PYTHONPATH": path, "CUDA_VISIBLE_DEVICES": ""},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=MAX_SECONDS,
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return answer.stdout.strip() if answer.returncode == 0 else ""


if __name__ == "__main__":
    print(compute_device_class())
