"""im2col alone: patch by patch, by a slice for each tap, and by one copy of a strided view."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from benchmarks import naive
from xpcnn import ops
from xpcnn.backend import Backend
from xpcnn.cli import bench_cases
from xpcnn.cli.bench_cases import CONVOLUTIONS, Candidate, Problem
from xpcnn.errors import AlgorithmError
from xpcnn.ops import ConvGeometry

WAYS = ("loop", "slices", "as_strided")
GEOMETRIES = [name for name, geometry in CONVOLUTIONS.items() if geometry.groups == 1]


def problem(name: str, geometry: ConvGeometry, backend: Backend) -> Problem:
    """Return the columns of a convolution, (N·OH·OW, C·kh·kw), as a problem; the result must be exact."""
    x, _, _ = bench_cases.conv_arrays(geometry, "float32")
    candidates = [
        Candidate(way, "im2col", functools.partial(prepared, way, x, geometry, backend), backend.to_numpy)
        for way in WAYS
    ]
    moved = float(geometry.macs // geometry.k)  # a number that is copied counts as an operation
    description = bench_cases.described(geometry)
    return Problem(name, description, candidates, {"im2col": moved}, lambda _: columns(x, geometry), 0.0)


def prepared(way: str, x: np.ndarray, geometry: ConvGeometry, backend: Backend) -> Callable[[], Any]:
    """Prepare one way: `ops.im2col`, or one of from-scratch articles, on the host."""
    if way == "as_strided":
        images = backend.asarray(x)
        top, _, left, _ = geometry.padding
        options = geometry.kernel, geometry.stride, (top, left), geometry.dilation
        return lambda: bench_cases.waited(backend, ops.im2col(images, *options))
    if backend.name != "numpy":
        raise AlgorithmError("runs on the host alone")
    if way == "loop":
        bench_cases.check_steps(geometry.n * geometry.oh * geometry.ow, 0)
    return functools.partial(naive.im2col_loop if way == "loop" else naive.im2col_slices, x, geometry)


def columns(x: np.ndarray, geometry: ConvGeometry) -> np.ndarray:
    """Return the columns by NumPy's own windows."""
    top, bottom, left, right = geometry.padding
    padded = np.pad(x, ((0, 0), (0, 0), (top, bottom), (left, right)))
    (kh, kw), (sh, sw), (dh, dw) = geometry.kernel, geometry.stride, geometry.dilation
    reach = dh * (kh - 1) + 1, dw * (kw - 1) + 1
    windows = np.lib.stride_tricks.sliding_window_view(padded, reach, axis=(2, 3))
    taken = windows[:, :, ::sh, ::sw, ::dh, ::dw].transpose(0, 2, 3, 1, 4, 5)
    return taken.reshape(-1, geometry.c * kh * kw)


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("geometry", GEOMETRIES)
def test_im2col(run: Any, backend: Backend, geometry: str, way: str) -> None:
    run(problem(geometry, CONVOLUTIONS[geometry], backend), way, "im2col")
