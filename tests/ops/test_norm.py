"""Batch normalisation, training and inference, alone and with a ReLU behind it, by every implementation."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from tests.support import oracles
from tests.support.implementations import Implementation
from tests.support.ops import ALL_LAYOUTS, draw, is_channels_last, mentions
from xpcnn import errors, ops
from xpcnn.backend.cpu import norm as cpu_norm
from xpcnn.ops import fused, norm

SHAPES = {
    "features": (6, 3),
    "sequences": (4, 3, 5),
    "images": (4, 3, 5, 7),
    "volumes": (3, 2, 2, 3, 4),
    "two values": (2, 3),
    "one large image": (1, 3, 14, 14),
    "one channel": (6, 1, 5, 5),
    "more channels than values": (2, 70, 1, 3),
    "many chunks": (40, 2, 7, 5),
    "groups of chunks": (30, 3, 9, 8),
}
FAR = {"near 0": 0.3, "far": 30.0, "some far": np.array([0.0, 50.0])}
ON_CPU = {"float64": 1e-13, "float32": 3e-6}
ON_CUDA = {"float64": 1e-14, "float32": 2e-6, "float16": 1e-3, "bfloat16": 8e-3}
EPS = 1e-3
every_mode = pytest.mark.parametrize("train", [True, False], ids=["train", "eval"])
every_shape = pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES.keys())
SHAPES_AND_MEANS = [
    pytest.param(shape, far, id=f"{name}, {mean}")
    for name, shape in SHAPES.items()
    for mean, far in FAR.items()
    if mean == "near 0" or name in ("features", "images", "many chunks")
]
OTHERS = dict(
    zip(ALL_LAYOUTS, [name for name in reversed(ALL_LAYOUTS) if name != "broadcast"] * 2, strict=False)
)
"""The layout of dy beside one of x."""


def last_axis(make: Any, values: Any) -> Any:
    """The values (N, C, ...) over memory (N, ..., C)."""
    memory = make.array(np.ascontiguousarray(np.moveaxis(values, 1, -1)))
    return make.xp.permute_dims(memory, (0, values.ndim - 1, *range(1, values.ndim - 1)))


class Numbers:
    """Inputs for a shape, as arrays and as what those hold."""

    def __init__(self, make: Any, shape: tuple[int, ...], far: Any = 0.3, layout: Any = last_axis) -> None:
        c = shape[1]
        offsets = np.resize(far, c)
        self.x = layout(make, draw(*shape, seed=1) + offsets.reshape(-1, *[1] * (len(shape) - 2)))
        self.dy = layout(make, draw(*shape, seed=2))
        drawn = draw(c, seed=3), draw(c, seed=4), draw(c, seed=5) / 9 + offsets, 0.5 + draw(c, seed=6) ** 2
        self.parameters = [make.array(values) for values in drawn]
        self.values = [make.values(array) for array in (self.x, self.dy, *self.parameters)]


def rounding(i: Implementation, far: Any = 0.3, dtype: str | None = None) -> float:
    """What a result may be off by: more where the mean is far from 0, as that of x or its mean is more."""
    near = i.is_cuda and np.max(far) < 1
    return (ON_CUDA if i.is_cuda else ON_CPU)[dtype or i.dtype_name] * (
        1.0 if near else 1 + float(np.max(far))
    )


def check_gradients(
    i: Implementation, n: Numbers, got: Any, statistics: Any, dy: Any, train: bool, far: Any = 0.3
) -> None:
    """Sums and dx are remainders of terms that may be larger: those set the size of rounding."""
    x, _, weight, *_ = n.values
    arguments = (x, weight, dy, *statistics)
    expected = oracles.batch_norm_gradients(*arguments, train, EPS)
    terms = oracles.batch_norm_gradients(*arguments, False, EPS)[0]
    of_sums = float(np.abs(dy).sum() / x.shape[1])
    for array, value, scale in zip(got, expected, (np.abs(terms).max(), of_sums, of_sums), strict=True):
        size = scale if i.is_cuda else 2.5 * max(1.0, np.abs(value).max())
        i.check(array, value, rtol=rounding(i, far), scale=float(size))


@every_mode
@pytest.mark.parametrize(("shape", "far"), SHAPES_AND_MEANS)
def test_batch_norm(implementation: Implementation, shape: tuple[int, ...], far: Any, train: bool) -> None:
    i, n = implementation, Numbers(implementation, shape, far)
    x, dy, weight, bias, mean, var = n.values
    rtol = rounding(i, far)
    with i.unchanged(n.x, *n.parameters):
        y, ctx = ops.batch_norm(n.x, *n.parameters, train=train, momentum=0.3, eps=EPS)
    i.ran("batch_norm_train" if train else "batch_norm_inference")
    if train:
        batch_mean, batch_var, unbiased = oracles.batch_statistics(x)
        i.check(ctx.running_mean, 0.7 * mean + 0.3 * batch_mean, rtol=rounding(i, 0))
        i.check(ctx.running_var, 0.7 * var + 0.3 * unbiased, rtol=rtol)
        mean, var = batch_mean, batch_var
    i.check(ctx.mean, mean, i.wide, rtol=rounding(i, 0, i.wide), scale=max(1.0, np.abs(mean).max()))
    of_std = rounding(i, far if train else 0, i.wide)
    i.check(ctx.inverse_std, 1 / np.sqrt(var + EPS), i.wide, rtol=of_std)
    i.check(y, oracles.batch_norm(x, weight, bias, mean, var, EPS), rtol=rtol)
    assert len(shape) != 4 or is_channels_last(y)
    with i.unchanged(n.x, n.dy, ctx):
        gradients = ops.batch_norm.backward(ctx, n.dy)
    check_gradients(i, n, gradients, (mean, var), dy, train, far)
    i.ran("batch_norm_gradients")


@every_mode
@every_shape
def test_with_a_relu_behind(implementation: Implementation, shape: tuple[int, ...], train: bool) -> None:
    """The bits are those of the two ops, one after the other."""
    i, n = implementation, Numbers(implementation, shape)
    options = {"train": train, "momentum": 0.3, "eps": EPS}
    with i.unchanged(n.x, n.dy, *n.parameters):
        y, ctx = fused.batch_norm_relu(n.x, *n.parameters, **options)
        gradients = fused.batch_norm_relu.backward(ctx, n.dy)
    i.ran("batch_norm_relu_train" if train else "batch_norm_relu_inference", cuda=False)
    i.ran("batch_norm_relu_gradients", cuda=False)
    normalised, norm_ctx = ops.batch_norm(n.x, *n.parameters, **options)
    expected, relu_ctx = ops.relu(normalised)
    dy = ops.relu.backward(relu_ctx, n.dy)
    pairs = [(y, expected), *zip(gradients, ops.batch_norm.backward(norm_ctx, dy), strict=True)]
    pairs += zip(ctx[0][-2:], norm_ctx[-2:], strict=True)
    for got, value in pairs:
        np.testing.assert_array_equal(i.to_numpy(got), i.to_numpy(value))


@pytest.mark.parametrize("absent", [(0,), (1,), (2, 3), (0, 1, 2, 3)], ids=str)
def test_absent_parameters(implementation: Implementation, absent: tuple[int, ...]) -> None:
    i, n = implementation, Numbers(implementation, (4, 3, 5, 7))
    given = [None if k in absent else array for k, array in enumerate(n.parameters)]
    x, dy, weight, bias, running, var = n.values
    weight, bias = np.ones(3) if 0 in absent else weight, np.zeros(3) if 1 in absent else bias
    batch_mean, batch_var, _ = oracles.batch_statistics(x)
    y, ctx = ops.batch_norm(n.x, *given, train=True, eps=EPS)
    i.check(y, oracles.batch_norm(x, weight, bias, batch_mean, batch_var, EPS), rtol=rounding(i))
    assert (ctx.running_mean is None) == (ctx.running_var is None) == (2 in absent)
    gradients = ops.batch_norm.backward(ctx, n.dy)
    assert [gradient is None for gradient in gradients] == [False, 0 in absent, 1 in absent]
    expected = oracles.batch_norm_gradients(x, weight, dy, batch_mean, batch_var, True, EPS)
    i.check(gradients[0], expected[0], rtol=4 * rounding(i))
    if 2 in absent:
        with pytest.raises(errors.ArgumentError, match=mentions("batch_norm", "running_mean")):
            ops.batch_norm(n.x, *given)
    else:
        y, _ = ops.batch_norm(n.x, *given, eps=EPS)
        i.check(y, oracles.batch_norm(x, weight, bias, running, var, EPS), rtol=rounding(i))


@pytest.mark.parametrize("name", ALL_LAYOUTS)
def test_any_memory_layout(implementation: Implementation, name: str) -> None:
    """x and dy may differ in it; with a ReLU behind, too."""
    layout = ALL_LAYOUTS[name]
    i, n = implementation, Numbers(implementation, (3, 4, 3, 5), layout=layout)
    n.dy = ALL_LAYOUTS[OTHERS[name]](i, i.to_numpy(n.dy))
    x, dy, weight, bias, *_ = n.values
    mean, var, _ = oracles.batch_statistics(x)
    rtol = rounding(i)
    y, ctx = ops.batch_norm(n.x, *n.parameters[:2], train=True, eps=EPS)
    i.check(y, oracles.batch_norm(x, weight, bias, mean, var, EPS), rtol=rtol)
    with i.unchanged(n.x, n.dy, ctx):
        check_gradients(i, n, ops.batch_norm.backward(ctx, n.dy), (mean, var), dy, True)
    z, (_, relu_ctx) = fused.batch_norm_relu(n.x, *n.parameters[:2], train=True, eps=EPS)
    np.testing.assert_array_equal(i.to_numpy(z), np.maximum(i.to_numpy(y), 0))
    relu_ctx = ops.OutputContext(layout(i, i.to_numpy(z)) if "broad" not in layout.__name__ else z)
    kept = np.where(i.to_numpy(z) > 0, dy, 0)
    check_gradients(i, n, fused.batch_norm_relu.backward((ctx, relu_ctx), n.dy), (mean, var), kept, True)


def test_the_bits_do_not_depend_on_the_layout(cuda: Implementation) -> None:
    """CUDA's chunks are those of the logical array; parameters may have gaps."""
    i = cuda
    n, plain = (Numbers(i, (9, 5, 6, 7), layout=one) for one in (last_axis, lambda make, x: make.array(x)))
    gaps = [i.array(np.repeat(i.to_numpy(a), 2))[::2] for a in n.parameters]
    first, second = (ops.batch_norm(*a, train=True) for a in ((n.x, *n.parameters), (plain.x, *gaps)))
    for one, other in zip((first[0], *first[1][-2:]), (second[0], *second[1][-2:]), strict=True):
        np.testing.assert_array_equal(i.to_numpy(one), i.to_numpy(other))


