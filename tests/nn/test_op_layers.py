"""Layers that are an op: those of the package, and a user's own."""

from __future__ import annotations

import copy
import pickle
from typing import Any

import numpy as np
import pytest

from tests.support.nn import draw, mentions
from xpcnn import errors, nn, ops
from xpcnn.ops.op import op
from xpcnn.testing import gradcheck


@op
def swish(x: Any, beta: float = 1.0) -> Any:
    gate, _ = ops.sigmoid(beta * x)
    return x * gate, (x, gate, beta)


@swish.def_backward
def _swish_grad(ctx: Any, dy: Any) -> Any:
    x, gate, beta = ctx
    return dy * gate * (1 + beta * x * (1 - gate))


class Swish(nn.Stateless):
    op = swish


class SwishWithBeta(nn.Stateless):
    op = swish
    options = ("beta",)

    def __init__(self, beta: float) -> None:
        self.beta = beta


THIN: dict[str, tuple[nn.Layer, Any, str]] = {
    "ReLU": (nn.ReLU(), ops.relu, "ReLU()"),
    "LeakyReLU": (nn.LeakyReLU(0.2), ops.leaky_relu, "LeakyReLU(slope=0.2)"),
    "Sigmoid": (nn.Sigmoid(), ops.sigmoid, "Sigmoid()"),
    "Tanh": (nn.Tanh(), ops.tanh, "Tanh()"),
    "GELU": (nn.GELU(), ops.gelu, "GELU()"),
    "SiLU": (nn.SiLU(), ops.silu, "SiLU()"),
    "Softmax": (nn.Softmax(1), ops.softmax, "Softmax(axis=1)"),
    "Flatten": (nn.Flatten(), ops.flatten, "Flatten()"),
    "MaxPool2d": (nn.MaxPool2d(2, 1), ops.max_pool2d, "MaxPool2d((2, 2), stride=(1, 1))"),
    "AvgPool2d": (
        nn.AvgPool2d(3, padding=1, ceil_mode=True, count_include_pad=False),
        ops.avg_pool2d,
        "AvgPool2d((3, 3), stride=(3, 3), padding=(1, 1), ceil_mode=True, count_include_pad=False)",
    ),
    "AdaptiveAvgPool2d": (
        nn.AdaptiveAvgPool2d((1, None)),
        ops.adaptive_avg_pool2d,
        "AdaptiveAvgPool2d((1, None))",
    ),
    "LocalResponseNorm": (
        nn.LocalResponseNorm(3, beta=0.5),
        ops.local_response_norm,
        "LocalResponseNorm(3, beta=0.5)",
    ),
}


@pytest.mark.parametrize(("layer", "function", "shown"), THIN.values(), ids=THIN.keys())
def test_the_ops_of_the_package(make: Any, layer: Any, function: Any, shown: str) -> None:
    assert isinstance(layer, nn.Stateless)
    assert layer.op is type(layer).op is function
    assert repr(layer) == shown
    assert nn.is_batch_independent(layer, train=True)
    x = make.array(draw(2, 3, 6, 5))
    y, ctx = layer.forward(x, train=True)
    expected, expected_ctx = function(x, **{name: getattr(layer, name) for name in layer.options})
    assert type(ctx) is type(expected_ctx)
    np.testing.assert_array_equal(make.to_numpy(y), make.to_numpy(expected))
    dx = layer.backward(ctx, y)
    np.testing.assert_array_equal(make.to_numpy(dx), make.to_numpy(function.backward(expected_ctx, y)))
    assert layer.backward(ctx, y, need_dx=False) is None
    for other in (copy.deepcopy(layer), pickle.loads(pickle.dumps(layer))):
        assert vars(other) == vars(layer)
        np.testing.assert_array_equal(make.to_numpy(other(x)), make.to_numpy(expected))


@pytest.mark.parametrize("layer", [Swish(), SwishWithBeta(2.5)], ids=["plain", "with an option"])
def test_a_users_own(make: Any, layer: nn.Layer) -> None:
    values = draw(3, 4)
    x = make.array(values)
    beta = getattr(layer, "beta", 1.0)
    make.check(layer(x), values / (1 + np.exp(-beta * values)), "float64")
    assert gradcheck(layer, x).compared == 12
    with make.use():
        model = nn.Sequential(fc=nn.Linear(4, 2, dtype="float64", seed=0), act=layer)
    gradcheck(model, x)


def test_per_sample_is_said_by_who_sets_the_op() -> None:
    """A batch is cut only where each sample is known to be by itself."""

    class Stated(nn.Stateless):
        op = swish
        batch_independent = True

    class AnotherOp(nn.ReLU):
        op = ops.softmax

    class Same(nn.ReLU):
        pass

    assert not nn.is_batch_independent(Swish(), train=False)
    assert nn.is_batch_independent(Stated(), train=True)
    assert not nn.is_batch_independent(AnotherOp(), train=True)
    assert nn.is_batch_independent(Same(), train=True)


@pytest.mark.parametrize(("axis", "alone"), [(-1, True), (1, True), (3, True), (0, False), (-2, False)])
def test_a_softmax_over_the_samples_is_not_per_sample(axis: int, alone: bool) -> None:
    assert nn.is_batch_independent(nn.Sequential(nn.Softmax(axis)), train=True) is alone


class NoBackward:
    def __call__(self, x: Any) -> Any:
        return x, None


@pytest.mark.parametrize(
    ("wrong", "said"),
    [(3, "3"), (None, "None"), (np.tanh, "ufunc"), (NoBackward(), "NoBackward"), ("relu", "'relu'")],
)
def test_what_is_no_op_is_refused(wrong: Any, said: str) -> None:
    with pytest.raises(errors.ArgumentError, match=mentions("Mine: op must be", ".backward", "ops.op", said)):
        type("Mine", (nn.Stateless,), {"op": wrong})


def test_options_that_are_one_text() -> None:
    """The comma that makes a tuple is easily forgotten."""
    with pytest.raises(errors.ArgumentError, match=mentions("Mine: options", "tuple of names", "'slope'")):
        type("Mine", (nn.Stateless,), {"op": ops.leaky_relu, "options": ("slope")})


def test_an_op_that_forgets_the_context(make: Any) -> None:
    """Two images are no pair of a result and its context."""

    def double(x: Any) -> Any:
        return 2 * x

    mine = op(double)
    mine.def_backward(lambda ctx, dy: 2 * dy)
    layer = type("Mine", (nn.Stateless,), {"op": mine})()
    for run in (layer, layer.forward, nn.Sequential(layer), nn.Sequential(layer).forward):
        with pytest.raises(errors.ArgumentError, match=r"^Mine: op must return \(y, ctx\), got "):
            run(make.array(draw(2, 3)))


def test_an_op_with_several_gradients() -> None:
    class Own(nn.Stateless):
        op = ops.batch_norm
        options = ("train",)
        train = True

    layer, x = Own(), draw(4, 3)
    y, ctx = layer.forward(x)
    assert layer.backward(ctx, y, need_dx=False) is None
    with pytest.raises(errors.ArgumentError, match=mentions("Own: op.backward", "dx alone", "tuple of 3")):
        layer.backward(ctx, y)
