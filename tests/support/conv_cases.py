"""Awkward convolutions, each with its reference answer, computed once."""

from __future__ import annotations

import functools
from typing import Any, NamedTuple

from tests.support import oracles
from tests.support.ops import Array, draw, pair

IntPair = int | tuple[int, int]


class Case(NamedTuple):
    """Arguments of a convolution; `pads` is what `padding` means, as (top, bottom, left, right)."""

    x: tuple[int, int, int, int]
    w: tuple[int, int, int, int]
    stride: IntPair = 1
    padding: IntPair | str = 0
    pads: tuple[int, int, int, int] = (0, 0, 0, 0)
    dilation: IntPair = 1
    groups: int = 1
    bias: bool = True

    @property
    def options(self) -> dict[str, Any]:
        """The keyword arguments of `conv2d`."""
        return {
            "stride": self.stride,
            "padding": self.padding,
            "dilation": self.dilation,
            "groups": self.groups,
        }

    @property
    def oracle_options(self) -> dict[str, Any]:
        """The keyword arguments of the oracle."""
        return {
            "stride": pair(self.stride),
            "pads": self.pads,
            "dilation": pair(self.dilation),
            "groups": self.groups,
        }


CASES = {
    "plain 3x3": Case((2, 3, 5, 6), (4, 3, 3, 3)),
    "padded 3x3": Case((2, 3, 5, 6), (4, 3, 3, 3), padding=1, pads=(1, 1, 1, 1)),
    "stride does not divide": Case(
        (2, 3, 7, 6), (4, 3, 3, 2), stride=(2, 3), padding=(1, 0), pads=(1, 1, 0, 0)
    ),
    "1x1": Case((2, 3, 4, 5), (4, 3, 1, 1)),
    "1x1 stride 2": Case((2, 3, 5, 4), (4, 3, 1, 1), stride=2),
    "1x1 padded": Case((2, 3, 3, 2), (4, 3, 1, 1), padding=1, pads=(1, 1, 1, 1)),
    "1x1 image": Case((3, 4, 1, 1), (2, 4, 1, 1)),
    "kernel is the input": Case((2, 3, 4, 5), (4, 3, 4, 5)),
    "kernel is the padded input": Case((2, 2, 2, 3), (3, 2, 4, 5), padding=1, pads=(1, 1, 1, 1)),
    "batch 1": Case((1, 2, 6, 5), (3, 2, 3, 3), padding=1, pads=(1, 1, 1, 1)),
    "one channel": Case((2, 1, 6, 6), (3, 1, 5, 5), padding=2, pads=(2, 2, 2, 2)),
    "one output": Case((2, 3, 5, 5), (1, 3, 3, 3)),
    "unequal pairs": Case(
        (2, 2, 9, 8), (3, 2, 3, 2), stride=(1, 2), padding=(2, 1), pads=(2, 2, 1, 1), dilation=(2, 3)
    ),
    "strided and padded": Case((2, 2, 8, 7), (3, 2, 3, 3), stride=2, padding=1, pads=(1, 1, 1, 1)),
    "dilated": Case((2, 2, 7, 8), (3, 2, 3, 3), dilation=2),
    "dilated, padded, strided": Case(
        (2, 2, 8, 7), (3, 2, 3, 3), stride=2, padding=2, pads=(2, 2, 2, 2), dilation=2
    ),
    "valid": Case((2, 2, 5, 6), (3, 2, 2, 3), padding="valid"),
    "valid, strided": Case((2, 2, 6, 6), (3, 2, 3, 3), stride=2, padding="valid"),
    "same": Case((2, 2, 5, 4), (3, 2, 3, 5), padding="same", pads=(1, 1, 2, 2)),
    "same, even kernel": Case((2, 2, 5, 6), (3, 2, 2, 4), padding="same", pads=(0, 1, 1, 2)),
    "same, even and dilated": Case(
        (1, 2, 5, 6), (3, 2, 2, 4), padding="same", pads=(1, 2, 3, 3), dilation=(3, 2)
    ),
    "groups": Case((2, 4, 5, 5), (6, 2, 3, 3), padding=1, pads=(1, 1, 1, 1), groups=2),
    "groups, strided, dilated": Case(
        (2, 4, 7, 8), (2, 2, 2, 3), stride=(2, 1), padding=1, pads=(1, 1, 1, 1), dilation=(1, 2), groups=2
    ),
    "depthwise": Case((2, 3, 5, 6), (3, 1, 3, 3), stride=2, padding=1, pads=(1, 1, 1, 1), groups=3),
    "depthwise, two per channel": Case((2, 3, 4, 4), (6, 1, 2, 2), groups=3),
    "empty batch": Case((0, 3, 5, 6), (4, 3, 3, 3), padding=1, pads=(1, 1, 1, 1)),
    "empty batch, groups": Case((0, 4, 5, 6), (4, 2, 3, 3), stride=2, groups=2),
    "no bias": Case((2, 3, 5, 5), (4, 3, 3, 3), bias=False),
    "no rows": Case((2, 3, 0, 5), (4, 3, 3, 3), padding=2, pads=(2, 2, 2, 2)),
    "no columns": Case((2, 3, 5, 0), (4, 3, 3, 3), padding=2, pads=(2, 2, 2, 2)),
    "kernel 1x3": Case((2, 2, 4, 6), (3, 2, 1, 3), padding=(0, 1), pads=(0, 0, 1, 1)),
    "kernel 3x1": Case((2, 2, 6, 4), (3, 2, 3, 1), padding=(1, 0), pads=(1, 1, 0, 0)),
    "more padding than rows": Case((1, 2, 2, 5), (3, 2, 3, 3), padding=(4, 1), pads=(4, 4, 1, 1)),
    "stride beyond the kernel": Case((2, 2, 8, 7), (3, 2, 2, 1), stride=(3, 4)),
    "groups, rows that no output sees": Case((2, 4, 6, 5), (4, 2, 1, 1), stride=4, groups=2),
    "one position": Case((2, 2, 4, 4), (3, 2, 3, 3), stride=5),
}


class Reference(NamedTuple):
    """Inputs in some dtype, and float64 answers for exactly those inputs."""

    x: Array
    w: Array
    b: Array | None
    dy: Array
    y: Array
    dx: Array
    dw: Array
    db: Array | None


@functools.cache
def reference(case: Case, dtype: str = "float64") -> Reference:
    x, w = draw(*case.x, dtype=dtype, seed=1), draw(*case.w, dtype=dtype, seed=2)
    b = draw(case.w[0], dtype=dtype, seed=3) if case.bias else None
    y = oracles.conv2d(x, w, b, **case.oracle_options)
    dy = draw(*y.shape, dtype=dtype, seed=4)
    dx, dw, db = oracles.conv2d_gradients(x, w, dy, **case.oracle_options)
    return Reference(x, w, b, dy, y, dx, dw, db if case.bias else None)
