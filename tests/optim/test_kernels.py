"""Updates of all parameters at once, by every implementation, beside each optimiser's own definition."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest

from tests.support.implementations import CUDA, KERNELS, Implementation
from tests.support.ops import ALL_LAYOUTS, draw
from xpcnn import nn, optim

IMPLEMENTATION_KINDS = ("compiled", *CUDA)  # NumPy's own arithmetic is the definition
IMPLEMENTATION_DTYPES = ("float32", "float64")  # optimisers upcast half precision before any kernel sees it
ROUNDING = {"float64": 1e-14, "float32": 1e-6}
"""Largest error of an update, relative to the largest value, or to 1."""

CASES: dict[str, tuple[type[optim.Optimizer], dict[str, Any]]] = {
    "SGD": (optim.SGD, {}),
    "SGD decay": (optim.SGD, {"weight_decay": 0.2}),
    "SGD momentum": (optim.SGD, {"momentum": 0.9, "weight_decay": 0.2}),
    "SGD Nesterov": (optim.SGD, {"momentum": 0.8, "nesterov": True}),
    "AdaGrad": (optim.AdaGrad, {"eps": 0.01, "weight_decay": 0.2}),
    "RMSprop": (optim.RMSprop, {"alpha": 0.8, "eps": 0.01}),
    "RMSprop momentum": (optim.RMSprop, {"momentum": 0.9, "weight_decay": 0.1}),
    "Adam": (optim.Adam, {}),
    "Adam decay": (optim.Adam, {"betas": (0.8, 0.95), "eps": 0.01, "weight_decay": 0.2}),
    "AdamW": (optim.AdamW, {"betas": (0.8, 0.95), "weight_decay": 0.3}),
    "AdamW no decay": (optim.AdamW, {"weight_decay": 0.0}),
}
every_case = pytest.mark.parametrize(("kind", "options"), [*CASES.values()], ids=[*CASES])

SIZES = {
    "few": [(3,), (2, 3), (1,), ()],
    "round a tile": [(1023,), (1024,), (1025,), (31, 33)],
    "round the lanes": [(255,), (256,), (257,), (1,)],
    "with empty ones": [(0,), (5,), (0, 3), (0,), (2, 2), (0,)],
    "one large": [(4, 3, 5, 5), (4,), (70, 60), (70,)],
}


class Problem:
    """Parameters at some update, with gradients and state, and what the definition makes of them."""

    def __init__(self, i: Implementation, kind: Any, options: dict[str, Any], shapes: Any) -> None:
        self.i, self.optimizer = i, kind({"w": nn.Parameter(i.array([0.0]))}, lr=0.1, **options)
        self.options = self.optimizer.options_of("w")
        self.updates = []
        for number, shape in enumerate(shapes):
            slots = enumerate(self.optimizer.slots(self.options))
            # Squares are not negative.
            state = {slot: i.array(np.abs(draw(*shape, seed=k + 5)) + 0.1).copy() for k, slot in slots}
            data, gradient = (i.array(draw(*shape, seed=10 * number + part)) for part in (1, 2))
            self.updates.append((data, gradient, state, number + 1, self.options))
        self.expected = [self.by_definition(*update) for update in self.updates]

    def by_definition(self, data: Any, gradient: Any, state: Any, steps: int, options: Any) -> Any:
        """The new data and state, in float64."""
        values = self.i.values
        state = {slot: values(array) for slot, array in state.items()}
        with np.errstate(all="ignore"):
            return self.optimizer.update(values(data), values(gradient), state, steps, **options), state

    def step(self) -> list[Any]:
        name = self.optimizer.update.kernel
        arrays = [array for data, gradient, *_ in self.updates for array in (data, gradient)]
        with self.i.unchanged(*arrays), np.errstate(all="ignore"):
            updated: list[Any] = self.i.kernels()[name](self.updates)
        self.i.ran(name)
        return updated

    def check(self) -> None:
        for update, data, (expected, state) in zip(self.updates, self.step(), self.expected, strict=True):
            self.check_array(data, expected)
            for slot, array in update[2].items():
                self.check_array(array, state[slot])

    def check_array(self, got: Any, expected: Any) -> None:
        self.i.check(
            got,
            expected,
            rtol=ROUNDING[self.i.dtype_name],
            scale=float(np.nanmax(np.abs(expected), initial=1.0, where=np.isfinite(expected))),
        )


@every_case
@pytest.mark.parametrize("shapes", [*SIZES.values()], ids=[*SIZES])
def test_one_update(kernels: Implementation, kind: Any, options: Any, shapes: Any) -> None:
    if kind.update.kernel not in KERNELS[kernels.kind]():
        pytest.skip(f"{kernels.kind}: {kind.__name__} is left to the definition")
    Problem(kernels, kind, options, shapes).check()


@pytest.mark.parametrize("layout", [*ALL_LAYOUTS.values()], ids=[*ALL_LAYOUTS])
def test_gradients_of_any_layout(kernels: Implementation, layout: Any) -> None:
    """As a convolution leaves that of its weight; NaN and infinity stay in their own parameter."""
    problem = Problem(kernels, optim.Adam, {"weight_decay": 0.1}, [(3,), (5, 4, 3, 2), (6,)])
    data, _, *rest = problem.updates[1]
    problem.updates[1] = data, layout(kernels, draw(5, 4, 3, 2, seed=8)), *rest
    data, _, *rest = problem.updates[0]
    problem.updates[0] = data, kernels.array([np.nan, np.inf, 1.0]), *rest
    problem.expected[:2] = (problem.by_definition(*update) for update in problem.updates[:2])
    problem.check()


def test_data_and_gradients_of_many_axes(kernels: Implementation) -> None:
    problem = Problem(kernels, optim.SGD, {"momentum": 0.5}, [(2, 3, 2, 3, 2, 2)])
    data, gradient, *rest = problem.updates[0]
    turned = (1, 3, 0, 5, 2, 4)
    back = tuple(int(k) for k in np.argsort(turned))
    data, gradient = (array.transpose(turned).copy().transpose(back) for array in (data, gradient))
    assert not gradient.flags.c_contiguous
    problem.updates[0] = data, gradient, *rest
    problem.check()


def test_each_has_its_own_options_and_number(kernels: Implementation) -> None:
    problem = Problem(kernels, optim.AdamW, {}, [(4,), (5,), (6,)])
    for k, own in enumerate(({"lr": 0.5}, {"weight_decay": 0.0, "betas": (0.5, 0.6)}, {"eps": 0.3})):
        problem.updates[k] = *problem.updates[k][:3], 3 * k + 1, {**problem.options, **own}
        problem.expected[k] = problem.by_definition(*problem.updates[k])
    problem.check()


def test_one_launch(cuda: Implementation, launched: list[str]) -> None:
    Problem(cuda, optim.Adam, {}, [(7,)] * 300).step()
    assert len(launched) == 1


def test_what_is_left_to_the_definition(kernels: Implementation) -> None:
    """Half precision; on NumPy, state that is not contiguous, too."""
    problem = Problem(kernels, optim.SGD, {"momentum": 0.5}, [(4, 3)])
    data, gradient, state, *rest = problem.updates[0]
    half = [array.astype("float16") for array in (data, gradient, state["velocity"])]
    given = [(*half[:2], {"velocity": half[2]}, *rest)]
    if not kernels.is_cuda:
        given.append((data, gradient, {"velocity": np.ones((3, 4), data.dtype).T}, *rest))
    for update in given:
        assert kernels.kernels()["sgd_step"]([update]) is NotImplemented


def test_parameters_of_two_dtypes(kernels: Implementation) -> None:
    """They are updated too, by a launch for each."""
    grads = nn.Gradients()
    parameters = {dtype: nn.Parameter(kernels.array([4.0, 8.0], dtype)) for dtype in ("float32", "float64")}
    for dtype, parameter in parameters.items():
        grads.add(parameter, kernels.array([2.0, 4.0], dtype))
    optim.SGD(parameters, lr=0.5).step(grads)
    kernels.ran("sgd_step")
    for dtype, parameter in parameters.items():
        kernels.check(parameter.data, [3, 6], dtype, rtol=0)


def test_the_constants_of_adam(kernels: Implementation) -> None:
    """By hand: the first step moves each weight by lr, in the gradient's direction."""
    i, optimizer = kernels, optim.Adam({"w": nn.Parameter([0.0])}, lr=0.25, eps=0.0)
    zeros = {slot: i.array([0.0, 0.0]).copy() for slot in ("m", "v")}
    data, gradient = i.array([1.0, 2.0]), i.array([1e-3, -5.0])
    updated = i.kernels()["adam_step"]([(data, gradient, zeros, 1, optimizer.options_of("w"))])[0]
    atol = 4 * math.ulp(1.0) if i.dtype_name == "float64" else 3e-3
    np.testing.assert_allclose(i.values(updated), [0.75, 2.25], rtol=0, atol=atol)
