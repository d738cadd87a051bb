"""What from-scratch articles begin with: the loop over pixels, im2col by loops and by slices, deep_convnet.

On host arrays alone, without xpcnn's ops. They are here to be timed beside everything else. `DeepConvNet` is
float64, in classes that keep what they saw.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from itertools import product
from typing import Protocol

import numpy as np

from xpcnn.ops import ConvGeometry

__all__ = ["PASSES", "DeepConvNet", "im2col_loop", "im2col_slices"]


def loop_forward(x: np.ndarray, weight: np.ndarray, geometry: ConvGeometry) -> np.ndarray:
    """Convolve image by image and pixel by pixel: a patch times all filters, summed."""
    padded = _padded(x, geometry)
    y = np.empty(geometry.output_shape, x.dtype)
    for n, i, j in np.ndindex(geometry.n, *geometry.output_size):
        patch = padded[n][_patch(geometry, i, j)]
        y[n, :, i, j] = (patch * weight).sum(axis=(1, 2, 3))
    return y


def loop_grad_weight(x: np.ndarray, dy: np.ndarray, geometry: ConvGeometry) -> np.ndarray:
    """Add up each pixel's gradient times its patch."""
    padded = _padded(x, geometry)
    dweight = np.zeros(geometry.weight_shape, x.dtype)
    for n, i, j in np.ndindex(geometry.n, *geometry.output_size):
        patch = padded[n][_patch(geometry, i, j)]
        dweight += dy[n, :, i, j, None, None, None] * patch
    return dweight


def loop_grad_input(dy: np.ndarray, weight: np.ndarray, geometry: ConvGeometry) -> np.ndarray:
    """Add each pixel's gradient, times the filters, to its patch."""
    dx = np.zeros((geometry.n, geometry.c, *geometry.padded_size), dy.dtype)
    for n, i, j in np.ndindex(geometry.n, *geometry.output_size):
        dx[n][_patch(geometry, i, j)] += (dy[n, :, i, j, None, None, None] * weight).sum(axis=0)
    top, _, left, _ = geometry.padding
    return dx[:, :, top : top + geometry.h, left : left + geometry.w]


PASSES: dict[str, Callable[..., np.ndarray]] = {
    "forward": lambda x, weight, dy, geometry: loop_forward(x, weight, geometry),
    "grad_input": lambda x, weight, dy, geometry: loop_grad_input(dy, weight, geometry),
    "grad_weight": lambda x, weight, dy, geometry: loop_grad_weight(x, dy, geometry),
}


def im2col_loop(x: np.ndarray, geometry: ConvGeometry) -> np.ndarray:
    """Return the columns (N·OH·OW, C·kh·kw), patch by patch."""
    padded = _padded(x, geometry)
    kh, kw = geometry.kernel
    columns = np.empty((geometry.n * geometry.oh * geometry.ow, geometry.c * kh * kw), x.dtype)
    for row, (n, i, j) in enumerate(np.ndindex(geometry.n, *geometry.output_size)):
        columns[row] = padded[n][_patch(geometry, i, j)].reshape(-1)
    return columns


def im2col_slices(x: np.ndarray, geometry: ConvGeometry) -> np.ndarray:
    """Return the columns (N·OH·OW, C·kh·kw): a strided slice of all images for each tap of the kernel."""
    padded = _padded(x, geometry)
    (kh, kw), (oh, ow) = geometry.kernel, geometry.output_size
    (sh, sw), (dh, dw) = geometry.stride, geometry.dilation
    taps = np.empty((geometry.n, geometry.c, kh, kw, oh, ow), x.dtype)
    for r, s in product(range(kh), range(kw)):
        top, left = r * dh, s * dw
        rows, columns = slice(top, top + sh * oh, sh), slice(left, left + sw * ow, sw)
        taps[:, :, r, s] = padded[:, :, rows, columns]
    return taps.transpose(0, 4, 5, 1, 2, 3).reshape(geometry.n * oh * ow, -1)


