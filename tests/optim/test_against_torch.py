"""Each optimiser and combination of options against torch.optim."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from tests.support.optim import CASES, Values, draw, make_parameters, step
from xpcnn import nn, optim

torch = pytest.importorskip("torch")

STEPS = 20
UNIT = {"float64": 2.0**-53, "float32": 2.0**-24}
"""The relative error of rounding once."""
ROUNDINGS = 4
"""In one step of one weight, at its scale: of the decayed gradient, the means, the quotient, and the sum."""
TORCH_NAMES = {"AdaGrad": "Adagrad"}


def torch_optimizer(kind: type[optim.Optimizer], tensors: list[Any], options: dict[str, Any]) -> Any:
    name = TORCH_NAMES.get(kind.__name__, kind.__name__)
    return getattr(torch.optim, name)(tensors, **options)


class Reference:
    """Parameters and their optimiser in PyTorch."""

    def __init__(self, kind: type[optim.Optimizer], groups: list[dict[str, Any]], dtype: str) -> None:
        self.tensors = {
            path: torch.tensor(values, dtype=getattr(torch, dtype), requires_grad=True)
            for path, values in draw(seed=0).items()
        }
        for group in groups:
            group["params"] = [self.tensors[path] for path in group["params"]]
        self.optimizer = torch_optimizer(kind, groups, {})
        self.steps = 0
        self.largest = {path: self._largest(path) for path in self.tensors}

    def _largest(self, path: str) -> float:
        return float(self.tensors[path].detach().abs().max())

    def step(self, values: Values) -> None:
        for path, tensor in self.tensors.items():
            tensor.grad = torch.tensor(values[path], dtype=tensor.dtype) if path in values else None
        self.optimizer.step()
        self.steps += 1
        self.largest = {path: max(old, self._largest(path)) for path, old in self.largest.items()}

    def check(self, make: Any, parameters: dict[str, nn.Parameter], dtype: str) -> None:
        """Both sides round in each step, at the scale of the largest number that a weight was ever.

        Not of what it is now: the one weight of conv.bias that moves passes 0, and float32 RMSprop is off by
        10⁻⁵ of it there.
        """
        rtol = 2 * self.steps * ROUNDINGS * UNIT[dtype]
        for path, tensor in self.tensors.items():
            make.check(
                parameters[path].data, tensor.detach().numpy(), dtype, rtol=rtol, scale=self.largest[path]
            )


@pytest.mark.parametrize("case", CASES.values(), ids=CASES)
def test_follows_torch(make: Any, dtype: str, case: tuple[type[optim.Optimizer], dict[str, Any]]) -> None:
    kind, options = case
    parameters = make_parameters(make, dtype)
    optimizer = kind(parameters, **options)
    reference = Reference(kind, [{"params": list(parameters), **options}], dtype)
    for number in range(1, STEPS + 1):
        step(make, optimizer, parameters, draw(number))
        reference.step(draw(number))
        reference.check(make, parameters, dtype)


@pytest.mark.parametrize("name", ["SGD momentum", "AdaGrad", "RMSprop momentum", "Adam", "AdamW decay"])
def test_a_parameter_that_joins_late(make: Any, name: str) -> None:
    kind, options = CASES[name]
    parameters = make_parameters(make, "float64")
    optimizer = kind(parameters, **options)
    reference = Reference(kind, [{"params": list(parameters), **options}], "float64")
    for number in range(1, 12):
        values = draw(number)
        if number < 6 or number == 8:
            del values["fc.weight"]
        step(make, optimizer, parameters, values)
        reference.step(values)
    reference.check(make, parameters, "float64")


def test_groups_and_a_changing_lr(make: Any) -> None:
    parameters = make_parameters(make, "float64")
    optimizer = optim.AdamW(
        parameters,
        lr=0.1,
        weight_decay=0.2,
        groups={"*.bias": {"weight_decay": 0.0}, "conv.*": {"lr": 0.025, "betas": (0.5, 0.6), "eps": 0.1}},
    )
    reference = Reference(
        optim.AdamW,
        [
            {"params": ["conv.bias"], "lr": 0.1, "weight_decay": 0.0},
            {"params": ["conv.weight"], "lr": 0.025, "betas": (0.5, 0.6), "eps": 0.1, "weight_decay": 0.2},
            {"params": ["fc.weight"], "lr": 0.1, "weight_decay": 0.2},
        ],
        "float64",
    )
    for number in range(1, 10):
        factor = 1 / number
        optimizer.lr = 0.1 * factor
        for group, lr in zip(reference.optimizer.param_groups, (0.1, 0.025, 0.1), strict=True):
            group["lr"] = lr * factor
        step(make, optimizer, parameters, draw(number))
        reference.step(draw(number))
    reference.check(make, parameters, "float64")


@pytest.mark.parametrize("kind", [optim.SGD, optim.AdaGrad, optim.RMSprop, optim.Adam, optim.AdamW])
def test_the_defaults_are_torchs(kind: type[optim.Optimizer]) -> None:
    own = kind({"p": nn.Parameter(np.zeros(1))}).options_of("p")
    torchs = torch_optimizer(kind, [torch.zeros(1)], {}).defaults
    if kind is optim.SGD:
        torchs["lr"] = 0.01  # PyTorch's has changed: none at first, now 0.001
    assert own == {name: torchs[name] for name in own}
