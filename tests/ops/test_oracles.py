"""The oracles themselves, held against PyTorch and against finite differences. Nothing of xpcnn is used."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from tests.support import oracles
from tests.support.conv_cases import (
    CASES,
    TRANSPOSED,
    Case,
    Reference,
    Transposed,
    reference,
    transposed_reference,
)
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


def check_conv(r: Reference, function: Any) -> None:
    """Hold a reference against a convolution of torch's, of leaves."""
    leaves = [leaf(values) for values in (r.x, r.w, r.b) if values is not None]
    y = function(*leaves)
    y.backward(torch.tensor(r.dy))
    equal(r.y, y)
    for got, one in zip((r.dx, r.dw, r.db), leaves, strict=False):
        equal(got, one.grad)


@pytest.mark.parametrize("case", CASES.values(), ids=CASES.keys())
def test_conv2d(case: Case) -> None:
    top, bottom, left, right = case.pads
    options = (case.stride, 0, case.dilation, case.groups)
    check_conv(
        reference(case),
        lambda x, w, b=None: functional.conv2d(functional.pad(x, (left, right, top, bottom)), w, b, *options),
    )


@pytest.mark.parametrize("case", TRANSPOSED.values(), ids=TRANSPOSED.keys())
def test_conv_transpose2d(case: Transposed) -> None:
    check_conv(
        transposed_reference(case), lambda x, w, b=None: functional.conv_transpose2d(x, w, b, **case.options)
    )


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


def compare(function: Any, y: Any, gradients: Any, *values: Any) -> None:
    """Hold an oracle's y, and its gradients given dy, against a function of torch's."""
    leaves = [leaf(value) for value in values]
    expected = function(*leaves)
    dy = draw(*expected.shape, seed=1)
    expected.backward(torch.tensor(dy))
    equal(y, expected)
    found = gradients(dy)
    for got, one in zip(found if isinstance(found, tuple) else (found,), leaves, strict=True):
        equal(got, one.grad)


@pytest.mark.parametrize("case", POOLS.values(), ids=POOLS.keys())
def test_pools(case: Pool) -> None:
    x, pairs = case.values(), case.pairs
    options = (case.kernel, case.stride, case.padding)
    for values in (x, np.round(x)):  # with ties
        compare(
            lambda x: functional.max_pool2d(x, *options, ceil_mode=case.ceil_mode),
            oracles.max_pool2d(values, *pairs),
            lambda dy, v=values: oracles.max_pool2d_gradients(v, dy, *pairs),
            values,
        )
    for include in (True, False):
        compare(
            lambda x, i=include: functional.avg_pool2d(x, *options, case.ceil_mode, i),
            oracles.avg_pool2d(x, *pairs, include),
            lambda dy, i=include: oracles.avg_pool2d_gradients(case.shape, dy, *pairs, i),
            x,
        )


@pytest.mark.parametrize(("shape", "size"), ADAPTIVE.values(), ids=ADAPTIVE.keys())
def test_adaptive_avg_pool2d(shape: tuple[int, ...], size: Any) -> None:
    x, wanted = draw(*shape), (None, None) if size is None else pair(size)
    full = tuple(given or actual for given, actual in zip(wanted, shape[2:], strict=True))
    compare(
        lambda x: functional.adaptive_avg_pool2d(x, wanted),
        oracles.adaptive_avg_pool2d(x, full),
        lambda dy: oracles.adaptive_avg_pool2d_gradients(shape, dy, full),
        x,
    )


@pytest.mark.parametrize("shape", [(5, 3), (2, 4, 3), (3,)], ids=str)
def test_linear(shape: tuple[int, ...]) -> None:
    x, w, b = draw(*shape), draw(4, 3), draw(4)
    compare(
        functional.linear, oracles.linear(x, w, b), lambda dy: oracles.linear_gradients(x, w, dy), x, w, b
    )


@pytest.mark.parametrize(
    "name", ["relu", "leaky_relu", "sigmoid", "tanh", "gelu", "silu", "softmax", "log_softmax"]
)
def test_activations(name: str) -> None:
    x = np.concatenate([draw(4, 5), 100 * draw(2, 5), np.zeros((1, 5))])
    options = {"dim": 1} if name.endswith("softmax") else {}
    gradients = getattr(oracles, name + "_gradients")
    compare(
        lambda x: getattr(functional, name)(x, **options),
        getattr(oracles, name)(x),
        lambda dy: gradients(x, dy),
        x,
    )


