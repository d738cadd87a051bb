"""The kernel of ``optim.cu`` against every optimiser's portable update."""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import pytest

import xpcnn
from tests.support.cuda import LAYOUTS, Array, Target, draw
from xpcnn import nn, optim
from xpcnn.backend.cuda import optim as kernels

TARGET_DTYPES = ("float32", "float64")  # optimisers widen half precision before any kernel sees it
ROUNDING = {"float64": 1e-14, "float32": 1e-6}
"""Largest error of an update, relative to the largest value, or to 1."""

CASES: dict[str, tuple[type[optim.Optimizer], dict[str, Any]]] = {
    "SGD": (optim.SGD, {}),
    "SGD decay": (optim.SGD, {"weight_decay": 0.2}),
    "SGD momentum": (optim.SGD, {"momentum": 0.9, "weight_decay": 0.2}),
    "SGD Nesterov": (optim.SGD, {"momentum": 0.8, "nesterov": True}),
    "AdaGrad": (optim.AdaGrad, {"eps": 0.01}),
    "AdaGrad decay": (optim.AdaGrad, {"weight_decay": 0.2}),
    "RMSprop": (optim.RMSprop, {"alpha": 0.8, "eps": 0.01}),
    "RMSprop decay": (optim.RMSprop, {"weight_decay": 0.2}),
    "RMSprop momentum": (optim.RMSprop, {"momentum": 0.9}),
    "Adam": (optim.Adam, {"betas": (0.8, 0.95), "eps": 0.01}),
    "Adam decay": (optim.Adam, {"weight_decay": 0.2}),
    "AdamW": (optim.AdamW, {"betas": (0.8, 0.95), "weight_decay": 0.3}),
    "AdamW no decay": (optim.AdamW, {"weight_decay": 0.0}),
}
every_case = pytest.mark.parametrize(("kind", "options"), [*CASES.values()], ids=[*CASES])

SIZES = {
    "few": [(3,), (2, 3), (1,)],
    "round a tile": [(1023,), (1024,), (1025,), (31, 33)],
    "round the lanes": [(255,), (256,), (257,), (1,)],
    "with empty ones": [(0,), (5,), (0, 3), (0,), (2, 2), (0,)],
    "one large": [(4, 3, 5, 5), (4,), (70, 60), (70,)],
}


class Problem:
    """Parameters at some update, with gradients and state, as arrays of the target and as float64."""

    def __init__(
        self, target: Target, kind: type[optim.Optimizer], options: dict[str, Any], shapes: Any
    ) -> None:
        self.target = target
        self.optimizer = kind({"w": nn.Parameter([0.0])}, lr=0.1, **options)
        self.options = self.optimizer.options_of("w")
        self.updates = []
        for number, shape in enumerate(shapes):
            state = {
                # Squares are not negative.
                slot: target.array(np.abs(draw(*shape, seed=slot_number + 5)) + 0.1)
                for slot_number, slot in enumerate(self.optimizer.slots(self.options))
            }
            data, gradient = (target.array(draw(*shape, seed=10 * number + part)) for part in (1, 2))
            self.updates.append((data, gradient, state, number + 1, self.options))
        self.expected = [self.portable(*update) for update in self.updates]

    def portable(self, data: Any, gradient: Any, state: Any, steps: int, options: Any) -> tuple[Array, Any]:
        """The new data and state by the definition."""
        state = {slot: self.exact(array) for slot, array in state.items()}
        return self.optimizer.update(self.exact(data), self.exact(gradient), state, steps, **options), state

    def exact(self, x: Any) -> Array:
        return self.target.wide(x).astype(np.float64)

    def step(self) -> list[Any]:
        return self.target.kernel(self.optimizer.update.kernel)(self.updates)

    def check(self, updated: list[Any]) -> None:
        for (_, _, state, *_), data, (expected, expected_state) in zip(
            self.updates, updated, self.expected, strict=True
        ):
            self.check_array(data, expected)
            for slot, array in state.items():
                self.check_array(array, expected_state[slot])

    def check_array(self, got: Any, expected: Array) -> None:
        assert xpcnn.backend_of(got).name == self.target.backend
        assert str(got.dtype) == self.target.dtype
        assert got.shape == expected.shape
        allowed = ROUNDING[self.target.dtype] * np.abs(expected).max(initial=1.0)
        np.testing.assert_allclose(self.exact(got), expected, rtol=0, atol=allowed)


