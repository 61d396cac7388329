"""A network of node processes, each on a machine of its own, and everything that can befall them.

The nodes validate; the verifiers are members without a node whose keys the tests hold
(`customer.py`), so that nothing is retrained and no node loads a framework.
"""

from __future__ import annotations

import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any, Final

import httpx
import msgspec

from milepost_consensus.members import VALIDATOR, VERIFIER, Genesis, Member, compute_network_id
from milepost_consensus.params import Params
from milepost_consensus.rules import get_proposer
from milepost_node.sync import PAGE_BLOCKS
from tests.faults.history import replay
from tests.support.ledger import make_genesis
from tests.support.netns import Lab
from tests.support.nodes import write_home

PORT: Final = 7101
VERIFIERS: Final = 2
PARAMS: Final = Params(
    min_block_ms=20,
    idle_block_ms=100,
    timeout_ms=400,
    timeout_step_ms=200,
    timeout_cap_ms=1_500,
    hold_window=100_000,
    attest_window=100_000,
    witness_window=2,
)
"""Timeouts short enough to see many of them; windows that no fault of these tests outlasts."""
WAIT_SECONDS: Final = 60.0
REQUEST_SECONDS: Final = 5.0


def poll(condition: Callable[[], Any], what: str, seconds: float = WAIT_SECONDS) -> Any:
    """The first true value of the condition; fails after some time."""
    deadline = time.monotonic() + seconds
    while not (value := condition()):
        assert time.monotonic() < deadline, f"not within {seconds:g} s: {what}"
        time.sleep(0.02)
    return value


def make_faulty_genesis(lab: Lab, *, params: Params) -> Genesis:
    """A validator on every machine of the lab, verifiers without a node, and a submitter."""
    count = len(lab.addresses)

    def place(member: Member) -> Member:
        if not member.roles & VALIDATOR:
            return member
        index = int(member.name.removeprefix("node-"))
        if index >= count:
            return msgspec.structs.replace(member, roles=VERIFIER)
        endpoint = f"http://{lab.addresses[index]}:{PORT}"
        return msgspec.structs.replace(member, roles=VALIDATOR, endpoint=endpoint)

    bare = make_genesis(count + VERIFIERS, params=params)
    return msgspec.structs.replace(bare, members=tuple(map(place, bare.members)))


