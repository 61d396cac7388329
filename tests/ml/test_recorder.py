"""The recorder: a folder that a person can read, and no half record that looks complete."""

from __future__ import annotations

import json
import resource
import signal
import subprocess
import sys
import textwrap
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.torch
import torch
from torch import nn
from torch.nn import functional
from torch.utils.data import Dataset, TensorDataset

from milepost_ml.admission import build_submit
from milepost_ml.digests import compute_record_digests
from milepost_ml.distance import compute_distances
from milepost_ml.errors import InvalidRecord, MilepostMLError, RecordingError
from milepost_ml.files import FolderFiles, compute_file_names, get_snapshot_name
from milepost_ml.keyed import Order, make_seed
from milepost_ml.record_files import get_parameters, read_recipe, read_state, read_steps
from milepost_ml.recorder import Run
from milepost_ml.replay import retrace_recorded
from milepost_ml.snapshots import read_tensors
from tests.support.models import MLP, make_model, make_task
from tests.support.training import Loop, make_sgd, record

LOSS = functional.cross_entropy


def make_run(tmp_path: Path, **options: Any) -> tuple[Run, MLP, torch.optim.Optimizer]:
    model = MLP()
    optimizer = make_sgd(model)
    settings: dict[str, Any] = {"loss": LOSS, "every": 3, "folder": tmp_path, "seed": 1}
    settings |= {"profile": "class", "selfcheck": False, "quiet": True, **options}
    return Run("test", model, optimizer, **settings), model, optimizer


def begin(run: Run, steps: int = 6, **options: Any) -> Iterator[tuple[torch.Tensor, ...]]:
    task = make_task("mlp")
    return run.batches(task.inputs, task.targets, batch_size=8, steps=steps, **options)


def step(model: nn.Module, optimizer: torch.optim.Optimizer, batch: Any) -> torch.Tensor:
    x, y = batch
    loss = LOSS(model(x), y)
    optimizer.zero_grad()
    loss.backward()  # type: ignore[no-untyped-call]
    optimizer.step()
    return loss


def refuse(action: Callable[[], object], slug: str) -> str:
    with pytest.raises(RecordingError) as caught:
        action()
    assert caught.value.slug == slug, str(caught.value)
    return str(caught.value)


# What is written ---------------------------------------------------------------------------------


def test_the_folder_holds_a_whole_record(tmp_path: Path) -> None:
    folder = record(tmp_path, steps=12, every=5)
    assert folder == tmp_path / "test-0001"
    found = {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()}
    assert found == {
        *compute_file_names(3),
        *("run.json", "journal.jsonl", "gradients.secret", "tensors.bin", "model.safetensors"),
    }
    about = json.loads((folder / "run.json").read_text())
    assert about["complete"] is True
    assert (about["steps"], about["intervals"], about["records"]) == (12, 3, 40)
    assert about["seed"] == make_seed(3).hex()
    assert about["environment"]["torch"] == torch.__version__


def test_runs_of_one_name_are_numbered(tmp_path: Path) -> None:
    folders = [record(tmp_path, steps=2, every=2).name for _ in range(2)]
    (tmp_path / "test-0007").mkdir()
    (tmp_path / "test-other").mkdir()
    folders.append(record(tmp_path, steps=2, every=2).name)
    assert folders == ["test-0001", "test-0002", "test-0008"]


def test_the_journal_tells_every_interval(tmp_path: Path) -> None:
    folder = record(
        tmp_path, schedule=lambda o: torch.optim.lr_scheduler.StepLR(o, 4, 0.1), steps=12, every=5
    )
    files = FolderFiles(folder)
    _, recipe = read_recipe(files)
    lines = [json.loads(line) for line in (folder / "journal.jsonl").read_text().splitlines()]
    assert [line["interval"] for line in lines] == [0, 1, 2]
    assert [line["steps"] for line in lines] == [5, 5, 2]
    # 0.05 for four steps, then a tenth of it for four, and so on.
    assert [line["rate_sum"] for line in lines] == [205_000_000, 16_000_000, 1_000_000]
    for k, line in enumerate(lines):
        before, after = (get_parameters(recipe, read_state(files, recipe, i)) for i in (k, k + 1))
        for name, value in compute_distances(before, after)._asdict().items():
            assert line[name] == pytest.approx(value, rel=1e-12), name
        rows = read_steps(files, recipe, k)
        losses = [np.frombuffer(row.loss, "<f4")[0] for row in rows]
        assert line["loss"] == pytest.approx(np.mean(losses), rel=1e-6)
        assert line["seconds"] > 0