def test_mean_far_from_zero(make: Any) -> None:
    """E[x²] − E[x]² would lose the variance altogether; the rounding of the mean itself costs 5e-4 here."""
    values = (1e4 + draw(64, 2, 4, 4)).astype("float32")
    y, _ = ops.batch_norm(make.array(values), train=True)
    mean, var, _ = oracles.batch_statistics(values)
    make.check(y, oracles.batch_norm(values, None, None, mean, var), "float32", rtol=1e-3)


def test_outliers_where_chunks_begin(implementation: Implementation) -> None:
    """One value in each channel is a thousand times the others."""
    i, values = implementation, draw(64, 3, 5, 5)
    values[0, :, 0, 0] = 1000
    x = last_axis(i, values)
    expected = 1 / np.sqrt(i.values(x).var((0, 2, 3)) + EPS)
    i.check(ops.batch_norm(x, train=True, eps=EPS)[1].inverse_std, expected, i.wide, rtol=1e-5)


def test_constant_channels(implementation: Implementation) -> None:
    """No variance: y is the bias, and eps keeps the gradient finite."""
    i = implementation
    values = draw(4, 3, 5, 7)
    values[:, 0], values[:, 1] = 1000.0, 0.0
    x, bias, dy = last_axis(i, values), i.array([0.5, -2.0, 1.0]), last_axis(i, draw(4, 3, 5, 7, seed=1))
    y, ctx = ops.batch_norm(x, None, bias, train=True)
    assert np.abs(i.values(y)[:, :2] - [[[[0.5]], [[-2.0]]]]).max() <= 1e-6
    np.testing.assert_allclose(i.to_numpy(ctx.mean)[:2], [1000.0, 0.0])
    np.testing.assert_allclose(i.to_numpy(ctx.inverse_std)[:2], 1e-5**-0.5, rtol=1e-6)
    dx, _, _ = ops.batch_norm.backward(ctx, dy)
    # 1/√eps = 316 times the centred gradient
    expected = (i.values(dy) - i.values(dy).mean((0, 2, 3), keepdims=True)) / np.sqrt(1e-5)
    np.testing.assert_allclose(i.values(dx)[:, 1], expected[:, 1], rtol=0, atol=316 * 4 * rounding(i))


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_what_is_not_finite_stays_in_its_channel(implementation: Implementation, value: float) -> None:
    i, values = implementation, draw(4, 3, 5, 7)
    values[1, 1, 2, 3] = value
    n = Numbers(i, values.shape)
    n.x = last_axis(i, values)
    with np.errstate(invalid="ignore"):
        y, ctx = ops.batch_norm(n.x, *n.parameters, train=True)
        gradients = ops.batch_norm.backward(ctx, n.dy)
    for array, axes in (
        (y, (0, 2, 3)),
        (gradients[0], (0, 2, 3)),
        (gradients[1], ()),
        (ctx.running_mean, ()),
    ):
        finite = np.isfinite(i.values(array)).all(axes)
        np.testing.assert_array_equal(finite, [True, False, True])


