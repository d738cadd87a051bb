"""The book's layers: forward and backward against loops, on every backend, which is not the current one."""

import numpy as np
import pytest

from tests.support import oracles
from tests.support.scratch import LABEL_FORMS, draw
from xpcnn.errors import ArgumentError
from xpcnn.scratch import layers


def check(make, layer, x, dout, dtype, y, dx):
    """Compare both directions, which must not change what they are given."""
    with make.unchanged(given := (make.array(x, dtype), make.array(dout, dtype))):
        make.check(layer.forward(given[0]), y, dtype)
        make.check(layer.backward(given[1]), dx, dtype)


SIMPLE = {
    "Relu": (layers.Relu, oracles.relu, oracles.relu_gradients),
    "Sigmoid": (layers.Sigmoid, oracles.sigmoid, oracles.sigmoid_gradients),
}


@pytest.mark.parametrize("name", SIMPLE)
def test_activations(make, dtype, name):
    kind, forward, backward = SIMPLE[name]
    x, dout = draw(2, 3, 4, 2), draw(2, 3, 4, 2, seed=1)
    check(make, kind(), x, dout, dtype, forward(x), backward(x, dout))


def test_what_activations_keep(make):
    relu, sigmoid, x = layers.Relu(), layers.Sigmoid(), make.array([[-1.0, 0.0, 2.0]])
    assert (relu.mask, sigmoid.out) == (None, None)
    relu.forward(x)
    y = sigmoid.forward(x)
    np.testing.assert_array_equal(make.to_numpy(relu.mask), [[True, True, False]])
    assert sigmoid.out is y


@pytest.mark.parametrize("shape", [(4, 1, 2, 3), (1, 6), (0, 6)])
def test_affine(make, dtype, shape):
    """Images are laid out flat, and their gradient has their shape."""
    W, b, x, dout = draw(6, 5), draw(5), draw(*shape), draw(shape[0], 5, seed=1)
    layer = layers.Affine(make.array(W, dtype), make.array(b, dtype))
    assert (layer.x, layer.dW, layer.db) == (None, None, None)
    flat = x.reshape(shape[0], 6)
    check(make, layer, x, dout, dtype, flat @ W + b, (dout @ W.T).reshape(shape))
    make.check(layer.dW, flat.T @ dout, dtype)
    make.check(layer.db, dout.sum(axis=0), dtype)
    assert (tuple(layer.x.shape), layer.original_x_shape) == ((shape[0], 6), shape)


@pytest.mark.parametrize(("stride", "pad"), [(1, 0), (1, 2), (2, 1)])
def test_convolution(make, dtype, stride, pad):
    x, W, b = draw(2, 3, 6, 7), draw(4, 3, 3, 2), draw(4)
    strides, pads = (stride, stride), (pad,) * 4
    expected = oracles.conv2d(x, W, b, strides, pads)
    dout = draw(*expected.shape, seed=1)
    dx, dW, db = oracles.conv2d_gradients(x, W, dout, strides, pads)
    layer = layers.Convolution(make.array(W, dtype), make.array(b, dtype), stride, pad)
    assert (layer.x, layer.dW, layer.db) == (None, None, None)
    check(make, layer, x, dout, dtype, expected, dx)
    make.check(layer.dW, dW, dtype)
    make.check(layer.db, db, dtype)
    assert tuple(layer.x.shape) == x.shape
    assert layer.backward(make.array(dout, dtype), need_dx=False) is None
    make.check(layer.dW, dW, dtype)


@pytest.mark.parametrize("pool", [(2, 2, 2, 0), (3, 2, 1, 1), (2, 3, 2, 1), (2, 2, 3, 0)])
def test_pooling(make, dtype, pool):
    pool_h, pool_w, stride, pad = pool
    window = ((pool_h, pool_w), (stride, stride), (pad, pad))
    x = np.random.default_rng(0).permutation(2 * 3 * 6 * 7).reshape(2, 3, 6, 7) - 200.0
    expected = oracles.max_pool2d(x, *window)
    dout = draw(*expected.shape, seed=1)
    layer = layers.Pooling(pool_h, pool_w, stride, pad)
    check(make, layer, x, dout, dtype, expected, oracles.max_pool2d_gradients(x, dout, *window))
    assert tuple(layer.x.shape) == x.shape


