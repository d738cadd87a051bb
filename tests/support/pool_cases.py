"""Awkward pooling windows."""

from __future__ import annotations

from typing import Any, NamedTuple

from tests.support.ops import Array, draw, pair

IntPair = int | tuple[int, int]


class Pool(NamedTuple):
    """Arguments of a pooling."""

    shape: tuple[int, int, int, int]
    kernel: IntPair
    stride: IntPair | None = None
    padding: IntPair = 0
    ceil_mode: bool = False

    def values(self) -> Array:
        return draw(*self.shape, seed=7)

    @property
    def pairs(self) -> tuple[tuple[int, int], tuple[int, int], tuple[int, int], bool]:
        """(kernel, stride, padding, ceil_mode) as the oracles take them."""
        kernel = pair(self.kernel)
        stride = kernel if self.stride is None else pair(self.stride)
        return kernel, stride, pair(self.padding), self.ceil_mode

    @property
    def options(self) -> dict[str, Any]:
        """The keyword arguments of the operation."""
        return dict(zip(("kernel_size", "stride", "padding", "ceil_mode"), self[1:], strict=True))


POOLS = {
    "2x2": Pool((5, 3, 4, 6), 2),
    "2x2 does not divide": Pool((2, 3, 5, 7), 2),
    "2x2 ceil": Pool((2, 3, 5, 7), 2, ceil_mode=True),
    "ceil changes nothing": Pool((2, 2, 4, 6), 2, ceil_mode=True),
    "overlapping": Pool((5, 2, 6, 7), 3, 1),
    "overlapping, stride 2": Pool((2, 2, 7, 8), 3, 2),
    "overlapping, padded": Pool((5, 3, 6, 7), 3, 2, 1),
    "overlapping much": Pool((2, 2, 6, 7), (4, 5), 1, 2),
    "padded ceil": Pool((2, 2, 6, 7), 3, 2, 1, ceil_mode=True),
    "half a kernel of padding": Pool((5, 2, 6, 6), 4, 2, 2),
    "ceil window only in padding": Pool((1, 2, 3, 3), (3, 2), 3, 1, ceil_mode=True),
    "ceil, stride beyond the kernel": Pool((1, 2, 6, 7), 2, 4, ceil_mode=True),
    "ceil, window past the padding": Pool((1, 2, 5, 6), (4, 3), (3, 2), (2, 1), ceil_mode=True),
    "stride beyond the kernel": Pool((2, 2, 7, 8), 3, 5),
    "unequal pairs": Pool((2, 2, 7, 8), (2, 3), (3, 1), (1, 0)),
    "one row": Pool((5, 2, 7, 8), (1, 5), (1, 2)),
    "1x1": Pool((2, 2, 3, 4), 1),
    "1x1 stride 2": Pool((2, 2, 5, 4), 1, (2, 3)),
    "window is the input": Pool((2, 3, 4, 5), (4, 5)),
    "one image, one channel": Pool((1, 1, 9, 7), 3, 2, 1),
    "vectors of channels": Pool((2, 16, 5, 6), (3, 2), 2, 1),
    "empty batch": Pool((0, 2, 4, 4), 2),
}

ADAPTIVE: dict[str, tuple[tuple[int, int, int, int], Any]] = {
    "global": ((2, 3, 4, 5), 1),
    "divides": ((2, 2, 6, 4), (3, 2)),
    "does not divide": ((2, 2, 7, 5), (3, 2)),
    "overlapping windows": ((1, 2, 10, 7), (4, 5)),
    "identity": ((2, 2, 3, 4), (3, 4)),
    "larger than the input": ((1, 2, 3, 2), (5, 4)),
    "keeps the height": ((2, 2, 5, 6), (None, 3)),
    "keeps both": ((2, 2, 5, 6), None),
    "empty batch": ((0, 2, 5, 6), (2, 3)),
}
