"""Filters and edges: every weight is where it should be, on its filter's own scale; Sobel beside loops."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from xpcnn import models, nn
from xpcnn.viz import plot_filters, plot_sobel, sobel
from xpcnn.viz.canvas import corners

pytest.importorskip("matplotlib")


def tiles(axes: Any, count: int, columns: int, kernel: int) -> list[np.ndarray]:
    picture = np.ma.filled(axes.images[0].get_array(), np.nan)
    return [
        picture[top : top + kernel, left : left + kernel]
        for top, left in corners(count, kernel, kernel, columns)
    ]


def test_before_and_after_side_by_side(make: Any) -> None:
    before, after = models.tiny_convnet(filters=6, seed=0), models.tiny_convnet(filters=6, seed=1)
    after.to(backend=make.backend)
    figure = plot_filters((before, after))
    assert len(figure.axes) == 2
    for axes, model, name in zip(figure.axes, (before, after), ("before", "after"), strict=True):
        weight = make.to_numpy(model["conv1"].weight.data)
        for tile, (filt,) in zip(tiles(axes, 6, 3, 3), weight, strict=True):
            largest = max(abs(float(value)) for value in filt.flat)
            expected = [[0.5 + float(value) / (2 * largest) for value in row] for row in filt]
            np.testing.assert_allclose(tile, expected, rtol=1e-6)
        assert axes.get_title() == f"{name} training\nstd {weight.astype(np.float64).std():.3g}"
        assert axes.images[0].get_clim() == (0, 1)
        assert len(axes.patches) == 6
    assert figure.get_suptitle() == "conv1: 6 filters of 1×3×3"


def test_colour_filters() -> None:
    layer = nn.Conv2d(3, 4, 5, seed=0)
    (axes,) = plot_filters(layer).axes
    weight = layer.weight.data.astype(np.float64)
    corner = axes.images[0].get_array()[:5, :5]
    np.testing.assert_allclose(
        corner[..., :3], 0.5 + weight[0].transpose(1, 2, 0) / (2 * abs(weight[0]).max())
    )


def test_many_channels_and_filters() -> None:
    model = nn.Sequential(a=nn.Conv2d(1, 70, 3, seed=0), b=nn.Conv2d(70, 20, 3, seed=1))
    figure = plot_filters(model)
    assert figure.get_suptitle() == "a: 64 of 70 filters of 1×3×3"
    assert len(figure.axes[0].patches) == 64
    figure = plot_filters(model, layer="b")
    assert figure.get_suptitle() == "b: 16 of 20 filters of 70×3×3,\nfirst 8 channels"
    weight = model["b"].weight.data.astype(np.float64)
    shown = tiles(figure.axes[0], 16 * 8, 8, 3)
    np.testing.assert_allclose(shown[2 * 8 + 5], 0.5 + weight[2, 5] / (2 * abs(weight[2]).max()))


def test_a_filter_of_zeros_is_grey() -> None:
    (axes,) = plot_filters(nn.Conv2d(1, 1, 3, weight_init=0.0)).axes
    assert (axes.images[0].get_array() == 0.5).all()
    assert plot_filters(nn.Conv2d(1, 1, 3)).get_suptitle().startswith("Conv2d: 1 filters")


def test_the_layer_is_found_by_its_path() -> None:
    model = models.resnet20(in_channels=1)
    assert plot_filters(model, layer="layer2.*").get_suptitle().startswith("layer2.0.conv1: 16 of 32")


DOWN = [[-1, -2, -1], [0, 0, 0], [1, 2, 1]]
IMAGE = np.random.default_rng(0).integers(0, 256, (3, 7, 9)).astype(np.uint8)


def by_loops(image: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    grey = [[sum(int(image[c, i, j]) for c in range(3)) / 3 / 255 for j in range(9)] for i in range(7)]
    horizontal, vertical = np.zeros((5, 7)), np.zeros((5, 7))
    for i in range(5):
        for j in range(7):
            for r in range(3):
                for s in range(3):
                    horizontal[i, j] += DOWN[r][s] * grey[i + r][j + s]
                    vertical[i, j] += DOWN[s][r] * grey[i + r][j + s]
    return horizontal, vertical


def test_edges(make: Any) -> None:
    with make.use():
        found = sobel(make.array(IMAGE))
    for edges, expected in zip(found, by_loops(IMAGE), strict=True):
        assert edges.dtype == np.float32
        np.testing.assert_allclose(edges, expected, atol=2e-6)


def test_which_edge_is_which() -> None:
    lighter_below = np.zeros((5, 5))
    lighter_below[3:] = 1
    horizontal, vertical = sobel(lighter_below)
    assert horizontal.tolist() == [[0, 0, 0], [4, 4, 4], [4, 4, 4]]
    assert not vertical.any()


def test_what_is_drawn() -> None:
    horizontal, vertical = by_loops(IMAGE)
    figure = plot_sobel(IMAGE)
    pictures = [axes.images[0] for axes in figure.axes]
    expected = (IMAGE.mean(axis=0) / 255, horizontal, vertical, np.sqrt(horizontal**2 + vertical**2))
    for picture, values in zip(pictures, expected, strict=True):
        np.testing.assert_allclose(picture.get_array(), values, atol=5e-6)
    strongest = max(abs(horizontal).max(), abs(vertical).max())
    for picture in pictures[1:3]:
        assert picture.get_clim() == pytest.approx((-strongest, strongest))
    assert pictures[3].get_clim()[0] == 0
    assert figure.axes[1].get_xlabel() == "−1 −2 −1\n 0  0  0\n 1  2  1"
    assert figure.axes[2].get_xlabel() == "−1  0  1\n−2  0  2\n−1  0  1"


def test_other_images() -> None:
    np.testing.assert_array_equal(sobel(IMAGE[None])[0], sobel(IMAGE)[0])
    assert len(plot_sobel(np.zeros((3, 3))).axes) == 4  # without any edge
