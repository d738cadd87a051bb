"""What the book's names accept and refuse: dtypes, byte orders, biases, arrays of other backends."""

import numpy as np
import pytest

import xpcnn
from tests.support.scratch import TINY, draw, writable
from xpcnn.errors import BackendError, XpcnnError
from xpcnn.scratch import functions, layers, util
from xpcnn.scratch.gradient import numerical_gradient
from xpcnn.scratch.simple_convnet import SimpleConvNet
from xpcnn.scratch.trainer import Trainer

LAYERS = {
    "Affine": (layers.Affine, (6, 5), (5,), (3, 6)),
    "Convolution": (layers.Convolution, (5, 1, 2, 2), (5,), (2, 1, 4, 5)),
    "BatchNormalization": (layers.BatchNormalization, (1,), (1,), (4, 1, 2, 2)),
}
every_layer = pytest.mark.parametrize("name", LAYERS)
weighted_layers = pytest.mark.parametrize("name", ["Affine", "Convolution"])


def build(make, name, W, b=None):
    kind, shape, bias_shape, _ = LAYERS[name]
    return kind(make.array(draw(*shape), W), make.array(draw(*bias_shape), b or W))


def gradients(layer):
    return (layer.dgamma, layer.dbeta) if hasattr(layer, "gamma") else (layer.dW, layer.db)


MIXED = [
    "float32 float64 float64 float64",
    "float64 float32 float32 float64",
    "float32 float32 float64 float64",
    "float32 float16 float16 float32",
    "float16 float16 float16 float16",
    "uint8 float32 float32 float32",
]


@every_layer
@pytest.mark.parametrize("dtypes", MIXED)
def test_mixed_dtypes_take_the_result_type(make, name, dtypes):
    """Gradients have the dtype of their parameter, so that an update in place needs no cast."""
    x, W, b, result = dtypes.split()
    if "float16" in dtypes and not make.has("float16"):
        pytest.skip("no float16")
    values = np.random.default_rng(0).integers(0, 9, LAYERS[name][3])
    layer, right = build(make, name, W, b), build(make, name, "float64")
    with make.unchanged(given := make.array(values, x)):
        y = layer.forward(given)
    expected = right.forward(make.array(values, "float64"))
    dout = make.array(draw(*expected.shape))  # float64, whatever y is
    dx, right_dx = layer.backward(dout), right.backward(dout)
    tolerance = {"float16": 2e-2, "float32": 1e-4, "float64": 1e-12}
    rtol = max(tolerance[kind] for kind in (W, b, result))
    found = zip((y, dx, *gradients(layer)), (expected, right_dx, *gradients(right)), strict=True)
    for (array, exact), kind in zip(found, (result, result, W, b), strict=True):
        make.check(array, make.to_numpy(exact), kind, rtol=rtol)


def test_integers_alone_are_computed_as_floats(make):
    """W and x of integers, as in the worked examples."""
    W, x = np.array([[1, 2, 3], [4, 5, 6]]), np.array([[1, 2]])
    layer = layers.Affine(make.array(W), make.array(np.array([1, 1, 1])))
    np.testing.assert_array_equal(make.to_numpy(layer.forward(make.array(x))), [[10, 13, 16]])
    for simple in (layers.Relu(), layers.Sigmoid(), layers.Dropout(), layers.Pooling(1, 1)):
        z = simple.forward(make.array(np.ones((1, 1, 2, 2), dtype=np.uint8)))
        assert "float" in str(z.dtype)


@pytest.mark.parametrize("b", [0.5, 2, np.array([0.25])], ids=repr)
@weighted_layers
def test_one_bias_for_all(make, name, b):
    """The book's ``apply_filter.py`` says ``Convolution(w, 0)``."""
    plain, layer = build(make, name, "float32"), build(make, name, "float32")
    plain.b = make.array(np.broadcast_to(b, (5,)), "float32")
    layer.b = make.array(b, "float32") if isinstance(b, np.ndarray) else b
    x = make.array(draw(*LAYERS[name][3]), "float32")
    y = layer.forward(x)
    make.check(y, make.to_numpy(plain.forward(x)), "float32")
    for each in (plain, layer):
        each.backward(make.array(np.ones(tuple(y.shape)), "float32"))
    make.check(layer.db, make.to_numpy(plain.db), "float32")


