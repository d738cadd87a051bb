"""The faults of the book's code that are mended, each with the wrong answer that it used to give."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from xpcnn.scratch import layers, util
from xpcnn.scratch.simple_convnet import SimpleConvNet
from xpcnn.scratch.trainer import Trainer


def test_relus_backward_leaves_dout_alone(make: Any) -> None:
    """In ``x + relu(x)`` both paths get the same dout; zeros written into it reach the other path too."""
    layer = layers.Relu()
    layer.forward(make.array([-1.0, 2.0]))
    dout = make.array([1.0, 1.0])
    dx = dout + layer.backward(dout)
    make.check(dx, [1.0, 2.0], "float64")  # not [0, 2]


@pytest.mark.parametrize("kind", ["float32", "uint8"])
def test_columns_keep_the_dtype(make: Any, kind: str) -> None:
    """The book's are float64, twice or eight times as large, and so is all that follows."""
    x = make.array(np.ones((1, 2, 4, 4)), kind)
    make.check_kind(util.im2col(x, 2, 2), (9, 8), kind)
    if kind == "float32":
        W, b = make.array(np.ones((3, 2, 2, 2)), kind), make.array(np.zeros(3), kind)
        y = layers.Convolution(W, b).forward(x)
        pool = layers.Pooling(2, 2, stride=1)
        make.check_kind(pool.forward(y), (1, 3, 2, 2), kind)
        make.check_kind(pool.backward(make.array(np.ones((1, 3, 2, 2)), kind)), (1, 3, 3, 3), kind)


def test_pooling_counts_its_padding(make: Any) -> None:
    """The book's output size forgets it, so that reshaping fails; its zeros would beat negative pixels."""
    x = make.array(np.full((1, 1, 4, 4), -3.0))
    layer = layers.Pooling(2, 2, stride=2, pad=1)
    make.check(layer.forward(x), np.full((1, 1, 3, 3), -3.0), "float64")
    dx = make.to_numpy(layer.backward(make.array(np.ones((1, 1, 3, 3)))))
    assert dx.sum() == 9  # nothing is lost to the padding


def test_batch_statistics_are_per_channel_on_images(make: Any) -> None:
    """Two images that differ by position alone have the same mean in each channel."""
    x = np.zeros((2, 1, 1, 2))
    x[0, 0, 0, 0] = x[1, 0, 0, 1] = 2.0
    layer = layers.BatchNormalization(make.array([1.0]), make.array([0.0]))
    y = make.to_numpy(layer.forward(make.array(x)))
    np.testing.assert_allclose(y, x - 1.0, rtol=1e-5)
    assert tuple(layer.running_mean.shape) == (1,)  # two in the book


class Recorder:
    """A network that learns nothing and notes what it was shown."""

    def __init__(self) -> None:
        self.params: dict[str, Any] = {"W1": np.zeros(1)}
        self.batches: list[list[int]] = []
        self.measured: list[int] = []

    def gradient(self, x: Any, t: Any) -> dict[str, Any]:
        self.batches.append([int(value) for value in t])
        return {"W1": np.ones(1)}

    def loss(self, x: Any, t: Any) -> float:
        return 0.0

    def accuracy(self, x: Any, t: Any) -> float:
        self.measured.append(len(self.batches))
        return 0.0


@pytest.mark.parametrize(("samples", "batch"), [(10, 5), (10, 3), (7, 100), (6, 1)])
def test_an_epoch_shows_every_sample_once(samples: int, batch: int) -> None:
    """The book draws each batch with replacement: a third of the samples are missed in an epoch."""
    network = Recorder()
    numbers = np.arange(samples)
    trainer = Trainer(network, numbers, numbers, numbers, numbers, 3, batch, verbose=False)
    trainer.train()
    per_epoch = -(-samples // batch)
    orders = []
    for epoch in range(3):
        shown = network.batches[epoch * per_epoch : (epoch + 1) * per_epoch]
        orders.append([number for numbers in shown for number in numbers])
        assert sorted(orders[-1]) == list(range(samples))
        assert [len(numbers) for numbers in shown[:-1]] == [min(batch, samples)] * (per_epoch - 1)
    assert len({tuple(order) for order in orders}) > 1


@pytest.mark.parametrize(("samples", "batch"), [(10, 5), (10, 3), (7, 100)])
def test_every_epoch_is_measured_at_its_end(samples: int, batch: int) -> None:
    """The book tests ``iteration % 3.33 == 0``: of such epochs it measures the first alone."""
    network = Recorder()
    numbers = np.arange(samples)
    trainer = Trainer(network, numbers, numbers, numbers, numbers, 4, batch, verbose=False)
    trainer.train()
    per_epoch = -(-samples // batch)
    assert len(trainer.train_acc_list) == len(trainer.test_acc_list) == 4
    assert network.measured == [per_epoch * epoch for epoch in (1, 1, 2, 2, 3, 3, 4, 4)]
    assert trainer.current_epoch == 4


def test_accuracy_counts_the_last_incomplete_batch(make: Any) -> None:
    """The book leaves it out of the hits, but not of the divisor: of 7 samples it would find 0 right."""
    with make.use():
        network = SimpleConvNet((1, 6, 6), {"filter_num": 1, "filter_size": 3, "pad": 0, "stride": 1})
    x = make.array(np.random.rand(7, 1, 6, 6))
    best = make.to_numpy(network.predict(x)).argmax(axis=1)
    for batch_size in (1, 3, 7, 100):
        assert network.accuracy(x, make.array(best), batch_size) == 1.0
        wrong = np.where(np.arange(7) == 6, (best + 1) % 10, best)
        assert network.accuracy(x, make.array(wrong), batch_size) == pytest.approx(6 / 7)


def test_odd_sizes_are_pooled_by_whole_numbers(make: Any) -> None:
    """The book multiplies by (7/2)² and rounds afterwards: its second layer would have 12 inputs, not 9."""
    with make.use():
        network = SimpleConvNet((1, 9, 9), {"filter_num": 1, "filter_size": 3, "pad": 0, "stride": 1})
    assert tuple(network.params["W2"].shape) == (9, 100)
    assert tuple(network.predict(make.array(np.zeros((2, 1, 9, 9)))).shape) == (2, 10)
