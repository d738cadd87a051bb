"""Awkward pooling windows."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from tests.support.ops import Array, draw, pair

IntPair = int | tuple[int, int]


class Pool(NamedTuple):
    """Arguments of a pooling, and what its input holds."""

    shape: tuple[int, int, int, int]
    kernel: IntPair
    stride: IntPair | None = None
    padding: IntPair = 0
    ceil_mode: bool = False
    content: str = "normal"

    def values(self, dtype: str = "float64") -> Array:
        x = draw(*self.shape, dtype=dtype, seed=7)
        if self.content == "ties":
            return np.round(x)
        if self.content == "constant":
            return np.full_like(x, -2.0)
        if self.content == "negative":
            return -1 - np.abs(x)
        return x

    @property
    def pairs(self) -> tuple[tuple[int, int], tuple[int, int], tuple[int, int], bool]:
        """(kernel, stride, padding, ceil_mode) as the oracles take them."""
        kernel = pair(self.kernel)
        return (
            kernel,
            kernel if self.stride is None else pair(self.stride),
            pair(self.padding),
            self.ceil_mode,
        )

    @property
    def options(self) -> dict[str, Any]:
        """The keyword arguments of the operation."""
        return {
            "kernel_size": self.kernel,
            "stride": self.stride,
            "padding": self.padding,
            "ceil_mode": self.ceil_mode,
        }


POOLS = {
    "2x2": Pool((2, 3, 4, 6), 2),
    "2x2 does not divide": Pool((2, 3, 5, 7), 2),
    "2x2 ceil": Pool((2, 3, 5, 7), 2, ceil_mode=True),
    "ceil changes nothing": Pool((2, 2, 4, 6), 2, ceil_mode=True),
    "overlapping": Pool((2, 2, 6, 7), 3, 1),
    "overlapping, stride 2": Pool((2, 2, 7, 8), 3, 2),
    "overlapping, padded": Pool((2, 2, 6, 7), 3, 2, 1),
    "padded ceil": Pool((2, 2, 6, 7), 3, 2, 1, ceil_mode=True),
    "ceil window only in padding": Pool((1, 2, 3, 3), 2, 3, 1, ceil_mode=True),
    "ceil, stride beyond the kernel": Pool((1, 2, 6, 7), 2, 4, ceil_mode=True),
    "ceil, window past the padding": Pool((1, 2, 5, 6), (4, 3), (3, 2), (2, 1), ceil_mode=True),
    "stride beyond the kernel": Pool((2, 2, 7, 8), 2, 3),
    "unequal pairs": Pool((2, 2, 7, 8), (2, 3), (3, 1), (1, 0)),
    "1x1": Pool((2, 2, 3, 4), 1),
    "1x1 stride 2": Pool((2, 2, 5, 4), 1, 2),
    "window is the input": Pool((2, 3, 4, 5), (4, 5)),
    "batch 1": Pool((1, 2, 4, 4), 2),
    "empty batch": Pool((0, 2, 4, 4), 2),
    "ties": Pool((2, 2, 6, 6), 3, 2, 1, content="ties"),
    "all equal": Pool((2, 2, 5, 5), 3, 1, 1, content="constant"),
    "negative, padded": Pool((2, 2, 5, 5), 3, 2, 1, content="negative"),
}

ADAPTIVE: dict[str, tuple[tuple[int, int, int, int], Any]] = {
    "global": ((2, 3, 4, 5), 1),
    "divides": ((2, 2, 6, 4), (3, 2)),
    "does not divide": ((2, 2, 7, 5), (3, 2)),
    "overlapping windows": ((1, 2, 10, 7), (4, 5)),
    "identity": ((2, 2, 3, 4), (3, 4)),
    "larger than the input": ((1, 2, 3, 2), (5, 4)),
    "keeps the height": ((2, 2, 5, 6), (None, 3)),
    "keeps the width": ((2, 2, 5, 6), (2, None)),
    "one row": ((2, 2, 5, 6), (1, 6)),
    "empty batch": ((0, 2, 5, 6), (2, 3)),
}
