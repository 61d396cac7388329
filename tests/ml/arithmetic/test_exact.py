"""The mode: what it computes, passes and refuses, and that it leaves nothing behind."""

from __future__ import annotations

import threading
from collections.abc import Callable
from contextlib import nullcontext
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from milepost_ml.arithmetic.exact import ExactMode, is_active
from milepost_ml.errors import RefusedOperator
from tests.support.threads import with_threads


def _random(*shape: int, seed: int = 0) -> Tensor:
    generator = np.random.default_rng(seed)
    return torch.from_numpy(generator.standard_normal(shape).astype(np.float32))


def _bits(tensor: Tensor) -> bytes:
    return tensor.detach().contiguous().numpy().tobytes()


# Against PyTorch ---------------------------------------------------------------------------------

_X = _random(4, 6, 8, 8)
_ROWS = _random(12, 20, seed=1)
_PIXELS = torch.arange(256).view(4, 8, 8) % 6
_TARGETS = torch.tensor([1, 5, 0, 3, 3, 19, 7, 2, 2, 11, 0, 4])

_COMPUTATIONS: dict[str, tuple[Callable[[Tensor], Tensor], Tensor]] = {
    "adaptive_avg_pool2d": (lambda x: functional.adaptive_avg_pool2d(x, (3, 5)), _X),
    "add with alpha": (lambda x: torch.add(x, x * 2, alpha=0.3), _ROWS),
    "add a number with alpha": (lambda x: torch.add(x, 2, alpha=0.3), _ROWS),
    "subtract a number with alpha": (lambda x: torch.sub(x * 1, 2.5, alpha=3), _ROWS),
    "amax": (lambda x: x.amax(1), _ROWS),
    "attention": (
        lambda x: functional.scaled_dot_product_attention(x, x * 0.5, x + 1, is_causal=True),
        _X,
    ),
    "avg_pool2d": (lambda x: functional.avg_pool2d(x, 3, 2, 1), _X),
    "baddbmm": (lambda x: torch.baddbmm(x[0], x[1], x[2], beta=0.5, alpha=2.0), _X),
    "batch_norm": (lambda x: functional.batch_norm(x, None, None, training=True), _X),
    "bce": (
        lambda x: functional.binary_cross_entropy_with_logits(x, (_ROWS > 0).float()),
        _ROWS,
    ),
    "clamp": (lambda x: x.clamp(-0.5, 0.7), _ROWS),
    "conv1d": (lambda x: functional.conv1d(x[0], _random(3, 8, 3), padding=1), _X),
    "conv2d": (
        lambda x: functional.conv2d(x, _random(8, 3, 3, 3), _random(8), 2, 1, groups=2),
        _X,
    ),
    "cross_entropy": (
        lambda x: functional.cross_entropy(x, _TARGETS, ignore_index=3, label_smoothing=0.1),
        _ROWS,
    ),
    "cross_entropy of images": (
        lambda x: functional.cross_entropy(x, _PIXELS, weight=_X[0, :, 0, 0].abs()),
        _X,
    ),
    "einsum": (lambda x: torch.einsum("nchw,ndhw->ncd", x, x), _X),
    "embedding": (lambda x: functional.embedding(_TARGETS, x.t().contiguous()) ** 2, _ROWS),
    "exp, log": (lambda x: (x.exp() + 1).log(), _ROWS),
    "gather": (lambda x: x.gather(1, _TARGETS.view(-1, 1).expand(-1, 3) % 20) * 2, _ROWS),
    "gelu": (lambda x: functional.gelu(x) + functional.gelu(x, approximate="tanh"), _ROWS),
    "hardtanh": (functional.hardtanh, _ROWS),
    "indexing": (lambda x: x[torch.tensor([0, 0, -1]), torch.tensor([1, 1, 2])] * 3, _ROWS),
    "index_select": (lambda x: x.index_select(1, torch.tensor([3, 3, 0])) ** 3, _ROWS),
    "layer_norm": (lambda x: functional.layer_norm(x, (8, 8), _random(8, 8), _random(8, 8)), _X),
    "leaky_relu": (lambda x: functional.leaky_relu(x, 0.2), _ROWS),
    "lerp": (lambda x: torch.lerp(x, x * x, 0.3), _ROWS),
    "linear": (lambda x: functional.linear(x, _random(3, 8), _random(3)), _X),
    "linear without rows": (lambda x: functional.linear(x[0], _random(3, 20)), _ROWS),
    "log_softmax": (lambda x: x.log_softmax(0), _ROWS),
    "max": (lambda x: x.max() + x.min(), _ROWS),
    "max_pool2d": (lambda x: functional.max_pool2d(x, 3, 2, 1), _X),
    "maximum": (lambda x: torch.maximum(x, x.flip(0)) - torch.minimum(x, x.flip(1)), _ROWS),
    "mean": (lambda x: x.mean((0, 2)) + x.mean(), _X),
    "mse": (lambda x: functional.mse_loss(x, x.detach() * 0.5 + 1), _ROWS),
    "mv, dot": (lambda x: (x @ x[0]) * torch.dot(x[1], x[2]), _ROWS),
    "norm": (lambda x: torch.linalg.vector_norm(x, dim=1), _ROWS),
    "pow": (lambda x: (x**2 + 1) ** 0.5 + (x**2 + 1) ** -2 + x**5 + x**0, _ROWS),
    "relu": (functional.relu, _ROWS),
    "rsqrt": (lambda x: (x * x + 1).rsqrt(), _ROWS),
    "rsub": (lambda x: 2 - x, _ROWS),
    "sigmoid": (lambda x: x.sigmoid() * x.tanh(), _ROWS),
    "silu": (functional.silu, _ROWS),
    "smooth maximum": (lambda x: torch.where(x > 0, x, 0.1 * x).sum(1, keepdim=True), _ROWS),
    "softmax": (lambda x: x.softmax(1), _X),
    "std": (lambda x: x.std(1) + x.var((0, 1), keepdim=True).squeeze(), _ROWS),
    "sub with alpha": (lambda x: torch.sub(x, x * x, alpha=0.3), _ROWS),
    "sum of one number": (lambda x: x[0, 0].sum() * 2, _ROWS),
}


