"""What a file says does not decide how much memory reading it takes."""

from __future__ import annotations

import json
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.support.files import MIB, add_entries, at_most_mib, every_ending, npy
from xpcnn import io, models, nn
from xpcnn.errors import CheckpointError
from xpcnn.train import load_model


def described(path: Path, name: str = "tiny_convnet", **fields: Any) -> None:
    """Write a file of 24 numbers that describes another model."""
    recipe = {"name": name, "arguments": {}, "mean": 0.5, "std": 1.0, **fields}
    io.save_arrays(path, {"w": np.zeros((4, 6), np.float32)}, {"recipe": json.dumps(recipe)})


HUGE: dict[str, tuple[dict[str, Any], ...]] = {
    "tiny_convnet": ({"classes": 10**9}, {"filters": 10**9}, {"input_shape": [1, 10**6, 10**6]}, {}),
    "simple_convnet": ({"hidden": 10**9}, {"filters": 10**9}, {"classes": 10**9}),
    "deep_convnet": ({"filters": [10**9, 1, 1]}, {"hidden": 10**9}, {"classes": 2**31 - 1}),
    "lenet5": ({"classes": 10**9},),
    "alexnet": ({"in_channels": 10**9}, {"classes": 10**9}),
    "vgg19_bn": ({}, {"classes": 10**9}),
    "googlenet": ({"in_channels": 10**9}, {"aux": True}),
    "resnet152": ({}, {"classes": 10**9}),
    "resnet110": ({"in_channels": 10**9},),
}


@pytest.mark.parametrize("name", HUGE)
def test_a_small_file_that_describes_a_large_model(tmp_path: Path, name: str) -> None:
    refused = pytest.raises(CheckpointError, match=r"w\.safetensors: .*(more than|be at most)")
    for arguments in HUGE[name]:
        described(tmp_path / "w.safetensors", name, arguments=arguments)
        with at_most_mib(16), refused:
            load_model(tmp_path / "w.safetensors")


def test_many_layers_of_few_weights(tmp_path: Path) -> None:
    layer = {"type": "Linear", "arguments": {"in_features": 4000, "out_features": 4000}}
    structure = {"type": "Sequential", "children": {str(i): layer for i in range(100)}}
    spec = {"spec": json.dumps({"structure": structure})}
    io.save_arrays(tmp_path / "w.npz", {"w": np.zeros(24, np.float64)}, spec)
    with at_most_mib(16), pytest.raises(CheckpointError, match="1,600,400,000 weights, more than the 10,024"):
        load_model(tmp_path / "w.npz")


def test_ensembles_of_ensembles(tmp_path: Path) -> None:
    member = nn.Ensemble(models.tiny_convnet(seed=3))
    for _ in range(4):
        member = nn.Ensemble(member)
    member.save(tmp_path / "w.npz")
    assert load_model(tmp_path / "w.npz").state_dict().keys() == member.state_dict().keys()


ODD: dict[str, dict[str, Any]] = {
    "mean must be from -1000000 to 1000000, got 1e+300": {"mean": 1e300},
    "std must be from 1e-06 to 1000000, got 1e-320": {"std": 1e-320},
    "input_shape: images of 1x50000x50000 are too large": {"input_shape": [1, 50_000, 50_000]},
    "input_shape: images of 3x2147483647x": {"input_shape": [3, 2**31 - 1, 2**31 - 1]},
    "mean must be a finite number, got ()": {"mean": []},
    "one for each of 3 channels": {"name": "resnet20", "mean": [0] * 4},
    "or a list, got '0'": {"mean": "0"},
    "std: expected a number or a list, got a list of 2": {"std": [1, "1"]},
    "std must be from 1e-06 to 1000000, got -1": {"std": [1, -1]},
    "dtype must be float16, bfloat16, float32": {"arguments": {"dtype": "int8"}},
    "seed must be ": {"arguments": {"seed": -1}},
    "arguments: expected a mapping, got a list": {"arguments": []},
    "input_shape[0]: expected a whole number": {"input_shape": ["1", 2, 3]},
    "input_shape[1]: expected a whole number": {"input_shape": [1, 2**40, 3]},
    "preparation: expected text, got 3": {"preparation": 3},
    "name: expected text, got 3": {"name": 3},
    "has the unknown entry 'more'": {"more": 1},
}


