"""Accuracy, loss and probabilities of a model, batch by batch, so that memory stays bounded."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

from xpcnn import ops
from xpcnn.arguments import whole
from xpcnn.backend import Array, backend_of, is_array, is_floating, namespace
from xpcnn.errors import ArgumentError
from xpcnn.models import googlenet_loss
from xpcnn.nn import Layer
from xpcnn.nn.preprocess import like_of, require_batch, to_images, to_targets
from xpcnn.nn.value_and_grad import infer
from xpcnn.ops.loss import Loss, as_loss
from xpcnn.ops.op import upcast
from xpcnn.train.inputs import are_probabilities, pair_of

__all__ = ["Evaluation", "evaluate", "predict"]

# Images at a time where nobody says: as many as hold 4 MB of float32, within these bounds. Enough work for
# each of several threads, memory of some dozens of MB, and Ctrl-C in training waits for one batch.
_FEWEST, _MOST, _NUMBERS = 50, 1000, 1 << 20


class Evaluation(NamedTuple):
    """What `evaluate` found. `loss` is the mean over the samples.

    `accuracy` is the part of the samples, and `correct` the number of them, whose likeliest class is the
    target's. Both are None where the targets have no classes.
    """

    accuracy: float | None
    loss: float
    correct: int | None
    samples: int


def evaluate(
    model: Layer,
    data: Any,
    *,
    batch_size: int | None = None,
    loss: Any = ops.softmax_cross_entropy,
    between: Callable[[], None] | None = None,
) -> Evaluation:
    """Return a model's accuracy and loss over a dataset.

    There is an accuracy where targets are labels and the model gives scores (N, classes), and where they are
    probabilities, rows (N, classes) that are not negative and sum to 1, for a cross-entropy loss.

    Memory is bounded by `batch_size`, however many images there are; the device is read once, at the end.

    Parameters
    ----------
    model : Layer
    data : Dataset or (images, targets)
        uint8 images are normalised by the model's `nn.Preprocess`, or become ``x / 255`` where it has none.
    batch_size : int, optional
        By default 50 to 1,000, fewer the larger the images are: a million numbers.
    loss : op, or (forward, backward)
        As for `Trainer`.
    between : callable, optional
        Called after every batch.

    Examples
    --------
    >>> from xpcnn import data, models
    >>> evaluate(models.tiny_convnet(), data.synthetic_digits(20)).samples
    20
    """
    images, targets = pair_of(data)
    batches = _batches("evaluate", images, batch_size)
    like = like_of("evaluate", model)
    loss = as_loss("evaluate", loss)
    backend, samples = model.backend, int(images.shape[0])
    xp = backend.xp
    correct: list[Array] = []
    total: list[Array] = []
    with backend.execution_context():
        for rows in batches:
            x, t = to_images(model, images[rows, ...], like), to_targets(model, targets[rows, ...], like)
            y = infer(model, x)
            value, _ = loss(y, t)
            right = _right_answers(loss, y, t)
            if right is not None:
                correct.append(right)
            total.append(upcast(backend, value) * t.shape[0])
            if between is not None:
                between()
        mean = float(backend.to_numpy(xp.sum(xp.stack(total)))) / samples
        counts = backend.to_numpy(xp.stack(correct)) if len(correct) == len(batches) else np.array([-1])
    if counts.min() < 0:
        return Evaluation(None, mean, None, samples)
    found = int(counts.sum())
    return Evaluation(found / samples, mean, found, samples)


def _right_answers(loss: Loss, y: Any, t: Array) -> Array | None:
    """Return for how many samples the likeliest class is the target's, 0-d on the device.

    None where the targets are no classes by their shape; −1 where rows turn out to be no probabilities.
    """
    if not is_array(y) or y.ndim != 2 or y.shape[1] < 2:
        return None
    xp = namespace(y)
    if not is_floating(t.dtype):
        return xp.sum(xp.astype(xp.argmax(y, axis=1) == t, xp.int64)) if t.ndim == 1 else None
    if tuple(t.shape) != tuple(y.shape) or not _is_cross_entropy(loss):
        return None
    rows, probabilities = upcast(backend_of(t), t), are_probabilities(t)
    right = xp.sum(xp.astype(xp.argmax(y, axis=1) == xp.argmax(rows, axis=1), xp.int64))
    return xp.where(probabilities, right, xp.full_like(right, -1))


def _is_cross_entropy(loss: Loss) -> bool:
    """Return whether rows of targets are taken for probabilities of classes."""
    forward: Any = loss.forward
    forward = forward.func if isinstance(forward, functools.partial) else forward
    return forward in (ops.softmax_cross_entropy, googlenet_loss[0])


def predict(model: Layer, images: Any, *, batch_size: int | None = None) -> np.ndarray:
    """Return each image's class probabilities (N, classes), on the host.

    Parameters
    ----------
    model : Layer
        Ending in logits.
    images : array (N, C, H, W)
        uint8, normalised by the model's `nn.Preprocess` (``x / 255`` where it has none), or floating and
        prepared already.
    batch_size : int, optional
        As for `evaluate`.

    Examples
    --------
    >>> from xpcnn import data, models
    >>> predict(models.tiny_convnet(), data.synthetic_digits(3).images).shape
    (3, 10)
    """
    like = like_of("predict", model)
    backend = model.backend
    require_batch("images", images)
    if images.ndim and images.shape[0] == 0:
        raise ArgumentError("predict: no images given")
    batches = _batches("predict", images, batch_size)
    with backend.execution_context():
        parts = [
            backend.to_numpy(ops.softmax(infer(model, to_images(model, images[rows, ...], like)))[0])
            for rows in batches
        ]
    return np.concatenate(parts)


def _batches(op: str, images: Any, size: int | None) -> list[slice]:
    count = images.shape[0]
    if size is None:
        size = min(max(_NUMBERS // max(math.prod(images.shape[1:]), 1), _FEWEST), _MOST)
    else:
        size = whole(f"{op}: batch_size", size, 1)
    return [slice(start, min(start + size, count)) for start in range(0, count, size)]