def _padded(x: np.ndarray, geometry: ConvGeometry) -> np.ndarray:
    top, bottom, left, right = geometry.padding
    return np.pad(x, ((0, 0), (0, 0), (top, bottom), (left, right)))


def _patch(geometry: ConvGeometry, i: int, j: int) -> tuple[slice, slice, slice]:
    """Return what output pixel (i, j) sees of a padded image."""
    (kh, kw), (sh, sw), (dh, dw) = geometry.kernel, geometry.stride, geometry.dilation
    rows = slice(i * sh, i * sh + dh * (kh - 1) + 1, dh)
    return slice(None), rows, slice(j * sw, j * sw + dw * (kw - 1) + 1, dw)


class Step(Protocol):
    """A layer."""

    def forward(self, x: np.ndarray) -> np.ndarray: ...
    def backward(self, dout: np.ndarray) -> np.ndarray: ...


def col2im(columns: np.ndarray, geometry: ConvGeometry) -> np.ndarray:
    """Add columns (N·OH·OW, C·kh·kw) up to images (N, C, H, W)."""
    (kh, kw), (sh, sw), (oh, ow) = geometry.kernel, geometry.stride, geometry.output_size
    taps = columns.reshape(geometry.n, oh, ow, geometry.c, kh, kw).transpose(0, 3, 4, 5, 1, 2)
    images = np.zeros((geometry.n, geometry.c, *geometry.padded_size))
    for r in range(kh):
        for s in range(kw):
            images[:, :, r : r + sh * oh : sh, s : s + sw * ow : sw] += taps[:, :, r, s]
    top, _, left, _ = geometry.padding
    return images[:, :, top : top + geometry.h, left : left + geometry.w]


class Convolution:
    """Columns times filters."""

    def __init__(self, params: dict[str, np.ndarray], name: str, padding: int) -> None:
        self.params, self.name, self.padding = params, name, padding
        self.grads: dict[str, np.ndarray] = {}

    def forward(self, x: np.ndarray) -> np.ndarray:
        weight, bias = self.params[f"{self.name}.weight"], self.params[f"{self.name}.bias"]
        self.geometry = ConvGeometry.of(x.shape, weight.shape, 1, self.padding)
        self.columns = im2col_slices(x, self.geometry)
        self.filters = weight.reshape(len(weight), -1).T
        out: np.ndarray = self.columns @ self.filters + bias
        return out.reshape(self.geometry.n, *self.geometry.output_size, -1).transpose(0, 3, 1, 2)

    def backward(self, dout: np.ndarray) -> np.ndarray:
        dout = dout.transpose(0, 2, 3, 1).reshape(-1, dout.shape[1])
        self.grads[f"{self.name}.bias"] = dout.sum(axis=0)
        dfilters = self.columns.T @ dout
        self.grads[f"{self.name}.weight"] = dfilters.T.reshape(self.params[f"{self.name}.weight"].shape)
        return col2im(dout @ self.filters.T, self.geometry)


class Affine:
    """Rows times a matrix."""

    def __init__(self, params: dict[str, np.ndarray], name: str) -> None:
        self.params, self.name = params, name
        self.grads: dict[str, np.ndarray] = {}

    def forward(self, x: np.ndarray) -> np.ndarray:
        self.shape = x.shape
        self.x = x.reshape(len(x), -1)
        out: np.ndarray = self.x @ self.params[f"{self.name}.weight"].T + self.params[f"{self.name}.bias"]
        return out

    def backward(self, dout: np.ndarray) -> np.ndarray:
        self.grads[f"{self.name}.weight"] = dout.T @ self.x
        self.grads[f"{self.name}.bias"] = dout.sum(axis=0)
        dx: np.ndarray = dout @ self.params[f"{self.name}.weight"]
        return dx.reshape(self.shape)


