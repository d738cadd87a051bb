"""Run a model shard by shard: parts of a batch whose activations stay in a cache, one thread a core.

This is for speed alone; reference mode switches it off. Shards depend on the model and the images, never on
the number of threads, and gradients are summed in their order; so neither do the bits.
"""

from __future__ import annotations

import math
from typing import Any, NamedTuple
from weakref import WeakKeyDictionary

from xpcnn.backend import Array, Key, array_dtype_name, backend_of, itemsize
from xpcnn.backend.reference import in_reference
from xpcnn.nn.containers import Sequential
from xpcnn.nn.layer import Layer
from xpcnn.nn.value_and_grad import Gradients
from xpcnn.ops.conv import conv_algorithm

__all__ = ["ShardedModel", "Shards", "is_per_sample"]

# Images in a shard: with fewer, the calls cost more than their work; with more, a core runs dry at the end.
FEWEST, MOST = 10, 50

# In inference nothing is kept from layer to layer, and fewer calls, between which threads wait for each
# other, are worth more than a cache that holds all of a layer. Large batches have enough for eight cores.
CACHES_INFERENCE, ENOUGH_INFERENCE = 4, 8

# Gradients of shards, each as large as the parameters, that may wait to be summed.
MOST_GRADIENTS = 8

_largest: WeakKeyDictionary[Layer, dict[tuple[Any, ...], int]] = WeakKeyDictionary()
"""The bytes of what the largest layer of a model returns for one image, by the image's shape and dtype."""


def is_per_sample(layer: Layer, *, train: bool) -> bool:
    """Return whether each sample's result depends on that sample alone, in `layer` and all its children.

    A layer must say so (`Layer.per_sample`), in the class that defines its `forward` (of a layer that is an
    op, its `op`) or in one derived from that: a subclass with another one may do something else.

    Examples
    --------
    >>> from xpcnn import nn
    >>> model = nn.Sequential(nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4))
    >>> nn.is_per_sample(model, train=False), nn.is_per_sample(model, train=True)
    (True, False)
    """
    if not layer.per_sample or (train and layer.batch_statistics):
        return False
    for kind in type(layer).__mro__:
        if "per_sample" in vars(kind):
            break
        if "forward" in vars(kind) or "op" in vars(kind):
            return False
    return all(is_per_sample(child, train=train) for child in layer.children().values())


class Shards(NamedTuple):
    """The contexts of the shards of a batch, and their rows."""

    rows: list[slice]
    contexts: list[Any]


class ShardedModel:
    """Forward, backward and inference of a model, in shards where that gives the same and pays.

    It does where the backend computes on the host, each sample by itself. Batch statistics are taken of
    whole batches, so models with batch-norm are trained on them; their convolutions use several threads all
    the same.

    Parameters
    ----------
    model : Layer
    """

    def __init__(self, model: Layer) -> None:
        self.model = model

    def forward(self, x: Array, key: Key) -> tuple[Array, Any]:
        """Return y and a context, while training."""
        backend, rows = backend_of(x), self._rows(x, train=True)
        if rows is None:
            return self.model.forward(x, train=True, key=key)

        def run(part: slice) -> tuple[Array, Any]:
            return self.model.forward(x[part, ...], train=True, key=key.fold(part.start))

        results = list(backend.parallel_map(run, rows))
        y = backend.xp.concat([y for y, _ in results])
        contexts = [ctx for _, ctx in results]
        if isinstance(self.model, Sequential):
            contexts = [list(ctx) for ctx in contexts]  # its backward pass empties lists on the way
        return y, Shards(rows, contexts)

    def backward(self, ctx: Any, dy: Any, grads: Gradients) -> None:
        """Add the gradients of the parameters to `grads`. The context of shards is used up."""
        if not isinstance(ctx, Shards):
            self.model.backward(ctx, dy, grads, need_dx=False)
            return

        def run(shard: tuple[slice, Any]) -> Gradients:
            part, shard_ctx = shard
            found = Gradients()
            self.model.backward(shard_ctx, dy[part, ...], found, need_dx=False)
            return found

        for found in backend_of(dy).parallel_map(run, list(zip(*ctx, strict=True)), MOST_GRADIENTS):
            grads.merge(found)

    def __call__(self, x: Array) -> Array:
        """Return y alone: inference."""
        rows = self._rows(x, train=False)
        if rows is None:
            return self.model(x)
        backend = backend_of(x)
        return backend.xp.concat(list(backend.parallel_map(lambda part: self.model(x[part, ...]), rows)))

    def _rows(self, x: Array, *, train: bool) -> list[slice] | None:
        """Return the rows of each shard, or None where the batch is better run whole."""
        backend, n = backend_of(x), x.shape[0] if x.ndim else 0
        if backend.cache_block_bytes is None or n < 2 * FEWEST or (in_reference() and not train):
            return None  # random masks are functions of a shard's first row: in training the cuts stay
        if not is_per_sample(self.model, train=train):
            return None
        most, caches = (MOST, 1) if train else (max(MOST, n // ENOUGH_INFERENCE), CACHES_INFERENCE)
        size = min(max(caches * backend.cache_block_bytes // self._largest_activation(x), FEWEST), most)
        # A power of two of them, as even as can be, keeps as many threads busy to the end.
        count = min(2 ** math.ceil(math.log2(math.ceil(n / size))), n // FEWEST)
        return None if count < 2 else [slice(i * n // count, (i + 1) * n // count) for i in range(count)]

    def _largest_activation(self, x: Array) -> int:
        """Return the bytes of what the largest layer returns for one image.

        A layer of one's own need not say what shape it returns, so one image is run through the model, once
        for each shape of images.
        """
        kind = (array_dtype_name(x.dtype), *x.shape[1:])
        try:
            known = _largest.setdefault(self.model, {})
        except TypeError:  # a layer of one's own that cannot be hashed
            known = {}
        if kind not in known:
            with conv_algorithm("im2col"):  # of a single image there is nothing to be measured
                y, _, rows = self.model.trace(x[:1, ...])
            largest = max((math.prod(row.output_shape[1:]) for row in rows), default=1)
            known[kind] = max(largest * itemsize(y.dtype), 1)
        return known[kind]
