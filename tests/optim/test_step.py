"""What a step touches and what it leaves alone, whatever the optimiser; and steps by kernels of a backend."""

from __future__ import annotations

from contextlib import nullcontext
from typing import Any

import numpy as np
import pytest

import xpcnn
from tests.support.optim import CASES, ONE_OF_EACH, Case, draw, make_parameters, mentions, step, store
from xpcnn import nn, optim
from xpcnn.backend.reference import reference_mode
from xpcnn.errors import ArgumentError, BackendError, DtypeError, ShapeError

every_case = pytest.mark.parametrize("case", CASES.values(), ids=CASES)
one_of_each = pytest.mark.parametrize("name", ONE_OF_EACH)


@one_of_each
def test_parameters_and_state_are_contiguous_whatever_the_layouts_given(make: Any, name: str) -> None:
    """A run resumed from contiguous copies meets the same layouts, and so the same rounding in products."""
    if make.backend == "array_api_strict":
        pytest.skip("has no memory layout")

    def turned() -> Any:
        return make.xp.permute_dims(make.array(np.ones((4, 3)), "float32"), (1, 0))

    kind, options = CASES[name]
    with make.use():
        parameters = {"p": nn.Parameter(turned())}
    optimizer = kind(parameters, **options)
    optimizer.step(store(parameters, {"p": turned()}))
    for array in (parameters["p"].data, *optimizer.state_dict()["state"]["p"].values()):
        strides = array.stride() if make.backend == "torch" else array.strides
        assert strides[1] < strides[0]


@one_of_each
def test_frozen_parameters_and_those_without_gradient_are_left_alone(make: Any, name: str) -> None:
    kind, options = CASES[name]
    parameters = make_parameters(make, "float64")
    optimizer = kind(parameters, **options)
    optimizer.step(nn.Gradients())
    parameters["conv.bias"].trainable = False
    arrays = {path: parameter.data for path, parameter in parameters.items()}
    step(make, optimizer, parameters, {p: g for p, g in draw(1).items() if p != "fc.weight"})
    moved = {path for path, parameter in parameters.items() if parameter.data is not arrays[path]}
    assert moved == {"conv.weight"}
    state = optimizer.state_dict()
    assert state["steps"] == {"conv.weight": 1, "conv.bias": 0, "fc.weight": 0}
    assert state["state"]["conv.weight"]
    assert state["state"]["conv.bias"] == state["state"]["fc.weight"] == {}
    parameters["conv.bias"].trainable = True  # looked up at each step
    step(make, optimizer, parameters, draw(2))
    assert parameters["conv.bias"].data is not arrays["conv.bias"]


def backward(model: nn.Layer) -> nn.Gradients:
    _, ctx = model.forward(xpcnn.asarray([[1.0, 2.0]], "float32"))
    grads = nn.Gradients()
    model.backward(ctx, xpcnn.asarray([[1.0, 1.0]], "float32"), grads)
    return grads


def test_gradients_of_other_parameters() -> None:
    """They are passed over where another optimiser may have them, and refused where nobody would."""
    head, trunk = nn.Linear(2, 2, seed=0), nn.Linear(2, 2, seed=1)
    model = nn.Sequential(trunk)
    optimizer = optim.SGD(model)
    model["head"] = head
    grads = backward(model)
    arrays = head.weight.data, trunk.weight.data
    message = mentions("SGD.step: 2 of the 4 gradients", "head.weight (2, 2)", "make it for this model")
    with pytest.raises(ArgumentError, match=message):
        optimizer.step(grads)
    assert trunk.weight.data is arrays[1]
    optim.SGD(head).step(grads)
    assert head.weight.data is not arrays[0]
    assert trunk.weight.data is arrays[1]
    with pytest.raises(ArgumentError, match="4 of the 4 gradients"):
        optim.SGD(nn.Linear(2, 2)).step(grads)
    head.freeze()  # all gradients are others'
    with pytest.raises(ArgumentError, match="2 of the 2 gradients"):
        optim.SGD(head).step(backward(model))
    with pytest.raises(ArgumentError, match=r"SGD.step: grads must be the nn.Gradients.*got dict"):
        optimizer.step({})  # type: ignore[arg-type]


