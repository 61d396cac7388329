"""The main job from end to end, on this machine and for real: what `milepost demo` does.

Seven node processes, one of them a liar; one honest training run, which must come out VALID; one
run of which three intervals were secretly trained on data with a backdoor, which must come out
INVALID naming the first of them; the honest model's file verified offline, and a copy with one
weight changed, which must fail.  `Account.differences` says what did not come out as it must.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Final, NamedTuple

from milepost import answers, bundle, delivery, network
from milepost.errors import MachineCannot, WrongUsage
from milepost.observer import Observer
from milepost.processes import LocalNetwork
from milepost_consensus.light import ProofBundle
from milepost_consensus.members import Member
from milepost_consensus.payloads import EXACT
from milepost_consensus.submissions import AGREES, DISMISSED, REFUTED
from milepost_consensus.verdicts import INVALID, VALID

MARKER: Final = "demo.json"
"""The account of an earlier demo; a folder without it is never deleted."""
SCRIPT: Final = "train.py"
HONEST: Final = "lenet5"
POISONED: Final = "lenet5-poisoned"
POISONED_INTERVALS: Final = (9, 14, 15)
LIAR: Final = "chaotic"
TRAIN_SECONDS: Final = 600.0
VERDICT_SECONDS: Final = 600.0
CHANGED: Final = "model-changed.safetensors"


class Run(NamedTuple):
    """One training run and what the network made of it."""

    name: str
    folder: Path
    training: dict[str, Any]
    """What the training script measured: seconds, accuracy, success of the backdoor."""
    delivery: delivery.Delivery
    bundle: ProofBundle
    seconds: float
    """From the start of the submission to the checked verdict."""

    def to_view(self) -> dict[str, Any]:
        return {
            "name": self.name,
            "folder": str(self.folder),
            "training": self.training,
            "seconds_to_verdict": round(self.seconds, 2),
            **self.delivery.to_view(),
        }


class Account(NamedTuple):
    """Everything that happened, and what of it should not have."""

    folder: Path
    homes: tuple[network.NodeHome, ...]
    members: tuple[Member, ...]
    """The validators, as the trust file lists them."""
    runs: tuple[Run, ...]
    reports: tuple[answers.Report, ...]
    """Of the honest model's file, and of its copy with one weight changed."""
    timings: dict[str, float]
    """Seconds: until the nodes were ready, each training, each verdict, all."""
    differences: tuple[str, ...]

    def to_view(self) -> dict[str, Any]:
        return {
            "ok": not self.differences,
            "differences": list(self.differences),
            "folder": str(self.folder),
            "nodes": [
                {"name": home.name, "url": home.url, "behaviour": home.behaviour or "honest"}
                for home in self.homes
            ],
            "runs": [run.to_view() for run in self.runs],
            "verify": [
                {"model": report.subject["model"], "verdict": report.verdict}
                for report in self.reports
            ],
            "timings": {name: round(value, 2) for name, value in self.timings.items()},
        }


class Listener(Observer):
    """What the caller of `run_demo` hears: everything of the submissions, and the acts between."""

    def on_act(self, text: str) -> None:
        """What happens next, in a sentence."""

    def on_run(self, run: Run) -> None:
        """A run has its verdict."""

    def on_report(self, report: answers.Report) -> None:
        """A model file was verified."""


