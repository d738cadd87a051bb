"""`xpcnn plot`: which files it writes, of what, and what it says when it cannot."""

from __future__ import annotations

import json
import shutil
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from xpcnn import load_model, models, viz
from xpcnn.data import Dataset, augment
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


def test_all_of_a_run(xpcnn_command: Any, run: Path) -> None:
    result = xpcnn_command("plot", run)
    paths = [run / "plots" / f"{name}.png" for name in OF_A_RUN]
    assert result == (0, "".join(f"{path}\n" for path in paths), "")
    assert sorted((run / "plots").iterdir()) == sorted(paths)
    assert all(map(is_png, paths))


def test_what_is_drawn_of_a_run(
    xpcnn_command: Any, run: Path, digits: tuple[Dataset, Dataset], drawn: Any
) -> None:
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


def test_some_pictures_elsewhere(xpcnn_command: Any, run: Path, drawn: Any) -> None:
    result = xpcnn_command("plot", run, "confusion", "curves", "--out", "a/b", "--format", "svg")
    assert result == (0, "a/b/confusion.svg\na/b/curves.svg\n", "")
    assert "</svg>" in Path("a/b/curves.svg").read_text()
    assert not (run / "plots").exists()


def test_runs_are_compared(xpcnn_command: Any, run: Path, trained: Path, drawn: Any) -> None:
    for words in ((run, trained), (run, trained, "curves")):
        assert xpcnn_command("plot", *words) == (0, "plots/curves.png\n", "")
        (histories,), _ = drawn.pop("plot_curves")
        assert list(histories) == [str(run), str(trained)]
        assert histories[str(run)] == RunDirectory(run).history()
        assert not drawn


def test_without_initial_weights(xpcnn_command: Any, run: Path, drawn: Any) -> None:
    model = models.tiny_convnet(seed=np.random.default_rng(0))
    model.save("w.npz")
    assert xpcnn_command("plot", "w.npz", "filters") == (0, "plots/filters.png\n", "")
    (shown,), _ = drawn["plot_filters"]
    np.testing.assert_array_equal(shown.conv1.weight.data, model.conv1.weight.data)


def test_a_weight_file(xpcnn_command: Any, run: Path, drawn: Any) -> None:
    result = xpcnn_command("plot", run / "model.safetensors", "--test-samples", 20)
    assert result.out.split() == [str(run / "plots" / f"{name}.png") for name in OF_A_RUN[1:]]
    (run / "run.json").unlink()
    status, _, err = xpcnn_command("plot", run / "model.safetensors", "mistakes")
    assert (status, err.count("\n")) == (2, 1)
    assert "no dataset is named in" in err
    result = xpcnn_command("plot", run / "model.safetensors", "mistakes", "--dataset", "synthetic-digits")
    assert result.status == 0


@pytest.mark.parametrize("backend", ["array_api_strict", "torch"])
def test_on_another_backend(xpcnn_command: Any, run: Path, backend: str) -> None:
    pytest.importorskip(backend)
    words = ("filters", "features", "activations", "confusion", "mistakes")
    result = xpcnn_command("plot", run, *words, "--backend", backend, "--test-samples", 30)
    assert result.status == 0, result.err
    assert all(is_png(Path(line)) for line in result.out.splitlines())


# -- what needs no run --------------------------------------------------------------------


def test_sobel(xpcnn_command: Any, digits: tuple[Dataset, Dataset], drawn: Any) -> None:
    assert xpcnn_command("plot", "sobel") == (0, "plots/sobel.png\n", "")
    (image,), _ = drawn["plot_sobel"]
    np.testing.assert_array_equal(image, digits[1].images[0])


def test_sobel_of_a_picture(xpcnn_command: Any, drawn: Any) -> None:
    from PIL import Image

    pixels = np.random.default_rng(0).integers(0, 256, (30, 40)).astype(np.uint8)
    Image.fromarray(pixels).save("p.png")
    assert xpcnn_command("plot", "sobel", "--image", "p.png").status == 0
    (image,), _ = drawn["plot_sobel"]
    np.testing.assert_array_equal(image, pixels)
    Image.fromarray(pixels).resize((1024, 100)).save("wide.png")
    assert xpcnn_command("plot", "sobel", "--image", "wide.png").status == 0
    assert drawn["plot_sobel"][0][0].shape == (50, 512)


