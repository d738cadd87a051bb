"""Convolution as a product of spectra: for each frequency, one small matrix product over the channels.

The images are transformed once, whatever the size of the kernel, so time does not grow with it. Source:
Mathieu, Henaff and LeCun, "Fast training of convolutional networks through FFTs", 2013.
"""

from __future__ import annotations

import functools
import math
from typing import Any

from xpcnn.backend import Array, Backend, backend_of, itemsize
from xpcnn.ops.conv.algorithm import ConvAlgorithm, register
from xpcnn.ops.conv.executor import new_channels_last
from xpcnn.ops.conv.geometry import ConvGeometry


@register("fft")
class Fft(ConvAlgorithm):
    """Transform the images, multiply each frequency's (N, C) matrix by its (C, K) one, transform back.

    Cost: with F ≈ H·W/2 frequencies, 4·N·C·K·F multiplications, twice those of a 1x1 convolution, against
    N·C·K·OH·OW·kh·kw directly; and N·(C + K) transforms, which run far below the speed of a GEMM. So it wins
    for large kernels (on a CPU from about 5x5) over many channels and images: the spectra of the kernels are
    made again for every tile of the batch. For few channels, a 1x1 kernel, or a stride, whose discarded
    pixels are computed all the same, it is slow.

    Memory: the spectra of x, y and the kernels. It is counted as NumPy uses it; what cuFFT takes for itself
    comes on top.

    The transforms wrap around, and that is put to use: they need only hold the image and the padding of
    *one* side, which then serves both, rounded up to a product of small primes. A kernel has few taps, so
    its spectrum is no FFT but a product with the matrix of the taps' phases, which takes in padding and
    dilation as well.

    NaN or infinity in one pixel spreads over its image. On a CPU the result is computed once more then, by
    `kn2row`; on a device, where looking for it would wait, it stays spread.
    """

    cache_blocked = False
    spreads = True

    def unsupported(self, geometry: ConvGeometry, dtype: Any, backend: Backend) -> str | None:
        if not hasattr(backend.xp, "fft"):
            return f"needs the array API's fft extension, which {backend.name} lacks"
        return None

    def workspace_bytes(self, geometry: ConvGeometry, dtype: Any) -> int:
        n, c, k = geometry.n, geometry.c, geometry.k
        height, width = _sizes(geometry)
        frequencies = height * (width // 2 + 1)
        # In real numbers, of which a complex one is two.
        x, dx = (n * c * size for size in _transform_cost(geometry, geometry.input_shape[2:], (1, 1)))
        dy, y = (n * k * size for size in _transform_cost(geometry, geometry.output_size, geometry.stride))
        halfway = c * k * (math.prod(geometry.kernel) + height * geometry.kernel[1])
        products = 2 * frequencies * (n * max(c, k) + c * k) + 2 * max(halfway, n * min(c, k) * frequencies)
        # In grad_weight x is transformed beside the spectrum of dy.
        return max(products, dx, y, dy, x + 2 * n * k * frequencies) * itemsize(dtype)

    def forward(self, x: Array, weight: Array, geometry: ConvGeometry) -> Array:
        if _is_empty(geometry):
            return new_channels_last(x, geometry.output_shape, zeros=True)
        kernels = backend_of(x).xp.permute_dims(weight, (2, 3, 1, 0))
        # Nested, for a name would keep a spectrum alive after its use.
        return _images(
            _multiply(_spectrum(x, geometry, (1, 1)), _kernel_spectrum(kernels, geometry, sign=1)),
            geometry,
            geometry.output_size,
            geometry.stride,
        )

    def grad_input(self, dy: Array, weight: Array, geometry: ConvGeometry) -> Array:
        if _is_empty(geometry):
            return new_channels_last(dy, geometry.input_shape, zeros=True)
        kernels = backend_of(dy).xp.permute_dims(weight, (2, 3, 0, 1))
        return _images(
            _multiply(_spectrum(dy, geometry, geometry.stride), _kernel_spectrum(kernels, geometry, sign=-1)),
            geometry,
            geometry.input_shape[2:],
            (1, 1),
        )

    def grad_weight(self, x: Array, dy: Array, geometry: ConvGeometry) -> Array:
        if _is_empty(geometry):
            return new_channels_last(x, geometry.weight_shape, zeros=True)
        backend = backend_of(x)
        xp = backend.xp
        k, c, kh, kw = geometry.weight_shape
        height, width = _sizes(geometry)
        of_dy = xp.conj(_by_frequency(_spectrum(dy, geometry, geometry.stride)))
        of_x = _by_frequency(_spectrum(x, geometry, (1, 1)))
        products = xp.reshape(xp.matrix_transpose(of_dy) @ of_x, (height, -1, k * c))
        del of_dy, of_x
        # Back from the frequencies, at the taps alone. Of each conjugate pair of columns one is here.
        row_phases, column_phases = _phases(backend, geometry, x.dtype, sign=1)
        pairs = xp.full((column_phases.shape[0], 1), 2.0, dtype=x.dtype, device=backend.device)
        pairs[0, 0] /= 2
        if width % 2 == 0:
            pairs[-1, 0] /= 2
        taps = xp.matrix_transpose(column_phases * pairs) @ products  # (height, kw, K·C)
        dweight = xp.matrix_transpose(row_phases) @ xp.reshape(taps, (height, kw * k * c))
        # Copied, for the real part is a view that would keep the imaginary part as well.
        return backend.copy(xp.permute_dims(xp.reshape(xp.real(dweight), (kh, kw, k, c)), (2, 3, 0, 1)))


def _is_empty(geometry: ConvGeometry) -> bool:
    """Whether nothing is summed: no images, or a tile of the output that sees padding alone."""
    return 0 in geometry.input_shape


# -- sizes -----------------------------------------------------------------------------


@functools.lru_cache(maxsize=1024)
def _sizes(geometry: ConvGeometry) -> tuple[int, int]:
    """Return the sizes (height, width) of the transforms."""
    top, _, left, _ = geometry.padding
    images = geometry.input_shape[2:], (top, left), geometry.output_size
    kernels = geometry.kernel, geometry.stride, geometry.dilation
    height, width = (_transform_size(*axis) for axis in zip(*images, *kernels, strict=True))
    return height, width


def _transform_size(size: int, before: int, outputs: int, kernel: int, stride: int, dilation: int) -> int:
    """Return a fast size at which what wraps around falls on zeros, or on what is not looked at.

    Output pixel i meets input pixels i·stride + r·dilation − before. The smallest of these, −before, must
    not wrap to the end of the image, nor the largest to its beginning. The spread kernel and the spread
    gradient must fit as well.
    """
    last_output, last_tap = (outputs - 1) * stride, (kernel - 1) * dilation
    needed = (size + before, last_output + last_tap - before + 1, last_output + 1, last_tap + 1, size)
    return fast_size(max(needed))


@functools.cache
def fast_size(least: int) -> int:
    """Return the smallest product of 2, 3, 5 and 7 that is at least `least`."""
    size = max(least, 1)
    while pow(2 * 3 * 5 * 7, size.bit_length(), size):  # 0 where these primes alone divide it
        size += 1
    return size


def _transform_cost(geometry: ConvGeometry, size: tuple[int, int], step: tuple[int, int]) -> tuple[int, int]:
    """Return the real numbers held at most while one channel is transformed, there and back."""
    height, width = _sizes(geometry)
    columns = width // 2 + 1
    h, w = size
    spread_h, spread_w = (h - 1) * step[0] + 1, (w - 1) * step[1] + 1
    there = max(
        h * w + h * spread_w,
        h * spread_w + 2 * h * columns,
        2 * (h + spread_h) * columns,
        2 * (spread_h + height) * columns,
    )
    back = max(4 * height * columns, 2 * height * columns + h * width, h * width + h * w)
    return there, back


# -- between images and spectra --------------------------------------------------------


def _spectrum(images: Array, geometry: ConvGeometry, step: tuple[int, int]) -> Array:
    """Return the spectra (N, height, width // 2 + 1, C) of images (N, C, H, W), their pixels `step` apart.

    Axis by axis, so that rows of zeros are never transformed. All transforms are the orthonormal ones: what
    is left of their scales cancels, and NumPy (2.4) computes unscaled ones of float32 in double precision.
    """
    backend = backend_of(images)
    fft = backend.xp.fft
    height, width = _sizes(geometry)
    columns = _spread(backend.channels_last(images), 2, step[1])
    rows = _spread(fft.rfft(columns, n=width, axis=2, norm="ortho"), 1, step[0])
    del columns
    spectrum: Array = fft.fft(rows, n=height, axis=1, norm="ortho")
    return spectrum


def _spread(images: Array, axis: int, step: int) -> Array:
    """Return images (N, H, W, C) with step−1 zeros between neighbours along an axis."""
    if step == 1:
        return images
    backend = backend_of(images)
    shape = list(images.shape)
    shape[axis] = (shape[axis] - 1) * step + 1
    spread = backend.xp.zeros(tuple(shape), dtype=images.dtype, device=backend.device)
    if axis == 1:
        spread[:, ::step, :, :] = images
    else:
        spread[:, :, ::step, :] = images
    return spread


def _images(spectrum: Array, geometry: ConvGeometry, size: tuple[int, int], step: tuple[int, int]) -> Array:
    """Return every step-th pixel of the images (N, K, *size) of spectra, over channels-last memory."""
    backend = backend_of(spectrum)
    xp = backend.xp
    height, width = _sizes(geometry)
    h, w = ((count - 1) * each + 1 for count, each in zip(size, step, strict=True))
    rows = xp.fft.ifft(spectrum, n=height, axis=1, norm="ortho")
    del spectrum
    pixels = xp.fft.irfft(rows[:, : h : step[0], :, :], n=width, axis=2, norm="ortho")
    del rows
    cropped = xp.permute_dims(pixels[:, :, : w : step[1], :], (0, 3, 1, 2))
    return xp.permute_dims(backend.channels_last(cropped), (0, 3, 1, 2))


def _by_frequency(spectrum: Array) -> Array:
    """Return spectra (N, height, columns, C) as matrices (height·columns, N, C): a view."""
    xp = backend_of(spectrum).xp
    n, height, columns, c = spectrum.shape
    return xp.permute_dims(xp.reshape(spectrum, (n, height * columns, c)), (1, 0, 2))


def _phases(backend: Backend, geometry: ConvGeometry, dtype: Any, sign: int) -> tuple[Array, Array]:
    """Return exp(sign·2πi·frequency·position / size) of the taps: (height, kh) and (width // 2 + 1, kw)."""
    xp = backend.xp
    top, _, left, _ = geometry.padding
    height, width = _sizes(geometry)
    tables = []
    for size, count, taps, dilation, before in (
        (height, height, geometry.kernel[0], geometry.dilation[0], top),
        (width, width // 2 + 1, geometry.kernel[1], geometry.dilation[1], left),
    ):
        frequencies = xp.arange(count, dtype=xp.int64, device=backend.device)[:, None]
        positions = xp.arange(taps, dtype=xp.int64, device=backend.device)[None, :] * dilation - before
        turns = (frequencies * positions) % size  # whole numbers, so that large angles stay exact
        angles = xp.astype(turns, xp.float64) * (sign * 2 * math.pi / size)
        complex_dtype = xp.complex64 if dtype == xp.float32 else xp.complex128
        tables.append(xp.astype(xp.exp(xp.astype(angles, xp.complex128) * 1j), complex_dtype))
    return tables[0], tables[1]


def _kernel_spectrum(kernels: Array, geometry: ConvGeometry, sign: int) -> Array:
    """Return the spectra (height·columns, C, K) of kernels (kh, kw, C, K).

    `sign` is 1 for a correlation, −1 for a convolution.
    """
    backend = backend_of(kernels)
    xp = backend.xp
    kh, kw, c, k = kernels.shape
    row_phases, column_phases = _phases(backend, geometry, kernels.dtype, sign)
    taps = xp.astype(xp.reshape(kernels, (kh, kw * c * k)), row_phases.dtype)
    return xp.reshape(column_phases @ xp.reshape(row_phases @ taps, (-1, kw, c * k)), (-1, c, k))


def _multiply(spectrum: Array, kernels: Array) -> Array:
    """Return spectra (N, height, columns, C) times those of kernels: (N, height, columns, K)."""
    xp = backend_of(spectrum).xp
    n, height, columns, _ = spectrum.shape
    products = _by_frequency(spectrum) @ kernels  # (height·columns, N, K)
    return xp.reshape(xp.permute_dims(products, (1, 0, 2)), (n, height, columns, kernels.shape[2]))
