"""Computes the cells of a job in worker processes and writes what comes of them.

Every cell runs in a fresh interpreter (spawn), whatever the number of workers, at low priority and
on one thread: the machine stays usable, and no cell finds anything that another one left behind.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from types import FrameType
from typing import Final, NamedTuple, NoReturn

from milepost.errors import MachineCannot, WrongUsage
from milepost_experiments.experiment import Cell, Config, Inputs, Row
from milepost_experiments.jobs import Job
from milepost_experiments.registry import EXPERIMENTS, load_experiment
from milepost_experiments.store import Store

NICENESS: Final = 5
MAX_JOBS: Final = 256
CLEANUP_SECONDS: Final = 30.0
"""What a cell has to end the processes that it started, once its own parent was killed."""


class Progress(NamedTuple):
    """How far a run is."""

    done: int
    total: int
    key: str
    """The cell that was finished last; empty at the start."""


Report = Callable[[Progress], None]


def compute_rows(
    job: Job, store: Store, *, jobs: int = 1, report: Report = lambda progress: None
) -> list[Row]:
    """All rows in the order of the plan, from `jobs` processes; what the store has is not redone.

    Raises WrongUsage for a configuration that makes no sense, MachineCannot if a worker is killed,
    and whatever a cell raises.
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
        _Pool(job, store, done, lambda key: report(Progress(len(done), len(cells), key))).run(
            todo, jobs
        )
    return [row for key in keys for row in done[key]]


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

    def run(self, todo: Sequence[Cell], jobs: int) -> None:
        waiting = list(todo)
        executor = ProcessPoolExecutor(
            jobs, mp_context=multiprocessing.get_context("spawn"), initializer=_start_worker
        )
        try:
            while waiting or self._running:
                self._hand_out(executor, waiting, jobs)
                assert self._running, f"cells wait for each other: {waiting[0].key}"
                finished, _ = wait(self._running, return_when=FIRST_COMPLETED)
                for future in finished:
                    self._take(future)
        except BaseException:
            # What a cell has started (a network, say) it must be able to stop.
            for worker in multiprocessing.active_children():
                worker.terminate()
            raise
        finally:
            executor.shutdown(wait=True, cancel_futures=True)

    def _hand_out(self, executor: ProcessPoolExecutor, waiting: list[Cell], jobs: int) -> None:
        """Keep every worker busy and one cell ahead, in the order of the plan."""
        for cell in list(waiting):
            if len(self._running) >= jobs + 1:
                return
            if all(key in self._done for key in cell.needs):
                waiting.remove(cell)
                inputs = {key: self._done[key] for key in cell.needs}
                module = EXPERIMENTS[self._job.experiment.name]
                future = executor.submit(_work, module, dict(self._job.config), cell, inputs)
                self._running[future] = cell

    def _take(self, future: Future[list[Row]]) -> None:
        cell = self._running.pop(future)
        try:
            rows = future.result()
        except BrokenProcessPool as error:
            raise MachineCannot(
                f"A worker process ended while it computed {cell.key}, perhaps for want of memory."
                " What is done is kept: the same command goes on from there.",
                slug="worker-died",
            ) from error
        self._store.write(cell, rows)
        self._done[cell.key] = rows
        self._on_done(cell.key)


def _start_worker() -> None:
    # Ctrl-C reaches the whole terminal; this process ends when the one that started it says so.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, _leave)
    threading.Thread(target=_outlive_nobody, daemon=True).start()
    os.nice(NICENESS)
    for name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
        os.environ[name] = "1"


def _leave(number: int, frame: FrameType | None) -> NoReturn:
    raise SystemExit(128 + number)


def _outlive_nobody() -> None:
    """Without the process that started this one, nobody would take its rows: clean up and end."""
    parent = multiprocessing.parent_process()
    assert parent is not None
    parent.join()
    os.kill(os.getpid(), signal.SIGTERM)
    time.sleep(CLEANUP_SECONDS)
    os._exit(1)


def _work(module: str, config: Config, cell: Cell, inputs: Inputs) -> list[Row]:
    return [dict(row) for row in load_experiment(module).run_cell(config, cell, inputs)]
