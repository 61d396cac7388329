"""Looks at model, optimizer and data before recording, and says what cannot be recorded.

Everything refused here would otherwise show up as an interval that nobody can retrace.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, Final

import torch

from milepost_ml.errors import RecordingError
from milepost_ml.gpus import CPU, find_gpu
from milepost_ml.graph import DTYPE_NAMES
from milepost_ml.recipe import MAX_DATA
from milepost_ml.updates import MAX_GROUPS, SGD, Adam, AdamW, Settings

_PARALLEL: Final = frozenset(
    {"DataParallel", "DistributedDataParallel", "FullyShardedDataParallel", "FSDPModule"}
)
_OFF: Final = ("maximize", "capturable", "differentiable")
"""Options of PyTorch's optimizers that a recipe cannot declare.  `foreach` and `fused` choose among
kernels; in a run the profile chooses."""
SGD_KEYS: Final = ("momentum", "dampening", "weight_decay", "nesterov")
ADAM_KEYS: Final = ("betas", "eps", "weight_decay", "amsgrad")


def _refuse(what: str, slug: str) -> RecordingError:
    return RecordingError(what, slug=slug)


def validate_model(model: torch.nn.Module) -> None:
    """Raises RecordingError unless the complete state of a model can be written and repeated."""
    for name, module in model.named_modules():
        _validate_module(f"layer {name!r}" if name else "the model", module)
    if not model.training:
        raise _refuse(
            "the model is in evaluation mode; call model.train() before recording", "wrong-mode"
        )
    device = get_model_device(model)
    if device not in (CPU, find_gpu()):
        raise _refuse(
            f"the model is on {device}; records are made on the CPU, or on the first NVIDIA GPU"
            " that the process sees (CUDA_VISIBLE_DEVICES=1 shows it the second one alone)",
            "unsupported-model",
        )
    if torch.is_autocast_enabled(device.type):
        raise _refuse(
            "autocast is on where the run begins; enter it inside the loop, around model and loss,"
            " and declare it: autocast='bfloat16'",
            "unsupported-precision",
        )
    for name, parameter in model.named_parameters():
        _validate_tensor(name, parameter)
        if parameter.dtype != torch.float32:
            raise _refuse(
                f"{name} is {parameter.dtype}; parameters are recorded in float32: model.float()",
                "unsupported-model",
            )
    kept = {id(tensor) for tensor in model.state_dict(keep_vars=True).values()}
    for name, buffer in model.named_buffers():
        _validate_tensor(name, buffer)
        if id(buffer) not in kept:
            raise _refuse(
                f"the buffer {name} is not part of the model's state, so a verifier would start"
                " without it. Register it with persistent=True",
                "unregistered-state",
            )


def _validate_module(what: str, module: torch.nn.Module) -> None:
    """Raises RecordingError for a kind of module that no verifier can repeat."""
    kinds = {kind.__name__ for kind in type(module).__mro__}
    if "OptimizedModule" in kinds or module._compiled_call_impl is not None:
        raise _refuse(
            f"{what} went through torch.compile, whose kernels differ from machine to machine."
            " Pass the module itself",
            "compiled-model",
        )
    for kind in sorted(kinds & _PARALLEL):
        raise _refuse(
            f"{what} is a {kind}: its gradients come from several processes or devices, and a"
            " verifier is one. Pass the wrapped module and train it in one process",
            "distributed-model",
        )
    if isinstance(module, torch.nn.Embedding | torch.nn.EmbeddingBag) and module.sparse:
        raise _refuse(f"{what} has sparse gradients; use sparse=False", "sparse-gradients")
    if type(module).get_extra_state is not torch.nn.Module.get_extra_state:
        raise _refuse(
            f"{what} keeps state outside parameters and buffers (get_extra_state); a snapshot"
            " cannot hold it",
            "unregistered-state",
        )


def get_model_device(model: torch.nn.Module) -> torch.device:
    """Where all parameters and buffers of a model lie; raises RecordingError if they are apart."""
    tensors = [*model.named_parameters(), *model.named_buffers()]
    first, device = (tensors[0][0], tensors[0][1].device) if tensors else ("", CPU)
    for name, tensor in tensors:
        if tensor.device != device:
            raise _refuse(
                f"the model is spread over devices: {first} is on {device}, {name} on"
                f" {tensor.device}. A verifier computes a step on one: model.to(one device)",
                "distributed-model",
            )
    return device


def _validate_tensor(name: str, tensor: torch.Tensor) -> None:
    if tensor.layout != torch.strided or not tensor.is_contiguous() or tensor.numel() == 0:
        raise _refuse(
            f"{name} is empty, sparse or not contiguous (channels_last?); use the default layout",
            "unsupported-model",
        )
    if tensor.dtype not in DTYPE_NAMES:
        raise _refuse(f"{name} holds {tensor.dtype}, which is not recorded", "unsupported-model")


def describe_optimizer(
    optimizer: torch.optim.Optimizer, model: torch.nn.Module
) -> tuple[Settings, ...]:
    """The declaration of every parameter group of an optimizer.

    Raises RecordingError: unsupported-optimizer for a kind or option that recipes do not hold;
    used-optimizer if it has taken steps already.
    """
    kind = type(optimizer)
    if isinstance(optimizer, torch.optim.LBFGS):
        raise _refuse(
            "LBFGS computes the loss several times a step, through a closure; use torch.optim.SGD,"
            " Adam or AdamW",
            "closure",
        )
    if kind not in (torch.optim.SGD, torch.optim.Adam, torch.optim.AdamW):
        raise _refuse(
            f"{kind.__name__} cannot be recorded; use torch.optim.SGD, Adam or AdamW",
            "unsupported-optimizer",
        )
    groups = optimizer.param_groups
    if len(groups) > MAX_GROUPS:
        raise _refuse(
            f"the optimizer has {len(groups)} parameter groups; a recipe holds up to {MAX_GROUPS}",
            "unsupported-optimizer",
        )
    if any(optimizer.state.values()):
        raise _refuse(
            "the optimizer has already taken steps, so its state at the start is not that of a"
            " fresh one. Make the optimizer anew before recording",
            "used-optimizer",
        )
    for option in _OFF:
        if any(group.get(option) for group in groups):
            raise _refuse(
                f"{kind.__name__}({option}=True) cannot be recorded; leave {option} out",
                "unsupported-optimizer",
            )
    _validate_coverage([item for group in groups for item in group["params"]], model)
    read_rates(optimizer)
    described = tuple(_describe_group(group) for group in groups)
    if len({type(each) for each in described}) > 1:
        raise _refuse(
            "some parameter groups decouple their weight decay (AdamW) and others do not (Adam);"
            " use one kind for all",
            "unsupported-optimizer",
        )
    return described


def _describe_group(group: Mapping[str, Any]) -> Settings:
    if "momentum" in group:
        return SGD(
            momentum=float(group["momentum"]),
            dampening=float(group["dampening"]),
            weight_decay=float(group["weight_decay"]),
            nesterov=bool(group["nesterov"]),
        )
    # Adam(decoupled_weight_decay=True) is AdamW.
    make = AdamW if group.get("decoupled_weight_decay") else Adam
    return make(
        beta1=float(group["betas"][0]),
        beta2=float(group["betas"][1]),
        eps=float(group["eps"]),
        weight_decay=float(group["weight_decay"]),
        amsgrad=bool(group["amsgrad"]),
    )


def _validate_coverage(held: Sequence[torch.nn.Parameter], model: torch.nn.Module) -> None:
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    if any(id(parameter) not in names for parameter in held):
        raise _refuse(
            "the optimizer updates a tensor that is not a parameter of the model",
            "unsupported-optimizer",
        )
    ids = {id(parameter) for parameter in held}
    for name, parameter in model.named_parameters():
        if parameter.requires_grad and id(parameter) not in ids:
            raise _refuse(
                f"{name} can be trained, but the optimizer does not hold it, so its gradient would"
                f" never be cleared. Add it, or freeze it: {name}.requires_grad_(False)",
                "unsupported-optimizer",
            )


def read_rate(group: Mapping[str, Any]) -> float:
    """The learning rate of the next step; raises RecordingError if it is not a plain number."""
    rate = group["lr"]
    if isinstance(rate, bool) or not isinstance(rate, int | float) or not math.isfinite(rate):
        raise _refuse(
            f"the learning rate is {rate!r}; a recipe holds one finite float for every step",
            "unsupported-optimizer",
        )
    return float(rate)


def read_rates(optimizer: torch.optim.Optimizer) -> tuple[float, ...]:
    """The learning rate of every group, as `read_rate`."""
    return tuple(read_rate(group) for group in optimizer.param_groups)


def get_settings(optimizer: torch.optim.Optimizer) -> tuple[tuple[object, ...], ...]:
    """The declared settings of every group as they stand, for noticing that one changed."""
    return tuple(
        tuple(group[key] for key in (SGD_KEYS if "momentum" in group else ADAM_KEYS))
        for group in optimizer.param_groups
    )


def make_data(sources: Sequence[Any]) -> tuple[torch.Tensor, ...]:
    """Data as contiguous tensors with equally many rows, inputs first and the target last.

    `sources` are tensors or arrays, or one map-style data set, which is read once, whole.  Raises
    RecordingError (bad-data, not-finite).
    """
    if len(sources) == 1:
        sources = _read_dataset(sources[0])
    if not 2 <= len(sources) <= MAX_DATA:
        raise _refuse(
            f"{len(sources)} data tensors; give inputs and targets, or a data set of such pairs",
            "bad-data",
        )
    tensors = tuple(
        _make_tensor(f"data tensor {index}", source) for index, source in enumerate(sources)
    )
    lengths = {len(tensor) for tensor in tensors}
    if len(lengths) != 1:
        raise _refuse(f"the data tensors have {sorted(lengths)} records", "bad-data")
    return tensors


def _make_tensor(name: str, source: Any) -> torch.Tensor:
    try:
        tensor = torch.as_tensor(source)
    except (TypeError, ValueError, RuntimeError) as error:
        raise _refuse(f"{name} is no tensor: {error}", "bad-data") from error
    if tensor.device.type != "cpu" or tensor.layout != torch.strided:
        raise _refuse(f"{name} is not a dense tensor on the CPU", "bad-data")
    if tensor.dim() == 0 or tensor.numel() == 0 or tensor.dtype not in DTYPE_NAMES:
        raise _refuse(f"{name} is {tensor.dtype} {list(tensor.shape)}", "bad-data")
    if tensor.is_floating_point() and not bool(torch.isfinite(tensor).all()):
        raise _refuse(f"{name} holds NaN or infinity", "not-finite")
    # A copy: the record is made of what the data were now.
    return tensor.detach().clone(memory_format=torch.contiguous_format)


def _read_dataset(dataset: Any) -> tuple[Any, ...]:
    tensors = getattr(dataset, "tensors", None)
    if isinstance(tensors, tuple):
        return tensors
    if not hasattr(dataset, "__len__") or not hasattr(dataset, "__getitem__"):
        raise _refuse(
            f"{type(dataset).__name__} has no length and items; the order of records must be known"
            " in advance, so streams cannot be recorded",
            "bad-data",
        )
    items = [dataset[index] for index in range(len(dataset))]
    if not items or not all(isinstance(item, tuple | list) for item in items):
        raise _refuse(f"{type(dataset).__name__} does not give (input, target) items", "bad-data")
    try:
        columns = tuple(
            torch.stack([torch.as_tensor(value) for value in column])
            for column in zip(*items, strict=True)
        )
        again = tuple(torch.as_tensor(value) for value in dataset[0])
    except (TypeError, ValueError, RuntimeError) as error:
        raise _refuse(
            f"the items of {type(dataset).__name__} differ: {error}", "bad-data"
        ) from error
    if not all(torch.equal(column[0], value) for column, value in zip(columns, again, strict=True)):
        raise _refuse(
            f"{type(dataset).__name__} gives another item 0 the second time; random augmentation"
            " inside a data set cannot be repeated. Give it the plain records, and to the run what"
            " to do to them: augment=[milepost.Flip(), milepost.Crop(padding=4)]",
            "bad-data",
        )
    return columns