def test_a_shared_parameter_is_updated_once() -> None:
    tied = nn.Linear(2, 2, seed=0)
    optimizer = optim.SGD(nn.Sequential(first=tied, second=tied), lr=1.0)
    assert list(optimizer.state_dict()["steps"]) == ["first.weight", "first.bias"]
    before = tied.weight.data
    optimizer.step(store({"p": tied.weight}, {"p": np.ones((2, 2), np.float32)}))
    np.testing.assert_array_equal(tied.weight.data, before - 1)


@one_of_each
def test_state_follows_a_model_that_is_moved(name: str) -> None:
    pytest.importorskip("array_api_strict")
    kind, options = CASES[name]
    walks = []
    for moves in ({}, {2: "array_api_strict", 4: "numpy"}):
        model = nn.Linear(4, 3, seed=0, dtype="float64")
        optimizer = kind(model, **options)
        for number in range(6):
            if number in moves:
                model.to(backend=moves[number])
            values = {
                path: model.backend.asarray(np.random.default_rng(number).standard_normal(p.shape))
                for path, p in model.parameters().items()
            }
            optimizer.step(store(model.parameters(), values))
        walks.append([xpcnn.to_numpy(parameter.data) for parameter in model.parameters().values()])
    for moved, stayed in zip(walks[1], walks[0], strict=True):
        np.testing.assert_allclose(moved, stayed, rtol=1e-13)  # a compiled kernel rounds once for a·b + c


@one_of_each
def test_state_follows_a_model_that_changes_dtype(make: Any, name: str) -> None:
    kind, options = CASES[name]
    with make.use():
        model = nn.Linear(4, 3, seed=0, dtype="float64")
    optimizer = kind(model, **options)
    for dtype in ("float64", "float32", "float64"):
        model.to(dtype=dtype)
        parameters = model.parameters()
        step(make, optimizer, parameters, {path: np.ones(p.shape) for path, p in parameters.items()})
        for path, parameter in parameters.items():
            for array in (parameter.data, *optimizer.state_dict()["state"][path].values()):
                make.check_kind(array, parameter.shape, dtype)


class Immutable(np.ndarray):
    """An array that cannot change: ``x += y`` makes a new one."""

    __iadd__, __isub__ = np.ndarray.__add__, np.ndarray.__sub__
    __imul__, __itruediv__ = np.ndarray.__mul__, np.ndarray.__truediv__


@every_case
def test_libraries_whose_arrays_cannot_change(case: Case) -> None:
    optimizer = case[0]({"p": nn.Parameter(np.ones(2))}, **case[1])
    options = optimizer.options_of("p")
    results = []
    for kind in (np.ndarray, Immutable):
        data = np.array([1.0, 2.0]).view(kind)
        state = {slot: np.zeros(2).view(kind) for slot in optimizer.slots(options)}
        for number in (1, 2, 3):
            for array in (data, *state.values()):
                array.flags.writeable = kind is np.ndarray
            gradient = np.array([0.5, -number]).view(kind)
            data = optimizer.update(data, gradient, state, number, **options)
        results.append([np.asarray(array) for array in (data, *state.values())])
    np.testing.assert_equal(results[1], results[0])


def strict_array() -> Any:
    pytest.importorskip("array_api_strict")
    with xpcnn.use_backend("array_api_strict"):
        return xpcnn.asarray(np.ones((4, 5), np.float32))


WRONG = {
    "dtype": (lambda: np.ones((4, 5)), DtypeError, ("float64", "float32", "dtype=")),
    "shape": (lambda: np.ones((5, 4), np.float32), ShapeError, ("(5, 4)", "(4, 5)")),
    "broadcastable shape": (lambda: np.ones((1, 5), np.float32), ShapeError, ("(1, 5)", "(4, 5)")),
    "backend": (strict_array, BackendError, ("numpy", "array_api_strict")),
}


@pytest.mark.parametrize(("gradient", "error", "parts"), WRONG.values(), ids=WRONG)
def test_a_gradient_unlike_its_parameter(gradient: Any, error: type, parts: tuple[str, ...]) -> None:
    parameters = {p: nn.Parameter(values) for p, values in draw(0).items()}
    optimizer = optim.Adam(parameters)
    before = {path: parameter.data for path, parameter in parameters.items()}
    with pytest.raises(error, match=mentions("Adam.step", "gradient of fc.weight", *parts)):
        optimizer.step(store(parameters, {**draw(1), "fc.weight": gradient()}))
    assert all(parameters[path].data is before[path] for path in before)
    assert optimizer.state_dict()["step"] == 0
    assert set(optimizer.state_dict()["steps"].values()) == {0}


