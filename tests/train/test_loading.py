"""load_model: a model from its file alone, or from a run."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from xpcnn import Trainer, io, load_model, models, optim
from xpcnn.data import Dataset
from xpcnn.errors import CheckpointError
from xpcnn.train import RunDirectory


def test_from_a_file_and_from_a_run(tmp_path: Path, digits: Dataset) -> None:
    model = models.tiny_convnet(filters=3, bias=True, dtype="float64", seed=8)
    run = RunDirectory(tmp_path / "run", {})
    Trainer(model, optim.SGD(model)).fit(digits[:40], None, 1, 20, progress=None, callbacks=[run])
    model.save(tmp_path / "w.npz")
    for path in (run.path, run.weights_file, str(tmp_path / "w.npz")):
        loaded = load_model(path)
        assert loaded.spec == model.spec
        assert loaded.spec is not None
        assert loaded.spec.input_shape == (1, 28, 28)
        for name, parameter in model.parameters().items():
            assert loaded.parameters()[name].dtype == "float64"
            np.testing.assert_array_equal(loaded.parameters()[name].data, parameter.data)


def test_what_is_refused(tmp_path: Path) -> None:
    io.save_arrays(tmp_path / "plain.npz", {"weight": np.zeros((2, 3))}, {})
    with pytest.raises(CheckpointError, match="does not say how its model is built; build the model, and"):
        load_model(tmp_path / "plain.npz")
    for path in (tmp_path / "absent", tmp_path):  # a folder, but of no run
        with pytest.raises(CheckpointError, match="no such file"):
            load_model(path)
