"""Whatever happens to the bytes of a parameter file, load_params takes it or raises `CheckpointError`."""

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
from xpcnn.scratch.pickles import read_pickle
from xpcnn.scratch.simple_convnet import SimpleConvNet

KINDS = ["pickle 0", "pickle 2", "pickle 4", "pickle 5", "npz", "safetensors"]
every_kind = pytest.mark.parametrize("kind", KINDS)
fuzz = settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
CONV = {"filter_num": 1, "filter_size": 3, "pad": 0, "stride": 1}


def network() -> SimpleConvNet:
    return SimpleConvNet((1, 4, 4), CONV, hidden_size=2, output_size=2)


def file_of(folder: Path, kind: str) -> Path:
    return folder / f"params.{'safetensors' if kind == 'safetensors' else 'pkl'}"


@cache
def content(folder: Path, kind: str) -> bytes:
    path = file_of(folder, kind)
    if kind.startswith("pickle"):
        return pickle.dumps(network().params, int(kind[-1]))
    network().save_params(path)
    return path.read_bytes()


def load(folder: Path, kind: str, damaged: bytes) -> None:
    """Load a file; afterwards the network is whole, and as it was if the file was refused."""
    path, net = file_of(folder, kind), network()
    path.write_bytes(damaged)
    before = dict(net.params)
    try:
        net.load_params(path)
    except CheckpointError:
        assert all(net.params[key] is value for key, value in before.items())
    assert list(net.params) == list(before)
    for key, value in net.params.items():
        assert isinstance(value, np.ndarray)
        assert value.shape == before[key].shape
        assert value.dtype.kind in "fiu"
    if kind.startswith("pickle"):
        try:
            read_pickle(path)
        except CheckpointError:
            return


@every_kind
@fuzz
@given(data=st.data())
def test_truncated(tmp_path: Path, kind: str, data: st.DataObject) -> None:
    whole = content(tmp_path, kind)
    load(tmp_path, kind, whole[: data.draw(st.integers(0, len(whole) - 1))])


@every_kind
@fuzz
@given(data=st.data())
def test_changed_bytes(tmp_path: Path, kind: str, data: st.DataObject) -> None:
    damaged = bytearray(content(tmp_path, kind))
    end = len(damaged) - 1
    places = st.one_of(st.integers(0, end), st.integers(0, min(300, end)))
    for at in data.draw(st.lists(places, min_size=1, max_size=5)):
        damaged[at] = data.draw(st.integers(0, 255))
    load(tmp_path, kind, bytes(damaged))


@every_kind
@fuzz
@given(data=st.data())
def test_pieces_in_another_order(tmp_path: Path, kind: str, data: st.DataObject) -> None:
    whole = content(tmp_path, kind)
    cuts = sorted(data.draw(st.lists(st.integers(0, len(whole)), min_size=1, max_size=4)))
    pieces = [whole[a:b] for a, b in zip([0, *cuts], [*cuts, len(whole)], strict=True)]
    load(tmp_path, kind, b"".join(data.draw(st.permutations(pieces + pieces[:1]))))


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
    load(tmp_path, "pickle 4", b"\x80\x04" + b"".join(program) + b".")


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
