"""Cells on a Ray cluster: the one that RAY_ADDRESS names, or else one of this machine alone.

Every node of the cluster needs the same milepost with the extra `experiments`.  Ray runs a cell
again whose node was lost; its rows are the same wherever it runs.
"""

from __future__ import annotations

import os
from concurrent.futures import Future
from typing import Any

from milepost.errors import MachineCannot
from milepost_experiments.experiment import Cell, Config, Inputs, Row
from milepost_experiments.workers import ONE_THREAD, compute_cell


class RayWorkers:
    """Tasks of one processor each, as many at a time as the cluster has processors."""

    def __init__(self, jobs: int) -> None:
        os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
        try:
            import ray
        except ModuleNotFoundError as error:
            raise MachineCannot(
                "--executor ray needs Ray, which is not installed here. Install it: pip install ray"
            ) from error
        address = os.environ.get("RAY_ADDRESS")
        # A cluster of our own stays on this machine, whatever other addresses it has.
        mine: dict[str, Any] = (
            {} if address else {"num_cpus": jobs, "_node_ip_address": "127.0.0.1"}
        )
        try:
            ray.init(
                address=address,
                runtime_env={"env_vars": dict(ONE_THREAD)},
                include_dashboard=False if not address else None,
                log_to_driver=False,
                **mine,
            )
        except (ConnectionError, RuntimeError, ValueError) as error:
            raise MachineCannot(f"Ray does not start: {error}") from error
        self._ray: Any = ray
        self._compute = ray.remote(num_cpus=1)(compute_cell)
        self._tasks: list[Any] = []
        self.died: tuple[type[BaseException], ...] = (
            ray.exceptions.WorkerCrashedError,
            ray.exceptions.NodeDiedError,
        )

    def submit(self, module: str, config: Config, cell: Cell, inputs: Inputs) -> Future[list[Row]]:
        task = self._compute.remote(module, config, cell, inputs)
        self._tasks.append(task)
        future: Future[list[Row]] = task.future()
        return future

    def interrupt(self) -> None:
        for task in self._tasks:
            self._ray.cancel(task)

    def close(self) -> None:
        self._ray.shutdown()
