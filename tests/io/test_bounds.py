"""What a file says does not decide how much memory reading it takes."""

from __future__ import annotations

import json
import tracemalloc
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from xpcnn import io, models, nn
from xpcnn.errors import ArgumentError, CheckpointError
from xpcnn.nn.init import at_most
from xpcnn.train import load_model

MIB = 1 << 20


@contextmanager
def at_most_mib(most: int) -> Iterator[None]:
    """Bound the memory that a block takes; NumPy's arrays count."""
    tracemalloc.start()
    try:
        yield
        assert tracemalloc.get_traced_memory()[1] < most * MIB
    finally:
        tracemalloc.stop()


# -- descriptions of models ------------------------------------------------------------


def described(path: Path, name: str, arguments: dict[str, Any], **more: Any) -> None:
    """Write a file of 24 numbers that describes another model."""
    recipe = {"name": name, "arguments": arguments, "mean": 0.0, "std": 1.0, **more}
    io.save_arrays(path, {"w": np.zeros((4, 6), np.float32)}, {"recipe": json.dumps(recipe)})


HUGE = {
    "tiny_convnet": ({"classes": 10**9}, {"filters": 10**9}, {"input_shape": [1, 10**6, 10**6]}, {}),
    "simple_convnet": ({"hidden": 10**9}, {"filters": 10**9}, {"classes": 10**9}),
    "deep_convnet": ({"filters": [10**9, 1, 1]}, {"hidden": 10**9}, {"classes": 2**31 - 1}),
    "lenet5": ({"classes": 10**9},),
    "alexnet": ({"in_channels": 10**9}, {"classes": 10**9}),
    "vgg19_bn": ({}, {"classes": 10**9}),
    "googlenet": ({"in_channels": 10**9}, {"aux": True}),
    "resnet152": ({}, {"classes": 10**9}),
    "resnet110": ({"in_channels": 10**9},),
    "ensemble": (
        {"members": [{"name": "resnet152", "arguments": {}, "mean": 0.0, "std": 1.0}] * 100},
        {"members": [{"name": "lenet5", "arguments": {}, "mean": 0.0, "std": 1.0}] * 10_000},
    ),
}


@pytest.mark.parametrize("name", HUGE)
def test_a_small_file_that_describes_a_large_model(tmp_path: Path, name: str) -> None:
    for arguments in HUGE[name]:
        described(tmp_path / "w.safetensors", name, arguments)
        with (
            at_most_mib(16),
            pytest.raises(CheckpointError, match=r"w\.safetensors: .*(weights of shape|be at most)"),
        ):
            load_model(tmp_path / "w.safetensors")


def test_layers_are_counted_together() -> None:
    with at_most(20), pytest.raises(ArgumentError, match=r"\(4, 3\) are more than the 4 that are there"):
        nn.Sequential(nn.Linear(3, 4), nn.Linear(3, 4))
    with at_most(32):
        nn.Sequential(nn.Linear(3, 4), nn.Linear(3, 4))
    nn.Linear(3, 4)  # without bound again


def test_every_published_model_is_read_as_before(tmp_path: Path) -> None:
    for name in ("tiny_convnet", "simple_convnet", "deep_convnet", "lenet5", "resnet20"):
        model = models.build(name)
        model.save(tmp_path / "w.safetensors")
        loaded = load_model(tmp_path / "w.safetensors").state_dict()
        assert all((loaded[path] == array).all() for path, array in model.state_dict().items())


def nested(depth: int) -> dict[str, Any]:
    """The description of an ensemble of one ensemble of one ensemble …"""
    inner: dict[str, Any] = {"name": "tiny_convnet", "arguments": {}, "mean": 0.5, "std": 1.0}
    for _ in range(depth):
        inner = {"name": "ensemble", "arguments": {"members": [inner]}, "mean": 0.5, "std": 1.0}
    return inner


def test_ensembles_of_ensembles(tmp_path: Path) -> None:
    member = nn.Ensemble(models.tiny_convnet(seed=3))
    for _ in range(4):
        member = nn.Ensemble(member)
    member.save(tmp_path / "w.npz")
    assert load_model(tmp_path / "w.npz").state_dict().keys() == member.state_dict().keys()
    recipe = json.dumps(nested(300))
    io.save_arrays(tmp_path / "w.npz", {}, {"recipe": recipe})
    with pytest.raises(CheckpointError, match=r"w\.npz: the model's description is unreadable: nested"):
        load_model(tmp_path / "w.npz")


ODD: dict[str, tuple[dict[str, Any], str]] = {
    "a huge mean": ({"mean": 1e300}, "mean: expected a number of at least -1000000"),
    "a tiny std": ({"std": 1e-320}, "std: expected a number of at least 1e-06"),
    "large images": (
        {"input_shape": [1, 50_000, 50_000]},
        "input_shape: images of 1x50000x50000 are too large",
    ),
    "huge images": ({"input_shape": [3, 2**31 - 1, 2**31 - 1]}, "input_shape: images of 3x2147483647x"),
    "no mean": ({"mean": []}, "mean: has 0 numbers, expected at least 1"),
    "no std": ({"std": []}, "std: has 0 numbers"),
    "a mean too many": ({"arguments": {"in_channels": 3}, "mean": [0, 0, 0, 0]}, "has 4 numbers, expected 3"),
    "a std too few": ({"arguments": {"input_shape": [3, 9, 9]}, "std": [1, 1]}, "has 2 numbers, expected 3"),
    "a mean for other images": ({"input_shape": [2, 9, 9], "mean": [0, 0, 0]}, "expected 2, one for each"),
    "text": ({"mean": "0"}, "or a list, got '0'"),
    "text in a list": ({"std": [1, "1"]}, "std: expected a number of at least 1e-06 and"),
    "a std of 0": ({"std": 0}, "std: expected a number of at least 1e-06"),
    "a negative std": ({"std": [1, -1]}, "std: expected"),
    "whole numbers": ({"arguments": {"dtype": "int8"}}, "arguments.dtype: expected one of 'float16', "),
    "a negative seed": ({"arguments": {"seed": -1}}, "arguments.seed: expected a whole number of at least 0"),
    "a shape of text": ({"input_shape": ["1", 2, 3]}, "input_shape[0]: expected a whole number"),
    "an endless shape": ({"input_shape": [1, 2**40, 3]}, "input_shape[1]: expected a whole number"),
    "a preparation of numbers": ({"preparation": 3}, "preparation: expected text, got 3"),
}


