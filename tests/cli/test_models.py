"""Models by name on the command line: built for their images, and what images they are said to take."""

from __future__ import annotations

import inspect
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from xpcnn import Trainer, data, io, load_model, models, nn, optim
from xpcnn.cli import datasets
from xpcnn.cli.options import for_images, input_shape_of, model_options
from xpcnn.cli.parser import UsageError
from xpcnn.data import Dataset
from xpcnn.models.catalog import MODELS
from xpcnn.train import Evaluation

pytest.importorskip("PIL")
QUICK = ("--train-samples", 20, "--test-samples", 10, "--epochs", 1, "--batch-size", 20)


@pytest.fixture
def colours(monkeypatch: pytest.MonkeyPatch) -> None:
    """The dataset's images have 3 channels, 32x30 pixels and 7 classes."""
    rng = np.random.default_rng(0)

    def few(count: int) -> Dataset:
        images = rng.integers(0, 256, (count, 3, 32, 30), dtype=np.uint8)
        return Dataset(images, np.arange(count) % 7, classes=7, name="colours")

    monkeypatch.setitem(datasets.DATASETS, "synthetic-digits", lambda: (few(20), few(10)))


# -- built for the data ------------------------------------------------------------------


@pytest.mark.parametrize("model", ["resnet20", "deep_convnet", "simple_convnet"])
def test_a_model_is_built_for_its_dataset(xpcnn_command: Any, colours: None, model: str) -> None:
    result = xpcnn_command("train", "--model", model, *QUICK, "--out", "run")
    assert (result.status, result.err) == (0, "")
    spec = load_model("run/model.safetensors").spec
    assert spec is not None
    assert spec.input_shape == (3, 32, 30)
    assert spec.arguments["classes"] == 7
    if model == "simple_convnet":
        assert spec.arguments["input_shape"] == (3, 32, 30)
    else:
        assert (spec.arguments["in_channels"], spec.arguments["small_images"]) == (3, True)


def test_options_go_first(xpcnn_command: Any, colours: None) -> None:
    given = ("--model-option", "small_images=false", "--model-option", "classes=8")
    assert xpcnn_command("train", "--model", "resnet20", *QUICK, *given, "--out", "run").status == 0
    spec = load_model("run/model.safetensors").spec
    assert spec is not None
    assert (spec.arguments["small_images"], spec.arguments["classes"]) == (False, 8)


def test_large_images_get_the_published_network() -> None:
    assert for_images("resnet18", {}, (3, 64, 64))["small_images"] is True
    assert for_images("resnet18", {}, (3, 64, 65))["small_images"] is False
    assert for_images("resnet18", {"classes": 4}, (1, 65, 65), 10) == {
        "in_channels": 1,
        "small_images": False,
        "classes": 4,
    }
    assert for_images("simple_convnet", {}, (3, 8, 9)) == {"input_shape": (3, 8, 9)}


def test_what_was_trained_is_summarised_and_predicts(
    xpcnn_command: Any, colours: None, tmp_path: Path
) -> None:
    from PIL import Image

    assert xpcnn_command("train", "--model", "resnet20", *QUICK, "--out", "run").status == 0
    expected = f"{nn.summary(models.resnet20(classes=7, in_channels=3), (3, 32, 30))}\n"
    assert xpcnn_command("summary", "run") == (0, expected, "")
    Image.new("RGB", (30, 32)).save(tmp_path / "same.png")
    Image.new("RGB", (90, 70)).save(tmp_path / "other.png")
    result = xpcnn_command("predict", "--model", "run", "same.png", "other.png")
    assert (result.status, result.err) == (0, "")
    assert [line.partition("  ")[2] for line in result.out.splitlines()] == ["as it is", "90x70 -> 30x32"]
    assert xpcnn_command("evaluate", "run").status == 0


