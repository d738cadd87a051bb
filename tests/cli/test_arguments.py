"""A model's arguments from the command line, and what images a model is said to take."""

from __future__ import annotations

import re
from inspect import signature
from typing import Any

import pytest

from xpcnn import Trainer, data, models, nn, optim
from xpcnn.cli.models import for_images, input_shape_of, model_options
from xpcnn.cli.options import UsageError
from xpcnn.models.catalog import MODELS


def made_up(
    count: int = 3,
    share: float = 0.5,
    flag: bool = False,
    word: str = "he",
    either: float | str = 0.01,
    perhaps: bool | None = None,
    size: int | None = None,
    sides: int | tuple[int, int] | None = None,
    shape: tuple[int, int, int] = (1, 28, 28),
    bare=4,  # type: ignore[no-untyped-def]
    nothing=None,
    seed: Any = 0,
) -> None:
    """Stands for a model."""


@pytest.fixture
def a_model(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(MODELS, "made_up", made_up)


VALUES = {
    "count=4": 4, "share=1": 1.0, "share=2e-3": 0.002, "flag=true": True, "flag=False": False,
    "word=xavier": "xavier", "word=3": "3", "word=none": "none", "either=0.5": 0.5, "either=he": "he",
    "perhaps=none": None, "perhaps=true": True, "size=None": None, "size=7": 7, "sides=7": 7,
    "sides=7,5": (7, 5), "shape=3,4,5": (3, 4, 5), "bare=5": 5, "nothing=x": "x",
}  # fmt: skip


@pytest.mark.parametrize("pair", VALUES)
def test_values_are_read_as_their_argument_is_annotated(a_model: None, pair: str) -> None:
    (read,) = model_options("made_up", [pair]).values()
    assert (read, type(read)) == (VALUES[pair], type(VALUES[pair]))


@pytest.mark.parametrize(
    "pair", ["count=x", "count=1.5", "share=much", "flag=1", "perhaps=3", "size=x", "sides=1,2,3", "bare=x"]
)
def test_values_of_another_kind(a_model: None, pair: str) -> None:
    name, _, text = pair.partition("=")
    message = f"{pair}: '{text}' is no value for {signature(made_up, eval_str=True).parameters[name]}"
    with pytest.raises(UsageError, match=re.escape(message)):
        model_options("made_up", [pair])


def test_each_option_of_each_model_can_be_written() -> None:
    for model in models.model_names():
        for name, argument in signature(MODELS[model]).parameters.items():
            if name not in ("seed", "dtype") and argument.default is not argument.empty:
                default = argument.default
                written = ",".join(map(str, default)) if isinstance(default, tuple) else str(default)
                assert model_options(model, [f"{name}={written}"]) == {name: default}


def test_large_images_get_the_published_network() -> None:
    assert for_images("resnet18", {}, (3, 64, 64))["small_images"] is True
    given = for_images("resnet18", {"classes": 4}, (1, 65, 65), 10)
    assert given == {"in_channels": 1, "small_images": False, "classes": 4}
    assert for_images("simple_convnet", {}, (3, 8, 9)) == {"input_shape": (3, 8, 9)}


@pytest.mark.parametrize(
    ("build", "shape"),
    [
        (lambda: models.simple_convnet((3, 20, 30)), (3, 20, 30)),
        (lambda: models.deep_convnet(), (1, 28, 28)),
        (lambda: models.deep_convnet(in_channels=3), (3, 32, 32)),
        (lambda: models.resnet20(), (3, 32, 32)),
        (lambda: models.resnet18(classes=5), (3, 224, 224)),
        (lambda: models.resnet18(in_channels=1), (1, 224, 224)),
        (lambda: models.resnet18(small_images=True, in_channels=1), (1, 28, 28)),
        (lambda: nn.Linear(2, 3), None),
    ],
)
def test_an_untrained_model_takes_the_published_images(build: Any, shape: Any) -> None:
    assert input_shape_of(build()) == shape


def test_a_trained_model_takes_what_it_was_trained_on() -> None:
    model = models.resnet20(in_channels=1)
    Trainer(model, optim.SGD(model)).fit(data.synthetic_digits(10), epochs=1, progress=None)
    assert input_shape_of(model) == (1, 28, 28)
