"""The book's layers: forward and backward against loops, on every backend, which is not the current one."""

import numpy as np
import pytest

from tests.support import oracles
from tests.support.scratch import draw
from xpcnn.errors import ArgumentError
from xpcnn.scratch import layers


def check(make, layer, x, dout, dtype, y, dx):
    """Compare both directions, which must not change what they are given."""
    with make.unchanged(given := (make.array(x, dtype), make.array(dout, dtype))):
        make.check(layer.forward(given[0]), y, dtype)
        make.check(layer.backward(given[1]), dx, dtype)


@pytest.mark.parametrize("name", ["relu", "sigmoid"])
def test_activations(make, dtype, name):
    layer, x, dout = getattr(layers, name.title())(), draw(2, 3, 4, 2), draw(2, 3, 4, 2, seed=1)
    forward, backward = getattr(oracles, name), getattr(oracles, f"{name}_gradients")
    check(make, layer, x, dout, dtype, forward(x), backward(x, dout))
    if name == "relu":
        np.testing.assert_array_equal(make.to_numpy(layer.mask), x <= 0)
    else:
        make.check(layer.out, forward(x), dtype)


@pytest.mark.parametrize("shape", [(4, 1, 2, 3), (1, 6), (0, 6)])
def test_affine(make, dtype, shape):
    """Images are laid out flat, and their gradient has their shape."""
    W, b, x, dout = draw(6, 5), draw(5), draw(*shape), draw(shape[0], 5, seed=1)
    layer = layers.Affine(make.array(W, dtype), make.array(b, dtype))
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
TARGETS = {
    "labels": (LABELS, LABELS),
    "one-hot integers": (np.eye(3, dtype=int)[LABELS], LABELS),
    # The book's backward divides by the length of a one-hot label.
    **{f"one sample: {t}": (np.array(t), np.array([1])) for t in (1, [1], [0, 1, 0])},
}


@pytest.mark.parametrize(("t", "labels"), TARGETS.values(), ids=TARGETS.keys())
def test_softmax_with_loss(make, dtype, t, labels):
    x, layer = draw(4, 3) if len(labels) == 4 else draw(3), layers.SoftmaxWithLoss()
    loss = layer.forward(make.array(x, dtype), given := make.array(t))
    make.check(loss, oracles.softmax_cross_entropy(np.atleast_2d(x), labels), dtype)
    assert layer.loss is loss
    assert layer.t is given
    make.check(layer.y, oracles.softmax(x), dtype)
    for dout in ((), (3,)):
        dx = oracles.softmax_cross_entropy_gradients(np.atleast_2d(x), labels, dy=float(*dout or (1,)))
        make.check(layer.backward(*dout), dx.reshape(x.shape), dtype)


def test_dropout(make, dtype):
    """Not inverted: what is kept in training is kept as it is, and all is scaled in use."""
    x, dout, layer = draw(400, 50), draw(400, 50, seed=1), layers.Dropout(0.3)
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
    layers.Relu: ("mask",),
    layers.Sigmoid: ("out",),
    lambda: layers.Affine(np.ones((2, 2)), np.ones(2)): ("x", "dW", "db", "original_x_shape"),
    layers.SoftmaxWithLoss: ("loss", "y", "t"),
    layers.Dropout: ("mask",),
    lambda: layers.BatchNormalization(np.ones(2), np.zeros(2)): ("dgamma", "running_mean", "input_shape"),
    lambda: layers.Convolution(np.ones((1, 1, 2, 2)), np.ones(1)): ("x", "dW", "db"),
    lambda: layers.Pooling(2, 2): ("x",),
}


@pytest.mark.parametrize(("new", "names"), FRESH.items())
def test_before_forward_there_is_nothing(new, names):
    layer = new()
    assert [getattr(layer, name) for name in names] == [None] * len(names)
    with pytest.raises(ArgumentError, match=rf"{type(layer).__name__}\.backward: there is no forward pass"):
        layer.backward(np.ones((2, 2)))
