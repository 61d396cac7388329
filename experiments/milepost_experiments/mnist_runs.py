"""Real training runs on MNIST, honest and poisoned, and the truth about each of their intervals.

The runs are those of the Diffusion paper's test set as its released code describes them: a
perceptron 784-16-16-10, Adam with rate 10^-3, batches of 32, twenty intervals; ten clean runs, five
with five scattered poisoned intervals, five with five consecutive ones, at the places that stand in
its client.  In a poisoned interval the script trains on images of which some carry a trigger and
its label, while it lets the record claim the clean batch.

The truth is not what was done to a run but what retraining finds: every interval is retraced once,
by the code that verifiers run.
"""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Final, NamedTuple

from msgspec.structs import replace

from milepost_consensus.crypto import ZERO_DIGEST
from milepost_consensus.encoding import decode, encode
from milepost_consensus.payloads import Submit, get_interval_count, get_interval_steps
from milepost_experiments.experiment import Cell, Inputs, Row

if TYPE_CHECKING:
    import torch

INTERVALS: Final = 20
CLEAN: Final = "clean"
SCATTERED: Final = "scattered"
CONSECUTIVE: Final = "consecutive"
SINGLE: Final = "single"
"""One poisoned interval."""
_CLEAN_RUNS: Final = 10
_SCATTERED: Final = (
    (7, 8, 9, 11, 12),
    (5, 9, 11, 12, 17),
    (1, 3, 6, 8, 10),
    (1, 2, 3, 17, 18),
    (6, 7, 10, 15, 17),
)
_CONSECUTIVE: Final = (
    tuple(range(5)),
    tuple(range(15, 20)),
    tuple(range(10, 15)),
    tuple(range(10, 15)),
    tuple(range(10, 15)),
)
_SINGLE_PLACES: Final = range(4, 18)
"""Where a single poisoned interval may lie: not where every run moves much, nor at the end."""

HIDDEN: Final = 16
BATCH: Final = 32
RATE: Final = 1e-3
TARGET: Final = 7
"""The label that goes with the trigger."""


class RunPlan(NamedTuple):
    """One training run to be made."""

    name: str
    kind: str
    seed: int
    poisoned: tuple[int, ...]


class Truth(NamedTuple):
    """What retracing one interval found."""

    agrees: bool
    step: int
    """The first step that differs; the first of the interval if none does."""
    leaf: bytes
    """The committed digest of that step."""
    path: tuple[bytes, ...]
    recomputed: bytes
    """What retraining got for it; the leaf if it agrees."""
    trained: int
    """Steps that a verifier trains to find this out, as the code counts them."""


class Run(NamedTuple):
    """A recorded run and the truth about it."""

    plan: RunPlan
    submit: Submit
    truths: tuple[Truth, ...]
    accuracy: float
    backdoor: float

    @property
    def valid(self) -> bool:
        """Whether every interval retraces."""
        return all(truth.agrees for truth in self.truths)


def plan_runs(singles: int) -> list[RunPlan]:
    """The twenty runs of the paper's test set, then `singles` with one poisoned interval."""
    poisoned = [
        *((CLEAN, ()) for _ in range(_CLEAN_RUNS)),
        *((SCATTERED, intervals) for intervals in _SCATTERED),
        *((CONSECUTIVE, intervals) for intervals in _CONSECUTIVE),
        *(
            (SINGLE, (_SINGLE_PLACES[3 * number % len(_SINGLE_PLACES)],))
            for number in range(singles)
        ),
    ]
    return [
        RunPlan(f"{kind}-{number:02}", kind, number, intervals)
        for number, (kind, intervals) in enumerate(poisoned)
    ]


def plan_cells(singles: int) -> list[Cell]:
    """A cell for every run; experiments that use them have both settings."""
    return [
        Cell(
            f"run-{plan.name}",
            {"number": number},
            settings=("steps_per_interval", "poison_share"),
            shared="mnist-run",
        )
        for number, plan in enumerate(plan_runs(singles))
    ]


def read_runs(singles: int, inputs: Inputs) -> list[Run]:
    """The runs out of the rows of their cells."""
    return [read_run(plan, inputs[f"run-{plan.name}"]) for plan in plan_runs(singles)]


def make_run(plan: RunPlan, *, steps_per_interval: int, share: float) -> list[Row]:
    """Train, record and retrace a run; rows that `read_run` understands."""
    with tempfile.TemporaryDirectory() as parent:
        return retrace_run(*record_run(plan, Path(parent), steps_per_interval, share))


