"""Layers one after the other, where two that belong together may be done in one pass over memory."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, cast

from xpcnn import ops
from xpcnn.backend import Array, Key
from xpcnn.errors import ArgumentError, XpcnnError
from xpcnn.nn.activation import ReLU
from xpcnn.nn.container import Container, folded, join_paths
from xpcnn.nn.conv import Conv2d
from xpcnn.nn.gradients import Gradients
from xpcnn.nn.layer import Layer, ReceptiveField, TraceRow
from xpcnn.nn.norm import BatchNorm1d, BatchNorm2d
from xpcnn.nn.pool import MaxPool2d

__all__ = ["Sequential"]

_TakesReLU = Conv2d | BatchNorm1d | BatchNorm2d
_NORMS = (BatchNorm1d, BatchNorm2d)


def _takes_relu(layer: Layer) -> bool:
    # Of exactly these types: a subclass may do something else.
    return type(layer) in _NORMS or (type(layer) is Conv2d and layer.bias is not None)


class Sequential(Container):
    """Layers one after the other.

    Parameters
    ----------
    *layers : Layer
        Named ``"0"``, ``"1"``, … as in PyTorch.
    **named : Layer
        Named children; or one mapping of names to layers. A child named ``""`` adds no segment to the
        paths of its parameters.

    Examples
    --------
    >>> from xpcnn import nn
    >>> model = nn.Sequential(conv1=nn.Conv2d(1, 4, 3), relu1=nn.ReLU())
    >>> list(model.parameters())
    ['conv1.weight', 'conv1.bias']
    """

    per_sample = True

    def forward(
        self, x: Array, *, train: bool = False, key: Key | None = None
    ) -> tuple[Array, tuple[Any, ...]]:
        contexts: list[Any] = []
        for (name, layer), *taken in self._steps():
            if taken:
                x, both = self._call(name, cast(_TakesReLU, layer).forward_relu, x, train=train)
                contexts += both
            else:
                layer_key = folded(key, name)
                x, ctx = self._call(name, layer.forward, x, train=train, key=layer_key)
                contexts.append(ctx)
        return x, tuple(contexts)

    def backward(
        self, ctx: Sequence[Any], dy: Array, grads: Gradients | None = None, *, need_dx: bool = True
    ) -> Any:
        if grads is not None:
            grads.bind(self)
        layers = list(self._layers.items())
        # A list is emptied on the way: what a layer kept is free when its gradients are there.
        contexts = ctx if isinstance(ctx, list) else list(ctx)
        if len(contexts) != len(layers):
            raise ArgumentError(f"Sequential: ctx has {len(contexts)} parts for {len(layers)} layers")
        # Where nobody asks for dx, no gradient need reach what comes before the first layer to be trained.
        first = 0 if need_dx else self._first_trained()
        rectified = False  # whether dy has been through the ReLU that comes next
        relu_ctx: Any = None  # of a ReLU that dy goes through together with the layer that comes next
        for i in reversed(range(first, len(layers))):
            (name, layer), layer_ctx = layers[i], contexts.pop()
            if rectified:
                rectified = False
                continue
            if relu_ctx is not None:
                both, relu_ctx = (layer_ctx, relu_ctx), None
                backward = cast(BatchNorm2d, layer).backward_relu
                dy = self._call(name, backward, both, dy, grads, need_dx=need_dx or i > first)
                continue
            if i > first and type(layer) is ReLU and type(layers[i - 1][1]) in _NORMS:
                relu_ctx = layer_ctx
                continue
            if i > first and type(layer) is MaxPool2d and type(layers[i - 1][1]) is ReLU:
                # A maximum is positive where the ReLU let it through: the mask of the pooled image, a
                # fraction of the size, gives the same gradients to the bit.
                dy = ops.relu.backward(ops.OutputContext(layer_ctx.y), dy)
                rectified = True
            dy = self._call(name, layer.backward, layer_ctx, dy, grads, need_dx=need_dx or i > first)
        return dy if need_dx else None

    def _first_trained(self) -> int:
        for i, layer in enumerate(self._layers.values()):
            if layer.trainable(*layer.parameters().values()):
                return i
        return len(self._layers)

    def _steps(self, pools: bool = False) -> list[list[tuple[str, Layer]]]:
        """Return the layers to run, each with the ReLU behind it that it takes along.

        With `pools`, a convolution takes the pooling behind that along, too.
        """
        steps: list[list[tuple[str, Layer]]] = []
        for name, layer in self._layers.items():
            before = [one for _, one in steps[-1]] if steps else []
            relu = type(layer) is ReLU and len(before) == 1 and _takes_relu(before[0])
            pool = pools and type(layer) is MaxPool2d and len(before) == 2 and type(before[0]) is Conv2d
            if relu or pool:
                steps[-1].append((name, layer))
            else:
                steps.append([(name, layer)])
        return steps

    def __call__(self, x: Array) -> Array:
        for (name, layer), *taken in self._steps(pools=True):
            if len(taken) == 2:
                x = self._relu_max_pool(name, taken[1][0], x)
            elif taken:
                x = self._call(name, cast(_TakesReLU, layer).forward_relu, x)[0]
            else:
                x = self._call(name, layer, x)
        return x

    def _relu_max_pool(self, name: str, pool_name: str, x: Array) -> Array:
        """Run a convolution together with a ReLU and the pooling of that name; an error names one of them."""
        conv, pool = cast(Conv2d, self._layers[name]), cast(MaxPool2d, self._layers[pool_name])
        try:
            return conv.relu_max_pool(x, pool)
        except XpcnnError as error:
            # Each message begins with the op that it comes from.
            culprit = pool_name if str(error).startswith("max_pool2d:") else name
            self._note(culprit, error)
            raise

    def trace(
        self, x: Array, path: str = "", field: ReceptiveField | None = None
    ) -> tuple[Array, ReceptiveField | None, list[TraceRow]]:
        rows: list[TraceRow] = []
        for name, layer in self._layers.items():
            x, field, more = self._call(name, layer.trace, x, join_paths(path, name), field)
            rows += more
        return x, field, rows
