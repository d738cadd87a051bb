"""Data sets as training and evaluation take them: pairs of arrays, batches, and classes of targets."""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, Any

import numpy as np

from xpcnn.backend import Array, backend_of, itemsize, to_numpy
from xpcnn.data import Dataset
from xpcnn.errors import ArgumentError, ShapeError
from xpcnn.nn import Layer, ModelSpec, is_batch_independent
from xpcnn.nn.preprocess import require_batch
from xpcnn.ops.op import upcast

if TYPE_CHECKING:
    from xpcnn.train.trainer import Trainer

__all__ = [
    "are_probabilities", "as_dataset", "describe_data", "joined", "labelled", "note_input_shape", "pair_of",
    "require_same_data",
]  # fmt: skip

_MOST_BYTES = 1 << 28

_log = logging.getLogger(__name__)


def joined(model: Layer, batches: Iterable[tuple[Any, Any]]) -> Iterator[tuple[Any, ...]]:
    """Yield batches, a last one of a single sample joined to the one before if the model takes statistics.

    Those of one sample may be of one value for each channel.
    """
    if is_batch_independent(model, train=True):
        yield from batches
        return
    held: tuple[Any, ...] | None = None
    for batch in batches:
        if held is None:
            held = batch
        elif len(held[1]) > 1 == len(batch[1]):
            held = tuple(map(np.concatenate, zip(held, batch, strict=True)))
        else:
            yield held
            held = batch
    if held is not None:
        yield held


def pair_of(data: Any) -> tuple[Any, Any]:
    """Return the images and targets of a `Dataset` or of a pair of arrays, as many of one as of the other."""
    if not isinstance(data, Dataset) and (not isinstance(data, (tuple, list)) or len(data) != 2):
        raise ArgumentError(f"expected a Dataset or a pair (images, targets), got {type(data).__name__}")
    x, t = data
    for name, array in (("images", x), ("targets", t)):
        require_batch(name, array)
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
    sums = xp.sum(upcast(backend, rows), axis=1)
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


def require_same_data(trainer: Trainer, train: Dataset, batch_size: int) -> None:
    """Note what a trainer is trained on.

    In the middle of an epoch, or after a restored checkpoint, other data is an ArgumentError. Another batch
    size is logged, as the place in an epoch is counted in samples.
    """
    data, bound = describe_data(train), trainer.resumed or trainer.epoch_samples > 0
    if bound and trainer.data not in (None, data):
        raise ArgumentError(
            f"fit: this training was begun with other data ({trainer.data}) than it is given now ({data}); "
            f"give the same, or make a new Trainer of the model"
        )
    if bound and trainer.batch_size not in (None, batch_size):
        _log.warning(
            "fit: this training was begun with batch_size=%s and goes on with batch_size=%s",
            trainer.batch_size,
            batch_size,
        )
    trainer.data, trainer.batch_size, trainer.resumed = data, batch_size, False


def describe_data(data: Dataset) -> str:
    """Return a dataset's sizes, and a hash of its images and targets: of many gigabytes, of every n-th.

    Examples
    --------
    >>> from xpcnn.data import synthetic_digits
    >>> describe_data(synthetic_digits(20)).partition(", hash ")[0]
    '20 images of (1, 28, 28) uint8, targets () int64, 10 classes'
    """
    digest = hashlib.blake2b(digest_size=8)
    for array in (data.images, data.targets):
        digest.update(np.ascontiguousarray(array[:: max(1, -(-array.nbytes // _MOST_BYTES))]).data)
    images, targets = data.images, data.targets
    classes = "" if data.classes is None else f", {data.classes} classes"
    return (
        f"{len(images):,} images of {images.shape[1:]} {images.dtype}, "
        f"targets {targets.shape[1:]} {targets.dtype}{classes}, hash {digest.hexdigest()}"
    )
