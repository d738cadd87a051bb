"""Dropout: a pure function of its input and its key."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import xpcnn
from tests.support.ops import LAYOUTS, draw, is_channels_last, mentions
from xpcnn import errors, ops


def mask(
    make: Any, key: Any, p: float = 0.5, shape: tuple[int, ...] = (16, 16), dtype: str = "float64"
) -> np.ndarray[Any, Any]:
    """Which entries survive."""
    y, _ = ops.dropout(make.array(np.ones(shape), dtype), p, key)
    return make.to_numpy(y) != 0


@pytest.mark.parametrize("p", [0.1, 0.5, 0.9], ids=str)
def test_survivors_are_scaled_and_the_mean_kept(make: Any, dtype: str, p: float) -> None:
    x = make.array(np.ones((200, 200)), dtype)
    with make.unchanged(x):
        y, _ = ops.dropout(x, p, 1)
    make.check_kind(y, (200, 200), dtype)
    values = make.to_numpy(y)
    assert set(np.unique(values)) <= {0, np.asarray(1 / (1 - p), dtype)[()]} or np.allclose(
        np.unique(values), [0, 1 / (1 - p)], rtol=1e-6, atol=0
    )
    deviation = np.sqrt(p / (1 - p) / values.size)  # of the mean of so many kept-or-dropped entries
    assert abs(values.mean(dtype="float64") - 1) < 5 * deviation


def test_values_pass_through_the_mask(make: Any, dtype: str) -> None:
    values = draw(6, 5, dtype=dtype)
    y, _ = ops.dropout(make.array(values), 0.25, 3)
    kept = mask(make, 3, 0.25, (6, 5), dtype)
    make.check(y, values.astype("float64") * kept / 0.75, dtype)


def test_backward_uses_the_same_mask(make: Any, dtype: str) -> None:
    x, dy_values = make.array(np.ones((8, 9)), dtype), draw(8, 9, dtype=dtype)
    dy = make.array(dy_values)
    y, ctx = ops.dropout(x, 0.4, 5)
    with make.unchanged(x, y, dy, ctx):
        dx = ops.dropout.backward(ctx, dy)
    make.check(dx, dy_values.astype("float64") * make.to_numpy(y), dtype)


def test_mask_is_a_function_of_the_key(make: Any) -> None:
    first = mask(make, 1)
    np.testing.assert_array_equal(mask(make, 1), first)
    assert not np.array_equal(mask(make, 2), first)
    key = xpcnn.Key(1)
    np.testing.assert_array_equal(mask(make, key), first)
    folded = mask(make, key.fold("dropout1"))
    assert not np.array_equal(folded, first)
    assert not np.array_equal(mask(make, key.fold("dropout2")), folded)
    np.testing.assert_array_equal(mask(make, xpcnn.Key(1).fold("dropout1")), folded)


def test_neighbouring_keys_are_independent(make: Any) -> None:
    """Two fair masks agree on half of their entries, give or take five deviations."""
    masks = [mask(make, key, 0.5, (100, 100)) for key in range(4)]
    for i, first in enumerate(masks):
        for second in masks[i + 1 :]:
            assert abs((first == second).mean() - 0.5) < 5 * 0.5 / 100


def test_mask_has_no_pattern(make: Any) -> None:
    """Rows, columns and images all drop their share."""
    kept = mask(make, 7, 0.5, (20, 10, 20, 20))
    for axis in range(4):
        others = tuple(i for i in range(4) if i != axis)
        share = kept.mean(axis=others)
        assert np.abs(share - 0.5).max() < 6 * 0.5 / np.sqrt(kept.size / kept.shape[axis])


def test_no_other_random_numbers_are_touched(make: Any) -> None:
    np.random.seed(0)
    expected = np.random.random()
    np.random.seed(0)
    ops.dropout(make.array(np.ones((4, 4))), 0.5, 1)
    assert np.random.random() == expected


@pytest.mark.parametrize("p", [0, 0.0, 1, 1.0], ids=repr)
def test_all_or_nothing(make: Any, dtype: str, p: float) -> None:
    """p = 1 divides by no zero."""
    values, dy = draw(4, 5, dtype=dtype), draw(4, 5, dtype=dtype, seed=1)
    y, ctx = ops.dropout(make.array(values), p, 1)
    make.check(y, (1 - p) * values, dtype, rtol=0)
    make.check(ops.dropout.backward(ctx, make.array(dy)), (1 - p) * dy, dtype, rtol=0)


@pytest.mark.parametrize("shape", [(0, 3), (0, 3, 2, 2)], ids=str)
def test_empty_batch(make: Any, dtype: str, shape: tuple[int, ...]) -> None:
    x = make.array(np.zeros(shape), dtype)
    y, ctx = ops.dropout(x, 0.5, 1)
    make.check_kind(y, shape, dtype)
    make.check_kind(ops.dropout.backward(ctx, x), shape, dtype)


@pytest.mark.parametrize("layout", LAYOUTS.values(), ids=LAYOUTS.keys())
def test_mask_does_not_depend_on_the_layout(make: Any, layout: Any) -> None:
    x = layout(make, 1 + draw(2, 3, 4, 5) ** 2)
    y, _ = ops.dropout(x, 0.5, 9)
    plain, _ = ops.dropout(make.array(np.ascontiguousarray(make.to_numpy(x))), 0.5, 9)
    np.testing.assert_array_equal(make.to_numpy(y), make.to_numpy(plain))


def test_channels_last_stays() -> None:
    """Element-wise operations keep the layout of their input."""
    y, _ = ops.dropout(np.ones((2, 4, 5, 3)).transpose(0, 3, 1, 2), 0.5, 1)
    assert is_channels_last(y)


@pytest.mark.parametrize("p", [-0.1, 1.1, float("nan"), float("inf")], ids=str)
def test_bad_probability(make: Any, p: float) -> None:
    with pytest.raises(errors.ArgumentError, match=mentions("dropout", "p", str(p))):
        ops.dropout(make.array(np.ones(3)), p, 1)


def test_bad_arrays(make: Any) -> None:
    with pytest.raises(errors.DtypeError, match=mentions("dropout", "int64")):
        ops.dropout(make.array([1, 2], "int64"), 0.5, 1)
    _, ctx = ops.dropout(make.array(np.ones((2, 3))), 0.5, 1)
    with pytest.raises(errors.ShapeError, match=mentions("dropout.backward", "(3, 2)", "(2, 3)")):
        ops.dropout.backward(ctx, make.array(np.ones((3, 2))))
