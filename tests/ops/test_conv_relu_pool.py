"""Convolution, ReLU and pooling in one are the three of them, on every backend."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import xpcnn
from xpcnn import errors, ops
from xpcnn.ops import fused
from xpcnn.ops.conv.algorithm import find
from xpcnn.ops.conv.geometry import ConvGeometry

CASES: dict[str, dict[str, Any]] = {
    "halves": {"x": (3, 2, 8, 8), "w": (5, 2, 3, 3), "pool": (2,), "padding": 1},
    "a stride that does not divide": {"x": (2, 3, 9, 7), "w": (4, 3, 3, 2), "pool": (2,), "stride": (2, 1)},
    "windows that overlap": {"x": (2, 2, 9, 9), "w": (3, 2, 3, 3), "pool": (3, 2, 1), "padding": 1},
    "pairs, rounded up": {"x": (1, 2, 8, 7), "w": (3, 2, 2, 3), "pool": ((3, 2), (2, 3), (1, 0), True)},
    "pixels": {"x": (2, 3, 4, 4), "w": (2, 3, 1, 1), "pool": (1,)},
    "kernel = input = window": {"x": (2, 2, 5, 4), "w": (3, 2, 5, 4), "pool": ((5, 4),), "padding": (2, 2)},
    "groups": {"x": (3, 4, 8, 8), "w": (6, 2, 3, 3), "pool": (2,), "groups": 2, "padding": 1},
    "no images": {"x": (0, 2, 6, 6), "w": (3, 2, 3, 3), "pool": (2,)},
}


def arrays(make: Any, case: dict[str, Any], dtype: str) -> tuple[Any, Any, Any]:
    rng = np.random.default_rng(0)
    shapes = case["x"], case["w"], case["w"][:1]
    x, w, b = (rng.standard_normal(shape).astype(dtype) for shape in shapes)
    if x.size:
        x[0, 0, 0, 0] = np.nan
    return make.array(x), make.array(w), make.array(b)


def assert_the_same(make: Any, case: dict[str, Any], dtype: str, algorithm: str = "auto") -> None:
    x, w, b = arrays(make, case, dtype)
    options = {name: case[name] for name in ("stride", "padding", "groups") if name in case}
    y, _ = ops.conv2d(x, w, b, **options, algorithm=algorithm)
    expected, _ = ops.max_pool2d(ops.relu(y)[0], *case["pool"])
    with make.unchanged(x, w, b):
        found = fused.conv2d_relu_max_pool2d(x, w, b, *case["pool"], **options, algorithm=algorithm)
    assert found.dtype == x.dtype
    np.testing.assert_array_equal(make.to_numpy(found), make.to_numpy(expected))
    assert not np.array_equal(make.to_numpy(ops.max_pool2d(y, *case["pool"])[0]), make.to_numpy(found)) or (
        0 in found.shape
    ), "no number is negative: the ReLU was not tested"


@pytest.mark.parametrize("case", CASES.values(), ids=CASES.keys())
def test_the_same_numbers(make: Any, case: dict[str, Any]) -> None:
    for dtype in filter(make.has, ("float16", "float32", "float64")):
        assert_the_same(make, case, dtype)


@pytest.mark.parametrize("images", [0.7, 4.0])
@pytest.mark.parametrize("algorithm", ["im2col", "as_strided", "kn2row", "mec", "winograd", "fft"])
def test_every_algorithm_in_tiles(make: Any, dtype: str, algorithm: str, images: float) -> None:
    """Of images, and of rows: no pool may be taken of parts of an image."""
    case = {"x": (9, 2, 12, 10), "w": (4, 2, 3, 3), "pool": (3, 2), "padding": 1}
    image = ConvGeometry.of((1, 2, 12, 10), case["w"], 1, 1, 1, 1)
    xpcnn.set_workspace_limit(max(1, int(images * find(algorithm).workspace_bytes(image, dtype))))
    assert_the_same(make, case, dtype, algorithm)


def test_a_bias_is_needed() -> None:
    x, w = np.zeros((3, 2, 8, 8)), np.zeros((5, 2, 3, 3))
    nothing: Any = None
    with pytest.raises(errors.ArgumentError, match=r"conv2d_relu: a bias \(K,\) is needed; .* use conv2d"):
        fused.conv2d_relu(x, w, nothing)
    with pytest.raises(errors.ArgumentError, match="conv2d_relu_max_pool2d: a bias"):
        fused.conv2d_relu_max_pool2d(x, w, nothing, 2)
