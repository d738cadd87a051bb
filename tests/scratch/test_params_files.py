"""save_params and load_params: what is written, what is read, and what does not fit."""

from __future__ import annotations

import io as bytes_io
import pickle
import pickletools
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.support.scratch import draw
from xpcnn.errors import CheckpointError, StateDictError
from xpcnn.scratch.deep_convnet import DeepConvNet
from xpcnn.scratch.simple_convnet import SimpleConvNet

TINY = {"filter_num": 2, "filter_size": 3, "pad": 0, "stride": 1}


def network() -> SimpleConvNet:
    return SimpleConvNet((1, 8, 8), TINY, hidden_size=5, weight_init_std=0.3)


def same(params: dict[str, Any], expected: dict[str, Any]) -> None:
    assert list(params) == list(expected)
    for key, value in expected.items():
        assert params[key].dtype == value.dtype
        np.testing.assert_array_equal(params[key], value)


@pytest.mark.parametrize("name", ["params.pkl", "params.npz", "params.safetensors"])
def test_saved_and_loaded(tmp_path: Path, name: str) -> None:
    saved, loaded = network(), network()
    saved.save_params(tmp_path / name)
    assert [path.name for path in tmp_path.iterdir()] == [name]  # the very name, and nothing beside it
    loaded.load_params(str(tmp_path / name))
    same({key: loaded.params[key] for key in saved.params}, saved.params)
    x = draw(2, 1, 8, 8)
    np.testing.assert_array_equal(loaded.predict(x), saved.predict(x))
    assert loaded.layers["Conv1"].W is loaded.params["W1"]
    assert loaded.layers["Affine2"].b is loaded.params["b3"]


