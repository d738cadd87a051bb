"""A published model that was changed is saved with its structure, not as what it was built as."""

from __future__ import annotations

import copy
import logging
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from xpcnn import io, models, nn, optim
from xpcnn.errors import CheckpointError, ShapeError
from xpcnn.nn.spec import parse_spec, spec_of
from xpcnn.train import Trainer, load_model


def spec_in(folder: Path, model: nn.Layer) -> nn.ModelSpec:
    model.save(folder / "m.npz")
    return parse_spec(io.load_weights(folder / "m.npz").metadata["spec"], "m.npz")


def drop_last(model: Any) -> None:
    del model._layers["dropout2"]


CHANGES: dict[str, tuple[Callable[[], Any], Callable[[Any], None]]] = {
    "a head of the same shape, without bias": (
        models.resnet20,
        lambda m: setattr(m, "fc", nn.Linear(64, 10, False)),
    ),
    "deep inside": (models.resnet20, lambda m: m.layer2[0][0][0].__setitem__("relu", nn.Tanh())),
    "by position": (models.resnet20, lambda m: m.__setitem__(-1, nn.Linear(64, 3))),
    "more behind it": (models.resnet20, lambda m: m.__setitem__("out", nn.Softmax())),
    "less": (models.deep_convnet, drop_last),
    "an option": (models.deep_convnet, lambda m: setattr(m.dropout1, "p", 0.1)),
    "a pooling's size": (models.simple_convnet, lambda m: setattr(m.pool1, "padding", (1, 1))),
    "a subclass": (models.tiny_convnet, lambda m: setattr(m, "fc", Twice(1352, 10))),
    "layers in another order": (models.simple_convnet, lambda m: swap(m, "relu1", "pool1")),
}


@nn.registered("tests.changed.Twice")
class Twice(nn.Linear):
    def forward(self, x: Any, *, train: bool = False, key: Any = None) -> tuple[Any, Any]:
        y, ctx = super().forward(x)
        return 2 * y, ctx


def swap(model: Any, one: str, other: str) -> None:
    layers = dict(model._layers)
    layers[one], layers[other] = layers[other], layers[one]
    model._layers = layers


@pytest.mark.parametrize(("new", "change"), CHANGES.values(), ids=CHANGES.keys())
def test_the_file_has_the_structure(tmp_path: Path, new: Callable[[], Any], change: Any) -> None:
    model = new()
    assert spec_in(tmp_path, model) == model.spec
    change(model)
    spec = spec_in(tmp_path, model)
    assert (spec.builder, spec.arguments, spec.missing) == (None, {}, None)
    again = load_model(tmp_path / "m.npz")
    assert repr(again) == repr(model)
    assert spec_in(tmp_path, again) == spec
    for path, values in model.state_dict().items():
        np.testing.assert_array_equal(again.state_dict()[path], values)
    convnets = (models.deep_convnet, models.simple_convnet, models.tiny_convnet)
    shape = (1, 1, 28, 28) if new in convnets else (1, 3, 32, 32)
    x = np.random.default_rng(0).random(shape, dtype=np.float32)
    np.testing.assert_array_equal(answer(again, x), answer(model, x))


def answer(model: Any, x: Any) -> Any:
    """What a model says of images; or the error, as what was replaced may not fit what is behind it."""
    try:
        return model(x)
    except ShapeError as error:
        return str(error)


class Unknown(nn.ReLU):
    """Of no known kind."""


def test_a_layer_of_no_known_kind(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    model: Any = models.resnet20()
    model.relu = Unknown()
    with caplog.at_level(logging.WARNING, "xpcnn"):
        spec = spec_in(tmp_path, model)
    assert (spec.builder, spec.structure) == (None, None)
    told = "relu is a Unknown, which is not registered: put @nn.registered"
    assert told in str(spec.missing)
    assert f"m.npz: saved without its structure, so load_model cannot build it: {told}" in caplog.text
    with pytest.raises(CheckpointError, match=r"m\.npz: does not say how its model is built, as relu is a "):
        load_model(tmp_path / "m.npz")
    again: Any = models.resnet20(seed=1)
    again.relu = Unknown()
    again.load(tmp_path / "m.npz")  # what the error says to do
    np.testing.assert_array_equal(again.fc.weight.data, model.fc.weight.data)


def test_the_preprocessing_is_kept_and_saved(tmp_path: Path) -> None:
    model: Any = models.resnet20()
    model.fc = nn.Linear(64, 3)
    assert nn.preprocess_of(model).mean == (0.4914, 0.4822, 0.4465)  # type: ignore[union-attr]
    model = models.resnet20()
    nn.preprocess_of(model).std = 0.5  # type: ignore[union-attr]
    assert spec_in(tmp_path, model).builder is None
    again = nn.preprocess_of(load_model(tmp_path / "m.npz"))
    assert again is not None
    assert (again.mean, again.std) == ((0.4914, 0.4822, 0.4465), 0.5)


def train_one_step(model: Any) -> Any:
    Trainer(model, optim.SGD(model, lr=0.1)).step(np.zeros((4, 1, 28, 28), np.uint8), np.arange(4))
    return model


def with_other_settings(model: Any) -> Any:
    model.load_state_dict(models.tiny_convnet(seed=1).state_dict())
    model.freeze("conv1.*")
    model.conv1.algorithm = "loop"
    return model


def test_a_changed_member_of_an_ensemble(tmp_path: Path) -> None:
    both: Any = nn.Ensemble(models.tiny_convnet(seed=0), models.tiny_convnet(seed=1), vote="geometric")
    both.members[1].pool1 = nn.AvgPool2d(2)
    both.save(tmp_path / "m.npz")
    again = load_model(tmp_path / "m.npz")
    assert repr(again) == repr(both)
    x = np.random.default_rng(0).random((2, 1, 28, 28), dtype=np.float32)
    np.testing.assert_array_equal(again(x), both(x))


KEPT: dict[str, Any] = {
    "deepcopy": copy.deepcopy,
    "pickle": lambda model: pickle.loads(pickle.dumps(model)),
    "dtype": lambda model: model.to(dtype="float64"),
    "trained": train_one_step,
    "loaded, frozen, and by another algorithm": with_other_settings,
    "fused, with nothing to fold": nn.fuse,
}


@pytest.mark.parametrize("use", KEPT.values(), ids=KEPT.keys())
def test_what_is_no_change(tmp_path: Path, use: Any) -> None:
    model = use(models.tiny_convnet())
    assert spec_in(tmp_path, model) == model.spec
    again = load_model(tmp_path / "m.npz")
    assert spec_of(again) == model.spec
    for path, array in model.state_dict().items():
        assert again.state_dict()[path].dtype == array.dtype
        np.testing.assert_array_equal(again.state_dict()[path], array)
