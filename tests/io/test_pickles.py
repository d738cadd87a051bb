"""Old pickles of data are read as they were written."""

from __future__ import annotations

import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from xpcnn.errors import CheckpointError
from xpcnn.io.pickles import read_pickle


def draw(*shape: int, dtype: str = "float64") -> np.ndarray:
    return np.random.default_rng(shape).standard_normal(shape).astype(dtype)


VALUES: dict[str, Any] = {
    "float16": draw(3, 2, dtype="float16"),
    "big-endian": draw(3, 2).astype(">f4"),
    "Fortran order": np.asfortranarray(draw(3, 2)),
    "transposed": draw(2, 3, 4).transpose(1, 0, 2),
    "a slice": draw(6, 4)[::2, 1:],
    "0-d": np.array(3.5),
    "empty": np.empty((0, 3)),
    "integers": np.arange(5),
    "bytes": np.arange(5, dtype=np.uint8),
    "bool": np.array([True, False]),
    "a NumPy number": np.float32(1.5),
    "numbers and text": [1, -(2**70), 2.5, True, "é", {"a": (1, 2, 3, "b")}, [], {}, ()],
}


@pytest.mark.parametrize("value", VALUES.values(), ids=VALUES.keys())
@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
def test_everything_that_is_data_is_read(tmp_path: Path, protocol: int, value: Any) -> None:
    path = tmp_path / "data.pkl"
    path.write_bytes(pickle.dumps({"key": value, "again": value}, protocol))
    found = read_pickle(path)
    assert list(found) == ["key", "again"]
    for item in found.values():
        np.testing.assert_equal(item, value)
        assert type(item) is type(value)
        if isinstance(value, np.ndarray):
            assert item.dtype == value.dtype.newbyteorder("=")
            assert item.flags.writeable
            assert found["key"] is found["again"]


PYTHON_2 = (
    b"\x80\x02}q\x00U\x02W1q\x01cnumpy.core.multiarray\n_reconstruct\nq\x02cnumpy\nndarray\nq\x03K\x00\x85U\x01b\x87R"
    b"(K\x01K\x02\x85cnumpy\ndtype\nq\x04U\x02f4K\x00K\x01\x87R(K\x03U\x01<NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK\x00tb"
    b"\x89U\x08\x00\x00\x80?\x00\x00 \xc0tbs."
)


def test_a_pickle_of_python_2(tmp_path: Path) -> None:
    """Its bytes are text, which the machine takes for Latin-1."""
    (tmp_path / "params.pkl").write_bytes(PYTHON_2)
    found = read_pickle(tmp_path / "params.pkl")
    np.testing.assert_array_equal(found["W1"], np.array([1.0, -2.5], dtype=np.float32))


def test_a_folder_is_no_pickle(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="cannot be read"):
        read_pickle(tmp_path)
