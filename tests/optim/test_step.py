"""What a step touches and what it leaves alone, whatever the optimiser."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import xpcnn
from tests.support.optim import CASES, SHAPES, draw, make_parameters, mentions, step
from xpcnn import nn, optim
from xpcnn.errors import ArgumentError, BackendError, DtypeError, ShapeError

Case = tuple[type[optim.Optimizer], dict[str, Any]]
ONE_OF_EACH = ("SGD all", "AdaGrad", "RMSprop all", "Adam", "AdamW")


def values_of(make: Any, parameters: dict[str, nn.Parameter]) -> dict[str, Any]:
    return {path: make.snapshot(parameter.data) for path, parameter in parameters.items()}


@pytest.mark.parametrize("case", CASES.values(), ids=CASES)
def test_each_parameter_gets_a_new_array_and_the_old_one_stays(make: Any, case: Case) -> None:
    parameters = make_parameters(make, "float32")
    optimizer = case[0](parameters, **case[1])
    for number in range(3):
        old = {path: parameter.data for path, parameter in parameters.items()}
        before = {path: make.snapshot(array) for path, array in old.items()}
        step(make, optimizer, parameters, draw(number))
        for path, parameter in parameters.items():
            np.testing.assert_array_equal(make.snapshot(old[path]), before[path])
            assert (make.snapshot(parameter.data) != before[path]).any()
            make.check_kind(parameter.data, SHAPES[path], "float32")


def test_a_context_from_before_a_step_gives_the_gradient_of_before(make: Any) -> None:
    with make.use():
        model = nn.Sequential(fc1=nn.Linear(3, 4, seed=0), relu=nn.ReLU(), fc2=nn.Linear(4, 2, seed=1))
    optimizer = optim.Adam(model, lr=0.5)
    y, ctx = model.forward(make.array(np.ones((2, 3)), "float32"), train=True)
    dy = make.array(np.ones((2, 2)), "float32")
    grads = nn.Gradients()
    before = make.snapshot(model.backward(ctx, dy, grads))
    optimizer.step(grads)
    np.testing.assert_array_equal(make.snapshot(model.backward(ctx, dy)), before)
    assert (make.snapshot(model.forward(make.array(np.ones((2, 3)), "float32"))[0]) != make.snapshot(y)).any()


@pytest.mark.parametrize("name", ["SGD", *ONE_OF_EACH])
def test_parameters_and_state_are_contiguous_whatever_the_layouts_given(make: Any, name: str) -> None:
    """A run resumed from contiguous copies meets the same layouts, and so the same rounding in products."""
    if make.backend == "array_api_strict":
        pytest.skip("has no memory layout")

    def turned() -> Any:
        return make.xp.permute_dims(make.array(np.ones((4, 3)), "float32"), (1, 0))

    kind, options = CASES[name]
    with make.use():
        parameter = nn.Parameter(turned())
    optimizer = kind({"p": parameter}, **options)
    grads = nn.Gradients()
    grads.add(parameter, turned())
    optimizer.step(grads)
    for array in (parameter.data, *optimizer.state_dict()["state"]["p"].values()):
        strides = array.stride() if make.backend == "torch" else array.strides
        assert strides[1] < strides[0]


@pytest.mark.parametrize("name", ONE_OF_EACH)
def test_frozen_parameters_and_those_without_gradient_are_left_alone(make: Any, name: str) -> None:
    kind, options = CASES[name]
    parameters = make_parameters(make, "float64")
    parameters["conv.bias"].trainable = False
    optimizer = kind(parameters, **options)
    arrays = {path: parameter.data for path, parameter in parameters.items()}
    step(make, optimizer, parameters, {p: g for p, g in draw(1).items() if p != "fc.weight"})
    assert parameters["conv.weight"].data is not arrays["conv.weight"]
    assert parameters["conv.bias"].data is arrays["conv.bias"]
    assert parameters["fc.weight"].data is arrays["fc.weight"]
    state = optimizer.state_dict()
    assert state["steps"] == {"conv.weight": 1, "conv.bias": 0, "fc.weight": 0}
    assert state["state"]["conv.weight"]
    assert state["state"]["conv.bias"] == state["state"]["fc.weight"] == {}


def test_freezing_is_looked_up_at_each_step(make: Any) -> None:
    parameters = make_parameters(make, "float64")
    optimizer = optim.SGD(parameters, momentum=0.9)
    step(make, optimizer, parameters, draw(1))
    parameters["fc.weight"].trainable = False
    array = parameters["fc.weight"].data
    step(make, optimizer, parameters, draw(2))
    assert parameters["fc.weight"].data is array
    parameters["fc.weight"].trainable = True
    step(make, optimizer, parameters, draw(3))
    assert parameters["fc.weight"].data is not array


def test_an_empty_store_changes_nothing(make: Any) -> None:
    parameters = make_parameters(make, "float32")
    before = values_of(make, parameters)
    optim.Adam(parameters).step(nn.Gradients())
    np.testing.assert_equal(values_of(make, parameters), before)


def test_gradients_of_other_parameters_are_passed_over() -> None:
    head, trunk = nn.Linear(2, 2, seed=0), nn.Linear(2, 2, seed=1)
    model = nn.Sequential(trunk, head)
    _, ctx = model.forward(xpcnn.asarray([[1.0, 2.0]], "float32"))
    grads = nn.Gradients()
    model.backward(ctx, xpcnn.asarray([[1.0, 1.0]], "float32"), grads)
    arrays = head.weight.data, trunk.weight.data
    optim.SGD(head).step(grads)
    assert head.weight.data is not arrays[0]
    assert trunk.weight.data is arrays[1]
    with pytest.raises(ArgumentError, match=mentions("SGD.step", "none of the 4 gradients", "another model")):
        optim.SGD(nn.Linear(2, 2)).step(grads)


def test_a_shared_parameter_is_updated_once() -> None:
    tied = nn.Linear(2, 2, seed=0)
    model = nn.Sequential(first=tied, second=tied)
    optimizer = optim.SGD(model, lr=1.0)
    assert list(optimizer.state_dict()["steps"]) == ["first.weight", "first.bias"]
    before = tied.weight.data
    grads = nn.Gradients()
    grads.add(tied.weight, xpcnn.asarray(np.ones((2, 2)), "float32"))
    optimizer.step(grads)
    np.testing.assert_array_equal(tied.weight.data, before - 1)


@pytest.mark.parametrize("name", ONE_OF_EACH)
def test_state_follows_a_model_that_is_moved(name: str) -> None:
    pytest.importorskip("array_api_strict")
    kind, options = CASES[name]
    walks = []
    for moves in (False, True):
        model = nn.Linear(4, 3, seed=0, dtype="float64")
        optimizer = kind(model, **options)
        for number in range(6):
            if moves and number == 2:
                model.to(backend="array_api_strict")
            if moves and number == 4:
                model.to(backend="numpy")
            grads = nn.Gradients()
            for seed, parameter in enumerate(model.parameters().values()):
                values = np.random.default_rng([number, seed]).standard_normal(parameter.shape)
                grads.add(parameter, model.backend.asarray(values))
            optimizer.step(grads)
        walks.append([xpcnn.to_numpy(parameter.data) for parameter in model.parameters().values()])
    np.testing.assert_equal(walks[1], walks[0])


@pytest.mark.parametrize("name", ONE_OF_EACH)
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
            make.check_kind(parameter.data, parameter.shape, dtype)
            for array in optimizer.state_dict()["state"][path].values():
                make.check_kind(array, parameter.shape, dtype)


@pytest.mark.parametrize("name", ONE_OF_EACH)
def test_half_precision_stays(name: str) -> None:
    kind, options = CASES[name]
    parameter = nn.Parameter(np.ones(3), "float16")
    grads = nn.Gradients()
    grads.add(parameter, np.ones(3, np.float16))
    kind({"p": parameter}, **options).step(grads)
    assert parameter.dtype == np.float16
    assert (parameter.data < 1).all()


@pytest.mark.parametrize("case", CASES.values(), ids=CASES)
def test_no_value_is_read_on_the_host(case: Case) -> None:
    """PyTorch's meta tensors have no values: reading one raises."""
    pytest.importorskip("torch")
    with xpcnn.use_backend("torch", "meta"):
        parameter = nn.Parameter(np.ones((2, 3)), "float32")
        optimizer = case[0]({"p": parameter}, **case[1])
        for _ in range(2):
            grads = nn.Gradients()
            grads.add(parameter, xpcnn.asarray(np.ones((2, 3)), "float32"))
            optimizer.step(grads)
    assert parameter.data.device.type == "meta"


