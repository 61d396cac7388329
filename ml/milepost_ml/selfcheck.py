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

from milepost_consensus.tolerance import TOLERANCE, format_tolerance
from milepost_ml.distance import PPB
from milepost_ml.errors import InvalidRecord, MissingGpu
from milepost_ml.files import SELFCHECK, FolderFiles, write_bytes
from milepost_ml.record_files import read_recipe
from milepost_ml.replay import Retraced, retrace_recorded

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
    """Whether it repeats, under profile `tolerance` within the bound; None if the interval could
    not be retraced at all."""
    step: int | None
    """First step that differs."""
    part: str
    """What differs there: batch, gradient, loss, state; under `tolerance` what differs most."""
    distance_ppb: int
    seconds: float
    message: str
    """The same for people."""


def check_interval(folder: Path, interval: int) -> SelfCheck:
    """Retrace one interval of a run folder and say in words what came of it."""
    try:
        recipe = read_recipe(FolderFiles(folder))[1]
        found = retrace_recorded(folder, interval)
    except (InvalidRecord, MemoryError, MissingGpu) as error:
        message = f"interval {interval} could not be retraced: {error}"
        return SelfCheck(interval, None, None, "", 0, 0.0, message)
    seconds = round(found.seconds, 3)
    if recipe.profile == TOLERANCE:
        message = _describe_residual(found, interval, recipe.tolerance_ppb)
        return SelfCheck(
            interval, found.agrees, found.step, found.part, found.distance_ppb, seconds, message
        )
    if found.agrees:
        message = f"interval {interval} retraced in {found.seconds:.1f} s, identical"
        return SelfCheck(interval, True, None, "", 0, seconds, message)
    message = (
        f"interval {interval} does not repeat: first difference at step {found.step}, in the"
        f" {found.part}; after the interval the weights are {found.distance_ppb / 1e7:.4g} % of its"
        f" movement apart. Usual cause: {_CAUSES[found.part]}. Verifiers would reject this run"
        " (milepost explain not-reproducible)"
    )
    return SelfCheck(interval, False, found.step, found.part, found.distance_ppb, seconds, message)


def _describe_residual(found: Retraced, interval: int, tolerance_ppb: int) -> str:
    """What a run with a tolerance needs to hear: how much of the bound it used up here."""
    measured = f"a residual of {found.distance_ppb / PPB:.1e} ({found.part or 'all values equal'})"
    bound = f"the bound of {format_tolerance(tolerance_ppb)}"
    if found.agrees:
        return f"interval {interval} retraced in {found.seconds:.1f} s with {measured}, {bound}"
    return (
        f"interval {interval} does not repeat: {measured} is beyond {bound}. Usual causes: what"
        " breaks a run of any profile, such as another loss than declared; or intervals so long"
        " that the noise of this model grows beyond the bound (every=1 keeps it smallest)."
        " Verifiers would reject this run (milepost explain not-reproducible)"
    )


def start_check(
    folder: Path, interval: int = 0, *, other_threads: bool = False
) -> subprocess.Popen[bytes]:
    """Begin the self-check of a run folder in a process of its own.  Raises OSError.

    With `other_threads` the child computes with another number of threads than this process, as a
    verifier may.
    """
    threads = _choose_other_threads() if other_threads else 1
    # The child finds the modules this process uses, and none that lie in its working folder.
    environment = {
        **os.environ,
        "OMP_NUM_THREADS": str(threads),
        "MKL_NUM_THREADS": str(threads),
        "PYTHONPATH": os.pathsep.join(path for path in sys.path if path),
    }
    return subprocess.Popen(
        [sys.executable, "-P", "-m", "milepost_ml.selfcheck", str(folder), str(interval)],
        env=environment,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )


def _choose_other_threads() -> int:
    import torch

    return 1 if torch.get_num_threads() > 1 else 2


def wait_for_check(process: subprocess.Popen[bytes]) -> None:
    """Wait for a self-check, and end it if it takes unreasonably long."""
    try:
        process.wait(MAX_CHECK_SECONDS)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


class RunningCheck:
    """The self-check of a run that is still going on: begun once, told once."""

    def __init__(self, *, other_threads: bool = False) -> None:
        """`other_threads` as in `start_check`."""
        self._folder, self._other_threads = Path(), other_threads
        self._process: subprocess.Popen[bytes] | None = None
        self._told = False

    def poll(self, folder: Path) -> str | None:
        """Begin with the folder's first interval; what was found, the first time it is known."""
        if self._process is None:
            self._folder, self._process = (
                folder,
                start_check(folder, other_threads=self._other_threads),
            )
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
