"""Who computes cells: processes of this machine or, where wanted, a Ray cluster.

Whatever computes a cell is given module, configuration, cell and inputs, and gives back rows; the
rows do not depend on who it was.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
import time
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from types import FrameType
from typing import Final, NoReturn, Protocol

from milepost_experiments.experiment import Cell, Config, Inputs, Row
from milepost_experiments.registry import load_experiment

NICENESS: Final = 5
ONE_THREAD: Final = {
    "OMP_NUM_THREADS": "1",
    "OPENBLAS_NUM_THREADS": "1",
    "MKL_NUM_THREADS": "1",
}

"""The environment of a worker: cells side by side must not fight for processors."""
CLEANUP_SECONDS: Final = 30.0
"""What a cell has to end the processes that it started, once its own parent was killed."""


class Workers(Protocol):
    """A number of workers that compute cells."""

    died: tuple[type[BaseException], ...]
    """What a future raises whose worker ended without an answer."""

    def submit(self, module: str, config: Config, cell: Cell, inputs: Inputs) -> Future[list[Row]]:
        """Have a cell computed."""

    def interrupt(self) -> None:
        """Make the cells that are being computed clean up and end."""

    def close(self) -> None:
        """Wait for what is being computed; hand out nothing more."""


def compute_cell(module: str, config: Config, cell: Cell, inputs: Inputs) -> list[Row]:
    """What a worker does."""
    return [dict(row) for row in load_experiment(module).run_cell(config, cell, inputs)]


class Processes:
    """Processes of this machine, started afresh (spawn), at low priority and on one thread."""

    died: tuple[type[BaseException], ...] = (BrokenProcessPool,)

    def __init__(self, jobs: int) -> None:
        context = multiprocessing.get_context("spawn")
        self._pool = ProcessPoolExecutor(jobs, mp_context=context, initializer=_start_worker)

    def submit(self, module: str, config: Config, cell: Cell, inputs: Inputs) -> Future[list[Row]]:
        return self._pool.submit(_compute_or_leave, module, config, cell, inputs)

    def interrupt(self) -> None:
        for worker in multiprocessing.active_children():
            worker.terminate()

    def close(self) -> None:
        self._pool.shutdown(wait=True, cancel_futures=True)


def _start_worker() -> None:
    # Ctrl-C reaches the whole terminal; this process ends when the one that started it says so.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, _leave)
    threading.Thread(target=_outlive_nobody, daemon=True).start()
    os.nice(NICENESS)
    os.environ.update(ONE_THREAD)


def _compute_or_leave(module: str, config: Config, cell: Cell, inputs: Inputs) -> list[Row]:
    try:
        return compute_cell(module, config, cell, inputs)
    except SystemExit:
        # Told to end, and cleaned up.  The pool would take it for a result and wait for more work.
        os._exit(1)


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
