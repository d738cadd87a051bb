"""Initial weights: their spread, their seeds, and the same bits on every backend."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

import xpcnn
from tests.support.nn_cases import small_net
from xpcnn import nn

LAYERS: dict[str, tuple[Callable[..., Any], int, int]] = {
    "linear": (lambda **kwargs: nn.Linear(200, 150, **kwargs), 200, 150),
    "conv": (lambda **kwargs: nn.Conv2d(16, 32, (3, 5), **kwargs), 16 * 15, 32 * 15),
    "1x1": (lambda **kwargs: nn.Conv2d(64, 100, 1, **kwargs), 64, 100),
    "strided": (lambda **kwargs: nn.Conv2d(30, 40, 3, stride=2, **kwargs), 30 * 9, 40 * 9),
}
"""Layers with the fans of their weights, computed by hand."""

spreads = pytest.mark.parametrize(("factory", "fan_in", "fan_out"), LAYERS.values(), ids=LAYERS.keys())


def check_normal(weight: np.ndarray[Any, Any], std: float) -> None:
    """Mean, spread and fourth moment of a normal distribution, within five standard errors."""
    values, n = weight.astype(np.float64).ravel() / std, weight.size
    assert abs(values.mean()) < 5 / math.sqrt(n)
    assert abs((values**2).mean() - 1) < 5 * math.sqrt(2 / n)
    assert abs((values**4).mean() - 3) < 5 * math.sqrt(96 / n)


@spreads
def test_spread(factory: Any, fan_in: int, fan_out: int) -> None:
    check_normal(factory(seed=1).weight.data, math.sqrt(2 / fan_in))
    check_normal(factory(weight_init="he", seed=2).weight.data, math.sqrt(2 / fan_in))
    check_normal(factory(weight_init="xavier", seed=3).weight.data, math.sqrt(2 / (fan_in + fan_out)))
    check_normal(factory(weight_init=0.01, seed=4).weight.data, 0.01)
    check_normal(factory(weight_init=nn.init.normal(0.3), seed=5).weight.data, 0.3)
    assert not factory(weight_init=0, seed=4).weight.data.any()


def test_fan_in_of_a_group() -> None:
    """An output of a grouped convolution sums over its own group alone."""
    layer = nn.Conv2d(40, 80, 3, groups=4, seed=0)
    assert layer.weight.shape == (80, 10, 3, 3)
    check_normal(layer.weight.data, math.sqrt(2 / 90))


@pytest.mark.parametrize("dtype", ["float16", "float32", "float64"])
def test_same_bits_on_every_backend(make: Any, dtype: str) -> None:
    if not make.has(dtype):
        pytest.skip(f"{make.backend} has no {dtype}")

    def weights() -> list[Any]:
        rng = np.random.default_rng(7)
        layers = [nn.Conv2d(3, 4, 3, seed=rng, dtype=dtype), nn.Linear(5, 6, seed=rng, dtype=dtype)]
        return [xpcnn.to_numpy(layer.weight.data) for layer in layers]

    with xpcnn.use_backend("numpy"):
        expected = weights()
    with make.use():
        for got, weight in zip(weights(), expected, strict=True):
            assert got.dtype == np.dtype(dtype)
            np.testing.assert_array_equal(got, weight)
        make.check_kind(nn.Linear(5, 6, dtype=dtype).bias.data, (6,), dtype)


def test_seeds() -> None:
    def drawn(seed: Any) -> Any:
        return nn.Linear(4, 4, seed=seed).weight.data

    np.testing.assert_array_equal(drawn(3), drawn(3))
    assert (drawn(3) != drawn(4)).any()
    assert (drawn(None) != drawn(None)).any()
    one, two = (np.random.default_rng(3) for _ in range(2))
    np.testing.assert_array_equal(drawn(one), drawn(two))
    assert (drawn(one) != drawn(3)).any()  # a generator goes on where it stopped


def test_own_initializer() -> None:
    def filled(rng: Any, shape: tuple[int, ...], fan_in: int, fan_out: int) -> Any:
        return np.full(shape, fan_in + 1000 * fan_out, "float64") + 0 * rng.standard_normal(shape)

    layer = nn.Conv2d(3, 5, (2, 4), weight_init=filled)
    np.testing.assert_array_equal(layer.weight.data, np.full((5, 3, 2, 4), 24 + 1000 * 40, "float32"))


def test_normalisation_starts_as_the_identity(make: Any) -> None:
    with make.use():
        state = small_net()["bn1"].state_dict()
    for name, value in {"weight": 1, "bias": 0, "running_mean": 0, "running_var": 1}.items():
        make.check(state[name], np.full(2, value), "float32", rtol=0)
    make.check_kind(state["num_batches_tracked"], (), "int64")


@pytest.mark.parametrize(
    ("arguments", "fan_in"),
    [
        ((64, 32, 3), 64 * 9),
        ((64, 32, 4, 2), 64 * 4),  # of the 16 taps, 4 reach an output
        ((128, 256, 2, 2), 128),
        ((256, 256, 1, 3), 256),  # the outputs between are not reached at all
        ((64, 64, (4, 2), (2, 1), 0, 0, 4), 16 * 4),
    ],
    ids=str,
)
def test_transposed_convolutions_keep_the_variance(arguments: tuple[Any, ...], fan_in: int) -> None:
    weight = nn.ConvTranspose2d(*arguments, dtype="float64", seed=0).weight.data
    assert float(np.std(weight)) == pytest.approx(math.sqrt(2 / fan_in), rel=0.03)