class Immutable(np.ndarray):
    """An array that cannot change: ``x += y`` makes a new one."""

    def __iadd__(self, other: Any) -> Any:
        return self + other

    def __isub__(self, other: Any) -> Any:
        return self - other

    def __imul__(self, other: Any) -> Any:
        return self * other

    def __itruediv__(self, other: Any) -> Any:
        return self / other


@pytest.mark.parametrize("case", CASES.values(), ids=CASES)
def test_libraries_whose_arrays_cannot_change(case: Case) -> None:
    optimizer = case[0]({"p": nn.Parameter(np.ones(2))}, **case[1])
    options = optimizer.options_of("p")
    results = []
    for kind in (np.ndarray, Immutable):
        data = np.array([1.0, 2.0]).view(kind)
        state = {slot: np.zeros(2).view(kind) for slot in optimizer.slots(options)}
        for number in (1, 2, 3):
            data.flags.writeable = kind is np.ndarray
            for array in state.values():
                array.flags.writeable = kind is np.ndarray
            gradient = np.array([0.5, -number]).view(kind)
            data = optimizer.update(data, gradient, state, number, **options)
        results.append([np.asarray(data), *(np.asarray(array) for array in state.values())])
    np.testing.assert_equal(results[1], results[0])


def gradients_like(path: str, gradient: Any) -> tuple[dict[str, nn.Parameter], nn.Gradients]:
    parameters = {p: nn.Parameter(values) for p, values in draw(0).items()}
    grads = nn.Gradients()
    for name, values in draw(1).items():
        grads.add(parameters[name], gradient if name == path else values)
    return parameters, grads


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
    parameters, grads = gradients_like("fc.weight", gradient())
    optimizer = optim.Adam(parameters)
    before = {path: parameter.data for path, parameter in parameters.items()}
    with pytest.raises(error, match=mentions("Adam.step", "gradient of fc.weight", *parts)):
        optimizer.step(grads)
    assert all(parameters[path].data is before[path] for path in before)
    assert optimizer.state_dict()["step"] == 0
    assert set(optimizer.state_dict()["steps"].values()) == {0}