def test_the_default_name_is_the_books(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    saved, loaded = network(), network()
    saved.save_params()
    loaded.load_params()
    assert (tmp_path / "params.pkl").is_file()
    same(loaded.params, saved.params)


def test_what_is_written_is_no_pickle(tmp_path: Path) -> None:
    """NumPy reads it without being allowed to unpickle; an unpickler finds nothing to run."""
    saved = network()
    saved.save_params(tmp_path / "params.pkl")
    with np.load(tmp_path / "params.pkl", allow_pickle=False) as archive:
        np.testing.assert_array_equal(archive["W1"], saved.params["W1"])
    with pytest.raises(pickle.UnpicklingError), open(tmp_path / "params.pkl", "rb") as file:
        pickle.load(file)


def test_saving_replaces_an_old_pickle(tmp_path: Path) -> None:
    path = tmp_path / "params.pkl"
    path.write_bytes(pickle.dumps({"W1": np.zeros(1)}))
    saved, loaded = network(), network()
    saved.save_params(path)
    loaded.load_params(path)
    same(loaded.params, saved.params)


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
@pytest.mark.parametrize("module", ["numpy._core", "numpy.core"], ids=["NumPy 2", "NumPy 1"])
def test_old_pickles_are_read(tmp_path: Path, protocol: int, module: str) -> None:
    """As the book's save_params wrote them, with either NumPy's names."""
    old, new = network(), network()
    content = renamed(pickle.dumps(old.params, protocol), "numpy._core", module)
    (tmp_path / "params.pkl").write_bytes(content)
    new.load_params(tmp_path / "params.pkl")
    same(new.params, old.params)
    x = draw(2, 1, 8, 8)
    np.testing.assert_array_equal(new.predict(x), old.predict(x))


def renamed(content: bytes, old: str, new: str) -> bytes:
    """A pickle in which one module goes by another name."""
    out, here = bytes_io.BytesIO(), 0
    for opcode, argument, position in pickletools.genops(content):
        if argument is None or not isinstance(argument, str) or old not in argument:
            continue
        out.write(content[here:position])
        text = argument.replace(old, new)
        if opcode.name == "GLOBAL":
            written = b"c" + text.replace(" ", "\n").encode() + b"\n"
            here = position + 1 + len(argument.encode()) + 1
        else:
            written = pickle.SHORT_BINUNICODE + bytes([len(text)]) + text.encode()
            here = position + 2 + len(argument.encode())
        out.write(written)
    content = out.getvalue() + content[here:]
    if content[2:3] == pickle.FRAME:  # whose length may have changed
        content = content[:3] + (len(content) - 11).to_bytes(8, "little") + content[11:]
    return content


def test_arrays_come_to_the_backend_of_the_network(make: Any, tmp_path: Path) -> None:
    saved = network()
    saved.save_params(tmp_path / "params.pkl")
    with make.use():
        loaded = network()
    loaded.load_params(tmp_path / "params.pkl")
    for key, value in loaded.params.items():
        make.check(value, saved.params[key], "float64")
    loaded.save_params(tmp_path / "again.npz")
    again = network()
    again.load_params(tmp_path / "again.npz")
    same(again.params, saved.params)


@pytest.mark.parametrize("name", ["params.pkl", "params.safetensors"])
def test_half_precision_stays_what_it_is(tmp_path: Path, name: str) -> None:
    saved, loaded = network(), network()
    saved.params = {key: value.astype(np.float16) for key, value in saved.params.items()}
    saved.save_params(tmp_path / name)
    loaded.load_params(tmp_path / name)
    assert {value.dtype for value in loaded.params.values()} == {np.dtype("float16")}
    assert loaded.predict(draw(1, 1, 8, 8, dtype="float16")).dtype == np.float16


def test_a_deep_network(tmp_path: Path) -> None:
    saved, loaded = DeepConvNet(), DeepConvNet()
    saved.save_params(tmp_path / "deep_convnet_params.pkl")
    loaded.load_params(tmp_path / "deep_convnet_params.pkl")
    x = draw(1, 1, 28, 28)
    np.testing.assert_array_equal(loaded.predict(x), saved.predict(x))


def test_what_does_not_fit_is_named_at_once_and_nothing_is_loaded(tmp_path: Path) -> None:
    net = network()
    before = {key: value.copy() for key, value in net.params.items()}
    wrong: dict[str, Any] = {**before, "W1": np.zeros((2, 1, 5, 5)), "b2": [0.0] * 5, "gamma": np.zeros(1)}
    wrong["W3"] = np.zeros((5, 10), dtype=bool)
    del wrong["b3"]
    path = tmp_path / "params.pkl"
    path.write_bytes(pickle.dumps(wrong))
    with pytest.raises(StateDictError) as caught:
        net.load_params(path)
    message = str(caught.value)
    assert message.startswith(f"{path} does not fit this network:")
    for problem in (
        "missing: b3",
        "unexpected: 'gamma'",
        "W1: shape (2, 1, 5, 5), expected (2, 1, 3, 3)",
        "b2: a list, not an array of real numbers",
        "W3: an array of bool, not one of real numbers",
    ):
        assert problem in message
    same(net.params, before)


def test_files_that_are_missing_or_none(tmp_path: Path) -> None:
    net = network()
    with pytest.raises(CheckpointError, match=r"absent\.pkl: cannot be read: No such file"):
        net.load_params(tmp_path / "absent.pkl")
    with pytest.raises(CheckpointError, match=r"absent\.safetensors: no such file"):
        net.load_params(tmp_path / "absent.safetensors")
    with pytest.raises(CheckpointError, match="cannot be read"):
        net.load_params(tmp_path)
    (tmp_path / "list.pkl").write_bytes(pickle.dumps([np.zeros(2)]))
    with pytest.raises(CheckpointError, match="a pickle of a list, not of a dict of parameters"):
        net.load_params(tmp_path / "list.pkl")
    with pytest.raises(CheckpointError, match="end in"):
        net.save_params(tmp_path / "params.h5")
    with pytest.raises(CheckpointError, match="cannot write"):
        net.save_params(tmp_path / "no such folder" / "params.pkl")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["list.pkl"]
