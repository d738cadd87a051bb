"""Weight files of other tools: narrow floating types, and metadata that only looks like ours."""

from __future__ import annotations

import json
import struct
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.numpy

from xpcnn import io, load_model, nn
from xpcnn.errors import CheckpointError


def write_raw(path: Path, entries: dict[str, tuple[str, list[int], bytes]]) -> None:
    """Write a safetensors file by its specification: a length, a JSON header, the bytes."""
    header: dict[str, Any] = {}
    body = b""
    for name, (kind, shape, raw) in entries.items():
        header[name] = {"dtype": kind, "shape": shape, "data_offsets": [len(body), len(body) + len(raw)]}
        body += raw
    text = json.dumps(header).encode()
    path.write_bytes(struct.pack("<Q", len(text)) + text + body)


def small_float(code: int, exponent_bits: int, fraction_bits: int) -> float:
    """The value of a code of IEEE 754's form, without what the largest exponent means."""
    fraction = code & ((1 << fraction_bits) - 1)
    exponent = code >> fraction_bits & ((1 << exponent_bits) - 1)
    sign = -1.0 if code >> (exponent_bits + fraction_bits) else 1.0
    bias = (1 << (exponent_bits - 1)) - 1
    if exponent == 0:
        return sign * fraction / 2.0 ** (fraction_bits + bias - 1)
    return sign * (1 + fraction / 2.0**fraction_bits) * 2.0 ** (exponent - bias)


def e4m3(code: int) -> float:
    return float("nan") if code & 127 == 127 else small_float(code, 4, 3)


def e5m2(code: int) -> float:
    special = {124: float("inf"), 252: -float("inf")}
    return special.get(code, float("nan") if code & 127 > 124 else small_float(code, 5, 2))


def bf16(code: int) -> float:
    if code >> 7 & 255 == 255:
        return float("nan") if code & 127 else (-float("inf") if code >> 15 else float("inf"))
    return small_float(code, 8, 7)


@pytest.mark.parametrize(
    ("kind", "size", "value"), [("BF16", 2, bf16), ("F8_E4M3", 1, e4m3), ("F8_E5M2", 1, e5m2)]
)
def test_every_code_is_widened_exactly(tmp_path: Path, kind: str, size: int, value: Any) -> None:
    codes = np.arange(256**size, dtype=f"<u{size}")
    write_raw(tmp_path / "w.safetensors", {"w": (kind, [16, codes.size // 16], codes.tobytes())})
    (found,) = io.load_arrays(tmp_path / "w.safetensors")[0].values()
    expected = np.array([value(int(code)) for code in codes]).reshape(16, -1)
    assert found.dtype == np.float32
    np.testing.assert_array_equal(found, expected)
    finite = ~np.isnan(expected)
    np.testing.assert_array_equal(np.signbit(found)[finite], np.signbit(expected)[finite])


def test_all_widths_in_one_file_in_its_order(tmp_path: Path) -> None:
    torch = pytest.importorskip("torch")
    from safetensors.torch import load_file, save_file

    values = torch.linspace(-3, 3, 12).reshape(3, 4)
    names = ("bfloat16", "float32", "float8_e4m3fn", "float16", "float8_e5m2")
    entries = {name: values.to(getattr(torch, name)) for name in names}
    entries |= {"scalar": torch.tensor(1.5, dtype=torch.bfloat16), "count": torch.tensor(3)}
    entries["empty"] = torch.zeros((0, 3), dtype=torch.float8_e5m2)
    save_file(entries, tmp_path / "t.safetensors")
    arrays, metadata = io.load_arrays(tmp_path / "t.safetensors")
    assert metadata == {}
    for name, tensor in load_file(tmp_path / "t.safetensors").items():
        narrow = tensor.dtype in (torch.bfloat16, torch.float8_e4m3fn, torch.float8_e5m2)
        expected = (tensor.float() if narrow else tensor).numpy()
        assert (arrays[name].dtype, arrays[name].shape) == (expected.dtype, expected.shape)
        np.testing.assert_array_equal(arrays[name], expected)


def test_a_model_of_bfloat16_is_loaded(tmp_path: Path) -> None:
    weight = np.array([[1.0, -2.5], [0.15625, 3.0]], np.float32)  # exact in bfloat16
    raw = (weight.view(np.uint32) >> 16).astype("<u2").tobytes()
    write_raw(tmp_path / "m.safetensors", {"weight": ("BF16", [2, 2], raw), "bias": ("BF16", [2], bytes(4))})
    layer = nn.Linear(2, 2, seed=0)
    layer.load(tmp_path / "m.safetensors")
    np.testing.assert_array_equal(layer.weight.data, weight)


def test_other_types_are_named(tmp_path: Path) -> None:
    write_raw(tmp_path / "w.safetensors", {"scale": ("F8_E8M0", [4], bytes(4))})
    with pytest.raises(CheckpointError, match=r"scale is F8_E8M0, .* convert it"):
        io.load_arrays(tmp_path / "w.safetensors")


@pytest.mark.parametrize(
    "metadata",
    [
        {"format": "pt"},
        {"format_version": "9"},
        {"format_version": "1.0"},
        {"recipe": "a cake"},
        {"recipe": '{"name": "resnet50"}', "format_version": "2"},
        {"kind": "xpcnn of another sort"},
    ],
)
def test_metadata_of_other_tools_is_passed_over(tmp_path: Path, metadata: dict[str, str]) -> None:
    path = tmp_path / "w.safetensors"
    weights = {"weight": np.ones((2, 2), np.float32), "bias": np.zeros(2, np.float32)}
    safetensors.numpy.save_file(weights, path, metadata)
    assert io.load_weights(path).metadata == {}
    layer = nn.Linear(2, 2, seed=0)
    assert layer.load(path).missing == []
    np.testing.assert_array_equal(layer.weight.data, weights["weight"])


NOTES = {
    "a version": {"format_version": np.array("pt")},
    "a recipe": {"recipe": np.array("a cake")},
    "names": {"classes": np.array(["cat", "dog"])},
    "bytes": {"author": np.array([b"somebody"])},
    "other metadata": {"__metadata__": np.array("made on a Tuesday")},
    "other metadata in JSON": {"__metadata__": np.array('{"recipe": "a cake", "epoch": 3}')},
    "a list": {"__metadata__": np.array("[1]")},
}


@pytest.mark.parametrize("notes", NOTES.values(), ids=NOTES)
def test_texts_of_other_tools_in_npz_are_passed_over(tmp_path: Path, notes: dict[str, Any]) -> None:
    path = tmp_path / "w.npz"
    weights = {"weight": np.ones((2, 2), np.float32), "bias": np.zeros(2, np.float32)}
    np.savez(path, **weights, **notes)
    assert io.load_weights(path).metadata == {}
    layer = nn.Linear(2, 2, seed=0)
    assert layer.load(path).unexpected == []
    np.testing.assert_array_equal(layer.weight.data, weights["weight"])


@pytest.mark.parametrize("ending", [".npz", ".safetensors"])
@pytest.mark.parametrize("name", ["n" * 5000, "a\0b"], ids=["long", "null byte"])
def test_impossible_names_of_files(ending: str, name: str) -> None:
    with pytest.raises(CheckpointError, match="no such file"):
        io.load_weights(name + ending)
    with pytest.raises(CheckpointError, match="no such file"):
        load_model(name + ending)
    with pytest.raises(CheckpointError, match="cannot write"):
        nn.Linear(2, 2).save(name + ending)
