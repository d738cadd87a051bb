"""What the optimiser tests share: the combinations of options, drawn gradients, and steps."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

import numpy as np

from xpcnn import nn, optim

CASES: dict[str, tuple[type[optim.Optimizer], dict[str, Any]]] = {
    "SGD": (optim.SGD, {"lr": 0.1}),
    "SGD momentum": (optim.SGD, {"lr": 0.1, "momentum": 0.9}),
    "SGD nesterov": (optim.SGD, {"lr": 0.1, "momentum": 0.8, "nesterov": True}),
    "SGD decay": (optim.SGD, {"lr": 0.1, "weight_decay": 0.2}),
    "SGD all": (optim.SGD, {"lr": 0.1, "momentum": 0.9, "nesterov": True, "weight_decay": 0.2}),
    "AdaGrad": (optim.AdaGrad, {"lr": 0.1}),
    "AdaGrad eps": (optim.AdaGrad, {"lr": 0.1, "eps": 0.01}),
    "AdaGrad decay": (optim.AdaGrad, {"lr": 0.1, "weight_decay": 0.2}),
    "RMSprop": (optim.RMSprop, {"lr": 0.1}),
    "RMSprop alpha, eps": (optim.RMSprop, {"lr": 0.1, "alpha": 0.8, "eps": 0.01}),
    "RMSprop momentum": (optim.RMSprop, {"lr": 0.1, "momentum": 0.9}),
    "RMSprop all": (
        optim.RMSprop,
        {"lr": 0.1, "alpha": 0.9, "eps": 0.01, "momentum": 0.9, "weight_decay": 0.2},
    ),
    "Adam": (optim.Adam, {"lr": 0.1}),
    "Adam betas, eps": (optim.Adam, {"lr": 0.1, "betas": (0.8, 0.95), "eps": 0.01}),
    "Adam betas 0": (optim.Adam, {"lr": 0.1, "betas": (0.0, 0.0), "eps": 0.1}),
    "Adam decay": (optim.Adam, {"lr": 0.1, "weight_decay": 0.2}),
    "AdamW": (optim.AdamW, {"lr": 0.1}),
    "AdamW decay": (optim.AdamW, {"lr": 0.1, "betas": (0.8, 0.95), "weight_decay": 0.2}),
    "AdamW no decay": (optim.AdamW, {"lr": 0.1, "weight_decay": 0.0}),
}
"""Every optimiser with every option away from its default at least once."""

SHAPES: dict[str, tuple[int, ...]] = {"conv.weight": (2, 3, 2, 2), "conv.bias": (2,), "fc.weight": (4, 5)}

Values = dict[str, np.ndarray[Any, Any]]


def draw(seed: int) -> Values:
    """Normal numbers for each of SHAPES, from float32; the first of each is 0, as for a dead weight."""
    values = {}
    for number, (path, shape) in enumerate(SHAPES.items()):
        normal = np.random.default_rng([seed, number]).standard_normal(shape).astype(np.float32)
        normal.flat[0] = 0
        values[path] = normal
    return values


def make_parameters(make: Any, dtype: str, seed: int = 0) -> dict[str, nn.Parameter]:
    """Parameters of SHAPES on the backend of `make`, whose arrays refuse writing where it can make such."""
    parameters = {}
    with make.use():
        for path, values in draw(seed).items():
            parameters[path] = nn.Parameter(make.array(values, dtype))
    return parameters


def step(
    make: Any, optimizer: optim.Optimizer, parameters: Mapping[str, nn.Parameter], values: Values
) -> None:
    """One step with these gradients, in the dtype of each parameter, for those parameters that are named."""
    grads = nn.Gradients()
    for path, gradient in values.items():
        name = str(parameters[path].dtype).rpartition(".")[-1]
        grads.add(parameters[path], make.array(gradient, name))
    with make.unchanged(*(gradient for _, gradient in grads.items())):
        optimizer.step(grads)


def mentions(*parts: str) -> str:
    """A regular expression for messages that hold all of these, in any order."""
    return r"(?s)\A" + "".join(f"(?=.*{re.escape(part)})" for part in parts)
