"""The kernels of ``norm.cu`` against the portable functions they replace, in float64."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import pytest

import xpcnn
from tests.support.cuda import LAYOUTS, Array, Target, draw, is_channels_last
from xpcnn import ops
from xpcnn.backend.cuda import norm
from xpcnn.ops.norm import batch_norm_gradients, batch_norm_inference, batch_norm_train

ROUNDING = {"float64": 1e-14, "float32": 2e-6, "float16": 1e-3, "bfloat16": 8e-3}
"""Largest error of a result, relative to the largest value."""

SHAPES = {
    "features": (6, 3),
    "sequences": (4, 3, 5),
    "images": (4, 3, 2, 5),
    "volumes": (3, 2, 2, 3, 4),
    "two values": (2, 3),
    "one large image": (1, 3, 14, 14),
    "one channel": (5, 1, 3, 3),
    "more channels than values": (2, 70, 1, 3),
    "many chunks": (40, 2, 7, 5),
    "groups of chunks": (30, 3, 9, 8),
}
every_shape = pytest.mark.parametrize("shape", [*SHAPES.values()], ids=[*SHAPES])
ABSENT = {"all": (), "no weight": (0,), "no bias": (1,), "no statistics": (2, 3), "one of them": (0, 1, 3)}
every_choice = pytest.mark.parametrize("absent", [*ABSENT.values()], ids=[*ABSENT])


class Numbers(NamedTuple):
    """Inputs as float64 of the target's rounding, and as arrays of the target."""

    x: Array
    dy: Array
    parameters: list[Array | None]
    """weight, bias, running mean, running variance"""
    given: list[Any]

    @classmethod
    def of(cls, target: Target, shape: tuple[int, ...], absent: tuple[int, ...] = ()) -> Numbers:
        c = shape[1]
        drawn = [draw(c, seed=3), draw(c, seed=4), draw(c, seed=5), 0.5 + draw(c, seed=6) ** 2]
        given = [None if i in absent else target.array(values) for i, values in enumerate(drawn)]
        x, dy = target.array(2 + 3 * draw(*shape, seed=1)), target.array(draw(*shape, seed=2))
        return cls(exact(target, x), exact(target, dy), [exact(target, a) for a in given], given)


def exact(target: Target, x: Any) -> Any:
    """The values in float64 on the host."""
    return None if x is None else target.wide(x).astype(np.float64)


def check(target: Target, got: Any, expected: Any, *, wide: bool = False, scale: float | None = None) -> None:
    """Kind, dtype and values: of the target's dtype, or (wide) of the one it is summed in."""
    if expected is None:
        assert got is None
        return
    half = target.dtype in ("float16", "bfloat16")
    dtype = "float32" if wide and half else target.dtype
    assert xpcnn.backend_of(got).name == target.backend
    assert str(got.dtype) == dtype
    assert tuple(got.shape) == expected.shape
    size = float(np.abs(expected).max()) if scale is None else scale
    np.testing.assert_allclose(exact(target, got), expected, rtol=0, atol=ROUNDING[dtype] * size)


@every_choice
@every_shape
def test_by_batch(target: Target, shape: tuple[int, ...], absent: tuple[int, ...]) -> None:
    numbers = Numbers.of(target, shape, absent)
    got = target.kernel("batch_norm_train")(target.array(numbers.x), *numbers.given, 0.3, 1e-3)
    expected = batch_norm_train.portable(numbers.x, *numbers.parameters, 0.3, 1e-3)
    for value, wanted, wide in zip(got, expected, (False, True, True, False, False), strict=True):
        check(target, value, wanted, wide=wide)


@pytest.mark.parametrize("absent", [(), (0,), (1,)], ids=str)
@every_shape
def test_by_running(target: Target, shape: tuple[int, ...], absent: tuple[int, ...]) -> None:
    numbers = Numbers.of(target, shape, absent)
    got = target.kernel("batch_norm_inference")(target.array(numbers.x), *numbers.given, 1e-3)
    expected = batch_norm_inference.portable(numbers.x, *numbers.parameters, 1e-3)
    for value, wanted, wide in zip(got, expected, (False, True, True), strict=True):
        check(target, value, wanted, wide=wide)


