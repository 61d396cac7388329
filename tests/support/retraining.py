"""Nodes inside one test process that really retrain, in threads instead of worker processes."""

from __future__ import annotations

import asyncio
import threading
from pathlib import Path

import httpx

from milepost_ml.device import compute_device_class
from milepost_node.app import make_app
from milepost_node.gradients import GradientStore, get_gradients_folder
from milepost_node.jobs import Answer, DeviceClasses, GetDeviceClasses, Job
from milepost_node.node import Node
from milepost_node.retracer import Workers
from milepost_node.settings import read_settings
from milepost_node.worker import Worker
from milepost_node.worker_process import WorkerProcess
from tests.support.nodes import Cluster, MemoryPoster

ONE_AT_A_TIME = threading.Lock()
"""The framework's settings belong to the process, so two workers must not train at once."""


class ThreadWorker(WorkerProcess):
    """A worker without a process of its own."""

    def __init__(self, blobs: Path, asked: list[Job]) -> None:
        super().__init__(blobs, memory_bytes=0, limit_seconds=0)
        self._worker = Worker(blobs)
        self._asked = asked

    async def start(self) -> None:
        pass

    async def _exchange(self, job: Job) -> Answer:
        self._asked.append(job)
        return await asyncio.to_thread(self._perform, job)

    def _perform(self, job: Job) -> Answer:
        with ONE_AT_A_TIME:  # a known answer too needs torch's one generator for itself
            if isinstance(job, GetDeviceClasses):
                # What a real worker finds besides takes long, and is no matter of these tests.
                return DeviceClasses((compute_device_class(),), "")
            return self._worker.perform(job)


class ThreadWorkers(Workers):
    """The retracer of a node whose workers are threads; `asked` is what they were asked."""

    def __init__(self, blobs: Path) -> None:
        self.asked: list[Job] = []
        self._gradients = GradientStore(get_gradients_folder(blobs))
        self._reader = ThreadWorker(blobs, self.asked)
        self._trainer = ThreadWorker(blobs, self.asked)


class RetrainingCluster(Cluster):
    """A cluster whose nodes retrain what is submitted to them."""

    def start_all(self) -> dict[int, ThreadWorkers]:
        """Open and start every node; returns their workers."""
        workers = {}
        for index, home in enumerate(self.homes):
            workers[index] = ThreadWorkers(home / "blobs")
            node = self.nodes[index] = Node(
                read_settings(home),
                client=httpx.AsyncClient(transport=self.network),
                open_poster=lambda url: MemoryPoster(self.network, url),
                retracer=workers[index],
            )
            self.network.nodes[f"node-{index}"] = httpx.ASGITransport(make_app(node))
            node.start()
        return workers
