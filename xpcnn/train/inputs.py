"""From host images to what a model computes on: moved as bytes, normalised on the device."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

import numpy as np

from xpcnn.backend import (
    Array,
    Backend,
    Key,
    backend_of,
    dtype_name,
    home_of,
    is_array,
    is_floating,
    itemsize,
    to_numpy,
)
from xpcnn.data import Dataset
from xpcnn.errors import ArgumentError, DtypeError, ShapeError
from xpcnn.nn import Layer, is_per_sample
from xpcnn.ops.checks import widened
from xpcnn.ops.images import scaled_images

__all__ = [
    "InputPipeline",
    "are_probabilities",
    "as_dataset",
    "labelled",
    "note_input_shape",
    "pair_of",
    "require_array",
]


class InputPipeline:
    """Brings images and labels to a model's device and dtype.

    uint8 images are copied as they are, a quarter of the bytes of float32, and become
    ``(x/255 − mean) / std`` there, with the mean and std of the model's recipe (0 and 1 without one).
    Floating images are taken as prepared already: they are moved, and cast to the model's dtype.

    Parameters
    ----------
    where : str
        What takes the model, for messages.
    model : Layer

    Raises
    ------
    ArgumentError
        When `model` is none.
    """

    def __init__(self, where: str, model: Layer) -> None:
        if not isinstance(model, Layer):
            raise ArgumentError(f"{where}: model must be a Layer, got {type(model).__name__}")
        self._model = model
        parameters = list(model.parameters().values())
        self._like = parameters[0] if parameters else None
        mean, std = (0.0, 1.0) if model.recipe is None else (model.recipe.mean, model.recipe.std)
        self._mean = mean if isinstance(mean, tuple) else (mean,)
        self._std = std if isinstance(std, tuple) else (std,)

    @property
    def backend(self) -> Backend:
        """Where the model lives now."""
        return self._model.backend if self._like is None else home_of(self._like.data)

    def images(self, x: Any) -> Array:
        """Return images (N, ...) on the model's device, in its dtype."""
        backend = self.backend
        dtype = backend.xp.float32 if self._like is None else self._like.dtype
        x = _here(backend, "images", x)
        if is_floating(x.dtype):
            return backend.xp.astype(x, dtype, copy=False)
        if x.dtype != backend.xp.uint8:
            raise DtypeError(f"images must be uint8 or floating, got {dtype_name(x.dtype)}")
        return scaled_images(x, *self._scales_and_shifts(x), dtype)

    def _scales_and_shifts(self, x: Array) -> tuple[tuple[float, ...], tuple[float, ...]]:
        """Return what bytes are multiplied by, and what is taken off then."""
        if len(self._mean) > 1 and (x.ndim != 4 or x.shape[1] != len(self._mean)):
            raise ShapeError(
                f"images have shape {tuple(x.shape)}, but the model's preprocessing is for "
                f"(N, {len(self._mean)}, H, W)"
            )
        scales = tuple(1 / (255 * std) for std in self._std)
        return scales, tuple(mean / std for mean, std in zip(self._mean, self._std, strict=True))

    def targets(self, t: Any) -> Array:
        """Return targets on the model's device, as the loss is to take them.

        Labels, integers or bools of shape (N,) or (N, 1), become (N,) int64. Rows (N, K) of integers become
        floating in the model's dtype, and so do floats of any shape. Other integers stay as they are.
        """
        backend = self.backend
        t = _here(backend, "targets", t)
        labels = t.ndim == 1 or (t.ndim == 2 and t.shape[1] == 1)
        if is_floating(t.dtype) or (t.ndim == 2 and not labels):
            dtype = backend.xp.float32 if self._like is None else self._like.dtype
            return backend.xp.astype(t, dtype, copy=False)
        return backend.xp.astype(backend.xp.reshape(t, (-1,)), backend.xp.int64, copy=False) if labels else t

    def joined(self, batches: Iterable[tuple[Any, Any]]) -> Iterator[tuple[Any, Any]]:
        """Yield batches, a last one of a single sample joined to the one before if the model refuses it.

        It does where batch statistics would be taken of one value for each channel.
        """
        if is_per_sample(self._model, train=True):
            yield from batches
            return
        held = None
        for batch in batches:
            if held is not None:
                if len(held[1]) > 1 == len(batch[1]) and self._refuses(batch[0]):
                    batch = (np.concatenate([held[0], batch[0]]), np.concatenate([held[1], batch[1]]))
                else:
                    yield held
            held = batch
        if held is not None:
            yield held

    def _refuses(self, images: Any) -> bool:
        """Return whether training on these images ends in a shape that statistics cannot be taken of."""
        buffers = [(buffer, buffer.data) for buffer in self._model.buffers().values()]
        try:
            self._model.forward(self.images(images), train=True, key=Key(0))
        except ShapeError:
            return True
        finally:
            for buffer, old in buffers:
                buffer.data = old
        return False