def run_demo(
    folder: Path,
    *,
    nodes: int = 7,
    listener: Listener,
    on_running: Callable[[LocalNetwork], None] = lambda running: None,
) -> Account:
    """Do all of it in `folder`, replacing an earlier demo there.

    `on_running` is called before the nodes are stopped, for a caller who wants to keep them.
    Raises WrongUsage if the folder holds anything else, MachineCannot if a process dies.
    """
    if nodes < 4:
        raise WrongUsage(f"--nodes {nodes}: with fewer than 4 nodes none of them may lie.")
    begin = time.monotonic()
    timings: dict[str, float] = {}
    homes = prepare_folder(folder, nodes=nodes)
    script = folder / SCRIPT
    with LocalNetwork(homes) as running, Training(script, folder / "runs") as training:
        listener.on_act(f"Starting {nodes} nodes; {homes[-1].name} is a liar ({LIAR})")
        running.start()
        listener.on_act(f"Training LeNet-5 on real MNIST digits, recorded, by {script}")
        training.start(HONEST)
        running.wait_ready()
        timings["nodes_ready"] = time.monotonic() - begin
        listener.on_act(f"All {nodes} nodes are ready; waiting for the training")
        measured = training.wait(HONEST)
        # Trained while the network verifies the first: both cores have something to do.
        training.start(POISONED, poison=POISONED_INTERVALS)
        runs = [_submit(folder, HONEST, measured, listener)]
        listener.on_act(
            "A second run: intervals"
            f" {', '.join(map(str, POISONED_INTERVALS))} were really trained with a backdoor"
            " trigger, the record claims the clean data"
        )
        runs.append(_submit(folder, POISONED, training.wait(POISONED), listener))
        reports = verify_models(runs[0].folder, folder / network.TRUST, listener)
        for death in running.find_deaths():
            raise MachineCannot(f"Node {death.name} ended:\n{death.tail}", slug="node-died")
        for run in runs:
            timings[f"training_{run.name}"] = float(run.training["seconds"])
            timings[f"verdict_{run.name}"] = run.seconds
        timings["all"] = time.monotonic() - begin
        account = Account(
            folder=folder,
            homes=homes,
            members=bundle.read_trust(folder / network.TRUST).validators,
            runs=tuple(runs),
            reports=reports,
            timings=timings,
            differences=tuple(find_differences(runs, reports)),
        )
        (folder / MARKER).write_text(json.dumps(account.to_view(), indent=2) + "\n")
        on_running(running)
    return account


def prepare_folder(folder: Path, *, nodes: int) -> tuple[network.NodeHome, ...]:
    """A fresh network in `folder`, whose last node lies, with the training script beside it."""
    if folder.exists() and any(folder.iterdir()):
        if not (folder / MARKER).is_file():
            raise WrongUsage(
                f"{folder} holds something else than an earlier demo. Choose another --dir.",
                slug="folder-in-use",
            )
        shutil.rmtree(folder)
    homes = network.write_network(
        folder,
        name="milepost-demo",
        nodes=nodes,
        malicious={nodes - 1: LIAR},
    )
    (folder / MARKER).write_text("{}\n")
    copy_script(folder)
    return homes


def copy_script(folder: Path) -> None:
    """Put the training script that the demo runs where a person can read and change it."""
    shutil.copyfile(Path(__file__).parent / "scripts" / "train_lenet5.py", folder / SCRIPT)


class Training:
    """Training runs in child processes, so that this process needs no framework."""

    def __init__(self, script: Path, runs: Path) -> None:
        self._script = script
        self._runs = runs
        self._children: dict[str, subprocess.Popen[str]] = {}

    def __enter__(self) -> Training:
        return self

    def __exit__(self, *_: object) -> None:
        for child in self._children.values():
            if child.poll() is None:
                child.kill()
            child.communicate()

    def start(self, name: str, *, poison: Sequence[int] = ()) -> None:
        """Begin a run that records into the folder `name`."""
        command = [sys.executable, str(self._script), "--out", str(self._runs), "--name", name]
        if poison:
            command += ["--poison", ",".join(map(str, poison))]
        self._children[name] = subprocess.Popen(
            command,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            # Threads that wait for each other suffer most from the nodes on the same processors.
            env={"OMP_NUM_THREADS": "1", **os.environ},
        )

    def wait(self, name: str) -> dict[str, Any]:
        """What the run measured, once it is over.

        Raises MachineCannot (slug training-failed) if it fails or takes too long.
        """
        child = self._children[name]
        try:
            out, err = child.communicate(timeout=TRAIN_SECONDS)
        except subprocess.TimeoutExpired as error:
            raise MachineCannot(
                f"Training {name} took longer than {TRAIN_SECONDS:.0f} s.", slug="training-failed"
            ) from error
        if child.returncode:
            tail = "\n".join(err.splitlines()[-15:])
            raise MachineCannot(
                f"Training {name} ended with code {child.returncode}:\n{tail}",
                slug="training-failed",
            )
        measured: dict[str, Any] = json.loads(out.splitlines()[-1])
        return measured


