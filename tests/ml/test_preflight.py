"""Models, optimizers and data that cannot be recorded are refused by name before training."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from torch import nn
from torch.utils.data import IterableDataset

from milepost_ml.errors import RecordingError
from milepost_ml.preflight import describe_optimizer, make_data, validate_model
from milepost_ml.updates import SGD, Adam, AdamW
from tests.support.models import MLP, ConvNet


def refuse(action: Callable[[], object], slug: str, told: str) -> None:
    with pytest.raises(RecordingError) as caught:
        action()
    assert caught.value.slug == slug
    assert told in str(caught.value)


class Extra(nn.Module):
    def get_extra_state(self) -> object:
        return {"count": 1}


def make_model(kind: str) -> nn.Module:
    model: nn.Module = nn.Sequential(nn.Conv2d(2, 3, 3), nn.BatchNorm2d(3))
    if kind == "evaluation":
        model.eval()
    if kind == "double":
        model.double()
    if kind == "channels last":
        model = model.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    if kind == "meta":
        model = model.to("meta")
    if kind == "spread":
        model[1].to("meta")  # type: ignore[index]
    if kind == "not persistent":
        model.register_buffer("scale", torch.ones(1), persistent=False)
    if kind == "extra state":
        model.append(Extra())  # type: ignore[operator]
    if kind == "complex buffer":
        model.register_buffer("scale", torch.ones(1, dtype=torch.complex64))
    return model


@pytest.mark.parametrize(
    ("kind", "slug", "told"),
    [
        ("evaluation", "wrong-mode", "model.train()"),
        ("double", "unsupported-model", "model.float()"),
        ("channels last", "unsupported-model", "channels_last"),
        ("meta", "unsupported-model", "CPU"),
        ("spread", "distributed-model", "0.weight is on cpu, 1.weight on meta"),
        ("not persistent", "unregistered-state", "persistent=True"),
        ("extra state", "unregistered-state", "get_extra_state"),
        ("complex buffer", "unsupported-model", "complex64"),
    ],
)
def test_models_are_looked_at(kind: str, slug: str, told: str) -> None:
    validate_model(make_model(""))
    refuse(lambda: validate_model(make_model(kind)), slug, told)


def test_autocast_and_compiled_models_are_refused() -> None:
    with torch.autocast("cpu"):
        refuse(lambda: validate_model(MLP()), "unsupported-precision", "autocast")
    compiled = torch.compile(MLP())
    assert isinstance(compiled, nn.Module)
    refuse(lambda: validate_model(compiled), "compiled-model", "torch.compile")
    refuse(lambda: validate_model(nn.Sequential(compiled)), "compiled-model", "layer '0'")
    in_place = MLP()
    in_place.first.compile()
    refuse(lambda: validate_model(in_place), "compiled-model", "layer 'first'")


class FullyShardedDataParallel(nn.Module):
    """Stands for torch's, which needs a process group to be made."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(2, 2)


class Own(FullyShardedDataParallel):
    pass


def test_spread_models_are_refused_by_name() -> None:
    refuse(lambda: validate_model(nn.DataParallel(MLP())), "distributed-model", "a DataParallel")
    refuse(lambda: validate_model(Own()), "distributed-model", "FullyShardedDataParallel")
    within = nn.Sequential(nn.Linear(2, 2), nn.DataParallel(MLP()))
    refuse(lambda: validate_model(within), "distributed-model", "layer '1'")


def test_sparse_embeddings_are_refused() -> None:
    within = nn.Sequential(nn.Embedding(4, 2, sparse=True))
    refuse(lambda: validate_model(within), "sparse-gradients", "sparse=False")


def test_lbfgs_is_refused_with_its_reason() -> None:
    model = MLP()
    optimizer = torch.optim.LBFGS(model.parameters())
    refuse(lambda: describe_optimizer(optimizer, model), "closure", "closure")


def test_choices_of_kernels_are_the_profiles() -> None:
    model = MLP()
    for fused in (True, False):
        optimizer = torch.optim.AdamW(model.parameters(), fused=fused, foreach=not fused)
        assert describe_optimizer(optimizer, model) == (AdamW(0.9, 0.999, 1e-8, 0.01, False),)


