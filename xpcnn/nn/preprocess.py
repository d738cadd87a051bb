"""From arrays of any library to what a model computes on: moved, and bytes normalised by its first layer."""

from __future__ import annotations

import functools
import warnings
from typing import Any
from weakref import WeakSet

from xpcnn.backend import (
    Array,
    Backend,
    Key,
    array_dtype_name,
    backend_of,
    dtype_name,
    home_of,
    is_array,
    is_floating,
    primitive,
)
from xpcnn.errors import ArgumentError, DtypeError, ShapeError, UnpreparedImagesWarning
from xpcnn.nn.containers import Sequential
from xpcnn.nn.init import floating
from xpcnn.nn.layer import Layer, ReceptiveField
from xpcnn.nn.parameter import Gradients, Parameter
from xpcnn.nn.receptive_field import Traced
from xpcnn.ops.op import accumulator, in_words, plain, real, require_array

__all__ = ["Preprocess", "preprocess_of"]

PerChannel = float | tuple[float, ...]

# With more, images become infinite, or all the same.
MOST, SMALLEST_STD = 1_000_000, 1e-6

BRIGHT = 32
"""Floating images in 0 … 255 have brighter pixels; prepared ones that are nowhere negative have not."""


class Preprocess(Layer):
    """Turn the bytes of images into normalised floats, ``(x/255 − mean) / std``, on their own device.

    Floating images are prepared already, and pass as they are. The layer has no parameters and no entry in
    `state_dict`; named ``""`` it adds no segment to any path. Weight files keep `mean` and `std` beside the
    weights.

    Parameters
    ----------
    mean, std : float or sequence of float
        Of images in [0, 1]: a number, or one for each channel. They may be set later, too.
    dtype : str
        Of the results. `Layer.to` changes it with that of the parameters.

    Raises
    ------
    ArgumentError
        For a mean or std that is not finite, a std that is not above 0, or different numbers of them.
    DtypeError
        From `forward`, for images that are neither uint8 nor floating.
    ShapeError
        From `forward`, for bytes that do not have as many channels as there are means.

    Warns
    -----
    UnpreparedImagesWarning
        Once for each layer, where the first of floating images has values as bytes have, up to 255. Values
        on a device are not looked at, as that would wait for it.

    Notes
    -----
    Half precision is computed in float32 and rounded once. Bytes have no gradient: the dx of a backward pass
    is None for them.

    Examples
    --------
    >>> import numpy as np
    >>> from xpcnn import nn
    >>> layer = nn.Preprocess(mean=0.5, std=0.5)
    >>> layer(np.array([[[[0, 255]]]], np.uint8))
    array([[[[-1.,  1.]]]], dtype=float32)
    """

    batch_independent = True
    channels: int | None = None
    """Of the images, where a subclass knows."""

    def __init__(self, mean: Any = 0.0, std: Any = 1.0, *, dtype: Any = "float32") -> None:
        self._set(mean, std)
        self.dtype = dtype_name(floating("Preprocess", dtype))

    @property
    def mean(self) -> PerChannel:
        """What is taken off images in [0, 1]."""
        return self._mean

    @mean.setter
    def mean(self, mean: Any) -> None:
        self._set(mean, self._std)

    @property
    def std(self) -> PerChannel:
        """What they are divided by then."""
        return self._std

    @std.setter
    def std(self, std: Any) -> None:
        self._set(self._mean, std)

    def _set(self, mean: Any, std: Any) -> None:
        mean, std = _numbers("mean", mean, -MOST), _numbers("std", std, SMALLEST_STD)
        counts = {len(values) for values in (mean, std) if isinstance(values, tuple)}
        if len(counts | {self.channels} - {None}) > 1:
            raise ArgumentError(
                f"{type(self).__name__}: mean and std must be numbers, or have one for each of "
                f"{self.channels or 'the'} channels, got mean={in_words(mean)}, std={in_words(std)}"
            )
        self._mean: PerChannel = mean
        self._std: PerChannel = std
        means, stds = (
            values if isinstance(values, tuple) else (values,) * max(counts, default=1)
            for values in (mean, std)
        )
        # What bytes are multiplied by, and what is taken off then.
        self._scales = tuple(1 / (255 * std) for std in stds)
        self._shifts = tuple(mean / std for mean, std in zip(means, stds, strict=True))

    def _note_dtype(self, dtype: Any) -> None:
        self.dtype = dtype_name(dtype)

    def forward(self, x: Array, *, train: bool = False, key: Key | None = None) -> tuple[Array, Any]:
        x = require_array("Preprocess", "x", x)
        if is_floating(x.dtype):
            self.look_at(x)
            return x, False
        if array_dtype_name(x.dtype) != "uint8":
            raise DtypeError(
                f"Preprocess: images must be uint8 or floating, got {dtype_name(x.dtype)}; give values of 0 "
                f"to 255 as uint8, and others as floats, normalised with mean={self.mean}, std={self.std}"
            )
        channels = len(self._scales)
        if channels > 1 and (x.ndim != 4 or x.shape[1] != channels):
            raise ShapeError(
                f"Preprocess: images have shape {tuple(x.shape)}, but mean and std are for "
                f"(N, {channels}, H, W)"
            )
        return scaled_images(x, self._scales, self._shifts, _dtype(backend_of(x), self.dtype)), True

    def backward(self, ctx: Any, dy: Array, grads: Gradients | None = None, *, need_dx: bool = True) -> Any:
        of_bytes = ctx
        return require_array("Preprocess", "dy", dy) if need_dx and not of_bytes else None

    def trace(self, x: Array, path: str = "", field: ReceptiveField | None = None) -> Traced:
        return self(x), field, []  # without a path, parameters or MACs

    def look_at(self, x: Array) -> None:
        """Warn, once, where the first of floating images looks like bytes that nobody has prepared."""
        backend = backend_of(x)
        if not backend.is_host or 0 in x.shape:
            return
        least, most = (float(extreme(x[:1, ...])) for extreme in (backend.xp.min, backend.xp.max))
        if least < 0 or not BRIGHT <= most <= 255:
            return
        white = (255 * scale - shift for scale, shift in zip(self._scales, self._shifts, strict=True))
        if self in _warned or max(white) >= BRIGHT:  # so bright are images prepared as this layer would
            return
        _warned.add(self)
        warnings.warn(
            f"floating images have values up to {most:g}, and are taken as they are; "
            f"give them as uint8, or as (x / 255 - mean) / std with mean={self.mean}, std={self.std}",
            UnpreparedImagesWarning,
            stacklevel=2,
        )


