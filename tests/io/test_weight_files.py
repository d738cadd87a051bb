"""Weight files: exact round trips, whole replacement, and refusal of everything else."""

from __future__ import annotations

import os
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.numpy

from tests.support.files import every_ending, write_foreign
from xpcnn import io, load_model, models
from xpcnn.errors import CheckpointError, NonFiniteWarning

ARRAYS: dict[str, np.ndarray[Any, Any]] = {
    "conv1.weight": np.arange(24, dtype=np.float32).reshape(2, 3, 2, 2) / 7,
    "double": np.array([0.1, -0.0, np.inf, np.nan, 5e-324]),
    "half": np.array([1.5, 65504], dtype=np.float16),
    "bytes": np.arange(256, dtype=np.uint8),
    "num_batches_tracked": np.array(7, dtype=np.int64),
    "zero_d": np.array(2.5, dtype=np.float32),
    "empty": np.empty((0, 3), dtype=np.float32),
    "yes": np.array([True, False]),
    # safetensors' own writer takes the raw memory of these for their values.
    "transposed": np.arange(6, dtype=np.float32).reshape(2, 3).T,
    "channels last": np.arange(48.0).reshape(2, 2, 3, 4).transpose(0, 3, 1, 2),
    "stepped": np.arange(10, dtype=np.int64)[::3],
    "backwards": np.arange(4.0)[::-1],
    "broadcast": np.broadcast_to(np.float32(3), (2, 2)),
}


def assert_same(actual: dict[str, Any], expected: dict[str, Any]) -> None:
    assert set(actual) == set(expected)
    for name, array in expected.items():
        assert (actual[name].dtype, actual[name].shape) == (array.dtype, array.shape)
        assert actual[name].flags.writeable
        assert actual[name].tobytes() == np.ascontiguousarray(array).tobytes(), name


@every_ending
def test_round_trip_keeps_every_bit_and_the_metadata(tmp_path: Path, ending: str) -> None:
    path = tmp_path / f"weights{ending}"
    io.save_arrays(path, ARRAYS, {"made by": "a test", "unicode": "日本 ⟂"})
    arrays, metadata = io.load_arrays(path)
    assert_same(arrays, ARRAYS)
    assert metadata == {"format_version": "1", "made by": "a test", "unicode": "日本 ⟂"}
    io.save_arrays(path, {}, {})
    assert io.load_arrays(path)[0] == {}
    assert os.listdir(tmp_path) == [path.name]
    (tmp_path / "plain").touch()
    assert path.stat().st_mode == (tmp_path / "plain").stat().st_mode


@every_ending
@pytest.mark.parametrize("error", [OSError(28, "No space left on device"), KeyboardInterrupt()], ids=repr)
def test_a_failed_write_leaves_the_old_file_and_no_other(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, ending: str, error: BaseException
) -> None:
    path = tmp_path / f"weights{ending}"
    io.save_arrays(path, {"x": np.ones(2)}, {})
    before = path.read_bytes()

    def fail(first: Any, *rest: Any, **_: Any) -> None:
        """Write half a file, as the library behind an ending might, and fail."""
        if hasattr(first, "write"):
            first.write(b"half")
        else:
            Path(rest[0]).write_bytes(b"half")
        raise error

    library, name = (np, "savez") if ending == ".npz" else (safetensors.numpy, "save_file")
    monkeypatch.setattr(library, name, fail)
    with pytest.raises((CheckpointError, KeyboardInterrupt)) as caught:
        io.save_arrays(path, {"x": np.zeros(2)}, {})
    if isinstance(error, OSError):
        assert str(caught.value) == f"cannot write {path}: No space left on device"
    assert path.read_bytes() == before
    assert os.listdir(tmp_path) == [path.name]


