"""What a snapshot takes, and what lossless compression of differences would leave of it.

Decision 0011 keeps snapshots uncompressed; this is its table.  The coder is the best that is known
for such data: bit patterns as integers, difference to the snapshot before, zigzag, bytes of equal
weight put together, then zstd level 3 where the package zstandard is installed, otherwise zlib.
"""

from __future__ import annotations

import importlib
import tempfile
import zlib
from collections.abc import Callable, Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any, Final

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn
from torch.nn import functional

from milepost_consensus.payloads import CLASS
from milepost_ml.datasets import load_mnist_5k
from milepost_ml.files import get_snapshot_name
from milepost_ml.recorder import Run
from milepost_ml.snapshots import read_tensors
from tests.bench.models import LeNet5, ResNet, make_mlp

SNAPSHOTS: Final = 12
SMALL: Final = 64
"""A tensor of fewer values, or of another type than float32, is counted as it is."""

Compress = Callable[[bytes], bytes]
State = dict[str, NDArray[Any]]


def find_compressor() -> tuple[str, Compress]:
    """The best one that is installed."""
    try:
        module = importlib.import_module("zstandard")
    except ImportError:
        return "zlib level 6", zlib.compress
    compressor = module.ZstdCompressor(level=3)
    return "zstd level 3", compressor.compress


def _make_frozen() -> nn.Module:
    """LeNet-5 of which only the last layer is trained."""
    model = LeNet5()
    for parameter in [*model.parameters()][:-2]:
        parameter.requires_grad_(False)
    return model


def _record(
    make: Callable[[], nn.Module], adam: bool, every: int, folder: Path
) -> tuple[list[State], list[int]]:
    """The tensors in the files of the snapshots, and the sizes of these."""
    images, labels = (torch.from_numpy(array) for array in load_mnist_5k())
    torch.manual_seed(0)
    model = make()
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    optimizer: torch.optim.Optimizer = torch.optim.SGD(trained, 0.05, momentum=0.9)
    if adam:
        optimizer = torch.optim.Adam(trained, 1e-3)
    run = Run(
        "storage",
        model,
        optimizer,
        loss=functional.cross_entropy,
        every=every,
        folder=folder,
        profile=CLASS,
        selfcheck=False,
        quiet=True,
    )
    for x, y in run.batches(images, labels, batch_size=64, steps=SNAPSHOTS * every):
        loss = functional.cross_entropy(model(x), y)
        optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        run.log(loss)
    paths = [run.finish() / get_snapshot_name(index) for index in range(1, SNAPSHOTS + 1)]
    return [read_tensors(path) for path in paths], [path.stat().st_size for path in paths]


def _encode(before: NDArray[Any], after: NDArray[Any], compress: Compress) -> int:
    """How many bytes a tensor takes as a difference."""
    if after.dtype != np.float32 or after.size < SMALL:
        return after.nbytes
    change = after.reshape(-1).view(np.int32) - before.reshape(-1).view(np.int32)
    zigzag = ((change << 1) ^ (change >> 31)).view(np.uint8).reshape(-1, 4)
    return min(after.nbytes, len(compress(np.ascontiguousarray(zigzag.T).tobytes())))


def _share(states: list[State], kind: str, compress: Compress) -> float:
    """Of the raw bytes of tensors whose names begin with `kind`."""
    raw = left = 0
    for before, after in pairwise(states):
        for name in after:
            if name.startswith(kind):
                raw += after[name].nbytes
                left += _encode(before[name], after[name], compress)
    return left / raw


def _cases() -> Iterator[tuple[str, Callable[[], nn.Module], bool, int]]:
    models = (
        ("MLP 235k", make_mlp),
        ("LeNet-5", LeNet5),
        ("ResNet 20k", ResNet),
        ("LeNet-5, last layer", _make_frozen),
    )
    for name, make in models:
        for adam in (False, True):
            for every in (1, 25):
                yield name, make, adam, every


def bench_storage() -> None:
    """Print what snapshots take and what compressing their differences would leave."""
    coder, compress = find_compressor()
    print(f"share of the raw bytes that differences to the snapshot before take, {coder}")
    for name, make, adam, every in _cases():
        with tempfile.TemporaryDirectory() as folder:
            states, sizes = _record(make, adam, every, Path(folder))
        state = sum(tensor.nbytes for tensor in make().state_dict().values())
        shares = [_share(states, kind, compress) for kind in ("model.", "optimizer.", "")]
        print(
            f"{name:20} {'Adam' if adam else 'SGD, momentum':13} every {every:2}: weights"
            f" {shares[0]:.2f}, optimizer {shares[1]:.2f}, all {shares[2]:.2f}; a file has"
            f" {sizes[-1]:,} bytes, the model alone {state:,}",
            flush=True,
        )