@pytest.mark.parametrize("train", [True, False], ids=["train", "eval"])
@pytest.mark.parametrize("absent", [(), (0,)], ids=["weight", "no weight"])
@every_shape
def test_gradients(target: Target, shape: tuple[int, ...], absent: tuple[int, ...], train: bool) -> None:
    numbers = Numbers.of(target, shape, absent)
    x, dy = target.array(numbers.x), target.array(numbers.dy)
    weight = numbers.given[0]
    _, mean, inverse_std, *_ = target.kernel("batch_norm_train")(x, *numbers.given, 0.1, 1e-3)
    got = target.kernel("batch_norm_gradients")(dy, x, weight, mean, inverse_std, train)
    statistics = exact(target, mean), exact(target, inverse_std)
    expected = batch_norm_gradients.portable(numbers.dy, numbers.x, numbers.parameters[0], *statistics, train)
    # Sums and dx are remainders of terms that may be larger: those set the size of rounding.
    terms = batch_norm_gradients.portable(numbers.dy, numbers.x, numbers.parameters[0], *statistics, False)[0]
    of_sums = float(np.abs(numbers.dy).sum() / shape[1])
    check(target, got[0], expected[0], scale=float(np.abs(terms).max()))
    check(target, got[1], expected[1], wide=True, scale=of_sums)
    check(target, got[2], expected[2], wide=True, scale=of_sums)


@pytest.mark.parametrize("layout", [*LAYOUTS.values()], ids=[*LAYOUTS])
@pytest.mark.parametrize("other", [*LAYOUTS.values()], ids=[*LAYOUTS])
def test_any_memory_layout(target: Target, layout: Any, other: Any) -> None:
    """x and dy may differ in it."""
    numbers = Numbers.of(target, (3, 4, 3, 5))
    x, dy = layout(target, numbers.x), other(target, numbers.dy)
    values, dy_values = exact(target, x), exact(target, dy)
    y, mean, inverse_std, *_ = target.kernel("batch_norm_train")(x, *numbers.given, 0.1, 1e-3)
    expected = batch_norm_train.portable(values, *numbers.parameters, 0.1, 1e-3)
    check(target, y, expected[0])
    check(target, mean, expected[1], wide=True, scale=float(np.abs(values).max()))
    got = target.kernel("batch_norm_gradients")(dy, x, numbers.given[0], mean, inverse_std, True)
    statistics = exact(target, mean), exact(target, inverse_std)
    wanted = batch_norm_gradients.portable(dy_values, values, numbers.parameters[0], *statistics, True)
    terms = batch_norm_gradients.portable(dy_values, values, numbers.parameters[0], *statistics, False)[0]
    check(target, got[0], wanted[0], scale=float(np.abs(terms).max()))


def test_channels_last_stays(target: Target) -> None:
    numbers = Numbers.of(target, (2, 3, 4, 5))
    x, dy = (LAYOUTS["channels-last"](target, values) for values in (numbers.x, numbers.dy))
    y, mean, inverse_std, *_ = target.kernel("batch_norm_train")(x, *numbers.given, 0.1, 1e-3)
    dx, *_ = target.kernel("batch_norm_gradients")(dy, x, None, mean, inverse_std, True)
    assert is_channels_last(y)
    assert is_channels_last(dx)
    y, *_ = target.kernel("batch_norm_inference")(x, *numbers.given, 1e-3)
    assert is_channels_last(y)


def test_channels_last_with_gaps_becomes_channels_last(target: Target) -> None:
    numbers = Numbers.of(target, (2, 3, 4, 5))
    x = LAYOUTS["channels-last"](target, numbers.x)[:, :, ::-1, ::2]
    y, *_ = target.kernel("batch_norm_train")(x, *numbers.given, 0.1, 1e-3)
    assert is_channels_last(y)
    check(target, y, batch_norm_train.portable(exact(target, x), *numbers.parameters, 0.1, 1e-3)[0])


def test_the_bits_do_not_depend_on_the_layout(target: Target) -> None:
    """Chunks are those of the logical array."""
    numbers = Numbers.of(target, (9, 5, 6, 7))
    kernel = target.kernel("batch_norm_train")
    first = kernel(target.array(numbers.x), *numbers.given, 0.1, 1e-3)
    second = kernel(LAYOUTS["channels-last"](target, numbers.x), *numbers.given, 0.1, 1e-3)
    for one, other in zip(first, second, strict=True):
        np.testing.assert_array_equal(exact(target, one), exact(target, other))


def test_parameters_with_gaps(target: Target) -> None:
    numbers = Numbers.of(target, (4, 3, 2, 2))
    spread = [target.array(np.repeat(exact(target, a), 2))[::2] for a in numbers.given]
    got = target.kernel("batch_norm_train")(target.array(numbers.x), *spread, 0.1, 1e-3)
    expected = target.kernel("batch_norm_train")(target.array(numbers.x), *numbers.given, 0.1, 1e-3)
    for one, other in zip(got, expected, strict=True):
        np.testing.assert_array_equal(exact(target, one), exact(target, other))


