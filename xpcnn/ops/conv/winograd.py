"""Winograd's minimal filtering for 3×3 kernels: a third to a quarter of the multiplications.

An output tile of m×m pixels is computed from an input tile of (m + 2)×(m + 2): both input and kernel are
transformed, multiplied number by number (a GEMM over the channels), and the product is transformed back. The
two-dimensional transforms are one small matrix each, so all of them are GEMMs too.

Source: Lavin and Gray, "Fast algorithms for convolutional neural networks", 2015.
"""

from __future__ import annotations

import functools
from typing import Any, NamedTuple

from xpcnn.backend import Array, Backend, backend_of, dtype_name, itemsize
from xpcnn.ops.conv._layout import padded
from xpcnn.ops.conv.correlation import correlation_geometry, full_correlation
from xpcnn.ops.conv.geometry import ConvGeometry
from xpcnn.ops.conv.registry import ConvAlgorithm, register
from xpcnn.ops.conv.sharing import once

Matrix = tuple[tuple[float, ...], ...]


class Transform(NamedTuple):
    """F(m×m, 3×3): how a row of m + 2 inputs, of 3 weights, and of m + 2 products is transformed."""

    input: Matrix
    kernel: Matrix
    output: Matrix


# From the paper; its interpolation points are 0, ±1 and infinity, and ±2 as well for tiles of 4.
TRANSFORMS = {
    2: Transform(
        input=((1, 0, -1, 0), (0, 1, 1, 0), (0, -1, 1, 0), (0, 1, 0, -1)),
        kernel=((1, 0, 0), (1 / 2, 1 / 2, 1 / 2), (1 / 2, -1 / 2, 1 / 2), (0, 0, 1)),
        output=((1, 1, 1, 0), (0, 1, -1, -1)),
    ),
    4: Transform(
        input=(
            (4, 0, -5, 0, 1, 0),
            (0, -4, -4, 1, 1, 0),
            (0, 4, -4, -1, 1, 0),
            (0, -2, -1, 2, 1, 0),
            (0, 2, -1, -2, 1, 0),
            (0, 4, 0, -5, 0, 1),
        ),
        kernel=(
            (1 / 4, 0, 0),
            (-1 / 6, -1 / 6, -1 / 6),
            (-1 / 6, 1 / 6, -1 / 6),
            (1 / 24, 1 / 12, 1 / 6),
            (1 / 24, -1 / 12, 1 / 6),
            (0, 0, 1),
        ),
        output=((1, 1, 1, 1, 1, 0), (0, 1, -1, 2, -2, 0), (0, 1, 1, 4, 4, 0), (0, 1, -1, 8, -8, 1)),
    ),
}


@register("winograd")
class Winograd(ConvAlgorithm):
    """F(4×4, 3×3), or F(2×2, 3×3) for the smallest images. Loses up to a digit of precision.

    In float32 the errors are about 1e-6 of the largest output for tiles of 2, and several times that for
    tiles of 4. Memory: the transformed input and output, 2¼ times theirs at tiles of 4.
    """

    def unsupported(self, geometry: ConvGeometry, dtype: Any, backend: Backend) -> str | None:
        if geometry.kernel != (3, 3):
            return f"needs a 3x3 kernel, got {geometry.kernel[0]}x{geometry.kernel[1]}"
        if geometry.stride != (1, 1):
            return f"needs stride 1, got {geometry.stride}"
        if geometry.dilation != (1, 1):
            return f"needs dilation 1, got {geometry.dilation}"
        return None

    def workspace_bytes(self, geometry: ConvGeometry, dtype: Any) -> int:
        passes = (geometry, correlation_geometry(geometry)) if geometry.h and geometry.w else (geometry,)
        return max(map(_elements, passes)) * itemsize(dtype)

    def forward(self, x: Array, weight: Array, geometry: ConvGeometry) -> Array:
        backend = backend_of(x)
        xp = backend.xp
        tiling = Tiling.of(geometry)
        inputs = _transformed_input(x, geometry, tiling)  # (t², N·tiles, C)
        kernel = once(_transformed_kernel, weight, tiling.m)
        products = backend.stacked_product(inputs, kernel)  # (t², N·tiles, K)
        back = _constant(backend, x.dtype, tiling.m, "output")  # (m², t²)
        tiles = back @ xp.reshape(products, (tiling.t**2, -1))
        n, k, oh, ow = geometry.output_shape
        tiles = xp.reshape(tiles, (tiling.m, tiling.m, n, tiling.rows, tiling.columns, k))
        y = xp.reshape(
            xp.permute_dims(tiles, (2, 3, 0, 4, 1, 5)),
            (n, tiling.rows * tiling.m, tiling.columns * tiling.m, k),
        )
        if tiling.covers_exactly(geometry):
            return xp.permute_dims(y, (0, 3, 1, 2))
        return padded(xp.permute_dims(y, (0, 3, 1, 2))[:, :, :oh, :ow], (0, 0, 0, 0))  # in one piece again

    def grad_input(self, dy: Array, weight: Array, geometry: ConvGeometry) -> Array:
        return full_correlation(self.forward, dy, weight, geometry)

    def grad_weight(self, x: Array, dy: Array, geometry: ConvGeometry) -> Array:
        """Every step of `forward` is linear in the weight: here are their adjoints, in reverse order."""
        backend = backend_of(x)
        xp = backend.xp
        tiling = Tiling.of(geometry)
        _, k, oh, ow = geometry.output_shape
        missing = (0, tiling.rows * tiling.m - oh, 0, tiling.columns * tiling.m - ow)
        windows = backend.sliding_windows(
            padded(dy, missing), (tiling.m, tiling.m), (tiling.m, tiling.m), (1, 1)
        )
        tiles = xp.reshape(xp.permute_dims(windows, (4, 5, 0, 2, 3, 1)), (tiling.m**2, -1))
        back = _constant(backend, x.dtype, tiling.m, "output")
        dproducts = xp.reshape(xp.matrix_transpose(back) @ tiles, (tiling.t**2, -1, k))
        inputs = _transformed_input(x, geometry, tiling)
        dkernel = backend.stacked_product(xp.matrix_transpose(inputs), dproducts)  # (t², C, K)
        forth = _constant(backend, x.dtype, tiling.m, "kernel")  # (t², 9)
        dweight = xp.matrix_transpose(forth) @ xp.reshape(dkernel, (tiling.t**2, -1))
        return xp.permute_dims(xp.reshape(dweight, (3, 3, geometry.c, k)), (3, 2, 0, 1))


