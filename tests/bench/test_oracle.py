"""The answers that contestants are held against, themselves held against plain loops and PyTorch."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import oracles
import pytest

from xpcnn import ops
from xpcnn.backend import get_backend
from xpcnn.backend.torch_peer import TorchPeer
from xpcnn.bench import convolutions, layers, loops, oracle, unfolding
from xpcnn.bench.geometries import CONVOLUTIONS, LayerCase
from xpcnn.bench.oracle import Expected, relative_error
from xpcnn.errors import AlgorithmError
from xpcnn.ops import ConvGeometry

CASES = {
    "plain": ConvGeometry.of((2, 3, 6, 5), (4, 3, 3, 3)),
    "padded, strided": ConvGeometry.of((2, 2, 7, 8), (3, 2, 3, 2), stride=(2, 3), padding=(2, 1)),
    "dilated": ConvGeometry.of((1, 2, 9, 8), (2, 2, 3, 3), dilation=(2, 1), padding=1),
    "depthwise": ConvGeometry.of((2, 4, 5, 5), (4, 1, 3, 3), padding=1, groups=4),
    "groups": ConvGeometry.of((2, 4, 5, 5), (6, 2, 3, 3), groups=2),
    "many images": ConvGeometry.of((9, 1, 4, 4), (2, 1, 3, 3)),
}


@pytest.mark.parametrize("name", CASES)
def test_convolution(name: str) -> None:
    geometry = CASES[name]
    arrays = convolutions.host_arrays(geometry, "float64")
    x, weight, dy = arrays
    options = geometry.stride, geometry.padding, geometry.dilation, geometry.groups
    dx, dweight, _ = oracles.conv2d_gradients(x, weight, dy, *options)
    expected = {
        "forward": oracles.conv2d(x, weight, None, *options),
        "grad_input": dx,
        "grad_weight": dweight,
    }
    for pass_name, values in expected.items():
        found = oracle.convolution(arrays, geometry, pass_name)
        assert relative_error(values, found) < 1e-13, pass_name
        assert relative_error(values + 0.01 * np.abs(values).max(), found) > 0.009, pass_name


def test_some_images_of_many() -> None:
    geometry = CASES["many images"]
    arrays = convolutions.host_arrays(geometry, "float32")
    assert oracle.convolution(arrays, geometry, "forward").images == (0, 4, 8)
    assert oracle.convolution(arrays, geometry, "grad_weight").images is None


@pytest.mark.parametrize("name", [name for name, case in CASES.items() if case.groups == 1])
def test_loops(name: str) -> None:
    geometry = CASES[name]
    arrays = convolutions.host_arrays(geometry, "float64")
    for pass_name, loop in loops.PASSES.items():
        assert (
            relative_error(loop(*arrays, geometry), oracle.convolution(arrays, geometry, pass_name)) < 1e-13
        )


@pytest.mark.parametrize("name", [name for name, case in CASES.items() if case.groups == 1])
def test_three_ways_of_im2col(name: str) -> None:
    problem = unfolding.problem(name, CASES[name], get_backend())
    expected = problem.expected(unfolding.PASS)
    for one in problem.contestants:
        assert relative_error(one.evidence(one.prepare()()), expected) == 0, one.algorithm


LAYER_CASES = {
    "max pool": LayerCase("max_pool2d", (2, 3, 6, 6), {"kernel_size": 2}),
    "max pool, overlapping": LayerCase(
        "max_pool2d", (5, 2, 7, 7), {"kernel_size": 3, "stride": 2, "padding": 1}
    ),
    "avg pool": LayerCase("avg_pool2d", (2, 3, 6, 6), {"kernel_size": 2}),
    "avg pool, padded": LayerCase("avg_pool2d", (2, 3, 7, 7), {"kernel_size": 3, "stride": 2, "padding": 1}),
    "batch norm": LayerCase("batch_norm", (5, 3, 4, 4), {}),
    "relu": LayerCase("relu", (5, 3, 4, 4), {}),
}


@pytest.mark.parametrize("name", LAYER_CASES)
def test_layers_against_torch(name: str) -> None:
    pytest.importorskip("torch")
    problem = layers.problem(name, LAYER_CASES[name], get_backend(), dtype="float64", torch_peer=TorchPeer())
    seen = set()
    for one in problem.contestants:
        expected = problem.expected(one.pass_name)
        assert relative_error(one.evidence(one.prepare()()), expected) < 1e-12, (one.algorithm, one.pass_name)
        seen.add((one.algorithm, one.pass_name))
    assert len(seen) == 4


def test_relative_error() -> None:
    expected = Expected(np.array([0.0, -4.0, 2.0]))
    assert relative_error(np.array([0.0, -4.0, 2.0]), expected) == 0
    assert relative_error(np.array([0.4, -4.0, 2.0]), expected) == pytest.approx(0.1)
    assert relative_error(np.array([0.0, math.nan, 2.0]), expected) == math.inf
    assert relative_error(np.zeros(2), expected) == math.inf
    some = Expected(np.array([[3.0]]), images=(1,))
    assert relative_error(np.array([[99.0], [3.0]]), some) == 0
    whole = Expected(np.array([3.0, 4.0]), as_whole=True)
    assert relative_error(np.array([3.0, 4.5]), whole) == pytest.approx(0.1)


def test_the_table_has_what_was_asked_for() -> None:
    shapes = {(case.input_shape, case.k, case.kernel[0]) for case in CONVOLUTIONS.values()}
    assert {
        ((100, 1, 28, 28), 30, 5),
        ((100, 16, 28, 28), 16, 3),
        ((32, 64, 56, 56), 64, 3),
        ((32, 128, 28, 28), 128, 3),
        ((32, 256, 14, 14), 256, 3),
        ((8, 3, 224, 224), 64, 7),
        ((32, 256, 56, 56), 64, 1),
    } <= shapes
    assert any(case.groups == case.c > 1 for case in CONVOLUTIONS.values())
    assert any(case.dilation != (1, 1) for case in CONVOLUTIONS.values())
    for case in CONVOLUTIONS.values():
        top, bottom, left, right = case.padding
        assert (top, left) == (bottom, right)  # as PyTorch pads


@pytest.mark.parametrize("macs", [0, 10**10])
def test_a_loop_that_would_take_too_long(macs: int) -> None:
    convolutions.check_steps(1000, 1000)
    with pytest.raises(AlgorithmError, match=r"left out: a call would take about \d+ s"):
        convolutions.check_steps(10**6, macs)


def test_every_algorithm_is_a_contestant() -> None:
    geometry = CASES["plain"]
    problem = convolutions.problem("plain", geometry, get_backend(), plain_loop=True)
    names: Any = dict.fromkeys(one.algorithm for one in problem.contestants)
    assert list(names) == ["gemm floor", *ops.algorithm_names(), "plain loop"]
