"""Dropout: a pure function of its input and its key, by every implementation; the generator of CUDA."""

from __future__ import annotations

import ctypes
import math
from typing import Any

import numpy as np
import pytest

import xpcnn
from tests.support.cuda_emulator import build, compiler
from tests.support.implementations import Implementation
from tests.support.ops import ALL_LAYOUTS, channels_last, draw, is_channels_last, mentions
from xpcnn import errors, ops
from xpcnn.backend.cuda import random
from xpcnn.ops.dropout import drop


def mask(i: Any, key: Any, p: float = 0.5, shape: tuple[int, ...] = (16, 16)) -> np.ndarray[Any, Any]:
    """Which entries survive."""
    y, _ = ops.dropout(i.array(np.ones(shape)), p, key)
    return i.to_numpy(y) != 0


@pytest.mark.parametrize("p", [0.001, 0.1, 0.5, 0.9], ids=str)
def test_survivors_are_scaled_and_the_mean_kept(implementation: Implementation, p: float) -> None:
    """Over all and over each row and column, within five and a half deviations."""
    i, x = implementation, implementation.array(np.ones((300, 200)))
    with i.unchanged(x):
        y, _ = ops.dropout(x, p, 5)
    i.check_kind(y, (300, 200), i.dtype_name)
    i.ran("drop", cpu=False)
    kept = i.to_numpy(y) != 0
    scale = i.values(i.array([1 / (1 - p)]))
    np.testing.assert_allclose(i.values(y)[kept], np.broadcast_to(scale, kept.sum()), rtol=1e-6)
    for part, count in ((kept.mean(), 60000), (kept.mean(axis=0), 300), (kept.mean(axis=1), 200)):
        assert np.abs(part - (1 - p)).max() < 5.5 * math.sqrt(p * (1 - p) / count) + 1 / count


def test_values_and_gradients_pass_through_one_mask(implementation: Implementation) -> None:
    i, x, dy = implementation, implementation.array(draw(6, 5)), implementation.array(draw(6, 5, seed=1))
    with i.unchanged(x):
        y, ctx = ops.dropout(x, 0.25, 3)
    kept = mask(i, 3, 0.25, (6, 5))
    scale = i.values(i.array([1 / 0.75]))
    i.check(y, i.values(x) * kept * scale)
    with i.unchanged(x, y, dy, ctx):
        dx = ops.dropout.backward(ctx, dy)
    i.check(dx, i.values(dy) * i.values(ctx.mask))


def test_masks_are_functions_of_the_key(implementation: Implementation) -> None:
    i, key = implementation, xpcnn.Key(1)
    np.testing.assert_array_equal(mask(i, 1), mask(i, key))
    folded = mask(i, key.fold("dropout1"))
    assert not np.array_equal(folded, mask(i, key))
    assert not np.array_equal(mask(i, key.fold("dropout2")), folded)
    np.testing.assert_array_equal(mask(i, xpcnn.Key(1).fold("dropout1")), folded)
    masks = [mask(i, key, 0.5, (100, 100)) for key in range(4)]
    for number, first in enumerate(masks):
        for second in masks[number + 1 :]:  # two fair masks agree on half, within five deviations
            assert abs((first == second).mean() - 0.5) < 5 * 0.5 / 100
    kept = mask(i, 7, 0.5, (20, 10, 20, 20))  # and no axis has a pattern
    for axis in range(4):
        part = kept.mean(axis=tuple(other for other in range(4) if other != axis))
        assert np.abs(part - 0.5).max() < 6 * 0.5 / np.sqrt(kept.size / kept.shape[axis])


def test_no_other_random_numbers_are_touched(make: Any) -> None:
    np.random.seed(0)
    expected = np.random.random()
    np.random.seed(0)
    ops.dropout(make.array(np.ones((4, 4))), 0.5, 1)
    assert np.random.random() == expected


@pytest.mark.parametrize("p", [0, 1, 1.0], ids=repr)
def test_all_or_nothing(implementation: Implementation, p: float) -> None:
    """p = 1 divides by no zero."""
    i, x, dy = implementation, implementation.array(draw(4, 5)), implementation.array(draw(4, 5, seed=1))
    y, ctx = ops.dropout(x, p, 1)
    i.check(y, (1 - p) * i.values(x), rtol=0)
    i.check(ops.dropout.backward(ctx, dy), (1 - p) * i.values(dy), rtol=0)


@pytest.mark.parametrize("shape", [(0, 3, 2, 2), (), (2, 3, 2, 2, 3, 2)], ids=str)
def test_shapes(implementation: Implementation, shape: tuple[int, ...]) -> None:
    i, x = implementation, implementation.array(np.ones(shape))
    y, ctx = ops.dropout(x, 0.5, 1)
    i.check_kind(y, shape, i.dtype_name)
    i.check_kind(ops.dropout.backward(ctx, x), shape, i.dtype_name)
    i.ran("drop", cpu=False, cuda=0 not in shape)
    if len(shape) > 4:
        flat = ops.dropout(i.array(np.ones(math.prod(shape))), 0.5, 1)[0]
        np.testing.assert_array_equal(i.to_numpy(y).ravel(), i.to_numpy(flat))


