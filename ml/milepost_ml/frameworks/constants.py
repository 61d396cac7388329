"""Turns constants that a model keeps as buffers, but not in its state, into what they are."""

from __future__ import annotations

import torch

from milepost_ml.respelling import make_constant


def fix_constants(model: torch.nn.Module) -> None:
    """Make buffers that are not saved, and that a recipe can rebuild, plain attributes.

    Models of transformers keep their positions so.  Reads as before; a recorded model file then
    holds what the model's own would hold.
    """
    for module in model.modules():
        for name in list(module._non_persistent_buffers_set):
            tensor = module._buffers.get(name)
            if tensor is not None and make_constant(tensor) is not None:
                delattr(module, name)
                setattr(module, name, tensor.clone())
