"""Deskewing as one of a model's first layers."""

from __future__ import annotations

from typing import Any

from xpcnn import ops
from xpcnn.backend import Array, Key
from xpcnn.nn.gradients import Gradients
from xpcnn.nn.layer import Layer, ReceptiveField

__all__ = ["Deskew"]


class Deskew(Layer):
    """Makes slanted writing upright; see `xpcnn.ops.deskew`.

    Examples
    --------
    >>> import xpcnn
    >>> xpcnn.nn.Deskew()(xpcnn.asarray([[[[0.0, 0, 1], [0, 1, 0], [1, 0, 0]]]]))
    array([[[[0., 1., 0.],
             [0., 1., 0.],
             [0., 1., 0.]]]])
    """

    per_sample = True

    def forward(self, x: Array, *, train: bool = False, key: Key | None = None) -> tuple[Array, Any]:
        return ops.deskew(x)

    def backward(self, ctx: Any, dy: Array, grads: Gradients | None = None, *, need_dx: bool = True) -> Any:
        return ops.deskew_backward(ctx, dy) if need_dx else None

    def field_of(self, field: ReceptiveField | None) -> ReceptiveField | None:
        return None  # every pixel has a part in the slant
