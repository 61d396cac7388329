"""Records what the Trainer of Hugging Face's transformers trains.

    run = milepost.Run("bert-ft", every=200).attach(trainer)
    trainer.train()
    run.finish()

A TrainerCallback sees neither batches nor their order, so `attach` also replaces methods of this
one trainer that are made to be overridden: where batches come from, and what surrounds the loss of
one.  All records are collated once, together, so that a padding collator gives one width.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
import transformers

from milepost_ml.errors import RecordingError
from milepost_ml.frameworks.constants import fix_constants
from milepost_ml.frameworks.loader import EpochLoader, Structure, leave, rebuild, split
from milepost_ml.loop import LoopOptions
from milepost_ml.preflight import make_data
from milepost_ml.recorder import Run
from milepost_ml.rehearsal import WholeStep

_IGNORED = -100
"""The label of what does not count, by the convention of PyTorch and transformers."""


_OFF = {
    "bf16": "record in float32",
    "fp16": "record in float32",
    "load_best_model_at_end": "a record ends with the last step; load the best afterwards",
    "auto_find_batch_size": "a recipe holds one batch size",
    "neftune_noise_alpha": "its noise is added by a hook outside the model",
    "activation_checkpointing": "recomputation changes nothing but memory; leave it off",
    "torch_empty_cache_steps": "it is for GPUs",
    "deepspeed": "distributed training gives no order that one verifier can repeat",
    "fsdp": "distributed training gives no order that one verifier can repeat",
}
"""Options of TrainingArguments that a run refuses, and what to do instead."""


def attach(run: Run, trainer: transformers.Trainer) -> None:
    """Have the run record the one call of `trainer.train()` that follows.

    Raises RecordingError for what a record cannot hold.
    """
    _validate(trainer)
    loader = _make_loader(run, trainer)
    _Attachment(run, trainer, loader)


class _Attachment(transformers.TrainerCallback):
    """A run at work in one trainer."""

    def __init__(self, run: Run, trainer: transformers.Trainer, loader: EpochLoader) -> None:
        self._run, self._trainer, self._loader = run, trainer, loader
        self._compute_loss = trainer.compute_loss
        self._within_step = False
        # Each batch is weighed by its own labels, so the Trainer divides by their number.
        trainer.loss_is_scaled_for_ga = False
        trainer.get_train_dataloader = lambda: loader
        trainer.get_batch_samples = self._get_batch_samples
        trainer.compute_loss = self._compute_and_log
        trainer.training_step = self._mark(trainer.training_step)
        trainer.train = self._end_always(trainer.train)
        trainer.evaluate = self._pause(trainer.evaluate)
        trainer.save_model = self._pause(trainer.save_model)
        trainer.add_callback(self)

    def on_train_begin(
        self,
        args: transformers.TrainingArguments,
        state: transformers.TrainerState,
        control: transformers.TrainerControl,
        **kwargs: Any,
    ) -> None:
        """The optimizer is made by now: declare the run."""
        trainer, loader = self._trainer, self._loader
        if state.global_step:
            raise _refuse("it continues a checkpoint; a record begins at the first step")
        model, optimizer = trainer.model, trainer.optimizer
        # Accelerate's wrapper has no hooks of its own.
        optimizer = getattr(optimizer, "optimizer", optimizer)
        model.train()
        fix_constants(model)
        for group in optimizer.param_groups:
            # Another implementation of the same step; the profile chooses its own.
            group["fused"] = False
        options = LoopOptions(accumulate=args.gradient_accumulation_steps)
        if args.max_grad_norm > 0:
            options["clip_norm"] = float(args.max_grad_norm)
        self._run.bind(
            model, optimizer, _make_loss(trainer, self._compute_loss, loader.structure), **options
        )
        loader.begin(state.max_steps)

    def on_optimizer_step(self, *_: Any, **kwargs: Any) -> None:
        leave(self._run)

    def _get_batch_samples(
        self, epoch: Iterator[Any], count: int, device: torch.device
    ) -> tuple[_Micro, None]:
        """One batch at a time; labels are counted in each, and not over the whole step."""
        return _Micro(epoch, count), None

    def _compute_and_log(
        self, model: torch.nn.Module, inputs: dict[str, Any], *args: Any, **kwargs: Any
    ) -> Any:
        if not self._within_step:
            return self._compute_loss(model, inputs, *args, **kwargs)
        loss = _compute_step_loss(self._trainer, self._compute_loss, model, inputs)
        self._run.log(loss.detach())
        return loss

    def _mark(self, training_step: Callable[..., Any]) -> Callable[..., Any]:
        def marked(*args: Any, **kwargs: Any) -> Any:
            self._within_step = True
            try:
                return training_step(*args, **kwargs)
            finally:
                self._within_step = False

        return marked

    def _pause(self, method: Callable[..., Any]) -> Callable[..., Any]:
        def paused(*args: Any, **kwargs: Any) -> Any:
            if not self._trainer.is_in_train or self._run.folder is None:
                return method(*args, **kwargs)
            with self._run.paused():
                return method(*args, **kwargs)

        return paused

    def _end_always(self, train: Callable[..., Any]) -> Callable[..., Any]:
        def ended(*args: Any, **kwargs: Any) -> Any:
            try:
                return train(*args, **kwargs)
            finally:
                leave(self._run)

        return ended


class _Micro:
    """The batches of one step, each asked for when the one before was used."""

    def __init__(self, batches: Iterator[Any], count: int) -> None:
        self._batches, self._count = batches, count

    def __len__(self) -> int:
        return self._count

    def __iter__(self) -> Iterator[Any]:
        for _ in range(self._count):
            yield next(self._batches)


def _refuse(what: str, slug: str = "not-recordable") -> RecordingError:
    return RecordingError(f"this training cannot be recorded: {what}", slug=slug)


def _validate(trainer: transformers.Trainer) -> None:
    args = trainer.args
    if args.device.type != "cpu":
        raise _refuse(f"it runs on {args.device}; records are made on the CPU: use_cpu=True")
    if args.world_size > 1 or args.n_gpu > 1:
        raise _refuse(
            f"{args.world_size} processes; distributed training gives no order that one verifier"
            " can repeat"
        )
    for option, instead in _OFF.items():
        if getattr(args, option, None):
            raise _refuse(f"{option}={getattr(args, option)!r}; {instead}")
    if args.torch_compile:
        raise _refuse("torch_compile, whose kernels differ from machine to machine")
    if args.gradient_accumulation_steps > 1 and (
        trainer.compute_loss_func is not None or trainer.loss_is_scaled_for_ga
    ):
        raise _refuse(
            "gradient_accumulation_steps with a loss that scales itself; a recorded step averages"
            " over its batches"
        )


def _make_loader(run: Run, trainer: transformers.Trainer) -> EpochLoader:
    """The trainer's data, collated once."""
    given = trainer.get_train_dataloader()
    dataset, collate = given.dataset, given.collate_fn
    if not hasattr(dataset, "__len__"):
        raise _refuse(
            "its data set has no length; the order of records must be known in advance", "bad-data"
        )
    structure, collated = split(collate([dataset[index] for index in range(len(dataset))]))
    _, again = split(collate([dataset[index] for index in range(len(dataset))]))
    for place, (tensor, other) in enumerate(zip(collated, again, strict=True)):
        name = structure[place] if structure else f"part {place}"
        if tensor.shape[:1] != (len(dataset),):
            raise _refuse(
                f"{name} of the collated data has the shape {list(tensor.shape)} for {len(dataset)}"
                " records; a record holds tensors with one row a record",
                "bad-data",
            )
        if not torch.equal(tensor, other):
            raise _refuse(
                f"the collator gives another {name} the second time; random masking and"
                " augmentation cannot be repeated. Do it once, before training",
                "bad-data",
            )
    args = trainer.args
    loader = EpochLoader(
        run,
        make_data(collated),
        structure,
        batch_size=args.per_device_train_batch_size,
        dataset=dataset,
    )
    loader.accumulate = args.gradient_accumulation_steps
    labels = rebuild(structure, collated).get("labels") if structure else None
    if loader.accumulate > 1 and labels is not None:
        shifted = getattr(trainer, "_loss_shifts_labels", False)
        _validate_labels(labels[..., 1:] if shifted else labels, loader.accumulate)
    return loader


