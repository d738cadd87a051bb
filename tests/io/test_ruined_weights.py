"""Weights with NaN or infinite numbers are loaded with a warning that names them."""

from __future__ import annotations

import warnings
from pathlib import Path

import numpy as np
import pytest

from xpcnn import io, models
from xpcnn.errors import NonFiniteWarning
from xpcnn.train import load_model

every_ending = pytest.mark.parametrize("ending", [".safetensors", ".npz"])


def ruined(path: Path, value: float, *names: str) -> None:
    """Save a model, one number of which, in each of some arrays, is something else."""
    model = models.tiny_convnet(filters=2)
    arrays = model.state_dict()
    for name in names:
        arrays[name].reshape(-1)[-1] = value
    model.load_state_dict(arrays)
    model.save(path)


@every_ending
@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_the_warning_names_them(tmp_path: Path, ending: str, value: float) -> None:
    path = tmp_path / f"w{ending}"
    ruined(path, value, "fc.weight", "fc.bias")
    told = f"w{ending}: NaN or infinite numbers in fc.bias, fc.weight; a model with"
    with pytest.warns(NonFiniteWarning, match=told):
        loaded = load_model(path)
    np.testing.assert_equal(loaded.state_dict()["fc.bias"][-1], np.float32(value))
    with pytest.warns(NonFiniteWarning, match=told):
        models.tiny_convnet(filters=2).load(path)


def test_many_are_counted(tmp_path: Path) -> None:
    arrays = {f"layer{i}.weight": np.full(2, np.nan, np.float16) for i in range(20)}
    io.save_arrays(tmp_path / "w.npz", arrays, {})
    with pytest.warns(NonFiniteWarning, match=r"layer0.weight, layer1.weight, layer10.weight and 17 more; "):
        io.load_weights(tmp_path / "w.npz")


@every_ending
def test_all_finite_numbers_are_fine(tmp_path: Path, ending: str) -> None:
    largest = [np.finfo(kind).max for kind in (np.float16, np.float32, np.float64)]
    arrays = {str(number.dtype): np.array([number, -number]) for number in largest}
    arrays |= {"whole": np.array([2**62]), "yes": np.array([True]), "none": np.empty(0, np.float32)}
    io.save_arrays(tmp_path / f"w{ending}", arrays, {})
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        io.load_weights(tmp_path / f"w{ending}")
