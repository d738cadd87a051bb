"""Files are written whole or not at all, whoever draws; images are shown as they are."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from xpcnn import data, models, nn, viz
from xpcnn.errors import ArgumentError, ShapeError
from xpcnn.train import History
from xpcnn.viz.canvas import corners, host_images, mosaic, near_square, show, write

pytest.importorskip("matplotlib")

MODEL = models.tiny_convnet(filters=2)
DIGITS = data.synthetic_digits(4)

X, LABELS = DIGITS.images, DIGITS.labels

PLOTS: dict[str, tuple[Any, ...]] = {
    "plot_activations": (MODEL, X),
    "plot_augmentations": (lambda x, rng: x, X),
    "plot_confusion": ([[1, 2], [3, 4]],),
    "plot_curves": (History([2.0, 1.0]),),
    "plot_feature_maps": (MODEL, X[0]),
    "plot_filters": (MODEL,),
    "plot_initial_values": (),
    "plot_mistakes": (MODEL, DIGITS),
    "plot_sobel": (X[0],),
}


@pytest.mark.parametrize("name", PLOTS)
def test_files_are_written_whole(tmp_path: Path, name: str) -> None:
    from PIL import Image

    png, svg = tmp_path / "picture.png", tmp_path / "picture.svg"
    png.write_bytes(b"old")
    figure = getattr(viz, name)(*PLOTS[name], png)
    write(figure, svg, name)
    assert sorted(os.listdir(tmp_path)) == ["picture.png", "picture.svg"]
    with Image.open(png) as picture:
        picture.load()
        width, height = figure.get_size_inches()
        assert picture.size == pytest.approx((width * 120, height * 120), abs=1)
    assert b"</svg>" in svg.read_bytes()
    with pytest.raises(ArgumentError, match=rf"{name}: .*picture must end in one of"):
        getattr(viz, name)(*PLOTS[name], tmp_path / "picture")


def test_all_plots_are_here() -> None:
    assert {name for name in viz.__all__ if name.startswith("plot_")} == set(PLOTS)


OTHER, LINEAR, ONE = models.tiny_convnet(filters=3), nn.Linear(2, 2), models.resnet20(in_channels=1)
OUTPUTS = r"no layer to show fits layers='relu\*'; layers: conv1, pool1"
WRONG: list[tuple[str, tuple[Any, ...], dict[str, Any], type[Exception], str]] = [
    ("plot_curves", ({},), {}, ArgumentError, "no history given"),
    ("plot_curves", ([History()],), {}, ArgumentError, "History, or a mapping of names to some, got list"),
    (
        "plot_filters",
        (ONE,),
        {"layer": "fc"},
        ArgumentError,
        r"fits layer='fc'; it has conv1, layer1\.0\.conv1",
    ),
    ("plot_filters", (LINEAR,), {}, ArgumentError, "the model has no convolution"),
    ("plot_filters", ((MODEL, OTHER),), {}, ArgumentError, r"differ: \[\(2, 1, 3, 3\), \(3, 1, 3, 3\)\]"),
    ("plot_feature_maps", (MODEL, X), {}, ShapeError, r"image must have shape .*, got \(4, 1, 28, 28\)"),
    ("plot_feature_maps", (MODEL, X[:1]), {"layers": "relu*"}, ArgumentError, OUTPUTS),
    ("plot_activations", (MODEL, X[:0]), {}, ShapeError, r"x is empty, its shape is \(0, 1, 28, 28\)"),
    ("plot_activations", (MODEL, X), {"layers": "relu*"}, ArgumentError, OUTPUTS),
    ("plot_activations", ({}, X), {}, ArgumentError, "no model"),
    ("plot_initial_values", (), {"nonlinearity": "gelu"}, ArgumentError, "'gelu'; known: sigmoid, relu"),
    ("plot_augmentations", (3, X), {}, ArgumentError, "transform must be callable, got int"),
    ("plot_augmentations", (print, X[0]), {}, ShapeError, r"shape \(N, C, H, W\), got \(1, 28, 28\)"),
    ("plot_augmentations", (print, X[:0]), {}, ShapeError, r"shape \(N, C, H, W\), got \(0, 1, 28, 28\)"),
    ("plot_mistakes", (MODEL, DIGITS), {"count": 0}, ArgumentError, "count must be an integer of at least 1"),
    *(
        ("plot_confusion", (wrong,), {}, ShapeError, r"shape \(classes, classes\), got \(")
        for wrong in (np.zeros((2, 3), int), np.zeros((0, 0), int), np.zeros(4, int))
    ),
    *(
        ("plot_confusion", (wrong,), {}, ArgumentError, "must hold counts")
        for wrong in (np.eye(2), -np.eye(2, dtype=int))
    ),
    *(
        ("sobel", (np.zeros(shape),), {}, ShapeError, r"image must be one image .* got shape \(")
        for shape in ((2, 5), (2, 1, 5, 5), (5,))
    ),
    *(
        (name, (MODEL, (X, targets)), {}, ArgumentError, "targets must be labels")
        for name in ("confusion_matrix", "plot_mistakes")
        for targets in (LABELS / 9, np.eye(10)[LABELS] * 2, -1 - LABELS, np.zeros((4, 2, 2)))
    ),
]


@pytest.mark.parametrize(("name", "given", "options", "error", "message"), WRONG)
def test_wrong_arguments(name: str, given: Any, options: Any, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=f"^{name}: .*{message}"):
        getattr(viz, name)(*given, **options)


@pytest.mark.process
def test_no_pyplot_and_what_is_missing_is_told(tmp_path: Path) -> None:
    code = """