def test_optimizers_are_declared_as_they_are() -> None:
    model = MLP()
    parameters = list(model.parameters())
    make = torch.optim
    sgd = make.SGD(parameters, 0.1, momentum=0.9, weight_decay=1e-4, nesterov=True)
    assert describe_optimizer(sgd, model) == (SGD(0.9, 0.0, 1e-4, True),)
    adam = make.Adam(parameters, 0.1, betas=(0.8, 0.9), eps=1e-6, amsgrad=True)
    assert describe_optimizer(adam, model) == (Adam(0.8, 0.9, 1e-6, 0.0, True),)
    adamw = make.AdamW(parameters, 0.1, weight_decay=0.2)
    assert describe_optimizer(adamw, model) == (AdamW(0.9, 0.999, 1e-8, 0.2, False),)
    decoupled = make.Adam(parameters, 0.1, weight_decay=0.2, decoupled_weight_decay=True)
    assert describe_optimizer(decoupled, model) == (AdamW(0.9, 0.999, 1e-8, 0.2, False),)


OPTIMIZERS: list[tuple[Callable[[nn.Module], torch.optim.Optimizer], str]] = [
    (lambda m: torch.optim.RMSprop(m.parameters()), "RMSprop"),
    (lambda m: torch.optim.SGD(m.parameters(), 0.1, maximize=True), "maximize"),
    (lambda m: torch.optim.SGD(m.parameters(), 0.1, differentiable=True), "differentiable"),
    (lambda m: torch.optim.AdamW(m.parameters(), capturable=True), "capturable"),
    (lambda m: torch.optim.SGD(m.parameters(), torch.tensor(0.1)), "learning rate"),
    (
        lambda m: torch.optim.Adam(
            [{"params": [p], "decoupled_weight_decay": p.dim() > 1} for p in m.parameters()]
        ),
        "one kind",
    ),
    (lambda m: torch.optim.SGD([*m.parameters(), nn.Parameter(torch.ones(1))], 0.1), "parameter"),
    (lambda m: torch.optim.SGD(list(m.parameters())[:3], 0.1), "second.bias"),
]


@pytest.mark.parametrize(("make", "told"), OPTIMIZERS, ids=[told for _, told in OPTIMIZERS])
def test_other_optimizers_are_refused_by_name(
    make: Callable[[nn.Module], torch.optim.Optimizer], told: str
) -> None:
    model = MLP()
    refuse(lambda: describe_optimizer(make(model), model), "unsupported-optimizer", told)


def test_a_used_optimizer_is_refused() -> None:
    model = ConvNet()
    optimizer = torch.optim.SGD(model.parameters(), 0.1, momentum=0.9)
    model(torch.randn(4, 1, 12, 12)).sum().backward()
    optimizer.step()
    refuse(lambda: describe_optimizer(optimizer, model), "used-optimizer", "anew")


class Stream(IterableDataset[tuple[torch.Tensor, int]]):
    def __iter__(self) -> Iterator[tuple[torch.Tensor, int]]:
        return iter([(X[0], 1)])


X, Y = torch.randn(4, 2), torch.arange(4)


@pytest.mark.parametrize(
    ("sources", "slug", "told"),
    [
        ((X,), "bad-data", "items"),
        ((X, Y[:3]), "bad-data", "records"),
        ((X, torch.tensor(1)), "bad-data", "data tensor 1"),
        ((X, Y.to(torch.complex64)), "bad-data", "complex64"),
        ((X, ["a", "b"]), "bad-data", "data tensor 1"),
        ((X.to_sparse(), Y), "bad-data", "dense"),
        ((X.to("meta"), Y), "bad-data", "CPU"),
        ((torch.empty(0, 2), torch.empty(0)), "bad-data", "data tensor 0"),
        ((X / 0, Y), "not-finite", "data tensor 0"),
        (tuple([X] * 9), "bad-data", "9 data tensors"),
        ((Stream(),), "bad-data", "streams"),
        (([(X[0], 1), (X[:2], 2)],), "bad-data", "differ"),
        (([],), "bad-data", "items"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_other_data_are_refused(sources: tuple[Any, ...], slug: str, told: str) -> None:
    refuse(lambda: make_data(sources), slug, told)


def test_data_are_copied_into_the_default_layout() -> None:
    turned = torch.randn(2, 4).t()
    first, second = make_data((turned, Y))
    assert first.is_contiguous()
    assert torch.equal(first, turned)
    kept = turned.clone()
    turned.zero_()
    assert torch.equal(first, kept)
    assert torch.equal(second, Y)
