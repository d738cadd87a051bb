"""The workspace limit: convolutions cut their work to stay within it, and say so where they cannot."""

from __future__ import annotations

import functools
import math
import tracemalloc
from typing import Any

import numpy as np
import pytest

import xpcnn
from tests.support.conv_cases import ALGORITHMS, CASES, Case, arrays, check_passes, reference, supports
from tests.support.ops import draw, mentions, scratch
from xpcnn import errors, ops
from xpcnn.ops.conv.algorithm import find

TILED = ("im2col", "as_strided", "kn2row", "mec", "winograd", "fft")


TILING_CASES = {
    "padded": Case((3, 3, 18, 16), (4, 3, 3, 3), padding=1, pads=(1, 1, 1, 1)),
    "a rest of two rows": Case((3, 3, 9, 9), (4, 3, 3, 3), padding=1, pads=(1, 1, 1, 1)),
    "strided": Case((3, 3, 35, 32), (4, 3, 3, 3), stride=2, padding=1, pads=(1, 1, 1, 1)),
    "dilated": Case((3, 3, 20, 20), (4, 3, 3, 3), dilation=2),
    "groups": Case((3, 4, 18, 16), (4, 2, 3, 3), padding=1, pads=(1, 1, 1, 1), groups=2),
    "1x1": Case((3, 27, 18, 16), (4, 27, 1, 1)),
    "padding alone in a tile": Case((2, 1, 12, 9), (1, 1, 3, 3), padding=6, pads=(6, 6, 6, 6)),
}
PAIRS = [
    (a, name) for a in ALGORITHMS if a != "loop" for name in TILING_CASES if supports(a, TILING_CASES[name])
]


def limit_for(algorithm: str, case: Case, cut: str) -> int:
    """Bytes that leave room for two images, for half of the rows of one, or for three rows."""
    chosen = find("im2col" if algorithm == "auto" else algorithm)
    geometry = ops.ConvGeometry.of(case.x, case.w, case.stride, case.padding, case.dilation, case.groups)
    geometry = geometry if chosen.native_groups else geometry.one_group()
    if cut == "cuts the batch":
        return chosen.workspace_bytes(geometry.with_batch(2), np.float64)
    one, rows = geometry.with_batch(1), geometry.oh // 2 if cut == "cuts images" else 3
    parts = (one.with_rows(start, start + rows)[0] for start in range(geometry.oh - rows + 1))
    return max(chosen.workspace_bytes(part, np.float64) for part in parts)


@pytest.mark.parametrize("cut", ["cuts the batch", "cuts images", "cuts every few rows"])
@pytest.mark.parametrize(("algorithm", "name"), PAIRS)
def test_tiled_is_untiled(make: Any, algorithm: str, name: str, cut: str) -> None:
    case = TILING_CASES[name]
    limit = limit_for(algorithm, case, cut)
    r = reference(case)
    x, w, b, dy = arrays(make, r)
    xpcnn.set_workspace_limit(limit)
    assert xpcnn.get_workspace_limit() == limit
    y, ctx = ops.conv2d(x, w, b, **case.options, algorithm=algorithm)
    check_passes(make, (y, *ops.conv2d.backward(ctx, dy)), r, "float64")


def within(limit: int, used: int, what: str) -> None:
    assert used <= 1.1 * limit, f"{what}: {used} bytes of scratch memory under a limit of {limit}"


