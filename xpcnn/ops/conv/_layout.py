"""Small steps that algorithms share: padding, biases, sums of products."""

from __future__ import annotations

import itertools
from collections.abc import Iterator

from xpcnn.backend import Array, backend_of
from xpcnn.ops.conv.executor import new_channels_last
from xpcnn.ops.conv.geometry import ConvGeometry, Padding

__all__ = ["crop", "pad", "padded_zeros", "taps", "total"]


def pad(x: Array, padding: Padding) -> Array:
    """Return x (N, C, H, W) with zeros around it (top, bottom, left, right), over channels-last memory."""
    if padding == (0, 0, 0, 0):
        backend = backend_of(x)
        return backend.xp.permute_dims(backend.channels_last(x), (0, 3, 1, 2))
    _, _, h, w = x.shape
    top, _, left, _ = padding
    y = padded_zeros(x, tuple(x.shape), padding)
    y[:, :, top : top + h, left : left + w] = x
    return y


def padded_zeros(like: Array, shape: tuple[int, ...], padding: Padding) -> Array:
    """Return zeros of the padded shape of images (N, C, H, W), over channels-last memory."""
    n, c, h, w = shape
    top, bottom, left, right = padding
    return new_channels_last(like, (n, c, h + top + bottom, w + left + right), zeros=True)


def crop(x: Array, shape: tuple[int, ...], padding: Padding) -> Array:
    """Return the part of a padded array that is the images (N, C, H, W): the adjoint of `pad`."""
    top, _, left, _ = padding
    return x[:, :, top : top + shape[2], left : left + shape[3]]


def taps(geometry: ConvGeometry) -> Iterator[tuple[int, int, slice, slice]]:
    """Yield each kernel tap (r, s), and the rows and columns of a padded image that it meets."""
    (kh, kw), (sh, sw), (dh, dw) = geometry.kernel, geometry.stride, geometry.dilation
    height, width = sh * (geometry.oh - 1) + 1, sw * (geometry.ow - 1) + 1
    for r, s in itertools.product(range(kh), range(kw)):
        yield r, s, slice(r * dh, r * dh + height, sh), slice(s * dw, s * dw + width, sw)


def total(products: Iterator[Array]) -> Array:
    """Return the sum of fresh arrays, of which no more than two exist at a time."""
    result = next(products)
    for product in products:
        result += product
        del product  # or it would still be held while the next one is made
    return result
