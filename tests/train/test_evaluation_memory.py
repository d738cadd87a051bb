"""Inference keeps no activations: its memory is that of two layers, however deep the network.

`python -m benchmarks.peak_memory` measures the whole process for 10,000 images.
"""

from __future__ import annotations

import gc
import tracemalloc
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from xpcnn import models, nn
from xpcnn.train import evaluate, predict

pytestmark = pytest.mark.slow
MEGABYTE = 10**6


@pytest.fixture(autouse=True)
def one_thread(monkeypatch: Any) -> None:
    """Each has scratch memory of its own, and shards at work."""
    monkeypatch.setenv("XPCNN_NUM_THREADS", "1")


def peak(function: Callable[[], Any]) -> int:
    """The most bytes that a call held at once, its result included."""
    gc.collect()
    tracemalloc.start()
    try:
        function()
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


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


@pytest.mark.parametrize("block", BLOCKS)
def test_depth_costs_nothing(block: str) -> None:
    x = np.repeat(noise(20), 8, axis=1)
    shallow, deep = (nn.Sequential(*(BLOCKS[block]() for _ in range(depth))) for depth in (3, 9))
    shallow(x)  # what is imported or set up once
    layer = 20 * 8 * 28 * 28 * 4
    assert peak(lambda: deep(x)) < peak(lambda: shallow(x)) + layer / 2
    assert peak(lambda: deep.forward(x)) > peak(lambda: shallow.forward(x)) + 5 * layer


@pytest.mark.parametrize("name", ["deep_convnet", "simple_convnet", "resnet20"])
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