@pytest.mark.parametrize("batch", [8, 80])
@pytest.mark.parametrize("groups", [1, 2], ids=["one group", "two groups"])
@pytest.mark.parametrize(
    ("algorithm", "stride"),
    [(a, stride) for a in (*TILED, "auto") for stride in (1, 2) if (a, stride) != ("winograd", 2)],
)
def test_scratch_stays_within_the_limit(algorithm: str, stride: int, groups: int, batch: int) -> None:
    """Whatever the batch; all its columns at once would be 24 MB at stride 1, of which the limit is 4%."""
    limit = 1 << 20
    xpcnn.set_workspace_limit(limit)
    w = draw(16, 8 // groups, 3, 3, dtype="float32")
    options = {"stride": stride, "padding": 1, "groups": groups, "algorithm": algorithm}
    # Once before measuring, on a small batch: what is imported or prepared at first use is no scratch.
    warm, warm_ctx = ops.conv2d(draw(1, 8, 8, 8, dtype="float32"), w, **options)
    ops.conv2d.backward(warm_ctx, warm)

    x = draw(batch, 8, 32, 32, dtype="float32")
    (y, ctx), peak = scratch(lambda: ops.conv2d(x, w, **options))
    within(limit, peak - y.nbytes, "forward")
    dy = draw(*y.shape, dtype="float32")
    (dx, _, _), peak = scratch(lambda: ops.conv2d.backward(ctx, dy, need_dweight=False))
    within(limit, peak - dx.nbytes, "grad_input")
    (_, dw, _), peak = scratch(lambda: ops.conv2d.backward(ctx, dy, need_dx=False))
    within(limit, peak - dw.nbytes, "grad_weight")


@pytest.mark.parametrize("size", [4, 8])
@pytest.mark.parametrize("backend", ["numpy", "array_api_strict"])  # tracemalloc counts for both
def test_scratch_where_the_kernel_is_larger_than_the_image(backend: str, size: int) -> None:
    with xpcnn.use_backend(backend):
        w, x = (xpcnn.asarray(draw(*s, dtype="float32")) for s in ((64, 64, 3, 3), (1, 64, size, size)))
    winograd = find("winograd")
    geometry = ops.ConvGeometry.of(x.shape, w.shape, 1, 1)
    limit = winograd.workspace_bytes(geometry, np.float32)
    for name, given in (("forward", (x, w)), ("grad_input", (x, w)), ("grad_weight", (x, x))):
        call = functools.partial(getattr(winograd, name), *given, geometry)
        call()  # what is imported or prepared at first use is no scratch
        found, peak = scratch(call)
        within(limit, peak - 4 * math.prod(found.shape), name)


@pytest.mark.parametrize("algorithm", [*TILED, "auto"])
def test_context_keeps_no_columns(algorithm: str) -> None:
    """Backward recomputes them: they are kh·kw times as large as x."""
    x, w = draw(16, 8, 16, 16), draw(4, 8, 3, 3)
    ops.conv2d(x[:1], w, padding=1, algorithm=algorithm)  # whatever is prepared at first use
    tracemalloc.start()
    try:
        before, _ = tracemalloc.get_traced_memory()
        y, ctx = ops.conv2d(x, w, padding=1, algorithm=algorithm)
        after, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert ctx is not None
    assert after - before - y.nbytes <= 1.1 * x.nbytes


@pytest.mark.parametrize("algorithm", TILED)
def test_limit_below_one_row(make: Any, algorithm: str) -> None:
    """An explicit algorithm says that it cannot, and names the limit; "auto" finds one that can."""
    r = reference(CASES["padded 3x3"])
    x, w, b, dy = arrays(make, r)
    _, earlier = ops.conv2d(x, w, b, padding=1, algorithm=algorithm)
    xpcnn.set_workspace_limit(1200)  # one row of columns: 6 positions × 27 values × 8 bytes = 1296
    told = mentions("conv2d", algorithm, "limit", "1200")
    with pytest.raises(errors.AlgorithmError, match=told):
        ops.conv2d(x, w, b, padding=1, algorithm=algorithm)
    with pytest.raises(errors.AlgorithmError, match=told):  # lowered after forward
        ops.conv2d.backward(earlier, dy)
    y, ctx = ops.conv2d(x, w, b, padding=1)
    check_passes(make, (y, *ops.conv2d.backward(ctx, dy)), r, "float64")


@pytest.mark.parametrize("limit", [0, -1, 1.5, "1 MB"], ids=repr)
def test_limit_must_be_a_positive_integer(limit: Any) -> None:
    before = xpcnn.get_workspace_limit()
    with pytest.raises(errors.ArgumentError, match="workspace"):
        xpcnn.set_workspace_limit(limit)
    assert xpcnn.get_workspace_limit() == before


@pytest.mark.parametrize(
    ("algorithm", "copies"), [("im2col", 9), ("as_strided", 9), ("mec", 3), ("kn2row", 0)]
)
def test_copies_of_the_input(algorithm: str, copies: int) -> None:
    """What docs/convolution.md says of scratch memory, in multiples of x; y is too small here to count.

    The patches of as_strided are a view, but NumPy's contraction copies them into a matrix for its GEMM.
    """
    x, w = draw(1, 64, 40, 40, dtype="float32"), draw(2, 64, 3, 3, dtype="float32")
    x = np.ascontiguousarray(x.transpose(0, 2, 3, 1)).transpose(0, 3, 1, 2)
    ops.conv2d(x, w, algorithm=algorithm)
    _, peak = scratch(lambda: ops.conv2d(x, w, algorithm=algorithm)[0])
    assert copies * 0.85 <= peak / x.nbytes <= copies + 0.15
