"""Which distribution a layer starts from, for the layers that PyTorch initialises by rule.

The rules are those of each layer's `reset_parameters` in PyTorch, as distributions: the values
themselves then come from the run's seed.  What PyTorch leaves to whoever wrote the model has no
rule, and is refused with its name and what to say instead.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from typing import Final

import torch
from torch import nn

from milepost_ml.errors import RecordingError
from milepost_ml.initial import Constant, Distribution, Normal, Uniform

Own = Mapping[str, torch.Tensor]
"""A module's own parameters and buffers, by their short names."""
Rule = Callable[[nn.Module, Own], dict[str, Distribution]]

_STATISTICS: Final[dict[str, Distribution]] = {
    "weight": Constant(1.0),
    "bias": Constant(0.0),
    "running_mean": Constant(0.0),
    "running_var": Constant(1.0),
    "num_batches_tracked": Constant(0.0),
}


def _get_norm(module: nn.Module, own: Own) -> dict[str, Distribution]:
    return _STATISTICS


def _get_dense(module: nn.Module, own: Own) -> dict[str, Distribution]:
    """Linear layers and convolutions: kaiming_uniform with a = sqrt(5) is +-1 / sqrt(fan-in)."""
    bound = Uniform(1 / math.sqrt(own["weight"][0].numel()))
    return {"weight": bound, "bias": bound}


def _get_bilinear(module: nn.Module, own: Own) -> dict[str, Distribution]:
    bound = Uniform(1 / math.sqrt(own["weight"].shape[1]))
    return {"weight": bound, "bias": bound}


def _get_embedding(module: nn.Module, own: Own) -> dict[str, Distribution]:
    # With padding_idx one row is zero, which no distribution of the whole tensor says.
    return {"weight": Normal(1.0)} if getattr(module, "padding_idx", None) is None else {}


def _get_recurrent(module: nn.Module, own: Own) -> dict[str, Distribution]:
    bound = Uniform(1 / math.sqrt(module.hidden_size))  # type: ignore[arg-type]
    return dict.fromkeys(own, bound)


def _get_attention(module: nn.Module, own: Own) -> dict[str, Distribution]:
    """Xavier for the projections in; `out_proj` is a layer of its own but for its bias."""
    rules: dict[str, Distribution] = {"in_proj_bias": Constant(0.0)}
    for name, tensor in own.items():
        if name in ("bias_k", "bias_v"):
            rules[name] = Normal(1 / math.sqrt(tensor.shape[-1]))
        elif tensor.dim() == 2:
            rules[name] = Uniform(math.sqrt(6 / sum(tensor.shape)))
    return rules


def _get_prelu(module: nn.Module, own: Own) -> dict[str, Distribution]:
    return {"weight": Constant(float(module.init))}  # type: ignore[arg-type]


_RULES: Final[tuple[tuple[tuple[type[nn.Module], ...], Rule], ...]] = (
    ((nn.Linear, nn.modules.conv._ConvNd), _get_dense),
    ((nn.Bilinear,), _get_bilinear),
    ((nn.Embedding, nn.EmbeddingBag), _get_embedding),
    (
        (
            nn.modules.batchnorm._NormBase,
            nn.LayerNorm,
            nn.GroupNorm,
            nn.RMSNorm,
        ),
        _get_norm,
    ),
    ((nn.RNNBase, nn.RNNCellBase), _get_recurrent),
    ((nn.MultiheadAttention,), _get_attention),
    ((nn.PReLU,), _get_prelu),
)


def choose_initial(
    model: nn.Module, declared: Mapping[str, Distribution]
) -> dict[str, Distribution]:
    """What every parameter and buffer starts from: as declared by name, else by the layer's rule.

    A tensor that two layers share follows the layer that comes first.  Raises RecordingError
    (no-initial-rule) for a layer without a rule, and for a declared name that is no tensor.
    """
    chosen: dict[str, Distribution] = {}
    known = {name for name, _ in _iterate_tensors(model)}
    unknown = sorted(set(declared) - known)
    if unknown:
        raise RecordingError(
            f"initial= names {unknown[0]!r}, which is no parameter or buffer of the model."
            f" It has {', '.join(sorted(known)[:5])} ...",
            slug="no-initial-rule",
        )
    attention = [
        f"{name}." if name else ""
        for name, module in model.named_modules()
        if isinstance(module, nn.MultiheadAttention)
    ]
    out_biases = {f"{prefix}out_proj.bias" for prefix in attention}
    seen: set[int] = set()
    for prefix, module in model.named_modules():
        own = _get_own(module)
        rules = _get_rules(module, own)
        for short, tensor in own.items():
            if id(tensor) in seen:
                continue
            seen.add(id(tensor))
            name = f"{prefix}.{short}" if prefix else short
            rule = declared.get(name, rules.get(short))
            if name in out_biases and name not in declared:
                rule = Constant(0.0)
            if rule is None:
                raise _refuse(prefix, module, name, tensor)
            chosen[name] = rule
    return chosen


def _iterate_tensors(model: nn.Module) -> Iterator[tuple[str, torch.Tensor]]:
    yield from model.named_parameters()
    yield from model.named_buffers()


def _get_own(module: nn.Module) -> dict[str, torch.Tensor]:
    return {
        **dict(module.named_parameters(recurse=False)),
        **dict(module.named_buffers(recurse=False)),
    }


def _get_rules(module: nn.Module, own: Own) -> Mapping[str, Distribution]:
    """The rule of the first listed kind that a layer is; none if it starts in its own way."""
    for kinds, rule in _RULES:
        if any(_is_plain(module, kind) for kind in kinds):
            return rule(module, own)
    return {}


def _is_plain(module: nn.Module, kind: type[nn.Module]) -> bool:
    """Whether a layer of a kind starts as PyTorch's own one does, not by a method of a subclass."""
    if not isinstance(module, kind):
        return False
    reset = getattr(type(module), "reset_parameters", None)
    return str(getattr(reset, "__module__", "torch.nn")).startswith("torch.nn")


def _refuse(prefix: str, module: nn.Module, name: str, tensor: torch.Tensor) -> RecordingError:
    return RecordingError(
        f"layer {prefix or 'at the top'!r} ({type(module).__name__}) starts {name}"
        f" {list(tensor.shape)} in a way of its own, so it cannot be derived from the seed. Say"
        f" what it starts from: initial={{{name!r}: Normal(0.02)}}, or Uniform(...), Constant(...),"
        " all from milepost_ml.initial",
        slug="no-initial-rule",
    )