def test_features_of_a_picture(xpcnn_command: Any, run: Path, drawn: Any) -> None:
    from PIL import Image

    picture = Image.new("L", (28, 28), 9)
    picture.paste(240, (12, 5, 16, 23))
    picture.save("p.png")
    assert xpcnn_command("plot", run, "features", "--image", "p.png").status == 0
    (_, image), _ = drawn["plot_feature_maps"]
    assert (image.shape, image.dtype) == ((1, 28, 28), np.uint8)


def test_augmentations(xpcnn_command: Any, run: Path, digits: tuple[Dataset, Dataset], drawn: Any) -> None:
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


def test_initial_values(xpcnn_command: Any) -> None:
    result = xpcnn_command("plot", "initial-values")
    assert result == (0, "plots/initial-values-sigmoid.png\nplots/initial-values-relu.png\n", "")
    assert all(is_png(Path(line)) for line in result.out.split())


# -- errors -------------------------------------------------------------------------------

WRONG: dict[str, tuple[tuple[Any, ...], str]] = {
    "nothing": ((), "the following arguments are required: RUN_OR_WHAT"),
    "an unknown word": (("curvs",), "curvs: no such run's folder or weight file, and not one of curves, "),
    "no run": (("filters", "sobel"), "filters is drawn of a run: xpcnn plot RUN filters sobel"),
    "two runs, other pictures": (("run", ".", "curves", "sobel"), "only be compared by their curves"),
    "an option for nothing": (("run", "curves", "--image", 1), "--image is only for features, sobel"),
    "another": (("sobel", "--test-samples", 1), "--test-samples is only for activations, confusion"),
    "no augmentation": (("run", "augmentations"), "augmentations needs --augment, such as"),
    "an empty augmentation": (
        ("augmentations", "--augment", ""),
        "argument --augment: no transform is named",
    ),
    "an unknown one": (("augmentations", "--augment", "fly=1"), "no transform is called 'fly'; known: "),
    "too few images": (("run", "features", "--image", 300), "--image 300: synthetic-digits has 300 test im"),
    "too few samples": (("run", "confusion", "--test-samples", 301), "--test-samples 301: synthetic-digits"),
    "the curves of a file": (("run/model.safetensors", "curves"), "curves are drawn of a run's folder"),
    "a format": (("run", "--format", "bmp"), "invalid choice: 'bmp' (choose from 'png', 'svg')"),
}


@pytest.mark.parametrize(("words", "message"), WRONG.values(), ids=WRONG)
def test_usage(xpcnn_command: Any, run: Path, words: tuple[Any, ...], message: str) -> None:
    status, out, err = xpcnn_command("plot", *words)
    assert (status, out, err.count("\n")) == (2, "", 1)
    assert message in err
    assert not Path("plots").exists()
    assert not (run / "plots").exists()


def test_what_is_missing(xpcnn_command: Any, run: Path) -> None:
    (run / "history.jsonl").unlink()
    status, out, err = xpcnn_command("plot", run)
    assert (status, out) == (1, "")
    assert err == f"xpcnn: error: {run / 'history.jsonl'}: no such file; is {run} the folder of a run?\n"
    assert xpcnn_command("plot", run, "filters").status == 0
    (run / "model.safetensors").unlink()
    status, out, err = xpcnn_command("plot", run, "filters")
    assert (status, out, err.count("\n")) == (1, "", 1)
    assert f"{run / 'model.safetensors'}: " in err
    for word, message in (
        ("--layers=fc9", "no layer to show fits layers='fc9'"),
        ("--image=no.png", "no.png: "),
    ):
        models.tiny_convnet().save(run / "model.safetensors")
        status, out, err = xpcnn_command("plot", run, "features", word)
        assert (status, out, err.count("\n")) == (1, "", 1)
        assert message in err


def test_a_run_that_has_only_begun(xpcnn_command: Any) -> None:
    folder = RunDirectory("begun", {}).path
    (folder / "history.jsonl").write_text(json.dumps({"losses": [2.3]}) + "\n")
    assert xpcnn_command("plot", folder, "curves") == (0, "begun/plots/curves.png\n", "")


def test_a_folder_that_cannot_be_made(xpcnn_command: Any, run: Path, drawn: Any) -> None:
    Path("file").touch()
    status, out, err = xpcnn_command("plot", run, "curves", "--out", "file/plots")
    assert (status, out) == (1, "")
    assert err.startswith("xpcnn: error: cannot make the folder file/plots: ")


def test_without_matplotlib(xpcnn_command: Any, run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    assert xpcnn_command("plot", run) == (
        1, "", "xpcnn: error: drawing needs matplotlib: pip install 'xpcnn[plot]'\n",
    )  # fmt: skip