def _here(backend: Backend, name: str, x: Any) -> Array:
    require_array(name, x)
    return backend.asarray(x)


def require_array(name: str, x: Any) -> None:
    """Require an array (N, ...) of real numbers, of any library."""
    if not is_array(x):
        raise DtypeError(f"{name} must be an array, got {type(x).__name__}; make one with xpcnn.asarray(...)")
    kind = dtype_name(x.dtype)
    if not is_floating(x.dtype) and not kind.startswith(("int", "uint", "bool")):
        raise DtypeError(f"{name} must be an array of real numbers, got {kind}")
    if x.ndim < 1:
        raise ShapeError(f"{name} must have shape (N, ...), got a single number")


def pair_of(data: Any) -> tuple[Any, Any]:
    """Return the images and targets of a `Dataset` or of a pair of arrays, as many of one as of the other."""
    if not isinstance(data, Dataset) and (not isinstance(data, (tuple, list)) or len(data) != 2):
        raise ArgumentError(f"expected a Dataset or a pair (images, targets), got {type(data).__name__}")
    x, t = data
    for name, array in (("images", x), ("targets", t)):
        require_array(name, array)
    if x.shape[0] != t.shape[0]:
        raise ShapeError(f"images {tuple(x.shape)} and targets {tuple(t.shape)} differ in number")
    if x.shape[0] == 0:
        raise ShapeError(f"empty dataset: images have shape {tuple(x.shape)}")
    return x, t


def as_dataset(data: Any) -> Dataset:
    """Return a `Dataset`, or a pair of arrays as one."""
    if isinstance(data, Dataset):
        return data
    x, t = (to_numpy(part) for part in pair_of(data))
    return Dataset(x, t, name="arrays")


def are_probabilities(rows: Array) -> Array:
    """Return whether rows (N, classes) are not negative and sum to 1, within rounding: a 0-d bool."""
    backend = backend_of(rows)
    xp, tolerance = backend.xp, 1e-3 if itemsize(rows.dtype) > 2 else 1e-2
    sums = xp.sum(widened(backend, rows), axis=1)
    return xp.all(rows >= 0) & xp.all(xp.abs(sums - 1) < tolerance)


def labelled(where: str, data: Any) -> tuple[Any, np.ndarray]:
    """Return the images of a dataset, and the class of each (N,) on the host.

    Rows of probabilities count as their likeliest class.

    Raises
    ------
    ArgumentError
        When the targets have no classes.
    """
    images, targets = pair_of(data)
    targets = to_numpy(targets)
    kind = targets.dtype.kind
    if kind in "biu" and targets.shape[1:] in ((), (1,)):
        labels = targets.reshape(-1).astype(np.int64)
        if labels.min() >= 0:
            return images, labels
    elif targets.ndim == 2 and targets.shape[1] > 1 and bool(are_probabilities(targets)):
        return images, targets.argmax(axis=1)
    raise ArgumentError(
        f"{where}: targets must be labels (N,), or rows of probabilities (N, classes); those of shape "
        f"{targets.shape} and dtype {targets.dtype} are neither"
    )


def note_input_shape(data: Dataset, *models: Layer) -> None:
    """Note on models, where they have a recipe, which images they are trained on and their preparation."""
    channels, height, width = data.images.shape[1:]
    for model in models:
        if model.recipe is not None:
            model.recipe = model.recipe._replace(
                input_shape=(channels, height, width), preparation=data.preparation or "crop"
            )
