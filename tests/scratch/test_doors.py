"""The book's names take arrays of either byte order, and refuse what is no real number by an XpcnnError."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest

from xpcnn.errors import XpcnnError
from xpcnn.scratch import functions, layers, util
from xpcnn.scratch.gradient import numerical_gradient
from xpcnn.scratch.simple_convnet import SimpleConvNet
from xpcnn.scratch.trainer import Trainer

rng = np.random.default_rng(0)
IMAGES, ROWS = rng.random((4, 2, 6, 6)).astype("f4"), rng.random((4, 6)).astype("f4")
FILTERS, MATRIX, BIAS = (
    rng.random((3, 2, 3, 3)).astype("f4"),
    rng.random((6, 3)).astype("f4"),
    np.ones(3, "f4"),
)
LABELS, LOGITS = np.array([0, 1, 2, 0]), rng.random((4, 3)).astype("f4")
NETWORK = SimpleConvNet((2, 6, 6), {"filter_num": 3, "filter_size": 3, "pad": 0, "stride": 1}, 5, 3)


def there_and_back(layer: Any, x: Any) -> Any:
    y = layer.forward(x)
    found = [y, layer.backward(np.ones(y.shape, y.dtype))]
    return found + [getattr(layer, name) for name in ("dW", "db", "dgamma", "dbeta") if hasattr(layer, name)]


def loss_and_back(y: Any, t: Any) -> Any:
    layer = layers.SoftmaxWithLoss()
    return [layer.forward(y, t), layer.backward(1), layer.y]


def trained(x: Any, t: Any) -> Any:
    network = SimpleConvNet((2, 6, 6), {"filter_num": 3, "filter_size": 3, "pad": 0, "stride": 1}, 5, 3)
    Trainer(network, x, t, x, t, epochs=1, mini_batch_size=2, verbose=False).train()


ones, zeros = np.ones(6, "f4"), np.zeros(6, "f4")
CALLS: dict[str, tuple[Any, Any]] = {
    "Convolution": (lambda v: there_and_back(layers.Convolution(FILTERS, BIAS, 1, 1), v), IMAGES),
    "Convolution W": (lambda v: there_and_back(layers.Convolution(v, BIAS, 1, 1), IMAGES), FILTERS),
    "Convolution b": (lambda v: there_and_back(layers.Convolution(FILTERS, v, 1, 1), IMAGES), BIAS),
    "Affine": (lambda v: there_and_back(layers.Affine(MATRIX, BIAS), v), ROWS),
    "Affine W": (lambda v: there_and_back(layers.Affine(v, BIAS), ROWS), MATRIX),
    "Affine b": (lambda v: there_and_back(layers.Affine(MATRIX, v), ROWS), BIAS),
    "Pooling": (lambda v: there_and_back(layers.Pooling(2, 2, 2), v), IMAGES),
    "Relu": (lambda v: there_and_back(layers.Relu(), v), IMAGES),
    "Sigmoid": (lambda v: there_and_back(layers.Sigmoid(), v), IMAGES),
    "BatchNormalization": (lambda v: there_and_back(layers.BatchNormalization(ones, zeros), v), ROWS),
    "BatchNormalization gamma": (lambda v: there_and_back(layers.BatchNormalization(v, zeros), ROWS), ones),
    "Dropout": (lambda v: layers.Dropout(0.5).forward(v, False), ROWS),
    "SoftmaxWithLoss": (lambda v: loss_and_back(v, LABELS), LOGITS),
    "SoftmaxWithLoss t": (lambda v: loss_and_back(LOGITS, v), LABELS),
    "SoftmaxWithLoss rows": (lambda v: loss_and_back(LOGITS, v), np.eye(3, dtype="f4")[LABELS]),
    "sigmoid": (functions.sigmoid, ROWS),
    "sigmoid_grad": (functions.sigmoid_grad, ROWS),
    "relu": (functions.relu, ROWS),
    "relu_grad": (functions.relu_grad, ROWS),
    "softmax": (functions.softmax, ROWS),
    "step_function": (functions.step_function, ROWS),
    "cross_entropy_error": (lambda v: functions.cross_entropy_error(v, LABELS), LOGITS),
    "cross_entropy_error t": (lambda v: functions.cross_entropy_error(LOGITS, v), LABELS),
    "softmax_loss": (lambda v: functions.softmax_loss(v, LABELS), LOGITS),
    "mean_squared_error": (lambda v: functions.mean_squared_error(v, LOGITS), LOGITS),
    "mean_squared_error t": (lambda v: functions.mean_squared_error(LOGITS, v), LOGITS),
    "im2col": (lambda v: util.im2col(v, 2, 2), IMAGES),
    "col2im": (lambda v: util.col2im(v, IMAGES.shape, 2, 2), util.im2col(IMAGES, 2, 2)),
    "smooth_curve": (util.smooth_curve, np.linspace(0, 1, 30)),
    "network.predict": (NETWORK.predict, IMAGES),
    "network.loss": (lambda v: NETWORK.loss(v, LABELS), IMAGES),
    "network.loss t": (lambda v: NETWORK.loss(IMAGES, v), LABELS),
    "network.accuracy": (lambda v: NETWORK.accuracy(v, LABELS), IMAGES),
    "network.accuracy t": (lambda v: NETWORK.accuracy(IMAGES, v), LABELS),
    "network.gradient": (lambda v: list(NETWORK.gradient(v, LABELS).values()), IMAGES),
    "Trainer": (lambda v: trained(v, LABELS), IMAGES),
    "Trainer t": (lambda v: trained(IMAGES, v), LABELS),
    "numerical_gradient": (lambda v: numerical_gradient(lambda z: float((z**2).sum()), v.copy()), ROWS[:1]),
}


def flat(found: Any) -> Iterator[Any]:
    if isinstance(found, list | tuple):
        for part in found:
            yield from flat(part)
    elif hasattr(found, "dtype"):
        yield found


@pytest.mark.parametrize("name", CALLS)
def test_the_other_byte_order(name: str) -> None:
    call, values = CALLS[name]
    for kind in ("f4", "f8") if values.dtype.kind == "f" else ("i8", "i2"):
        expected, found = call(values.astype(kind)), call(values.astype(f">{kind}"))
        for one, right in zip(flat(found), flat(expected), strict=True):
            assert one.dtype.isnative
            assert one.dtype == right.dtype
            np.testing.assert_array_equal(one, right)


@pytest.mark.parametrize("name", sorted(CALLS.keys() - {"numerical_gradient"}))
def test_what_is_no_real_number_is_refused(name: str) -> None:
    call, values = CALLS[name]
    dates, records = np.zeros(values.shape, "M8[s]"), np.zeros(values.shape, [("a", "f4")])
    arrays = [values.astype(kind) for kind in ("c8", object, "U5")]
    for wrong in ("abc", ["a"], {}, None, *arrays, dates, records):
        if wrong is None and name.endswith(" b"):
            continue
        with pytest.raises(XpcnnError):
            call(wrong)
