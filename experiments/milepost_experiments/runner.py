"""Computes the cells of a job with workers and writes what comes of them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, wait
from typing import Final, NamedTuple

from milepost.errors import MachineCannot, WrongUsage
from milepost_experiments.experiment import Cell, Row
from milepost_experiments.jobs import Job
from milepost_experiments.registry import EXPERIMENTS
from milepost_experiments.store import Store
from milepost_experiments.workers import Processes, Workers

PROCESSES: Final = "processes"
RAY: Final = "ray"
EXECUTORS: Final = (PROCESSES, RAY)
MAX_JOBS: Final = 256


class Progress(NamedTuple):
    """How far a run is."""

    done: int
    total: int
    key: str
    """The cell that was finished last; empty at the start."""


Report = Callable[[Progress], None]


def compute_rows(
    job: Job,
    store: Store,
    *,
    jobs: int = 1,
    executor: str = PROCESSES,
    report: Report = lambda progress: None,
) -> list[Row]:
    """All rows in the order of the plan, from `jobs` workers; what the store has is not redone.

    Raises WrongUsage for a configuration that makes no sense, MachineCannot if a worker is killed
    or the executor is not to be had, and whatever a cell raises.
    """
    if not 1 <= jobs <= MAX_JOBS:
        raise WrongUsage(f"--jobs {jobs}: 1 to {MAX_JOBS} processes are possible.")
    cells = job.experiment.plan(job.config)
    keys = [cell.key for cell in cells]
    assert len(set(keys)) == len(keys), "two cells of one key"
    done = {cell.key: rows for cell in cells if (rows := store.read(cell)) is not None}
    report(Progress(len(done), len(cells), ""))
    todo = [cell for cell in cells if cell.key not in done]
    if todo:
        pool = _Pool(job, store, done, lambda key: report(Progress(len(done), len(cells), key)))
        pool.run(todo, start_workers(executor, jobs), jobs)
    return [row for key in keys for row in done[key]]


def start_workers(executor: str, jobs: int) -> Workers:
    """`jobs` workers of a kind, one of EXECUTORS."""
    if executor == PROCESSES:
        return Processes(jobs)
    assert executor == RAY, executor
    from milepost_experiments.ray_workers import RayWorkers

    return RayWorkers(jobs)


class _Pool:
    """Hands cells to workers as soon as what they need is there."""

    def __init__(
        self,
        job: Job,
        store: Store,
        done: dict[str, list[Row]],
        on_done: Callable[[str], None],
    ) -> None:
        self._job, self._store, self._done, self._on_done = job, store, done, on_done
        self._running: dict[Future[list[Row]], Cell] = {}

    def run(self, todo: Sequence[Cell], workers: Workers, jobs: int) -> None:
        waiting = list(todo)
        try:
            while waiting or self._running:
                self._hand_out(workers, waiting, jobs)
                assert self._running, f"cells wait for each other: {waiting[0].key}"
                finished, _ = wait(self._running, return_when=FIRST_COMPLETED)
                for future in finished:
                    self._take(future, workers)
        except BaseException:
            # What a cell has started (a network, say) it must be able to stop.
            workers.interrupt()
            raise
        finally:
            workers.close()

    def _hand_out(self, workers: Workers, waiting: list[Cell], jobs: int) -> None:
        """Keep every worker busy and one cell ahead, in the order of the plan."""
        for cell in list(waiting):
            if len(self._running) >= jobs + 1:
                return
            if all(key in self._done for key in cell.needs):
                waiting.remove(cell)
                inputs = {key: self._done[key] for key in cell.needs}
                module = EXPERIMENTS[self._job.experiment.name]
                future = workers.submit(module, dict(self._job.config), cell, inputs)
                self._running[future] = cell

    def _take(self, future: Future[list[Row]], workers: Workers) -> None:
        cell = self._running.pop(future)
        try:
            rows = future.result()
        except workers.died as error:
            raise MachineCannot(
                f"A worker ended while it computed {cell.key}, perhaps for want of memory."
                " What is done is kept: the same command goes on from there.",
                slug="worker-died",
            ) from error
        self._store.write(cell, rows)
        self._done[cell.key] = rows
        self._on_done(cell.key)