def test_errors() -> None:
    x, three = draw(2, 3, 2), draw(3)
    for op in (ops.batch_norm, fused.batch_norm_relu):
        for name in ("weight", "bias", "running_mean", "running_var"):
            with pytest.raises(errors.ShapeError, match=mentions("batch_norm", name, "C=3", "(4,)")):
                op(x, **{name: draw(4)}, train=True)
        with pytest.raises(errors.ShapeError, match=mentions("batch_norm", "(N, C, ...)", "(3,)")):
            op(three, train=True)
        for shape, problem in (((1, 3), "one value"), ((0, 3, 2), "empty batch")):
            with pytest.raises(errors.ShapeError, match=mentions("batch_norm", problem, "drop_last=True")):
                op(np.zeros(shape), train=True)
        for wrong in ({"momentum": 1.5}, {"momentum": -0.1}, {"eps": -1.0}):
            with pytest.raises(errors.ArgumentError, match=f"batch_norm: {next(iter(wrong))}"):
                op(x, train=True, **wrong)


def test_an_empty_batch_in_inference(make: Any) -> None:
    empty, channels = make.array(np.zeros((0, 3, 5, 7))), [make.array(np.ones(3))] * 4
    make.check_kind(ops.batch_norm(empty, *channels)[0], (0, 3, 5, 7), "float64")


