"""load_model: a model from its file alone, or from a run; NumPy's numbers on the way through files."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from xpcnn import Trainer, data, io, load_model, models, nn, optim
from xpcnn.data import Dataset
from xpcnn.errors import CheckpointError
from xpcnn.nn.spec import parse_spec
from xpcnn.train import EarlyStopping, RunDirectory, restore_checkpoint, save_checkpoint


def test_from_a_file_and_from_a_run(tmp_path: Path, digits: Dataset) -> None:
    model = models.tiny_convnet(filters=3, bias=True, dtype="float64", seed=8)
    run = RunDirectory(tmp_path / "run", {})
    Trainer(model, optim.SGD(model)).fit(digits[:40], None, 1, 20, progress=None, callbacks=[run])
    model.save(tmp_path / "w.npz")
    for path in (run.path, run.weights_file, str(tmp_path / "w.npz")):
        loaded = load_model(path)
        assert loaded.spec == model.spec
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


MODELS: dict[str, tuple[str, dict[str, Any], dict[str, Any]]] = {
    "ints": ("lenet5", {"seed": np.int64(1), "classes": np.array(4)}, {"seed": 1, "classes": 4}),
    "a list": ("deep_convnet", {"filters": [np.int8(2), 3, np.int64(4)]}, {"filters": (2, 3, 4)}),
    "an array": ("deep_convnet", {"filters": np.array([2, 3, 4], ">i4")}, {"filters": (2, 3, 4)}),
    "others": (
        "tiny_convnet",
        {"bias": np.bool_(True), "dtype": np.float32},
        {"bias": True, "dtype": "float32"},
    ),
}


@pytest.mark.parametrize("case", MODELS.values(), ids=MODELS)
def test_a_model_is_built_saved_and_loaded(case: Any, tmp_path: Path) -> None:
    name, given, expected = case
    model = models.build(name, **given)
    model.save(tmp_path / "m.safetensors")
    loaded = load_model(tmp_path / "m.safetensors")
    same = models.build(name, **expected)
    assert loaded.spec == same.spec == model.spec
    for argument, value in expected.items():
        kept = loaded.spec.arguments[argument]
        assert (kept, type(kept)) == (value, type(value))
    for path, array in same.state_dict().items():
        np.testing.assert_array_equal(loaded.state_dict()[path], array)


def test_a_spec_of_ones_own_with_nested_containers(tmp_path: Path) -> None:
    model = models.tiny_convnet()
    arguments = {
        "blocks": [[np.int64(1), 2], (np.float32(0.5), [np.bool_(False)])],
        "table": {"a": np.arange(2)},
    }
    model.spec = model.spec._replace(arguments=arguments)
    model.save(tmp_path / "m.npz")
    spec = parse_spec(io.load_weights(tmp_path / "m.npz").metadata["spec"], "m.npz")
    assert spec.arguments == {"blocks": ((1, 2), (0.5, (False,))), "table": {"a": (0, 1)}}
    layer = nn.preprocess_of(model)
    layer.mean, layer.std = np.float32(0.5), np.array([2.0])
    model.save(tmp_path / "m.npz")
    again = nn.preprocess_of(load_model(tmp_path / "m.npz"))
    assert (again.mean, again.std) == (0.5, (2.0,))


def test_a_run_with_numpy_settings_is_that_of_python_ones(tmp_path: Path) -> None:
    digits = data.synthetic_digits(20)

    def trained(whole: Any, number: Any) -> Trainer:
        model = models.tiny_convnet(filters=whole(2), seed=0)
        betas = np.array([0.5, 0.75]) if number is np.float32 else (0.5, 0.75)
        optimizer = optim.AdamW(model, number(0.5), betas, groups={"*.bias": {"lr": number(0.25)}})
        schedule = optim.LinearWarmup(
            optimizer, whole(4), then=optim.StepLR(optimizer, whole(2), gamma=number(0.5))
        )
        average = optim.WeightAverage(model, decay=number(0.75))
        options = {"seed": whole(3), "clip_norm": number(0.5), "schedule": schedule, "average": average}
        return Trainer(model, optimizer, **options)

    ours, theirs = trained(np.int64, np.float32), trained(int, float)
    settings = {"lr": np.float32(0.5), "sizes": np.array([1, 2]), "flag": np.bool_(True)}
    run = RunDirectory(tmp_path / "run", settings)
    for trainer, whole, callbacks in ((ours, np.int64, [run]), (theirs, int, [])):
        callbacks = [*callbacks, EarlyStopping(whole(9))]
        trainer.fit(digits, digits, whole(2), whole(10), whole(5), progress=None, callbacks=callbacks)
    assert run.config() == {"lr": 0.5, "sizes": [1, 2], "flag": True}
    assert run.history().epochs == ours.history.epochs
    assert ours.history.losses == theirs.history.losses
    save_checkpoint(tmp_path / "theirs.npz", theirs)
    for path in (run.checkpoint_file, tmp_path / "theirs.npz"):
        for again in (trained(np.int64, np.float32), trained(int, float)):
            restore_checkpoint(path, again)
            assert again.steps == ours.steps
            for name, array in ours.model.state_dict().items():
                np.testing.assert_array_equal(again.model.state_dict()[name], array)
