"""`xpcnn plot`: which files it writes, and of what."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.cli.conftest import Digits, Run
from xpcnn import load_model, models, viz
from xpcnn.data import augment
from xpcnn.train import RunDirectory

pytest.importorskip("matplotlib")

OF_A_RUN = ["curves", "filters", "features", "activations", "confusion", "mistakes"]


@pytest.fixture
def drawn(monkeypatch: pytest.MonkeyPatch) -> dict[str, tuple[tuple[Any, ...], dict[str, Any]]]:
    """What each drawing function was given; an empty figure is written in place of each picture."""
    from matplotlib.figure import Figure

    given: dict[str, tuple[tuple[Any, ...], dict[str, Any]]] = {}
    for name in viz.__all__:
        if name.startswith("plot_"):

            def draw(*args: Any, name: str = name, **kwargs: Any) -> Figure:
                given[name] = (args, kwargs)
                return Figure(figsize=(1, 1))

            monkeypatch.setattr(viz, name, draw)
    return given


def is_png(path: Path) -> bool:
    return path.read_bytes().startswith(b"\x89PNG")


@pytest.fixture
def run(trained: Path, tmp_path: Path) -> Path:
    """A run's folder of this test's own."""
    return shutil.copytree(trained, tmp_path / "run")


@pytest.mark.slow
@pytest.mark.parametrize("backend", ["numpy", "array_api_strict"])
def test_all_of_a_run(xpcnn_command: Run, run: Path, backend: str) -> None:
    pytest.importorskip(backend)
    result = xpcnn_command("plot", run, "--backend", backend, "--test-samples", 50)
    paths = [run / "plots" / f"{name}.png" for name in OF_A_RUN]
    assert result == (0, "".join(f"{path}\n" for path in paths), "")
    assert sorted((run / "plots").iterdir()) == sorted(paths)
    assert all(map(is_png, paths))


def test_what_is_drawn_of_a_run(xpcnn_command: Run, run: Path, digits: Digits, drawn: Any) -> None:
    assert xpcnn_command("plot", run, "--test-samples", 50, "--image", 7, "--layers", "conv*").status == 0
    model, test = load_model(run), digits[1][:50]
    weight = model.conv1.weight.data
    (history,), _ = drawn["plot_curves"]
    assert history == RunDirectory(run).history()
    ((before, after),), options = drawn["plot_filters"]
    assert options == {"layer": "conv*"}
    np.testing.assert_array_equal(after.conv1.weight.data, weight)
    initial = models.simple_convnet(filters=8, seed=0).conv1.weight.data
    np.testing.assert_array_equal(before.conv1.weight.data, initial)
    assert not np.array_equal(initial, weight)
    (_, image), options = drawn["plot_feature_maps"]
    assert options == {"layers": "conv*"}
    np.testing.assert_array_equal(image, digits[1].images[7])
    (_, images), _ = drawn["plot_activations"]
    np.testing.assert_array_equal(images, test.images)
    (matrix,), _ = drawn["plot_confusion"]
    np.testing.assert_array_equal(matrix, viz.confusion_matrix(model, test))
    (_, mistaken), _ = drawn["plot_mistakes"]
    np.testing.assert_array_equal(mistaken.labels, test.labels)


def test_some_pictures_elsewhere(xpcnn_command: Run, run: Path, drawn: Any) -> None:
    result = xpcnn_command("plot", run, "confusion", "curves", "--out", "a/b", "--format", "svg")
    assert result == (0, "a/b/confusion.svg\na/b/curves.svg\n", "")
    assert "</svg>" in Path("a/b/curves.svg").read_text()
    assert not (run / "plots").exists()


def test_runs_are_compared(xpcnn_command: Run, run: Path, trained: Path, drawn: Any) -> None:
    for words in ((run, trained), (run, trained, "curves")):
        assert xpcnn_command("plot", *words) == (0, "plots/curves.png\n", "")
        (histories,), _ = drawn.pop("plot_curves")
        assert list(histories) == [str(run), str(trained)]
        assert histories[str(run)] == RunDirectory(run).history()
        assert not drawn


def test_without_initial_weights(xpcnn_command: Run, drawn: Any) -> None:
    model = models.tiny_convnet(seed=np.random.default_rng(0))
    model.save("w.npz")
    assert xpcnn_command("plot", "w.npz", "filters") == (0, "plots/filters.png\n", "")
    (shown,), _ = drawn["plot_filters"]
    np.testing.assert_array_equal(shown.conv1.weight.data, model.conv1.weight.data)


def test_a_weight_file(xpcnn_command: Run, run: Path, drawn: Any) -> None:
    result = xpcnn_command("plot", run / "model.safetensors", "--test-samples", 20)
    assert result.out.split() == [str(run / "plots" / f"{name}.png") for name in OF_A_RUN[1:]]
    (run / "run.json").unlink()
    dataset = ("--dataset", "synthetic-digits")
    assert xpcnn_command("plot", run / "model.safetensors", "mistakes", *dataset).status == 0


def test_a_run_that_has_only_begun(xpcnn_command: Run, drawn: Any) -> None:
    folder = RunDirectory("begun", {}).path
    (folder / "history.jsonl").write_text(json.dumps({"losses": [2.3]}) + "\n")
    assert xpcnn_command("plot", folder, "curves") == (0, "begun/plots/curves.png\n", "")


# -- what needs no run -------------------------------------------------------------------


def test_pictures_of_one_image(xpcnn_command: Run, run: Path, digits: Digits, drawn: Any) -> None:
    image = pytest.importorskip("PIL.Image")
    assert xpcnn_command("plot", "sobel") == (0, "plots/sobel.png\n", "")
    np.testing.assert_array_equal(drawn["plot_sobel"][0][0], digits[1].images[0])
    pixels = np.random.default_rng(0).integers(0, 256, (30, 40)).astype(np.uint8)
    image.fromarray(pixels).save("p.png")
    assert xpcnn_command("plot", "sobel", "--image", "p.png").status == 0
    np.testing.assert_array_equal(drawn["plot_sobel"][0][0], pixels)
    image.fromarray(pixels).resize((1024, 100)).save("wide.png")
    assert xpcnn_command("plot", "sobel", "--image", "wide.png").status == 0
    assert drawn["plot_sobel"][0][0].shape == (50, 512)
    image.fromarray(digits[1].images[3, 0]).save("3.png")
    assert xpcnn_command("plot", run, "features", "--image", "3.png").status == 0
    np.testing.assert_array_equal(drawn["plot_feature_maps"][0][1], digits[1].images[3])


def test_augmentations(xpcnn_command: Run, run: Path, digits: Digits, drawn: Any) -> None:
    told = xpcnn_command("plot", "augmentations", "--augment", "shift=2,rotate=10", "--seed", 5)
    assert told == (0, "plots/augmentations.png\n", "")
    (transform, images), options = drawn["plot_augmentations"]
    assert transform == augment.parse("shift=2,rotate=10")
    np.testing.assert_array_equal(images, digits[0].images[:6])
    assert options == {"seed": 5}
    config = json.loads((run / "run.json").read_text())
    (run / "run.json").write_text(json.dumps(config | {"augment": "scale=0.2"}))
    assert xpcnn_command("plot", run, "augmentations").status == 0
    assert drawn["plot_augmentations"][0][0] == augment.parse("scale=0.2")


def test_initial_values(xpcnn_command: Run, drawn: Any) -> None:
    result = xpcnn_command("plot", "initial-values", "--seed", 3)
    assert result == (0, "plots/initial-values-sigmoid.png\nplots/initial-values-relu.png\n", "")
    assert drawn["plot_initial_values"] == ((), {"nonlinearity": "relu", "seed": 3})