@pytest.mark.parametrize("train", [True, False], ids=["train", "eval"])
@pytest.mark.parametrize("shape", [(6, 3), (4, 3, 2, 5)], ids=str)
def test_batch_norm(shape: tuple[int, ...], train: bool) -> None:
    x, weight, bias = 3 + 2 * draw(*shape), draw(3, seed=2), draw(3, seed=3)
    running_mean, running_var = draw(3, seed=4), 0.5 + draw(3, seed=5) ** 2
    torch_mean, torch_var = torch.tensor(running_mean), torch.tensor(running_var)
    mean, var, unbiased = oracles.batch_statistics(x) if train else (running_mean, running_var, None)
    compare(
        lambda x, w, b: functional.batch_norm(x, torch_mean, torch_var, w, b, train, 0.3, 1e-3),
        oracles.batch_norm(x, weight, bias, mean, var, 1e-3),
        lambda dy: oracles.batch_norm_gradients(x, weight, dy, mean, var, train, 1e-3),
        *(x, weight, bias),
    )
    if train:
        equal(0.7 * running_mean + 0.3 * mean, torch_mean)
        equal(0.7 * running_var + 0.3 * unbiased, torch_var)


@pytest.mark.parametrize("name", ["layer_norm", "group_norm"])
def test_norms_within_a_sample(name: str) -> None:
    shape = (6, 2, 5) if name == "layer_norm" else (6,)
    x, weight, bias = 3 + 2 * draw(4, 6, 2, 5), draw(*shape, seed=2), draw(*shape, seed=3)
    gradients = getattr(oracles, name + "_gradients")
    compare(
        lambda x, w, b: getattr(functional, name)(x, shape if name == "layer_norm" else 3, w, b, 1e-3),
        getattr(oracles, name)(x, 3, weight, bias, 1e-3),
        lambda dy: gradients(x, 3, weight, dy, 1e-3),
        *(x, weight, bias),
    )


@pytest.mark.parametrize("size", [1, 2, 3, 4, 9])
def test_local_response_norm(size: int) -> None:
    x, options = 3 * draw(2, 6, 2, 3), (size, 0.5, 0.75, 1.5)
    compare(
        lambda x: functional.local_response_norm(x, *options),
        oracles.local_response_norm(x, *options),
        lambda dy: oracles.local_response_norm_gradients(x, dy, *options),
        x,
    )


@pytest.mark.parametrize("smoothing", [0.0, 0.1], ids=["hard", "smoothed"])
@pytest.mark.parametrize("kind", ["labels", "one-hot", "probabilities"])
def test_losses(kind: str, smoothing: float) -> None:
    x, y, other = 3 * draw(5, 4), draw(5, 4, seed=3), draw(5, 4, seed=4)
    labels = np.array([0, 3, 1, 1, 2])
    target = {"labels": labels, "one-hot": np.eye(4)[labels], "probabilities": oracles.softmax(y)}[kind]
    compare(
        lambda x: functional.cross_entropy(x, torch.tensor(target), label_smoothing=smoothing),
        oracles.softmax_cross_entropy(x, target, smoothing),
        lambda dy: oracles.softmax_cross_entropy_gradients(x, target, smoothing, dy),
        x,
    )
    compare(
        lambda y: functional.mse_loss(y, torch.tensor(other)),
        oracles.mean_squared_error(y, other),
        lambda dy: oracles.mean_squared_error_gradients(y, other, dy),
        y,
    )


def test_finite_differences_agree() -> None:
    """The tool for operations without a closed form, on one that has one."""
    values, dy, weight = draw(3, 2, 2), draw(3, 2, 2, seed=1), draw(2, seed=2)

    def f(x: np.ndarray[Any, Any]) -> float:
        mean, var, _ = oracles.batch_statistics(x)
        return float((dy * oracles.batch_norm(x, weight, None, mean, var)).sum())

    mean, var, _ = oracles.batch_statistics(values)
    dx, _, _ = oracles.batch_norm_gradients(values, weight, dy, mean, var, train=True)
    equal(dx, oracles.numeric_gradient(f, values), rtol=1e-7)
