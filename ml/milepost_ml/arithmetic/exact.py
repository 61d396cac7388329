"""Profile `exact`: the same bits on every processor.

    with ExactMode() as mode:
        mode.reseed(seed)
        loss = loss_function(model(x), y)
        loss.backward()
        optimizer.step()           # made with fused=True

Every operator of PyTorch that is computed inside passes through the rules below autograd: forward,
backward and optimizer alike.  What its results are is written in docs/spec/arithmetic.md; an
operator without a rule there is refused by name, before it computes anything.

The rules are registered under a key of PyTorch's dispatcher that lies below autograd and above all
devices, and that a mode switches on for its thread.  Operators that pass never reach Python, which
a `TorchDispatchMode` would cost them.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final

import torch
from torch.library import Library, fallthrough_kernel

from milepost_ml.arithmetic.aten import (  # noqa: F401  (each fills the table)
    draws,
    elementwise,
    layers,
    losses,
    moves,
    optimizers,
    products,
)
from milepost_ml.arithmetic.aten.draws import Draws
from milepost_ml.arithmetic.table import HANDLERS, Handler, refuse

VERSION: Final = "exact/1"
"""Changes whenever a bit of any rule does, and with what is refused: a step that needs a refused
operator fails, so verifiers of one version must refuse alike."""

# Fused attention, oneDNN's recurrent layers and cuDNN's layers have no written order; the formulas
# in terms of products and elementwise operators have.  PyTorch's switches, as (getter, setter,
# value).
_SWITCHES: Final[tuple[tuple[Any, Any, bool], ...]] = (
    (torch._C._get_flash_sdp_enabled, torch._C._set_sdp_use_flash, False),
    (torch._C._get_mem_efficient_sdp_enabled, torch._C._set_sdp_use_mem_efficient, False),
    (torch._C._get_cudnn_sdp_enabled, torch._C._set_sdp_use_cudnn, False),
    (torch._C._get_overrideable_sdp_enabled, torch._C._set_sdp_use_overrideable, False),
    (torch._C._get_math_sdp_enabled, torch._C._set_sdp_use_math, True),
    (torch._C._get_mkldnn_enabled, torch._C._set_mkldnn_enabled, False),
    (torch._C._get_cudnn_enabled, torch._C._set_cudnn_enabled, False),
)

_KEY: Final = torch._C._dispatch_key_parse("Fake")
"""A key of the dispatcher that PyTorch 2.13 reserves and has no kernels for."""

_include = torch._C._dispatch_tls_set_dispatch_key_included
_exclude = torch._C._dispatch_tls_set_dispatch_key_excluded


def is_active() -> bool:
    """Whether this thread computes exactly."""
    included: bool = torch._C._dispatch_tls_is_dispatch_key_included(_KEY)
    return included and not torch._C._dispatch_tls_is_dispatch_key_excluded(_KEY)


class ExactMode:
    """While active in a thread, its tensors are computed exactly.  May be entered many times."""

    def __init__(self) -> None:
        self._draws = Draws()
        self._before: list[Callable[[], None]] = []

    def reseed(self, seed: int) -> None:
        """Key the random numbers that follow (rule E30); 63 bits."""
        self._draws.reseed(seed)

    def __enter__(self) -> ExactMode:
        switched, outer, active = (
            [get() for get, _, _ in _SWITCHES],
            draws.get_current(),
            is_active(),
        )

        def restore() -> None:
            _include(_KEY, active)
            draws.set_current(outer)
            for (_, switch, _), before in zip(_SWITCHES, switched, strict=True):
                switch(before)

        self._before.append(restore)
        for _, switch, wanted in _SWITCHES:
            switch(wanted)
        draws.set_current(self._draws)
        _include(_KEY, True)
        return self

    def __exit__(self, *reason: object) -> None:
        self._before.pop()()


def _make_kernel(handler: Handler) -> Handler:
    """What a handler computes with PyTorch's own operators is plain PyTorch."""

    def compute(*args: Any, **kwargs: Any) -> Any:
        _exclude(_KEY, True)
        try:
            return handler(*args, **kwargs)
        finally:
            _exclude(_KEY, False)

    return compute


def _compute_other(func: Any, *args: Any, **kwargs: Any) -> Any:
    """Operators that are not in the table: integers compute as they do, floats are refused."""
    if _has_floats(args, kwargs):
        name = func._opname + ("" if func._overloadname == "default" else f".{func._overloadname}")
        raise refuse(name, "no rule of docs/spec/arithmetic.md says how")
    _exclude(_KEY, True)
    try:
        return func(*args, **kwargs)
    finally:
        _exclude(_KEY, False)


def _has_floats(args: Sequence[Any], kwargs: Mapping[str, Any]) -> bool:
    """Whether an operator reads or makes floating-point tensors."""
    tensors = 0
    for value in (*args, *kwargs.values()):
        for item in value if isinstance(value, list | tuple) else (value,):
            if isinstance(item, torch.Tensor):
                tensors += 1
                if item.dtype.is_floating_point or item.dtype.is_complex:
                    return True
            elif isinstance(item, torch.dtype) and item.is_floating_point:
                return True
    return not tensors


def _register() -> tuple[Library, ...]:
    """The kernels under the key, which live as long as what is returned."""
    libraries = [Library(name, "IMPL") for name in ("aten", "profiler", "_")]
    table, notes, others = libraries
    for overload, handler in HANDLERS.items():
        kernel = _make_kernel(handler) if handler else fallthrough_kernel
        table.impl(overload, kernel, "Fake")
    for name in torch._C._dispatch_get_all_op_names():
        if name.startswith("profiler::"):  # PyTorch's own notes about what it is doing
            notes.impl(name.removeprefix("profiler::"), fallthrough_kernel, "Fake")
    others.fallback(_compute_other, "Fake")
    return tuple(libraries)


_REGISTERED: Final = _register()
