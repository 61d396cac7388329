"""Tests that need TensorFlow: `tests/ml/test_keras.py` runs them in processes that have it."""

from __future__ import annotations

import importlib.util

collect_ignore_glob = ["test_*.py"]
if importlib.util.find_spec("tensorflow"):
    from milepost_ml.keras_training.device import configure_tensorflow

    collect_ignore_glob = []
    configure_tensorflow()  # as a run does, and some tests make their model before it
