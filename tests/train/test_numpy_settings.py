"""NumPy's numbers, bools and small arrays as a model's arguments and a trainer's settings, through files."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from xpcnn import Trainer, data, io, load_model, models, nn, optim
from xpcnn.nn.spec import parse_spec
from xpcnn.train import EarlyStopping, RunDirectory, restore_checkpoint, save_checkpoint

MODELS: dict[str, tuple[str, dict[str, Any], dict[str, Any]]] = {
    "an int": ("simple_convnet", {"filters": np.int64(4)}, {"filters": 4}),
    "an array": ("deep_convnet", {"filters": np.array([2, 3, 4])}, {"filters": (2, 3, 4)}),
    "a list of NumPy's ints": (
        "deep_convnet",
        {"filters": [np.int8(2), 3, np.int64(4)]},
        {"filters": (2, 3, 4)},
    ),
    "a big-endian array": ("deep_convnet", {"filters": np.array([2, 3, 4], ">i4")}, {"filters": (2, 3, 4)}),
    "a 0-d array": (
        "tiny_convnet",
        {"filters": np.array(4), "classes": np.array(3)},
        {"filters": 4, "classes": 3},
    ),
    "a seed": ("lenet5", {"seed": np.int64(1)}, {"seed": 1}),
    "a bool": (
        "vgg11",
        {"small_images": np.bool_(True), "classes": np.int64(3)},
        {"small_images": True, "classes": 3},
    ),
    "a type": ("tiny_convnet", {"dtype": np.float32}, {"dtype": "float32"}),
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
    assert layer is not None
    layer.mean, layer.std = np.float32(0.5), np.array([2.0])
    model.save(tmp_path / "m.npz")
    again = nn.preprocess_of(load_model(tmp_path / "m.npz"))
    assert again is not None
    assert (again.mean, again.std) == (0.5, (2.0,))


SCHEDULES: dict[str, Any] = {
    "StepLR": lambda o, n: optim.StepLR(o, n(2), gamma=n(0.5)),
    "ExponentialLR": lambda o, n: optim.ExponentialLR(o, gamma=n(0.5)),
    "CosineAnnealingLR": lambda o, n: optim.CosineAnnealingLR(o, n(8), eta_min=n(0.25)),
    "LinearWarmup": lambda o, n: optim.LinearWarmup(o, n(4)),
    "OneCycleLR": lambda o, n: optim.OneCycleLR(o, max_lr=n(0.5), total_steps=n(8), pct_start=n(0.25)),
}
OPTIMIZERS: dict[str, Any] = {
    "SGD": lambda m, n: optim.SGD(m, lr=n(0.5), momentum=n(0.5), weight_decay=n(0.125)),
    "AdaGrad": lambda m, n: optim.AdaGrad(m, lr=n(0.5), eps=n(0.125)),
    "RMSprop": lambda m, n: optim.RMSprop(m, lr=n(0.5), alpha=n(0.5), momentum=n(0.5)),
    "Adam": lambda m, n: optim.Adam(m, lr=n(0.5), betas=np.array([0.5, 0.75]), eps=n(0.125)),
    "AdamW": lambda m, n: optim.AdamW(m, n(0.5), (n(0.5), n(0.75)), groups={"*.bias": {"lr": n(0.25)}}),
}


def as_numpy(value: Any) -> Any:
    return np.int64(value) if isinstance(value, int) else np.float32(value)


def trained(optimizer: str, schedule: str, number: Any) -> Trainer:
    model = models.tiny_convnet(filters=2, seed=0)
    chosen = OPTIMIZERS[optimizer](model, number)
    trainer = Trainer(
        model,
        chosen,
        seed=number(3),
        clip_norm=number(0.5),
        schedule=SCHEDULES[schedule](chosen, number),
        average=optim.WeightAverage(model, decay=number(0.75)),
    )
    digits = data.synthetic_digits(20, seed=0)
    trainer.fit(digits, epochs=number(1), batch_size=number(10), evaluate_samples=number(5), progress=None)
    return trainer


PAIRS = [*((name, "StepLR") for name in OPTIMIZERS), *(("SGD", name) for name in SCHEDULES)]


@pytest.mark.parametrize(("optimizer", "schedule"), PAIRS)
def test_a_checkpoint_with_numpy_settings_is_that_of_python_ones(
    optimizer: str, schedule: str, tmp_path: Path
) -> None:
    ours, theirs = (trained(optimizer, schedule, number) for number in (as_numpy, lambda value: value))
    save_checkpoint(tmp_path / "ours.safetensors", ours)
    save_checkpoint(tmp_path / "theirs.safetensors", theirs)
    for restored_from in ("ours", "theirs"):
        for trainer in (ours, theirs):
            restore_checkpoint(tmp_path / f"{restored_from}.safetensors", trainer)
            assert trainer.steps == 2
    assert ours.optimizer.state_dict().keys() == theirs.optimizer.state_dict().keys()
    for path, array in theirs.model.state_dict().items():
        np.testing.assert_array_equal(ours.model.state_dict()[path], array)
    assert ours.history.losses == theirs.history.losses


def test_a_run_with_numpy_settings(tmp_path: Path) -> None:
    model = models.tiny_convnet(filters=np.int64(2))
    settings = {"lr": np.float32(0.5), "sizes": np.array([1, 2]), "flag": np.bool_(True)}
    run = RunDirectory(tmp_path / "run", settings)
    digits = data.synthetic_digits(20)
    trainer = Trainer(model, optim.SGD(model, lr=np.float32(0.25)), seed=np.int64(3))
    stop = EarlyStopping(np.int64(1), min_delta=np.float32(0.5))
    trainer.fit(digits, digits, epochs=2, batch_size=10, progress=None, callbacks=[run, stop])
    assert run.config() == {"lr": 0.5, "sizes": [1, 2], "flag": True}
    assert run.history().epochs == trainer.history.epochs
    again = Trainer(model, optim.SGD(model, lr=0.25), seed=3)
    run.restore(again)
    assert again.steps == trainer.steps
