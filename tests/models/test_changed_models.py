"""A published model that was changed is not saved under the description of what it was."""

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
from xpcnn.errors import CheckpointError
from xpcnn.train import Trainer, load_model


def recipe_in(folder: Path, model: nn.Layer) -> nn.Recipe | None:
    model.save(folder / "m.npz")
    return io.load_weights(folder / "m.npz").recipe


def small() -> Any:
    return models.googlenet(classes=3, small_images=True)


def drop_last(model: Any) -> None:
    del model._layers["dropout2"]


CHANGES: dict[str, tuple[Callable[[], Any], Callable[[Any], None]]] = {
    "another head": (models.resnet20, lambda m: setattr(m, "fc", nn.Linear(64, 3, seed=0))),
    "a head of the same shape, without bias": (
        models.resnet20,
        lambda m: setattr(m, "fc", nn.Linear(64, 10, False)),
    ),
    "GELU for ReLU": (models.resnet20, lambda m: setattr(m, "relu", nn.GELU())),
    "deep inside": (models.resnet20, lambda m: m.layer2[0][0][0].__setitem__("relu", nn.Tanh())),
    "by position": (models.resnet20, lambda m: m.__setitem__(-1, nn.Linear(64, 3))),
    "more behind it": (models.resnet20, lambda m: m.__setitem__("out", nn.Softmax())),
    "less": (models.deep_convnet, drop_last),
    "an inner branch": (small, lambda m: setattr(m.inception3a, "branch1", nn.Conv2d(192, 64, 1))),
    "an option": (models.deep_convnet, lambda m: setattr(m.dropout1, "p", 0.1)),
    "a pooling's size": (models.simple_convnet, lambda m: setattr(m.pool1, "padding", (1, 1))),
    "a subclass": (models.tiny_convnet, lambda m: setattr(m, "fc", Twice(1352, 10))),
    "layers in another order": (models.simple_convnet, lambda m: swap(m, "relu1", "pool1")),
}


class Twice(nn.Linear):
    def forward(self, x: Any, *, train: bool = False, key: Any = None) -> tuple[Any, Any]:
        y, ctx = super().forward(x)
        return 2 * y, ctx


def swap(model: Any, one: str, other: str) -> None:
    layers = dict(model._layers)
    layers[one], layers[other] = layers[other], layers[one]
    model._layers = layers


@pytest.mark.parametrize(("new", "change"), CHANGES.values(), ids=CHANGES.keys())
def test_the_file_says_that_it_has_no_recipe(
    tmp_path: Path, new: Callable[[], Any], change: Any, caplog: pytest.LogCaptureFixture
) -> None:
    model = new()
    assert recipe_in(tmp_path, model) == model.recipe
    change(model)
    with caplog.at_level(logging.INFO, "xpcnn"):
        assert recipe_in(tmp_path, model) is None
    assert f"saved without a recipe: the model is not as {model.recipe.name} built it" in caplog.text
    with pytest.raises(CheckpointError, match=r"build the model, replace the same children, .* model\.load"):
        load_model(tmp_path / "m.npz")
    again = new()
    change(again)
    again.load(tmp_path / "m.npz")  # what the error says to do
    for path, values in model.state_dict().items():
        np.testing.assert_array_equal(again.state_dict()[path], values)


def test_a_change_that_is_undone() -> None:
    model = models.resnet20()
    fc = model.fc
    model.fc = nn.Linear(64, 3)
    model.fc = fc
    assert model.fitting_recipe == model.recipe


def train_one_step(model: Any) -> Any:
    Trainer(model, optim.SGD(model, lr=0.1)).step(np.zeros((4, 1, 28, 28), np.uint8), np.arange(4))
    return model


def reloaded(model: Any) -> Any:
    model.load_state_dict(models.tiny_convnet(seed=1).state_dict())
    return model


def frozen(model: Any) -> Any:
    model.freeze("conv1.*")
    return model


def with_algorithm(model: Any) -> Any:
    model.conv1.algorithm = "loop"
    return model


def normalised_otherwise(model: Any) -> Any:
    model[""].mean = 0.25  # which the file says beside the recipe
    return model


KEPT: dict[str, Any] = {
    "nothing": lambda model: model,
    "deepcopy": copy.deepcopy,
    "pickle": lambda model: pickle.loads(pickle.dumps(model)),
    "dtype": lambda model: model.to(dtype="float64"),
    "frozen": frozen,
    "loaded": reloaded,
    "trained": train_one_step,
    "another algorithm": with_algorithm,
    "another mean": normalised_otherwise,
    "fused, with nothing to fold": nn.fuse,
}


@pytest.mark.parametrize("use", KEPT.values(), ids=KEPT.keys())
def test_what_is_no_change(tmp_path: Path, use: Any) -> None:
    model = use(models.tiny_convnet())
    assert recipe_in(tmp_path, model) == model.recipe
    assert load_model(tmp_path / "m.npz").fitting_recipe is not None


SMALL = ("simple_convnet", "deep_convnet", "tiny_convnet", "lenet5", "googlenet", "resnet18", "resnet110")


@pytest.mark.parametrize("name", SMALL)  # the others are built of the same layers
def test_every_published_model_fits_its_own_recipe(name: str) -> None:
    model = models.build(name)
    assert model.fitting_recipe is model.recipe


def test_fused_models_are_saved_as_fused(tmp_path: Path) -> None:
    fused = nn.fuse(models.resnet20())
    recipe = recipe_in(tmp_path, fused)
    assert recipe is not None
    assert recipe.name == "fused resnet20"
    changed = models.resnet20()
    changed.fc = nn.Linear(64, 3)
    assert recipe_in(tmp_path, nn.fuse(changed)) is None
    fused.fc = nn.Linear(64, 3)
    assert recipe_in(tmp_path, fused) is None


# -- ensembles -----------------------------------------------------------------------------


def pair() -> Any:
    return nn.Ensemble(models.tiny_convnet(seed=0), models.tiny_convnet(seed=1))


def test_an_ensemble_as_it_was_built(tmp_path: Path) -> None:
    assert recipe_in(tmp_path, pair()) is not None
    assert len(load_model(tmp_path / "m.npz").children()) == 2


def test_an_ensemble_of_which_a_member_was_changed_since(tmp_path: Path) -> None:
    both = pair()
    both.members[1].fc = nn.Linear(1352, 4)
    assert recipe_in(tmp_path, both) is None
    both[0] = models.tiny_convnet(seed=2)  # which describes the ensemble again
    assert recipe_in(tmp_path, both) is None
    both[1] = models.tiny_convnet(seed=3)
    assert recipe_in(tmp_path, both) is not None


def test_an_ensemble_with_a_member_that_was_changed_before(tmp_path: Path) -> None:
    changed = models.tiny_convnet(seed=0)
    changed.pool1 = nn.AvgPool2d(2)
    both = nn.Ensemble(changed, models.tiny_convnet(seed=1))
    assert both.recipe is not None
    assert recipe_in(tmp_path, both) is None
