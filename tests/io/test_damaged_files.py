"""Whatever happens to the bytes of a file, reading it gives arrays or a `CheckpointError`."""

from __future__ import annotations

from functools import cache
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from xpcnn import io
from xpcnn.errors import CheckpointError

every_ending = pytest.mark.parametrize("ending", [".safetensors", ".npz"])
fuzz = settings(max_examples=150, suppress_health_check=[HealthCheck.function_scoped_fixture])


@cache
def content(folder: Path, ending: str) -> bytes:
    path = folder / f"whole{ending}"
    arrays = {"a.weight": np.arange(12, dtype=np.float32).reshape(3, 4), "n": np.array(3), "e": np.empty(0)}
    io.save_arrays(path, arrays, {"recipe": '{"name": "x"}'})
    return path.read_bytes()


def read(folder: Path, ending: str, damaged: bytes) -> None:
    path = folder / f"damaged{ending}"
    path.write_bytes(damaged)
    try:
        arrays, metadata = io.load_arrays(path)
    except CheckpointError:
        return
    assert all(isinstance(array, np.ndarray) and array.dtype != object for array in arrays.values())
    assert all(isinstance(text, str) for item in metadata.items() for text in item)


@every_ending
@fuzz
@given(data=st.data())
def test_truncated(tmp_path: Path, ending: str, data: st.DataObject) -> None:
    whole = content(tmp_path, ending)
    read(tmp_path, ending, whole[: data.draw(st.integers(0, len(whole) - 1))])


@every_ending
@fuzz
@given(data=st.data())
def test_flipped_bytes(tmp_path: Path, ending: str, data: st.DataObject) -> None:
    damaged = bytearray(content(tmp_path, ending))
    # Most of the places where damage matters are in headers, at the beginning and at the end.
    end = len(damaged) - 1
    place = st.one_of(st.integers(0, end), st.integers(0, 140), st.integers(end - 300, end))
    for at in data.draw(st.lists(place, min_size=1, max_size=4)):
        damaged[at] = data.draw(st.integers(0, 255))
    read(tmp_path, ending, bytes(damaged))


@every_ending
@fuzz
@given(noise=st.binary(max_size=400), front=st.booleans())
def test_noise_before_or_after(tmp_path: Path, ending: str, noise: bytes, front: bool) -> None:
    whole = content(tmp_path, ending)
    read(tmp_path, ending, noise + whole if front else whole + noise)


@every_ending
@fuzz
@given(noise=st.binary(max_size=200))
def test_noise_alone(tmp_path: Path, ending: str, noise: bytes) -> None:
    read(tmp_path, ending, noise)