LABELS = np.array([2, 0, 1, 1])


@pytest.mark.parametrize("form", LABEL_FORMS)
def test_softmax_with_loss(make, dtype, form):
    x, layer = draw(4, 3), layers.SoftmaxWithLoss()
    assert (layer.loss, layer.y, layer.t) == (None, None, None)
    t = make.array(LABEL_FORMS[form](LABELS, 3))
    loss = layer.forward(make.array(x, dtype), t)
    make.check(loss, oracles.softmax_cross_entropy(x, LABELS), dtype)
    assert layer.loss is loss
    assert layer.t is t
    make.check(layer.y, oracles.softmax(x), dtype)
    make.check(layer.backward(), oracles.softmax_cross_entropy_gradients(x, LABELS), dtype)
    make.check(layer.backward(3), oracles.softmax_cross_entropy_gradients(x, LABELS, dy=3.0), dtype)


@pytest.mark.parametrize("t", [np.array(1), np.array([1]), np.array([0, 1, 0])], ids=str)
def test_the_loss_of_a_single_sample(make, t):
    """The book's backward divides by the length of a one-hot label."""
    x, label, layer = draw(3), np.array([1]), layers.SoftmaxWithLoss()
    loss = layer.forward(make.array(x), make.array(t))
    make.check(loss, oracles.softmax_cross_entropy(x[None], label), "float64")
    make.check(layer.y, oracles.softmax(x), "float64")
    make.check(layer.backward(), oracles.softmax_cross_entropy_gradients(x[None], label)[0], "float64")


def test_the_loss_agrees_with_the_books_to_its_small_number():
    x, t, layer = draw(50, 10), np.arange(50) % 10, layers.SoftmaxWithLoss()
    loss = layer.forward(x, t)
    assert loss == pytest.approx(layers.cross_entropy_error(layers.softmax(x), t), abs=2e-5)
    before = float(loss)
    loss += 1
    assert layer.loss == before


def test_dropout(make, dtype):
    """Not inverted: what is kept in training is kept as it is, and all is scaled in use."""
    x, dout, layer = draw(400, 50), draw(400, 50, seed=1), layers.Dropout(0.3)
    assert layer.mask is None
    with make.unchanged(given := (make.array(x, dtype), make.array(dout, dtype))):
        y, dx = layer.forward(given[0]), layer.backward(given[1])
    kept = make.to_numpy(layer.mask)
    make.check(y, x * kept, dtype)
    make.check(dx, dout * kept, dtype)
    assert kept.mean() == pytest.approx(0.7, abs=0.01)
    assert not np.array_equal(make.to_numpy(layer.forward(given[0])), make.to_numpy(y))
    make.check(layer.forward(given[0], train_flg=False), x * 0.7, dtype)
    for ratio in (-0.1, 1.1):
        with pytest.raises(ArgumentError, match="dropout_ratio must be from 0 to 1"):
            layers.Dropout(ratio)


def test_dropouts_masks_follow_the_global_seed(make):
    masks = []
    for _ in range(2):
        with make.use():
            layers.np.random.seed(3)
        layer = layers.Dropout(0.5)
        layer.forward(make.array(np.ones((5, 6))))
        masks.append(make.to_numpy(layer.mask))
    np.testing.assert_array_equal(*masks)
    if make.backend == "numpy":  # the same as the book's, number for number
        np.random.seed(3)
        np.testing.assert_array_equal(masks[0], np.random.rand(5, 6) > 0.5)


FRESH = {
    "Relu": layers.Relu,
    "Sigmoid": layers.Sigmoid,
    "Affine": lambda: layers.Affine(np.ones((2, 2)), np.ones(2)),
    "SoftmaxWithLoss": layers.SoftmaxWithLoss,
    "Dropout": layers.Dropout,
    "BatchNormalization": lambda: layers.BatchNormalization(np.ones(2), np.zeros(2)),
    "Convolution": lambda: layers.Convolution(np.ones((1, 1, 2, 2)), np.ones(1)),
    "Pooling": lambda: layers.Pooling(2, 2),
}


@pytest.mark.parametrize("name", FRESH)
def test_backward_before_forward_says_so(name):
    with pytest.raises(ArgumentError, match=rf"{name}\.backward: there is no forward pass"):
        FRESH[name]().backward(np.ones((2, 2)))
