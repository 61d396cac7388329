"""`python -m milepost_ml.selfcheck FOLDER INTERVAL`: retrace one interval of a run folder.

Run in a process of its own, so that nothing but the record can make it agree.  Writes what it found
to selfcheck.json, prints it as one sentence, and exits with 0 (identical), 1 (differs) or 3 (the
record could not be read).
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Final

import msgspec

from milepost_ml.errors import InvalidRecord
from milepost_ml.files import SELFCHECK, write_bytes
from milepost_ml.replay import retrace_recorded

_CAUSES: Final = {
    "batch": "the data on disk are not those the run was fed",
    "gradient": (
        "the loop computes another loss than loss= declares, changes batch or gradients without"
        " declaring it (augment=, clip_norm=, clip_value=, accumulate=, autocast=), does not call"
        " zero_grad, or uses randomness of its own"
    ),
    "loss": "run.log(loss) was given another loss than the one declared",
    "state": "something besides the optimizer changes weights or buffers",
    "failed": "the captured graph cannot be computed",
}


MAX_CHECK_SECONDS: Final = 600.0
"""How long a run waits for its self-check after training has ended."""


class SelfCheck(msgspec.Struct, frozen=True):
    """What the local self-check found."""

    interval: int
    identical: bool | None
    """None if the interval could not be retraced at all."""
    step: int | None
    """First step that differs."""
    part: str
    """What differs there: batch, gradient, loss, state."""
    distance_ppm: int
    seconds: float
    message: str
    """The same for people."""


def check_interval(folder: Path, interval: int) -> SelfCheck:
    """Retrace one interval of a run folder and say in words what came of it."""
    try:
        found = retrace_recorded(folder, interval)
    except InvalidRecord as error:
        message = f"interval {interval} could not be retraced: {error}"
        return SelfCheck(interval, None, None, "", 0, 0.0, message)
    seconds = round(found.seconds, 3)
    if found.agrees:
        message = f"interval {interval} retraced in {found.seconds:.1f} s, identical"
        return SelfCheck(interval, True, None, "", 0, seconds, message)
    message = (
        f"interval {interval} does not repeat: first difference at step {found.step}, in the"
        f" {found.part}; after the interval the weights are {found.distance_ppm / 1e4:.4g} % of its"
        f" movement apart. Usual cause: {_CAUSES[found.part]}. Verifiers would reject this run"
        " (milepost explain not-reproducible)"
    )
    return SelfCheck(interval, False, found.step, found.part, found.distance_ppm, seconds, message)


def start_check(folder: Path, interval: int = 0) -> subprocess.Popen[bytes]:
    """Begin the self-check of a run folder in a process of its own.  Raises OSError."""
    # The child finds the modules this process uses, and none that lie in its working folder.
    environment = {
        **os.environ,
        "OMP_NUM_THREADS": "1",
        "PYTHONPATH": os.pathsep.join(path for path in sys.path if path),
    }
    return subprocess.Popen(
        [sys.executable, "-P", "-m", "milepost_ml.selfcheck", str(folder), str(interval)],
        env=environment,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )


def wait_for_check(process: subprocess.Popen[bytes]) -> None:
    """Wait for a self-check, and end it if it takes unreasonably long."""
    try:
        process.wait(MAX_CHECK_SECONDS)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


class RunningCheck:
    """The self-check of a run that is still going on: begun once, told once."""

    def __init__(self) -> None:
        self._folder = Path()
        self._process: subprocess.Popen[bytes] | None = None
        self._told = False

    def poll(self, folder: Path) -> str | None:
        """Begin with the folder's first interval; what was found, the first time it is known."""
        if self._process is None:
            self._folder, self._process = folder, start_check(folder)
        if self._told or self._process.poll() is None:
            return None
        self._told = True
        return describe_check(self._folder, self._process)

    def wait(self) -> str | None:
        """Wait for its end; as `poll`."""
        if self._process is None or self._told:
            return None
        wait_for_check(self._process)
        return self.poll(self._folder)


def describe_check(folder: Path, process: subprocess.Popen[bytes]) -> str:
    """What an ended self-check found, as a sentence."""
    try:
        found = msgspec.json.decode((folder / SELFCHECK).read_bytes(), type=SelfCheck)
    except (OSError, msgspec.DecodeError):
        return (
            f"warning: the self-check ended with code {process.returncode} and found nothing; run"
            f" it yourself: python -m milepost_ml.selfcheck {folder} 0"
        )
    return f"{'self-check' if found.identical else 'warning: self-check'}: {found.message}"


def main(arguments: list[str]) -> int:
    """The command; returns the exit code."""
    if len(arguments) != 2 or not arguments[1].isdecimal():
        print("usage: python -m milepost_ml.selfcheck FOLDER INTERVAL", file=sys.stderr)
        return 2
    folder = Path(arguments[0])
    found = check_interval(folder, int(arguments[1]))
    write_bytes(folder / SELFCHECK, msgspec.json.encode(found) + b"\n")
    print(found.message)
    if found.identical is None:
        return 3
    return 0 if found.identical else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
