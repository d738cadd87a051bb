"""save_params and load_params: what is written, what is read, and what does not fit."""

import pickle
import re

import numpy as np
import pytest

from tests.support.files import add_entries, at_most_mib, npy
from tests.support.hostile_pickles import commands
from tests.support.scratch import TINY, draw
from xpcnn.errors import CheckpointError, StateDictError
from xpcnn.scratch.deep_convnet import DeepConvNet
from xpcnn.scratch.simple_convnet import SimpleConvNet


def network():
    return SimpleConvNet((1, 8, 8), TINY, hidden_size=5, weight_init_std=0.3)


def same(params, expected):
    assert list(params) == list(expected)
    for key, value in expected.items():
        assert params[key].dtype == value.dtype
        np.testing.assert_array_equal(params[key], value)


@pytest.mark.parametrize("kind", ["float16", "float64"])
@pytest.mark.parametrize("name", ["params.pkl", "params.npz", "params.safetensors"])
def test_saved_and_loaded(tmp_path, name, kind):
    saved, loaded, x = network(), network(), draw(2, 1, 8, 8, dtype=kind)
    saved.params = {key: value.astype(kind) for key, value in saved.params.items()}
    (tmp_path / name).write_bytes(pickle.dumps({"W1": np.zeros(1)}))  # an old one is replaced
    saved.save_params(tmp_path / name)
    assert [path.name for path in tmp_path.iterdir()] == [name]  # the very name, and nothing beside it
    loaded.load_params(str(tmp_path / name))
    same(loaded.params, saved.params)
    assert loaded.predict(x).dtype == kind
    np.testing.assert_array_equal(loaded.predict(x), saved.predict(x))
    assert loaded.layers["Conv1"].W is loaded.params["W1"]
    assert loaded.layers["Affine2"].b is loaded.params["b3"]


def test_what_is_written_is_no_pickle(tmp_path, monkeypatch):
    """NumPy reads it without being allowed to unpickle."""
    monkeypatch.chdir(tmp_path)
    saved, loaded = DeepConvNet(), DeepConvNet()
    saved.save_params()
    with np.load("params.pkl", allow_pickle=False) as archive:
        np.testing.assert_array_equal(archive["W1"], saved.params["W1"])
    loaded.load_params()
    same(loaded.params, saved.params)


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
@pytest.mark.parametrize("numpy", [1, 2])
def test_old_pickles_are_read(tmp_path, protocol, numpy):
    """As the book's save_params wrote them, with either NumPy's names."""
    old, new, path = network(), network(), tmp_path / "params.pkl"
    content = pickle.dumps(old.params, protocol)
    if numpy == 1:
        # In protocols from 4 on, the length of a name stands before it.
        content = re.sub(rb"\x8c(.)(?=numpy\._core)", lambda m: b"\x8c" + bytes([m[1][0] - 1]), content)
        content = content.replace(b"numpy._core", b"numpy.core")
        if content[2:3] == pickle.FRAME:  # whose length has changed
            content = content[:3] + (len(content) - 11).to_bytes(8, "little") + content[11:]
    path.write_bytes(content)
    new.load_params(path)
    same(new.params, old.params)


def test_arrays_come_to_the_backend_of_the_network(make, tmp_path):
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


def test_what_does_not_fit_is_named_at_once_and_nothing_is_loaded(tmp_path):
    net, path = network(), tmp_path / "params.pkl"
    before = {key: value.copy() for key, value in net.params.items()}
    wrong = {**before, "W1": np.zeros((2, 1, 5, 5)), "b2": [0.0] * 5, "gamma": np.zeros(1)}
    wrong["W3"] = np.zeros((5, 10), dtype=bool)
    del wrong["b3"]
    path.write_bytes(pickle.dumps(wrong))
    with pytest.raises(StateDictError) as caught:
        net.load_params(path)
    assert sorted(str(caught.value).splitlines()) == [
        "  W1: shape (2, 1, 5, 5), expected (2, 1, 3, 3)",
        "  W3: an array of bool, not one of real numbers",
        "  b2: a list, not an array of real numbers",
        "  missing: b3",
        "  unexpected: 'gamma'",
        f"{path} does not fit this network:",
    ]
    path.write_bytes(commands(tmp_path / "canary")["after the data is whole"])
    with pytest.raises(CheckpointError, match="nothing was run"):
        net.load_params(path)
    same(net.params, before)
    assert [path.name for path in tmp_path.iterdir()] == ["params.pkl"]
    np.savez(tmp_path / "p.npz", **before)
    add_entries(tmp_path / "p.npz", more=npy("<f4", (1 << 23,), bytes(1 << 25)))
    with at_most_mib(2), pytest.raises(StateDictError, match="unexpected: 'more'"):
        net.load_params(tmp_path / "p.npz")


def test_files_that_are_missing_or_none(tmp_path):
    net = network()
    (tmp_path / "list.pkl").write_bytes(pickle.dumps([np.zeros(2)]))
    for name, message in {
        "absent.pkl": r"absent\.pkl: cannot be read: No such file",
        "absent.safetensors": r"absent\.safetensors: no such file",
        ".": "cannot be read",
        "list.pkl": "a pickle of a list, not of a dict of parameters",
    }.items():
        with pytest.raises(CheckpointError, match=message):
            net.load_params(tmp_path / name)
    for name, message in {"params.h5": "end in", "no such folder/params.pkl": "cannot write"}.items():
        with pytest.raises(CheckpointError, match=message):
            net.save_params(tmp_path / name)
    assert [path.name for path in tmp_path.iterdir()] == ["list.pkl"]
