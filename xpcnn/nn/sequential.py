"""Layers one after the other."""

from __future__ import annotations

from typing import Any

from xpcnn.backend import Array, Key
from xpcnn.errors import ArgumentError
from xpcnn.nn.container import Container, join_paths
from xpcnn.nn.fusion import Row
from xpcnn.nn.gradients import Gradients
from xpcnn.nn.records import ReceptiveField, Traced, TraceRow

__all__ = ["Sequential"]


class Sequential(Container):
    """Layers one after the other.

    Parameters
    ----------
    *layers : Layer
        Named ``"0"``, ``"1"``, … as in PyTorch.
    **named : Layer
        Named children; or one mapping of names to layers. A child named ``""`` adds no segment to paths.

    Examples
    --------
    >>> from xpcnn import nn
    >>> list(nn.Sequential(conv1=nn.Conv2d(1, 4, 3), relu1=nn.ReLU()).parameters())
    ['conv1.weight', 'conv1.bias']
    """

    per_sample = True

    def forward(self, x: Array, *, train: bool = False, key: Key | None = None) -> tuple[Array, Any]:
        row = Row(self)
        contexts: list[Any] = []
        for run in row.runs("forward"):
            x = row.forward(run, x, contexts, train, key)
        return x, tuple(contexts)

    def backward(self, ctx: Any, dy: Array, grads: Gradients | None = None, *, need_dx: bool = True) -> Any:
        if grads is not None:
            grads.bind(self)
        contexts = ctx if isinstance(ctx, list) else list(ctx)  # a list is emptied on the way
        if len(contexts) != len(self):
            raise ArgumentError(f"Sequential: ctx has {len(contexts)} parts for {len(self)} layers")
        # Where nobody asks for dx, no gradient need reach what comes before the first layer to be trained.
        trained = (i for i, layer in enumerate(self._layers.values()) if layer.is_trained())
        first = 0 if need_dx else next(trained, len(self))
        row = Row(self)
        for run in row.runs("backward", first):
            dy = row.backward(run, dy, contexts, grads, need_dx or run.start > first)
        return dy if need_dx else None

    def __call__(self, x: Array) -> Array:
        row = Row(self)
        for run in row.runs("inference"):
            x = row.inference(run, x)
        return x

    def trace(self, x: Array, path: str = "", field: ReceptiveField | None = None) -> Traced:
        rows: list[TraceRow] = []
        for name, layer in self._layers.items():
            x, field, more = self._call(name, layer.trace, x, join_paths(path, name), field)
            rows += more
        return x, field, rows
