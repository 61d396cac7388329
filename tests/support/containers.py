"""A Docker engine for tests, brought up where none is, and the commands of a guide."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Final

import pytest

ROOT: Final = Path(__file__).parent.parent.parent
ENGINE: Final = "MILEPOST_CONTAINER_ENGINE"
"""Names a script that brings an engine up (`SCRIPT up`) and down again (`SCRIPT down`)."""
ENGINE_SECONDS: Final = 900
COMMAND_SECONDS: Final = 1500
_BLOCK: Final = re.compile(r"^```sh\n(.*?)^```$", re.MULTILINE | re.DOTALL)


@contextmanager
def provide_engine() -> Iterator[None]:
    """A running engine: the one that is there, or one that the script starts and stops."""
    if _has_engine():
        yield
        return
    script = Path(os.environ.get(ENGINE, ROOT.parent / "shared" / "container-engine.sh"))
    if not script.is_file():
        pytest.fail(
            "These tests need a Docker engine with Compose. Start one, or name in the environment"
            f" variable {ENGINE} a script that does it when called with `up`, and stops it with"
            " `down`."
        )
    done = subprocess.run(
        [str(script), "up"], capture_output=True, text=True, timeout=ENGINE_SECONDS, check=False
    )
    if done.returncode or not _has_engine():
        pytest.fail(f"{script} up did not bring an engine up:\n{done.stdout}{done.stderr}")
    try:
        yield
    finally:
        subprocess.run([str(script), "down"], capture_output=True, timeout=60, check=True)


def _has_engine() -> bool:
    try:
        done = subprocess.run(
            ["docker", "info", "--format", "{{.ServerVersion}}"],
            capture_output=True,
            timeout=60,
            check=False,
        )
    except FileNotFoundError:
        return False
    return done.returncode == 0 and bool(done.stdout.strip())


def read_sections(page: Path) -> dict[str, list[str]]:
    """The commands of a guide, by heading, in the order in which it gives them."""
    _, *sections = page.read_text().split("\n## ")
    return {
        section.partition("\n")[0]: [
            line for block in _BLOCK.findall(section) for line in block.splitlines()
        ]
        for section in sections
    }


def run(
    command: str, *, cwd: Path = ROOT, env: Mapping[str, str] | None = None, code: int = 0
) -> str:
    """What a shell command prints to standard output; fails unless it ends with `code`."""
    # `milepost` is the one of the environment that runs the tests.
    path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    done = subprocess.run(
        ["bash", "-c", command],
        cwd=cwd,
        env={**os.environ, "PATH": path, **(env or {})},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=COMMAND_SECONDS,
        check=False,
    )
    assert done.returncode == code, f"{command}\n{done.stdout[-8_000:]}\n{done.stderr[-8_000:]}"
    return done.stdout