def _differentiate(compute: Callable[[Tensor], Tensor], x: Tensor) -> tuple[Tensor, Tensor]:
    x = x.clone().requires_grad_()
    y = compute(x)
    torch.autograd.backward(y, _random(*y.shape, seed=9))
    assert x.grad is not None
    return y.detach(), x.grad


@pytest.mark.parametrize("name", _COMPUTATIONS)
def test_means_what_pytorch_means(name: str) -> None:
    compute, x = _COMPUTATIONS[name]
    expected = _differentiate(compute, x)
    with ExactMode():
        found = _differentiate(compute, x)
    for mine, theirs in zip(found, expected, strict=True):
        assert mine.shape == theirs.shape
        torch.testing.assert_close(mine, theirs, rtol=2e-4, atol=2e-5)


@pytest.mark.parametrize("name", _COMPUTATIONS)
def test_exact_bits_do_not_depend_on_threads(name: str) -> None:
    compute, x = _COMPUTATIONS[name]
    results = []
    for threads in (1, 2):
        with with_threads(threads), ExactMode():
            results.append([_bits(tensor) for tensor in _differentiate(compute, x)])
    assert results[0] == results[1]


@pytest.mark.parametrize(
    ("make", "options"),
    [
        (torch.optim.SGD, {"lr": 0.1}),
        (torch.optim.SGD, {"lr": 0.1, "momentum": 0.9, "dampening": 0.2, "weight_decay": 0.1}),
        (torch.optim.SGD, {"lr": 0.1, "momentum": 0.9, "nesterov": True}),
        (torch.optim.Adam, {"lr": 0.01, "weight_decay": 0.1}),
        (torch.optim.Adam, {"lr": 0.01, "amsgrad": True}),
        (torch.optim.AdamW, {"lr": 0.01, "betas": (0.8, 0.95)}),
    ],
)
def test_optimizers_mean_what_pytorch_means(make: Any, options: dict[str, Any]) -> None:
    states = []
    for exact in (False, True):
        torch.manual_seed(0)
        model = nn.Sequential(nn.Linear(5, 7), nn.Tanh(), nn.Linear(7, 3))
        optimizer = make(model.parameters(), fused=exact, **options)
        for step in range(4):
            x = _random(6, 5, seed=step)
            if exact:
                with ExactMode():
                    _train_step(model, optimizer, x)
            else:
                _train_step(model, optimizer, x)
        states.append([p.detach().clone() for p in model.parameters()])
    for mine, theirs in zip(*states, strict=True):
        torch.testing.assert_close(mine, theirs, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("make", [nn.LSTM, nn.GRU, nn.RNN])
def test_recurrent_layers_mean_what_pytorch_means(make: Any) -> None:
    torch.manual_seed(0)
    model = make(8, 16, num_layers=2, batch_first=True)
    x, results = _random(4, 7, 8), []
    for mode in (nullcontext(), ExactMode()):
        model.zero_grad()
        with mode:
            y = model(x)[0]
            torch.autograd.backward(y.sum())
        results.append([y.detach(), *(p.grad.clone() for p in model.parameters())])
    for mine, theirs in zip(*results, strict=True):
        torch.testing.assert_close(mine, theirs, rtol=1e-4, atol=1e-5)


def _iterate_rnn(h: Tensor, a: Tensor, layer: Callable[[Tensor], Tensor]) -> Tensor:
    return (layer(h) + a).tanh()


def _iterate_gru(h: Tensor, a: Tensor, layer: Callable[[Tensor], Tensor]) -> Tensor:
    (a1, a2, a3), (b1, b2, b3) = a.chunk(3, 1), layer(h).chunk(3, 1)
    r, z = (b1 + a1).sigmoid(), (b2 + a2).sigmoid()
    n = (a3 + b3 * r).tanh()
    return (h - n) * z + n


@pytest.mark.parametrize(("make", "iterate"), [(nn.RNN, _iterate_rnn), (nn.GRU, _iterate_gru)])
def test_recurrent_layers_are_their_formula_exact_vector(make: Any, iterate: Any) -> None:
    torch.manual_seed(0)
    model, x, h = make(8, 16, batch_first=True), _random(4, 7, 8), torch.zeros(4, 16)
    w_in, w_hidden, b_in, b_hidden = model._flat_weights
    with ExactMode():
        y, results = model(x)[0], []
        for step in range(7):
            a = functional.linear(x[:, step], w_in, b_in)
            h = iterate(h, a, lambda v: functional.linear(v, w_hidden, b_hidden))
            results.append(h)
    assert _bits(y) == _bits(torch.stack(results, 1))


def test_an_lstm_is_its_formula_exact_vector() -> None:
    torch.manual_seed(0)
    model: Any = nn.LSTM(8, 16, batch_first=True)
    x = _random(4, 7, 8)
    w_in, w_hidden, b_in, b_hidden = model._flat_weights
    h, c, results = torch.zeros(4, 16), torch.zeros(4, 16), []
    with ExactMode():
        y = model(x)[0]
        for step in range(7):
            a = functional.linear(x[:, step], w_in, b_in)
            i, f, q, o = (functional.linear(h, w_hidden, b_hidden) + a).chunk(4, 1)
            c = f.sigmoid() * c + i.sigmoid() * q.tanh()
            h = o.sigmoid() * c.tanh()
            results.append(h)
    assert _bits(y) == _bits(torch.stack(results, 1))


def _train_step(model: nn.Module, optimizer: torch.optim.Optimizer, x: Tensor) -> None:
    optimizer.zero_grad()
    torch.autograd.backward((model(x) ** 2).sum())
    optimizer.step()


# Refusals ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("operator", "compute"),
    [
        ("_linalg_svd", lambda x: torch.linalg.svdvals(x)),
        ("sin", lambda x: x.sin()),
        ("cumsum", lambda x: x.cumsum(0)),
        ("pow", lambda x: x**1.5),
        ("mm", lambda x: x.double() @ x.double().t()),
        ("_to_copy", lambda x: x.half()),
        ("_to_copy", lambda x: x.long()),
        ("convolution", lambda x: functional.conv_transpose2d(_X, _random(6, 2, 3, 3))),
        ("convolution", lambda x: functional.conv3d(_X, _random(4, 4, 3, 3, 3))),
        ("randn", lambda x: torch.randn(3)),
        ("bernoulli", lambda x: torch.bernoulli(x)),
        ("resize_", lambda x: x.resize_(50)),
        ("arange", lambda x: torch.arange(0, 1, 0.1)),
        ("exponential_", lambda x: x.clone().exponential_()),
        ("view.dtype", lambda x: x.view(torch.int32)),
    ],
)
def test_refuses_by_name(operator: str, compute: Callable[[Tensor], object]) -> None:
    with pytest.raises(RefusedOperator) as refusal, ExactMode():
        compute(_ROWS[:4, :4].contiguous())
    assert refusal.value.operator.startswith(operator)
    assert operator in str(refusal.value)