class Tiling(NamedTuple):
    """Rows × columns of output tiles of m×m pixels."""

    m: int
    rows: int
    columns: int

    @property
    def t(self) -> int:
        """The size of an input tile."""
        return self.m + 2

    @classmethod
    def of(cls, geometry: ConvGeometry) -> Tiling:
        """Return the tiling that needs the fewest multiplications; larger tiles waste more at the edges."""
        tilings = [cls(m, -(-geometry.oh // m), -(-geometry.ow // m)) for m in TRANSFORMS]
        return min(tilings, key=lambda tiling: tiling.rows * tiling.columns * tiling.t**2)

    def covers_exactly(self, geometry: ConvGeometry) -> bool:
        """Whether the tiles end where the output does."""
        return geometry.output_size == (self.rows * self.m, self.columns * self.m)


def _transformed_input(x: Array, geometry: ConvGeometry, tiling: Tiling) -> Array:
    """Return the tiles of x (N, C, H, W), transformed: one matrix (N·tiles, C) for each of t² places."""
    backend = backend_of(x)
    xp = backend.xp
    top, bottom, left, right = geometry.padding
    below = tiling.rows * tiling.m - geometry.oh
    beside = tiling.columns * tiling.m - geometry.ow
    tiles = backend.sliding_windows(
        padded(x, (top, bottom + below, left, right + beside)),
        (tiling.t, tiling.t),
        (tiling.m, tiling.m),
        (1, 1),
    )  # (N, C, rows, columns, t, t)
    tiles = xp.reshape(xp.permute_dims(tiles, (4, 5, 0, 2, 3, 1)), (tiling.t**2, -1))
    transformed = _constant(backend, x.dtype, tiling.m, "input") @ tiles
    return xp.reshape(transformed, (tiling.t**2, -1, geometry.c))


def _transformed_kernel(weight: Array, m: int) -> Array:
    """Return weight (K, C, 3, 3), transformed: one matrix (C, K) for each of t² places."""
    backend = backend_of(weight)
    xp = backend.xp
    k, c, _, _ = weight.shape
    taps = xp.reshape(xp.permute_dims(weight, (2, 3, 1, 0)), (9, c * k))
    return xp.reshape(_constant(backend, weight.dtype, m, "kernel") @ taps, ((m + 2) ** 2, c, k))


def _constant(backend: Backend, dtype: Any, m: int, which: str) -> Array:
    return _cached_constant(backend, dtype_name(dtype), m, which)


@functools.lru_cache(maxsize=64)
def _cached_constant(backend: Backend, dtype: str, m: int, which: str) -> Array:
    """Return the matrix that transforms rows and columns at once: a Kronecker product with itself."""
    matrix = getattr(TRANSFORMS[m], which)
    product = [[a * b for a in row for b in other] for row in matrix for other in matrix]
    return backend.asarray(product, dtype)


def _elements(geometry: ConvGeometry) -> int:
    """Return the numbers of scratch memory."""
    tiling = Tiling.of(geometry)
    c, k = geometry.c, geometry.k
    tiles = geometry.n * tiling.rows * tiling.columns
    top_left = (tiling.rows * tiling.m + 2) * (tiling.columns * tiling.m + 2)
    t2, m2 = tiling.t**2, tiling.m**2
    padded_x = geometry.n * c * top_left
    # The most at any one time: the input transformed, the products, the output put together; grad_weight.
    passes = (
        padded_x + 2 * tiles * t2 * c,
        tiles * (t2 * (c + k) + m2 * k),
        tiles * (t2 * k + 2 * m2 * k),
        tiles * (t2 * k + m2 * k) + padded_x + 2 * tiles * t2 * c,
    )
    return max(passes) + (t2 + 9) * c * k + t2 * t2
