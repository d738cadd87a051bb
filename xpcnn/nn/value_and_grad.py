"""The loss of a batch and its gradients: all that a training loop needs besides an optimiser."""

from __future__ import annotations

import math
from typing import Any
from weakref import WeakKeyDictionary

from xpcnn.backend import Array, Key, array_dtype_name, backend_of, itemsize
from xpcnn.backend.reference import in_reference
from xpcnn.errors import ArgumentError
from xpcnn.nn.containers import Sequential
from xpcnn.nn.layer import Layer
from xpcnn.nn.parameter import Gradients
from xpcnn.ops.conv import conv_algorithm
from xpcnn.ops.loss import Loss, as_loss

__all__ = ["ValueAndGrad", "infer", "is_batch_independent", "shards_of", "value_and_grad"]


def value_and_grad(model: Layer, loss: Any) -> ValueAndGrad:
    """Return a function that computes the loss of a batch and the gradients of the model's parameters.

    It runs the model forward with ``train=True``, the loss forward and backward, and the model backward.

    Parameters
    ----------
    model : Layer
    loss : op, or (forward, backward)
        ``loss(y, target) -> (0-d loss, ctx)`` with ``loss.backward(ctx) -> dy``, such as
        `ops.softmax_cross_entropy`, or these two as a pair of functions.

    Returns
    -------
    function
        ``(x, t, *, key=None) -> (loss, grads)``: `x` (N, ...) is what the model takes and `t` what the loss
        takes, both on the model's backend. `key` is what random masks are a function of, a `Key` or an
        integer; None draws a fresh one. `loss` is a 0-d array on the device, and `grads` a new `Gradients`.

    Raises
    ------
    ArgumentError
        When `model` is no layer, or `loss` neither an op nor a pair. The function raises it, or `ShapeError`,
        when the loss is not 0-d, and what the model and the loss raise.

    Examples
    --------
    A training loop:

    >>> import xpcnn
    >>> from xpcnn import nn, ops, optim
    >>> model = nn.Sequential(fc=nn.Linear(2, 1, seed=0))
    >>> optimizer = optim.SGD(model, lr=0.01)
    >>> x = xpcnn.asarray([[1.0, 2.0], [3.0, 4.0], [5.0, 6.0], [7.0, 9.0]], "float32")
    >>> t = xpcnn.asarray([[1.0], [2.0], [3.0], [4.0]], "float32")
    >>> for _ in range(3):
    ...     loss, grads = nn.value_and_grad(model, ops.mean_squared_error)(x, t)
    ...     optimizer.step(grads)

    A batch that does not fit into memory is run in micro-batches. A loss is a mean over its samples, so each
    micro-batch weighs as many samples as it has:

    >>> compute = nn.value_and_grad(model, ops.mean_squared_error)
    >>> total = nn.Gradients()
    >>> for part in (slice(0, 3), slice(3, 4)):
    ...     loss, grads = compute(x[part], t[part])
    ...     total.merge(grads, weight=len(x[part]) / len(x))
    >>> loss, whole = compute(x, t)
    >>> bool(abs(total["fc.weight"] - whole["fc.weight"]).max() < 1e-4)
    True
    """
    if not isinstance(model, Layer):
        raise ArgumentError(f"value_and_grad: model must be a Layer, got {type(model).__name__}")
    return ValueAndGrad(model, as_loss("value_and_grad", loss))


class ValueAndGrad:
    """What `value_and_grad` returns: a function of a batch, to be copied and pickled with its model."""

    def __init__(self, model: Layer, loss: Loss) -> None:
        self._model, self._loss = model, loss

    def __call__(self, x: Array, t: Array, *, key: Key | int | None = None) -> tuple[Array, Gradients]:
        """Return the loss of a batch, and its gradients; a call that fails puts batch statistics back."""
        with backend_of(x).execution_context():
            key = Key.fresh() if key is None else Key.of(key)
            shards = shards_of(self._model, x, train=True)
            if shards is not None:
                return self._in_shards(x, t, key, shards)
            buffers = [(buffer, buffer.data) for buffer in self._model.buffers().values()]
            try:
                return self._whole(x, t, key)
            except BaseException:  # such as a label that is no class, or Ctrl-C
                for buffer, before in buffers:
                    buffer.data = before
                raise

    def _whole(self, x: Array, t: Array, key: Key) -> tuple[Array, Gradients]:
        y, ctx = self._model.forward(x, train=True, key=key)
        value, loss_ctx = self._loss(y, t)
        grads = Gradients()
        self._model.backward(ctx, self._loss.backward(loss_ctx), grads, need_dx=False)
        return value, grads

    def _in_shards(self, x: Array, t: Array, key: Key, shards: list[slice]) -> tuple[Array, Gradients]:
        model, backend, grads = self._model, backend_of(x), Gradients()

        def forward(rows: slice) -> tuple[Array, Any]:
            return model.forward(x[rows, ...], train=True, key=key.fold(rows.start))

        def backward(shard: tuple[slice, Any]) -> Gradients:
            (rows, ctx), found = shard, Gradients()
            model.backward(ctx, dy[rows, ...], found, need_dx=False)
            return found

        outputs, contexts = zip(*backend.parallel_map(forward, shards), strict=True)
        if isinstance(model, Sequential):
            contexts = tuple(map(list, contexts))  # its backward pass empties lists on the way
        value, loss_ctx = self._loss(backend.xp.concat(outputs), t)
        dy = self._loss.backward(loss_ctx)
        for found in backend.parallel_map(backward, list(zip(shards, contexts, strict=True)), MOST_GRADIENTS):
            grads.merge(found)
        return value, grads


