"""Arrays of the other byte order give what native ones give, in native order."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import xpcnn
from tests.support.op_cases import OPS
from tests.support.ops import draw
from xpcnn import Trainer, data, models, nn, ops, optim
from xpcnn.ops import fused
from xpcnn.testing import assert_close
from xpcnn.train import evaluate, predict

ORDERS = {"float16": ">f2", "float32": ">f4", "float64": ">f8"}
X, W, B, ROWS = draw(2, 4, 6, 6), draw(6, 4, 3, 3), draw(6), draw(3, 5)
LABELS = np.array([0, 4, 2])


def equal_and_native(found: Any, expected: Any) -> None:
    if isinstance(expected, tuple):
        for one, right in zip(found, expected, strict=True):
            equal_and_native(one, right)
    elif expected is None:
        assert found is None
    else:
        assert found.dtype.isnative
        assert found.dtype == expected.dtype
        np.testing.assert_array_equal(found, expected)


@pytest.mark.parametrize("dtype", ORDERS)
@pytest.mark.parametrize("name", OPS)
def test_an_op_and_its_backward(name: str, dtype: str) -> None:
    case = OPS[name]
    native = case.draw(lambda values: values.astype(dtype))
    y, ctx = case(*native)
    foreign = [v.astype(ORDERS[dtype]) for v in native]
    before = [v.tobytes() for v in foreign]
    other_y, other_ctx = case(*foreign)
    equal_and_native(other_y, y)
    dy = np.asarray(y + 1)
    equal_and_native(case.backward(other_ctx, dy.astype(ORDERS[dtype])), case.backward(ctx, dy))
    for i in range(len(native)):  # one of them alone
        mixed = [v.astype(ORDERS[dtype]) if i == j else v for j, v in enumerate(native)]
        equal_and_native(case(*mixed)[0], y)
    assert [v.tobytes() for v in foreign] == before


@pytest.mark.parametrize("labels", [">i8", ">i4", ">i2", ">u4"])
def test_labels(labels: str) -> None:
    y, ctx = ops.softmax_cross_entropy(ROWS, LABELS.astype(labels))
    expected, expected_ctx = ops.softmax_cross_entropy(ROWS, LABELS)
    equal_and_native(y, expected)
    backward = ops.softmax_cross_entropy.backward
    equal_and_native(backward(ctx), backward(expected_ctx))


def test_functions_without_a_context() -> None:
    x, w, b = (v.astype(">f4") for v in (X, W, B))
    native = [v.astype("f4") for v in (X, W, B)]
    equal_and_native(fused.conv2d_relu(x, w, b)[0], fused.conv2d_relu(*native)[0])
    equal_and_native(fused.conv2d_relu_max_pool2d(x, w, b, 2), fused.conv2d_relu_max_pool2d(*native, 2))
    y, relu = ops.relu(native[0])
    y, pool = ops.max_pool2d(y, 2)
    dx = fused.relu_max_pool2d_gradient((relu, pool), y)
    equal_and_native(fused.relu_max_pool2d_gradient((relu, pool), y.astype(">f4")), dx)
    columns = ops.im2col(native[0], 2)
    equal_and_native(ops.im2col(x, 2), columns)
    equal_and_native(ops.col2im(columns.astype(">f4"), X.shape, 2), ops.col2im(columns, X.shape, 2))


@pytest.mark.parametrize("dtype", [*ORDERS.values(), ">i8", ">i2", ">u4", ">c8"])
def test_every_backend_takes_them(make: Any, dtype: str) -> None:
    values = np.arange(6).reshape(2, 3).astype(dtype)
    name = np.dtype(dtype).name
    if not make.has(name):
        pytest.skip(f"no {name}")
    for array in (values, values[::-1], values.T, values[0, 0, ...], np.frombuffer(values.tobytes(), dtype)):
        with make.use():
            assert_close(xpcnn.asarray(array), array.astype(name), dtype=name, backend=make.backend)
            if dtype != ">c8":
                assert_close(xpcnn.asarray(array, "float64"), array.astype("f8"))


LAYERS: dict[str, Any] = {
    "Identity": lambda: nn.Identity(),
    "Residual of nothing": lambda: nn.Residual(nn.Identity()),
    "Concat": lambda: nn.Concat(nn.Identity()),
    "ScaledAvgPool2d": lambda: nn.ScaledAvgPool2d(4, 2),
    "Sequential": lambda: nn.Sequential(nn.BatchNorm2d(4), nn.ReLU(), nn.MaxPool2d(2), nn.Softmax()),
    "fused in inference": lambda: nn.Sequential(nn.Conv2d(4, 4, 3, seed=0), nn.ReLU(), nn.MaxPool2d(2)),
}


@pytest.mark.parametrize("name", LAYERS)
def test_a_layer(name: str) -> None:
    x = X.astype("f4")
    layer, other = LAYERS[name](), LAYERS[name]()
    equal_and_native(other(x.astype(">f4")), layer(x))
    y, ctx = layer.forward(x, train=True, key=xpcnn.backend.Key(1))
    other_y, other_ctx = other.forward(x.astype(">f4"), train=True, key=xpcnn.backend.Key(1))
    equal_and_native(other_y, y)
    grads, other_grads = nn.Gradients(), nn.Gradients()
    dx = layer.backward(ctx, y, grads)
    equal_and_native(other.backward(other_ctx, y.astype(">f4"), other_grads), dx)
    for path, parameter in layer.parameters().items():
        equal_and_native(other_grads[path], grads[parameter])


def test_weights_gradients_and_their_store() -> None:
    layer = nn.Linear(5, 3, seed=0)
    saved = {path: array.astype(">f4") for path, array in layer.state_dict().items()}
    loaded = nn.Linear(5, 3, seed=1)
    loaded.load_state_dict(saved)
    for path, array in loaded.state_dict().items():
        equal_and_native(array, layer.state_dict()[path])
    assert nn.Parameter(np.ones(2, ">f8")).dtype.isnative
    layer.weight.data = layer.weight.data.astype(">f4")  # set by hand
    equal_and_native(layer(ROWS.astype("f4")), loaded(ROWS.astype("f4")))
    for kind in (optim.SGD, optim.AdaGrad, optim.RMSprop, optim.Adam, optim.AdamW):
        results = []
        for order in (">f4", "f4"):
            parameter = nn.Parameter(np.ones(3, "f4"))
            parameter.data = np.array([1.0, 2.0, 3.0], order)
            grads = nn.Gradients()
            grads.add(parameter, np.array([0.5, 0.25, 1.0], order))
            optim.clip_grad_norm(grads, 1.0)
            kind({"p": parameter}, lr=0.1).step(grads)
            results.append(parameter.data)
        equal_and_native(*results)


@pytest.mark.parametrize(("images", "labels"), [(">f4", ">i8"), (">f8", ">i2")])
def test_training_predicting_and_evaluating(make: Any, images: str, labels: str) -> None:
    digits = data.synthetic_digits(30, seed=0)
    pixels = (digits.images / 255).astype(images[1:])
    results = []
    for x, t in ((pixels, digits.labels), (pixels.astype(images), digits.labels.astype(labels))):
        with make.use():
            model = models.tiny_convnet(filters=2, seed=0)
        trainer = Trainer(model, optim.SGD(model, lr=0.1))
        loss = float(trainer.step(x, t))
        history = trainer.fit((x, t), data.Dataset(x, t), epochs=1, batch_size=10, progress=None)
        evaluation = evaluate(model, (x, t))
        results.append((loss, history.losses, history.epochs[0].test_accuracy, evaluation, predict(model, x)))
    (*native, probabilities), (*foreign, others) = results
    assert foreign == native
    equal_and_native(others, probabilities)


# (the dtypes of x, weight and bias, what is to be converted to what)
MIXED = {
    "images": (("f8", "f4", "f4"), "x", "float32"),
    "images of a byte order": ((">f8", "f4", "f4"), "x", "float32"),
    "narrow images": (("f4", "f8", "f8"), "x", "float64"),
    "a bias": (("f4", "f4", "f8"), "bias", "float32"),
}


def check_advice(name: str, dtype: str, op: Any, *arrays: Any) -> None:
    with pytest.raises(xpcnn.errors.DtypeError) as caught:
        op(*arrays)
    assert f"convert {name}: xpcnn.asarray({name}, dtype={dtype!r})" in str(caught.value)


@pytest.mark.parametrize(("kinds", "name", "dtype"), MIXED.values(), ids=MIXED)
def test_the_advice_is_the_smaller_change(kinds: tuple[str, ...], name: str, dtype: str) -> None:
    check_advice(name, dtype, ops.conv2d, *(v.astype(kind) for v, kind in zip((X, W, B), kinds, strict=True)))


def test_the_advice_for_gradients_and_targets() -> None:
    check_advice("dy", "float32", ops.relu.backward, ops.relu(ROWS.astype("f4"))[1], ROWS)
    check_advice("target", "float32", ops.mean_squared_error, ROWS.astype("f4"), ROWS)
