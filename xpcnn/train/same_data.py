"""Check that a resumed training gets the data that it was begun with."""

from __future__ import annotations

import hashlib
import logging
from typing import TYPE_CHECKING

from xpcnn.data import Dataset
from xpcnn.errors import ArgumentError

if TYPE_CHECKING:
    from xpcnn.train.trainer import Trainer

__all__ = ["describe_data", "require_same_data"]

_MOST_BYTES = 1 << 28
_CHUNK = 1 << 24

_log = logging.getLogger(__name__)


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
        taken = array[:: max(1, -(-array.nbytes // _MOST_BYTES))]
        rows = max(1, _CHUNK // max(1, taken.nbytes // max(1, len(taken))))
        for start in range(0, len(taken), rows):
            digest.update(taken[start : start + rows].tobytes())
    images, targets = data.images, data.targets
    classes = "" if data.classes is None else f", {data.classes} classes"
    return (
        f"{len(images):,} images of {images.shape[1:]} {images.dtype}, "
        f"targets {targets.shape[1:]} {targets.dtype}{classes}, hash {digest.hexdigest()}"
    )
