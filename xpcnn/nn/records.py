"""What layers tell about themselves: how they were built, loaded and traced."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from xpcnn.backend import Array

if TYPE_CHECKING:
    from xpcnn.nn.layer import Layer

__all__ = ["LoadReport", "ReceptiveField", "TraceRow", "Traced"]


class _LeftOut(NamedTuple):
    missing: list[str]
    unexpected: list[str]
    mismatched: list[str]


class LoadReport(_LeftOut):
    """What `load_state_dict` left out; three empty lists when all fitted.

    `notes` says what was done to the saved entries to make them fit, such as a prefix taken off.
    """

    notes: tuple[str, ...] = ()


class ReceptiveField(NamedTuple):
    """How many input pixels an output pixel sees, and how many apart neighbours are: (height, width)."""

    size: tuple[int, int] = (1, 1)
    jump: tuple[int, int] = (1, 1)

    def through(
        self, kernel: tuple[int, int], stride: tuple[int, int], dilation: tuple[int, int] = (1, 1)
    ) -> ReceptiveField:
        """Return the field behind one more window."""
        size = [
            s + (k - 1) * d * j for s, k, d, j in zip(self.size, kernel, dilation, self.jump, strict=True)
        ]
        jump = [j * s for j, s in zip(self.jump, stride, strict=True)]
        return ReceptiveField((size[0], size[1]), (jump[0], jump[1]))


class TraceRow(NamedTuple):
    """One layer of a traced model. `field` is None where an output sees the whole input."""

    path: str
    layer: Layer
    output_shape: tuple[int, ...]
    macs: int
    field: ReceptiveField | None


Traced = tuple[Array, ReceptiveField | None, list[TraceRow]]
"""What `Layer.trace` returns: y, its receptive field, and a row for each layer passed."""