@weighted_layers
def test_updates_in_place_are_seen(make, name):
    """The layer holds the very arrays of ``params``."""
    kind, shape, bias_shape, x_shape = LAYERS[name]
    W, b, x = writable(make, draw(*shape)), writable(make, draw(*bias_shape)), make.array(draw(*x_shape))
    layer = kind(W, b)
    layer.forward(x)
    W *= 0.0
    b *= 0.0
    b += 2.0
    assert (make.to_numpy(layer.forward(x)) == 2.0).all()


def test_arrays_of_two_backends_are_refused():
    with xpcnn.use_backend("array_api_strict"):
        W, b, t = xpcnn.asarray(draw(6, 5)), xpcnn.asarray(draw(5)), xpcnn.asarray([1, 2, 0])
    with pytest.raises(BackendError, match=r"Affine: x is on numpy \(cpu\), W on array_api_strict"):
        layers.Affine(W, b).forward(draw(3, 6))
    y, loss = draw(3, 5), layers.SoftmaxWithLoss().forward
    for call in (loss, functions.cross_entropy_error, functions.softmax_loss):
        with pytest.raises(BackendError, match="labels: y is on numpy"):
            call(y, t)
    with pytest.raises(BackendError, match="mean_squared_error: y is on numpy"):
        functions.mean_squared_error(y, W)


# -- every name, with arrays of the other byte order and with what is no real number ----

SHAPES = ((4, 2, 6, 6), (4, 6), (4, 3), (3, 2, 3, 3), (6, 3))
IMAGES, ROWS, LOGITS, FILTERS, MATRIX = (abs(draw(*shape, dtype="f4")) for shape in SHAPES)
BIAS, ONES, ZEROS, LABELS = np.ones(3, "f4"), np.ones(6, "f4"), np.zeros(6, "f4"), np.array([0, 1, 2, 0])
NETWORK = SimpleConvNet((2, 6, 6), TINY, 5, 3)


def both_ways(layer, x):
    y = layer.forward(x)
    found = [y, layer.backward(np.ones(y.shape, y.dtype))]
    return found + [getattr(layer, name) for name in ("dW", "db", "dgamma", "dbeta") if hasattr(layer, name)]


def loss_and_back(y, t):
    layer = layers.SoftmaxWithLoss()
    return [layer.forward(y, t), layer.backward(1), layer.y]


def train(x, t):
    network = SimpleConvNet((2, 6, 6), TINY, 5, 3)
    Trainer(network, x, t, x, t, epochs=1, mini_batch_size=2, verbose=False).train()


def cubes(x):
    return numerical_gradient(lambda z: float((z**3).sum()), x.copy())


