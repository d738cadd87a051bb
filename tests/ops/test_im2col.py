"""im2col and col2im: the classical matrix, and its adjoint."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import pytest

import xpcnn
from tests.support import oracles
from tests.support.ops import LAYOUTS, draw, mentions, pair
from xpcnn import errors, ops
from xpcnn.ops.conv.algorithms.im2col import unfold

IntPair = int | tuple[int, int]


class Unfold(NamedTuple):
    x: tuple[int, int, int, int]
    kernel_size: IntPair
    stride: IntPair = 1
    padding: IntPair = 0
    dilation: IntPair = 1

    @property
    def options(self) -> dict[str, Any]:
        return {name: getattr(self, name) for name in self._fields[1:]}

    @property
    def oracle_options(self) -> dict[str, Any]:
        (ph, pw), pairs = (
            pair(self.padding),
            [pair(one) for one in (self.kernel_size, self.stride, self.dilation)],
        )
        return {**dict(zip(("kernel", "stride", "dilation"), pairs, strict=True)), "pads": (ph, ph, pw, pw)}


CASES = {
    "3x3": Unfold((2, 3, 5, 6), 3),
    "1x1 strided": Unfold((2, 3, 5, 4), 1, 2),
    "stride beyond the kernel": Unfold((2, 2, 7, 8), (3, 2), (3, 4)),
    "everything": Unfold((2, 2, 8, 7), (2, 3), (2, 1), (1, 2), (3, 2)),
    "kernel is the input": Unfold((2, 2, 3, 4), (3, 4)),
    "more padding than rows": Unfold((1, 1, 1, 3), 2, padding=3),
    "empty batch": Unfold((0, 2, 5, 5), 3),
}
every_case = pytest.mark.parametrize("case", CASES.values(), ids=CASES.keys())


@every_case
def test_im2col(make: Any, dtype: str, case: Unfold) -> None:
    values = draw(*case.x, dtype=dtype)
    x = make.array(values)
    with make.unchanged(x):
        columns = ops.im2col(x, **case.options)
    make.check(columns, oracles.im2col(values, **case.oracle_options), dtype, rtol=0)


@every_case
def test_col2im_adds_overlaps(make: Any, dtype: str, case: Unfold) -> None:
    shape = oracles.im2col(np.zeros(case.x), **case.oracle_options).shape
    values = draw(*shape, dtype=dtype)
    columns = make.array(values)
    with make.unchanged(columns):
        x = ops.col2im(columns, case.x, **case.options)
    make.check(x, oracles.col2im(values, case.x, **case.oracle_options), dtype)


@pytest.mark.parametrize("layout", LAYOUTS.values(), ids=LAYOUTS.keys())
def test_any_memory_layout(make: Any, layout: Any) -> None:
    case = CASES["everything"]
    x = layout(make, draw(*case.x))
    columns = ops.im2col(x, **case.options)
    make.check(columns, oracles.im2col(make.to_numpy(x), **case.oracle_options), "float64", rtol=0)
    columns_t = make.array(np.ascontiguousarray(draw(*columns.shape).T))
    back = ops.col2im(make.xp.permute_dims(columns_t, (1, 0)), case.x, **case.options)
    make.check(back, oracles.col2im(draw(*columns.shape), case.x, **case.oracle_options), "float64")


def test_columns_that_do_not_fit() -> None:
    with pytest.raises(errors.ShapeError, match=mentions("col2im", "(9, 18)", "(8, 18)")):
        ops.col2im(np.zeros((8, 18)), (1, 2, 5, 5), 3)
    with pytest.raises(errors.ShapeError, match=mentions("col2im", "(9, 18)", "(9, 17)")):
        ops.col2im(np.zeros((9, 17)), (1, 2, 5, 5), 3)


@pytest.mark.parametrize(
    ("options", "kind"),
    [
        ({"kernel_size": 6}, errors.ShapeError),
        ({"kernel_size": 0}, errors.ArgumentError),
        ({"kernel_size": 3, "stride": 0}, errors.ArgumentError),
        ({"kernel_size": 3, "padding": -1}, errors.ArgumentError),
        ({"kernel_size": 3, "dilation": 0}, errors.ArgumentError),
    ],
    ids=str,
)
def test_bad_geometry(options: dict[str, int], kind: type[xpcnn.errors.XpcnnError]) -> None:
    with pytest.raises(kind, match="im2col"):
        ops.im2col(np.zeros((1, 2, 5, 5)), **options)
    with pytest.raises(kind, match="col2im"):
        ops.col2im(np.zeros((9, 18)), (1, 2, 5, 5), **options)


@pytest.mark.parametrize("channels", [1, 2])
@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("case", CASES.values(), ids=CASES.keys())
def test_patches_of_the_algorithm(make: Any, case: Unfold, layout: str, channels: int) -> None:
    """A backend's own are the portable ones, and these are the classical ones in another order."""
    n, _, h, w = case.x
    x = LAYOUTS[layout](make, draw(n, channels, h, w))
    kernel, stride, dilation = pair(case.kernel_size), pair(case.stride), pair(case.dilation)
    ph, pw = pair(case.padding)
    padding = (ph, ph + 1, pw + 2, pw)
    got = unfold(x, kernel, stride, padding, dilation)
    portable = unfold.portable(x, kernel, stride, padding, dilation)  # type: ignore[attr-defined]
    padded = np.pad(make.to_numpy(x), ((0, 0), (0, 0), padding[:2], padding[2:]))
    classical = ops.im2col(padded, kernel, stride, 0, dilation)
    ordered = classical.reshape(-1, channels, *kernel).transpose(0, 2, 3, 1).reshape(classical.shape)
    for patches in (got, portable):
        make.check(patches, ordered, "float64", rtol=0.0)
