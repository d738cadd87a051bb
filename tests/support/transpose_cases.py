"""Awkward transposed convolutions, each with its reference answer, computed once."""

from __future__ import annotations

import functools
from typing import Any, NamedTuple

from tests.support import oracles
from tests.support.conv_cases import Reference
from tests.support.ops import draw, pair

IntPair = int | tuple[int, int]


class Transposed(NamedTuple):
    """Arguments of a transposed convolution."""

    x: tuple[int, int, int, int]
    w: tuple[int, int, int, int]
    stride: IntPair = 1
    padding: IntPair = 0
    output_padding: IntPair = 0
    groups: int = 1
    dilation: IntPair = 1
    bias: bool = True

    @property
    def options(self) -> dict[str, Any]:
        """The keyword arguments of `conv_transpose2d`, which are PyTorch's."""
        return {
            "stride": self.stride,
            "padding": self.padding,
            "output_padding": self.output_padding,
            "groups": self.groups,
            "dilation": self.dilation,
        }

    @property
    def oracle_options(self) -> dict[str, Any]:
        """The keyword arguments of the oracle's backward."""
        return {
            "stride": pair(self.stride),
            "padding": pair(self.padding),
            "dilation": pair(self.dilation),
            "groups": self.groups,
        }


CASES = {
    "plain 3x3": Transposed((2, 3, 4, 5), (3, 4, 3, 3)),
    "padded 3x3": Transposed((2, 3, 4, 5), (3, 4, 3, 3), padding=1),
    "doubles": Transposed((2, 3, 3, 4), (3, 2, 2, 2), stride=2),
    "doubles, overlapping": Transposed((2, 3, 3, 4), (3, 2, 4, 4), stride=2, padding=1),
    "doubles, odd kernel": Transposed((2, 3, 3, 4), (3, 2, 3, 3), stride=2, padding=1, output_padding=1),
    "unequal pairs": Transposed(
        (2, 2, 4, 3), (2, 3, 3, 2), stride=(2, 3), padding=(1, 0), output_padding=(0, 2), dilation=(2, 1)
    ),
    "stride beyond the kernel": Transposed((2, 2, 3, 4), (2, 3, 2, 1), stride=(3, 4)),
    "output padding beyond the padding": Transposed((2, 2, 3, 3), (2, 3, 3, 3), stride=3, output_padding=2),
    "output padding beyond the stride": Transposed(
        (2, 2, 3, 4), (2, 3, 2, 2), stride=(1, 2), padding=(0, 1), output_padding=(2, 3), dilation=(3, 4)
    ),
    "padding cuts pixels off": Transposed((2, 2, 5, 4), (2, 3, 2, 2), padding=(2, 1)),
    "only what nothing reaches": Transposed(
        (1, 2, 1, 1), (2, 3, 1, 1), stride=(6, 3), padding=(2, 1), output_padding=(5, 2)
    ),
    "dilated": Transposed((2, 2, 4, 5), (2, 3, 3, 3), dilation=2),
    "dilated, padded, strided": Transposed(
        (2, 2, 4, 3), (2, 3, 3, 3), stride=2, padding=2, output_padding=1, dilation=2
    ),
    "1x1": Transposed((2, 3, 4, 5), (3, 4, 1, 1)),
    "1x1 stride 2": Transposed((2, 3, 4, 5), (3, 4, 1, 1), stride=2, output_padding=1),
    "1x1 image": Transposed((3, 4, 1, 1), (4, 2, 4, 3)),
    "one value": Transposed((1, 1, 1, 1), (1, 1, 1, 1)),
    "batch 1": Transposed((1, 2, 4, 4), (2, 3, 3, 3), padding=1),
    "one channel": Transposed((2, 1, 4, 4), (1, 3, 3, 3)),
    "one output": Transposed((2, 3, 4, 4), (3, 1, 3, 3)),
    "groups": Transposed((2, 4, 4, 3), (4, 3, 3, 3), stride=2, padding=1, output_padding=1, groups=2),
    "depthwise": Transposed((2, 3, 4, 5), (3, 1, 2, 3), stride=2, groups=3),
    "groups, dilated": Transposed((1, 4, 3, 4), (4, 1, 2, 3), stride=(2, 1), dilation=(1, 2), groups=2),
    "no bias": Transposed((2, 3, 3, 3), (3, 4, 3, 3), bias=False),
    "kernel 1x3": Transposed((2, 2, 3, 4), (2, 3, 1, 3), padding=(0, 1)),
    "empty batch": Transposed((0, 3, 4, 5), (3, 4, 3, 3), stride=2, padding=1),
    "empty batch, groups": Transposed((0, 4, 4, 5), (4, 2, 3, 3), groups=2, output_padding=0),
}


@functools.cache
def reference(case: Transposed, dtype: str = "float64") -> Reference:
    x, w = draw(*case.x, dtype=dtype, seed=1), draw(*case.w, dtype=dtype, seed=2)
    b = draw(case.w[1] * case.groups, dtype=dtype, seed=3) if case.bias else None
    options = case.oracle_options
    y = oracles.conv_transpose2d(x, w, b, **options, output_padding=pair(case.output_padding))
    dy = draw(*y.shape, dtype=dtype, seed=4)
    dx, dw, db = oracles.conv_transpose2d_gradients(x, w, dy, **options)
    return Reference(x, w, b, dy, y, dx, dw, db if case.bias else None)