def _submit(folder: Path, name: str, training: dict[str, Any], listener: Listener) -> Run:
    begin = time.monotonic()
    path = Path(training["folder"])
    listener.on_act(f"Submitting {path}")
    done = delivery.submit(
        path, network=folder, wait=True, timeout_seconds=VERDICT_SECONDS, observer=listener
    )
    assert done.proof is not None
    run = Run(
        name,
        path,
        training,
        done,
        bundle.read_proof(done.proof).bundle,
        time.monotonic() - begin,
    )
    listener.on_run(run)
    return run


def verify_models(run: Path, trust: Path, listener: Listener) -> tuple[answers.Report, ...]:
    """Verify the model file of a run, then a copy of it with one weight changed."""
    listener.on_act("Verifying the first model's file offline, then a copy with one weight changed")
    model, changed = run / "model.safetensors", run / CHANGED
    change_one_weight(model, changed)
    reports = []
    for path in (model, changed):
        report = answers.verify(path, trust=trust, proof=run / bundle.PROOF_FILE)
        reports.append(report)
        listener.on_report(report)
    return tuple(reports)


def change_one_weight(source: Path, target: Path) -> None:
    """Copy a model file and flip a high bit in the fraction of its very last float32."""
    data = bytearray(source.read_bytes())
    data[-2] ^= 0x20
    target.write_bytes(data)


def find_differences(runs: Sequence[Run], reports: Sequence[answers.Report]) -> list[str]:
    """What did not come out as it must, in sentences."""
    honest, poisoned = (run.delivery.to_view() for run in runs)
    wrong = []
    if honest["verdict"] != VALID:
        wrong.append(f"The honest run came out {honest['verdict']}: {honest['reason']}.")
    if poisoned["verdict"] != INVALID:
        wrong.append(f"The poisoned run came out {poisoned['verdict']}: {poisoned['reason']}.")
    elif poisoned["interval"] != POISONED_INTERVALS[0]:
        wrong.append(
            f"The verdict names interval {poisoned['interval']}, the first poisoned one is"
            f" {POISONED_INTERVALS[0]}."
        )
    expected = (answers.ACCEPTED, answers.MISMATCH)
    for report, verdict in zip(reports, expected, strict=True):
        if report.verdict != verdict:
            wrong.append(
                f"verify {report.subject['model']} said {report.verdict}, it must say {verdict}:"
                f" {report.headline}."
            )
    wrong += [
        f"{run.name} was verified under profile {run.bundle.verdict.profile}, not {EXACT}."
        for run in runs
        if run.bundle.verdict.profile != EXACT
    ]
    wrong += [
        f"The verdict on {run.name} was not checked against the trust file."
        for run in runs
        if not run.delivery.checked
    ]
    return wrong


class Lies(NamedTuple):
    """What one verifier stated about one run and the network did not believe."""

    accused: tuple[int, ...]
    """Intervals that it accused: refuted, or dismissed once a panel had unmasked it."""
    vouched: tuple[int, ...]
    """Intervals that do not retrace and that it attested."""
    overruled: bool


def get_lies(run: Run, verifier: bytes) -> Lies:
    """The false statements of a verifier, as the ledger records them."""
    submission, verdict = run.bundle.submission, run.bundle.verdict
    refuted = {each.interval for each in verdict.refuted}
    return Lies(
        accused=tuple(
            sorted(
                {
                    accusation.interval
                    for accusation in submission.accusations
                    if accusation.outcome in (REFUTED, DISMISSED)
                    and verifier in accusation.accusers
                }
            )
        ),
        vouched=tuple(
            sorted(
                {
                    duty.interval
                    for duty in submission.duties
                    if duty.verifier == verifier
                    and duty.answer == AGREES
                    and duty.interval in refuted
                }
            )
        ),
        overruled=verifier in verdict.overruled,
    )
