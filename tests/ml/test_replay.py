"""Retracing repeats a record bit for bit, and names the first step that does not follow."""

from __future__ import annotations

import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
import torch
from torch import nn

from milepost_consensus.crypto import ZERO_DIGEST, compute_digest
from milepost_consensus.distances import MAX_DISTANCE_PPB
from milepost_consensus.merkle import compute_root, verify_path
from milepost_consensus.payloads import Submit
from milepost_consensus.step_digests import compute_work_digest
from milepost_ml.admission import build_submit, validate_record
from milepost_ml.digests import compute_snapshot_digest
from milepost_ml.errors import InvalidRecord
from milepost_ml.files import (
    DATA,
    RECIPE,
    FolderFiles,
    build_manifest,
    get_snapshot_name,
    get_steps_name,
)
from milepost_ml.nodes import Graph, Node, Ref
from milepost_ml.recipe import (
    compute_recipe_digest,
    decode_recipe,
    encode_recipe,
    get_steps,
    set_rates,
)
from milepost_ml.record_files import compute_step_digests, read_recipe, read_state, read_steps
from milepost_ml.replay import (
    Retraced,
    get_step_commitment,
    recompute_step,
    retrace_interval,
    retrace_recorded,
)
from milepost_ml.snapshots import encode_tensors, read_tensors, write_tensors
from milepost_ml.stepper import Stepper
from tests.support.forging import forge_end
from tests.support.models import TASKS, Task
from tests.support.training import Loop, make_sgd, record

pytestmark = pytest.mark.slow  # trains

VERIFIER = b"v" * 32


def retrace(folder: Path, interval: int, work_step: int | None = None) -> Retraced:
    submit, _ = build_submit(folder)
    step = interval * submit.steps_per_interval if work_step is None else work_step
    return retrace_interval(
        submit, FolderFiles(folder), interval, verifier=VERIFIER, work_step=step
    )


def get_intervals(folder: Path) -> range:
    return range(read_recipe(FolderFiles(folder))[1].intervals)


# Honest records ----------------------------------------------------------------------------------


@pytest.mark.parametrize("name", TASKS)
def test_every_kind_of_model_repeats(name: str, tmp_path: Path) -> None:
    folder = record(tmp_path, task=name)
    validate_record(build_submit(folder)[0], FolderFiles(folder))
    for interval in get_intervals(folder):
        found = retrace(folder, interval)
        assert found.agrees, (interval, found.step, found.part)
        assert found.step is None
        assert found.distance_ppb == 0
        assert found.trained == len(get_steps(read_recipe(FolderFiles(folder))[1], interval))


def adam(**options: Any) -> Callable[[nn.Module], torch.optim.Optimizer]:
    return lambda model: torch.optim.Adam(model.parameters(), lr=1e-2, **options)


def adamw(**options: Any) -> Callable[[nn.Module], torch.optim.Optimizer]:
    return lambda model: torch.optim.AdamW(model.parameters(), lr=1e-2, **options)


def sgd(**options: Any) -> Callable[[nn.Module], torch.optim.Optimizer]:
    return lambda model: torch.optim.SGD(model.parameters(), lr=0.1, **options)


OPTIMIZERS = {
    "sgd": sgd(),
    "momentum": sgd(momentum=0.9),
    "nesterov": sgd(momentum=0.8, nesterov=True, weight_decay=0.01),
    "dampening": sgd(momentum=0.7, dampening=0.3),
    "adam": adam(),
    "adam decay": adam(weight_decay=0.1, betas=(0.8, 0.95), eps=1e-6),
    "amsgrad": adam(amsgrad=True),
    "adam decoupled": adam(weight_decay=0.1, decoupled_weight_decay=True),
    "adamw": adamw(),
    "adamw amsgrad": adamw(amsgrad=True, weight_decay=0.2),
}