class Relu:
    """Nothing below 0."""

    def forward(self, x: np.ndarray) -> np.ndarray:
        self.mask = x <= 0
        out = x.copy()
        out[self.mask] = 0
        return out

    def backward(self, dout: np.ndarray) -> np.ndarray:
        dx = dout.copy()
        dx[self.mask] = 0
        return dx


class Pooling:
    """The largest of each 2×2 window."""

    def forward(self, x: np.ndarray) -> np.ndarray:
        channels = x.shape[1]
        self.geometry = ConvGeometry.of(x.shape, (1, channels, 2, 2), 2)
        columns = im2col_slices(x, self.geometry).reshape(-1, 4)
        self.largest = columns.argmax(axis=1)
        out: np.ndarray = columns.max(axis=1).reshape(len(x), *self.geometry.output_size, channels)
        return out.transpose(0, 3, 1, 2)

    def backward(self, dout: np.ndarray) -> np.ndarray:
        dout = dout.transpose(0, 2, 3, 1)
        columns = np.zeros((dout.size, 4))
        columns[np.arange(dout.size), self.largest] = dout.ravel()
        return col2im(columns.reshape(-1, 4 * dout.shape[3]), self.geometry)


class Dropout:
    """Some values are left out, the others grow to make up for them."""

    def __init__(self, p: float) -> None:
        self.p, self.rng = p, np.random.default_rng(0)

    def forward(self, x: np.ndarray) -> np.ndarray:
        self.mask = (self.rng.random(x.shape) >= self.p) / (1 - self.p)
        return x * self.mask

    def backward(self, dout: np.ndarray) -> np.ndarray:
        return dout * self.mask


class DeepConvNet:
    """The network, its loss, and Adam.

    Parameters
    ----------
    state : mapping of str to ndarray
        The initial parameters, by the names of `models.deep_convnet`.
    dropout : float
    """

    LAYERS = (*(f"conv{i}" for i in range(1, 7)), "fc1", "fc2")

    def __init__(self, state: Mapping[str, np.ndarray], dropout: float = 0.5) -> None:
        self.params = {name: value.astype(np.float64) for name, value in state.items()}
        self.layers: list[Step] = []
        for i, padding in enumerate((1, 1, 1, 2, 1, 1), start=1):
            self.layers += [Convolution(self.params, f"conv{i}", padding), Relu()]
            if i % 2 == 0:
                self.layers.append(Pooling())
        self.layers += [Affine(self.params, "fc1"), Relu(), Dropout(dropout)]
        self.layers += [Affine(self.params, "fc2"), Dropout(dropout)]
        self.steps = 0
        self.m = {name: np.zeros_like(value) for name, value in self.params.items()}
        self.v = {name: np.zeros_like(value) for name, value in self.params.items()}

    def step(self, x: np.ndarray, t: np.ndarray, lr: float = 1e-3) -> float:
        """Do one training step, and return its loss."""
        for layer in self.layers:
            x = layer.forward(x)
        y = np.exp(x - x.max(axis=1, keepdims=True))
        y /= y.sum(axis=1, keepdims=True)
        rows = np.arange(len(t))
        loss = -np.log(y[rows, t]).mean()
        dout = y.copy()
        dout[rows, t] -= 1
        dout /= len(t)
        for layer in reversed(self.layers):
            dout = layer.backward(dout)
        self.update(lr)
        return float(loss)

    def update(self, lr: float) -> None:
        """Adam, parameter by parameter."""
        self.steps += 1
        for layer in self.layers:
            if isinstance(layer, Convolution | Affine):
                for name, grad in layer.grads.items():
                    self.m[name] += (1 - 0.9) * (grad - self.m[name])
                    self.v[name] += (1 - 0.999) * (grad**2 - self.v[name])
                    m = self.m[name] / (1 - 0.9**self.steps)
                    root = np.sqrt(self.v[name]) / math.sqrt(1 - 0.999**self.steps)
                    self.params[name] -= lr * m / (root + 1e-8)
