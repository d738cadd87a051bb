"""evaluate and predict: right over uneven batches, in bounded memory."""

from __future__ import annotations

import gc
import tracemalloc
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from tests.support.train import PassOn
from xpcnn import models, nn, ops
from xpcnn.data import Dataset
from xpcnn.errors import ArgumentError, ShapeError
from xpcnn.train import evaluate, predict
from xpcnn.train.evaluate import _batches


def model_with_sizes() -> Any:
    """A model, and how many images came at a time."""
    sizes: list[int] = []
    model = nn.Sequential(sizes=PassOn(lambda x, train: sizes.append(x.shape[0])), flatten=nn.Flatten())
    model["fc"] = nn.Linear(784, 10, seed=0, dtype="float64")
    return model, sizes


@pytest.mark.parametrize("batch_size", [1, 7, 100, 230, 1000])
def test_any_batch_size_gives_the_same(digits: Dataset, batch_size: int) -> None:
    model, sizes = model_with_sizes()
    calls: list[int] = []
    result = evaluate(model, digits, batch_size=batch_size, between=lambda: calls.append(1))
    assert len(calls) == len(sizes) == -(-230 // batch_size)
    assert max(sizes) <= batch_size
    assert sum(sizes) == result.samples == 230
    y = model(digits.images / 255)
    correct = int((y.argmax(axis=1) == digits.labels).sum())
    assert (result.correct, result.accuracy) == (correct, correct / 230)
    assert result.loss == pytest.approx(float(ops.softmax_cross_entropy(y, digits.labels)[0]), rel=1e-12)


def test_on_every_backend(make: Any, digits: Dataset) -> None:
    with make.use():
        model = models.tiny_convnet(dtype="float64")
    expected = evaluate(models.tiny_convnet(dtype="float64"), digits)
    result = evaluate(model, digits)
    assert result.correct == expected.correct
    assert result.loss == pytest.approx(expected.loss, rel=1e-12)
    np.testing.assert_allclose(predict(model, digits.images).sum(axis=1), 1)


def test_losses_of_half_precision_are_summed_in_float32(digits: Dataset) -> None:
    model = nn.Sequential(flatten=nn.Flatten(), fc=nn.Linear(784, 10, seed=0, dtype="float16"))
    x, batches = (digits.images / 255).astype(np.float16), [slice(i, i + 10) for i in range(0, 230, 10)]
    losses = [ops.softmax_cross_entropy(model(x[rows]), digits.labels[rows])[0] for rows in batches]
    expected = np.mean(np.array(losses, np.float64))
    assert evaluate(model, (x, digits.labels), batch_size=10).loss == pytest.approx(expected, rel=1e-6)


@pytest.mark.parametrize(
    ("shape", "most"), [((1, 28, 28), 1000), ((3, 32, 32), 341), ((3, 224, 224), 50), ((0, 2, 2), 1000)]
)
def test_batches_are_smaller_for_larger_images(shape: tuple[int, ...], most: int) -> None:
    images = np.broadcast_to(np.uint8(0), (2500, *shape))
    sizes = [rows.stop - rows.start for rows in _batches("evaluate", images, None)]
    assert sizes == [most] * (2500 // most) + [2500 % most] * (2500 % most > 0)


def test_predict(digits: Dataset) -> None:
    model, sizes = model_with_sizes()
    probabilities = predict(model, digits.images, batch_size=100)
    assert sizes == [100, 100, 30]
    assert isinstance(probabilities, np.ndarray)
    y = model(digits.images / 255)
    expected = np.exp(y) / np.exp(y).sum(axis=1, keepdims=True)
    np.testing.assert_allclose(probabilities, expected, rtol=1e-12)


def test_refusals(digits: Dataset) -> None:
    model, _ = model_with_sizes()
    with pytest.raises(ArgumentError, match="batch_size must be an integer of at least 1, got 0"):
        evaluate(model, digits, batch_size=0)
    with pytest.raises(ArgumentError, match="predict: batch_size must be an integer of at least 1, got -1"):
        predict(model, digits.images, batch_size=-1)
    with pytest.raises(ShapeError, match="empty dataset"):
        evaluate(model, digits[:0])
    with pytest.raises(ArgumentError, match="no images"):
        predict(model, digits.images[:0])
    with pytest.raises(ArgumentError, match="pair"):
        evaluate(model, digits.images)


MEGABYTE = 10**6


def peak(function: Callable[[], Any]) -> int:
    """The most bytes that a call held at once, its result included."""
    gc.collect()
    tracemalloc.start()
    try:
        function()
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


@pytest.fixture
def _one_thread(monkeypatch: Any) -> None:
    """Each has scratch memory of its own, and shards at work."""
    monkeypatch.setenv("XPCNN_NUM_THREADS", "1")


def noise(n: int) -> Any:
    return np.random.default_rng(0).random((n, 1, 28, 28), dtype=np.float32)


BLOCKS: dict[str, Callable[[], nn.Layer]] = {
    "conv – relu": lambda: nn.Sequential(nn.Conv2d(8, 8, 3, padding=1), nn.ReLU()),
    "conv – bn – relu": lambda: nn.Sequential(
        nn.Conv2d(8, 8, 3, padding=1, bias=False), nn.BatchNorm2d(8), nn.ReLU()
    ),
    "residual": lambda: nn.Residual(nn.Sequential(nn.Conv2d(8, 8, 3, padding=1), nn.ReLU())),
    "concat": lambda: nn.Concat(nn.Conv2d(8, 4, 1), nn.Conv2d(8, 4, 3, padding=1)),
}


@pytest.mark.slow
@pytest.mark.usefixtures("_one_thread")
@pytest.mark.parametrize("block", BLOCKS)
def test_depth_costs_nothing(block: str) -> None:
    x = np.repeat(noise(20), 8, axis=1)
    shallow, deep = (nn.Sequential(*(BLOCKS[block]() for _ in range(depth))) for depth in (3, 9))
    shallow(x)  # what is imported or set up once
    layer = 20 * 8 * 28 * 28 * 4
    assert peak(lambda: deep(x)) < peak(lambda: shallow(x)) + layer / 2
    assert peak(lambda: deep.forward(x)) > peak(lambda: shallow.forward(x)) + 5 * layer


@pytest.mark.slow
@pytest.mark.usefixtures("_one_thread")
@pytest.mark.parametrize("name", ["deep_convnet", "resnet20"])
def test_the_number_of_images_costs_nothing(name: str) -> None:
    model = models.build(name, **({"in_channels": 1} if name == "resnet20" else {}))
    pixels = (noise(120) * 255).astype(np.uint8)
    labels = np.arange(120) % 10

    def asked(n: int) -> list[int]:
        return [
            peak(lambda: evaluate(model, (pixels[:n], labels[:n]), batch_size=40)),
            peak(lambda: predict(model, pixels[:n], batch_size=40)),
        ]

    predict(model, pixels[:1])  # what is imported or set up once
    for few, many in zip(asked(40), asked(120), strict=True):
        assert many < few * 1.1 + MEGABYTE
