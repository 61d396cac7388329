"""Record a training run, submit it to a network, check a model against its verdict.

Three verbs, each loaded when first used, so that `import milepost` costs next to nothing:
`Run` records (needs the extra `ml`), `submit` sends a finished run, `verify` checks a file offline.
The other names say to `Run` what a training loop does.
"""

from __future__ import annotations

import typing

if typing.TYPE_CHECKING:
    from milepost.answers import verify
    from milepost.delivery import submit
    from milepost.recording import Run
    from milepost_ml.augmentation import Crop, Flip
    from milepost_ml.averages import EMA
    from milepost_ml.updates import ClipNorm

__version__ = "0.1.0"
__all__ = ["EMA", "ClipNorm", "Crop", "Flip", "Run", "__version__", "submit", "verify"]

_HOMES = {
    "ClipNorm": "milepost_ml.updates",
    "Crop": "milepost_ml.augmentation",
    "EMA": "milepost_ml.averages",
    "Flip": "milepost_ml.augmentation",
    "Run": "milepost.recording",
    "submit": "milepost.delivery",
    "verify": "milepost.answers",
}


def __getattr__(name: str) -> object:
    home = _HOMES.get(name)
    if home is None:
        raise AttributeError(f"module 'milepost' has no attribute {name!r}")
    import importlib

    try:
        value: object = getattr(importlib.import_module(home), name)
    except ModuleNotFoundError as error:
        raise ImportError(
            f"milepost.{name} needs {error.name}, which is not installed here."
            " Install it: pip install 'milepost[ml]'"
        ) from error
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted(__all__)
