"""Sizes that no memory holds, and numbers that are none, are refused at once: nothing is made before."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from xpcnn import Trainer, data, models, nn, ops, optim
from xpcnn.errors import ArgumentError, ShapeError

X, W = np.ones((1, 2, 8, 8), "f"), np.ones((2, 2, 3, 3), "f")
HUGE = [2**20, 2**31 - 1, 2**31, 10**30]
OPS: dict[str, Callable[[int], Any]] = {
    "conv2d padding": lambda size: ops.conv2d(X, W, padding=size),
    "conv2d same": lambda size: ops.conv2d(X, W, padding="same", dilation=size),
    "conv2d dilation": lambda size: ops.conv2d(X, W, dilation=size),
    "conv2d groups": lambda size: ops.conv2d(X, W, groups=size),
    "conv_transpose2d stride": lambda size: ops.conv_transpose2d(X, W, stride=size),
    "conv_transpose2d dilation": lambda size: ops.conv_transpose2d(X, W, dilation=size),
    "conv_transpose2d padding": lambda size: ops.conv_transpose2d(X, W, padding=size),
    "conv_transpose2d output_padding": lambda size: ops.conv_transpose2d(X, W, output_padding=size),
    "im2col padding": lambda size: ops.im2col(X, 3, padding=size),
    "im2col kernel": lambda size: ops.im2col(X, size),
    "max_pool2d kernel": lambda size: ops.max_pool2d(X, size),
    "max_pool2d padding": lambda size: ops.max_pool2d(X, size, padding=size // 2),
    "avg_pool2d padding": lambda size: ops.avg_pool2d(X, size, padding=size // 2),
    "adaptive_avg_pool2d": lambda size: ops.adaptive_avg_pool2d(X, size),
    "linear": lambda size: nn.Linear(size, size),
}


@pytest.mark.parametrize("name", OPS)
def test_huge(name: str) -> None:
    for size in HUGE:
        with pytest.raises((ArgumentError, ShapeError)):
            OPS[name](size)


@pytest.mark.parametrize("stride", [2**31, 2**62])
def test_huge_strides(stride: int) -> None:
    for op, given in ((ops.conv2d, (X, W)), (ops.max_pool2d, (X, 2))):
        with pytest.raises(ArgumentError, match=f"stride must be at most 2147483647, got {stride}"):
            op(*given, stride=stride)
    y, _ = ops.conv2d(X, W, stride=2**31 - 1)  # large, and possible
    assert y.shape == (1, 2, 1, 1)


NO_NUMBERS = [[], {}, "1", None, 1.5, True, -1, float("nan"), object()]


@pytest.mark.parametrize("value", NO_NUMBERS, ids=lambda value: repr(value)[:8])
def test_no_numbers(value: Any) -> None:
    digits = data.synthetic_digits(20)
    model = models.tiny_convnet()
    trainer = Trainer(model, optim.SGD(model))
    calls: list[Callable[[], Any]] = [
        lambda: ops.conv2d(X, W, groups=value),
        lambda: ops.conv_transpose2d(X, W, groups=value),
        lambda: trainer.fit(digits, epochs=value, progress=None),
        lambda: trainer.fit(digits, batch_size=value, progress=None),
        lambda: Trainer(model, trainer.optimizer, seed=value),
        lambda: data.Loader(digits, 10, seed=value),
    ]
    if value is not None:
        calls.append(lambda: trainer.fit(digits, evaluate_samples=value, progress=None))
    for call in calls:
        with pytest.raises(ArgumentError):
            call()
    assert trainer.steps == 0


@pytest.mark.parametrize("wrong", [{"evaluate_samples": 0}, {"batch_size": 0}, {"batch_size": 10**30}])
def test_counts_of_fit(wrong: dict[str, int]) -> None:
    model = models.tiny_convnet()
    with pytest.raises(ArgumentError):
        Trainer(model, optim.SGD(model)).fit(data.synthetic_digits(20), progress=None, **wrong)  # type: ignore[arg-type]