@functools.cache
def _dtype(backend: Backend, name: str) -> Any:
    return backend.dtype(name)


@primitive
def scaled_images(x: Array, scales: tuple[float, ...], shifts: tuple[float, ...], dtype: Any) -> Array:
    """Return ``x · scale − shift`` of uint8 images in a floating dtype of their backend.

    Parameters
    ----------
    x : array (N, ...), or (N, C, H, W) where channels differ
        uint8.
    scales, shifts : tuple of float
        One for all, or one for each channel.
    dtype : dtype
        Of the results. Half precision is computed in float32 and rounded once.
    """
    backend = backend_of(x)
    wide = accumulator(backend, dtype) or dtype
    x = backend.xp.astype(x, wide)
    if len(scales) == 1:
        x *= scales[0]
        if shifts[0]:
            x -= shifts[0]
    else:
        x *= backend.asarray([[[scale]] for scale in scales], wide)
        x -= backend.asarray([[[shift]] for shift in shifts], wide)
    return backend.xp.astype(x, dtype, copy=False)


_warned: WeakSet[Preprocess] = WeakSet()


def _numbers(name: str, value: Any, least: float) -> PerChannel:
    """Return a finite number, or one for each channel."""
    name, values = f"Preprocess: {name}", plain(value)
    if isinstance(values, tuple) and values:
        return tuple(real(name, one, least, MOST) for one in values)
    return real(name, values, least, MOST)


