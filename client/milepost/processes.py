"""Node processes of a network folder on this machine: start, wait until ready, watch, stop.

Nodes are started by module name, never imported.  Each runs in a session of its own, so that
Ctrl-C reaches only the command that started them, which then stops them in order.
"""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import threading
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from typing import Final, NamedTuple

import httpx

from milepost.errors import MachineCannot, Unreachable, WrongUsage
from milepost.network import NodeHome

READY_SECONDS: Final = 600.0
"""Node processes import a framework each, and the first one on a machine compiles the kernels of
exact arithmetic; on two slow cores seven of them take their time."""
STOP_SECONDS: Final = 15.0
POLL_SECONDS: Final = 0.1
TAIL_LINES: Final = 15
"""What is kept of what a node prints; the whole stands in its own rotating log."""


class Death(NamedTuple):
    """A node process that ended by itself."""

    name: str
    code: int
    tail: str


class LocalNetwork:
    """The running processes of some node homes.  Use as a context manager: leaving it stops all."""

    def __init__(
        self,
        homes: Sequence[NodeHome],
        *,
        environments: Mapping[str, Mapping[str, str]] | None = None,
    ) -> None:
        """`environments` are variables that single nodes, by name, get besides this process's."""
        self.homes = tuple(homes)
        self._environments = dict(environments or {})
        self._running: dict[str, subprocess.Popen[bytes]] = {}
        self._tails: dict[str, deque[str]] = {}
        self._readers: dict[str, threading.Thread] = {}

    def __enter__(self) -> LocalNetwork:
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def start(self) -> None:
        """Start every node; raises WrongUsage (slug network-running) if one answers already."""
        with httpx.Client(timeout=1.0, trust_env=False) as http:
            for home in self.homes:
                if _get_health(http, home.url) is not None:
                    raise WrongUsage(
                        f"Something answers at {home.url} already. Is this network running in"
                        " another terminal? Stop it there, or use it as it is.",
                        slug="network-running",
                    )
        for home in self.homes:
            process = subprocess.Popen(
                [sys.executable, "-m", "milepost_node", "--home", str(home.home)],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                start_new_session=True,
                env={**os.environ, **self._environments.get(home.name, {})},
            )
            self._running[home.name] = process
            self._tails[home.name] = deque(maxlen=TAIL_LINES)
            self._readers[home.name] = threading.Thread(
                target=_keep_tail, args=(process, self._tails[home.name]), daemon=True
            )
            self._readers[home.name].start()

    def wait_ready(
        self,
        *,
        seconds: float = READY_SECONDS,
        on_ready: Callable[[NodeHome], None] = lambda home: None,
    ) -> None:
        """Return once every node is ready and stated what it retrains; `on_ready` hears of each.

        Raises MachineCannot (slug node-died) if one ends first, Unreachable if one takes too long.
        """
        waiting = list(self.homes)
        deadline = time.monotonic() + seconds
        with httpx.Client(timeout=2.0, trust_env=False) as http:
            while waiting:
                for home in list(waiting):
                    if _is_ready(http, home.url) and _can_retrain(http, home.url):
                        waiting.remove(home)
                        on_ready(home)
                for death in self.find_deaths():
                    raise MachineCannot(
                        f"Node {death.name} ended with code {death.code} while starting."
                        f" The end of its log:\n{death.tail}",
                        slug="node-died",
                    )
                if waiting and time.monotonic() > deadline:
                    names = ", ".join(home.name for home in waiting)
                    raise Unreachable(f"Not ready after {seconds:.0f} s: {names}.")
                if waiting:
                    time.sleep(POLL_SECONDS)

    def find_deaths(self) -> list[Death]:
        """Nodes that ended since the last call, each reported once."""
        deaths = []
        for name, process in list(self._running.items()):
            code = process.poll()
            if code is not None:
                del self._running[name]
                deaths.append(Death(name, code, self.read_tail(name)))
        return deaths

    def read_tail(self, name: str) -> str:
        """The last lines that an ended node printed."""
        # Its worker may hold the pipe open for a moment longer.
        self._readers[name].join(timeout=1.0)
        return "\n".join(self._tails[name]) or "(it printed nothing)"

    def stop(self, *, seconds: float = STOP_SECONDS) -> None:
        """Ask every node to end and wait; whatever is left after `seconds` is killed."""
        for process in self._running.values():
            with contextlib.suppress(ProcessLookupError):
                process.terminate()
        deadline = time.monotonic() + seconds
        for process in self._running.values():
            try:
                process.wait(max(0.0, deadline - time.monotonic()))
            except subprocess.TimeoutExpired:
                # The whole session: a node's worker must not outlive it.
                with contextlib.suppress(ProcessLookupError, PermissionError):
                    os.killpg(process.pid, signal.SIGKILL)
                process.wait()
        self._running.clear()


def _keep_tail(process: subprocess.Popen[bytes], tail: deque[str]) -> None:
    assert process.stdout is not None
    with process.stdout as stream:
        for line in stream:
            tail.append(line.decode(errors="replace").rstrip()[:500])


def _can_retrain(http: httpx.Client, url: str) -> bool:
    """Whether the node has stated on chain what it repeats; until then it is not elected for it."""
    try:
        status = http.get(f"{url}/v1/status").json()
        return bool(status.get("device_classes") and status.get("serves"))
    except (httpx.HTTPError, ValueError):
        return False


def _is_ready(http: httpx.Client, url: str) -> bool:
    """Whether a node takes part, or waits for heights that an idle network does not make."""
    try:
        answer = http.get(f"{url}/health/ready")
        return answer.status_code == 200 or answer.json().get("reason") == "quarantine"
    except (httpx.HTTPError, ValueError):
        return False


def _get_health(http: httpx.Client, url: str) -> int | None:
    try:
        return http.get(f"{url}/health/ready").status_code
    except httpx.HTTPError:
        return None
