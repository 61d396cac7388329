"""Every layer that PyTorch initialises by rule: the same distribution, from the seed instead."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import nn

from milepost_ml.errors import RecordingError
from milepost_ml.initial import Constant, Distribution, Normal, Uniform
from milepost_ml.initial_rules import choose_initial
from tests.support.models import TASKS, make_model, make_task

LAYERS = (
    nn.Linear(40, 50),
    nn.Bilinear(20, 10, 30),
    nn.Conv1d(8, 12, 5),
    nn.Conv2d(6, 16, 5, groups=2),
    nn.Conv3d(2, 8, 3),
    nn.ConvTranspose1d(6, 9, 4),
    nn.ConvTranspose2d(8, 12, 3, groups=2),
    nn.Embedding(60, 30),
    nn.EmbeddingBag(60, 30),
    nn.BatchNorm1d(20),
    nn.BatchNorm2d(20, track_running_stats=False),
    nn.InstanceNorm1d(20, affine=True),
    nn.LayerNorm([4, 5]),
    nn.GroupNorm(2, 20),
    nn.RMSNorm(20),
    nn.RNN(10, 20, 2),
    nn.LSTM(10, 20, bidirectional=True),
    nn.GRU(10, 20),
    nn.LSTMCell(10, 20),
    nn.GRUCell(10, 20),
    nn.MultiheadAttention(24, 4),
    nn.MultiheadAttention(24, 4, kdim=12, vdim=18, add_bias_kv=True),
    nn.TransformerEncoderLayer(24, 4, 48),
    nn.PReLU(3, init=0.1),
)


def get_std(initial: Distribution) -> float:
    if isinstance(initial, Uniform):
        return initial.bound / math.sqrt(3)
    return initial.std if isinstance(initial, Normal) else 0.0


@pytest.mark.parametrize("layer", LAYERS, ids=lambda layer: type(layer).__name__)
def test_a_layer_starts_as_pytorch_starts_it(layer: nn.Module) -> None:
    tensors = dict(layer.named_parameters()) | dict(layer.named_buffers())
    chosen = choose_initial(layer, {})
    assert chosen.keys() == tensors.keys()
    for name, tensor in tensors.items():
        initial, values = chosen[name], tensor.detach().double()
        if isinstance(initial, Constant):
            assert bool((values == torch.tensor(initial.value, dtype=torch.float32)).all()), name
            continue
        if isinstance(initial, Uniform):
            assert float(values.abs().max()) <= initial.bound * (1 + 1e-6), name
        # PyTorch's own draw, so within a few standard errors; small biases vary most.
        error = 4 * get_std(initial) / math.sqrt(values.numel())
        assert abs(float(values.pow(2).mean().sqrt()) - get_std(initial)) < error, name


@pytest.mark.parametrize("name", [name for name in TASKS if name != "transformer"])
def test_whole_models_have_rules(name: str) -> None:
    model = make_model(make_task(name))
    chosen = choose_initial(model, {})
    assert [*dict(model.named_parameters()), *dict(model.named_buffers())] == sorted(
        chosen, key=[*dict(model.named_parameters()), *dict(model.named_buffers())].index
    )


def test_a_tensor_without_a_rule_is_named_with_what_to_say() -> None:
    model = make_model(make_task("transformer"))
    with pytest.raises(RecordingError, match=r"layer 'at the top' \(Transformer\) starts places"):
        choose_initial(model, {})
    chosen = choose_initial(model, {"places": Normal(1.0)})
    assert chosen["places"] == Normal(1.0)
    # The head shares the embedding's weights, and the embedding comes first.
    assert chosen["embed.weight"] == Normal(1.0)
    assert "head.weight" not in chosen


def refuse(model: nn.Module, declared: Any = None) -> str:
    with pytest.raises(RecordingError) as caught:
        choose_initial(model, declared or {})
    assert caught.value.slug == "no-initial-rule"
    return str(caught.value)


def test_a_layer_with_its_own_initialisation_is_not_taken_for_pytorchs() -> None:
    class Small(nn.Linear):
        def reset_parameters(self) -> None:
            nn.init.normal_(self.weight, std=0.01)

    text = refuse(nn.Sequential(nn.Linear(2, 2), Small(3, 2)))
    assert "layer '1' (Small) starts 1.weight [2, 3]" in text
    assert "initial={'1.weight': Normal(0.02)}" in text


def test_a_row_of_zeros_is_no_distribution() -> None:
    assert "(Embedding) starts weight" in refuse(nn.Embedding(5, 3, padding_idx=0))


def test_a_misspelt_name_is_noticed() -> None:
    text = refuse(nn.Linear(2, 2), {"wieght": Constant(0.0)})
    assert "'wieght', which is no parameter or buffer" in text


def test_what_is_declared_goes_before_the_rule() -> None:
    layer = nn.MultiheadAttention(8, 2)
    declared: dict[str, Distribution] = {"out_proj.bias": Normal(0.1), "in_proj_bias": Normal(0.2)}
    chosen = choose_initial(layer, declared)
    assert chosen["out_proj.bias"] == Normal(0.1)
    assert chosen["in_proj_bias"] == Normal(0.2)
    assert choose_initial(layer, {})["out_proj.bias"] == Constant(0.0)