@every_case
@pytest.mark.parametrize("shapes", [*SIZES.values()], ids=[*SIZES])
def test_one_update(target: Target, kind: Any, options: Any, shapes: Any) -> None:
    problem = Problem(target, kind, options, shapes)
    before = [(problem.exact(data), problem.exact(gradient)) for data, gradient, *_ in problem.updates]
    problem.check(problem.step())
    for (data, gradient, *_), (old_data, old_gradient) in zip(problem.updates, before, strict=True):
        np.testing.assert_array_equal(problem.exact(data), old_data)
        np.testing.assert_array_equal(problem.exact(gradient), old_gradient)


@pytest.mark.parametrize("layout", [*LAYOUTS.values()], ids=[*LAYOUTS])
def test_gradients_of_any_layout(target: Target, layout: Any) -> None:
    """As a convolution leaves that of its weight."""
    problem = Problem(target, optim.Adam, {}, [(3,), (5, 4, 3, 2), (6,)])
    data, _, state, *rest = problem.updates[1]
    problem.updates[1] = data, layout(target, draw(5, 4, 3, 2, seed=8)), state, *rest
    problem.expected[1] = problem.portable(*problem.updates[1])
    problem.check(problem.step())


def test_data_and_gradients_of_many_axes(target: Target) -> None:
    shape = (2, 3, 2, 3, 2, 2)
    problem = Problem(target, optim.SGD, {"momentum": 0.5}, [shape])
    data, gradient, state, *rest = problem.updates[0]
    turned = (1, 3, 0, 5, 2, 4)
    back = tuple(int(i) for i in np.argsort(turned))
    data = target.array(problem.exact(data).transpose(turned).copy()).transpose(back)
    gradient = target.array(problem.exact(gradient).transpose(turned).copy()).transpose(back)
    assert not gradient.flags.c_contiguous
    problem.updates[0] = data, gradient, state, *rest
    problem.check(problem.step())


def test_each_has_its_own_options_and_number(target: Target) -> None:
    problem = Problem(target, optim.AdamW, {}, [(4,), (5,), (6,)])
    for i, own in enumerate(({"lr": 0.5}, {"weight_decay": 0.0, "betas": (0.5, 0.6)}, {"eps": 0.3})):
        problem.updates[i] = *problem.updates[i][:3], 3 * i + 1, {**problem.options, **own}
        problem.expected[i] = problem.portable(*problem.updates[i])
    problem.check(problem.step())


def test_one_launch(target: Target, monkeypatch: pytest.MonkeyPatch) -> None:
    launched: list[str] = []
    start = kernels.launch
    monkeypatch.setattr(
        kernels, "launch", lambda family, name, *rest: (launched.append(name), start(family, name, *rest))
    )
    Problem(target, optim.Adam, {}, [(7,)] * 300).step()
    assert len(launched) == 1


def test_overflow_of_one_is_its_own(target: Target) -> None:
    problem = Problem(target, optim.Adam, {"weight_decay": 0.1}, [(3,), (4,)])
    data, _, state, *rest = problem.updates[0]
    problem.updates[0] = data, target.array([np.nan, np.inf, 1.0]), state, *rest
    first, second = (problem.exact(array) for array in problem.step())
    np.testing.assert_array_equal(np.isnan(first), [True, True, False])
    problem.check_array(target.array(second), problem.expected[1][0])


@contextmanager
def with_kernels(target: Target, monkeypatch: pytest.MonkeyPatch, *, without: bool = False) -> Iterator[None]:
    """A block in which parameters are made on the target, and optimisers find the kernels, or none."""
    with xpcnn.use_backend(target.backend) as backend, monkeypatch.context() as patch:
        patch.setattr(backend, "kernels", {} if without else kernels.KERNELS)
        yield


