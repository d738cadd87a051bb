"""Accuracy, loss and probabilities of a model, batch by batch, so that memory stays bounded."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

from xpcnn import ops
from xpcnn.backend import Array
from xpcnn.errors import ArgumentError
from xpcnn.nn import Layer
from xpcnn.train.inputs import InputPipeline, pair_of
from xpcnn.train.shards import ShardedModel

__all__ = ["Evaluation", "Loss", "evaluate", "predict"]

# (forward(y, target) -> (loss, ctx), backward(ctx) -> dy)
Loss = tuple[Callable[[Array, Array], tuple[Array, Any]], Callable[[Any], Array]]

# Images at a time where nobody says: as many as hold 4 MB of float32, within these bounds. Enough work for
# each of several threads, memory of some dozens of MB, and Ctrl-C in training waits for one batch.
_FEWEST, _MOST, _NUMBERS = 50, 1000, 1 << 20


class Evaluation(NamedTuple):
    """What `evaluate` found. `accuracy` is the share of right answers, `loss` the mean over the samples."""

    accuracy: float
    loss: float
    correct: int
    samples: int


def evaluate(
    model: Layer,
    data: Any,
    *,
    batch_size: int | None = None,
    loss: Loss = (ops.softmax_cross_entropy, ops.softmax_cross_entropy_backward),
    between: Callable[[], None] | None = None,
) -> Evaluation:
    """Return a model's accuracy and loss over a dataset.

    Memory is bounded by `batch_size`, however many images there are; the device is read once, at the end.

    Parameters
    ----------
    model : Layer
    data : Dataset or (images, labels)
        uint8 images are normalised as the model's recipe says.
    batch_size : int, optional
        By default 50 to 1,000, fewer the larger the images are: a million numbers.
    loss : (forward, backward)
    between : callable, optional
        Called after every batch.

    Examples
    --------
    >>> from xpcnn import data, models
    >>> evaluate(models.tiny_convnet(), data.synthetic_digits(20)).samples
    20
    """
    images, labels = pair_of(data)
    batches = _batches("evaluate", images, batch_size)
    inputs, run = InputPipeline(model), ShardedModel(model)
    xp = inputs.backend.xp
    correct, total = [], []
    with inputs.backend.model_run():
        for rows in batches:
            x, t = inputs.images(images[rows, ...]), inputs.labels(labels[rows, ...])
            y = run(x)
            value, _ = loss[0](y, t)
            truth = xp.argmax(t, axis=1) if t.ndim == 2 else t
            correct.append(xp.sum(xp.astype(xp.argmax(y, axis=1) == truth, xp.int64)))
            total.append(value * t.shape[0])
            if between is not None:
                between()
        backend = inputs.backend
        right = int(backend.to_numpy(xp.sum(xp.stack(correct))))
        mean = float(backend.to_numpy(xp.sum(xp.stack(total)))) / labels.shape[0]
    return Evaluation(right / labels.shape[0], mean, right, int(labels.shape[0]))


def predict(model: Layer, images: Any, *, batch_size: int | None = None) -> np.ndarray:
    """Return each image's class probabilities (N, classes), on the host.

    Parameters
    ----------
    model : Layer
        Ending in logits.
    images : array (N, C, H, W)
        uint8, normalised as the model's recipe says, or floating and prepared already.
    batch_size : int, optional
        As for `evaluate`.

    Examples
    --------
    >>> from xpcnn import data, models
    >>> predict(models.tiny_convnet(), data.synthetic_digits(3).images).shape
    (3, 10)
    """
    inputs, run = InputPipeline(model), ShardedModel(model)
    if images.shape[0] == 0:
        raise ArgumentError("predict: no images given")
    batches = _batches("predict", images, batch_size)
    with inputs.backend.model_run():
        parts = [
            inputs.backend.to_numpy(ops.softmax(run(inputs.images(images[rows, ...])))[0]) for rows in batches
        ]
    return np.concatenate(parts)


def _batches(op: str, images: Any, size: int | None) -> list[slice]:
    count = images.shape[0]
    if size is None:
        size = min(max(_NUMBERS // max(math.prod(images.shape[1:]), 1), _FEWEST), _MOST)
    elif size < 1:
        raise ArgumentError(f"{op}: batch_size must be at least 1, got {size}")
    return [slice(start, min(start + size, count)) for start in range(0, count, size)]