@every_ending
def test_impossible_places(tmp_path: Path, ending: str) -> None:
    (tmp_path / "file").touch()
    (tmp_path / f"folder{ending}").mkdir()
    for start in ("absent/w", "file/w", "folder", "n" * 5000, "a\0b"):
        name = start + ending
        with pytest.raises(CheckpointError, match=f"cannot write .*{name}: "):
            io.save_arrays(tmp_path / name, {"x": np.ones(2)}, {})
        with pytest.raises(CheckpointError, match=f"{name}: no such file"):
            io.load_arrays(tmp_path / name)
        with pytest.raises(CheckpointError, match="no such file"):
            load_model(tmp_path / name)
    assert sorted(os.listdir(tmp_path)) == ["file", f"folder{ending}"]


@pytest.mark.parametrize("name", ["w", "w.pt", "w.npy", "w.safetensors.bak", ".npz"])
def test_other_endings(tmp_path: Path, name: str) -> None:
    with pytest.raises(CheckpointError, match=r"end in \.safetensors or \.npz"):
        io.save_arrays(tmp_path / name, {}, {})
    (tmp_path / name).write_bytes(b"")
    with pytest.raises(CheckpointError, match=r"end in \.safetensors or \.npz"):
        io.load_arrays(tmp_path / name)


@every_ending
def test_garbage_and_what_was_cut(tmp_path: Path, ending: str) -> None:
    path = tmp_path / f"bad{ending}"
    io.save_arrays(path, ARRAYS, {})
    whole = path.read_bytes()
    cut = [whole[: int(len(whole) * part)] for part in (0.1, 0.5, 0.99)]
    for content in (b"", b"garbage", bytes(64), b"\xff" * 64, b"PK\x03\x04", b'{"a": 1}', *cut):
        path.write_bytes(content)
        with pytest.raises(CheckpointError, match=f"bad{ending}: not a readable {ending[1:]} file"):
            io.load_arrays(path)


@every_ending
def test_other_versions_and_checkpoints(tmp_path: Path, ending: str) -> None:
    path = tmp_path / f"new{ending}"
    for version in ("2", "1.5", "-1", "new"):
        io.save_arrays(path, {}, {"format_version": version})
        with pytest.raises(CheckpointError, match=f"format version {version}, .* upgrade xpcnn"):
            io.load_arrays(path)
    io.save_arrays(path, {}, {"kind": "xpcnn checkpoint"})
    with pytest.raises(CheckpointError, match="an xpcnn checkpoint, not the weights"):
        io.load_weights(path)


@every_ending
@pytest.mark.parametrize("metadata", ['["digest"]', '"format_version"', '{"format_version": 1}', '{"digest"'])
def test_metadata_that_is_none(tmp_path: Path, ending: str, metadata: str) -> None:
    write_foreign(tmp_path / f"odd{ending}", {"w": np.ones(2)}, metadata)
    with pytest.raises(CheckpointError, match="metadata"):
        io.load_arrays(tmp_path / f"odd{ending}")


@every_ending
@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_weights_that_are_no_numbers_are_loaded_with_a_warning(
    tmp_path: Path, ending: str, value: float
) -> None:
    path, model = tmp_path / f"w{ending}", models.tiny_convnet(filters=2)
    arrays = model.state_dict()
    for name in ("fc.weight", "fc.bias"):
        arrays[name].reshape(-1)[-1] = value
    model.load_state_dict(arrays)
    model.save(path)
    message = f"w{ending}: NaN or infinite numbers in fc.bias, fc.weight; a model with"
    with pytest.warns(NonFiniteWarning, match=message):
        loaded = load_model(path)
    np.testing.assert_equal(loaded.state_dict()["fc.bias"][-1], np.float32(value))
    largest = [np.finfo(kind).max for kind in (np.float16, np.float32, np.float64)]  # all fine
    fine = {str(number.dtype): np.array([number, -number]) for number in largest}
    fine |= {"whole": np.array([2**62]), "yes": np.array([True]), "none": np.empty(0, np.float32)}
    io.save_arrays(path, fine, {})
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        io.load_weights(path)
    io.save_arrays(path, {f"layer{i}.weight": np.full(2, value, "f2") for i in range(20)} | fine, {})
    with pytest.warns(NonFiniteWarning, match=r"layer0.weight, layer1.weight, layer10.weight and 17 more; "):
        io.load_weights(path)