class FaultyNetwork:
    """Node processes in a lab.  Use as a context manager, which kills what is left.

    Start nodes from the main thread only: they end with the thread that started them.
    """

    def __init__(self, folder: Path, count: int, *, params: Params = PARAMS) -> None:
        self.lab = Lab(count)
        self.genesis = make_faulty_genesis(self.lab, params=params)
        self.id = compute_network_id(self.genesis)
        self.urls = [f"http://{address}:{PORT}" for address in self.lab.addresses]
        self.homes = [folder / f"node-{i}" for i in range(count)]
        self.running: dict[int, subprocess.Popen[bytes]] = {}
        self._http = httpx.Client(timeout=REQUEST_SECONDS, trust_env=False)
        self._keys: dict[int, dict[str, bytes]] = {}
        for i, home in enumerate(self.homes):
            self._write_home(i, home)

    def _write_home(self, index: int, home: Path) -> None:
        # The folder may be there: a disk of its own was mounted on it.
        made = write_home(home / "made", self.genesis, f"node-{index}", port=PORT)
        for file in made.iterdir():
            shutil.move(file, home / file.name)
        made.rmdir()
        toml = home / "node.toml"
        address = self.lab.addresses[index]
        toml.write_text(toml.read_text().replace('"127.0.0.1"', f'"{address}"'))

    def __enter__(self) -> FaultyNetwork:
        return self

    def __exit__(self, *_: object) -> None:
        for index in tuple(self.running):
            self.kill(index)
        self._http.close()
        self.lab.close()

    @property
    def all(self) -> range:
        return range(len(self.homes))

    # What befalls processes -----------------------------------------------------------------------

    def start(self, *indices: int) -> None:
        """Start nodes, or all; `wait_ready` says when they are there."""
        for index in indices or self.all:
            home = self.homes[index]
            command = [sys.executable, "-m", "milepost_node", "--home", str(home)]
            with home.with_suffix(".printed").open("ab") as printed:
                self.running[index] = subprocess.Popen(
                    self.lab.wrap(index, command),
                    stdin=subprocess.DEVNULL,
                    stdout=printed,
                    stderr=printed,
                )

    def kill(self, index: int) -> None:
        """End a node without warning."""
        process = self.running.pop(index)
        process.kill()
        process.wait()

    def stop(self, index: int) -> None:
        """End a node in order."""
        process = self.running.pop(index)
        process.terminate()
        assert process.wait(WAIT_SECONDS) == 0, self.read_log(index)

    def wait_ended(self, index: int) -> int:
        """The exit code of a node that ends by itself."""
        process = self.running[index]
        poll(lambda: process.poll() is not None, f"node {index} ended")
        del self.running[index]
        return process.returncode

    def pause(self, index: int) -> None:
        """Let a node stand still, its connections open."""
        self.running[index].send_signal(signal.SIGSTOP)

    def resume(self, index: int) -> None:
        """Let a paused node go on; to itself no time has passed but by the clock."""
        self.running[index].send_signal(signal.SIGCONT)

    def wipe(self, index: int) -> None:
        """Delete all that a node, which is not running, knows; its key and settings stay."""
        for entry in self.homes[index].iterdir():
            if entry.is_dir():
                shutil.rmtree(entry)
            elif entry.name not in ("node.key", "node.toml", "genesis.json"):
                entry.unlink()

    def watch_standstill(self, *indices: int) -> None:
        """Nodes decide nothing for longer than their longest timeout."""
        heights = [self.get_height(index) for index in indices]
        time.sleep(2 * self.genesis.params.timeout_cap_ms / 1_000)
        assert [self.get_height(index) for index in indices] == heights

    def read_log(self, index: int) -> str:
        """What a node printed, in all its lives."""
        return self.homes[index].with_suffix(".printed").read_text()

    # What can be seen of it -----------------------------------------------------------------------

    def request(self, index: int, path: str) -> httpx.Response | None:
        """A node's answer, or None if there is none or only a refusal."""
        answer = self.lab.run(self.request_inside, index, path).result()
        return answer if answer is not None and answer.is_success else None

    def request_inside(
        self, index: int, path: str, *, seconds: float = REQUEST_SECONDS
    ) -> httpx.Response | None:
        """The same from a thread at the router."""
        try:
            return self._http.get(self.urls[index] + path, timeout=seconds)
        except httpx.HTTPError:
            return None

    def post_inside(self, index: int, path: str, data: bytes, *, seconds: float) -> None:
        """Hand something to a node from a thread at the router, whatever it says."""
        with suppress(httpx.HTTPError):
            self._http.post(self.urls[index] + path, content=data, timeout=seconds)

    def get_status(self, index: int) -> dict[str, Any]:
        """What a node says of itself; empty if it says nothing."""
        answer = self.request(index, "/v1/status")
        return answer.json() if answer is not None else {}

    def get_height(self, index: int) -> int:
        """A node's height; -1 if it does not say."""
        return int(self.get_status(index).get("height", -1))

    def is_ready(self, index: int) -> bool:
        """Whether a node says that it is ready."""
        code = self.running[index].poll()
        assert code is None, f"node {index} ended with {code}:\n{self.read_log(index)}"
        answer = self.request(index, "/health/ready")
        return answer is not None and answer.status_code == 200

    def wait_ready(self, *indices: int) -> None:
        """Until nodes, or all, say that they are ready."""
        for index in indices or self.all:
            poll(partial(self.is_ready, index), f"node {index} ready")

    def wait_height(self, height: int, *indices: int) -> None:
        """Until nodes, or all, are at least there."""
        for index in indices or self.all:
            poll(partial(self._is_at, index, height), f"node {index} at height {height}")

    def _is_at(self, index: int, height: int) -> bool:
        return self.get_height(index) >= height

    def find_leader(self, index: int) -> int:
        """Whose turn it is to propose the block after those that a node has."""
        state, _ = replay(self.genesis, self.fetch_chain(index))
        leader = get_proposer(state, state.height + 1, 0)
        return int(leader.name.removeprefix("node-"))

    def fetch_chain(self, index: int) -> list[tuple[bytes, bytes]]:
        """All blocks of a node and their certificates, as it has them."""
        chain: list[tuple[bytes, bytes]] = []
        while True:
            path = f"/v1/peer/blocks?from={len(chain) + 1}&limit={PAGE_BLOCKS}"
            answer = self.request(index, path)
            assert answer is not None
            page = msgspec.msgpack.decode(answer.content, type=list[tuple[bytes, bytes]])
            if not page:
                return chain
            chain += page

    def heal(self) -> None:
        """End all faults: lines are whole, every node runs."""
        self.lab.heal()
        for index in self.running:
            self.resume(index)
        missing = [index for index in self.all if index not in self.running]
        if missing:
            self.start(*missing)