class Kernel:
    """Stands for a backend's kernel: notes what it was given, and returns new arrays of sevens, or none."""

    def __init__(self, serves: bool = True) -> None:
        self.serves = serves
        self.calls: list[Any] = []

    def __call__(self, updates: list[Any]) -> Any:
        self.calls.append(updates)
        return [np.full_like(data, 7) for data, *_ in updates] if self.serves else NotImplemented


def three(dtype: str = "float64") -> dict[str, nn.Parameter]:
    return {path: nn.Parameter([1.0, 2.0], dtype=dtype) for path in ("first", "second", "third")}


def gradients(model: dict[str, nn.Parameter]) -> nn.Gradients:
    return store(model, {path: np.array([0.5, -0.5], p.dtype) for path, p in model.items()})


@pytest.fixture
def kernel(monkeypatch: pytest.MonkeyPatch) -> Kernel:
    kernel = Kernel()
    rules = ("sgd", "adagrad", "rmsprop", "adam", "adamw")
    monkeypatch.setattr(xpcnn.get_backend(), "kernels", {f"{rule}_step": kernel for rule in rules})
    return kernel


@every_case
def test_a_kernel_takes_the_step(case: Case, kernel: Kernel) -> None:
    kind, options = case
    model = three()
    old = {path: parameter.data for path, parameter in model.items()}
    optimizer = kind(model, groups={"second": {"lr": 0.25}}, **options)
    model["third"].trainable = False
    optimizer.step(gradients(model))
    optimizer.step(gradients({"second": model["second"]}))
    first, second = kernel.calls
    assert [len(first), len(second)] == [2, 1]
    data, gradient, state, steps, given = second[0]
    np.testing.assert_array_equal(data, [7, 7])
    np.testing.assert_array_equal(gradient, [0.5, -0.5])
    assert state.keys() == set(optimizer.slots(given))
    assert (steps, given, given["lr"]) == (2, optimizer.options_of("second"), 0.25)
    for path in ("first", "second"):
        np.testing.assert_array_equal(model[path].data, [7, 7])
        np.testing.assert_array_equal(old[path], [1, 2])
    assert model["third"].data is old["third"]
    assert optimizer.state_dict()["steps"] == {"first": 1, "second": 2, "third": 0}


def test_a_kernel_that_does_not_serve_and_the_reference(kernel: Kernel) -> None:
    kernel.serves = False
    for mode in (nullcontext, reference_mode):
        with mode():
            optim.Adam(model := three()).step(gradients(model))
        assert len(kernel.calls) == 1
        np.testing.assert_allclose(model["first"].data, [1 - 1e-3, 2 + 1e-3], rtol=1e-7)


def test_subclasses(kernel: Kernel) -> None:
    """One with an update of its own has no kernel."""

    class Still(optim.AdamW):
        def update(self, data: Any, *args: Any, **options: Any) -> Any:
            return data

    class Named(optim.Adam):
        pass

    for kind, calls in ((Still, 0), (Named, 1)):
        model = three()
        kind(model).step(gradients(model))
        assert len(kernel.calls) == calls
    with pytest.raises(TypeError, match="Optimizer does not define update"):
        optim.Optimizer(model, lr=0.1).step(gradients(model))


@pytest.mark.parametrize("rule", [optim.SGD, optim.Adam, optim.AdamW, optim.RMSprop])
def test_a_parameter_of_another_shape_than_at_the_last_update(rule: Any) -> None:
    model = nn.Linear(4, 3)
    optimizer = rule(model, 0.1, **({"momentum": 0.9} if rule is optim.SGD else {}))
    grads = nn.Gradients()
    grads.add(model.weight, np.ones((3, 4), np.float32))
    optimizer.step(grads)
    model.weight.data = np.ones((3, 4000), np.float32)
    grads = nn.Gradients()
    grads.add(model.weight, np.ones((3, 4000), np.float32))
    with pytest.raises(ShapeError, match=r"weight has another shape .* \(3, 4000\), not \(3, 4\)"):
        optimizer.step(grads)
