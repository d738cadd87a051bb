"""Dropout and the generator of ``random.cu``, against published vectors and a generator in plain Python."""

from __future__ import annotations

import ctypes
import math
import subprocess
from typing import Any

import numpy as np
import pytest

import xpcnn
from tests.support.cuda import LAYOUTS, Array, Target, draw, is_channels_last
from tests.support.cuda_emulator import SHIM, compiler
from xpcnn import ops
from xpcnn.backend.cuda import random

Words = tuple[int, ...]

# Lines "philox4x32 10" of kat_vectors in Random123 (D. E. Shaw Research): counter, key, result.
PUBLISHED: dict[tuple[Words, Words], Words] = {
    ((0, 0, 0, 0), (0, 0)): (0x6627E8D5, 0xE169C58D, 0xBC57AC4C, 0x9B00DBD8),
    ((0xFFFFFFFF,) * 4, (0xFFFFFFFF,) * 2): (0x408F276D, 0x41C83B0E, 0xA20BC7C6, 0x6D5451FD),
    ((0x243F6A88, 0x85A308D3, 0x13198A2E, 0x03707344), (0xA4093822, 0x299F31D0)): (
        *(0xD16CFE09, 0x94FDCCEB, 0x5001E420, 0x24126EA1),
    ),
}
published = pytest.mark.parametrize(("given", "result"), [*PUBLISHED.items()], ids=["zeros", "ones", "pi"])


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
    low, high = place % (1 << 32), place >> 32
    return philox((low, high, 0, 0), (seed % (1 << 32), seed >> 32))[0]


@published
def test_the_plain_generator(given: tuple[Words, Words], result: Words) -> None:
    assert philox(*given) == result