@pytest.mark.parametrize(("change", "told"), ODD.values(), ids=ODD.keys())
def test_descriptions_that_say_something_else(tmp_path: Path, change: dict[str, Any], told: str) -> None:
    fields = {"name": "tiny_convnet", "arguments": {}, "mean": 0.5, "std": 1.0, **change}
    io.save_arrays(tmp_path / "w.npz", {}, {"recipe": json.dumps(fields)})
    with pytest.raises(CheckpointError) as caught:
        load_model(tmp_path / "w.npz")
    message = str(caught.value)
    assert message.startswith(f"{tmp_path / 'w.npz'}: the model's description is unreadable: ")
    assert told in message


# -- archives ----------------------------------------------------------------------------


def archive(path: Path, *entries: tuple[str, bytes], compression: int = zipfile.ZIP_DEFLATED) -> None:
    with zipfile.ZipFile(path, "w", compression) as file:
        for name, content in entries:
            file.writestr(name, content)


def entry(dtype: str, shape: tuple[int, ...], content: bytes = b"") -> bytes:
    """The bytes of an npy file whose header says so."""
    header = f"{{'descr': {dtype!r}, 'fortran_order': False, 'shape': {shape!r}, }}".ljust(117) + "\n"
    return b"\x93NUMPY\x01\x00" + len(header).to_bytes(2, "little") + header.encode("latin-1") + content


def test_an_archive_that_becomes_a_thousand_times_its_size(tmp_path: Path) -> None:
    whole = entry("<f4", (1 << 26,), bytes(1 << 28))
    archive(
        tmp_path / "w.npz", ("wanted.npy", entry("<f4", (1,), bytes(4))), ("a.npy", whole), ("b.npy", whole)
    )
    assert (tmp_path / "w.npz").stat().st_size < MIB
    with at_most_mib(4), pytest.raises(CheckpointError, match="more than 100 times as many"):
        io.load_arrays(tmp_path / "w.npz")


def test_compressed_zeros_are_read(tmp_path: Path) -> None:
    np.savez_compressed(tmp_path / "w.npz", zeros=np.zeros(MIB, np.float32))
    assert io.load_arrays(tmp_path / "w.npz")[0]["zeros"].shape == (MIB,)


LYING = {
    "more than there is": entry("<f4", (1 << 40,), bytes(8)),
    "less than there is": entry("<f4", (1,), bytes(8)),
    "0 x huge": entry("<f4", (0, 1 << 62, 1 << 62)),
    "negative": entry("<f4", (-1, -2), bytes(8)),
    "no whole number": entry("<f4", (1.5,), bytes(8)),  # type: ignore[arg-type]
    "another format": b"\x93NUMPY\x09\x00" + bytes(200),
    "no array": b"hello",
    "nothing": b"",
}


@pytest.mark.parametrize("content", LYING.values(), ids=LYING.keys())
def test_headers_are_looked_at_first(tmp_path: Path, content: bytes) -> None:
    archive(tmp_path / "w.npz", ("x.npy", content))
    with at_most_mib(4), pytest.raises(CheckpointError, match=r"w\.npz: not a readable npz file: "):
        io.load_arrays(tmp_path / "w.npz")


UNSUITABLE = {
    "complex": np.ones(3, np.complex64),
    "structured": np.zeros(2, [("a", "f4"), ("b", "i4")]),
    "dates": np.zeros(2, "M8[s]"),
    "void": np.zeros(2, "V3"),
}


@pytest.mark.parametrize("array", UNSUITABLE.values(), ids=UNSUITABLE.keys())
def test_arrays_of_anything_but_numbers(tmp_path: Path, array: Any) -> None:
    np.savez(tmp_path / "w.npz", x=array)
    with pytest.raises(CheckpointError, match=r"w\.npz: not a readable npz file: 'x': an array of .*numbers"):
        io.load_arrays(tmp_path / "w.npz")
    for ending in (".npz", ".safetensors"):
        with pytest.raises(CheckpointError, match=rf"cannot write .*n{ending}: x is of .* real numbers"):
            io.save_arrays(tmp_path / f"n{ending}", {"x": array}, {})


def test_a_name_twice(tmp_path: Path) -> None:
    one = entry("<f4", (1,), bytes(4))
    with pytest.warns(UserWarning, match="Duplicate name"):
        archive(tmp_path / "w.npz", ("x.npy", one), ("x.npy", one))
    with pytest.raises(CheckpointError, match="two entries of one name"):
        io.load_arrays(tmp_path / "w.npz")