def preprocess_of(model: Layer) -> Preprocess | None:
    """Return the layer that prepares a model's images; None where there is none at its front.

    Of models that answer together it is that of the first which has one.

    Examples
    --------
    >>> from xpcnn import models, nn
    >>> layer = nn.preprocess_of(models.tiny_convnet())
    >>> layer.mean, layer.std = 0.5, 0.5
    >>> layer
    Preprocess(mean=0.5, std=0.5)
    """
    if isinstance(model, Preprocess):
        return model
    if isinstance(model, Sequential) and model._layers:
        return preprocess_of(next(iter(model._layers.values())))  # behind another layer it gets no bytes
    children = model.children().values()
    return next(filter(None, map(preprocess_of, children)), None)


def prepared(model: Layer, x: Array) -> Array:
    """Return images as a model takes them: bytes as ``x / 255`` where no layer of its own prepares them."""
    if not is_array(x) or array_dtype_name(x.dtype) != "uint8" or preprocess_of(model) is not None:
        return x
    like = like_of("prepared", model)
    return Preprocess(dtype="float32" if like is None else like.dtype)(x)


# -- what a model and its loss take ------------------------------------------------------


def like_of(where: str, model: Any) -> Parameter | None:
    """Return the first parameter of a model, whose place and dtype are the model's; None if it has none.

    Raises
    ------
    ArgumentError
        For what is no `Layer`; `where` says what takes it.
    """
    if not isinstance(model, Layer):
        raise ArgumentError(f"{where}: model must be a Layer, got {type(model).__name__}")
    return next(iter(model.parameters().values()), None)


def to_images(model: Layer, x: Any, like: Parameter | None) -> Array:
    """Return images (N, ...) where a model lives, as it takes them; `like` is what `like_of` returned.

    uint8 images are copied as they are, a quarter of the bytes of float32, and normalised there: by the
    model's `nn.Preprocess`, or as ``x/255`` where it has none. Floating images are prepared already: they are
    cast to the model's dtype.
    """
    require_batch("images", x)
    backend = backend_like(model, like)
    if is_floating(x.dtype):
        if not backend.is_host and (layer := preprocess_of(model)) is not None:
            layer.look_at(x)  # while it may be on the host
        return _as_dtype_of(backend.asarray(x), like)
    if array_dtype_name(x.dtype) != "uint8":
        raise DtypeError(f"images must be uint8 or floating, got {array_dtype_name(x.dtype)}")
    return prepared(model, backend.asarray(x))


def to_targets(model: Layer, t: Any, like: Parameter | None) -> Array:
    """Return targets where a model lives, as the loss is to take them; `like` is as for `to_images`.

    Labels, integers or bools of shape (N,) or (N, 1), become (N,) int64. Rows (N, K) of integers become
    floating in the model's dtype, and so do floats of any shape. Other integers stay as they are.
    """
    require_batch("targets", t)
    backend = backend_like(model, like)
    t = backend.asarray(t)
    labels = t.ndim == 1 or (t.ndim == 2 and t.shape[1] == 1)
    if is_floating(t.dtype) or (t.ndim == 2 and not labels):
        return _as_dtype_of(t, like)
    return backend.xp.astype(backend.xp.reshape(t, (-1,)), backend.xp.int64, copy=False) if labels else t


def backend_like(model: Layer, like: Parameter | None) -> Backend:
    """Return where a model lives now, without a walk through it where its first parameter is known."""
    return model.backend if like is None else home_of(like.data)


def _as_dtype_of(x: Array, like: Parameter | None) -> Array:
    """Return an array in the dtype of a model's first parameter."""
    xp = backend_of(x).xp
    return xp.astype(x, xp.float32 if like is None else like.dtype, copy=False)


def require_batch(name: str, x: Any) -> None:
    """Require an array (N, ...) of real numbers, of any library."""
    if not is_array(x):
        raise DtypeError(f"{name} must be an array, got {type(x).__name__}; make one with xpcnn.asarray(...)")
    kind = array_dtype_name(x.dtype)
    if not is_floating(x.dtype) and not kind.startswith(("int", "uint", "bool")):
        raise DtypeError(f"{name} must be an array of real numbers, got {kind}")
    if x.ndim < 1:
        raise ShapeError(f"{name} must have shape (N, ...), got a single number")
