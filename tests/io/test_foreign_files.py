"""Weight files of other tools: narrow types, metadata that only look like ours, entries unasked for."""

from __future__ import annotations

import json
import struct
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.numpy

from tests.support.files import MIB, add_entries, at_most_mib, every_ending, npy, write_foreign
from xpcnn import io, load_model, nn
from xpcnn.errors import CheckpointError, NonFiniteWarning, StateDictError


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


NARROW = [("BF16", 2, bf16), ("F8_E4M3", 1, e4m3), ("F8_E5M2", 1, e5m2)]


@pytest.mark.parametrize(("kind", "size", "value"), NARROW)
def test_every_code_is_upcast_exactly(tmp_path: Path, kind: str, size: int, value: Any) -> None:
    """Beside other entries, in their order."""
    codes = np.arange(256**size, dtype=f"<u{size}")
    entries = {
        "half": ("F16", [2], np.array([1.5, -2], "<f2").tobytes()),
        "w": (kind, [16, codes.size // 16], codes.tobytes()),
        "scalar": (kind, [], codes[60:61].tobytes()),
        "empty": (kind, [0, 3], b""),
        "double": ("F64", [1], np.array([0.1], "<f8").tobytes()),
    }
    write_raw(tmp_path / "w.safetensors", entries)
    arrays, metadata = io.load_arrays(tmp_path / "w.safetensors")
    assert (list(arrays), metadata) == (list(entries), {})
    found, expected = arrays["w"], np.array([value(int(code)) for code in codes]).reshape(16, -1)
    np.testing.assert_array_equal(found, expected)
    numbers = ~np.isnan(expected)
    np.testing.assert_array_equal(np.signbit(found)[numbers], np.signbit(expected)[numbers])
    assert (arrays["scalar"], arrays["scalar"].shape, arrays["empty"].shape) == (value(60), (), (0, 3))
    assert arrays["half"].tolist() + arrays["double"].tolist() == [1.5, -2, 0.1]
    assert [array.dtype.name for array in arrays.values()] == ["float16", *["float32"] * 3, "float64"]


def test_other_types_are_named(tmp_path: Path) -> None:
    write_raw(tmp_path / "m.safetensors", {"scale": ("F8_E8M0", [4], bytes(4))})
    with pytest.raises(CheckpointError, match=r"scale is F8_E8M0, .* convert it"):
        io.load_arrays(tmp_path / "m.safetensors")


NOTES: dict[str, dict[str, Any]] = {
    "none": {},
    "a format": {"format": "pt"},
    "a version": {"format_version": "9"},
    "a recipe": {"recipe": '{"name": "resnet50"}', "format_version": "2"},
    "a kind": {"kind": "xpcnn of another sort"},
    "names": {"classes": ["cat", "dog"]},
    "bytes": {"author": [b"somebody"]},
    "other metadata": {"__metadata__": "made on a Tuesday"},
    "other metadata in JSON": {"__metadata__": '{"recipe": "a cake", "epoch": 3}'},
    "a list": {"__metadata__": "[1]"},
}


@every_ending
@pytest.mark.parametrize("notes", NOTES.values(), ids=NOTES)
def test_metadata_of_other_tools_are_passed_over(tmp_path: Path, ending: str, notes: dict[str, Any]) -> None:
    path = tmp_path / f"w{ending}"
    weights = {"weight": np.ones((2, 2), np.float32), "bias": np.zeros(2, np.float32)}
    if ending == ".npz":
        np.savez(path, **weights, **{name: np.array(text) for name, text in notes.items()})
    else:
        safetensors.numpy.save_file(weights, path, {name: str(text) for name, text in notes.items()})
    assert io.load_weights(path).metadata == {}
    layer = nn.Linear(2, 2, seed=0)
    report = layer.load(path)
    assert report.unexpected == report.missing == []
    np.testing.assert_array_equal(layer.weight.data, weights["weight"])


HUGE = 1 << 27  # numbers: more than the 256 MiB that any archive may unpack to


def layer() -> nn.Linear:
    return nn.Linear(512, 512)  # a weight of 1 MiB


def weights(prefix: str = "") -> dict[str, np.ndarray]:
    weight = np.random.default_rng(3).standard_normal((512, 512)).astype(np.float32)
    return {f"{prefix}weight": weight, f"{prefix}bias": np.arange(512, dtype=np.float32)}


@pytest.fixture(scope="module")
def archive(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Weights beside an entry of half a GiB of zeros."""
    path = tmp_path_factory.mktemp("huge") / "w.npz"
    write_foreign(path, weights())
    add_entries(path, optimizer=npy("<f4", (HUGE,), bytes(4 * HUGE)))
    assert path.stat().st_size < 3 * MIB
    return path


@pytest.mark.slow
def test_a_huge_entry_that_no_model_asks_for_takes_no_memory(archive: Path) -> None:
    model = layer()
    with at_most_mib(6):
        assert model.load(archive, strict=False).unexpected == ["optimizer"]
    assert (model.weight.data == weights()["weight"]).all()
    with at_most_mib(6), pytest.raises(StateDictError, match=rf"unexpected: optimizer \({HUGE},\)"):
        layer().load(archive)
    with at_most_mib(1), pytest.raises(CheckpointError, match=r"w\.npz: does not say"):
        load_model(archive)
    # Of another shape, it is not unpacked either.
    found, _ = io.load_arrays(archive, wanted={"optimizer": (3,)})
    assert (found["optimizer"].shape, found["optimizer"].dtype) == ((HUGE,), np.float32)
    # Who asks for it is refused.
    for wanted in (None, {"optimizer": (HUGE,)}):
        with at_most_mib(6), pytest.raises(CheckpointError, match=r"w\.npz: .* more than 100 times as many"):
            io.load_arrays(archive, wanted=wanted)


def test_what_is_not_read_of_safetensors_takes_no_memory(tmp_path: Path) -> None:
    path = tmp_path / "w.safetensors"
    others = {"other": np.zeros(8 * MIB, np.float32), "half": np.zeros(3, np.float16)}
    write_foreign(path, {**weights(), **others})
    model = layer()
    with at_most_mib(6):
        assert sorted(model.load(path, strict=False).unexpected) == ["half", "other"]
    assert (model.weight.data == weights()["weight"]).all()
    found, _ = io.load_arrays(path, wanted={})
    for name, array in {**weights(), **others}.items():
        assert (found[name].shape, found[name].dtype) == (array.shape, array.dtype)


@every_ending
def test_prefixes_and_entries_that_are_not_read(tmp_path: Path, ending: str) -> None:
    path = tmp_path / f"w{ending}"
    for prefix in ("module.", "_orig_mod.", "module.model."):
        write_foreign(path, {**weights(prefix), f"{prefix}head.weight": np.ones((3, 512), np.float32)})
        model = layer()
        assert model.load(path, strict=False).unexpected == ["head.weight"]
        assert (model.weight.data == weights()["weight"]).all()
    # Only what was read is looked at for NaN.
    arrays = {**weights(), "ema": np.full(4, np.nan, np.float32), "odd.bias": np.full(4, np.inf, np.float32)}
    write_foreign(path, arrays)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        layer().load(path, strict=False)
    with pytest.warns(NonFiniteWarning, match=r"numbers in ema, odd\.bias;"):
        io.load_weights(path)
    # Files of ours are read whole: their digest is that of all entries.
    io.save_arrays(path, weights(), {})
    found, _ = io.load_arrays(path, wanted={})
    assert all((found[name] == array).all() for name, array in weights().items())
