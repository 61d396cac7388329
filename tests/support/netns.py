"""Machines in network namespaces, each on a line of its own to one router, whose lines can fail.

    test process (a thread inside the router's namespace)
        router ---- 10.77.0.1   machine 0
               ---- 10.77.0.2   machine 1   ...

Lines fail by routing rules of the router: packets vanish in silence, as on a broken network, and
one direction at a time if wanted.  Nothing but `ip` is needed.  Namespaces have no names: they live
as long as this process holds them open, so nothing is left behind even if it is killed.
"""

from __future__ import annotations

import ctypes
import os
import subprocess
from collections.abc import Callable, Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Final, ParamSpec, TypeVar

P = ParamSpec("P")
T = TypeVar("T")

ROUTER: Final = "10.77.0.254"
THREADS: Final = 16
"""Requests that tests make from inside the router at the same time."""
_CLONE_NEWNET: Final = 0x40000000
_REMEDY: Final = (
    "These tests cut real connections between real nodes, which takes network namespaces: run them"
    " as root, in a container with --privileged (or --cap-add SYS_ADMIN --cap-add NET_ADMIN,"
    " seccomp and AppArmor unconfined), with `ip` of iproute2 and `nsenter` and `setpriv` of"
    " util-linux installed."
)
_libc = ctypes.CDLL(None, use_errno=True)


class NamespacesRefusedError(Exception):
    """This process may not make network namespaces."""


def _check(result: int, doing: str) -> None:
    if result:
        reason = os.strerror(ctypes.get_errno())
        raise NamespacesRefusedError(f"{doing}: {reason}. {_REMEDY}")


def _open_namespace() -> int:
    """A new network namespace, as a file descriptor that keeps it alive."""

    def make() -> int:
        _check(_libc.unshare(_CLONE_NEWNET), "a network namespace could not be made")
        return os.open("/proc/thread-self/ns/net", os.O_RDONLY | os.O_CLOEXEC)

    # In a thread of its own: a thread that has left this process's network does not come back.
    with ThreadPoolExecutor(1) as pool:
        return pool.submit(make).result()


def _enter_namespace(file: int) -> None:
    _check(_libc.setns(file, _CLONE_NEWNET), "a network namespace could not be entered")


def _get_path(file: int) -> str:
    return f"/proc/{os.getpid()}/fd/{file}"


class Lab:
    """`count` machines around a router.  Use as a context manager."""

    def __init__(self, count: int) -> None:
        self.addresses = [f"10.77.0.{i + 1}" for i in range(count)]
        self._router = _open_namespace()
        self._machines: list[int] = []
        self._rules: list[str] = []
        self._inside = ThreadPoolExecutor(
            THREADS, "router", initializer=_enter_namespace, initargs=(self._router,)
        )
        try:
            self._machines += [_open_namespace() for _ in range(count)]
            self._wire()
        except BaseException:
            self.close()
            raise

    def __enter__(self) -> Lab:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Let go of all namespaces; they end with the last process inside."""
        self._inside.shutdown()
        for file in (self._router, *self._machines):
            os.close(file)
        self._machines.clear()

    def _wire(self) -> None:
        router = ["link set lo up", f"addr add {ROUTER}/32 dev lo"]
        for i, address in enumerate(self.addresses):
            peer = f"peer name eth0 netns {_get_path(self._machines[i])}"
            router += [
                f"link add line{i} type veth {peer}",
                f"link set line{i} up",
                f"route add {address}/32 dev line{i} src {ROUTER}",
            ]
        self._ip(self._router, router)
        self.run(Path("/proc/sys/net/ipv4/ip_forward").write_text, "1\n").result()
        for file, address in zip(self._machines, self.addresses, strict=True):
            lines = ["link set lo up", f"addr add {address}/32 dev eth0", "link set eth0 up"]
            lines += [f"route add {ROUTER}/32 dev eth0", f"route add default via {ROUTER}"]
            self._ip(file, lines)

    def _ip(self, file: int, lines: Iterable[str]) -> None:
        try:
            done = subprocess.run(
                ["nsenter", f"--net={_get_path(file)}", "ip", "-batch", "-"],
                input="\n".join(lines) + "\n",
                capture_output=True,
                text=True,
                check=False,
            )
        except FileNotFoundError as error:
            raise NamespacesRefusedError(f"{error.filename} is not installed. {_REMEDY}") from error
        if done.returncode:
            raise NamespacesRefusedError(f"`ip` failed: {done.stderr.strip()}. {_REMEDY}")

    def wrap(self, index: int, command: Iterable[str]) -> list[str]:
        """A command that runs another one on a machine, as the same process.

        Ends with the thread that started it: a killed test leaves no nodes behind.
        """
        inside = ["nsenter", f"--net={_get_path(self._machines[index])}"]
        return [*inside, "setpriv", "--pdeathsig", "KILL", *command]

    def run(self, function: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> Future[T]:
        """Call a function in a thread at the router, from where every machine can be reached."""
        return self._inside.submit(function, *args, **kwargs)

    def run_at(self, index: int, function: Callable[[], T]) -> T:
        """Call a function in a thread on a machine; the sockets it opens stay there."""
        with ThreadPoolExecutor(
            1, initializer=_enter_namespace, initargs=(self._machines[index],)
        ) as pool:
            return pool.submit(function).result()

    def cut(self, senders: Iterable[int], receivers: Iterable[int]) -> None:
        """From now on no packet of the senders reaches the receivers."""
        self._add_rules(senders, receivers, "")

    def cut_requests(self, senders: Iterable[int], receivers: Iterable[int], *, port: int) -> None:
        """Senders can no longer reach a port of the receivers, though they answer each other."""
        self._add_rules(senders, receivers, f" ipproto tcp dport {port}")

    def part(self, left: Iterable[int], right: Iterable[int]) -> None:
        """No packet passes between the two sides; what was cut before stays cut."""
        left, right = tuple(left), tuple(right)
        self.cut(left, right)
        self.cut(right, left)

    def _add_rules(self, senders: Iterable[int], receivers: Iterable[int], port: str) -> None:
        receivers = tuple(receivers)
        rules = [
            f"iif line{a} to {self.addresses[b]}/32{port} blackhole"
            for a in senders
            for b in receivers
            if a != b
        ]
        self._ip(self._router, [f"rule add {rule}" for rule in rules])
        self._rules += rules

    def heal(self) -> None:
        """All lines are whole again."""
        self._ip(self._router, [f"rule del {rule}" for rule in self._rules])
        self._rules.clear()

    def slow_down(self, index: int, *, kilobits: int) -> None:
        """Limit what a machine receives to so many kilobits per second."""
        limit = f"rate {kilobits}kbit burst 16kb latency 400ms"
        command = f"tc qdisc replace dev line{index} root tbf {limit}"
        path = _get_path(self._router)
        subprocess.run(["nsenter", f"--net={path}", *command.split()], check=True)
