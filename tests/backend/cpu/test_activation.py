"""Biases and ReLU on NumPy."""

from __future__ import annotations

import numpy as np
import pytest

from tests.support.cpu import (
    Array,
    channels_last,
    draw,
    everywhere_else,
    is_channels_last,
    readonly,
    same_bits,
)
from xpcnn import ops
from xpcnn.backend.cpu import table
from xpcnn.ops.activation import added, relu_array, relu_grad
from xpcnn.ops.conv import _layout

SHAPES = [(), (0, 3), (7,), (2, 3), (2, 3, 5), (2, 3, 4, 5), (0, 3, 4, 5), (3, 1, 4, 5), (2, 7, 1, 1)]
LARGE = (3, 30, 41, 40)  # several blocks, and a rest


def odd(*shape: int, dtype: str) -> Array:
    """Normal numbers with NaN, infinities, zeros of both signs and subnormal numbers among them."""
    x = draw(*shape, dtype=dtype)
    special = np.array([np.nan, np.inf, -np.inf, 0.0, -0.0, np.finfo(dtype).smallest_subnormal], dtype)
    x.reshape(-1)[: x.size - x.size % 6 : 7] = np.resize(special, -(-(x.size - x.size % 6) // 7))
    return x


@pytest.mark.parametrize("shape", [*SHAPES, LARGE], ids=str)
def test_relu(shape: tuple[int, ...], dtype: str) -> None:
    x = odd(*shape, dtype=dtype)
    layouts = [readonly(x)] + ([channels_last(x)] if len(shape) > 2 else [])
    for values in layouts:
        y = table()["relu_array"](values)
        assert same_bits(np.asarray(y), np.asarray(relu_array.portable(values)))
        assert not np.signbit(y[y == 0]).any()
        assert not np.shares_memory(y, values)
        assert y.flags.writeable
    if len(shape) > 2:
        assert is_channels_last(y)


def test_relu_of_other_memory(dtype: str) -> None:
    x = draw(2, 3, 4, 5, dtype=dtype)
    for values in everywhere_else(x):
        y, _ = ops.relu(values)
        assert same_bits(y, np.maximum(x, 0).astype(dtype))
    assert table()["relu_array"](np.broadcast_to(x[:1], x.shape)) is NotImplemented


@pytest.mark.parametrize("name", ["add_bias", "add_bias_relu"])
@pytest.mark.parametrize(
    "shape", [(2, 3, 4, 5), (1, 1, 1, 1), (2, 1, 3, 3), (1, 40000, 1, 2), LARGE], ids=str
)
def test_biases_are_added_in_place(name: str, shape: tuple[int, ...], dtype: str) -> None:
    values, bias = odd(*shape, dtype=dtype), readonly(odd(shape[1], dtype=dtype))
    with np.errstate(invalid="ignore"):
        expected = getattr(_layout, name).portable(values.copy(), bias)
        y = np.moveaxis(np.ascontiguousarray(np.moveaxis(values, 1, -1)), -1, 1)
        result = table()[name](y, bias)
    assert result is y
    assert same_bits(y, expected)


def test_biases_of_other_memory(dtype: str) -> None:
    x, bias = draw(2, 3, 4, 5, dtype=dtype), draw(3, dtype=dtype)
    expected = np.maximum(x + bias[:, None, None], 0)
    assert table()["add_bias_relu"](x.copy(), bias) is NotImplemented
    assert table()["add_bias_relu"](channels_last(x[:0]), bias) is NotImplemented
    assert same_bits(_layout.add_bias_relu(x.copy(), bias), expected)


@pytest.mark.parametrize("shape", [*SHAPES, LARGE], ids=str)
def test_gradient_where_positive(shape: tuple[int, ...], dtype: str) -> None:
    dy, y = odd(*shape, dtype=dtype), draw(*shape, dtype=dtype, seed=1)
    found = relu_grad(readonly(dy), readonly(np.asarray(y)))
    assert same_bits(np.asarray(found), np.where(y > 0, dy, np.zeros((), dtype)))
    if len(shape) == 4:
        for memory in everywhere_else(dy):
            assert same_bits(relu_grad(memory, y), np.where(y > 0, dy, np.zeros((), dtype)))
        assert is_channels_last(relu_grad(channels_last(dy), channels_last(y)))


@pytest.mark.parametrize("shape", [*SHAPES, LARGE], ids=str)
def test_sums(shape: tuple[int, ...], dtype: str) -> None:
    x, other = odd(*shape, dtype=dtype), draw(*shape, dtype=dtype, seed=1)
    expected = x + other
    total = added(readonly(x), readonly(np.asarray(other)))
    assert same_bits(np.asarray(total), np.asarray(expected))
    if len(shape) == 4:
        for memory in everywhere_else(x):
            assert same_bits(added(memory, other), expected)
        assert is_channels_last(added(channels_last(x), channels_last(other)))


def test_sums_of_other_dtypes_are_the_plain_ones() -> None:
    assert table()["added"](np.ones(3, "float16"), np.ones(3, "float16")) is NotImplemented
    assert table()["added"](np.ones(3, "float32"), np.ones(3, "float64")) is NotImplemented