def test_the_delivered_model_is_the_last_state(tmp_path: Path) -> None:
    task = make_task("convnet")
    folder = record(tmp_path, task=task)
    loaded = make_model(task, seed=99)
    loaded.load_state_dict(safetensors.torch.load_file(folder / "model.safetensors"))
    last = read_tensors(folder / get_snapshot_name(3))
    for name, value in loaded.state_dict().items():
        assert np.array_equal(value.numpy(), last[f"model.{name}"])


def test_shared_weights_load_back(tmp_path: Path) -> None:
    task = make_task("transformer")
    folder = record(tmp_path, task=task)
    loaded = make_model(task, seed=99)
    safetensors.torch.load_model(loaded, folder / "model.safetensors")
    last = read_tensors(folder / get_snapshot_name(3))
    assert np.array_equal(loaded.state_dict()["head.weight"].numpy(), last["model.embed.weight"])


def test_batches_come_in_the_keyed_order(tmp_path: Path) -> None:
    run, model, optimizer = make_run(tmp_path)
    task = make_task("mlp")
    order = Order(seed=make_seed(1), records=40, batch_size=8)
    for number, batch in enumerate(begin(run, steps=7)):
        indices = torch.from_numpy(order.get_indices(number))
        assert torch.equal(batch[0], task.inputs[indices])
        assert torch.equal(batch[1], task.targets[indices])
        run.log(step(model, optimizer, batch))
    run.finish()


def test_a_run_may_end_early_in_the_middle_of_an_interval(tmp_path: Path) -> None:
    run, model, optimizer = make_run(tmp_path, every=4)
    for number, batch in enumerate(begin(run, steps=100)):
        if number == 6:
            break
        run.log(step(model, optimizer, batch))
    folder = run.finish()
    _, recipe = read_recipe(FolderFiles(folder))
    assert (recipe.steps, recipe.intervals) == (6, 2)
    assert build_submit(folder)[0].steps == 6
    assert all(retrace_recorded(folder, k).agrees for k in range(2))
    assert run.finish() == folder


def test_recording_is_repeatable_but_for_the_time(tmp_path: Path) -> None:
    first, second = record(tmp_path, task="convnet"), record(tmp_path, task="convnet")
    for name in compute_file_names(3):
        assert (first / name).read_bytes() == (second / name).read_bytes(), name


def test_recording_does_not_change_the_training(tmp_path: Path) -> None:
    task = make_task("mlp")
    folder = record(tmp_path, task=task)
    order = Order(seed=make_seed(3), records=40, batch_size=8)
    model = make_model(task)
    optimizer = make_sgd(model)
    for number in range(12):
        indices = torch.from_numpy(order.get_indices(number))
        step(model, optimizer, (task.inputs[indices], task.targets[indices]))
    last = read_tensors(folder / get_snapshot_name(3))
    for name, value in model.named_parameters():
        assert np.array_equal(value.detach().numpy(), last[f"model.{name}"])


def test_memory_of_odd_alignment_is_recorded(tmp_path: Path) -> None:
    def misalign(model: nn.Module) -> torch.optim.Optimizer:
        for parameter in model.parameters():
            room = torch.empty(parameter.numel() + 1)
            room[1:] = parameter.detach().flatten()
            parameter.data = room[1:].view_as(parameter)
            assert parameter.data_ptr() % 64 == 4
        return make_sgd(model)

    folder = record(tmp_path, make=misalign)
    assert retrace_recorded(folder, 0).agrees


class Pairs(Dataset[tuple[torch.Tensor, int]]):
    """A map-style data set; `noise` makes its items differ from call to call."""

    def __init__(self, noise: float = 0.0) -> None:
        self.task = make_task("mlp")
        self.noise = noise

    def __len__(self) -> int:
        return len(self.task.inputs)

    def __getitem__(self, index: int) -> tuple[torch.Tensor, int]:
        x = self.task.inputs[index]
        return x + self.noise * torch.randn_like(x), int(self.task.targets[index])


def test_data_may_be_tensors_arrays_or_data_sets(tmp_path: Path) -> None:
    task = make_task("mlp")
    sources: list[tuple[Any, ...]] = [
        (task.inputs, task.targets),
        (task.inputs.numpy(), task.targets.numpy()),
        (TensorDataset(task.inputs, task.targets),),
        (Pairs(),),
    ]
    digests = []
    for source in sources:
        run, model, optimizer = make_run(tmp_path)
        for batch in run.batches(*source, batch_size=8, steps=3):
            run.log(step(model, optimizer, batch))
        folder = run.finish()
        digests.append(compute_record_digests(read_tensors(folder / "data.safetensors")))
    assert all(found == digests[0] for found in digests)


