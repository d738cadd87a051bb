"""Options as NumPy's numbers, 0-d arrays, lists and small arrays: what Python's own numbers give."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from tests.support.ops import draw
from xpcnn import nn, ops
from xpcnn.errors import ArgumentError, XpcnnError
from xpcnn.ops import fused

FLOATS: dict[str, Any] = {
    "leaky_relu": (lambda x, v: ops.leaky_relu(x, v), 0.1),
    "dropout": (lambda x, v: ops.dropout(x, v, 3), 0.25),
    "batch_norm eps": (lambda x, v: ops.batch_norm(x, train=True, eps=v), 0.5),
    "batch_norm momentum": (lambda x, v: running(ops.batch_norm, x, v), 0.5),
    "batch_norm_relu eps": (lambda x, v: fused.batch_norm_relu(x, train=True, eps=v), 0.5),
    "layer_norm eps": (lambda x, v: ops.layer_norm(x, x.shape[1:], eps=v), 0.5),
    "group_norm eps": (lambda x, v: ops.group_norm(x, 2, eps=v), 0.5),
    "local_response_norm alpha": (lambda x, v: ops.local_response_norm(x, 3, alpha=v), 0.5),
    "local_response_norm beta": (lambda x, v: ops.local_response_norm(x, 3, beta=v), 0.5),
    "local_response_norm k": (lambda x, v: ops.local_response_norm(x, 3, k=v), 2.0),
}


def running(op: Any, x: Any, momentum: Any) -> Any:
    """The new running variance, which depends on the momentum, in the place of y."""
    _, ctx = op(x, None, None, x[0, :, 0, 0], x[1, :, 0, 0], train=True, momentum=momentum)
    return ctx.running_var, ctx


AS_FLOAT = {
    "float64": np.float64,
    "float16": np.float16,
    "longdouble": np.longdouble,
    "0-d float32 array": lambda v: np.array(v, np.float32),
    "0-d big-endian array": lambda v: np.array(v, ">f8"),
}


@pytest.mark.parametrize("kind", AS_FLOAT.values(), ids=AS_FLOAT)
@pytest.mark.parametrize("case", FLOATS.values(), ids=FLOATS)
def test_a_float_option_keeps_the_dtype(make: Any, dtype: str, case: Any, kind: Any) -> None:
    apply, number = case
    x = make.array(np.abs(draw(3, 4, 2, 2)), dtype)
    option = kind(number)
    y, _ = apply(x, option)
    assert y.dtype == make.dtype(dtype)
    expected, _ = apply(x, float(option))
    np.testing.assert_array_equal(make.to_numpy(y), make.to_numpy(expected))


@pytest.mark.parametrize("name", ["leaky_relu", "local_response_norm alpha"])
def test_the_backward_keeps_it_too(make: Any, dtype: str, name: str) -> None:
    apply, number = FLOATS[name]
    x = make.array(draw(3, 4, 2, 2), dtype)
    y, ctx = apply(x, np.float64(number))
    assert getattr(ops, name.split()[0]).backward(ctx, y).dtype == make.dtype(dtype)


@pytest.mark.parametrize("case", FLOATS.values(), ids=FLOATS)
def test_what_is_no_number_is_refused(case: Any) -> None:
    for wrong in (True, np.bool_(True), "0.1", None, 0.1j, np.complex64(1), [0.1], float("nan")):
        with pytest.raises(ArgumentError, match="must be a finite number"):
            case[0](np.ones((2, 4, 2, 2), np.float32), wrong)


W = draw(4, 2, 3, 3)
INTS: dict[str, Any] = {
    "groups": (lambda x, v: ops.conv2d(x, W, groups=v), 2),
    "stride": (lambda x, v: ops.conv2d(x, W, stride=v, groups=2), 2),
    "padding": (lambda x, v: ops.conv2d(x, W, padding=v, groups=2), 2),
    "dilation": (lambda x, v: ops.conv2d(x, W, dilation=v, groups=2), 2),
    "conv2d_relu stride": (lambda x, v: fused.conv2d_relu(x, W, draw(4), stride=v, groups=2), 2),
    "transposed groups": (lambda x, v: ops.conv_transpose2d(x, W, groups=v), 2),
    "transposed stride": (lambda x, v: ops.conv_transpose2d(x, W, stride=v), 2),
    "transposed padding": (lambda x, v: ops.conv_transpose2d(x, W, padding=v), 2),
    "output_padding": (lambda x, v: ops.conv_transpose2d(x, W, stride=3, output_padding=v), 2),
    "max_pool2d kernel_size": (lambda x, v: ops.max_pool2d(x, v), 2),
    "max_pool2d stride": (lambda x, v: ops.max_pool2d(x, 3, v), 2),
    "avg_pool2d padding": (lambda x, v: ops.avg_pool2d(x, 5, 1, v), 2),
    "output_size": (lambda x, v: ops.adaptive_avg_pool2d(x, v), 2),
    "im2col kernel_size": (lambda x, v: (ops.im2col(x, v), None), 2),
    "col2im kernel_size": (lambda x, v: (ops.col2im(ops.im2col(x, 2), x.shape, v), None), 2),
    "num_groups": (lambda x, v: ops.group_norm(x, v), 2),
    "size": (lambda x, v: ops.local_response_norm(x, v), 2),
    "softmax axis": (lambda x, v: ops.softmax(x, v), 2),
    "log_softmax axis": (lambda x, v: ops.log_softmax(x, v), 2),
    "dropout key": (lambda x, v: ops.dropout(x, 0.5, v), 2),
}
ONE_NUMBER = {"groups", "transposed groups", "num_groups", "size"}
ONE_NUMBER |= {"softmax axis", "log_softmax axis", "dropout key"}
AS_INT = (np.int64, np.uint8, lambda v: np.array(v, ">i4"))
AS_PAIR = (
    list,
    lambda v: np.array(v, np.int8),
    lambda v: np.array(v, ">i8"),
    lambda v: (np.int64(v[0]), np.int32(v[1])),
)


@pytest.mark.parametrize("name", INTS)
def test_numpys_ints_are_ints_and_small_arrays_pairs(name: str) -> None:
    apply, number = INTS[name]
    x = draw(2, 4, 6, 7)
    expected = apply(x, number)[0]
    for kind in AS_INT:
        np.testing.assert_array_equal(apply(x, kind(number))[0], expected)
    for kind in AS_PAIR if name not in ONE_NUMBER else ():
        np.testing.assert_array_equal(apply(x, kind((number, number)))[0], expected)


@pytest.mark.parametrize("name", sorted(INTS.keys() - {"dropout key"}))
def test_what_is_no_int_is_refused_also_where_its_equal_is_in_the_cache(name: str) -> None:
    apply, number = INTS[name]
    x = draw(2, 4, 6, 7)
    apply(x, number)
    number_like = (float(number), np.float32(number), str(number), 2j)
    for wrong in (*number_like, True, np.bool_(True), {}, [[number] * 2] * 2):
        with pytest.raises(ArgumentError, match="must be"):
            apply(x, wrong)
    if name not in ONE_NUMBER:
        for wrong in ((2.0, 2), [True, 2], np.array([2.0, 2.0]), (2, 2, 2), ()):
            with pytest.raises(XpcnnError):
                apply(x, wrong)


@pytest.mark.parametrize("slope", [0.1, np.float64(0.1), np.linspace(0, 1, 11)[1], np.array(0.1)])
def test_leaky_relu_keeps_a_python_float(make: Any, slope: Any) -> None:
    layer = nn.LeakyReLU(slope)
    assert type(layer.slope) is float
    assert repr(layer) == "LeakyReLU(slope=0.1)"
    with make.use():
        model = nn.Sequential(nn.Linear(3, 3, seed=0), layer, nn.Linear(3, 2, seed=1))
    y, ctx = model.forward(make.array(draw(2, 3), "float32"))
    make.check_kind(y, (2, 2), "float32")
    make.check_kind(model.backward(ctx, y), (2, 3), "float32")


FLAGS: dict[str, Any] = {
    "ceil_mode": lambda x, v: ops.max_pool2d(x, 2, ceil_mode=v),
    "ceil_mode of avg_pool2d": lambda x, v: ops.avg_pool2d(x, 2, ceil_mode=v),
    "count_include_pad": lambda x, v: ops.avg_pool2d(x, 2, count_include_pad=v),
}


@pytest.mark.parametrize("name", FLAGS)
def test_what_is_no_flag_is_refused(name: str) -> None:
    x = draw(2, 4, 6, 7)
    for wrong in (np.zeros(3), 1, 0, None, "True", []):
        with pytest.raises(ArgumentError, match=f"{name.split()[0]} must be True or False"):
            FLAGS[name](x, wrong)
    np.testing.assert_array_equal(FLAGS[name](x, np.bool_(True))[0], FLAGS[name](x, True)[0])