def test_googlenet_with_auxiliary_heads(xpcnn_command: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Their loss is the one that is minimised; the rest is as for other models."""
    seen = []
    monkeypatch.setattr(Trainer, "fit", lambda self, *args, **options: seen.append(self) or self.history)
    monkeypatch.setattr("xpcnn.cli.session.summary", lambda model, shape: None)
    monkeypatch.setattr("xpcnn.cli.session.evaluate", lambda model, test: Evaluation(0.0, 0.0, 0, 10))
    for aux in ("true", "false"):
        given = ("--model", "googlenet", "--model-option", f"aux={aux}", "--out", aux)
        assert xpcnn_command("train", *QUICK, *given).status == 0
    assert [trainer.loss == models.googlenet_loss for trainer in seen] == [True, False]


# -- options -----------------------------------------------------------------------------


def made_up(
    count: int = 3,
    zero: int = 0,
    share: float = 0.5,
    flag: bool = False,
    word: str = "he",
    either: float | str = 0.01,
    perhaps: bool | None = None,
    size: int | None = None,
    rate: float | None = None,
    sides: int | tuple[int, int] | None = None,
    shape: tuple[int, int, int] = (1, 28, 28),
    seed: Any = 0,
) -> None:
    """Stands for a model."""


@pytest.fixture
def a_model(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(MODELS, "made_up", made_up)


@pytest.mark.parametrize(
    ("pair", "value"),
    [
        ("count=4", 4),
        ("zero=0", 0),
        ("share=1", 1.0),
        ("share=2e-3", 0.002),
        ("flag=true", True),
        ("flag=False", False),
        ("word=xavier", "xavier"),
        ("word=3", "3"),
        ("either=0.5", 0.5),
        ("either=he", "he"),
        ("perhaps=none", None),
        ("perhaps=true", True),
        ("size=None", None),
        ("size=7", 7),
        ("rate=7", 7.0),
        ("sides=7", 7),
        ("sides=7,5", (7, 5)),
        ("shape=3,4,5", (3, 4, 5)),
    ],
)
def test_values_are_read_as_their_argument_is_annotated(a_model: None, pair: str, value: Any) -> None:
    (read,) = model_options("made_up", [pair]).values()
    assert (read, type(read)) == (value, type(value))


@pytest.mark.parametrize(
    "pair",
    [
        "count=x",
        "count=0",
        "zero=-1",
        "count=1.5",
        "share=much",
        "flag=1",
        "perhaps=3",
        "size=-1",
        "rate=x",
        "sides=1,2,3",
        "sides=3,0",
    ],
)
def test_values_of_another_kind(a_model: None, pair: str) -> None:
    name, _, text = pair.partition("=")
    default = inspect.signature(made_up).parameters[name].default
    with pytest.raises(
        UsageError, match=f"{pair}: '{text}' is no value for {name}, whose default is {default}"
    ):
        model_options("made_up", [pair])


@pytest.mark.parametrize("model", models.model_names())
def test_each_option_of_each_model_can_be_written(model: str) -> None:
    for name, argument in inspect.signature(getattr(models, model)).parameters.items():
        if name not in ("seed", "dtype"):
            default = argument.default
            written = ",".join(map(str, default)) if isinstance(default, tuple) else str(default)
            assert model_options(model, [f"{name}={written}"]) == {name: default}


# -- what images a model takes -----------------------------------------------------------


@pytest.mark.parametrize(
    ("build", "shape"),
    [
        (lambda: models.simple_convnet((3, 20, 30)), (3, 20, 30)),
        (lambda: models.deep_convnet(), (1, 28, 28)),
        (lambda: models.deep_convnet(in_channels=3), (3, 32, 32)),
        (lambda: models.resnet20(), (3, 32, 32)),
        (lambda: models.resnet18(), (3, 224, 224)),
        (lambda: models.resnet18(classes=5), (3, 224, 224)),
        (lambda: models.resnet18(in_channels=1), (1, 224, 224)),
        (lambda: models.resnet18(small_images=True), (3, 32, 32)),
        (lambda: models.resnet18(small_images=True, in_channels=1), (1, 28, 28)),
        (lambda: nn.Linear(2, 3), None),
    ],
)
def test_an_untrained_model_takes_the_published_images(build: Any, shape: Any) -> None:
    assert input_shape_of(build()) == shape


def test_a_trained_model_takes_what_it_was_trained_on() -> None:
    model = models.resnet20(in_channels=1)
    digits = data.synthetic_digits(10)
    Trainer(model, optim.SGD(model)).fit(digits, epochs=1, batch_size=10, progress=None)
    assert input_shape_of(model) == (1, 28, 28)


def test_summary_of_a_published_network(xpcnn_command: Any) -> None:
    for arguments, build, shape in (
        ((), {}, (3, 224, 224)),
        (("--input-shape", "1,28,28"), {"in_channels": 1, "small_images": True}, (1, 28, 28)),
        (("--input-shape", "3,96,64"), {}, (3, 96, 64)),
        (("--model-option", "small_images=true"), {"small_images": True}, (3, 32, 32)),
    ):
        expected = f"{nn.summary(models.resnet18(**build), shape)}\n"
        assert xpcnn_command("summary", "resnet18", *arguments) == (0, expected, "")


def test_summary_of_untrained_weights(xpcnn_command: Any) -> None:
    model = models.resnet20()
    model.save("w.npz")
    assert load_model("w.npz").spec == model.spec
    assert xpcnn_command("summary", "w.npz") == (0, f"{nn.summary(model, (3, 32, 32))}\n", "")


def test_weights_of_a_version_that_noted_no_images(xpcnn_command: Any) -> None:
    import json

    model = models.simple_convnet((1, 20, 20))
    assert model.spec is not None
    recipe = {"name": "simple_convnet", "arguments": model.spec.arguments, "mean": 0.0, "std": 1.0}
    io.save_arrays("w.npz", model.state_dict(), {"recipe": json.dumps(recipe)})
    assert input_shape_of(load_model("w.npz")) == (1, 20, 20)


@pytest.mark.parametrize("shape", [3, [28, 28], [1, 28, 0], [1, 28, 28.0], [1, 2, 3, 4], "abc"])
def test_a_damaged_note_of_images(xpcnn_command: Any, shape: Any) -> None:
    import json

    models.tiny_convnet().save("w.npz")
    arrays, metadata = io.load_arrays("w.npz")
    spec = {**json.loads(metadata["spec"]), "input_shape": shape}
    io.save_arrays("w.npz", arrays, {**metadata, "spec": json.dumps(spec)})
    status, out, err = xpcnn_command("summary", "w.npz")
    assert (status, out, err.count("\n")) == (1, "", 1)
    assert "w.npz: the model's description is unreadable" in err


# -- models of one's own ------------------------------------------------------------------


def test_commands_read_any_model(xpcnn_command: Any, digits: Any) -> None:
    """A user's containers, trained in Python: without a builder the file has all that commands need."""
    model = nn.Sequential(
        conv=nn.Conv2d(1, 3, 5, stride=2, seed=0),
        act=nn.LeakyReLU(0.2),
        flatten=nn.Flatten(),
        fc=nn.Linear(432, 10, seed=1),
    )
    Trainer(model, optim.Adam(model)).fit(digits[0][:100], epochs=1, progress=None)
    model.save("own.safetensors")
    changed: Any = models.tiny_convnet()
    changed.pool1 = nn.AvgPool2d(2)
    Trainer(changed, optim.Adam(changed)).fit(digits[0][:100], epochs=1, progress=None)
    changed.save("changed.npz")
    picture = pytest.importorskip("PIL.Image").fromarray(digits[1].images[0, 0])
    picture.save("7.png")
    for file in ("own.safetensors", "changed.npz"):
        for command in (
            ("evaluate", file, "--dataset", "synthetic-digits", "--test-samples", 50),
            ("predict", "--model", file, "7.png"),
            ("summary", file),
            ("plot", file, "filters", "features", "--dataset", "synthetic-digits"),
        ):
            status, out, err = xpcnn_command(*command)
            assert (status, err) == (0, ""), err
            assert out
    both = ("--model", "own.safetensors", "--model", "changed.npz")
    assert xpcnn_command("predict", *both, "7.png").status == 0
