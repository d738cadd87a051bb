"""Whatever happens to the bytes of a pickle, `read_pickle` gives plain data or raises `CheckpointError`."""

from __future__ import annotations

import pickle
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from xpcnn.errors import CheckpointError
from xpcnn.io.pickles import read_pickle

every_protocol = pytest.mark.parametrize("protocol", [0, 2, 4, 5])
fuzz = settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])


@cache
def content(protocol: int) -> bytes:
    arrays = {"W1": np.ones((1, 1, 3, 3)), "b1": np.zeros(1, "float32"), "W2": np.arange(8).reshape(4, 2)}
    return pickle.dumps(arrays, protocol)


def read(folder: Path, damaged: bytes) -> None:
    """Whatever is read is plain data; all else is a `CheckpointError`."""
    path = folder / "params.pkl"
    path.write_bytes(damaged)
    try:
        found = read_pickle(path)
    except CheckpointError:
        return
    waiting = [found]
    for value in waiting:
        if len(waiting) > 10_000:  # a list in itself, or many times over
            return
        assert isinstance(value, bool | int | float | str | list | tuple | dict | np.ndarray | np.generic)
        if isinstance(value, np.ndarray):
            assert value.dtype.kind in "fiub"
        elif isinstance(value, list | tuple | dict):
            waiting += value.values() if isinstance(value, dict) else value


@every_protocol
@fuzz
@given(data=st.data())
def test_truncated(tmp_path: Path, protocol: int, data: st.DataObject) -> None:
    whole = content(protocol)
    read(tmp_path, whole[: data.draw(st.integers(0, len(whole) - 1))])


@every_protocol
@fuzz
@given(data=st.data())
def test_changed_bytes(tmp_path: Path, protocol: int, data: st.DataObject) -> None:
    damaged = bytearray(content(protocol))
    end = len(damaged) - 1
    places = st.one_of(st.integers(0, end), st.integers(0, min(300, end)))
    for at in data.draw(st.lists(places, min_size=1, max_size=5)):
        damaged[at] = data.draw(st.integers(0, 255))
    read(tmp_path, bytes(damaged))


@every_protocol
@fuzz
@given(data=st.data())
def test_pieces_in_another_order(tmp_path: Path, protocol: int, data: st.DataObject) -> None:
    whole = content(protocol)
    cuts = sorted(data.draw(st.lists(st.integers(0, len(whole)), min_size=1, max_size=4)))
    pieces = [whole[a:b] for a, b in zip([0, *cuts], [*cuts, len(whole)], strict=True)]
    read(tmp_path, b"".join(data.draw(st.permutations(pieces + pieces[:1]))))


OPCODES = [
    bytes([code])
    for code in range(256)
    if code in b"().0123FNSTUVXab}dc]lpqrtuehijRsIJKLMGBC\x80" or code >= 0x80
]
ARGUMENTS = [
    b"numpy\n",
    b"ndarray\n",
    b"\x01\x00\x00\x00",
    b"\x00",
    b"\xff" * 4,
    b"f8\n",
    b"5\n",
    b"K\x01",
    b"\x03abc",
]
PIECES = [
    b"cnumpy.core.multiarray\n_reconstruct\n",
    b"cnumpy\nndarray\n",
    b"cnumpy\ndtype\n",
    b"c_codecs\nencode\n",
    b"cbuiltins\nbytearray\n",
    b"cposix\nsystem\n",
    b"\x8c\x02f8\x89\x88\x87R",
    b"K\x00\x85C\x01b\x87R",
    b"(K\x01K\x01\x85",
    b"\x89C\x08\x00\x00\x00\x00\x00\x00\x00\x00tb",
    b"(K\x03\x8c\x01|NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK\x00tb",
]


@settings(fuzz, max_examples=300)
@given(program=st.lists(st.sampled_from(OPCODES + ARGUMENTS + PIECES * 4), max_size=60))
def test_programs_at_random(tmp_path: Path, program: list[bytes]) -> None:
    """Made of whole instructions, of which bytes at random hold few."""
    read(tmp_path, b"\x80\x04" + b"".join(program) + b".")


def plain(depth: int) -> st.SearchStrategy[Any]:
    leaves = st.one_of(
        st.integers(),
        st.floats(allow_nan=False),
        st.text(max_size=5),
        st.booleans(),
        st.integers(0, 3).map(np.zeros),
    )
    return st.recursive(
        leaves,
        lambda inner: st.one_of(
            st.lists(inner, max_size=4),
            st.lists(inner, max_size=4).map(tuple),
            st.dictionaries(st.text(max_size=5), inner, max_size=4),
        ),
        max_leaves=depth,
    )


@settings(fuzz, max_examples=80)
@given(value=plain(12), protocol=st.integers(0, pickle.HIGHEST_PROTOCOL))
def test_all_plain_data_is_read_as_it_was(tmp_path: Path, value: Any, protocol: int) -> None:
    path = tmp_path / "data.pkl"
    path.write_bytes(pickle.dumps(value, protocol))
    found = read_pickle(path)
    np.testing.assert_equal(found, value)
    assert type(found) is type(value)
