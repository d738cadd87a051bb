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
        return {name: getattr(self, name) for name in ("stride", "padding", "dilation", "groups")}

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
    "padded 3x3": Case((2, 3, 5, 6), (4, 3, 3, 3), padding=1, pads=(1, 1, 1, 1)),
    "stride does not divide": Case(
        (2, 3, 7, 6), (4, 3, 3, 2), stride=(2, 3), padding=(1, 0), pads=(1, 1, 0, 0)
    ),
    "1x1": Case((2, 3, 4, 5), (1, 3, 1, 1), bias=False),
    "1x1 stride 2": Case((2, 3, 5, 4), (4, 3, 1, 1), stride=2, padding=1, pads=(1, 1, 1, 1)),
    "one pixel": Case((3, 4, 1, 1), (2, 4, 1, 1)),
    "kernel is the input": Case((2, 3, 4, 5), (4, 3, 4, 5), padding="valid"),
    "one channel": Case((1, 1, 6, 6), (3, 1, 5, 5), padding=2, pads=(2, 2, 2, 2)),
    "unequal pairs": Case(
        (2, 2, 9, 8), (3, 2, 3, 2), stride=(1, 2), padding=(2, 1), pads=(2, 2, 1, 1), dilation=(2, 3)
    ),
    "strided and padded": Case((2, 2, 8, 7), (3, 2, 3, 3), stride=2, padding=1, pads=(1, 1, 1, 1)),
    "dilated, padded, strided": Case(
        (2, 2, 8, 7), (3, 2, 3, 3), stride=2, padding=2, pads=(2, 2, 2, 2), dilation=2
    ),
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
    "empty batch": Case((0, 4, 5, 6), (4, 2, 3, 3), padding=1, pads=(1, 1, 1, 1), groups=2),
    "no rows": Case((2, 3, 0, 5), (4, 3, 3, 3), padding=2, pads=(2, 2, 2, 2)),
    "no columns": Case((2, 3, 5, 0), (4, 3, 3, 3), padding=2, pads=(2, 2, 2, 2)),
    "more padding than rows": Case((1, 2, 2, 5), (3, 2, 3, 3), padding=(4, 1), pads=(4, 4, 1, 1)),
    "stride beyond the kernel": Case((2, 2, 8, 7), (3, 2, 2, 1), stride=(3, 4)),
    "groups, rows that no output sees": Case((2, 4, 6, 5), (4, 2, 1, 1), stride=4, groups=2),
}

ALGORITHMS = ("auto", "loop", "im2col", "as_strided", "kn2row", "mec", "winograd", "fft")
"""Those of every backend; "auto" is PyTorch's own convolution on torch."""


def supports(algorithm: str, case: Case) -> bool:
    """Whether the algorithm can do this, as docs/convolution.md tells it."""
    square = case.w[2:] == (3, 3) and pair(case.stride) == pair(case.dilation) == (1, 1)
    return algorithm != "winograd" or (square and max(case.pads) <= 2)


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
        return {name: getattr(self, name) for name in self._fields[2:-1]}

    @property
    def oracle_options(self) -> dict[str, Any]:
        """The keyword arguments of the oracle's backward."""
        pairs = {name: pair(getattr(self, name)) for name in ("stride", "padding", "dilation")}
        return {**pairs, "groups": self.groups}


TRANSPOSED = {
    "padded 3x3": Transposed((2, 3, 4, 5), (3, 4, 3, 3), padding=1),
    "doubles": Transposed((2, 3, 3, 4), (3, 2, 4, 4), stride=2, padding=1, bias=False),
    "doubles, odd kernel": Transposed((2, 3, 3, 4), (3, 2, 3, 3), stride=2, padding=1, output_padding=1),
    "unequal pairs": Transposed(
        (2, 2, 4, 3), (2, 3, 3, 2), stride=(2, 3), padding=(1, 0), output_padding=(0, 2), dilation=(2, 1)
    ),
    "stride beyond the kernel": Transposed((2, 2, 3, 4), (2, 3, 2, 1), stride=(3, 4), output_padding=2),
    "padding cuts pixels off": Transposed((2, 2, 5, 4), (2, 3, 2, 2), padding=(2, 1)),
    "only what nothing reaches": Transposed(
        (1, 2, 1, 1), (2, 3, 1, 1), stride=(6, 3), padding=(2, 1), output_padding=(5, 2)
    ),
    "dilated, padded, strided": Transposed(
        (2, 2, 4, 3), (2, 3, 3, 3), stride=2, padding=2, output_padding=1, dilation=2
    ),
    "1x1": Transposed((2, 3, 4, 5), (3, 1, 1, 1)),
    "one pixel": Transposed((3, 4, 1, 1), (4, 2, 4, 3)),
    "one channel": Transposed((1, 1, 4, 4), (1, 3, 3, 3)),
    "groups": Transposed((2, 4, 4, 3), (4, 3, 3, 3), stride=2, padding=1, output_padding=1, groups=2),
    "depthwise": Transposed((2, 3, 4, 5), (3, 1, 2, 3), stride=2, groups=3),
    "groups, dilated": Transposed((1, 4, 3, 4), (4, 1, 2, 3), stride=(2, 1), dilation=(1, 2), groups=2),
    "empty batch": Transposed((0, 4, 4, 5), (4, 2, 3, 3), stride=2, padding=1, groups=2),
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


@functools.cache
def transposed_reference(case: Transposed, dtype: str = "float64") -> Reference:
    x, w = draw(*case.x, dtype=dtype, seed=1), draw(*case.w, dtype=dtype, seed=2)
    b = draw(case.w[1] * case.groups, dtype=dtype, seed=3) if case.bias else None
    options = case.oracle_options
    y = oracles.conv_transpose2d(x, w, b, **options, output_padding=pair(case.output_padding))
    dy = draw(*y.shape, dtype=dtype, seed=4)
    dx, dw, db = oracles.conv_transpose2d_gradients(x, w, dy, **options)
    return Reference(x, w, b, dy, y, dx, dw, db if case.bias else None)


def arrays(make: Any, r: Reference) -> tuple[Any, Any, Any, Any]:
    """(x, weight, bias, dy) of a reference as arrays of the backend."""
    return make.array(r.x), make.array(r.w), None if r.b is None else make.array(r.b), make.array(r.dy)


def check_passes(
    make: Any, got: tuple[Any, ...], r: Reference, dtype: str, rtol: float | None = None
) -> None:
    """Check (y, dx, dweight, dbias), of which what was not asked for is None."""
    for array, expected in zip(got, (r.y, r.dx, r.dw, r.db), strict=True):
        if expected is None:
            assert array is None
        else:
            make.check(array, expected, dtype, rtol=rtol)