# NumPy's kernels ----------------------------------------------------------------------------------------


def channels_last(x: Any) -> Any:
    """The values (N, C, ...) over memory (N, ..., C), for NumPy alone."""
    return np.moveaxis(np.ascontiguousarray(np.moveaxis(x, 1, -1)), -1, 1)


@pytest.mark.slow
@pytest.mark.parametrize("shape", [(50, 6, 45, 45), (32, 200, 8, 8)], ids=["few channels", "many channels"])
@pytest.mark.parametrize("distance", [0.0, 2.0, 4.9, 5.1, 1000.0])
def test_as_accurate_as_the_definition(distance: float, shape: tuple[int, ...]) -> None:
    """At the sizes of real batches, with real blocks, in float32."""
    x = channels_last((draw(*shape) + distance).astype("float32"))
    dy = channels_last(draw(*shape, dtype="float32", seed=1))
    weight, bias = (draw(shape[1], dtype="float32", seed=seed) for seed in (2, 3))

    def results(forward: Any, backward: Any, dtype: str) -> list[Any]:
        a, b, c, d = (array.astype(dtype) for array in (x, weight, bias, dy))
        y, mean, inverse_std, *_ = forward(a, b, c, None, None, 0.1, EPS)
        return [y, mean, inverse_std, *backward(d, a, b, mean, inverse_std, True)]

    definition = norm.batch_norm_train.portable, norm.batch_norm_gradients.portable
    exact = results(*definition, "float64")
    portable = results(*definition, "float32")
    own = results(cpu_norm.batch_norm_train, cpu_norm.batch_norm_gradients, "float32")
    for array, other, wanted in zip(own, portable, exact, strict=True):
        error, allowed = (np.abs(a - wanted).max() / np.abs(wanted).max() for a in (array, other))
        assert error <= max(1.1 * allowed, 1.5e-6)


