"""Profile `exact`: the same bits on every processor.

    with ExactMode() as mode:
        mode.reseed(seed)
        loss = loss_function(model(x), y)
        loss.backward()
        optimizer.step()           # made with fused=True

Every operator of PyTorch that is computed inside passes through this mode below autograd: forward,
backward and optimizer alike.  What its results are is written in docs/spec/arithmetic.md; an
operator without a rule there is refused by name, before it computes anything.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final

import torch
from torch.utils._python_dispatch import TorchDispatchMode

from milepost_ml.arithmetic.aten import (  # noqa: F401  (each fills the table)
    elementwise,
    layers,
    losses,
    moves,
    optimizers,
    products,
)
from milepost_ml.arithmetic.aten.draws import Draws
from milepost_ml.arithmetic.table import HANDLERS, get_overload, refuse

VERSION: Final = "exact/1"
"""Changes whenever a bit of any rule does, and with what is refused: a step that needs a refused
operator fails, so verifiers of one version must refuse alike."""

# Fused attention and oneDNN's recurrent layers have no written order; the formulas in terms of
# products and elementwise operators have.  PyTorch's switches, as (getter, setter, value).
_SWITCHES: Final[tuple[tuple[Any, Any, bool], ...]] = (
    (torch._C._get_flash_sdp_enabled, torch._C._set_sdp_use_flash, False),
    (torch._C._get_mem_efficient_sdp_enabled, torch._C._set_sdp_use_mem_efficient, False),
    (torch._C._get_cudnn_sdp_enabled, torch._C._set_sdp_use_cudnn, False),
    (torch._C._get_overrideable_sdp_enabled, torch._C._set_sdp_use_overrideable, False),
    (torch._C._get_math_sdp_enabled, torch._C._set_sdp_use_math, True),
    (torch._C._get_mkldnn_enabled, torch._C._set_mkldnn_enabled, False),
)

_NO_ARGUMENTS: Final[Mapping[str, Any]] = {}


class ExactMode(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """While active in a thread, its tensors are computed exactly.  May be entered many times."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._draws = Draws()
        draws = self._draws.get_handlers()
        handlers = HANDLERS | {get_overload(name): draw for name, draw in draws.items()}
        # Operators live as long as the process; hashing one takes longer than its number.
        self._handlers = {id(overload): handler for overload, handler in handlers.items()}
        self._before: list[bool] = []

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        """PyTorch's question whether to guard every call against its compiler: nothing compiles."""
        return False

    def reseed(self, seed: int) -> None:
        """Key the random numbers that follow (rule E30); 63 bits."""
        self._draws.reseed(seed)

    def __enter__(self) -> ExactMode:
        self._before = [get() for get, _, _ in _SWITCHES]
        for _, switch, wanted in _SWITCHES:
            switch(wanted)
        super().__enter__()  # type: ignore[no-untyped-call]
        return self

    def __exit__(self, *reason: Any) -> None:
        super().__exit__(*reason)  # type: ignore[no-untyped-call]
        for (_, switch, _), before in zip(_SWITCHES, self._before, strict=True):
            switch(before)

    def __torch_dispatch__(
        self,
        func: Any,
        types: Sequence[type],
        args: Sequence[Any] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        handler = self._handlers.get(id(func))
        if handler is None:
            return self._resolve(func, args, kwargs or _NO_ARGUMENTS)
        return handler(*args, **kwargs) if kwargs else handler(*args)

    def _resolve(self, func: Any, args: Sequence[Any], kwargs: Mapping[str, Any]) -> Any:
        """Operators that are not in the table: integers compute as they do, floats are refused."""
        if func.namespace == "profiler":  # PyTorch's own notes about what it is doing
            self._handlers[id(func)] = func
            return func(*args, **kwargs)
        if not _has_floats(args, kwargs):
            return func(*args, **kwargs)
        name = func._opname + ("" if func._overloadname == "default" else f".{func._overloadname}")
        raise refuse(name, "no rule of docs/spec/arithmetic.md says how")


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