import sys
sys.modules["matplotlib"] = None
from xpcnn import viz
try:
    viz.plot_confusion([[1]])
except ImportError as error:
    print(error.__notes__)
del sys.modules["matplotlib"]
viz.plot_confusion([[1]], sys.argv[1])
assert "matplotlib.pyplot" not in sys.modules
"""
    own = {"PYTHONPATH": os.pathsep.join(sys.path), "MPLBACKEND": "tkagg", "DISPLAY": ""}
    command = [sys.executable, "-c", code, str(tmp_path / "p.png")]
    done = subprocess.run(command, capture_output=True, text=True, env={**os.environ, **own}, check=True)
    assert "pip install 'xpcnn[plot]' brings matplotlib" in done.stdout


# -- images -------------------------------------------------------------------------------


def test_images_are_shown_as_floats(make: Any) -> None:
    """Bytes on one scale, floats stretched each; three channels in colour, others by their mean."""
    images = np.array([[[[0, 51], [102, 255]]], [[[10, 10], [10, 10]]]], np.uint8)
    np.testing.assert_array_equal(host_images(make.array(images), "f"), images[:, 0] / 255)
    floats = np.array([[[[-2.0, 0.0, 2.0]]], [[[5.0, 5.0, 5.0]]]])
    np.testing.assert_array_equal(host_images(floats, "f"), [[[0, 0.5, 1]], [[0, 0, 0]]])
    images = np.arange(2 * 3 * 4, dtype=np.uint8).reshape(1, 3, 2, 4)
    np.testing.assert_array_equal(host_images(images, "f")[0, 1, 2], images[0, :, 1, 2] / 255)
    np.testing.assert_allclose(host_images(images[:, :2], "f"), images[:, :2].mean(axis=1) / 255)


def test_mosaic_places_every_tile() -> None:
    tiles = np.random.default_rng(0).random((5, 2, 30))
    picture = mosaic(tiles, columns=2)
    assert picture.shape == (3 * 2 + 2 * 2, 2 * 30 + 2)
    for tile, (top, left) in zip(tiles, corners(5, 2, 30, 2), strict=True):
        np.testing.assert_array_equal(picture[top : top + 2, left : left + 30], tile)
        picture[top : top + 2, left : left + 30] = np.nan
    assert np.isnan(picture).all()


def test_near_square() -> None:
    assert [near_square(n) for n in (1, 4, 5, 30)] == [1, 2, 3, 6]
    assert near_square(6, aspect=2) == 4


def test_gaps_in_colour_are_blank() -> None:
    from matplotlib.figure import Figure

    axes = Figure().subplots()
    show(axes, mosaic(np.full((2, 1, 1, 3), 0.25)))
    shown = axes.images[0].get_array()
    np.testing.assert_array_equal(shown[0], [[0.25] * 3 + [1], [1, 1, 1, 0], [0.25] * 3 + [1]])