@pytest.fixture(scope="module")
def compiled(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """The generator of the kernels, as a function of the host."""
    if compiler() is None:
        pytest.skip("no C++ compiler")
    directory = tmp_path_factory.mktemp("philox")
    source, library = directory / "philox.cpp", directory / "philox.so"
    function = "void block(unsigned (&words)[4], unsigned low, unsigned high) { philox(words, {low, high}); }"
    text = f'#include "device.h"\n{random.FAMILY.source()}\nextern "C" {function}\n'
    source.write_text(text, "utf-8")
    command = [compiler() or "", "-std=c++17", "-shared", "-fPIC", f"-I{SHIM}", "-o", library, source]
    subprocess.run(command, check=True)
    return ctypes.CDLL(str(library)).block


@published
def test_the_generator_of_the_kernels(compiled: Any, given: tuple[Words, Words], result: Words) -> None:
    words = (ctypes.c_uint * 4)(*given[0])
    compiled(words, *map(ctypes.c_uint, given[1]))
    assert tuple(words) == result


def dropped(target: Target, x: Any, p: float, key: Any = 1) -> tuple[Array, Array]:
    """y and the mask on the host."""
    y, mask = target.kernel("drop")(x, p, xpcnn.Key.of(key))
    for made in (y, mask):
        assert xpcnn.backend_of(made).name == target.backend
        assert str(made.dtype) == target.dtype
        assert made.shape == x.shape
    return target.wide(y), target.wide(mask)


@pytest.mark.parametrize("p", [0.1, 0.5, 0.75], ids=str)
@pytest.mark.parametrize("shape", [(7,), (3, 5), (2, 3, 4, 5)], ids=str)
def test_every_element(target: Target, shape: tuple[int, ...], p: float) -> None:
    key = xpcnn.Key(3).fold("layer")
    y, mask = dropped(target, target.array(draw(*shape)), p, key)
    kept = np.reshape([word(i, key.seed64) >= p * 2**32 for i in range(math.prod(shape))], shape)
    scale = target.wide(target.array([1 / (1 - p)]))[0]
    np.testing.assert_array_equal(mask, np.where(kept, scale, 0))
    x = target.wide(target.array(draw(*shape)))
    np.testing.assert_array_equal(y, target.wide(target.array(x * mask)))


def test_the_bound_itself_is_kept(target: Target) -> None:
    """p is compared with all 32 bits, whatever the dtype holds."""
    key = xpcnn.Key(0)
    first = word(0, key.seed64)
    x = target.array([1.0])
    assert dropped(target, x, first / 2**32, key)[1] > 0
    assert dropped(target, x, (first + 1) / 2**32, key)[1] == 0
    assert dropped(target, x, (first + 0.5) / 2**32, key)[1] == 0


@pytest.mark.parametrize("p", [0.001, 0.3, 0.9], ids=str)
def test_the_share_that_is_kept(target: Target, p: float) -> None:
    """Within five deviations, over all and over each row and column."""
    _, mask = dropped(target, target.array(np.ones((300, 200))), p, 5)
    kept = mask != 0
    for share, count in ((kept.mean(), 60000), (kept.mean(axis=0), 300), (kept.mean(axis=1), 200)):
        assert np.abs(share - (1 - p)).max() < 5.5 * math.sqrt(p * (1 - p) / count) + 1 / count


def test_words_are_even(target: Target) -> None:
    """All of sixteen equal ranges are met equally often: chi-squared below its 99.9% point of 37.7."""
    x, key = target.array(np.ones(20000)), xpcnn.Key(11)
    below = [int((dropped(target, x, step / 16, key)[1] == 0).sum()) for step in range(17)]
    counts = np.diff(below)
    assert counts.sum() == 20000
    assert ((counts - 1250) ** 2 / 1250).sum() < 37.7


@pytest.mark.parametrize("p", [0, 0.0, 1, 1.0], ids=repr)
def test_all_or_nothing(target: Target, p: float) -> None:
    values = draw(5, 7)
    y, mask = dropped(target, target.array(values), p)
    np.testing.assert_array_equal(mask, np.full((5, 7), 1.0 - p))
    np.testing.assert_array_equal(y, target.wide(target.array(values)) * (1.0 - p))


@pytest.mark.parametrize("layout", [*LAYOUTS.values()], ids=[*LAYOUTS])
def test_any_memory_layout(target: Target, layout: Any) -> None:
    x = layout(target, 1 + draw(3, 4, 3, 5) ** 2)
    y, mask = dropped(target, x, 0.4)
    plain_y, plain_mask = dropped(target, target.array(np.ascontiguousarray(target.wide(x))), 0.4)
    np.testing.assert_array_equal(mask, plain_mask)
    np.testing.assert_array_equal(y, plain_y)


def test_channels_last_stays(target: Target) -> None:
    y, mask = target.kernel("drop")(LAYOUTS["channels-last"](target, draw(2, 3, 4, 5)), 0.5, xpcnn.Key(1))
    assert is_channels_last(y)
    assert is_channels_last(mask)


def test_shapes_of_many_axes(target: Target) -> None:
    """Those that are one run of memory are served whatever their number, others are left."""
    values = draw(2, 3, 2, 2, 3, 2)
    _, mask = dropped(target, target.array(values), 0.5)
    flat = dropped(target, target.array(values.ravel()), 0.5)[1]
    np.testing.assert_array_equal(mask.ravel(), flat)
    mixed = target.array(values).transpose(1, 3, 0, 5, 2, 4)
    assert target.kernel("drop")(mixed, 0.5, xpcnn.Key(1)) is NotImplemented
    assert target.kernel("drop")(target.array(np.zeros((0, 3))), 0.5, xpcnn.Key(1)) is NotImplemented
    assert target.kernel("drop")(target.array([1, 2], dtype="int32"), 0.5, xpcnn.Key(1)) is NotImplemented


def test_a_number_without_axes(target: Target) -> None:
    assert dropped(target, target.array(3.0), 0.0)[0] == 3


def test_what_is_no_number_is_not_hidden(target: Target) -> None:
    """As the portable x · mask, which gives NaN for infinity times 0."""
    x = target.array(np.full(40, np.inf))
    y, mask = dropped(target, x, 0.5)
    assert np.isnan(y[mask == 0]).all()
    assert np.isinf(y[mask != 0]).all()


def test_keys_are_independent(target: Target) -> None:
    x = target.array(np.ones((50, 50)))
    masks = [dropped(target, x, 0.5, key)[1] for key in range(3)]
    np.testing.assert_array_equal(dropped(target, x, 0.5, xpcnn.Key(0))[1], masks[0])
    for i, first in enumerate(masks):
        for second in masks[i + 1 :]:
            assert abs((first == second).mean() - 0.5) < 5 * 0.5 / 50


def test_64_bit_places(target: Target, monkeypatch: pytest.MonkeyPatch) -> None:
    """The kernel for more than 2³¹ elements gives the same mask."""
    x = LAYOUTS["channels-last"](target, draw(2, 3, 4, 5))
    expected = dropped(target, x, 0.5)
    monkeypatch.setattr(random, "index_type", lambda count: "long long")
    for got, wanted in zip(dropped(target, x, 0.5), expected, strict=True):
        np.testing.assert_array_equal(got, wanted)


def test_the_op_takes_the_kernel(target: Target, monkeypatch: pytest.MonkeyPatch) -> None:
    x = target.array(draw(6, 7))
    _, mask = dropped(target, x, 0.25, 3)
    with xpcnn.use_backend(target.backend) as backend:
        monkeypatch.setattr(backend, "kernels", random.KERNELS)
        y, ctx = ops.dropout(x, 0.25, 3)
        dx = ops.dropout.backward(ctx, x)
    np.testing.assert_array_equal(target.wide(ctx.mask), mask)
    np.testing.assert_array_equal(target.wide(dx), target.wide(y))