# -- shards ------------------------------------------------------------------------------
#
# Parts of a batch whose activations stay in a cache, one thread a core; where the backend computes on the
# host, each sample by itself. They depend on the model and the images, never on the number of threads, and
# gradients are summed in their order; so neither do the bits.

# Images in a shard: with fewer, the calls cost more than their work; with more, a core runs dry at the end.
FEWEST, MOST = 10, 50

# In inference nothing is kept from layer to layer, and fewer calls, between which threads wait for each
# other, are worth more than a cache that holds all of a layer. Large batches have enough for eight cores.
CACHES_INFERENCE, ENOUGH_INFERENCE = 4, 8

# Gradients of shards, each as large as the parameters, that may wait to be summed.
MOST_GRADIENTS = 8

_largest: WeakKeyDictionary[Layer, dict[tuple[Any, ...], int]] = WeakKeyDictionary()
"""The bytes of what the largest layer of a model returns for one image, by the image's shape and dtype."""


def is_batch_independent(layer: Layer, *, train: bool) -> bool:
    """Return whether each sample's result depends on that sample alone, in `layer` and all its children.

    A layer must say so (`Layer.batch_independent`), in the class that defines its `forward` (of a layer that
    is an op, its `op`) or in one derived from that: a subclass with another one may do something else.

    Examples
    --------
    >>> from xpcnn import nn
    >>> model = nn.Sequential(nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4))
    >>> nn.is_batch_independent(model, train=False), nn.is_batch_independent(model, train=True)
    (True, False)
    """
    if not layer.batch_independent or (train and layer.batch_independent == "inference"):
        return False
    for kind in type(layer).__mro__:
        if "batch_independent" in vars(kind):
            break
        if "forward" in vars(kind) or "op" in vars(kind):
            return False
    return all(is_batch_independent(child, train=train) for child in layer.children().values())


def infer(model: Layer, x: Array) -> Array:
    """Return y alone, run in shards where that gives the same and pays."""
    shards = shards_of(model, x, train=False)
    if shards is None:
        return model(x)
    backend = backend_of(x)
    return backend.xp.concat(list(backend.parallel_map(lambda rows: model(x[rows, ...]), shards)))


def shards_of(model: Layer, x: Array, *, train: bool) -> list[slice] | None:
    """Return the rows of each shard, or None where the batch is better run whole."""
    backend, n = backend_of(x), x.shape[0] if x.ndim else 0
    if backend.cache_block_bytes is None or n < 2 * FEWEST or (in_reference() and not train):
        return None  # random masks are functions of a shard's first row: in training the cuts stay
    if not is_batch_independent(model, train=train):
        return None
    most, caches = (MOST, 1) if train else (max(MOST, n // ENOUGH_INFERENCE), CACHES_INFERENCE)
    size = min(max(caches * backend.cache_block_bytes // _largest_activation(model, x), FEWEST), most)
    # A power of two of them, as even as can be, keeps as many threads busy to the end.
    count = min(2 ** math.ceil(math.log2(math.ceil(n / size))), n // FEWEST)
    return None if count < 2 else [slice(i * n // count, (i + 1) * n // count) for i in range(count)]


def _largest_activation(model: Layer, x: Array) -> int:
    """Return the bytes of what the largest layer returns for one image.

    A layer of one's own need not say what shape it returns, so one image is run through the model, once
    for each shape of images.
    """
    kind = (array_dtype_name(x.dtype), *x.shape[1:])
    try:
        known = _largest.setdefault(model, {})
    except TypeError:  # a layer of one's own that cannot be hashed
        known = {}
    if kind not in known:
        with conv_algorithm("im2col"):  # of a single image there is nothing to be measured
            y, _, rows = model.trace(x[:1, ...])
        largest = max((math.prod(row.output_shape[1:]) for row in rows), default=1)
        known[kind] = max(largest * itemsize(y.dtype), 1)
    return known[kind]
