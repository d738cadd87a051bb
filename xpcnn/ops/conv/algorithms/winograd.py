"""Winograd's minimal filtering for 3×3 kernels: a third to a quarter of the multiplications.

An output tile of m×m pixels is computed from an input tile of (m + 2)×(m + 2): both input and kernel are
transformed, multiplied number by number (a GEMM over the channels), and the product is transformed back. A
transform is a product with a small matrix in height, and another in width, so all of them are GEMMs too.

Source: Lavin and Gray, "Fast algorithms for convolutional neural networks", 2015.
"""

from __future__ import annotations

import functools
import math
from typing import Any, NamedTuple

from xpcnn.backend import Array, Backend, backend_of, itemsize, matmul, primitive
from xpcnn.ops.conv._layout import pad
from xpcnn.ops.conv.algorithm import ConvAlgorithm, register
from xpcnn.ops.conv.correlation import correlation_geometry, full_correlation, is_framed
from xpcnn.ops.conv.executor import pack_weights
from xpcnn.ops.conv.geometry import ConvGeometry, Padding

Matrix = tuple[tuple[float, ...], ...]
Shape = tuple[int, int, int, int]


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

    NaN or infinity in one pixel spreads over the tiles that see it. On a CPU the result is computed once more
    then, by `kn2row`; on a device, where looking for it would wait, it stays spread.
    """

    spreads = True

    def unsupported(self, geometry: ConvGeometry, dtype: Any, backend: Backend) -> str | None:
        if geometry.kernel != (3, 3):
            return f"needs a 3x3 kernel, got {geometry.kernel[0]}x{geometry.kernel[1]}"
        for what in ("stride", "dilation"):
            if getattr(geometry, what) != (1, 1):
                return f"needs {what} 1, got {getattr(geometry, what)}"
        if not is_framed(geometry):
            return f"needs a padding of at most 2, got {geometry.padding}"
        return None

    def workspace_bytes(self, geometry: ConvGeometry, dtype: Any) -> int:
        return max(map(_elements, (geometry, correlation_geometry(geometry)))) * itemsize(dtype)

    def forward(self, x: Array, weight: Array, geometry: ConvGeometry) -> Array:
        tiling = Tiling.of(*geometry.output_size)
        inputs = _transform_input(x, geometry, tiling)  # (t², N·tiles, C)
        products = matmul(inputs, pack_weights(_transform_kernel, weight, tiling.m))  # (t², N·tiles, K)
        del inputs
        back = _constant(backend_of(x), x.dtype, tiling.m, "output")  # (m, t)
        return winograd_output(products, back, geometry.output_shape, tiling)

    def grad_input(self, dy: Array, weight: Array, geometry: ConvGeometry) -> Array:
        return full_correlation(self.forward, dy, weight, geometry)

    def grad_weight(self, x: Array, dy: Array, geometry: ConvGeometry) -> Array:
        """Return dweight: the adjoints of the steps of `forward`, in reverse order."""
        backend = backend_of(x)
        xp = backend.xp
        tiling = Tiling.of(*geometry.output_size)
        back, forth = (_constant(backend, x.dtype, tiling.m, which) for which in ("output", "kernel"))
        dproducts = winograd_output_gradient(dy, back, tiling)  # (t², N·tiles, K)
        inputs = _transform_input(x, geometry, tiling)  # (t², N·tiles, C)
        # C comes last, as in the weight itself, which is then put together from runs of memory.
        dkernel = matmul(xp.matrix_transpose(dproducts), inputs)  # (t², K, C)
        dtaps = winograd_taps_gradient(dkernel, forth)
        return xp.permute_dims(xp.reshape(dtaps, (3, 3, geometry.k, geometry.c)), (2, 3, 0, 1))


class Tiling(NamedTuple):
    """Rows × columns of output tiles of m×m pixels."""

    m: int
    rows: int
    columns: int

    @property
    def t(self) -> int:
        """The size of an input tile."""
        return self.m + 2

    def overhang(self, size: tuple[int, ...]) -> tuple[int, int]:
        """How far the tiles reach beyond an output of this size."""
        return self.rows * self.m - size[0], self.columns * self.m - size[1]

    @classmethod
    @functools.lru_cache(maxsize=1024)
    def of(cls, oh: int, ow: int) -> Tiling:
        """Return the tiling that needs the fewest multiplications; larger tiles waste more at the edges."""
        tilings = [cls(m, -(-oh // m), -(-ow // m)) for m in TRANSFORMS]
        return min(tilings, key=lambda tiling: tiling.rows * tiling.columns * tiling.t**2)


def _transform_input(x: Array, geometry: ConvGeometry, tiling: Tiling) -> Array:
    """Return the tiles of x (N, C, H, W), transformed: one matrix (N·tiles, C) for each of t² places."""
    top, bottom, left, right = geometry.padding
    below, beside = tiling.overhang(geometry.output_size)
    forth = _constant(backend_of(x), x.dtype, tiling.m, "input")
    return winograd_input(x, forth, (top, bottom + below, left, right + beside), tiling)


@primitive
def winograd_input(x: Array, forth: Array, padding: Padding, tiling: Tiling) -> Array:
    """Return the tiles of x (N, C, H, W), which overlap, transformed by `forth` (t, t): (t², N·tiles, C)."""
    return _transform(forth, _tiles(pad(x, padding), tiling.t, tiling.m))


@primitive
def winograd_output(products: Array, back: Array, shape: Shape, tiling: Tiling) -> Array:
    """Return the images (N, K, OH, OW) whose tiles are the products, transformed by `back` (m, t)."""
    xp = backend_of(products).xp
    n, k, oh, ow = shape
    m, rows, columns = tiling
    tiles = xp.reshape(_transform(back, products), (m, m, n, rows, columns, k))
    y = xp.reshape(xp.permute_dims(tiles, (2, 3, 0, 4, 1, 5)), (n, rows * m, columns * m, k))
    y = xp.permute_dims(y, (0, 3, 1, 2))
    if tiling.overhang((oh, ow)) == (0, 0):
        return y
    return pad(y[:, :, :oh, :ow], (0, 0, 0, 0))  # contiguous again


@primitive
def winograd_output_gradient(dy: Array, back: Array, tiling: Tiling) -> Array:
    """Return the gradient of the products, given that of the images: the adjoint of `winograd_output`."""
    m = tiling.m
    below, beside = tiling.overhang(dy.shape[2:])
    tiles = _tiles(pad(dy, (0, below, 0, beside)), m, m)
    return _transform(backend_of(dy).xp.matrix_transpose(back), tiles)


def _tiles(x: Array, size: int, step: int) -> Array:
    """Return the tiles of x (N, C, H, W), size×size pixels every `step`: (size², N·tiles, C)."""
    backend = backend_of(x)
    xp = backend.xp
    tiles = xp.permute_dims(
        backend.sliding_windows(x, (size, size), (step, step), (1, 1)), (4, 5, 0, 2, 3, 1)
    )
    return xp.reshape(tiles, (size**2, math.prod(tiles.shape[2:5]), x.shape[1]))


def _transform(matrix: Array, tiles: Array) -> Array:
    """Return ``matrix @ tile @ matrixᵀ`` of tiles (size², ...), for a matrix (t, size): (t², ...)."""
    xp = backend_of(tiles).xp
    t, size = matrix.shape
    rest = tiles.shape[1:]
    halfway = matrix @ xp.reshape(tiles, (size, size * math.prod(rest)))
    del tiles  # the larger part of the scratch memory
    return xp.reshape(matrix @ xp.reshape(halfway, (t, size, math.prod(rest))), (t**2, *rest))


def _transform_kernel(weight: Array, m: int) -> Array:
    """Return weight (K, C, 3, 3), transformed: one matrix (C, K) for each of t² places."""
    backend = backend_of(weight)
    k, c, _, _ = weight.shape
    taps = backend.xp.reshape(backend.xp.permute_dims(weight, (2, 3, 1, 0)), (9, c, k))
    return winograd_kernel(taps, _constant(backend, weight.dtype, m, "kernel"))


@primitive
def winograd_kernel(taps: Array, forth: Array) -> Array:
    """Return taps (9, C, K), transformed by `forth` (t, 3): one matrix (C, K) for each of t² places."""
    return _transform(forth, taps)


@primitive
def winograd_taps_gradient(dkernel: Array, forth: Array) -> Array:
    """Return the adjoint of `winograd_kernel`, whatever the order of the channels."""
    return _transform(backend_of(dkernel).xp.matrix_transpose(forth), dkernel)


# The backend comes before the dtype: dtypes of two libraries may hash alike, and must not be compared.
@functools.lru_cache(maxsize=64)
def _constant(backend: Backend, dtype: Any, m: int, which: str) -> Array:
    """Return the matrix of a transform."""
    return backend.asarray(getattr(TRANSFORMS[m], which), dtype)


def _elements(geometry: ConvGeometry) -> int:
    """Return the numbers of scratch memory."""
    tiling = Tiling.of(*geometry.output_size)
    c, k = geometry.c, geometry.k
    tiles = geometry.n * tiling.rows * tiling.columns
    top_left = (tiling.rows * tiling.m + 2) * (tiling.columns * tiling.m + 2)
    t2, m2 = tiling.t**2, tiling.m**2
    padded_x = geometry.n * c * top_left
    # The most at any one time: the input transformed, the products, the output put together; grad_weight.
    passes = (
        padded_x + 2 * tiles * t2 * c,
        tiles * (t2 * (c + k) + m2 * k),
        tiles * (t2 + tiling.m * tiling.t + m2) * k,
        tiles * (t2 * k + m2 * k) + padded_x + 2 * tiles * t2 * c,
    )
    return max(passes) + (t2 + 3 * tiling.t + 9) * c * k + t2 * t2
