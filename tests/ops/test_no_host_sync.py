"""No op waits for a device, forwards or backwards: copies to the host are counted, and waits."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

import xpcnn
from tests.support.op_cases import IMAGES, OPS, ROWS, names
from xpcnn import Key, nn, ops, optim
from xpcnn.ops import fused


@pytest.fixture(params=["float16", "bfloat16", "float32", "float64"])
def array(request: pytest.FixtureRequest) -> Callable[[Any], Any]:
    """Makes arrays of one dtype on the current backend."""
    return lambda values: xpcnn.asarray(values, request.param)


def drawn(array: Any, *shapes: tuple[int, ...]) -> list[Any]:
    return [array(np.random.default_rng([*shape]).random(shape) + 0.5) for shape in shapes]


def test_all_ops_are_here() -> None:
    assert set(OPS) == names()


@pytest.mark.parametrize("name", OPS)
def test_an_op_looks_at_nothing(looks: list[str], array: Any, name: str) -> None:
    given = OPS[name].draw(array)
    looks.clear()
    y, ctx = OPS[name](*given)
    OPS[name].backward(ctx, y)
    if name == "softmax_cross_entropy":
        labels = xpcnn.asarray(np.arange(3))
        looks.clear()
        ops.softmax_cross_entropy(given[0], labels)
    assert looks == []


@pytest.mark.parametrize("algorithm", ops.algorithm_names())
def test_no_algorithm_looks_at_anything(looks: list[str], algorithm: str) -> None:
    x, weight, bias = drawn(lambda v: xpcnn.asarray(v, "float32"), IMAGES, (3, 4, 3, 3), (3,))
    if algorithm in ("cudnn", "native") and algorithm not in xpcnn.get_backend().convolutions:
        pytest.skip(f"no {algorithm} here")
    looks.clear()
    y, ctx = ops.conv2d(x, weight, bias, padding=1, algorithm=algorithm)
    ops.conv2d.backward(ctx, y)
    assert looks == []
    assert tuple(y.shape) == (2, 3, 6, 5)


def test_nor_do_other_functions(looks: list[str], array: Any) -> None:
    x, weight, bias, rows = drawn(array, IMAGES, (3, 4, 3, 3), (3,), ROWS)
    parameter = nn.Parameter(rows)
    grads = nn.Gradients()
    grads.add(parameter, rows)
    looks.clear()
    columns = ops.im2col(x, 3, padding=1)
    ops.col2im(columns, x.shape, 3, padding=1)
    fused.conv2d_relu(x, weight, bias)
    namespace = xpcnn.namespace(x)
    namespace.clip(x, 0.6, 0.9)
    namespace.where(x > 1, x, 0.5)
    xpcnn.get_backend().masked(x > 1, x)
    xpcnn.get_backend().uniform(Key(0), (5,), x.dtype)
    optim.clip_grad_norm(grads, 0.75)
    assert looks == []
