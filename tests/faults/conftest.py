"""Records to submit, and a network whose ledger must be whole at the end."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import NamedTuple, Protocol

import pytest

from milepost_consensus.params import Params
from milepost_consensus.payloads import ROUNDED
from tests.faults.customer import Customer
from tests.faults.network import PARAMS, FaultyNetwork
from tests.support.node_processes import record_run

RUNS = 6


class Scene(NamedTuple):
    """A running network and its customer."""

    network: FaultyNetwork
    customer: Customer


class OpenScene(Protocol):
    def __call__(self, count: int, *, params: Params = PARAMS) -> AbstractContextManager[Scene]: ...


@pytest.fixture(scope="session")
def runs(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Different small records; read them, never change them."""
    folder = tmp_path_factory.mktemp("runs")
    return [record_run(folder, "run" + "-" * i, profile=ROUNDED) for i in range(RUNS)]


@pytest.fixture
def open_scene(tmp_path: Path, runs: list[Path]) -> OpenScene:
    """Opens a network of so many nodes with all of them ready.

    Left without an error, the scene heals every fault and checks the ledger.
    """

    @contextmanager
    def open_it(count: int, *, params: Params = PARAMS) -> Iterator[Scene]:
        with FaultyNetwork(tmp_path, count, params=params) as network:
            network.start()
            network.wait_ready()
            with Customer(network, runs) as customer:
                yield Scene(network, customer)
                network.heal()
                customer.settle()

    return open_it
