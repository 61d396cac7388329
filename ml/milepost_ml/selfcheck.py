"""Retraces an interval of a run folder on the machine that recorded it, and says what came of it.

A run starts `python -m milepost_ml.selfcheck FOLDER INTERVAL` in a process of its own, so that
nothing but the record can make it agree.  It writes what it found to selfcheck.json, prints it as
one sentence, and exits with 0 (identical), 1 (differs) or 3 (the record could not be read).
`milepost check` does the same for people, with any interval.
"""

from __future__ import annotations

import json
import logging
import os
import subprocess
import sys
from pathlib import Path
from typing import Final

import msgspec

from milepost_consensus.payloads import CLASS
from milepost_consensus.tolerance import TOLERANCE, format_tolerance
from milepost_ml.distance import PPB
from milepost_ml.errors import InvalidRecord, MissingGpu
from milepost_ml.files import RUN, SELFCHECK, write_bytes
from milepost_ml.keras_graph import KerasGraph
from milepost_ml.recipe import Recipe
from milepost_ml.recorded import read_recorded
from milepost_ml.replay import FAILED, Retraced, retrace_recorded

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
    finding: str
    """The same for people, as what one says of the interval."""
    message: str
    """A whole sentence, with the usual cause and what to do where it does not repeat."""


def check_interval(folder: Path, interval: int) -> SelfCheck:
    """Retrace one interval of a run folder and say in words what came of it."""
    try:
        recipe = read_recorded(folder)
        found = retrace_recorded(folder, interval)
    except (InvalidRecord, MemoryError, MissingGpu) as error:
        finding = f"could not be retraced: {error}"
        message = f"interval {interval} {finding}"
        return SelfCheck(interval, None, None, "", 0, 0.0, finding, message)
    if recipe.profile == TOLERANCE:
        finding, usual = _describe_residual(found, recipe.tolerance_ppb)
    else:
        finding, usual = _describe_difference(found)
    message = f"interval {interval} {finding}"
    if not found.agrees:
        message += f". {usual}. Verifiers would reject this run ({_name_next(folder, interval)})"
    return SelfCheck(
        interval=interval,
        identical=found.agrees,
        step=found.step,
        part=found.part,
        distance_ppb=0 if found.agrees and recipe.profile != TOLERANCE else found.distance_ppb,
        seconds=round(found.seconds, 3),
        finding=finding,
        message=message,
    )


def _name_next(folder: Path, interval: int) -> str:
    """The commands that say more."""
    chosen = f" --interval {interval}" if interval else ""
    return f"milepost check {folder}{chosen} --bisect; milepost explain not-reproducible"


def _describe_difference(found: Retraced) -> tuple[str, str]:
    """What was found where all bits are compared, and what usually causes it."""
    if found.agrees:
        return f"retraced in {found.seconds:.1f} s, identical", ""
    finding = f"does not repeat: first difference at step {found.step}, in the {found.part}"
    if found.part == FAILED:
        finding = f"does not repeat: step {found.step} cannot be computed"
    elif found.distance_ppb:
        share = found.distance_ppb / 1e7
        finding += f"; after the interval the weights are {share:.4g} % of its movement apart"
    return finding, f"Usual cause: {_CAUSES[found.part]}"


def _describe_residual(found: Retraced, tolerance_ppb: int) -> tuple[str, str]:
    """What a run with a tolerance needs to hear: how much of the bound it used up here."""
    measured = f"a residual of {found.distance_ppb / PPB:.1e} ({found.part or 'all values equal'})"
    bound = f"the bound of {format_tolerance(tolerance_ppb)}"
    if found.agrees:
        return f"retraced in {found.seconds:.1f} s with {measured}, {bound}", ""
    return (
        f"does not repeat: {measured} is beyond {bound}",
        "Usual causes: what breaks a run of any profile, such as another loss than declared; or"
        " intervals so long that the noise of this model grows beyond the bound (every=1 keeps it"
        " smallest)",
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


def prepare_machine(folder: Path) -> str | None:
    """Set this process up to retrace a run's intervals as its own self-check does.

    Returns what people should know of it, if anything.  Raises InvalidRecord, MissingFramework.
    """
    recipe = read_recorded(folder)
    if recipe.profile == TOLERANCE:
        import torch

        recorded = _read_threads(folder)
        threads = 2 if recorded == 1 else 1
        torch.set_num_threads(threads)
        return f"computing with {threads} threads, the run with {recorded}, as a verifier may"
    if recipe.profile != CLASS:
        return None
    here = _find_class(recipe)
    if here == recipe.device_class:
        return None
    return (
        f"the run was recorded on {recipe.device_class}, this machine is {here}: what differs here"
        " may repeat there"
    )


def _find_class(recipe: Recipe) -> str:
    """The device class of this machine, as the recipe's framework has it."""
    if isinstance(recipe.graph, KerasGraph):
        # It warns of functions that are traced often, as one for every interval is.
        logging.getLogger("tensorflow").setLevel(logging.ERROR)
        from milepost_ml.keras_training import device_class

        return device_class.compute_device_class()
    from milepost_ml.device import compute_device_class

    return compute_device_class(autocast=recipe.autocast is not None)


def _read_threads(folder: Path) -> int:
    """With how many threads a run was recorded, as run.json says."""
    try:
        return int(json.loads((folder / RUN).read_bytes())["environment"]["threads"])
    except (OSError, ValueError, KeyError, TypeError):
        return 1


def keep_check(folder: Path, found: SelfCheck) -> None:
    """Write what was found to selfcheck.json; raises OSError."""
    write_bytes(folder / SELFCHECK, msgspec.json.encode(found) + b"\n")


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
            f" it yourself: milepost check {folder}"
        )
    return f"{'self-check' if found.identical else 'warning: self-check'}: {found.message}"


def main(arguments: list[str]) -> int:
    """The command; returns the exit code."""
    if len(arguments) != 2 or not arguments[1].isdecimal():
        print("usage: python -m milepost_ml.selfcheck FOLDER INTERVAL", file=sys.stderr)
        return 2
    folder = Path(arguments[0])
    found = check_interval(folder, int(arguments[1]))
    keep_check(folder, found)
    print(found.message)
    if found.identical is None:
        return 3
    return 0 if found.identical else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