def test_refuses_optimizers_it_has_no_rule_for() -> None:
    model = nn.Linear(3, 2)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, maximize=True, fused=True)
    with ExactMode():
        model(_random(4, 3)).sum().backward()
        with pytest.raises(RefusedOperator, match="maximize"):
            optimizer.step()


def test_integers_and_counting_pass() -> None:
    with ExactMode():
        correct = (_ROWS.argmax(1) == _TARGETS).float().mean()
        counts = torch.bincount(_TARGETS, minlength=20)
        assert torch.arange(5, dtype=torch.float32).sum().item() == 10
        assert (_TARGETS // 2 + 1).sum().item() == int(counts.sum()) + int((_TARGETS // 2).sum())
    assert 0 <= correct.item() <= 1


def test_out_of_range_targets_and_indices_are_errors() -> None:
    with ExactMode():
        with pytest.raises(IndexError):
            functional.cross_entropy(_ROWS, torch.full((12,), 20))
        with pytest.raises(IndexError):
            functional.embedding(torch.tensor([3]), _random(3, 2))


_MISFITS: dict[str, Callable[[], object]] = {
    "mm": lambda: torch.mm(_ROWS, _ROWS),
    "bmm": lambda: torch.bmm(_X[0], _X[1, :5]),
    "mv": lambda: torch.mv(_ROWS, _ROWS[:, 0]),
    "dot": lambda: torch.dot(_ROWS[0], _ROWS[0, :5]),
    "addmm": lambda: torch.addmm(_ROWS[0, :7], _ROWS, _ROWS.t()),
    "linear": lambda: functional.linear(_ROWS, _ROWS[:, :7]),
    "linear's bias": lambda: functional.linear(_ROWS, _ROWS, _ROWS[0]),
    "conv2d": lambda: functional.conv2d(_X, _random(4, 5, 3, 3)),
    "conv2d's groups": lambda: functional.conv2d(_X, _random(4, 3, 3, 3), groups=3),
    "conv2d's bias": lambda: functional.conv2d(_X, _random(4, 6, 3, 3), _random(5)),
    "conv2d's kernel": lambda: functional.conv2d(_X, _random(4, 6, 9, 3)),
    "conv2d's stride": lambda: functional.conv2d(_X, _random(4, 6, 3, 3), stride=0),
    "conv2d's padding": lambda: functional.conv2d(_X, _random(4, 6, 3, 3), padding=-1),
    "conv1d": lambda: functional.conv1d(_X[0], _random(4, 5, 3)),
    "layer_norm": lambda: torch.ops.aten.native_layer_norm(_ROWS, [19], None, None, 1e-5),
    "layer_norm's weight": lambda: torch.ops.aten.native_layer_norm(
        _ROWS, [20], _ROWS[0, :3], None, 1e-5
    ),
    "batch_norm": lambda: torch.ops.aten.native_batch_norm(
        _X, _random(5), None, None, None, True, 0.1, 1e-5
    ),
    "batch_norm without running values": lambda: torch.ops.aten.native_batch_norm(
        _X, None, None, None, None, False, 0.1, 1e-5
    ),
    "nll_loss": lambda: torch.ops.aten.nll_loss_forward(_ROWS, _TARGETS[:5], None, 1, -100),
    "nll_loss's weight": lambda: torch.ops.aten.nll_loss_forward(
        _ROWS, _TARGETS, _ROWS[0, :5], 1, -100
    ),
    "nll_loss's type": lambda: torch.ops.aten.nll_loss_forward(
        _ROWS, _TARGETS.int(), None, 1, -100
    ),
    "max_pool2d": lambda: functional.max_pool2d(_X, 9),
    "max_pool2d's padding": lambda: functional.max_pool2d(_X, 3, padding=2),
    "avg_pool2d's stride": lambda: torch.ops.aten.avg_pool2d(_X, [2, 2], [0, 1]),
    "avg_pool2d's divisor": lambda: functional.avg_pool2d(_X, 2, divisor_override=0),
    "sum": lambda: _ROWS.sum(2),
    "softmax": lambda: _ROWS.softmax(2),
    "amax": lambda: _ROWS.amax(-3),
    "index_add": lambda: _ROWS.index_add(0, _TARGETS[:3], _ROWS[:4]),
    "index_add's index": lambda: _ROWS.index_add(0, torch.tensor([12]), _ROWS[:1]),
    "scatter_add": lambda: _ROWS.scatter_add(1, torch.tensor([[20]]), _ROWS),
    "scatter_add's index": lambda: _ROWS.scatter_add(
        0, torch.zeros(3, 21, dtype=torch.int64), _ROWS
    ),
    "index_put": lambda: _ROWS.index_put((torch.tensor([-13]),), _ROWS[:1], accumulate=True),
    "maximum": lambda: torch.maximum(_ROWS, _ROWS[:5]),
    "lerp": lambda: torch.lerp(_ROWS, _ROWS[:5], 0.5),
    "add with alpha": lambda: torch.add(_ROWS, _ROWS[:5], alpha=0.5),
}


@pytest.mark.parametrize("name", _MISFITS)
def test_what_does_not_fit_is_an_error(name: str) -> None:
    with ExactMode(), pytest.raises((RuntimeError, IndexError, ValueError)) as error:
        _MISFITS[name]()
    assert not isinstance(error.value, RefusedOperator)


# Chance ------------------------------------------------------------------------------------------


def test_draws_follow_from_seed_and_number() -> None:
    mode = ExactMode()
    with mode:
        mode.reseed(77)
        first, second = torch.rand(5), torch.empty(3).uniform_(2, 4)
        mode.reseed(77)
        again = torch.rand(5)
        dropped = functional.dropout(torch.ones(10_000), 0.25)
    words = np.random.Philox(key=np.array([77, 0], dtype=np.uint64)).random_raw(5)
    assert first.tolist() == [float(word >> np.uint64(40)) / 2**24 for word in words]
    assert torch.equal(first, again)
    assert ((second >= 2) & (second <= 4)).all()
    kept = dropped != 0
    assert set(dropped[kept].tolist()) == {float(np.float32(1) / np.float32(0.75))}
    assert 0.72 < kept.float().mean() < 0.78


def test_a_gpus_dropout_is_that_of_a_processor() -> None:
    """On a GPU, PyTorch's dropout is one operator with a gradient of its own."""
    x, gradient = torch.randn(2, 1000)
    mode = ExactMode()

    def differentiate(drop: Callable[[torch.Tensor], torch.Tensor]) -> list[torch.Tensor]:
        held = x.clone().requires_grad_()
        with mode:
            mode.reseed(5)
            dropped = drop(held)
            dropped.backward(gradient)  # type: ignore[no-untyped-call]
        assert held.grad is not None
        return [dropped.detach(), held.grad]

    plain = differentiate(lambda x: functional.dropout(x, 0.3))
    fused = differentiate(lambda x: torch.ops.aten.native_dropout(x, 0.3, True)[0])
    assert all(torch.equal(one, other) for one, other in zip(plain, fused, strict=True))
    assert not torch.equal(*plain)
    with mode, pytest.raises(RefusedOperator, match="training"):
        torch.ops.aten.native_dropout(x, 0.3, False)


def test_draws_need_a_seed() -> None:
    with ExactMode(), pytest.raises(RefusedOperator, match="reseed"):
        functional.dropout(torch.ones(3), 0.5)


# Staying and leaving -----------------------------------------------------------------------------


def test_leaves_nothing_behind() -> None:
    def get_flags() -> tuple[bool, bool]:
        backend: Any = torch.backends.cuda
        return backend.flash_sdp_enabled(), backend.math_sdp_enabled()

    flags = get_flags()
    mode = ExactMode()
    for _ in range(2):
        with pytest.raises(RefusedOperator), mode:
            _ROWS.sin()
        with mode:
            assert get_flags() == (False, True)
    assert get_flags() == flags
    assert _ROWS.sin().shape == _ROWS.shape


def test_is_active_in_its_own_thread_only() -> None:
    results = []
    with ExactMode():
        other = threading.Thread(target=lambda: results.append(_ROWS.sin()))
        other.start()
        other.join()
    assert len(results) == 1


def test_nan_stays_nan_and_subnormals_stay() -> None:
    tiny = torch.tensor([[1e-40, -1e-40]])
    with ExactMode():
        assert (tiny @ torch.ones(2, 1)).item() == 0.0
        assert (tiny @ torch.tensor([[1.0], [0.0]])).item() == tiny[0, 0].item() != 0.0
        assert torch.relu(torch.tensor([float("nan")])).isnan().all()
        assert torch.softmax(torch.tensor([float("nan"), 1.0]), 0).isnan().all()


def test_the_mode_holds_in_its_own_thread_and_may_be_nested() -> None:
    outer, inner = ExactMode(), ExactMode()
    elsewhere: list[bool] = []
    with outer:
        with inner:
            thread = threading.Thread(target=lambda: elsewhere.append(is_active()))
            thread.start()
            thread.join()
        assert is_active()
        with outer:
            pass
        assert is_active()
    assert not is_active()
    assert elsewhere == [False]


def test_an_error_in_an_operator_leaves_the_mode_as_it_was() -> None:
    with ExactMode():
        for _ in range(2):
            with pytest.raises(RuntimeError, match="cannot be multiplied"):
                torch.mm(torch.ones(2, 3), torch.ones(2, 3))
            assert is_active()
        with pytest.raises(RefusedOperator):
            torch.linalg.qr(torch.ones(2, 2))
        assert is_active()
    assert not is_active()
