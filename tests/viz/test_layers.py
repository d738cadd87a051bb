"""Feature maps and histograms: what is drawn is what the layers gave."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest

from xpcnn import data, models, nn
from xpcnn.viz import activations, plot_activations, plot_feature_maps, plot_initial_values
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
    model = nn.Sequential(conv=nn.Conv2d(1, 20, 5, seed=0))
    _, axes = plot_feature_maps(model, IMAGE).axes
    assert axes.get_title() == "conv\n20 maps of 24×24, first 16"
    assert axes.images[0].get_array().shape == (4 * 24 + 3 * 2, 4 * 24 + 3 * 2)


def test_deep_networks_are_thinned_out() -> None:
    model = models.resnet20(in_channels=1)
    figure = plot_feature_maps(model, IMAGE)
    assert len(figure.axes) == 24
    assert figure.get_suptitle() == "23 of 63 layers"
    assert figure.axes[-1].get_title().startswith("fc\n10 values")
    figure = plot_feature_maps(model, IMAGE, layers="layer1.*.conv?")
    assert len(figure.axes) == 1 + 6
    assert figure.get_suptitle() == ""


def test_constant_and_one_by_one_outputs() -> None:
    model = nn.Sequential(pool=nn.AdaptiveAvgPool2d(1), relu=nn.ReLU())
    assert len(plot_feature_maps(model, np.zeros((1, 1, 4, 4), np.float32)).axes) == 3
    colour = plot_feature_maps(model, np.zeros((3, 4, 4), np.uint8))
    assert colour.axes[0].get_title() == "input\n3×4×4"


X = np.random.default_rng(0).standard_normal((200, 8)).astype(np.float32)


def bars(axes: Any) -> tuple[np.ndarray, np.ndarray]:
    (stairs,) = axes.patches
    return stairs.get_data().values, stairs.get_data().edges


def test_what_is_counted(make: Any) -> None:
    model = nn.Sequential(fc=nn.Linear(8, 20, seed=0), relu=nn.ReLU()).to(backend=make.backend)
    linear, relu = plot_activations(model, make.array(X), limits=(-1, 1)).axes
    y = make.to_numpy(model["fc"](make.array(X))).astype(np.float64).reshape(-1)
    for axes, values in ((linear, y), (relu, y[y > 0])):
        heights, edges = bars(axes)
        np.testing.assert_allclose(edges, [-1 + i / 20 for i in range(41)], atol=1e-12)
        expected = [0] * 40
        for value in values:
            if -1 <= value <= 1:
                expected[min(39, math.floor((value + 1) * 20))] += 1
        np.testing.assert_array_equal(heights, expected)
        assert axes.get_xlim() == (-1, 1)
    assert linear.get_title() == f"fc\n{y.mean():.2g} ± {y.std():.2g}".replace("-", "−")
    cut = np.maximum(y, 0)
    assert relu.get_title() == f"relu\n{cut.mean():.2g} ± {cut.std():.2g}, {(y <= 0).mean():.0%} zeros"


def test_own_limits_leave_out_the_outermost() -> None:
    x = np.linspace(-1, 1, 10_000, dtype=np.float32)[:, None]
    x[0] = 1e6
    (axes,) = plot_activations(nn.LeakyReLU(1.0), x).axes
    np.testing.assert_allclose(axes.get_xlim(), (-0.998, 0.998), atol=2e-3)


def test_several_models_in_rows() -> None:
    two = {
        "deep": nn.Sequential(a=nn.Tanh(), b=nn.ReLU(), c=nn.Sigmoid()),
        "flat": nn.Sequential(a=nn.Tanh()),
    }
    figure = plot_activations(two, X)
    assert [axes.get_ylabel() for axes in figure.axes] == ["deep", "flat"]
    assert [axes.get_title()[0] for axes in figure.axes] == ["c", "a"]
    assert figure.get_suptitle() == "1 of 3 layers"
    assert len(plot_activations(two["deep"], X, layers="[bc]").axes) == 2
    many = nn.Sequential({f"a{i}": nn.Tanh() for i in range(30)})
    assert plot_activations(many, X).get_suptitle() == "23 of 30 layers"


def test_outputs_that_give_no_histogram() -> None:
    (axes,) = plot_activations(nn.ReLU(), -abs(X)).axes
    assert axes.get_title() == "ReLU\n0 ± 0, 100% zeros"
    assert not axes.patches
    (axes,) = plot_activations(nn.ReLU(), np.full((3, 2), np.inf, np.float32)).axes
    assert axes.get_title() == "ReLU\nnan ± nan"
    (axes,) = plot_activations(nn.ReLU(), np.ones((3, 2), np.float32)).axes
    assert bars(axes)[0].sum() == 6


def test_large_layers_are_sampled() -> None:
    x = np.random.default_rng(0).random((1000, 250)).astype(np.float32) + 1
    (axes,) = plot_activations(nn.ReLU(), x, limits=(0, 3)).axes
    assert 80_000 <= bars(axes)[0].sum() <= 100_000


def spreads(nonlinearity: str) -> list[list[tuple[float, float]]]:
    """Mean and standard deviation of each of the five layers, row by row."""
    axes = plot_initial_values(nonlinearity=nonlinearity).axes
    assert len(axes) == 15
    told = [panel.get_title().splitlines()[1].partition(",")[0].split(" ± ") for panel in axes]
    told = [[number.replace("−", "-") for number in pair] for pair in told]
    numbers = [(float(mean), float(std)) for mean, std in told]
    return [numbers[:5], numbers[5:10], numbers[10:]]


@pytest.mark.slow
def test_initial_values_do_what_the_book_says() -> None:
    large, small, xavier = spreads("sigmoid")
    assert all(std > 0.4 for _, std in large)  # of at most 0.5: at 0 and 1
    assert all(abs(mean - 0.5) < 0.01 and std < 0.03 for mean, std in small)
    assert all(0.08 < std < 0.25 for _, std in xavier)
    small, xavier, he = spreads("relu")
    assert small[4][1] < 1e-5
    assert xavier[4][1] < 0.4 * xavier[0][1]
    assert 0.8 < he[4][1] / he[0][1] < 1.25
