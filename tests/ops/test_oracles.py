"""The oracles themselves, held against PyTorch and against finite differences. Nothing of xpcnn is used."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from tests.support import oracles
from tests.support.conv_cases import CASES, TRANSPOSED, Case, Transposed, reference, transposed_reference
from tests.support.ops import draw, pair
from tests.support.pool_cases import ADAPTIVE, POOLS, Pool

torch = pytest.importorskip("torch")
functional = torch.nn.functional

RTOL = 1e-12


def leaf(values: Any) -> Any:
    return torch.tensor(np.asarray(values), dtype=torch.float64, requires_grad=True)


def equal(got: Any, expected: Any, rtol: float = RTOL) -> None:
    got = np.asarray(got)
    expected = expected.detach().numpy() if hasattr(expected, "detach") else np.asarray(expected)
    assert got.shape == expected.shape
    scale = np.abs(expected).max() if expected.size else 1.0
    np.testing.assert_allclose(got, expected, rtol=0, atol=rtol * scale)


@pytest.mark.parametrize("case", CASES.values(), ids=CASES.keys())
def test_conv2d(case: Case) -> None:
    r = reference(case)
    x, w = leaf(r.x), leaf(r.w)
    b = None if r.b is None else leaf(r.b)
    top, bottom, left, right = case.pads
    padded = functional.pad(x, (left, right, top, bottom))
    y = functional.conv2d(padded, w, b, case.stride, 0, case.dilation, case.groups)
    y.backward(torch.tensor(r.dy))
    equal(r.y, y)
    equal(r.dx, x.grad)
    equal(r.dw, w.grad)
    if b is not None:
        equal(r.db, b.grad)


@pytest.mark.parametrize("case", TRANSPOSED.values(), ids=TRANSPOSED.keys())
def test_conv_transpose2d(case: Transposed) -> None:
    r = transposed_reference(case)
    x, w = leaf(r.x), leaf(r.w)
    b = None if r.b is None else leaf(r.b)
    y = functional.conv_transpose2d(x, w, b, **case.options)
    y.backward(torch.tensor(r.dy))
    equal(r.y, y)
    equal(r.dx, x.grad)
    equal(r.dw, w.grad)
    if b is not None:
        equal(r.db, b.grad)


@pytest.mark.parametrize("name", ["kernel is the input", "same, even kernel", "same, even and dilated"])
@pytest.mark.filterwarnings("ignore:Using padding='same'")
def test_meaning_of_named_padding(name: str) -> None:
    case = CASES[name]
    r = reference(case)
    y = functional.conv2d(
        torch.tensor(r.x), torch.tensor(r.w), torch.tensor(r.b), case.stride, case.padding, case.dilation
    )
    equal(r.y, y)


def test_im2col_is_unfold() -> None:
    x = draw(2, 3, 6, 7)
    options = {"kernel": (3, 2), "stride": (2, 1), "pads": (1, 1, 2, 2), "dilation": (1, 2)}
    columns = oracles.im2col(x, **options)
    unfolded = functional.unfold(torch.tensor(x), (3, 2), (1, 2), (1, 2), (2, 1))
    equal(columns, unfolded.permute(0, 2, 1).reshape(columns.shape))
    dy = draw(*columns.shape, seed=1)
    per_image = torch.tensor(dy).reshape(2, -1, dy.shape[1]).permute(0, 2, 1)
    equal(
        oracles.col2im(dy, x.shape, **options),
        functional.fold(per_image, (6, 7), (3, 2), (1, 2), (1, 2), (2, 1)),
    )


@pytest.mark.parametrize("case", POOLS.values(), ids=POOLS.keys())
def test_max_pool2d(case: Pool) -> None:
    x = leaf(case.values())
    y = functional.max_pool2d(x, case.kernel, case.stride, case.padding, ceil_mode=case.ceil_mode)
    dy = draw(*y.shape, seed=1)
    y.backward(torch.tensor(dy))
    equal(oracles.max_pool2d(case.values(), *case.pairs), y)
    equal(oracles.max_pool2d_gradients(case.values(), dy, *case.pairs), x.grad)


@pytest.mark.parametrize("count_include_pad", [True, False], ids=["with padding", "without padding"])
@pytest.mark.parametrize("case", POOLS.values(), ids=POOLS.keys())
def test_avg_pool2d(case: Pool, count_include_pad: bool) -> None:
    x = leaf(case.values())
    y = functional.avg_pool2d(x, case.kernel, case.stride, case.padding, case.ceil_mode, count_include_pad)
    dy = draw(*y.shape, seed=1)
    y.backward(torch.tensor(dy))
    equal(oracles.avg_pool2d(case.values(), *case.pairs, count_include_pad), y)
    equal(oracles.avg_pool2d_gradients(case.shape, dy, *case.pairs, count_include_pad), x.grad)


@pytest.mark.parametrize(("shape", "size"), ADAPTIVE.values(), ids=ADAPTIVE.keys())
def test_adaptive_avg_pool2d(shape: tuple[int, ...], size: Any) -> None:
    x = leaf(draw(*shape))
    y = functional.adaptive_avg_pool2d(x, size)
    dy = draw(*y.shape, seed=1)
    y.backward(torch.tensor(dy))
    full = tuple(given or actual for given, actual in zip(pair(size), shape[2:], strict=True))
    equal(oracles.adaptive_avg_pool2d(draw(*shape), full), y)
    equal(oracles.adaptive_avg_pool2d_gradients(shape, dy, full), x.grad)


@pytest.mark.parametrize("shape", [(5, 3), (2, 4, 3), (3,)], ids=str)
def test_linear(shape: tuple[int, ...]) -> None:
    x, w, b = leaf(draw(*shape)), leaf(draw(4, 3)), leaf(draw(4))
    y = functional.linear(x, w, b)
    dy = draw(*y.shape, seed=1)
    y.backward(torch.tensor(dy))
    equal(oracles.linear(draw(*shape), draw(4, 3), draw(4)), y)
    for got, expected in zip(
        oracles.linear_gradients(draw(*shape), draw(4, 3), dy), (x.grad, w.grad, b.grad), strict=True
    ):
        equal(got, expected)


@pytest.mark.parametrize(
    "name", ["relu", "leaky_relu", "sigmoid", "tanh", "gelu", "silu", "softmax", "log_softmax"]
)
def test_activations(name: str) -> None:
    values = np.concatenate([draw(4, 5), 100 * draw(2, 5), np.zeros((1, 5))])
    options = {"dim": 1} if name.endswith("softmax") else {}
    x = leaf(values)
    y = getattr(functional, name)(x, **options)
    dy = draw(*y.shape, seed=1)
    y.backward(torch.tensor(dy))
    equal(getattr(oracles, name)(values), y)
    equal(getattr(oracles, name + "_gradients")(values, dy), x.grad)


@pytest.mark.parametrize("train", [True, False], ids=["train", "eval"])
@pytest.mark.parametrize("shape", [(6, 3), (4, 3, 2, 5)], ids=str)
def test_batch_norm(shape: tuple[int, ...], train: bool) -> None:
    values, dy = 3 + 2 * draw(*shape), draw(*shape, seed=1)
    weight, bias = draw(3, seed=2), draw(3, seed=3)
    running_mean, running_var = draw(3, seed=4), 0.5 + draw(3, seed=5) ** 2
    x, w, b = leaf(values), leaf(weight), leaf(bias)
    torch_mean, torch_var = torch.tensor(running_mean), torch.tensor(running_var)
    y = functional.batch_norm(x, torch_mean, torch_var, w, b, train, 0.3, 1e-3)
    y.backward(torch.tensor(dy))
    mean, var, unbiased = oracles.batch_statistics(values)
    if train:
        equal(0.7 * running_mean + 0.3 * mean, torch_mean)
        equal(0.7 * running_var + 0.3 * unbiased, torch_var)
    else:
        mean, var = running_mean, running_var
    equal(oracles.batch_norm(values, weight, bias, mean, var, 1e-3), y)
    for got, expected in zip(
        oracles.batch_norm_gradients(values, weight, dy, mean, var, train, 1e-3),
        (x.grad, w.grad, b.grad),
        strict=True,
    ):
        equal(got, expected)


@pytest.mark.parametrize("name", ["layer_norm", "group_norm"])
def test_norms_within_a_sample(name: str) -> None:
    parameters = (6, 2, 5) if name == "layer_norm" else (6,)
    values, dy = 3 + 2 * draw(4, 6, 2, 5), draw(4, 6, 2, 5, seed=1)
    weight, bias = draw(*parameters, seed=2), draw(*parameters, seed=3)
    x, w, b = leaf(values), leaf(weight), leaf(bias)
    y = getattr(functional, name)(x, parameters if name == "layer_norm" else 3, w, b, 1e-3)
    y.backward(torch.tensor(dy))
    equal(getattr(oracles, name)(values, 3, weight, bias, 1e-3), y)
    gradients = getattr(oracles, name + "_gradients")(values, 3, weight, dy, 1e-3)
    for got, expected in zip(gradients, (x.grad, w.grad, b.grad), strict=True):
        equal(got, expected)


@pytest.mark.parametrize("size", [1, 2, 3, 4, 9])
def test_local_response_norm(size: int) -> None:
    values, dy = 3 * draw(2, 6, 2, 3), draw(2, 6, 2, 3, seed=1)
    x = leaf(values)
    y = functional.local_response_norm(x, size, 0.5, 0.75, 1.5)
    y.backward(torch.tensor(dy))
    equal(oracles.local_response_norm(values, size, 0.5, 0.75, 1.5), y)
    equal(oracles.local_response_norm_gradients(values, dy, size, 0.5, 0.75, 1.5), x.grad)


@pytest.mark.parametrize("smoothing", [0.0, 0.1], ids=["hard", "smoothed"])
@pytest.mark.parametrize("kind", ["labels", "one-hot", "probabilities"])
def test_softmax_cross_entropy(kind: str, smoothing: float) -> None:
    logits = 3 * draw(5, 4)
    target = {
        "labels": np.array([0, 3, 1, 1, 2]),
        "one-hot": np.eye(4)[[0, 3, 1, 1, 2]],
        "probabilities": oracles.softmax(draw(5, 4, seed=1)),
    }[kind]
    x = leaf(logits)
    loss = functional.cross_entropy(x, torch.tensor(target), label_smoothing=smoothing)
    (0.7 * loss).backward()
    equal(oracles.softmax_cross_entropy(logits, target, smoothing), loss)
    equal(oracles.softmax_cross_entropy_gradients(logits, target, smoothing, 0.7), x.grad)


def test_mean_squared_error() -> None:
    y, target = draw(5, 4), draw(5, 4, seed=1)
    x = leaf(y)
    loss = functional.mse_loss(x, torch.tensor(target))
    (0.7 * loss).backward()
    equal(oracles.mean_squared_error(y, target), loss)
    equal(oracles.mean_squared_error_gradients(y, target, 0.7), x.grad)


def test_finite_differences_agree() -> None:
    """The tool for operations without a closed form, on one that has one."""
    values, dy, weight = draw(3, 2, 2), draw(3, 2, 2, seed=1), draw(2, seed=2)

    def f(x: np.ndarray[Any, Any]) -> float:
        mean, var, _ = oracles.batch_statistics(x)
        return float((dy * oracles.batch_norm(x, weight, None, mean, var)).sum())

    mean, var, _ = oracles.batch_statistics(values)
    dx, _, _ = oracles.batch_norm_gradients(values, weight, dy, mean, var, train=True)
    equal(dx, oracles.numeric_gradient(f, values), rtol=1e-7)