def test_sums_of_many_rows() -> None:
    """Blocks of 128 rows are added up in float64."""
    x = channels_last((3 + draw(2, 1024, 16, 16)).astype("float32"))
    _, mean, inverse_std, *_ = cpu_norm.batch_norm_train(x, None, None, None, None, 0.1, 0.0)
    wide = x.astype(np.float64)
    np.testing.assert_allclose(mean, wide.mean((0, 2, 3)), rtol=2e-7)
    np.testing.assert_allclose(inverse_std, 1 / wide.std((0, 2, 3)), rtol=2e-6)


def test_pixels_that_mislead(dtype: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The pixels that are looked at beforehand are 0; all others are far from it, and near each other."""
    monkeypatch.setattr(cpu_norm, "_SOME", 16)
    monkeypatch.setattr(cpu_norm, "_LEAST", 1)
    matrix = 1000 + draw(1600, 3)
    matrix[::100] = 0
    x = matrix.reshape(4, 20, 20, 3).astype(dtype).transpose(0, 3, 1, 2)
    matrix = matrix.astype(dtype).astype(np.float64)
    _, mean, inverse_std, *_ = cpu_norm.batch_norm_train(x, None, None, None, None, 0.1, 0.0)
    np.testing.assert_allclose(mean, matrix.mean(0), rtol=1e-6)
    np.testing.assert_allclose(inverse_std, 1 / matrix.std(0), rtol=1e-6)


def test_squares_that_overflow_and_no_variance(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cpu_norm, "_LEAST", 1)
    x = channels_last((1e20 + 1e16 * draw(4, 3, 5, 7)).astype("float32"))
    y, *_ = cpu_norm.batch_norm_train(x, None, None, None, None, 0.1, 0.0)
    mean, var, _ = oracles.batch_statistics(x)
    np.testing.assert_allclose(y, oracles.batch_norm(x, None, None, mean, var, 0.0), atol=1e-3)
    x = channels_last(np.array([[[[1.0, -2.0, 0.5]]]]))
    with np.errstate(divide="ignore", invalid="ignore"):
        for center in (0.0, 0.5):
            arguments = (x, None, None, np.array([center]), np.zeros(1), 0.0)
            y, *_ = cpu_norm.batch_norm_inference(*arguments)
            np.testing.assert_array_equal(y, norm.batch_norm_inference.portable(*arguments)[0])
