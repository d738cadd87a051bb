"""From arrays of any library to what a model and its loss compute on: moved, bytes as bytes, and cast."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

import numpy as np

from xpcnn.backend import (
    Array,
    Backend,
    Key,
    array_dtype_name,
    backend_of,
    home_of,
    is_array,
    is_floating,
    itemsize,
    to_numpy,
)
from xpcnn.data import Dataset
from xpcnn.errors import ArgumentError, DtypeError, ShapeError
from xpcnn.nn import Layer, ModelSpec, Parameter, is_per_sample
from xpcnn.nn.preprocess import first_parameter, prepared, preprocess_of
from xpcnn.ops.op import widened

__all__ = [
    "are_probabilities",
    "as_dataset",
    "backend_like",
    "joined",
    "labelled",
    "like_of",
    "note_input_shape",
    "pair_of",
    "require_array",
    "to_images",
    "to_targets",
]


def like_of(where: str, model: Any) -> Parameter | None:
    """Return the first parameter of a model, whose place and dtype are the model's; None if it has none.

    Raises
    ------
    ArgumentError
        For what is no `Layer`; `where` says what takes it.
    """
    if not isinstance(model, Layer):
        raise ArgumentError(f"{where}: model must be a Layer, got {type(model).__name__}")
    return first_parameter(model)


def to_images(model: Layer, x: Any, like: Parameter | None) -> Array:
    """Return images (N, ...) where a model lives, as it takes them; `like` is what `like_of` returned.

    uint8 images are copied as they are, a quarter of the bytes of float32, and normalised there: by the
    model's `nn.Preprocess`, or as ``x/255`` where it has none. Floating images are prepared already: they are
    cast to the model's dtype.
    """
    require_array("images", x)
    backend = backend_like(model, like)
    if is_floating(x.dtype):
        layer = None if backend.reads_are_free else preprocess_of(model)
        if layer is not None:
            layer.look_at(x)  # while it may be on the host
        return _cast(backend.asarray(x), like)
    if array_dtype_name(x.dtype) != "uint8":
        raise DtypeError(f"images must be uint8 or floating, got {array_dtype_name(x.dtype)}")
    return prepared(model, backend.asarray(x))


def to_targets(model: Layer, t: Any, like: Parameter | None) -> Array:
    """Return targets where a model lives, as the loss is to take them; `like` is as for `to_images`.

    Labels, integers or bools of shape (N,) or (N, 1), become (N,) int64. Rows (N, K) of integers become
    floating in the model's dtype, and so do floats of any shape. Other integers stay as they are.
    """
    require_array("targets", t)
    backend = backend_like(model, like)
    t = backend.asarray(t)
    labels = t.ndim == 1 or (t.ndim == 2 and t.shape[1] == 1)
    if is_floating(t.dtype) or (t.ndim == 2 and not labels):
        return _cast(t, like)
    return backend.xp.astype(backend.xp.reshape(t, (-1,)), backend.xp.int64, copy=False) if labels else t


def backend_like(model: Layer, like: Parameter | None) -> Backend:
    """Return where a model lives now, without a walk through it where its first parameter is known."""
    return model.backend if like is None else home_of(like.data)


def _cast(x: Array, like: Parameter | None) -> Array:
    """Return an array in the dtype of a model's first parameter."""
    xp = backend_of(x).xp
    return xp.astype(x, xp.float32 if like is None else like.dtype, copy=False)


def joined(model: Layer, batches: Iterable[tuple[Any, Any]]) -> Iterator[tuple[Any, Any]]:
    """Yield batches, a last one of a single sample joined to the one before if the model refuses it.

    It does where batch statistics would be taken of one value for each channel.
    """
    if is_per_sample(model, train=True):
        yield from batches
        return
    held = None
    for batch in batches:
        if held is not None:
            if len(held[1]) > 1 == len(batch[1]) and _refuses(model, batch[0]):
                batch = (np.concatenate([held[0], batch[0]]), np.concatenate([held[1], batch[1]]))
            else:
                yield held
        held = batch
    if held is not None:
        yield held


def _refuses(model: Layer, images: Any) -> bool:
    """Return whether training on these images ends in a shape that statistics cannot be taken of."""
    buffers = [(buffer, buffer.data) for buffer in model.buffers().values()]
    try:
        model.forward(to_images(model, images, first_parameter(model)), train=True, key=Key(0))
    except ShapeError:
        return True
    finally:
        for buffer, old in buffers:
            buffer.data = old
    return False


def require_array(name: str, x: Any) -> None:
    """Require an array (N, ...) of real numbers, of any library."""
    if not is_array(x):
        raise DtypeError(f"{name} must be an array, got {type(x).__name__}; make one with xpcnn.asarray(...)")
    kind = array_dtype_name(x.dtype)
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
    """Note on models which images they are trained on and their preparation."""
    channels, height, width = data.images.shape[1:]
    for model in models:
        model.spec = (model.spec or ModelSpec())._replace(
            input_shape=(channels, height, width), preparation=data.preparation or "crop"
        )
