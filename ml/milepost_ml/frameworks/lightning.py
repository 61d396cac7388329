"""Records what Lightning's Trainer trains.

    run = milepost.Run("digits", every=100)
    trainer = L.Trainer(max_steps=1000, callbacks=[run.lightning()])
    trainer.fit(LitNet(), run.loader(dataset, batch_size=64))
    run.finish()

The loader gives the run's own order, the callback reads from the Trainer what has to be declared:
optimizer, clipping, accumulation, number of steps.  Lightning hands its optimizers a closure that
does forward and backward inside `step`; `DirectPrecision` calls it before, so that gradients can be
read where PyTorch's hooks expect them.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from typing import Any

import lightning
import torch
from lightning.pytorch.plugins.precision import Precision
from lightning.pytorch.strategies import SingleDeviceStrategy
from lightning.pytorch.utilities.model_helpers import is_overridden

from milepost_ml.errors import RecordingError
from milepost_ml.frameworks.loader import EpochLoader, Structure, leave, rebuild
from milepost_ml.loop import LoopOptions
from milepost_ml.recorder import Run
from milepost_ml.rehearsal import WholeStep
from milepost_ml.updates import ClipNorm

_HOOKS = (
    *("backward", "configure_gradient_clipping", "optimizer_step", "optimizer_zero_grad"),
    *("on_before_batch_transfer", "on_after_batch_transfer", "transfer_batch_to_device"),
)
"""Methods of a LightningModule that change what a step computes, out of a recipe's sight."""


_LOGGING = ("log", "log_dict")


class RunCallback(lightning.Callback):
    """Declares a run when training begins, and ends the run's arithmetic around everything else."""

    def __init__(self, run: Run) -> None:
        self._run = run
        self._loader: EpochLoader | None = None
        self._pause = ExitStack()
        self._training = False

    def setup(
        self, trainer: lightning.Trainer, pl_module: lightning.LightningModule, stage: str
    ) -> None:
        """Refuse by name what a record cannot hold, before anything is computed."""
        if stage == "fit":
            _validate(trainer, pl_module)

    def on_train_start(
        self, trainer: lightning.Trainer, pl_module: lightning.LightningModule
    ) -> None:
        loader = trainer.train_dataloader
        if not isinstance(loader, EpochLoader) or loader.run is not self._run:
            raise _refuse("train on this run's own data: trainer.fit(model, run.loader(dataset))")
        if trainer.global_step:
            raise _refuse("it continues a checkpoint; a record begins at the first step")
        steps = trainer.estimated_stepping_batches
        if steps == float("inf"):
            raise _refuse("its end is not known; set max_steps or max_epochs")
        pl_module.train()
        self._run.bind(
            pl_module,
            trainer.optimizers[0],
            _make_loss(loader.structure),
            **_read_options(trainer),
        )
        self._loader = loader
        loader.begin(int(steps))
        _log_losses(pl_module, self._run)
        trainer.strategy.precision_plugin = DirectPrecision(self._run)
        self._training = True

    def on_train_batch_end(self, *_: Any) -> None:
        leave(self._run)

    def on_validation_start(self, *_: Any) -> None:
        if self._training:
            leave(self._run)
            self._pause.enter_context(self._run.paused())

    def on_validation_end(self, *_: Any) -> None:
        self._pause.close()

    def on_train_end(
        self, trainer: lightning.Trainer, pl_module: lightning.LightningModule
    ) -> None:
        self._end(trainer, pl_module)

    def on_exception(
        self,
        trainer: lightning.Trainer,
        pl_module: lightning.LightningModule,
        exception: BaseException,
    ) -> None:
        self._end(trainer, pl_module)

    def _end(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule) -> None:
        """Leave module and trainer as they were."""
        self._pause.close()
        leave(self._run)
        if self._training:
            self._training = False
            for name in ("training_step", *_LOGGING):
                delattr(pl_module, name)
            trainer.strategy.precision_plugin = Precision()


class DirectPrecision(Precision):
    """Float32, with forward and backward before the optimizer's step instead of inside it."""

    def __init__(self, run: Run) -> None:
        self._run = run

    def optimizer_step(
        self,
        optimizer: Any,
        model: lightning.LightningModule,
        closure: Callable[[], Any],
        **kwargs: Any,
    ) -> Any:
        result = self._wrap_closure(model, optimizer, closure)
        optimizer.step(**kwargs)
        leave(self._run)
        return result


def _refuse(what: str) -> RecordingError:
    return RecordingError(f"this training cannot be recorded: {what}", slug="not-recordable")


def _validate(trainer: lightning.Trainer, module: lightning.LightningModule) -> None:
    if type(trainer.strategy) is not SingleDeviceStrategy or trainer.world_size > 1:
        raise _refuse(
            f"strategy {type(trainer.strategy).__name__} with {trainer.world_size} devices;"
            " distributed training gives no order that one verifier can repeat. Use"
            " L.Trainer(devices=1, accelerator='cpu')"
        )
    if trainer.strategy.root_device.type != "cpu":
        raise _refuse("it runs on a GPU; records are made on the CPU: L.Trainer(accelerator='cpu')")
    if type(trainer.precision_plugin) is not Precision:
        raise _refuse(f"precision {trainer.precision_plugin.precision}; use 32-true")
    if not module.automatic_optimization:
        raise _refuse("manual optimization; record it as a plain PyTorch loop")
    for hook in _HOOKS:
        if is_overridden(hook, module):
            raise _refuse(f"{type(module).__name__} overrides {hook}, which a recipe cannot hold")


def _read_options(trainer: lightning.Trainer) -> LoopOptions:
    options = LoopOptions(accumulate=trainer.accumulate_grad_batches)
    bound = trainer.gradient_clip_val
    if bound:
        if str(trainer.gradient_clip_algorithm or "norm").endswith("value"):
            options["clip_value"] = float(bound)
        else:
            options["clip_norm"] = ClipNorm(float(bound), over="groups")
    return options


def _make_loss(structure: Structure) -> WholeStep:
    def compute(module: Any, tensors: Sequence[torch.Tensor]) -> torch.Tensor:
        # A copy of the module has no trainer, without which its `log` only warns.
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return _get_loss(module.training_step(rebuild(structure, tensors), 0))

    return WholeStep(compute)


def _get_loss(output: Any) -> torch.Tensor:
    loss = output.get("loss") if isinstance(output, dict) else output
    if not isinstance(loss, torch.Tensor):
        raise _refuse("training_step gave no loss; a recorded step is never skipped")
    return loss


def _log_losses(module: lightning.LightningModule, run: Run) -> None:
    """Have the run hear every loss, and Lightning's own metrics computed beside it.

    Deleting the three attributes undoes it.
    """
    step = module.training_step

    def logged(*args: Any, **kwargs: Any) -> Any:
        output = step(*args, **kwargs)
        run.log(_get_loss(output).detach())
        return output

    module.training_step = logged
    for name in _LOGGING:
        setattr(module, name, _set_aside(getattr(module, name), run))


def _set_aside(method: Callable[..., Any], run: Run) -> Callable[..., Any]:
    def aside(*args: Any, **kwargs: Any) -> Any:
        assert run.arithmetic is not None
        with run.arithmetic.aside():
            return method(*args, **kwargs)

    return aside