def test_several_inputs_go_into_the_model_in_order(tmp_path: Path) -> None:
    class Two(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.left, self.right = nn.Linear(3, 2), nn.Linear(4, 2)

        def forward(self, a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
            result: torch.Tensor = self.left(a) - self.right(b)
            return result

    model = Two()
    optimizer = torch.optim.Adam(model.parameters())
    run = Run(
        "two",
        model,
        optimizer,
        loss=functional.mse_loss,
        every=2,
        folder=tmp_path,
        profile="class",
        quiet=True,
        selfcheck=False,
    )
    data = torch.randn(12, 3), torch.randn(12, 4), torch.randn(12, 2)
    for a, b, y in run.batches(*data, batch_size=4, steps=4):
        loss = functional.mse_loss(model(a, b), y)
        optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        run.log(loss.item())
    folder = run.finish()
    assert retrace_recorded(folder, 1).agrees


# What is refused ---------------------------------------------------------------------------------


def test_names_and_plans_are_checked(tmp_path: Path) -> None:
    model = MLP()
    optimizer = make_sgd(model)
    for name in ("", "../up", "a b", "-x", "é", "x" * 65):
        refuse(partial(Run, name, model, optimizer, loss=LOSS, every=3), "bad-name")
    refuse(lambda: make_run(tmp_path, every=0), "bad-plan")
    refuse(lambda: make_run(tmp_path, seed=-1), "bad-plan")
    task = make_task("mlp")
    for batch_size, steps in ((0, 3), (41, 3), (8, 0), (8, 10**6)):
        run, _, _ = make_run(tmp_path)
        batches = partial(run.batches, task.inputs, task.targets)
        refuse(partial(batches, batch_size=batch_size, steps=steps), "bad-plan")
    assert not list(tmp_path.iterdir())


def test_unknown_options_are_refused(tmp_path: Path) -> None:
    with pytest.raises(TypeError, match="clip_norms"):
        make_run(tmp_path, clip_norms=1.0)


def test_random_data_sets_are_refused(tmp_path: Path) -> None:
    run, _, _ = make_run(tmp_path)
    told = refuse(lambda: run.batches(Pairs(0.1), batch_size=8, steps=3), "bad-data")
    assert "augmentation" in told


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_a_loss_that_is_not_finite_ends_the_run(value: float, tmp_path: Path) -> None:
    run, model, optimizer = make_run(tmp_path)
    batches = begin(run)
    loss = step(model, optimizer, next(batches))
    told = refuse(lambda: run.log(loss * value), "not-finite")
    assert "step 0" in told
    assert run.folder is not None
    with pytest.raises(InvalidRecord) as caught:
        build_submit(run.folder)
    assert caught.value.slug == "incomplete"


def test_weights_that_are_not_finite_end_the_run(tmp_path: Path) -> None:
    def explode(number: int, loop: Loop) -> None:
        if number == 4:
            loop.optimizer.param_groups[0]["lr"] = 1e38

    with pytest.raises(RecordingError) as caught:
        record(tmp_path, after=explode, steps=10, every=6)
    assert caught.value.slug in ("not-finite", "undeclared-change")
    about = json.loads((tmp_path / "test-0001" / "run.json").read_text())
    assert about["complete"] is False


def test_weights_that_are_not_finite_are_refused_at_the_start(tmp_path: Path) -> None:
    run, model, _ = make_run(tmp_path)
    with torch.no_grad():
        next(model.parameters())[0] = float("nan")
    refuse(lambda: begin(run), "not-finite")
    assert not list(tmp_path.iterdir())


def lose(kind: str, run: Run, model: MLP, optimizer: Any, batch: Any) -> None:
    """A loop body that goes astray in one way."""
    x, y = batch
    if kind == "no step":
        run.log(LOSS(model(x), y))
        return
    if kind == "batch in place":
        x.mul_(0.5)
    if kind == "evaluation":
        model.eval()
    if kind == "dropout off":
        model.first.eval()
    if kind == "momentum":
        optimizer.param_groups[0]["momentum"] = 0.5
    if kind == "group":
        optimizer.add_param_group({"params": [nn.Parameter(torch.ones(1))]})
    if kind == "state replaced":
        optimizer.load_state_dict(optimizer.state_dict())
    if kind == "tensor rate":
        optimizer.param_groups[0]["lr"] = torch.tensor(0.1)
    if kind == "no backward":
        optimizer.zero_grad()
        optimizer.step()
        return
    if kind == "closure":
        optimizer.step(lambda: LOSS(model(x), y))
        return
    if kind == "scaler":
        optimizer.grad_scale = torch.ones(())  # as GradScaler.step does with fused optimizers
    loss = step(model, optimizer, (x, y))
    if kind == "two steps":
        optimizer.step()
    if kind == "no log":
        return
    if kind == "vector":
        run.log(torch.ones(2))
    run.log(loss)
    if kind == "two logs":
        run.log(loss)
    if kind == "clipped weights":
        with torch.no_grad():
            model.first.weight.clamp_(-0.1, 0.1)


ASTRAY = {
    "no step": ("one-step-per-batch", "opt.step"),
    "two steps": ("one-step-per-batch", "twice"),
    "no log": ("one-step-per-batch", "run.log"),
    "two logs": ("one-step-per-batch", "once per batch"),
    "vector": ("not-recordable", r"[2]"),
    "closure": ("closure", "closure"),
    "scaler": ("grad-scaler", "GradScaler"),
    "no backward": ("undeclared-change", "backward"),
    "batch in place": ("undeclared-change", "in place"),
    "evaluation": ("wrong-mode", "model.train"),
    "dropout off": ("wrong-mode", "model.train"),
    "momentum": ("undeclared-change", "cycle_momentum"),
    "group": ("undeclared-change", "settings"),
    "state replaced": ("undeclared-change", "load_state_dict"),
    "tensor rate": ("unsupported-optimizer", "learning rate"),
    "clipped weights": ("undeclared-change", "first.weight"),
}


@pytest.mark.parametrize("kind", ASTRAY)
def test_loops_that_go_astray_are_stopped(kind: str, tmp_path: Path) -> None:
    run, model, optimizer = make_run(tmp_path)

    def loop() -> None:
        for batch in begin(run):
            lose(kind, run, model, optimizer, batch)
        run.finish()

    slug, told = ASTRAY[kind]
    assert told in refuse(loop, slug)
    assert run.folder is not None
    assert json.loads((run.folder / "run.json").read_text())["complete"] is False


def test_thawing_a_parameter_later_is_noticed(tmp_path: Path) -> None:
    model = MLP()
    model.first.bias.requires_grad_(False)
    optimizer = make_sgd(model)
    run = Run(
        "t",
        model,
        optimizer,
        loss=LOSS,
        every=3,
        folder=tmp_path,
        profile="class",
        quiet=True,
        selfcheck=False,
    )
    batches = begin(run)
    run.log(step(model, optimizer, next(batches)))
    batch = next(batches)
    model.first.bias.requires_grad_(True)
    assert "first.bias" in refuse(lambda: step(model, optimizer, batch), "undeclared-change")


def test_calls_out_of_order_are_refused(tmp_path: Path) -> None:
    run, model, optimizer = make_run(tmp_path)
    refuse(lambda: run.log(1.0), "one-step-per-batch")
    refuse(run.finish, "not-recordable")
    batches = begin(run)
    refuse(lambda: begin(run), "not-recordable")
    run.log(step(model, optimizer, next(batches)))
    run.finish()
    refuse(lambda: run.log(1.0), "one-step-per-batch")


def test_the_optimizer_is_let_go_at_the_end(tmp_path: Path) -> None:
    run, model, optimizer = make_run(tmp_path)
    for batch in begin(run):
        run.log(step(model, optimizer, batch))
    run.finish()
    task = make_task("mlp")
    step(model, optimizer, (task.inputs, task.targets))


def test_nothing_recorded_is_no_record(tmp_path: Path) -> None:
    run, _, _ = make_run(tmp_path)
    next(begin(run))
    refuse(run.finish, "not-recordable")


def test_validation_between_steps_is_allowed(tmp_path: Path) -> None:
    def validate(_: int, loop: Loop) -> None:
        loop.model.eval()
        with torch.no_grad():
            loop.model(loop.batch[0])
        torch.randn(3)
        loop.model.train()

    folder = record(tmp_path, task="convnet", after=validate)
    assert all(retrace_recorded(folder, k).agrees for k in range(3))


# When the world fails ----------------------------------------------------------------------------


def test_a_full_disk_stops_the_record_and_not_the_training(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    run, model, optimizer = make_run(tmp_path, quiet=False)
    batches = begin(run, steps=12)

    def fail(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("milepost_ml.scribe.write_tensors", fail)
    done = 0
    for batch in batches:
        run.log(step(model, optimizer, batch))
        done += 1
    folder = run.finish()
    assert done == 12
    told = capsys.readouterr().err
    assert told.count("NOT COMPLETE") == 1
    assert "No space left on device" in told
    assert json.loads((folder / "run.json").read_text())["complete"] is False


def delete_folder(run: Run, patch: pytest.MonkeyPatch) -> None:
    assert run.folder is not None
    run.folder.rename(run.folder.with_name("elsewhere"))  # in one go, whatever is being written


def break_hashing(run: Run, patch: pytest.MonkeyPatch) -> None:
    def fail(_: object) -> bytes:
        raise MemoryError("no memory for the digest")

    patch.setattr("milepost_ml.images.ContentImage.compute_digest", fail)


def fill_disk(run: Run, patch: pytest.MonkeyPatch) -> None:
    """No file may grow: the system's own refusal, as of a full disk."""
    low = (512, resource.RLIM_INFINITY)
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, low)


ACCIDENTS = {
    "folder deleted": (delete_folder, "No such file"),
    "out of memory": (break_hashing, "MemoryError: no memory for the digest"),
    "disk full": (fill_disk, "File too large"),
}


@pytest.mark.parametrize("kind", ACCIDENTS)
@pytest.mark.parametrize("stride", [1, 2])
def test_no_accident_of_the_recorder_changes_the_training(
    kind: str,
    stride: int,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    whole = read_tensors(record(tmp_path / "whole", every=3, seed=1) / "model.safetensors")
    happen, told = ACCIDENTS[kind]
    limit = resource.getrlimit(resource.RLIMIT_FSIZE)
    task = make_task("mlp")
    model = make_model(task)
    optimizer = make_sgd(model)
    run = Run(
        "test",
        model,
        optimizer,
        loss=LOSS,
        every=3,
        folder=tmp_path,
        seed=1,
        profile="class",
        stride=stride,
    )
    try:
        for number, batch in enumerate(begin(run, steps=12)):
            if number == 4:
                happen(run, monkeypatch)
            run.log(step(model, optimizer, batch))
        folder = run.finish()
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limit)
    for name, value in model.named_parameters():
        assert np.array_equal(value.detach().numpy(), whole[name])
    text = capfd.readouterr().err
    assert text.count("NOT COMPLETE") == 1
    assert told in text
    if folder.exists():
        assert json.loads((folder / "run.json").read_text())["complete"] is False


def test_an_abandoned_run_is_not_complete(tmp_path: Path) -> None:
    run, model, optimizer = make_run(tmp_path)
    batches = begin(run)
    for _ in range(4):
        run.log(step(model, optimizer, next(batches)))
    del batches
    assert run.folder is not None
    with pytest.raises(MilepostMLError) as caught:
        build_submit(run.folder)
    assert caught.value.slug == "incomplete"


SCRIPT = """
    import sys
    import torch
    import torch.nn.functional as F
    from milepost_ml import recorder as milepost

    torch.manual_seed(0)
    model = torch.nn.Sequential(torch.nn.Linear(12, 16), torch.nn.ReLU(), torch.nn.Linear(16, 4))
    opt = torch.optim.AdamW(model.parameters(), 1e-2)
    images, labels = torch.randn(64, 12), torch.randint(4, (64,))

    run = milepost.Run("plain", model, opt, loss=F.cross_entropy, every=5)
    for x, y in run.batches(images, labels, batch_size=8, steps=12):
        loss = F.cross_entropy(model(x), y)
        opt.zero_grad(); loss.backward(); opt.step()
        run.log(loss)
    run.finish()
"""


@pytest.mark.slow
def test_a_plain_script_records_and_checks_itself(tmp_path: Path) -> None:
    script = tmp_path / "train.py"
    script.write_text(textwrap.dedent(SCRIPT))
    done = subprocess.run(
        [sys.executable, str(script)], cwd=tmp_path, check=True, capture_output=True, text=True
    )
    assert done.stdout == ""
    assert "self-check: interval 0 retraced in" in done.stderr
    assert "identical" in done.stderr
    assert "recording took" in done.stderr
    folder = tmp_path / "runs" / "plain-0001"
    assert json.loads((folder / "selfcheck.json").read_text())["identical"] is True
    assert build_submit(folder)[0].steps == 12
