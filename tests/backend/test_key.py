"""Keys: immutable, folded in order, the same everywhere."""

from __future__ import annotations

import copy
import pickle
from collections.abc import Callable

import numpy as np
import pytest

from xpcnn import Key, errors
from xpcnn.backend import host_generator

KEY = Key(0).fold("step").fold(3)


def test_pinned() -> None:
    """A resumed run draws what it would have drawn, with the next version too: these may not change."""
    assert repr(Key(0)) == "Key(707b42ff18fdab965211b498806dd46e)"
    assert repr(KEY) == "Key(df8a8f6c3a0038f59b541cab3b9ad81e)"
    assert Key(0).seed64 == 5428524805255151032


def test_equality() -> None:
    """Order and grouping matter; NumPy's integers are integers; folding and drawing change nothing."""
    key = Key(0)
    assert key.fold("step").fold(3) == KEY
    assert hash(key.fold("step").fold(3)) == hash(KEY)
    assert key != 0
    assert Key(np.int64(5)).fold(np.int32(2)) == Key(5).fold(2)
    different = [
        *(key, Key(1), Key(-1), Key(2**64), key.fold("a").fold("b"), key.fold("b").fold("a"), key.fold("ab")),
        *(key.fold("a"), key.fold("ab").fold("c"), key.fold("a").fold("bc"), key.fold(""), key.fold(0)),
        *(key.fold("").fold(""), key.fold("0"), key.fold(1), key.fold(-1), key.fold(11), key.fold("é")),
        key.fold(1).fold(1),
    ]
    assert len({*different, Key(0)}) == len(different)
    assert len({key.seed64 for key in different}) == len(different)
    assert len({key.generator().random() for key in different}) == len(different)
    assert repr(key) == repr(Key(0))


@pytest.mark.parametrize("seed", [True, 1.0, "1", None, b"1", [1]], ids=repr)
def test_bad_seed(seed: object) -> None:
    with pytest.raises(errors.ArgumentError, match="Key: seed must be an integer"):
        Key(seed)


def test_immutable() -> None:
    key = Key(0)
    with pytest.raises(AttributeError, match=r"key\.fold"):
        key._state = b""
    with pytest.raises(AttributeError):
        key.other = 1


@pytest.mark.parametrize("copied", [copy.copy, copy.deepcopy, lambda key: pickle.loads(pickle.dumps(key))])
def test_copies(copied: Callable[[Key], Key]) -> None:
    assert copied(KEY) == KEY
    assert copied(KEY).fold(1).generator().random() == KEY.fold(1).generator().random()


def test_of_and_fresh() -> None:
    assert Key.of(KEY) is KEY
    assert Key.of(3) == Key(3)
    assert Key.fresh() != Key.fresh()


def test_folded_numbers_look_random() -> None:
    """Steps 0, 1, 2, … of one key are as good as independent."""
    n = 2000
    values = np.asarray([KEY.fold(i).generator().random() for i in range(n)])
    assert abs(values.mean() - 0.5) < 5 / np.sqrt(12 * n)
    assert abs(np.corrcoef(values[1:], values[:-1])[0, 1]) < 5 / np.sqrt(n)
    assert all(0 <= KEY.fold(i).seed64 < 2**63 for i in range(n))
    bits = np.asarray([[KEY.fold(i).seed64 >> b & 1 for b in range(63)] for i in range(n)])
    assert np.abs(bits.mean(axis=0) - 0.5).max() < 5 * 0.5 / np.sqrt(n)


def test_host_generator() -> None:
    assert host_generator(3).random() == host_generator(3).random() == np.random.default_rng(3).random()
    assert host_generator(None).random() != host_generator(None).random()
    rng = np.random.default_rng(0)
    assert host_generator(rng) is rng