@pytest.mark.parametrize("message", ODD)
def test_descriptions_that_say_something_else(tmp_path: Path, message: str) -> None:
    path = tmp_path / "w.npz"
    described(path, **ODD[message])
    with pytest.raises(CheckpointError) as caught:
        load_model(path)
    assert str(caught.value).startswith(f"{path}: ")
    assert message in str(caught.value)


@pytest.mark.parametrize("recipe", ["nonsense", "[]", "{}"])
def test_descriptions_that_are_none(tmp_path: Path, recipe: str) -> None:
    io.save_arrays(tmp_path / "w.npz", {}, {"recipe": recipe})
    with pytest.raises(CheckpointError, match="the model's description is unreadable"):
        load_model(tmp_path / "w.npz")


@pytest.mark.slow
def test_an_archive_that_becomes_a_thousand_times_its_size(tmp_path: Path) -> None:
    """None of its entries is too large, all together are; compressed zeros are read."""
    path, zeros = tmp_path / "w.npz", npy("<f4", (25 << 20,), bytes(100 << 20))
    add_entries(path, a=zeros)
    assert io.load_arrays(path)[0]["a"].shape == (25 << 20,)
    add_entries(path, wanted=npy("<f4", (1,), bytes(4)), b=zeros, c=zeros)
    assert path.stat().st_size < MIB
    with at_most_mib(4), pytest.raises(CheckpointError, match="more than 100 times as many"):
        io.load_arrays(path)


LYING = {
    "more than there is": npy("<f4", (1 << 40,), bytes(8)),
    "less than there is": npy("<f4", (1,), bytes(8)),
    "0 x huge": npy("<f4", (0, 1 << 62, 1 << 62)),
    "negative": npy("<f4", (-1, -2), bytes(8)),
    "no whole number": npy("<f4", (1.5,), bytes(8)),
    "another format": b"\x93NUMPY\x09\x00" + bytes(200),
    "a long header": b"\x93NUMPY\x02\x00" + (1 << 25).to_bytes(4, "little") + bytes(1 << 25),
    "no array": b"hello",
    "nothing": b"",
}


@pytest.mark.parametrize("content", LYING.values(), ids=LYING.keys())
def test_headers_are_read_first(tmp_path: Path, content: bytes) -> None:
    add_entries(tmp_path / "w.npz", x=content)
    with at_most_mib(4), pytest.raises(CheckpointError, match=r"w\.npz: not a readable npz file: "):
        io.load_arrays(tmp_path / "w.npz", wanted={})


@pytest.mark.parametrize("method", [zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA])
def test_other_ways_to_compress(tmp_path: Path, method: int) -> None:
    """A few bytes of them may unpack to a gigabyte."""
    add_entries(tmp_path / "w.npz", method, x=npy("<f4", (MIB,), bytes(4 * MIB)))
    with at_most_mib(2), pytest.raises(CheckpointError, match=r"w\.npz: .*another method"):
        io.load_arrays(tmp_path / "w.npz")


UNSUITABLE = {
    "complex": np.ones(3, np.complex64),
    "structured": np.zeros(2, [("a", "f4"), ("b", "i4")]),
    "dates": np.zeros(2, "M8[s]"),
    "void": np.zeros(2, "V3"),
    "objects": np.array([{"any": "object"}], dtype=object),
}


@every_ending
@pytest.mark.parametrize("array", UNSUITABLE.values(), ids=UNSUITABLE.keys())
def test_arrays_of_anything_but_numbers(tmp_path: Path, ending: str, array: Any) -> None:
    with pytest.raises(CheckpointError, match=rf"cannot write .*n{ending}: x is of .* real numbers"):
        io.save_arrays(tmp_path / f"n{ending}", {"x": array}, {})
    np.savez(tmp_path / "w.npz", x=array)
    problem = "'x': an array of .*numbers|Object arrays cannot be loaded: 'x'"
    with pytest.raises(CheckpointError, match=rf"w\.npz: not a readable npz file: ({problem})"):
        io.load_arrays(tmp_path / "w.npz")


def test_a_name_twice(tmp_path: Path) -> None:
    one = npy("<f4", (1,), bytes(4))
    add_entries(tmp_path / "w.npz", x=one)
    with pytest.warns(UserWarning, match="Duplicate name"):
        add_entries(tmp_path / "w.npz", x=one)
    with pytest.raises(CheckpointError, match="two entries of one name"):
        io.load_arrays(tmp_path / "w.npz")
