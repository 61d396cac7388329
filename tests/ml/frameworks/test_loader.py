"""The run's data as frameworks go through them, without any framework."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch.nn.functional import mse_loss

import milepost
from milepost.recording import needed
from milepost_ml.errors import RecordingError
from milepost_ml.frameworks.constants import fix_constants
from milepost_ml.frameworks.loader import leave, split
from milepost_ml.rehearsal import WholeStep


def make_run(folder: Path) -> milepost.Run:
    return milepost.Run("fed", every=2, folder=folder, seed=1, quiet=True, selfcheck=False)


def make_items(count: int = 10) -> list[dict[str, torch.Tensor]]:
    return [{"x": torch.tensor([float(i)]), "y": torch.tensor([i / 10])} for i in range(count)]


def test_epochs_go_on_where_the_last_one_ended(tmp_path: Path) -> None:
    run = make_run(tmp_path)
    loader = run.loader(make_items(), batch_size=3)
    assert len(loader) == 3
    model = torch.nn.Linear(1, 1)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
    run.bind(model, optimizer, WholeStep(lambda m, tensors: mse_loss(m(tensors[0]), tensors[1])))
    loader.begin(5)
    seen = []
    for _ in range(2):
        epoch = []
        for batch in loader:
            epoch += batch["x"].flatten().tolist()
            loss = mse_loss(model(batch["x"]), batch["y"])
            optimizer.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            optimizer.step()
            run.log(loss)
            leave(run)
        seen.append(epoch)
    run.finish()
    # Nine of ten records make an epoch; the run ends with its fifth step.
    assert [len(set(epoch)) for epoch in seen] == [9, 6]
    assert seen[0][:6] != seen[1]


def test_an_epoch_has_whole_steps(tmp_path: Path) -> None:
    loader = make_run(tmp_path).loader(make_items(), batch_size=2)
    loader.accumulate = 2
    assert len(loader) == 4
    loader.accumulate = 6
    with pytest.raises(RecordingError, match="6 make a step"):
        len(loader)


def test_batches_of_a_run_are_for_its_training(tmp_path: Path) -> None:
    loader = make_run(tmp_path).loader(make_items(), batch_size=2)
    with pytest.raises(RecordingError, match="outside its training"):
        next(iter(loader))


def test_data_are_refused_by_what_is_wrong_with_them(tmp_path: Path) -> None:
    run = make_run(tmp_path)
    with pytest.raises(RecordingError, match="batch_size=11"):
        run.loader(make_items(), batch_size=11)
    with pytest.raises(RecordingError, match="record 1 has the fields y, x"):
        run.loader([make_items()[0], dict(reversed(make_items()[1].items()))], batch_size=1)
    with pytest.raises(RecordingError, match="text of a batch is str"):
        split({"text": "words"})
    assert split([torch.ones(1)])[0] is None


def test_a_run_without_a_model_needs_an_adapter(tmp_path: Path) -> None:
    run = make_run(tmp_path)
    with pytest.raises(RecordingError, match=r"run\.lightning\(\) or run\.attach\(trainer\)"):
        run.batches(torch.ones(4, 1), torch.ones(4, 1), batch_size=2, steps=2)
    model = torch.nn.Linear(1, 1)
    with pytest.raises(RecordingError, match="together"):
        milepost.Run("half", model, every=2, folder=tmp_path)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    full = milepost.Run("full", model, optimizer, loss=mse_loss, every=2, folder=tmp_path)
    with pytest.raises(RecordingError, match="has a model already"):
        full.bind(model, optimizer, mse_loss)


def test_a_missing_framework_is_named_with_its_extra() -> None:
    with pytest.raises(ImportError, match=r"nowhere.*milepost\[lightning\]"), needed("lightning"):
        import nowhere  # type: ignore[import-not-found] # noqa: F401


def test_constants_outside_the_state_become_attributes() -> None:
    class Counting(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.register_buffer("places", torch.arange(4), persistent=False)
            self.register_buffer("wave", torch.rand(4), persistent=False)
            self.register_buffer("mean", torch.zeros(4))

    model = Counting()
    fix_constants(model)
    assert dict(model.named_buffers()).keys() == {"wave", "mean"}
    assert torch.equal(model.places, torch.arange(4))  # type: ignore[arg-type]
