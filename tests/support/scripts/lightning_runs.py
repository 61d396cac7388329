"""Trains with Lightning and with a plain loop, and prints what is refused; for its test alone."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from typing import Any

import lightning as L  # noqa: N812
import torch
from lightning.pytorch.strategies import DDPStrategy
from safetensors.numpy import load_file
from torch.nn import functional as F  # noqa: N812
from torch.utils.data import DataLoader, TensorDataset

import milepost
from milepost_ml.files import MODEL

RECORDS, STEPS, RATE, BOUND = 96, 12, 0.05, 0.5


class Net(L.LightningModule):
    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(3)
        self.net = torch.nn.Sequential(
            torch.nn.Linear(6, 8), torch.nn.ReLU(), torch.nn.Dropout(0.2), torch.nn.Linear(8, 3)
        )

    def training_step(self, batch: Any, batch_idx: int) -> Any:
        x, y = batch
        loss = F.cross_entropy(self.net(x), y)
        self.log("loss", loss, on_epoch=True)
        return {"loss": loss}

    def validation_step(self, batch: Any, batch_idx: int) -> None:
        self.log("largest", torch.histc(self.net(batch[0])).max())

    def configure_optimizers(self) -> Any:
        optimizer = torch.optim.SGD(self.parameters(), lr=RATE, momentum=0.9)
        return [optimizer], [make_schedule(optimizer)]


class Scaling(Net):
    def backward(self, loss: torch.Tensor, *args: Any, **kwargs: Any) -> None:
        (2 * loss).backward()  # type: ignore[no-untyped-call]


class Manual(Net):
    def __init__(self) -> None:
        super().__init__()
        self.automatic_optimization = False


class Skipping(Net):
    def training_step(self, batch: Any, batch_idx: int) -> Any:
        return super().training_step(batch, batch_idx) if batch_idx == 0 else None


def make_schedule(optimizer: torch.optim.Optimizer) -> torch.optim.lr_scheduler.LRScheduler:
    return torch.optim.lr_scheduler.ExponentialLR(optimizer, 0.5)


def make_data() -> TensorDataset:
    generator = torch.Generator().manual_seed(1)
    x = torch.randn(RECORDS, 6, generator=generator)
    return TensorDataset(x, torch.randint(0, 3, (RECORDS,), generator=generator))


def make_trainer(run: milepost.Run | None, **options: Any) -> L.Trainer:
    quiet = dict.fromkeys(
        ("logger", "enable_checkpointing", "enable_progress_bar", "enable_model_summary"), False
    )
    callbacks = [run.lightning()] if run is not None else []
    chosen: dict[str, Any] = {"accelerator": "cpu", "max_steps": STEPS, **quiet, **options}
    return L.Trainer(callbacks=callbacks, **chosen)


def make_run(name: str, **options: Any) -> milepost.Run:
    return milepost.Run(name, every=4, seed=7, quiet=True, selfcheck=False, **options)


def train_with_lightning(accumulate: int) -> dict[str, Any]:
    run = make_run("lightning")
    trainer = make_trainer(
        run, gradient_clip_val=BOUND, accumulate_grad_batches=accumulate, val_check_interval=2
    )
    trainer.fit(Net(), run.loader(make_data(), batch_size=16), DataLoader(make_data(), 48))
    return load_file(run.finish() / MODEL)


def train_with_a_loop(accumulate: int) -> dict[str, Any]:
    net = Net()
    optimizer = torch.optim.SGD(net.parameters(), lr=RATE, momentum=0.9)
    schedule = make_schedule(optimizer)
    run = make_run(
        "loop",
        model=net.net,
        optimizer=optimizer,
        loss=F.cross_entropy,
        clip_norm=BOUND,
        accumulate=accumulate,
    )
    batches = run.batches(make_data(), batch_size=16, steps=STEPS)
    for number, (x, y) in enumerate(batches, 1):
        loss = F.cross_entropy(net.net(x), y)
        (loss / accumulate).backward()  # type: ignore[no-untyped-call]
        run.log(loss)
        if number % accumulate == 0:
            torch.nn.utils.clip_grad_norm_(net.net.parameters(), BOUND)
            optimizer.step()
            optimizer.zero_grad()
        if number % (RECORDS // 16) == 0:
            schedule.step()
    return load_file(run.finish() / MODEL)


def is_same(accumulate: int) -> bool:
    left, right = train_with_lightning(accumulate), train_with_a_loop(accumulate)
    return {name.removeprefix("net."): each.tobytes() for name, each in left.items()} == {
        name: each.tobytes() for name, each in right.items()
    }


def refuse(train: Callable[[], object]) -> str:
    try:
        train()
    except Exception as error:
        return f"{type(error).__name__} {getattr(error, 'slug', '')}: {error}"
    return "not refused"


def fit(net: Net, **options: Any) -> None:
    run = make_run("refused")
    make_trainer(run, **options).fit(net, run.loader(make_data(), batch_size=16))


def fit_other_data() -> None:
    make_trainer(make_run("refused")).fit(Net(), DataLoader(make_data(), 16))


def fit_without_callback() -> None:
    make_trainer(None).fit(Net(), make_run("refused").loader(make_data(), batch_size=16))


def set_up_distributed() -> None:
    run = make_run("refused")
    trainer = make_trainer(None, devices=2, strategy=DDPStrategy())
    run.lightning().setup(trainer, Net(), "fit")


REFUSALS: dict[str, Callable[[], object]] = {
    "precision": lambda: fit(Net(), precision="bf16-mixed"),
    "distributed": set_up_distributed,
    "manual": lambda: fit(Manual()),
    "hook": lambda: fit(Scaling()),
    "skipped": lambda: fit(Skipping()),
    "endless": lambda: fit(Net(), max_steps=-1, max_epochs=-1),
    "other data": fit_other_data,
    "no callback": fit_without_callback,
}

if __name__ == "__main__":
    answers: dict[str, Any] = {name: refuse(train) for name, train in REFUSALS.items()}
    # After refusals: what they left behind must not disturb what follows.
    answers["same"] = [is_same(accumulate) for accumulate in (1, 3)]
    json.dump(answers, sys.stdout)
