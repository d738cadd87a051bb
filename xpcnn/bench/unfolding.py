"""im2col alone, three ways: patch by patch, by a slice for each tap, and by one copy of a strided view."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from typing import Any

import numpy as np

from xpcnn import ops
from xpcnn.backend import Backend, itemsize, to_numpy
from xpcnn.bench.calls import waited
from xpcnn.bench.convolutions import check_steps, host_arrays
from xpcnn.bench.geometries import described
from xpcnn.bench.loops import im2col_loop, im2col_slices
from xpcnn.bench.measure import Contestant, Problem
from xpcnn.bench.oracle import Expected
from xpcnn.errors import AlgorithmError
from xpcnn.ops import ConvGeometry

__all__ = ["PASS", "WAYS", "problem"]

PASS = "im2col"
WAYS = ("loop", "slices", "as_strided")


def problem(name: str, geometry: ConvGeometry, backend: Backend, dtype: str = "float32") -> Problem:
    """Return the columns of a convolution, (N·OH·OW, C·kh·kw), as a problem.

    ``loop`` and ``slices`` are those of from-scratch articles, on the host; ``as_strided`` is `ops.im2col`.
    The result must be exact.
    """
    x, _, _ = host_arrays(geometry, dtype)
    columns = geometry.n * math.prod(geometry.output_size) * math.prod(geometry.weight_shape[1:])
    traffic = float((x.size + columns) * itemsize(dtype))
    contestants = []
    for way in WAYS:
        prepare = functools.partial(_prepared, way, x, geometry, backend)
        contestants.append(Contestant(way, PASS, prepare, _on_host, backend))
    return Problem(
        name,
        described(geometry),
        contestants,
        operations=lambda _: float(columns),  # a number that is moved counts as an operation
        traffic=lambda _: traffic,
        expected=lambda _: Expected(_answer(x, geometry)),
        tolerance=0.0,
    )


def _prepared(way: str, x: np.ndarray, geometry: ConvGeometry, backend: Backend) -> Callable[[], Any]:
    if way == "as_strided":
        images = backend.asarray(x)
        top, _, left, _ = geometry.padding
        options = geometry.kernel, geometry.stride, (top, left), geometry.dilation
        return lambda: waited(backend, ops.im2col(images, *options))
    if backend.name != "numpy":
        raise AlgorithmError("runs on the host alone")
    if way == "loop":
        check_steps(geometry.n * math.prod(geometry.output_size), 0)
    return functools.partial(im2col_loop if way == "loop" else im2col_slices, x, geometry)


def _on_host(columns: Any) -> np.ndarray:
    return to_numpy(columns)


def _answer(x: np.ndarray, geometry: ConvGeometry) -> np.ndarray:
    """Return the columns by NumPy's own windows."""
    top, bottom, left, right = geometry.padding
    padded = np.pad(x, ((0, 0), (0, 0), (top, bottom), (left, right)))
    (kh, kw), (sh, sw), (dh, dw) = geometry.kernel, geometry.stride, geometry.dilation
    reach = dh * (kh - 1) + 1, dw * (kw - 1) + 1
    windows = np.lib.stride_tricks.sliding_window_view(padded, reach, axis=(2, 3))
    taken = windows[:, :, ::sh, ::sw, ::dh, ::dw].transpose(0, 2, 3, 1, 4, 5)
    return taken.reshape(-1, geometry.c * kh * kw)