def trained(target: Target, kind: Any, options: dict[str, Any]) -> tuple[Any, dict[str, Any]]:
    """An optimiser after four steps, of which "late" joins the last two, and the arrays it leaves."""
    shapes = {"conv.weight": (3, 2, 2, 2), "conv.bias": (3,), "late": (4, 5), "frozen": (2,)}
    parameters = {
        path: nn.Parameter(target.array(draw(*shape, seed=i)))
        for i, (path, shape) in enumerate(shapes.items())
    }
    optimizer = kind(parameters, lr=0.1, groups={"*.bias": {"lr": 0.02, "weight_decay": 0.01}}, **options)
    parameters["frozen"].trainable = False
    for number in range(4):
        parameters["late"].trainable = number >= 2
        grads = nn.Gradients()
        for i, (path, shape) in enumerate(shapes.items()):
            grads.add(parameters[path], target.array(draw(*shape, seed=100 * number + i)))
        optimizer.step(grads)
    state = optimizer.state_dict()
    arrays = {path: {"data": parameter.data} for path, parameter in parameters.items()}
    return state["steps"], {path: {**found, **state["state"][path]} for path, found in arrays.items()}


def test_half_precision_is_left_to_the_portable_update(target: Target) -> None:
    problem = Problem(target, optim.Adam, {}, [(3,)])
    data, gradient, state, *rest = problem.updates[0]
    arrays = [target.array(target.wide(array), "float16") for array in (data, gradient, *state.values())]
    problem.updates[0] = (*arrays[:2], dict(zip(state, arrays[2:], strict=True)), *rest)
    assert problem.step() is NotImplemented


@every_case
def test_a_run(target: Target, kind: Any, options: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """With groups, a frozen parameter and one that is unfrozen late: as in float64 without kernels."""
    with with_kernels(target, monkeypatch):
        steps, got = trained(target, kind, options)
    with with_kernels(target, monkeypatch, without=True):
        expected_steps, expected = trained(Target(target.backend, "float64"), kind, options)
    assert steps == expected_steps
    for path, arrays in expected.items():
        assert got[path].keys() == arrays.keys()
        for name, array in arrays.items():
            found = got[path][name]
            half = target.dtype in ("float16", "bfloat16")
            assert str(found.dtype) == ("float32" if half and name != "data" else target.dtype)
            allowed = 10 * ROUNDING[target.dtype]
            np.testing.assert_allclose(target.wide(found), xpcnn.to_numpy(array), rtol=allowed, atol=allowed)


def test_a_subclass_with_an_update_of_its_own(target: Target, monkeypatch: pytest.MonkeyPatch) -> None:
    class Halving(optim.Adam):
        def update(self, data: Any, *args: Any, **options: Any) -> Any:
            data *= 0.5
            return data

    grads = nn.Gradients()
    with with_kernels(target, monkeypatch):
        parameter = nn.Parameter(target.array([4.0, 8.0]))
        grads.add(parameter, target.array([1.0, 1.0]))
        Halving({"w": parameter}).step(grads)
    np.testing.assert_array_equal(target.wide(parameter.data), [2, 4])


def test_parameters_of_two_dtypes(target: Target, monkeypatch: pytest.MonkeyPatch) -> None:
    """They are updated too, by a launch for each."""
    other = "float32" if target.dtype == "float64" else "float64"
    grads = nn.Gradients()
    with with_kernels(target, monkeypatch):
        parameters = {dtype: nn.Parameter(target.array([4.0, 8.0], dtype)) for dtype in (target.dtype, other)}
        for dtype, parameter in parameters.items():
            grads.add(parameter, target.array([2.0, 4.0], dtype))
        optim.SGD(parameters, lr=0.5).step(grads)
    for dtype, parameter in parameters.items():
        assert str(parameter.data.dtype) == dtype
        np.testing.assert_array_equal(target.wide(parameter.data), [3, 6])


def test_the_constants_of_adam(target: Target) -> None:
    """By hand: the first step moves each weight by lr, in the gradient's direction."""
    optimizer = optim.Adam({"w": nn.Parameter([0.0])}, lr=0.25, eps=0.0)
    zeros = {slot: target.array([0.0, 0.0]) for slot in ("m", "v")}
    data, gradient = target.array([1.0, 2.0]), target.array([1e-3, -5.0])
    options = optimizer.options_of("w")
    updated = target.kernel("adam_step")([(data, gradient, zeros, 1, options)])[0]
    atol = 4 * math.ulp(1.0) if target.dtype == "float64" else 3e-3
    np.testing.assert_allclose(target.wide(updated), [0.75, 2.25], rtol=0, atol=atol)
