"""No op waits for a device, forwards or backwards: copies to the host are counted, and waits."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

import xpcnn
from xpcnn import Key, nn, ops, optim
from xpcnn.ops import fused

IMAGES, ROWS = (2, 4, 6, 5), (3, 4)

# The arguments of each op, given a function that makes an array of a shape.
Arguments = Callable[[Callable[..., Any]], tuple[Any, ...]]
OPS: dict[str, tuple[Arguments, dict[str, Any]]] = {
    "adaptive_avg_pool2d": (lambda a: (a(*IMAGES), (2, 3)), {}),
    "avg_pool2d": (lambda a: (a(*IMAGES), 3, 2, 1), {}),
    "batch_norm": (lambda a: (a(*IMAGES), a(4), a(4), a(4), a(4)), {"train": True}),
    "batch_norm_relu": (lambda a: (a(*IMAGES), a(4), a(4), a(4), a(4)), {"train": True}),
    "conv2d": (lambda a: (a(*IMAGES), a(3, 4, 3, 3), a(3)), {"padding": 1}),
    "conv_transpose2d": (lambda a: (a(*IMAGES), a(4, 3, 3, 3), a(3)), {"stride": 2}),
    "dropout": (lambda a: (a(*ROWS), 0.5, Key(0)), {}),
    "flatten": (lambda a: (a(*IMAGES),), {}),
    "gelu": (lambda a: (a(*ROWS),), {}),
    "group_norm": (lambda a: (a(*IMAGES), 2, a(4), a(4)), {}),
    "layer_norm": (lambda a: (a(*ROWS), 4, a(4), a(4)), {}),
    "leaky_relu": (lambda a: (a(*ROWS), 0.1), {}),
    "linear": (lambda a: (a(*ROWS), a(2, 4), a(2)), {}),
    "local_response_norm": (lambda a: (a(*IMAGES), 3), {}),
    "log_softmax": (lambda a: (a(*ROWS),), {}),
    "max_pool2d": (lambda a: (a(*IMAGES), 3, 2, 1), {}),
    "mean_squared_error": (lambda a: (a(*ROWS), a(*ROWS)), {}),
    "relu": (lambda a: (a(*ROWS),), {}),
    "sigmoid": (lambda a: (a(*ROWS),), {}),
    "silu": (lambda a: (a(*ROWS),), {}),
    "softmax": (lambda a: (a(*ROWS),), {}),
    "softmax_cross_entropy": (lambda a: (a(*ROWS), a.labels(3)), {"label_smoothing": 0.1}),  # type: ignore[attr-defined]
    "tanh": (lambda a: (a(*ROWS),), {}),
}


class Draw:
    """Makes arrays of one dtype on the current backend."""

    def __init__(self, dtype: str) -> None:
        self.dtype = dtype

    def __call__(self, *shape: int) -> Any:
        return xpcnn.asarray(np.random.default_rng([*shape]).random(shape) + 0.5, self.dtype)

    def labels(self, count: int) -> Any:
        return xpcnn.asarray(np.arange(count, dtype=np.int64))


@pytest.fixture(params=["float16", "bfloat16", "float32", "float64"])
def draw(request: pytest.FixtureRequest) -> Draw:
    return Draw(request.param)


def test_all_ops_are_here() -> None:
    names = [(module, name) for module in (ops, fused) for name in module.__all__]
    assert set(OPS) == {name for module, name in names if hasattr(getattr(module, name), "backward")}


@pytest.mark.parametrize("name", OPS)
def test_an_op_looks_at_nothing(looks: list[str], draw: Draw, name: str) -> None:
    op = getattr(fused if name in fused.__all__ else ops, name)
    arguments, options = OPS[name]
    given = arguments(draw)
    looks.clear()
    y, *_, ctx = op(*given, **options)
    op.backward(ctx, 1.0 if name in ("mean_squared_error", "softmax_cross_entropy") else y)
    assert looks == []


@pytest.mark.parametrize("algorithm", ops.algorithm_names())
def test_no_algorithm_looks_at_anything(looks: list[str], algorithm: str) -> None:
    draw = Draw("float32")
    x, weight, bias = draw(*IMAGES), draw(3, 4, 3, 3), draw(3)
    if algorithm in ("cudnn", "native") and not backend_has(algorithm):
        pytest.skip(f"no {algorithm} here")
    looks.clear()
    y, ctx = ops.conv2d(x, weight, bias, padding=1, algorithm=algorithm)
    ops.conv2d.backward(ctx, y)
    assert looks == []
    assert tuple(y.shape) == (2, 3, 6, 5)


def backend_has(algorithm: str) -> bool:
    library = xpcnn.get_backend().convolutions.get(algorithm)
    return library is not None and library.unsupported("float32") is None


def test_nor_do_other_functions(looks: list[str], draw: Draw) -> None:
    x, weight, bias = draw(*IMAGES), draw(3, 4, 3, 3), draw(3)
    looks.clear()
    columns = ops.im2col(x, 3, padding=1)
    ops.col2im(columns, x.shape, 3, padding=1)
    fused.conv2d_relu(x, weight, bias)
    namespace = xpcnn.namespace(x)
    namespace.clip(x, 0.6, 0.9)
    namespace.where(x > 1, x, 0.5)
    xpcnn.get_backend().masked(x > 1, x)
    xpcnn.get_backend().uniform(Key(0), (5,), x.dtype)
    assert looks == []


@pytest.mark.parametrize("clip", [optim.clip_grad_norm, optim.clip_grad_value])
def test_nor_does_clipping(looks: list[str], draw: Draw, clip: Callable[[nn.Gradients, float], Any]) -> None:
    weight, grads = nn.Parameter(draw(*ROWS)), nn.Gradients()
    grads.add(weight, draw(*ROWS))
    looks.clear()
    clip(grads, 0.75)
    assert looks == []