def test_mean_far_from_zero(target: Target) -> None:
    """E[x²] − E[x]² would lose the variance altogether."""
    far = 1e4 if target.dtype in ("float32", "float64") else 1e2
    values = exact(target, target.array(far + draw(64, 2, 4, 4)))
    _, mean, inverse_std, *_ = target.kernel("batch_norm_train")(
        target.array(values), None, None, None, None, 0.1, 1e-5
    )
    axes = (0, 2, 3)
    np.testing.assert_allclose(exact(target, mean), values.mean(axis=axes), rtol=1e-6)
    np.testing.assert_allclose(
        exact(target, inverse_std), 1 / np.sqrt(values.var(axis=axes) + 1e-5), rtol=2e-5
    )


def test_outliers_where_chunks_begin(target: Target) -> None:
    """One value in each channel is a thousand times the others."""
    values = draw(64, 3, 5, 5)
    values[0, :, 0, 0] = 1000
    values = exact(target, target.array(values))
    _, _, inverse_std, *_ = target.kernel("batch_norm_train")(
        target.array(values), None, None, None, None, 0.1, 1e-5
    )
    expected = 1 / np.sqrt(values.var(axis=(0, 2, 3)) + 1e-5)
    np.testing.assert_allclose(exact(target, inverse_std), expected, rtol=1e-5)


@pytest.mark.parametrize("bad", [np.nan, np.inf], ids=str)
def test_what_is_no_number_stays_in_its_channel(target: Target, bad: float) -> None:
    numbers = Numbers.of(target, (4, 3, 5, 5))
    values = numbers.x.copy()
    values[2, 1, 3, 3] = bad
    y, *_ = target.kernel("batch_norm_train")(target.array(values), None, None, None, None, 0.1, 1e-3)
    found = exact(target, y)
    assert np.isnan(found[:, 1]).any()
    assert np.isfinite(found[:, [0, 2]]).all()


def test_what_kernels_leave_to_the_portable_function(target: Target) -> None:
    empty = target.array(np.zeros((0, 3, 2, 2)))
    parameters = [target.array(np.ones(3))] * 4
    assert target.kernel("batch_norm_inference")(empty, *parameters, 1e-5) is NotImplemented
    whole = target.array(np.ones((2, 3)), dtype="int32")
    assert target.kernel("batch_norm_inference")(whole, *parameters, 1e-5) is NotImplemented
    assert target.kernel("batch_norm_gradients")(empty, empty, None, *parameters[:2], True) is NotImplemented


def test_launches(target: Target, monkeypatch: pytest.MonkeyPatch) -> None:
    """As many for large channels as the module says."""
    launched: list[str] = []
    start = norm.launch
    monkeypatch.setattr(
        norm, "launch", lambda family, name, *rest: (launched.append(name), start(family, name, *rest))
    )
    numbers = Numbers.of(target, (64, 2, 10, 10))
    x, dy = target.array(numbers.x), target.array(numbers.dy)
    _, mean, inverse_std, *_ = target.kernel("batch_norm_train")(x, *numbers.given, 0.1, 1e-3)
    target.kernel("batch_norm_gradients")(dy, x, None, mean, inverse_std, True)
    assert [name.partition("<")[0] for name in launched] == [
        *("moments", "merge_moments", "finish_moments", "normalise"),
        *("gradient_sums", "add_rows", "add_rows", "gradient_input"),
    ]


def test_the_op_takes_the_kernels(target: Target, monkeypatch: pytest.MonkeyPatch) -> None:
    """`ops.batch_norm` and its backward, with kernels, against themselves without."""
    numbers = Numbers.of(target, (4, 3, 5, 6))
    x, dy = target.array(numbers.x), target.array(numbers.dy)
    expected = ops.batch_norm(numbers.x, *numbers.parameters, train=True)
    with xpcnn.use_backend(target.backend) as backend:
        monkeypatch.setattr(backend, "kernels", norm.KERNELS)
        y, ctx = ops.batch_norm(x, *numbers.given, train=True)
        gradients = ops.batch_norm.backward(ctx, dy)
    check(target, y, expected[0])
    check(target, ctx.running_var, expected[1].running_var)
    terms = float(np.abs(numbers.dy).sum() / 3)
    for got, wanted in zip(gradients, ops.batch_norm.backward(expected[1], numbers.dy), strict=True):
        check(target, got, wanted, scale=terms)
