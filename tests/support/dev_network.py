"""A network of real node processes, started as people start it: by `milepost dev`."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import threading
import time
from pathlib import Path
from types import TracebackType

import httpx

from milepost import network
from tests.support.cli import Outcome, get_command, run_cli

START_SECONDS = 600.0
STOP_SECONDS = 60.0


class DevNetwork:
    """`milepost dev` in the background; leaving the context sends it SIGTERM."""

    def __init__(self, folder: Path, *options: str) -> None:
        self.folder = folder
        self._process = subprocess.Popen(
            get_command(["dev", "--dir", folder, "--port", "0", *options]),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        self._lines: list[str] = []
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def _read(self) -> None:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            self._lines.append(line)

    @property
    def printed(self) -> str:
        return "".join(self._lines)

    @property
    def homes(self) -> tuple[network.NodeHome, ...]:
        return network.read_homes(self.folder)

    def wait_until_printed(self, pattern: str) -> str:
        """Return what was printed once it contains `pattern`."""
        deadline = time.monotonic() + START_SECONDS
        while not re.search(pattern, self.printed):
            assert self._process.poll() is None, f"milepost dev ended:\n{self.printed}"
            assert time.monotonic() < deadline, self.printed
            time.sleep(0.05)
        return self.printed

    def __enter__(self) -> DevNetwork:
        self.wait_until_printed("Ctrl-C stops the network")
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.stop()

    def stop(self) -> int:
        """End the command as a supervisor would; returns its exit code."""
        if self._process.poll() is None:
            self._process.send_signal(signal.SIGTERM)
        code = self._process.wait(STOP_SECONDS)
        self._reader.join(STOP_SECONDS)
        return code

    def run(self, *arguments: str | Path) -> Outcome:
        """Run a command of a client that uses this network."""
        return run_cli(*arguments, env={"MILEPOST_NETWORK": str(self.folder)})

    def start(self, *arguments: str | Path) -> subprocess.Popen[str]:
        """Start such a command without waiting for it."""
        return subprocess.Popen(
            get_command(arguments),
            env={**os.environ, "MILEPOST_NETWORK": str(self.folder), "TERM": "dumb"},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def is_healthy(self, home: network.NodeHome) -> bool:
        """Whether a node says that it is ready."""
        try:
            return httpx.get(f"{home.url}/health/ready", timeout=10).status_code == 200
        except httpx.HTTPError:
            return False

    def find_pid(self, home: network.NodeHome) -> int:
        """The process of a node, by its command line."""
        wanted = str(home.home).encode()
        for entry in Path("/proc").iterdir():
            if entry.name.isdecimal():
                try:
                    words = (entry / "cmdline").read_bytes().split(b"\0")
                except OSError:
                    continue
                if b"milepost_node" in words and wanted in words:
                    return int(entry.name)
        raise AssertionError(f"no process for {home.home}")

    def kill(self, home: network.NodeHome) -> None:
        """Kill a node without warning."""
        os.kill(self.find_pid(home), signal.SIGKILL)
