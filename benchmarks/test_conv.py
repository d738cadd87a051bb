"""Convolution: every algorithm, pass and geometry, the matrix product it comes down to, PyTorch, a loop."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import pytest

from benchmarks import naive
from benchmarks.conftest import TORCH
from benchmarks.torch_reference import LAYOUTS, TorchReference
from xpcnn import ops
from xpcnn.backend import Backend
from xpcnn.cli import bench_cases
from xpcnn.cli.bench_cases import CONVOLUTIONS, FLOOR, PASSES, Candidate, Problem
from xpcnn.errors import AlgorithmError
from xpcnn.ops import ConvGeometry

PLAIN_LOOP = "plain loop"
"""That of from-scratch articles: a patch at a time, times all filters."""

SERIES: Mapping[str, ConvGeometry] = {
    **{
        f"batch-{n}": bench_cases.conv_geometry((n, 32, 28, 28), 32, 3, padding=1)
        for n in (1, 2, 4, 8, 16, 32, 64)
    },
    **{
        f"size-{size}": bench_cases.conv_geometry((4, 32, size, size), 32, 3, padding=1)
        for size in (7, 14, 28, 56, 112)
    },
}
"""One convolution for larger and larger batches, and of larger and larger images; forward alone."""


@functools.lru_cache(maxsize=1)  # tests come geometry by geometry
def problem(name: str, geometry: ConvGeometry, backend: Backend, torch: TorchReference | None) -> Problem:
    """Return the convolution with PyTorch's candidates, and the plain loop where arrays are on the host."""
    one = bench_cases.conv_problem(name, geometry, backend)
    arrays = bench_cases.conv_arrays(geometry, "float32")
    for pass_name in PASSES:
        if torch is not None:
            one.candidates.extend(torch_candidates(torch, arrays, geometry, pass_name))
        if backend.name == "numpy":
            prepare = functools.partial(plain_loop, pass_name, arrays, geometry)
            evidence = functools.partial(bench_cases.compared_images, pass_name, np.asarray)
            one.candidates.append(Candidate(PLAIN_LOOP, pass_name, prepare, evidence))
    return one


def torch_candidates(
    torch: TorchReference, arrays: Any, geometry: ConvGeometry, pass_name: str
) -> list[Candidate]:
    """Return a pass of PyTorch's convolution in each memory layout."""
    top, _, left, _ = geometry.padding
    options = geometry.stride, (top, left), geometry.dilation, geometry.groups
    evidence = functools.partial(bench_cases.compared_images, pass_name, torch.host)

    def prepare(layout: str) -> Callable[[], Any]:
        return torch.convolution(arrays, layout, *options)[pass_name]

    return [
        Candidate("torch", pass_name, functools.partial(prepare, layout), evidence, layout)
        for layout in LAYOUTS
    ]


def plain_loop(pass_name: str, arrays: Any, geometry: ConvGeometry) -> Callable[[], Any]:
    """Prepare the plain loop, where it would not take too long."""
    if geometry.groups > 1:
        raise AlgorithmError("has no groups")
    bench_cases.check_steps(geometry.n * math.prod(geometry.output_size), geometry.macs)
    return functools.partial(naive.PASSES[pass_name], *arrays, geometry)


@pytest.mark.parametrize("algorithm", [FLOOR, *ops.algorithm_names(), *TORCH, PLAIN_LOOP])
@pytest.mark.parametrize("pass_name", PASSES)
@pytest.mark.parametrize("geometry", CONVOLUTIONS)
def test_conv(
    run: Any, backend: Backend, torch: TorchReference | None, geometry: str, pass_name: str, algorithm: str
) -> None:
    run(problem(geometry, CONVOLUTIONS[geometry], backend, torch), algorithm, pass_name)


@pytest.mark.parametrize("algorithm", [FLOOR, *ops.algorithm_names(), *TORCH, PLAIN_LOOP])
@pytest.mark.parametrize("geometry", SERIES)
def test_series(
    run: Any, backend: Backend, torch: TorchReference | None, geometry: str, algorithm: str
) -> None:
    run(problem(geometry, SERIES[geometry], backend, torch), algorithm, "forward")
