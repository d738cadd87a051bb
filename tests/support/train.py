"""What the tests of training share beside their fixtures."""

from __future__ import annotations

import numpy as np

from xpcnn import nn


class PassOn(nn.Layer):
    """Passes everything on, and calls a function with each input or gradient, and whether it trains."""

    def __init__(self, note=lambda array, train: None):
        self.note = note

    def forward(self, x, *, train=False, key=None):
        self.note(x, train)
        return x, None

    def backward(self, ctx, dy, grads=None, *, need_dx=True):
        self.note(dy, False)
        return dy


def small_model(seed: int = 0, dtype: str = "float32") -> nn.Sequential:
    """Convolution, batch statistics and dropout: all that a run's bits can depend on."""
    rng = np.random.default_rng(seed)
    return nn.Sequential(
        conv1=nn.Conv2d(1, 4, 5, seed=rng, dtype=dtype),
        bn1=nn.BatchNorm2d(4, dtype=dtype),
        relu1=nn.ReLU(),
        pool1=nn.MaxPool2d(4),
        flatten=nn.Flatten(),
        drop=nn.Dropout(0.3),
        fc=nn.Linear(144, 10, seed=rng, dtype=dtype),
    )
