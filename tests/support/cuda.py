"""What the kernel tests share: arrays of one target, and the comparison with the portable function."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest

import xpcnn

Array = np.ndarray[Any, Any]

TOLERANCE = {"float64": 1e-14, "float32": 1e-6, "float16": 1e-3, "bfloat16": 8e-3}
"""Largest error, relative to the largest value: a few roundings of the dtype that is stored."""

LACKING = {"numpy": ("bfloat16",)}
"""The dtypes that a backend's library does not have."""


@dataclass(frozen=True)
class Target:
    """One backend whose kernels are on trial, and the dtype of the arrays."""

    backend: str
    dtype: str

    def array(self, values: Any, dtype: str | None = None) -> Any:
        """A new array with the layout of `values`, as far as the library keeps it."""
        with xpcnn.use_backend(self.backend):
            return xpcnn.asarray(np.array(values), dtype=dtype or self.dtype)

    def kernel(self, name: str) -> Callable[..., Any]:
        """The wrapper that replaces the primitive `name`."""
        from xpcnn.backend.cuda import table

        return table()[name]

    def wide(self, x: Any) -> Array:
        """The values on the host, in a dtype NumPy computes in without loss."""
        xp = xpcnn.backend_of(x).xp
        name = "float64" if self.dtype == "float64" else "float32"
        return xpcnn.to_numpy(xp.astype(x, getattr(xp, name)))

    def check(self, y: Any, expected: Any) -> None:
        """Assert y's shape and dtype, and its values up to `TOLERANCE`."""
        assert xpcnn.backend_of(y).name == self.backend
        assert str(y.dtype) == self.dtype
        assert tuple(y.shape) == np.shape(expected)
        got, expected = self.wide(y).astype(np.float64), np.asarray(expected, dtype=np.float64)
        finite = np.isfinite(expected)
        np.testing.assert_array_equal(got[~finite], expected[~finite])
        scale = np.abs(expected[finite]).max(initial=0.0)
        np.testing.assert_allclose(got[finite], expected[finite], rtol=0, atol=TOLERANCE[self.dtype] * scale)


def draw(*shape: int, seed: int = 0) -> Array:
    """Normal numbers, a function of the shape and the seed alone."""
    return np.random.default_rng([seed, *shape]).standard_normal(shape)


def is_channels_last(images: Any) -> bool:
    """Whether (N, C, H, W) is a view over contiguous (N, H, W, C) memory."""
    return bool(images.transpose(0, 2, 3, 1).flags.c_contiguous)


def kernels_started(monkeypatch: pytest.MonkeyPatch, module: Any) -> list[str]:
    """A list that gets the name of every kernel which this module of wrappers launches."""
    started: list[str] = []
    launch = module.launch

    def noted(family: Any, kernel: str, *args: Any) -> None:
        started.append(kernel)
        launch(family, kernel, *args)

    monkeypatch.setattr(module, "launch", noted)
    return started


# Layouts: each takes NumPy values (N, C, H, W) and gives an array of the target whose memory is not simply
# C-contiguous. Only "broadcast" changes the values.


def plain(target: Target, values: Array) -> Any:
    """The one that is C-contiguous."""
    return target.array(np.ascontiguousarray(values))


def channels_last(target: Target, values: Array) -> Any:
    return target.array(np.ascontiguousarray(values.transpose(0, 2, 3, 1))).transpose(0, 3, 1, 2)


def cropped(target: Target, values: Array) -> Any:
    """Part of larger channels-last images, whose rows are still vectors of channels."""
    _, _, h, w = values.shape
    return channels_last(target, np.pad(values, [(0, 0), (0, 0), (1, 2), (2, 1)]))[:, :, 1 : h + 1, 2 : w + 2]


def sliced(target: Target, values: Array) -> Any:
    """Every second row and third column of larger images, the others NaN."""
    n, c, h, w = values.shape
    memory = np.full((n, c + 1, 2 * h, 3 * w), np.nan)
    memory[:, 1:, ::2, ::3] = values
    return target.array(memory)[:, 1:, ::2, ::3]


def spread(target: Target, values: Array) -> Any:
    """Every eighth column of larger images: steps of whole vectors, but no vector of channels."""
    n, c, h, w = values.shape
    memory = np.full((n, c, h, 8 * w), np.nan)
    memory[..., ::8] = values
    return target.array(memory)[..., ::8]


def flipped(target: Target, values: Array) -> Any:
    """Negative strides."""
    return target.array(np.ascontiguousarray(values[:, :, ::-1, ::-1]))[:, :, ::-1, ::-1]


def unaligned(target: Target, values: Array) -> Any:
    """Channels-last, but no vector starts where vectors may."""
    n, c, h, w = values.shape
    flat = np.concatenate([[np.nan], values.transpose(0, 2, 3, 1).ravel()])
    return target.array(flat)[1:].reshape(n, h, w, c).transpose(0, 3, 1, 2)


def broadcast(target: Target, values: Array) -> Any:
    """The first image again and again, with stride 0."""
    image = target.array(values[:1])
    return xpcnn.backend_of(image).xp.broadcast_to(image, values.shape)


LAYOUTS = {
    "channels-last": channels_last,
    "cropped": cropped,
    "sliced": sliced,
    "spread": spread,
    "flipped": flipped,
    "unaligned": unaligned,
    "broadcast": broadcast,
}
