"""Running a model shard by shard: parts of a batch whose activations stay in a cache, one thread a core.

Shards depend on the model and the images alone, never on the number of threads, and gradients are summed in
their order; so neither do the bits.
"""

from __future__ import annotations

import math
from typing import Any, NamedTuple

from xpcnn.backend import Array, Key, backend_of, itemsize
from xpcnn.nn import Gradients, Layer, Sequential, is_per_sample
from xpcnn.ops import conv_algorithm

__all__ = ["ShardedModel"]

# Images in a shard: with fewer, the calls cost more than their work; with more, a core runs dry at the end.
FEWEST, MOST = 10, 50

# In inference nothing is kept from layer to layer, and fewer calls, between which threads wait for each
# other, are worth more than a cache that holds all of a layer. Large batches have enough for eight cores.
CACHES_INFERENCE, ENOUGH_INFERENCE = 4, 8

# Gradients of shards, each as large as the parameters, that may wait to be summed.
MOST_GRADIENTS = 8


class Shards(NamedTuple):
    """The contexts of the shards of a batch, and their rows."""

    rows: list[slice]
    contexts: list[Any]


class ShardedModel:
    """Forward, backward and inference of a model, in shards where that gives the same and pays.

    It does where the backend computes on the host, each sample by itself. Batch statistics are taken of
    whole batches, so models with batch-norm are trained on them; what their convolutions do in pieces runs on
    several threads all the same.

    Parameters
    ----------
    model : Layer
    """

    def __init__(self, model: Layer) -> None:
        self.model = model
        self._largest: dict[tuple[int, ...], int] = {}

    def forward(self, x: Array, key: Key) -> tuple[Array, Any]:
        """Return y and a context, while training."""
        backend, rows = backend_of(x), self._rows(x, train=True)
        if rows is None:
            return self.model.forward(x, train=True, key=key)

        def run(part: slice) -> tuple[Array, Any]:
            return self.model.forward(x[part, ...], train=True, key=key.fold(part.start))

        results = list(backend.each(run, rows))
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

        for found in backend_of(dy).each(run, list(zip(*ctx, strict=True)), MOST_GRADIENTS):
            grads.merge(found)

    def __call__(self, x: Array) -> Array:
        """Return y alone: inference."""
        rows = self._rows(x, train=False)
        if rows is None:
            return self.model(x)
        backend = backend_of(x)
        return backend.xp.concat(list(backend.each(lambda part: self.model(x[part, ...]), rows)))

    def _rows(self, x: Array, *, train: bool) -> list[slice] | None:
        """Return the rows of each shard, or None where the batch is better run whole."""
        backend, n = backend_of(x), x.shape[0]
        if backend.cache_block is None or n < 2 * FEWEST or not is_per_sample(self.model, train=train):
            return None
        most, caches = (MOST, 1) if train else (max(MOST, n // ENOUGH_INFERENCE), CACHES_INFERENCE)
        size = min(max(caches * backend.cache_block // self._largest_activation(x), FEWEST), most)
        # A power of two of them, as even as can be, keeps as many threads busy to the end.
        count = min(2 ** math.ceil(math.log2(math.ceil(n / size))), n // FEWEST)
        return None if count < 2 else [slice(i * n // count, (i + 1) * n // count) for i in range(count)]

    def _largest_activation(self, x: Array) -> int:
        """Return the bytes of what the largest layer gives for one image."""
        shape = tuple(x.shape[1:])
        if shape not in self._largest:
            with conv_algorithm("im2col"):  # of a single image there is nothing to be measured
                y, _, rows = self.model.trace(x[:1, ...])
            largest = max((math.prod(row.output_shape[1:]) for row in rows), default=1)
            self._largest[shape] = max(largest * itemsize(y.dtype), 1)
        return self._largest[shape]