CALLS = {
    "Convolution": (lambda v: both_ways(layers.Convolution(FILTERS, BIAS, 1, 1), v), IMAGES),
    "Convolution W": (lambda v: both_ways(layers.Convolution(v, BIAS, 1, 1), IMAGES), FILTERS),
    "Convolution b": (lambda v: both_ways(layers.Convolution(FILTERS, v, 1, 1), IMAGES), BIAS),
    "Affine": (lambda v: both_ways(layers.Affine(MATRIX, BIAS), v), ROWS),
    "Affine W": (lambda v: both_ways(layers.Affine(v, BIAS), ROWS), MATRIX),
    "Pooling": (lambda v: both_ways(layers.Pooling(2, 2, 2), v), IMAGES),
    "Relu": (lambda v: both_ways(layers.Relu(), v), IMAGES),
    "Sigmoid": (lambda v: both_ways(layers.Sigmoid(), v), IMAGES),
    "BatchNormalization": (lambda v: both_ways(layers.BatchNormalization(ONES, ZEROS), v), ROWS),
    "BatchNormalization gamma": (lambda v: both_ways(layers.BatchNormalization(v, ZEROS), ROWS), ONES),
    "Dropout": (lambda v: layers.Dropout(0.5).forward(v, False), ROWS),
    "SoftmaxWithLoss": (lambda v: loss_and_back(v, LABELS), LOGITS),
    "SoftmaxWithLoss t": (lambda v: loss_and_back(LOGITS, v), LABELS),
    "SoftmaxWithLoss rows": (lambda v: loss_and_back(LOGITS, v), np.eye(3, dtype="f4")[LABELS]),
    "cross_entropy_error": (lambda v: functions.cross_entropy_error(v, LABELS), LOGITS),
    "cross_entropy_error t": (lambda v: functions.cross_entropy_error(LOGITS, v), LABELS),
    "softmax_loss": (lambda v: functions.softmax_loss(v, LABELS), LOGITS),
    "mean_squared_error": (lambda v: functions.mean_squared_error(v, LOGITS), LOGITS),
    "mean_squared_error t": (lambda v: functions.mean_squared_error(LOGITS, v), LOGITS),
    "im2col": (lambda v: util.im2col(v, 2, 2), IMAGES),
    "col2im": (lambda v: util.col2im(v, IMAGES.shape, 2, 2), util.im2col(IMAGES, 2, 2)),
    "smooth_curve": (util.smooth_curve, np.linspace(0, 1, 30)),
    "shuffle_dataset": (lambda v: np.sort(util.shuffle_dataset(v, LABELS)[0], axis=0), ROWS),
    "network.predict": (NETWORK.predict, IMAGES),
    "network.loss t": (lambda v: NETWORK.loss(IMAGES, v), LABELS),
    "network.accuracy": (lambda v: NETWORK.accuracy(v, LABELS), IMAGES),
    "network.accuracy t": (lambda v: NETWORK.accuracy(IMAGES, v), LABELS),
    "network.gradient": (lambda v: list(NETWORK.gradient(v, LABELS).values()), IMAGES),
    "Trainer": (lambda v: train(v, LABELS), IMAGES),
    "Trainer t": (lambda v: train(IMAGES, v), LABELS),
    "numerical_gradient": (cubes, ROWS[:1]),
}
NAMES = ("sigmoid", "sigmoid_grad", "relu", "relu_grad", "softmax", "step_function")
CALLS |= {name: (getattr(functions, name), ROWS) for name in NAMES}


def flat(found):
    if isinstance(found, list | tuple):
        for part in found:
            yield from flat(part)
    elif hasattr(found, "dtype"):
        yield found


@pytest.mark.parametrize("name", CALLS)
def test_the_other_byte_order(name):
    call, values = CALLS[name]
    for kind in ("f4", "f8") if values.dtype.kind == "f" else ("i8", "i2"):
        expected, found = call(values.astype(kind)), call(values.astype(f">{kind}"))
        for one, right in zip(flat(found), flat(expected), strict=True):
            assert one.dtype.isnative
            assert one.dtype == right.dtype
            np.testing.assert_array_equal(one, right)


@pytest.mark.parametrize("name", sorted(CALLS.keys() - {"numerical_gradient"}))
def test_what_is_no_real_number_is_refused(name):
    call, values = CALLS[name]
    dates, records = np.zeros(values.shape, "M8[s]"), np.zeros(values.shape, [("a", "f4")])
    arrays = [values.astype(kind) for kind in ("c8", object, "U5")]
    for wrong in ("abc", ["a"], {}, None, *arrays, dates, records):
        if wrong is not None or name != "Convolution b":  # which is no bias
            with pytest.raises(XpcnnError):
                call(wrong)