@pytest.mark.parametrize("make", OPTIMIZERS.values(), ids=OPTIMIZERS.keys())
def test_every_optimizer_repeats(
    make: Callable[[nn.Module], torch.optim.Optimizer], tmp_path: Path
) -> None:
    folder = record(tmp_path, task="convnet", make=make)
    for interval in get_intervals(folder):
        assert retrace(folder, interval).agrees, interval


SCHEDULES: dict[str, Callable[[torch.optim.Optimizer], Any]] = {
    "step": lambda o: torch.optim.lr_scheduler.StepLR(o, 2, 0.5),
    "cosine": lambda o: torch.optim.lr_scheduler.CosineAnnealingLR(o, 12),
    "one cycle": lambda o: torch.optim.lr_scheduler.OneCycleLR(
        o, 0.2, total_steps=13, cycle_momentum=False
    ),
}


@pytest.mark.parametrize("schedule", SCHEDULES.values(), ids=SCHEDULES.keys())
def test_schedules_repeat(schedule: Callable[[torch.optim.Optimizer], Any], tmp_path: Path) -> None:
    folder = record(tmp_path, schedule=schedule)
    for interval in get_intervals(folder):
        assert retrace(folder, interval).agrees, interval


def test_data_of_other_types_repeat(tmp_path: Path) -> None:
    class Bytes(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.linear = nn.Linear(12, 1)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            result: torch.Tensor = self.linear(x.float() / 255)
            return result

    def loss(output: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
        return nn.functional.binary_cross_entropy_with_logits(output[:, 0], target.float())

    inputs = torch.randint(256, (40, 12), dtype=torch.uint8)
    folder = record(tmp_path, task=Task(Bytes, loss, inputs, inputs[:, 0] > 100))
    dtypes = [spec.dtype for spec in read_recipe(FolderFiles(folder))[1].data]
    assert dtypes == ["U8", "BOOL"]
    assert all(retrace(folder, interval).agrees for interval in get_intervals(folder))


def test_frozen_parameters_stay_frozen(tmp_path: Path) -> None:
    def make(model: nn.Module) -> torch.optim.Optimizer:
        model.get_submodule("first").requires_grad_(False)
        return make_sgd(model)

    folder = record(tmp_path, make=make)
    assert all(retrace(folder, interval).agrees for interval in get_intervals(folder))
    files = FolderFiles(folder)
    _, recipe = read_recipe(files)
    first, last = (read_state(files, recipe, snapshot) for snapshot in (0, 3))
    assert np.array_equal(last["model.first.weight"], first["model.first.weight"])
    assert not np.array_equal(last["model.second.weight"], first["model.second.weight"])


def test_the_work_digest_needs_the_gradient_of_the_drawn_step(tmp_path: Path) -> None:
    folder = record(tmp_path)
    _, recipe = read_recipe(FolderFiles(folder))
    stepper = Stepper(recipe, folder / DATA)
    stepper.load(5, read_tensors(folder / get_snapshot_name(1)))
    gradients = [stepper.run_step().gradient for _ in range(5)]
    digests = [compute_work_digest(VERIFIER, gradient) for gradient in gradients]
    assert [retrace(folder, 1, step).work_digest for step in range(5, 10)] == digests
    assert len(set(digests)) == 5


def test_a_fresh_process_gets_the_same_bits(tmp_path: Path) -> None:
    for name in ("convnet", "transformer"):
        folder = record(tmp_path, task=name)
        code = (
            "import sys; from pathlib import Path\n"
            "from milepost_ml.device import configure_torch; configure_torch()\n"
            "from milepost_ml.replay import retrace_recorded\n"
            "sys.exit(0 if retrace_recorded(Path(sys.argv[1]), 1).agrees else 1)"
        )
        done = subprocess.run([sys.executable, "-c", code, str(folder)], check=False)
        assert done.returncode == 0


# Records that went astray ------------------------------------------------------------------------


def check_difference(folder: Path, interval: int, step: int, part: str) -> Retraced:
    """The interval differs first at `step`, and the witness would hold."""
    submit, _ = build_submit(folder)
    files = FolderFiles(folder)
    validate_record(submit, files)
    found = retrace(folder, interval)
    assert not found.agrees
    assert (found.step, found.part) == (step, part)
    first = interval * submit.steps_per_interval
    count = min(submit.steps_per_interval, submit.steps - first)
    verify_path(
        submit.step_roots[interval],
        found.leaf,
        index=step - first,
        count=count,
        path=found.path,
    )
    assert (found.leaf, found.path) == get_step_commitment(submit, files, interval, step)
    assert found.recomputed != found.leaf
    assert (found.pre_state == b"") == (step == first)
    # It stops at that step, and trains up to it once more for the state before it.
    assert found.trained == 2 * (step - first) + 1
    assert found.distance_ppb == 0
    return found


def poison(first: int, count: int) -> Callable[[int, Loop], None]:
    def change(step: int, loop: Loop) -> None:
        if first <= step < first + count:
            loop.batch[1] = torch.zeros_like(loop.batch[1])

    return change


def test_poison_in_the_middle_of_an_interval_is_named(tmp_path: Path) -> None:
    # Interval 1 is steps 10 to 19; the poison starts at its step 7.
    folder = record(tmp_path, steps=30, every=10, cheat=poison(17, 3))
    check_difference(folder, 1, 17, "gradient")
    whole = retrace_recorded(folder, 1)
    assert (whole.step, whole.part) == (17, "gradient")
    assert whole.distance_ppb > 10_000_000
    assert whole.trained == 10 + 7
    assert retrace(folder, 0).agrees
    assert retrace(folder, 2).agrees


def test_poison_that_float32_absorbs_is_named(tmp_path: Path) -> None:
    """A rate so small that no weight moves: the states are equal, the gradients are not."""

    def make(model: nn.Module) -> torch.optim.Optimizer:
        return torch.optim.SGD(model.parameters(), lr=1e-30)

    honest = record(tmp_path / "honest", make=make)
    poisoned = record(tmp_path / "poisoned", make=make, cheat=poison(7, 1))
    for number in range(4):
        name = get_snapshot_name(number)
        assert (honest / name).read_bytes() == (poisoned / name).read_bytes()
    check_difference(poisoned, 1, 7, "gradient")
    assert retrace(honest, 1).agrees


def test_poison_at_the_first_step_needs_no_state(tmp_path: Path) -> None:
    folder = record(tmp_path, steps=10, every=5, cheat=poison(5, 1))
    check_difference(folder, 1, 5, "gradient")


def test_a_changed_learning_rate_is_named(tmp_path: Path) -> None:
    folder = record(tmp_path)
    recipe = decode_recipe((folder / RECIPE).read_bytes())
    changed = set_rates(recipe, recipe.steps, [((7, 0.05), (1, 0.06), (4, 0.05))])
    (folder / RECIPE).write_bytes(encode_recipe(changed))
    check_difference(folder, 1, 7, "state")


def test_an_undeclared_change_of_weights_is_named(tmp_path: Path) -> None:
    def clip(step: int, loop: Loop) -> None:
        if step == 6:
            for parameter in loop.model.parameters():
                parameter.data.clamp_(-0.05, 0.05)  # .data hides it from version counters

    folder = record(tmp_path, after=clip)
    check_difference(folder, 1, 7, "gradient")


def test_an_edited_snapshot_is_named_with_the_step_before_it(tmp_path: Path) -> None:
    folder = record(tmp_path)
    forge_end(folder, 1, "second.bias")
    check_difference(folder, 1, 9, "state")
    assert retrace(folder, 0).agrees
    # The next interval starts from the edited state, so its own first step does not follow.
    check_difference(folder, 2, 10, "gradient")


def test_a_forged_step_counter_is_named(tmp_path: Path) -> None:
    """Adam divides by a power of its counter, which Python refuses for the counter -1."""
    folder = record(tmp_path, make=adam())
    state = read_tensors(folder / get_snapshot_name(1))
    state["optimizer.first.bias.step"][...] = -1
    write_tensors(folder / get_snapshot_name(1), state)
    found = retrace_interval(
        submit_by_hand(folder), FolderFiles(folder), 1, verifier=VERIFIER, work_step=5
    )
    assert (found.agrees, found.step, found.part) == (False, 5, "failed")


def test_a_forged_loss_is_named(tmp_path: Path) -> None:
    folder = record(tmp_path)
    steps = folder / get_steps_name(1)
    data = bytearray(steps.read_bytes())
    data[100 * 2 + 64 : 100 * 2 + 68] = np.float32(0.25).tobytes()
    steps.write_bytes(data)
    found = retrace(folder, 1)
    assert (found.step, found.part, found.distance_ppb) == (7, "loss", 0)


def submit_by_hand(folder: Path) -> Submit:
    """A submission of a record whose recipe was replaced, as a cheat would make it."""
    files = FolderFiles(folder)
    data, recipe = read_recipe(files)
    states = [
        compute_snapshot_digest(
            min(k * recipe.steps_per_interval, recipe.steps),
            read_tensors(folder / get_snapshot_name(k)),
        )
        for k in range(recipe.intervals + 1)
    ]
    roots = [
        compute_root(compute_step_digests(states[k], read_steps(files, recipe, k)))
        for k in range(recipe.intervals)
    ]
    return Submit(
        name="forged",
        dataset_root=bytes(32),
        records=recipe.records,
        profile=recipe.profile,
        device_class=recipe.device_class,
        steps=recipe.steps,
        steps_per_interval=recipe.steps_per_interval,
        steps_per_digest=1,
        change_scores=(0,) * recipe.intervals,
        rate_sums=(0,) * recipe.intervals,
        initial_model_digest=bytes(32),
        initial_optimizer_digest=bytes(32),
        model_digest=bytes(32),
        optimizer_digest=bytes(32),
        manifest=bytes(32),
        step_us=1,
        recipe=compute_recipe_digest(data),
        snapshots=tuple(states),
        step_roots=tuple(roots),
        size_bytes=build_manifest(folder).size_bytes,
    )


def prepend(graph: Graph, *nodes: Node) -> Graph:
    """The graph with nodes of no use before its own."""
    count, shift = len(graph.inputs), len(nodes)

    def move(value: Any) -> Any:
        if isinstance(value, tuple):
            return tuple(move(item) for item in value)
        later = isinstance(value, Ref) and value.index >= count
        return Ref(value.index + shift) if later else value

    moved = tuple(Node(node.op, move(node.args)) for node in graph.nodes)
    return Graph(graph.inputs, nodes + moved, graph.loss + shift)


def make_unfit(graph: Graph) -> tuple[Node, ...]:
    return (Node("view", (Ref(0), (1, 7))),)


def make_huge(graph: Graph) -> tuple[Node, ...]:
    return (Node("ones", ((2**20, 2**20), None)),)


def make_failing(graph: Graph) -> tuple[Node, ...]:
    """Uses the labels, 0 to 3, as indices into one row: the shapes fit, the values do not."""
    names, count = [item.name for item in graph.inputs], len(graph.inputs)
    return (
        Node("narrow", (Ref(names.index("data.0")), 0, 0, 1)),
        Node("index_select", (Ref(count), 0, Ref(names.index("data.1")))),
    )


@pytest.mark.parametrize("make", [make_unfit, make_huge, make_failing])
def test_a_graph_that_cannot_be_computed_fails_alike_everywhere(
    make: Callable[[Graph], tuple[Node, ...]], tmp_path: Path
) -> None:
    folder = record(tmp_path, every=4, steps=8)
    recipe = decode_recipe((folder / RECIPE).read_bytes())
    assert isinstance(recipe.graph, Graph)
    bad = msgspec.structs.replace(recipe, graph=prepend(recipe.graph, *make(recipe.graph)))
    (folder / RECIPE).write_bytes(encode_recipe(bad))
    submit, files = submit_by_hand(folder), FolderFiles(folder)
    found = retrace_interval(submit, files, 1, verifier=VERIFIER, work_step=4)
    assert (found.agrees, found.step, found.part) == (False, 4, "failed")
    assert found.work_digest == ZERO_DIGEST
    assert found.distance_ppb == 0
    assert retrace_recorded(folder, 1).distance_ppb == MAX_DISTANCE_PPB
    stepper = Stepper(bad, folder / DATA)
    batch = stepper.get_batch_digest(4)
    assert found.recomputed == compute_digest("step-failed", submit.snapshots[1] + batch)
    assert recompute_step(submit, files, 1, 4, pre_state=None) == found.recomputed
    # A step behind the one that fails cannot be computed either, and again all get the same.
    behind = recompute_step(submit, files, 1, 6, pre_state=None)
    rows = read_steps(files, bad, 1)
    assert behind == compute_digest("step-failed", rows[1].post + stepper.get_batch_digest(6))


# One step alone ----------------------------------------------------------------------------------


def test_a_step_is_recomputed_from_the_offered_state(tmp_path: Path) -> None:
    folder = record(tmp_path, steps=20, every=10, cheat=poison(17, 3))
    submit, _ = build_submit(folder)
    files = FolderFiles(folder)
    found = retrace(folder, 1)
    assert found.step == 17
    state = tmp_path / "state"
    state.write_bytes(found.pre_state)
    from_state = recompute_step(submit, files, 1, 17, pre_state=state)
    from_snapshot = recompute_step(submit, files, 1, 17, pre_state=None)
    assert from_state == from_snapshot == found.recomputed


def test_an_offered_state_saves_training_the_interval(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = record(tmp_path, steps=20, every=10, cheat=poison(17, 3))
    submit, _ = build_submit(folder)
    files = FolderFiles(folder)
    state = tmp_path / "state"
    state.write_bytes(retrace(folder, 1).pre_state)
    steps: list[int] = []
    run_stride = Stepper.run_stride

    def count(self: Stepper, number: int) -> Any:
        steps.append(self.step)
        return run_stride(self, number)

    monkeypatch.setattr(Stepper, "run_stride", count)
    recompute_step(submit, files, 1, 17, pre_state=state)
    assert steps == [17]
    steps.clear()
    recompute_step(submit, files, 1, 17, pre_state=None)
    assert steps == list(range(10, 18))


FORGERIES: dict[str, Callable[[bytes], bytes]] = {
    "no file": lambda _: b"",
    "pickle": lambda _: b"\x80\x04\x95 pickle",
    "another state": lambda data: data[:-1] + bytes([data[-1] ^ 1]),
    "cut short": lambda data: data[:-10],
}


@pytest.mark.parametrize("forge", FORGERIES.values(), ids=FORGERIES.keys())
def test_a_forged_state_does_not_convict(forge: Callable[[bytes], bytes], tmp_path: Path) -> None:
    """A liar accuses an honest step and offers a state of its own making."""
    folder = record(tmp_path)
    submit, _ = build_submit(folder)
    files = FolderFiles(folder)
    stepper = Stepper(read_recipe(files)[1], folder / DATA)
    stepper.load(5, read_tensors(folder / get_snapshot_name(1)))
    for _ in range(2):
        stepper.run_step()
    genuine = encode_tensors(stepper.get_state())
    leaf, _ = get_step_commitment(submit, files, 1, 7)
    state = tmp_path / "state"
    state.write_bytes(genuine)
    assert recompute_step(submit, files, 1, 7, pre_state=state) == leaf
    state.write_bytes(forge(genuine))
    assert recompute_step(submit, files, 1, 7, pre_state=state) == leaf
    assert recompute_step(submit, files, 1, 7, pre_state=tmp_path / "absent") == leaf


def test_an_offered_state_never_replaces_the_snapshot(tmp_path: Path) -> None:
    folder = record(tmp_path)
    submit, _ = build_submit(folder)
    files = FolderFiles(folder)
    leaf, _ = get_step_commitment(submit, files, 1, 5)
    other = folder / get_snapshot_name(2)
    assert recompute_step(submit, files, 1, 5, pre_state=other) == leaf


# Files that are not what was submitted -----------------------------------------------------------


def swap(folder: Path, first: str, second: str) -> None:
    shutil.copy(folder / first, folder / second)


CHANGES: dict[str, tuple[Callable[[Path], object], str]] = {
    "recipe": (
        lambda folder: (folder / RECIPE).write_bytes(
            (folder / RECIPE).read_bytes().replace(b"0.9", b"0.8", 1)
        ),
        "recipe.json",
    ),
    "steps": (
        lambda folder: swap(folder, get_steps_name(0), get_steps_name(1)),
        r"steps/00001\.bin",
    ),
    "start": (
        lambda folder: swap(folder, get_snapshot_name(2), get_snapshot_name(1)),
        r"mileposts/00001",
    ),
    "end": (
        lambda folder: swap(folder, get_snapshot_name(1), get_snapshot_name(2)),
        r"mileposts/00002",
    ),
}


@pytest.mark.parametrize(("change", "told"), CHANGES.values(), ids=CHANGES.keys())
def test_changed_files_are_refused_by_name(
    change: Callable[[Path], object], told: str, tmp_path: Path
) -> None:
    folder = record(tmp_path)
    submit, _ = build_submit(folder)
    change(folder)
    with pytest.raises(InvalidRecord, match=told):
        retrace_interval(submit, FolderFiles(folder), 1, verifier=VERIFIER, work_step=5)


def test_a_changed_folder_is_refused_without_a_submission(tmp_path: Path) -> None:
    folder = record(tmp_path)
    assert retrace_recorded(folder, 1).agrees
    swap(folder, get_snapshot_name(1), get_snapshot_name(2))
    with pytest.raises(InvalidRecord, match=r"mileposts/00002"):
        retrace_recorded(folder, 1)
    with pytest.raises(InvalidRecord, match="no interval 3"):
        retrace_recorded(folder, 3)


def test_steps_and_intervals_outside_the_run_are_refused(tmp_path: Path) -> None:
    folder = record(tmp_path)
    submit, _ = build_submit(folder)
    files = FolderFiles(folder)
    for interval, step in ((1, 4), (1, 10), (3, 15), (-1, 0)):
        with pytest.raises(InvalidRecord):
            get_step_commitment(submit, files, interval, step)
        with pytest.raises(InvalidRecord):
            recompute_step(submit, files, interval, step, pre_state=None)


def test_commitments_are_read_without_the_framework(tmp_path: Path) -> None:
    folder = record(tmp_path)
    submit, _ = build_submit(folder)
    state = tmp_path / "submit"
    state.write_bytes(msgspec.msgpack.encode(submit))
    code = (
        "import sys, msgspec; from pathlib import Path\n"
        "from milepost_consensus.payloads import Submit\n"
        "from milepost_ml.files import FolderFiles\n"
        "from milepost_ml.replay import get_step_commitment\n"
        "submit = msgspec.msgpack.decode(Path(sys.argv[2]).read_bytes(), type=Submit)\n"
        "leaf, path = get_step_commitment(submit, FolderFiles(Path(sys.argv[1])), 1, 7)\n"
        "assert 'torch' not in sys.modules\n"
        "print(leaf.hex())"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, str(folder), str(state)],
        check=True,
        capture_output=True,
        text=True,
    )
    assert done.stdout.strip() == get_step_commitment(submit, FolderFiles(folder), 1, 7)[0].hex()
