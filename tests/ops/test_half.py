"""float16 and bfloat16: kept as they are, accumulated in float32.

All inputs are positive and sums are long, so that a result summed in half precision is off by many units in
the last place. One that is summed in float32 and rounded once is what the op gives for the same numbers in
float64, which is tested elsewhere against oracles, correctly rounded.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import pytest

from tests.support.op_cases import OPS, OpCase
from xpcnn import ops

HALF = {"float16": 2.0**-11, "bfloat16": 2.0**-8}
"""Unit roundoff: the relative error of rounding once."""


class Case(NamedTuple):
    """A call whose sums are long, and what else may be rounded on the way."""

    call: OpCase
    slack: tuple[float, ...] = (0.0,) * 4
    """Absolute errors of y and each gradient, beside its one rounding."""
    roundings: int = 1
    backward: int = 0
    """Units, of the largest gradient, that those of what backward keeps of the forward come to."""
    scale: int = 1
    """What the arrays are multiplied by."""


def case(name: str, *shapes: tuple[int, ...], op: Any = None, **options: Any) -> OpCase:
    return OpCase(op or OPS[name].op, [*shapes], options)


def with_backward(name: str, function: Any) -> Any:
    function.backward = getattr(ops, name).backward
    return function


NORM, TINY = (1e-5, 1e-5, 1e-3, 0.0), 2.0**-24
IMAGES, FOUR = (20, 4, 10, 10), (4,)
FILTERS = ((4, 32, 8, 8), (2, 32, 5, 5), (2,))
CASES = {
    **{
        f"conv2d {a}": Case(case("conv2d", *FILTERS, algorithm=a))
        for a in ("loop", "im2col", "as_strided", "auto")
    },
    # dx sums over the outputs, and tiles of the batch must not be summed in half precision either.
    "conv2d, many outputs": Case(case("conv2d", (2, 1, 3, 3), (300, 1, 2, 2), (300,))),
    "conv_transpose2d": Case(
        case("conv_transpose2d", (2, 64, 4, 4), (64, 2, 3, 3), (2,), stride=2, padding=1, output_padding=1)
    ),
    "linear": Case(case("linear", (40, 500), (6, 500), (6,))),
    "linear, past 2048": Case(case("linear", (2, 8192), (3, 8192), (3,))),
    # Sums of 102400 are beyond float16.
    "avg_pool2d": Case(case("avg_pool2d", (2, 2, 32, 32), kernel_size=32), (0.0, 2.0**-25), scale=100),
    "adaptive_avg_pool2d": Case(
        case("adaptive_avg_pool2d", (2, 2, 32, 32), output_size=1), (0.0, 2.0**-25), scale=100
    ),
    # 49 windows give their gradients to one pixel.
    "avg_pool2d, overlapping": Case(case("avg_pool2d", (1, 1, 13, 13), kernel_size=7, stride=1)),
    "max_pool2d, overlapping": Case(case("max_pool2d", (1, 1, 13, 13), kernel_size=7, stride=1)),
    **{
        name: Case(case(name, (3, 400)), (TINY,) * 2, 4, 16)
        for name in ("relu", "leaky_relu", "sigmoid", "tanh")
    },
    **{
        f"{name} times {scale}": Case(case(name, (3, 400)), (2.0**-25, 1e-6), scale=scale)
        for name in ("gelu", "silu")
        for scale in (1, -4)
    },
    # float16 counting to 5000 in ones would stop at 2048, bfloat16 at 256.
    **{
        f"{name}, axis {axis}": Case(
            case(name, (5000, 2) if axis == 0 else (2, 5000), axis=axis), (TINY,) * 2, 4, 16
        )
        for name in ("softmax", "log_softmax")
        for axis in (0, 1)
    },
    "batch_norm": Case(case("batch_norm", IMAGES, FOUR, FOUR, FOUR, FOUR, train=True), NORM),
    "batch_norm in inference": Case(case("batch_norm", IMAGES, FOUR, FOUR, FOUR, FOUR), NORM),
    "group_norm": Case(OpCase(OPS["group_norm"].op, [IMAGES, FOUR, FOUR]), NORM),
    "layer_norm, many samples": Case(OpCase(OPS["layer_norm"].op, [(300, 4), FOUR, FOUR]), NORM),
    "layer_norm, long": Case(
        case(
            "layer_norm",
            *((4, 2000), (2000,), (2000,)),
            op=with_backward("layer_norm", lambda x, w, b: ops.layer_norm(x, 2000, w, b)),
        ),
        NORM,
    ),
    # A window of 100 squares of up to 300², each beyond float16, as 300² is; the mean is not.
    "local_response_norm": Case(
        case("local_response_norm", (2, 200, 1, 2), size=100, alpha=0.1), (TINY, 1e-6), scale=200
    ),
    "mean_squared_error": Case(case("mean_squared_error", (1000,), (1000,)), (0.0, 2.0**-25), scale=300),
    "softmax_cross_entropy": Case(case("softmax_cross_entropy", (1000, 10), (1000, 10)), (0.0, TINY)),
}


@pytest.fixture(params=HALF)
def half(request: pytest.FixtureRequest, make: Any) -> str:
    if not make.has(request.param):
        pytest.skip(f"{make.backend} has no {request.param}")
    name: str = request.param
    return name


def check(make: Any, got: Any, expected: Any, half: str, slack: float, roundings: int = 1) -> None:
    """Each element is that of float64, rounded once (or so many times), and `slack` absolutely."""
    make.check_kind(got, tuple(expected.shape), half)
    values, wanted = (make.to_numpy(array).astype("float64") for array in (got, expected))
    allowed = 1.02 * roundings * HALF[half] * np.abs(wanted) + slack
    excess = np.abs(values - wanted) / np.maximum(allowed, 1e-30)
    assert excess.max() <= 1, f"{excess.max():.1f} times the error allowed"


@pytest.mark.parametrize("name", CASES)
def test_summed_in_float32_and_rounded_once(make: Any, half: str, name: str) -> None:
    call, slack, roundings, units, scale = CASES[name]
    arrays = call.draw(lambda values: make.array(scale * values, half))
    wide = [make.xp.astype(array, make.xp.float64) for array in arrays]
    (y, ctx), (wide_y, wide_ctx) = call(*arrays), call(*wide)
    check(make, y, wide_y, half, slack[0], roundings)
    dy = make.array(0.5 + np.random.default_rng(9).random(tuple(y.shape)), half)
    found, expected = (
        c.backward(kept, d)
        for c, kept, d in ((call, ctx, dy), (call, wide_ctx, make.xp.astype(dy, make.xp.float64)))
    )
    if not isinstance(found, tuple):
        found, expected = (found,), (expected,)
    for array, wanted, own in zip(found, expected, slack[1:], strict=False):
        size = max(float(abs(make.to_numpy(wanted)).max()), 1.0 if name.startswith("log_softmax") else 0.0)
        check(make, array, wanted, half, own + units * HALF[half] * size)
    for statistic in ("running_mean", "running_var"):
        if getattr(ctx, statistic, None) is not None:
            check(make, getattr(ctx, statistic), getattr(wide_ctx, statistic), half, 0.0)


def test_dropout(make: Any, half: str) -> None:
    x = make.array(0.5 + np.random.default_rng(0).random((50, 50)), half)
    y, ctx = ops.dropout(x, 0.3, 1)
    kept = make.to_numpy(y) != 0
    for got in (y, ops.dropout.backward(ctx, x)):
        check(make, got, make.xp.astype(x, make.xp.float32) * make.array(kept / 0.7, "float32"), half, 0.0, 2)
    assert abs(kept.mean() - 0.7) < 5 * np.sqrt(0.21 / 2500)
