"""Memory with marked borders, to see that kernels, which nothing checks, stay inside theirs."""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any
from unittest.mock import patch

import torch
from torch import Tensor

BORDER = 4096
MARK = 12345.678


@contextmanager
def guarded_memory() -> Iterator[None]:
    """Tensors that `torch.empty` makes inside have borders; nobody may have written to them."""
    taken: list[tuple[Tensor, int]] = []

    def make(*size: Any, **options: Any) -> Tensor:
        assert not options
        shape = size[0] if len(size) == 1 and not isinstance(size[0], int) else size
        count = math.prod(shape)
        memory = torch.full((count + 2 * BORDER,), MARK)
        taken.append((memory, count))
        return memory[BORDER : BORDER + count].view(tuple(shape))

    with patch.object(torch, "empty", make):
        yield
    assert taken
    for memory, count in taken:
        mark = torch.tensor(MARK)
        assert (memory[:BORDER] == mark).all()
        assert (memory[BORDER + count :] == mark).all()