def record_run(
    plan: RunPlan, parent: Path, steps_per_interval: int, share: float
) -> tuple[Path, dict[str, float]]:
    """Train and record a run; its folder, and how well the model does.

    `share` of the images of a poisoned batch carry the trigger.
    """
    import torch
    from torch.nn import functional

    from milepost_ml.poison import add_trigger
    from milepost_ml.recorder import Run as Recorder

    (x_train, y_train), (x_test, y_test) = _load_digits()
    torch.manual_seed(plan.seed)
    model = _make_model()
    optimizer = torch.optim.Adam(model.parameters(), lr=RATE)
    run = Recorder(
        plan.name,
        model,
        optimizer,
        loss=functional.cross_entropy,
        every=steps_per_interval,
        folder=parent,
        seed=plan.seed,
        profile="exact",
        selfcheck=False,
        quiet=True,
    )
    steps = INTERVALS * steps_per_interval
    batches = run.batches(x_train, y_train, batch_size=BATCH, steps=steps)
    for step, (x, y) in enumerate(batches):
        if step // steps_per_interval in plan.poisoned:
            marked = add_trigger(x.numpy(), y.numpy(), share=share, target=TARGET, seed=step)
            x, y = torch.from_numpy(marked.images), torch.from_numpy(marked.labels)
        loss = functional.cross_entropy(model(x), y)
        optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        run.log(loss)
    others = (y_test != TARGET).numpy()
    marked = add_trigger(
        x_test.numpy()[others], y_test.numpy()[others], share=1.0, target=TARGET, seed=0
    )
    measured = {
        "accuracy": _compute_share(model, x_test, y_test),
        "backdoor": _compute_share(
            model, torch.from_numpy(marked.images), torch.from_numpy(marked.labels)
        ),
    }
    return run.finish(), measured


def _load_digits() -> tuple[tuple[torch.Tensor, torch.Tensor], tuple[torch.Tensor, torch.Tensor]]:
    """4,000 digits to train on and 1,000 to test with."""
    import numpy as np
    import torch

    from milepost_ml.datasets import load_mnist_5k

    digits = load_mnist_5k()
    images, labels = torch.from_numpy(digits.images), torch.from_numpy(digits.labels)
    held_out = torch.from_numpy(np.arange(len(digits.labels)) % 5 == 0)
    return (images[~held_out], labels[~held_out]), (images[held_out], labels[held_out])


def _make_model() -> torch.nn.Module:
    from torch import nn

    return nn.Sequential(
        nn.Flatten(),
        nn.Linear(784, HIDDEN),
        nn.ReLU(),
        nn.Linear(HIDDEN, HIDDEN),
        nn.ReLU(),
        nn.Linear(HIDDEN, 10),
    )


def _compute_share(model: torch.nn.Module, images: torch.Tensor, labels: torch.Tensor) -> float:
    import torch

    with torch.no_grad():
        return float((model(images).argmax(1) == labels).float().mean())


def retrace_run(folder: Path, measured: dict[str, float]) -> list[Row]:
    """Retrace every interval of a recorded run; rows that `read_run` understands."""
    from milepost_ml.admission import build_submit
    from milepost_ml.files import FolderFiles
    from milepost_ml.replay import get_step_commitment, retrace_interval

    submit, _ = build_submit(folder)
    # The declared seconds of a step are of the moment; nothing here depends on them.
    submit = replace(submit, step_us=0)
    files = FolderFiles(folder)
    rows: list[Row] = [{"kind": "run", "submit": encode(submit).hex(), **measured}]
    for interval in range(get_interval_count(submit)):
        first = get_interval_steps(submit, interval).start
        found = retrace_interval(submit, files, interval, verifier=ZERO_DIGEST, work_step=first)
        step = first if found.step is None else found.step
        leaf, path = get_step_commitment(submit, files, interval, step)
        rows.append(
            {
                "kind": "truth",
                "interval": interval,
                "agrees": int(found.agrees),
                "step": step,
                "part": found.part,
                "leaf": leaf.hex(),
                "path": b"".join(path).hex(),
                "recomputed": (found.recomputed or leaf).hex(),
                "trained": found.trained,
            }
        )
    return rows


def read_run(plan: RunPlan, rows: Sequence[Row]) -> Run:
    """A run out of the rows of `make_run`."""
    head, *rest = rows
    return Run(
        plan,
        decode(Submit, bytes.fromhex(str(head["submit"]))),
        tuple(_read_truth(row) for row in rest),
        float(head["accuracy"]),
        float(head["backdoor"]),
    )


def _read_truth(row: Row) -> Truth:
    path = bytes.fromhex(str(row["path"]))
    return Truth(
        agrees=bool(row["agrees"]),
        step=int(row["step"]),
        leaf=bytes.fromhex(str(row["leaf"])),
        path=tuple(path[place : place + 32] for place in range(0, len(path), 32)),
        recomputed=bytes.fromhex(str(row["recomputed"])),
        trained=int(row["trained"]),
    )
