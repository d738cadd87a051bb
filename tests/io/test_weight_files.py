"""Weight files: exact round trips, whole replacement, and refusal of everything else."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.numpy

from xpcnn import io, load_model, models, nn
from xpcnn.errors import CheckpointError, StateDictError
from xpcnn.nn.spec import parse_spec

every_ending = pytest.mark.parametrize("ending", [".safetensors", ".npz"])

ARRAYS: dict[str, np.ndarray[Any, Any]] = {
    "conv1.weight": np.arange(24, dtype=np.float32).reshape(2, 3, 2, 2) / 7,
    "double": np.array([0.1, -0.0, np.inf, np.nan, 5e-324]),
    "half": np.array([1.5, 65504], dtype=np.float16),
    "bytes": np.arange(256, dtype=np.uint8),
    "num_batches_tracked": np.array(7, dtype=np.int64),
    "zero_d": np.array(2.5, dtype=np.float32),
    "empty": np.empty((0, 3), dtype=np.float32),
    "yes": np.array([True, False]),
}


def assert_same(actual: dict[str, Any], expected: dict[str, Any]) -> None:
    assert set(actual) == set(expected)
    for name, array in expected.items():
        assert actual[name].dtype == array.dtype
        assert actual[name].shape == array.shape
        assert actual[name].tobytes() == np.ascontiguousarray(array).tobytes(), name


@every_ending
def test_round_trip_keeps_every_bit_and_the_metadata(tmp_path: Path, ending: str) -> None:
    path = tmp_path / f"weights{ending}"
    io.save_arrays(path, ARRAYS, {"made by": "a test", "unicode": "日本 ⟂"})
    arrays, metadata = io.load_arrays(path)
    assert_same(arrays, ARRAYS)
    assert metadata == {"format_version": "1", "made by": "a test", "unicode": "日本 ⟂"}
    assert os.listdir(tmp_path) == [path.name]


@every_ending
def test_no_arrays_at_all(tmp_path: Path, ending: str) -> None:
    io.save_arrays(tmp_path / f"none{ending}", {}, {})
    assert io.load_arrays(tmp_path / f"none{ending}")[0] == {}


STRIDED = {
    "transposed": np.arange(6, dtype=np.float32).reshape(2, 3).T,
    "channels last": np.arange(48.0).reshape(2, 2, 3, 4).transpose(0, 3, 1, 2),
    "stepped": np.arange(10, dtype=np.int64)[::3],
    "backwards": np.arange(4.0)[::-1],
    "broadcast": np.broadcast_to(np.float32(3), (2, 2)),
}


@every_ending
def test_strided_arrays_are_saved_by_value(tmp_path: Path, ending: str) -> None:
    path = tmp_path / f"strided{ending}"
    io.save_arrays(path, STRIDED, {})
    assert_same(io.load_arrays(path)[0], STRIDED)


def test_safetensors_own_writer_would_corrupt_them(tmp_path: Path) -> None:
    """Why `save_arrays` copies: when this fails, safetensors takes care of it itself."""
    transposed = STRIDED["transposed"]
    safetensors.numpy.save_file({"x": transposed}, tmp_path / "raw.safetensors")
    raw = safetensors.numpy.load_file(tmp_path / "raw.safetensors")["x"]
    assert raw.shape == transposed.shape
    assert not np.array_equal(raw, transposed)


def test_safetensors_of_others_are_read(tmp_path: Path) -> None:
    weights = {"w": np.ones(3)}
    safetensors.numpy.save_file(weights, tmp_path / "x.safetensors")
    safetensors.numpy.save_file(weights, tmp_path / "y.safetensors", {"format": "pt", "kind": "any"})
    np.savez(tmp_path / "z.npz", w=weights["w"])
    for name in ("x.safetensors", "y.safetensors", "z.npz"):
        arrays, metadata = io.load_weights(tmp_path / name)
        assert_same(arrays, weights)
        assert metadata == {}


# -- writing whole or not at all -------------------------------------------------------


def failing_write(monkeypatch: pytest.MonkeyPatch, ending: str, error: BaseException) -> None:
    """Let the library behind an ending write half a file and fail."""

    def fail(first: Any, second: Any = None, *args: Any, **kwargs: Any) -> None:
        target = second if ending == ".safetensors" else first
        if hasattr(target, "write"):
            target.write(b"half")
        else:
            Path(target).write_bytes(b"half")
        raise error

    if ending == ".safetensors":
        monkeypatch.setattr(safetensors.numpy, "save_file", fail)
    else:
        monkeypatch.setattr(np, "savez", fail)


@every_ending
@pytest.mark.parametrize(
    ("error", "told"),
    [(OSError(28, "No space left on device"), CheckpointError), (KeyboardInterrupt(), KeyboardInterrupt)],
    ids=["disk full", "interrupted"],
)
def test_a_failed_write_leaves_the_old_file_and_no_other(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, ending: str, error: BaseException, told: Any
) -> None:
    path = tmp_path / f"weights{ending}"
    io.save_arrays(path, {"x": np.ones(2)}, {})
    before = path.read_bytes()
    failing_write(monkeypatch, ending, error)
    with pytest.raises(told) as caught:
        io.save_arrays(path, {"x": np.zeros(2)}, {})
    if told is CheckpointError:
        assert str(caught.value) == f"cannot write {path}: No space left on device"
    assert path.read_bytes() == before
    assert os.listdir(tmp_path) == [path.name]


def test_an_existing_file_is_replaced_and_links_beside_it_are_not_followed(tmp_path: Path) -> None:
    path = tmp_path / "w.npz"
    io.save_arrays(path, {"x": np.ones(2)}, {})
    os.link(path, tmp_path / "kept.npz")  # a second name of the old content
    io.save_arrays(path, {"x": np.zeros(2)}, {})
    assert io.load_arrays(path)[0]["x"].tolist() == [0, 0]
    assert io.load_arrays(tmp_path / "kept.npz")[0]["x"].tolist() == [1, 1]


def test_a_new_file_has_the_permissions_of_any_new_file(tmp_path: Path) -> None:
    (tmp_path / "plain").touch()
    io.save_arrays(tmp_path / "w.npz", {}, {})
    assert (tmp_path / "w.npz").stat().st_mode == (tmp_path / "plain").stat().st_mode


@every_ending
def test_unwritable_places(tmp_path: Path, ending: str) -> None:
    (tmp_path / "file").touch()
    (tmp_path / f"folder{ending}").mkdir()
    for path in (f"absent/w{ending}", f"file/w{ending}", f"folder{ending}"):
        with pytest.raises(CheckpointError, match=f"cannot write .*{path}: [A-Z]"):
            io.save_arrays(tmp_path / path, {"x": np.ones(2)}, {})
    assert sorted(os.listdir(tmp_path)) == ["file", f"folder{ending}"]


# -- refusing ---------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["w", "w.pt", "w.npy", "w.safetensors.bak", ".npz"])
def test_other_endings(tmp_path: Path, name: str) -> None:
    with pytest.raises(CheckpointError, match=r"end in \.safetensors or \.npz"):
        io.save_arrays(tmp_path / name, {}, {})
    (tmp_path / name).write_bytes(b"")
    with pytest.raises(CheckpointError, match=r"end in \.safetensors or \.npz"):
        io.load_arrays(tmp_path / name)


@every_ending
def test_missing(tmp_path: Path, ending: str) -> None:
    with pytest.raises(CheckpointError, match=r"absent\..*: no such file"):
        io.load_arrays(tmp_path / f"absent{ending}")
    (tmp_path / f"folder{ending}").mkdir()
    with pytest.raises(CheckpointError, match=r"folder\..*: no such file"):
        io.load_arrays(tmp_path / f"folder{ending}")


@every_ending
@pytest.mark.parametrize("content", [b"", b"garbage", b"\x00" * 64, b"\xff" * 64, b"PK\x03\x04", b'{"a": 1}'])
def test_garbage(tmp_path: Path, ending: str, content: bytes) -> None:
    path = tmp_path / f"bad{ending}"
    path.write_bytes(content)
    with pytest.raises(CheckpointError, match=f"not a readable {ending[1:]} file"):
        io.load_arrays(path)


@every_ending
@pytest.mark.parametrize("share", [0.1, 0.5, 0.99])
def test_truncated(tmp_path: Path, ending: str, share: float) -> None:
    path = tmp_path / f"short{ending}"
    io.save_arrays(path, ARRAYS, {})
    content = path.read_bytes()
    path.write_bytes(content[: int(len(content) * share)])
    with pytest.raises(CheckpointError, match="short"):
        io.load_arrays(path)


def test_pickles_are_never_loaded(tmp_path: Path) -> None:
    np.savez(tmp_path / "pickled.npz", x=np.array([{"any": "object"}], dtype=object))
    with pytest.raises(CheckpointError, match=r"allow_pickle|Object arrays"):
        io.load_arrays(tmp_path / "pickled.npz")


@every_ending
@pytest.mark.parametrize("version", ["2", "10", "1.5", "-1", "new"])
def test_newer_formats(tmp_path: Path, ending: str, version: str) -> None:
    path = tmp_path / f"new{ending}"
    io.save_arrays(path, {}, {"format_version": version})
    with pytest.raises(CheckpointError, match=f"format version {version}, .* upgrade xpcnn"):
        io.load_arrays(path)


@pytest.mark.parametrize("metadata", ['["digest"]', '"format_version"', '{"format_version": 1}', '{"digest"'])
def test_npz_metadata_that_is_none(tmp_path: Path, metadata: str) -> None:
    np.savez(tmp_path / "odd.npz", __metadata__=np.array(metadata))
    with pytest.raises(CheckpointError, match="metadata"):
        io.load_arrays(tmp_path / "odd.npz")


# -- models ------------------------------------------------------------------------------


@every_ending
def test_a_model_with_its_spec(tmp_path: Path, ending: str) -> None:
    model = models.simple_convnet(input_shape=(2, 8, 8), filters=3, filter_size=3, hidden=4, seed=5)
    model.save(tmp_path / f"m{ending}")
    arrays, metadata = io.load_weights(tmp_path / f"m{ending}")
    assert_same(arrays, model.state_dict())
    spec = parse_spec(metadata["spec"], "m")
    assert spec == model.spec
    assert spec.builder == "simple_convnet"
    assert spec.arguments["filters"] == 3
    again = models.build(spec.builder, **spec.arguments)
    again.load(tmp_path / f"m{ending}")
    assert_same(again.state_dict(), model.state_dict())


def test_a_layer_alone(tmp_path: Path) -> None:
    layer = nn.Linear(2, 3, seed=0)
    layer.save(tmp_path / "layer.npz")
    other = nn.Linear(2, 3, seed=1)
    other.load(tmp_path / "layer.npz")
    for again in (other, load_model(tmp_path / "layer.npz")):
        assert_same(again.state_dict(), layer.state_dict())


def test_weights_of_another_model(tmp_path: Path) -> None:
    nn.Linear(2, 3, seed=0).save(tmp_path / "layer.npz")
    with pytest.raises(StateDictError, match=r"weight is \(3, 2\) but the model has \(4, 2\)"):
        nn.Linear(2, 4, seed=0).load(tmp_path / "layer.npz")


@pytest.mark.parametrize(
    "recipe",
    [
        "nonsense",
        "[]",
        "{}",
        json.dumps({"name": "x", "arguments": {}, "mean": 0.0, "std": 1.0, "more": 1}),
        json.dumps({"name": 3, "arguments": {}, "mean": 0.0, "std": 1.0}),
        json.dumps({"name": "x", "arguments": [], "mean": 0.0, "std": 1.0}),
        json.dumps({"name": "x", "arguments": {}, "mean": "0", "std": 1.0}),
        json.dumps({"name": "x", "arguments": {}, "mean": 0.0, "std": 0}),
    ],
)
def test_unreadable_recipes(tmp_path: Path, recipe: str) -> None:
    io.save_arrays(tmp_path / "odd.npz", {}, {"recipe": recipe})
    with pytest.raises(CheckpointError, match="the model's description is unreadable"):
        load_model(tmp_path / "odd.npz")


def test_a_checkpoint_is_no_weight_file(tmp_path: Path) -> None:
    io.save_arrays(tmp_path / "c.npz", {}, {"kind": "xpcnn checkpoint"})
    with pytest.raises(CheckpointError, match="an xpcnn checkpoint, not the weights"):
        io.load_weights(tmp_path / "c.npz")


@every_ending
def test_the_same_weights_make_the_same_file(tmp_path: Path, ending: str) -> None:
    """To the byte, so that runs can be compared by a checksum. (safetensors orders metadata at random.)"""
    files = []
    for number in range(8):
        path = tmp_path / f"{number}{ending}"
        models.tiny_convnet().save(path)
        files.append(path.read_bytes())
    assert len(set(files)) == 1