@pytest.mark.parametrize("layout", ALL_LAYOUTS.values(), ids=ALL_LAYOUTS.keys())
def test_masks_do_not_depend_on_the_layout(implementation: Implementation, layout: Any) -> None:
    i, x = implementation, layout(implementation, 1 + draw(2, 3, 4, 5) ** 2)
    y, ctx = ops.dropout(x, 0.5, 9)
    plain, plain_ctx = ops.dropout(i.array(np.ascontiguousarray(i.to_numpy(x))), 0.5, 9)
    np.testing.assert_array_equal(i.to_numpy(y), i.to_numpy(plain))
    np.testing.assert_array_equal(i.to_numpy(ctx.mask), i.to_numpy(plain_ctx.mask))
    assert layout is not channels_last or (is_channels_last(y) and is_channels_last(ctx.mask))


def test_errors(make: Any) -> None:
    x = make.array(np.ones((2, 3)))
    for p in (-0.1, 1.1, float("nan"), float("inf")):
        with pytest.raises(errors.ArgumentError, match=mentions("dropout", "p", str(p))):
            ops.dropout(x, p, 1)


# CUDA's generator ---------------------------------------------------------------------------------------

Words = tuple[int, ...]

# Lines "philox4x32 10" of kat_vectors in Random123 (D. E. Shaw Research): counter, key, result.
PUBLISHED: dict[tuple[Words, Words], Words] = {
    ((0, 0, 0, 0), (0, 0)): (0x6627E8D5, 0xE169C58D, 0xBC57AC4C, 0x9B00DBD8),
    ((0xFFFFFFFF,) * 4, (0xFFFFFFFF,) * 2): (0x408F276D, 0x41C83B0E, 0xA20BC7C6, 0x6D5451FD),
    ((0x243F6A88, 0x85A308D3, 0x13198A2E, 0x03707344), (0xA4093822, 0x299F31D0)): (
        *(0xD16CFE09, 0x94FDCCEB, 0x5001E420, 0x24126EA1),
    ),
}


def philox(counter: Words, key: Words) -> Words:
    """Philox4x32-10 in Python's integers, as its article defines it."""
    c0, c1, c2, c3 = counter
    k0, k1 = key
    for _ in range(10):
        high0, low0 = divmod(0xD2511F53 * c0, 1 << 32)
        high1, low1 = divmod(0xCD9E8D57 * c2, 1 << 32)
        c0, c1, c2, c3 = high1 ^ c1 ^ k0, low1, high0 ^ c3 ^ k1, low0
        k0, k1 = (k0 + 0x9E3779B9) % (1 << 32), (k1 + 0xBB67AE85) % (1 << 32)
    return c0, c1, c2, c3


def word(place: int, seed: int) -> int:
    """What is drawn for the element at a place in C order."""
    return philox((place % (1 << 32), place >> 32, 0, 0), (seed % (1 << 32), seed >> 32))[0]


@pytest.mark.skipif(compiler() is None, reason="no C++ compiler")
def test_published_vectors(tmp_path: Any) -> None:
    function = "void block(unsigned (&words)[4], unsigned low, unsigned high) { philox(words, {low, high}); }"
    text = f'#include "device.h"\n{random.FAMILY.source()}\nextern "C" {function}\n'
    build(text, tmp_path / "philox.so")
    block = ctypes.CDLL(str(tmp_path / "philox.so")).block
    for (counter, key), result in PUBLISHED.items():
        assert philox(counter, key) == result
        words = (ctypes.c_uint * 4)(*counter)
        block(words, *map(ctypes.c_uint, key))
        assert tuple(words) == result


@pytest.mark.parametrize("p", [0.1, 0.75], ids=str)
def test_every_element(cuda: Implementation, p: float) -> None:
    i, key, shape = cuda, xpcnn.Key(3).fold("layer"), (2, 3, 4, 5)
    x = i.array(draw(*shape))
    y, found = drop(x, p, key)
    kept = np.reshape([word(k, key.seed64) >= p * 2**32 for k in range(math.prod(shape))], shape)
    i.check(found, np.where(kept, i.values(i.array([1 / (1 - p)])), 0), rtol=0)
    product = i.values(x).astype(i.wide) * i.values(found).astype(i.wide)
    np.testing.assert_array_equal(i.values(y), i.values(i.array(product)))
    infinite = i.array(np.full(40, np.inf))  # as x · mask gives: NaN, not a hidden 0
    y, found = drop(infinite, 0.5, key)
    np.testing.assert_array_equal(np.isnan(i.values(y)), i.values(found) == 0)


def test_the_bound_itself_is_kept(cuda: Implementation) -> None:
    """p is compared with all 32 bits, whatever the dtype holds; all ranges are met equally often."""
    i, key = cuda, xpcnn.Key(0)
    first = word(0, key.seed64)
    for bound, is_kept in ((first, True), (first + 0.5, False), (first + 1, False)):
        assert (i.values(drop(i.array([1.0]), bound / 2**32, key)[1])[0] > 0) == is_kept
    x = i.array(np.ones(20000))
    below = [int((i.values(drop(x, step / 16, xpcnn.Key(11))[1]) == 0).sum()) for step in range(17)]
    assert ((np.diff(below) - 1250) ** 2 / 1250).sum() < 37.7  # chi-squared, its 99.9% point


def test_many_axes_are_left_to_the_definition(cuda: Implementation) -> None:
    values = cuda.array(draw(2, 3, 2, 2, 3, 2))
    drop(values.transpose(1, 3, 0, 5, 2, 4), 0.5, xpcnn.Key(1))
    cuda.ran("drop", cuda=False)
