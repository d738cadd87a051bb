"""Updates of all parameters on NumPy: the bits of the portable updates."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import xpcnn
from tests.support.cpu import Array, draw, readonly, unchanged
from xpcnn import nn, optim
from xpcnn.backend.cpu import elementwise as kernels

CASES: dict[str, tuple[type[optim.Optimizer], dict[str, Any]]] = {
    "SGD": (optim.SGD, {}),
    "SGD decay": (optim.SGD, {"weight_decay": 0.2}),
    "SGD momentum": (optim.SGD, {"momentum": 0.9, "weight_decay": 0.1}),
    "SGD nesterov": (optim.SGD, {"momentum": 0.8, "nesterov": True}),
    "AdaGrad": (optim.AdaGrad, {"weight_decay": 0.1}),
    "RMSprop": (optim.RMSprop, {"alpha": 0.8}),
    "RMSprop momentum": (optim.RMSprop, {"momentum": 0.9, "weight_decay": 0.1}),
    "Adam": (optim.Adam, {}),
    "Adam decay": (optim.Adam, {"betas": (0.8, 0.95), "eps": 0.01, "weight_decay": 0.2}),
    "AdamW": (optim.AdamW, {"weight_decay": 0.1}),
    "AdamW no decay": (optim.AdamW, {"weight_decay": 0.0}),
}

SHAPES = [(), (1,), (5,), (3, 4), (2, 3, 3, 3), (0, 4), (70, 9)]


def steps(
    kind: type[optim.Optimizer], options: dict[str, Any], dtype: str, gradients: list[list[Array]]
) -> list[list[bytes]]:
    """The weights and the state after each step, as bytes."""
    parameters = {
        str(i): nn.Parameter(draw(*shape, dtype=dtype, seed=i), dtype=dtype) for i, shape in enumerate(SHAPES)
    }
    optimizer = kind(parameters, lr=0.1, groups={"3": {"lr": 0.01}}, **options)
    seen = []
    for given in gradients:
        grads = nn.Gradients()
        for parameter, gradient in zip(parameters.values(), given, strict=True):
            grads.add(parameter, gradient)
        old = [readonly(parameter.data) for parameter in parameters.values()]
        with unchanged(*old, *given):
            optimizer.step(grads)
        new = [parameter.data for parameter in parameters.values()]
        assert not any(np.shares_memory(a, b) for a, b in zip(old, new, strict=True))
        state = optimizer.state_dict()["state"]
        seen.append([a.tobytes() for a in new] + [a.tobytes() for s in state.values() for a in s.values()])
    return seen


@pytest.mark.parametrize(("kind", "options"), [*CASES.values()], ids=[*CASES])
def test_updates(kind: Any, options: Any, dtype: str, monkeypatch: pytest.MonkeyPatch) -> None:
    gradients = [[draw(*s, dtype=dtype, seed=i) for s in SHAPES] for i in range(3)]
    gradients[1][2][:3] = np.nan, np.inf, 0
    gradients[2][3] = draw(4, 3, dtype=dtype).T  # not contiguous
    numpy = xpcnn.get_backend()
    with np.errstate(all="ignore"):
        monkeypatch.setattr(numpy, "kernels", {})
        expected = steps(kind, options, dtype, gradients)
        monkeypatch.setattr(numpy, "kernels", kernels.KERNELS)
        monkeypatch.setattr(kernels, "_RULE_BYTES", 400)  # the last two parameters take several blocks
        got = steps(kind, options, dtype, gradients)
    assert got == expected


def test_state_that_is_not_contiguous() -> None:
    data, gradient = draw(3, 4), draw(3, 4)
    state = {"velocity": draw(4, 3).T}
    options = {"lr": 0.1, "momentum": 0.9, "weight_decay": 0.0, "nesterov": False}
    with unchanged(data, gradient, state["velocity"]):
        assert kernels.KERNELS["sgd_step"]([(data, gradient, state, 1, options)]) is NotImplemented


def test_weights_of_another_memory_order() -> None:
    values, gradient = draw(3, 4), draw(3, 4)
    options = {"lr": 0.1, "momentum": 0.0, "weight_decay": 0.0, "nesterov": False}
    (new,) = kernels.KERNELS["sgd_step"]([(np.asfortranarray(values), gradient, {}, 1, options)])
    np.testing.assert_array_equal(new, values - 0.1 * gradient)
