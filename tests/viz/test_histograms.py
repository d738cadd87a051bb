"""Histograms of what layers hand on, beside counting by hand."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest

from xpcnn import nn
from xpcnn.errors import ArgumentError, ShapeError
from xpcnn.viz import plot_activations, plot_initial_values

pytest.importorskip("matplotlib")

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
    assert [axes.get_ylabel() for axes in figure.axes] == ["deep", "", "", "flat"]
    assert len(plot_activations(two["deep"], X, layers="[bc]").axes) == 2
    assert plot_activations(two["deep"], X, most=2).get_suptitle() == "2 of 3 layers"


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


def test_wrong_arguments() -> None:
    with pytest.raises(ShapeError, match=r"x is empty, its shape is \(0, 8\)"):
        plot_activations(nn.ReLU(), X[:0])
    with pytest.raises(ArgumentError, match="no layer to show fits layers='conv'; layers: "):
        plot_activations(nn.ReLU(), X, layers="conv")
    with pytest.raises(ArgumentError, match="no model"):
        plot_activations({}, X)
    with pytest.raises(ArgumentError, match="most must be an integer of at least 1, got 0"):
        plot_activations(nn.ReLU(), X, most=0)
    with pytest.raises(ArgumentError, match="unknown nonlinearity 'gelu'; known: sigmoid, relu"):
        plot_initial_values(nonlinearity="gelu")


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
