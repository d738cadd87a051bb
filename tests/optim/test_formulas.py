"""Each optimiser against the formulas of its docstring, in plain Python on one number."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest

from tests.support.optim import CASES
from xpcnn import nn, optim

GRADIENTS = [0.5, -1.25, 3.0, 0.0, 1e-3, -0.75, 2.0, 2.0, -4.0, 0.25]
START = 1.5

Walk = Callable[..., Iterator[float]]


def sgd(
    p: float, *, lr: float, momentum: float = 0.0, weight_decay: float = 0.0, nesterov: bool = False
) -> Iterator[float]:
    velocity = 0.0
    for g in GRADIENTS:
        g += weight_decay * p
        velocity = momentum * velocity + g
        p -= lr * (g + momentum * velocity if nesterov else velocity)
        yield p


def adagrad(p: float, *, lr: float, eps: float = 1e-10, weight_decay: float = 0.0) -> Iterator[float]:
    total = 0.0
    for g in GRADIENTS:
        g += weight_decay * p
        total += g**2
        p -= lr * g / (math.sqrt(total) + eps)
        yield p


def rmsprop(
    p: float,
    *,
    lr: float,
    alpha: float = 0.99,
    eps: float = 1e-8,
    momentum: float = 0.0,
    weight_decay: float = 0.0,
) -> Iterator[float]:
    mean = velocity = 0.0
    for g in GRADIENTS:
        g += weight_decay * p
        mean = alpha * mean + (1 - alpha) * g**2
        velocity = momentum * velocity + g / (math.sqrt(mean) + eps)
        p -= lr * velocity
        yield p


def adam(
    p: float,
    *,
    lr: float,
    betas: tuple[float, float] = (0.9, 0.999),
    eps: float = 1e-8,
    weight_decay: float = 0.0,
    decoupled: float = 0.0,
) -> Iterator[float]:
    m = v = 0.0
    for t, g in enumerate(GRADIENTS, start=1):
        p -= lr * decoupled * p
        g += weight_decay * p
        m = betas[0] * m + (1 - betas[0]) * g
        v = betas[1] * v + (1 - betas[1]) * g**2
        m_corrected = m / (1 - betas[0] ** t)
        v_corrected = v / (1 - betas[1] ** t)
        p -= lr * m_corrected / (math.sqrt(v_corrected) + eps)
        yield p


def adamw(p: float, *, weight_decay: float = 0.01, **options: Any) -> Iterator[float]:
    return adam(p, decoupled=weight_decay, **options)


WALKS: dict[type[optim.Optimizer], Walk] = {
    optim.SGD: sgd,
    optim.AdaGrad: adagrad,
    optim.RMSprop: rmsprop,
    optim.Adam: adam,
    optim.AdamW: adamw,
}


@pytest.mark.parametrize("case", CASES.values(), ids=CASES)
@pytest.mark.parametrize("shape", [(1,), ()], ids=str)
def test_follows_its_formula(
    make: Any, dtype: str, shape: tuple[int, ...], case: tuple[type[optim.Optimizer], dict[str, Any]]
) -> None:
    kind, options = case
    with make.use():
        parameter = nn.Parameter(make.array(np.full(shape, START), dtype))
    optimizer = kind({"p": parameter}, **options)
    for gradient, expected in zip(GRADIENTS, WALKS[kind](START, **options), strict=True):
        grads = nn.Gradients()
        grads.add(parameter, make.array(np.full(shape, gradient), dtype))
        optimizer.step(grads)
        rtol = 1e-12 if dtype == "float64" else 1e-6
        make.check(parameter.data, np.full(shape, expected), dtype, rtol=rtol, scale=START)
