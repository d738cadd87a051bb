"""Receptive fields, and what a traced layer tells for a summary."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

from xpcnn.backend import Array
from xpcnn.ops.op import pair

if TYPE_CHECKING:
    from xpcnn.nn.layer import Layer

__all__ = ["ReceptiveField", "TraceRow", "Traced", "union"]


class ReceptiveField(NamedTuple):
    """How many input pixels an output pixel sees, and how many apart neighbours are: (height, width)."""

    size: tuple[int, int] = (1, 1)
    jump: tuple[int, int] = (1, 1)

    def after(self, kernel: Any, stride: Any, dilation: Any = 1) -> ReceptiveField:
        """Return the field after one more window; its options are ints or pairs (height, width)."""
        options = (pair("ReceptiveField", "window", option, 1) for option in (kernel, stride, dilation))
        axes = list(zip(self.size, self.jump, *options, strict=True))
        height, width = (size + (k - 1) * d * jump for size, jump, k, _, d in axes)
        down, right = (jump * s for _, jump, _, s, _ in axes)
        return ReceptiveField((height, width), (down, right))


def union(*fields: ReceptiveField | None) -> ReceptiveField | None:
    """Return the field that holds all `fields`, which share a centre; None where one is the whole input."""
    known = [field for field in fields if field is not None]
    if len(known) < len(fields):
        return None
    height, width = (max(field.size[axis] for field in known) for axis in (0, 1))
    return ReceptiveField((height, width), known[0].jump)


class TraceRow(NamedTuple):
    """One layer of a traced model. `field` is None where an output sees the whole input."""

    path: str
    layer: Layer
    output_shape: tuple[int, ...]
    macs: int
    field: ReceptiveField | None


Traced = tuple[Array, ReceptiveField | None, list[TraceRow]]
"""What `Layer.trace` returns: y, its receptive field, and a row for each layer passed."""
