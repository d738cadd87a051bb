"""Feature maps: what is drawn is what the layers gave."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from xpcnn import data, models, nn
from xpcnn.errors import ArgumentError, ShapeError
from xpcnn.viz import activations, plot_feature_maps
from xpcnn.viz.canvas import corners

pytest.importorskip("matplotlib")

IMAGE = data.synthetic_digits(1, seed=3).images


def test_every_layer_is_drawn(make: Any) -> None:
    model = models.simple_convnet(filters=5, hidden=30).to(backend=make.backend)
    figure = plot_feature_maps(model, make.array(IMAGE[0]))
    names = [axes.get_title().splitlines()[0] for axes in figure.axes]
    assert names == ["input", "conv1", "relu1", "pool1", "fc1", "relu2", "fc2"]
    given = {path: make.to_numpy(output)[0] for path, _, output in activations(model, make.array(IMAGE))}
    panels = dict(zip(names, figure.axes, strict=True))
    np.testing.assert_array_equal(panels["input"].images[0].get_array(), IMAGE[0, 0] / 255)

    shown = panels["pool1"].images[0]
    for tile, (top, left) in zip(given["pool1"], corners(5, 12, 12, 3), strict=True):
        np.testing.assert_array_equal(shown.get_array()[top : top + 12, left : left + 12], tile)
    assert shown.get_clim() == pytest.approx((given["pool1"].min(), given["pool1"].max()))
    assert panels["pool1"].get_title() == "pool1\n5 maps of 12×12"

    squares = np.ma.filled(panels["fc1"].images[0].get_array(), np.nan).reshape(-1)
    np.testing.assert_array_equal(squares[:30], given["fc1"])
    assert panels["fc1"].get_title().startswith("fc1\n30 values, ")
    np.testing.assert_allclose([bar.get_height() for bar in panels["fc2"].patches], given["fc2"])
    black = [bar.get_facecolor() == (0, 0, 0, 1) for bar in panels["fc2"].patches]
    assert black.index(True) == given["fc2"].argmax()
    assert sum(black) == 1


def test_the_number_of_maps_is_capped() -> None:
    model = nn.Sequential(conv=nn.Conv2d(1, 10, 5, seed=0))
    _, axes = plot_feature_maps(model, IMAGE, channels=4).axes
    assert axes.get_title() == "conv\n10 maps of 24×24, first 4"
    assert axes.images[0].get_array().shape == (2 * 24 + 2, 2 * 24 + 2)


def test_deep_networks_are_thinned_out() -> None:
    model = models.resnet20(in_channels=1)
    figure = plot_feature_maps(model, IMAGE, most=5)
    assert len(figure.axes) == 6
    assert figure.get_suptitle() == "5 of 63 layers"
    assert figure.axes[-1].get_title().startswith("fc\n10 values")
    figure = plot_feature_maps(model, IMAGE, layers="layer1.*.conv?")
    assert len(figure.axes) == 1 + 6
    assert figure.get_suptitle() == ""


def test_constant_and_one_by_one_outputs() -> None:
    model = nn.Sequential(pool=nn.AdaptiveAvgPool2d(1), relu=nn.ReLU())
    assert len(plot_feature_maps(model, np.zeros((1, 1, 4, 4), np.float32)).axes) == 3
    colour = plot_feature_maps(model, np.zeros((3, 4, 4), np.uint8))
    assert colour.axes[0].get_title() == "input\n3×4×4"


def test_wrong_arguments() -> None:
    model = models.tiny_convnet()
    with pytest.raises(ShapeError, match=r"image must have shape .*, got \(2, 1, 28, 28\)"):
        plot_feature_maps(model, np.repeat(IMAGE, 2, axis=0))
    with pytest.raises(ArgumentError, match=r"no layer to show fits layers='relu\*'; layers: conv1, pool1"):
        plot_feature_maps(model, IMAGE, layers="relu*")
    with pytest.raises(ArgumentError, match="channels must be an integer of at least 1, got 0"):
        plot_feature_maps(model, IMAGE, channels=0)