def _validate_labels(labels: torch.Tensor, accumulate: int) -> None:
    counts = labels.reshape(len(labels), -1).ne(_IGNORED).sum(1)
    if not torch.equal(counts, counts[:1].expand_as(counts)):
        raise _refuse(
            f"gradient_accumulation_steps={accumulate} over records with {int(counts.min())} to"
            f" {int(counts.max())} labels: the Trainer weighs batches by their labels, a recorded"
            " step weighs them equally. Use gradient_accumulation_steps=1, or records of one length"
        )


def _make_loss(
    trainer: transformers.Trainer, compute_loss: Callable[..., Any], structure: Structure
) -> WholeStep:
    def compute(model: torch.nn.Module, tensors: Sequence[torch.Tensor]) -> torch.Tensor:
        return _compute_step_loss(trainer, compute_loss, model, rebuild(structure, tensors))

    return WholeStep(compute)


def _compute_step_loss(
    trainer: transformers.Trainer,
    compute_loss: Callable[..., Any],
    model: torch.nn.Module,
    inputs: dict[str, Any],
) -> torch.Tensor:
    """The loss of one batch as the Trainer weighs it in a step of one."""
    count = trainer._get_num_items_in_batch([inputs], trainer.args.device)
    loss: torch.Tensor = compute_loss(model, inputs, num_items_in_batch=count)
    return loss
