"""The faults of the book's code that are mended, each with the wrong answer that it used to give.

Sampling and missed epochs are in test_trainer.py, pickles in tests/io/test_pickles.py, and mirrors that
answer 403 in tests/data/test_fetch.py.
"""

import numpy as np
import pytest

from tests.support.scratch import TINY
from xpcnn.scratch import layers, util
from xpcnn.scratch.simple_convnet import SimpleConvNet


def test_relus_backward_leaves_dout_alone(make):
    """In ``x + relu(x)`` both paths get the same dout; zeros written into it reach the other path too."""
    layer = layers.Relu()
    layer.forward(make.array([-1.0, 2.0]))
    dout = make.array([1.0, 1.0])
    dx = dout + layer.backward(dout)
    make.check(dx, [1.0, 2.0], "float64")  # not [0, 2]


@pytest.mark.parametrize("kind", ["float32", "uint8"])
def test_columns_keep_the_dtype(make, kind):
    """The book's are float64, twice or eight times as large, and so is all that follows."""
    x = make.array(np.ones((1, 2, 4, 4)), kind)
    make.check_kind(util.im2col(x, 2, 2), (9, 8), kind)
    if kind == "float32":
        W, b = make.array(np.ones((3, 2, 2, 2)), kind), make.array(np.zeros(3), kind)
        y = layers.Convolution(W, b).forward(x)
        pool = layers.Pooling(2, 2, stride=1)
        make.check_kind(pool.forward(y), (1, 3, 2, 2), kind)
        make.check_kind(pool.backward(make.array(np.ones((1, 3, 2, 2)), kind)), (1, 3, 3, 3), kind)


def test_pooling_counts_its_padding(make):
    """The book's output size forgets it, so that reshaping fails; its zeros would beat negative pixels."""
    layer = layers.Pooling(2, 2, stride=2, pad=1)
    x = make.array(np.full((1, 1, 4, 4), -3.0))
    make.check(layer.forward(x), np.full((1, 1, 3, 3), -3.0), "float64")
    dx = make.to_numpy(layer.backward(make.array(np.ones((1, 1, 3, 3)))))
    assert dx.sum() == 9  # nothing is lost to the padding


def test_batch_statistics_are_per_channel_on_images(make):
    """Two images that differ by position alone have the same mean in each channel."""
    x = np.zeros((2, 1, 1, 2))
    x[0, 0, 0, 0] = x[1, 0, 0, 1] = 2.0
    layer = layers.BatchNormalization(make.array([1.0]), make.array([0.0]))
    y = make.to_numpy(layer.forward(make.array(x)))
    np.testing.assert_allclose(y, x - 1.0, rtol=1e-5)
    assert tuple(layer.running_mean.shape) == (1,)  # two in the book


def test_accuracy_counts_the_last_incomplete_batch(make):
    """The book leaves it out of the hits, but not of the divisor: of 7 samples it would find 0 right."""
    with make.use():
        network = SimpleConvNet((1, 6, 6), TINY)
    x = make.array(np.random.rand(7, 1, 6, 6))
    best = make.to_numpy(network.predict(x)).argmax(axis=1)
    wrong = np.where(np.arange(7) == 6, (best + 1) % 10, best)
    for batch_size in (1, 3, 7, 100):
        assert network.accuracy(x, make.array(best), batch_size) == 1.0
        assert network.accuracy(x, make.array(wrong), batch_size) == pytest.approx(6 / 7)


def test_odd_sizes_are_pooled_by_whole_numbers(make):
    """The book multiplies by (7/2)² and rounds afterwards: its second layer would have 24 inputs, not 18."""
    with make.use():
        network = SimpleConvNet((1, 9, 9), TINY)
    assert tuple(network.params["W2"].shape) == (18, 100)
    assert tuple(network.predict(make.array(np.zeros((2, 1, 9, 9)))).shape) == (2, 10)
