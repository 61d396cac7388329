"""The data of a run as training frameworks want it: something sized that is gone through by epochs.

A framework asks for batches again in every epoch; the run gives one sequence, in an order of its
own that is new in every epoch.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import torch

from milepost_ml.errors import RecordingError
from milepost_ml.preflight import make_data
from milepost_ml.recorder import Run

Structure = tuple[str, ...] | None
"""The names of a batch's tensors, if it is a dictionary."""


def rebuild(structure: Structure, tensors: Sequence[torch.Tensor]) -> Any:
    """A batch as the framework's model gets it."""
    return tuple(tensors) if structure is None else dict(zip(structure, tensors, strict=True))


def split(batch: Any) -> tuple[Structure, tuple[torch.Tensor, ...]]:
    """The tensors of a collated batch or data set, and how to put them together again.

    Raises RecordingError (bad-data) for anything but a tuple, list or dictionary of tensors.
    """
    names = tuple(batch) if isinstance(batch, Mapping) else None
    parts = list(batch.values()) if isinstance(batch, Mapping) else batch
    if not isinstance(parts, tuple | list):
        parts = [parts]
    for place, part in enumerate(parts):
        if not isinstance(part, torch.Tensor):
            raise RecordingError(
                f"{names[place] if names else f'part {place}'} of a batch is"
                f" {type(part).__name__}; a record holds tensors. Remove it, or collate it to one",
                slug="bad-data",
            )
    return names, tuple(parts)


def leave(run: Run) -> None:
    """The step is done: what the framework does before the next batch is plain PyTorch."""
    if run.arithmetic is not None:
        run.arithmetic.leave()


def read_data(sources: Sequence[Any]) -> tuple[Structure, tuple[torch.Tensor, ...]]:
    """The data of a run, as `Run.batches` takes them, or one map-style data set of dictionaries.

    Raises RecordingError (bad-data, not-finite).
    """
    if len(sources) == 1 and hasattr(sources[0], "__getitem__") and hasattr(sources[0], "__len__"):
        first = sources[0][0] if len(sources[0]) else None
        if isinstance(first, Mapping):
            names = tuple(first)
            columns = _Columns(sources[0], names)
            return names, make_data([columns])
    return None, make_data(sources)


class _Columns:
    """A data set of dictionaries as one of tuples."""

    def __init__(self, dataset: Any, names: Sequence[str]) -> None:
        self._dataset, self._names = dataset, names

    def __len__(self) -> int:
        return len(self._dataset)

    def __getitem__(self, index: int) -> tuple[Any, ...]:
        item = self._dataset[index]
        if tuple(item) != tuple(self._names):
            raise RecordingError(
                f"record {index} has the fields {', '.join(item)}, the first has"
                f" {', '.join(self._names)}",
                slug="bad-data",
            )
        return tuple(item[name] for name in self._names)


class EpochLoader:
    """Goes through a run's batches, as many at a time as an epoch has.

    `begin` declares the run; it is called when the first batch is asked for, because frameworks
    make optimizer and schedule late.
    """

    def __init__(
        self,
        run: Run,
        tensors: Sequence[torch.Tensor],
        structure: Structure,
        *,
        batch_size: int,
        dataset: Any,
    ) -> None:
        self.run, self.tensors, self.structure = run, tuple(tensors), structure
        self.batch_size, self.dataset = batch_size, dataset
        self.accumulate = 1
        """Batches a step; an epoch has whole steps."""
        self._batches: Iterator[tuple[torch.Tensor, ...]] | None = None
        records = len(self.tensors[0])
        if not 1 <= batch_size <= records:
            raise RecordingError(
                f"batch_size={batch_size}: the data have {records} records", slug="bad-plan"
            )

    def __len__(self) -> int:
        batches = len(self.tensors[0]) // self.batch_size
        if batches < self.accumulate:
            raise RecordingError(
                f"an epoch has {batches} batches, but {self.accumulate} make a step",
                slug="bad-plan",
            )
        return batches - batches % self.accumulate

    def begin(self, steps: int) -> None:
        """Declare a run of so many steps, whose model the run knows by now."""
        self._batches = self.run.batches(*self.tensors, batch_size=self.batch_size, steps=steps)

    def __iter__(self) -> Iterator[Any]:
        for _ in range(len(self)):
            if self._batches is None:
                raise RecordingError(
                    "batches of a run were asked for outside its training; the adapter must be part"
                    " of the trainer: callbacks=[run.lightning()]",
                    slug="bad-plan",
                )
            batch = next(self._batches, None)
            if batch is None:
                return
            yield rebuild(self.structure, batch)
