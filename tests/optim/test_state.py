"""Saved state: complete, independent of the optimiser it came from, and refused where it does not fit."""

from __future__ import annotations

import copy
import json
from typing import Any

import numpy as np
import pytest

import xpcnn
from tests.support.optim import CASES, SHAPES, Case, draw, make_parameters, mentions, step, store
from xpcnn import nn, optim
from xpcnn.errors import StateDictError

GROUPS = {"*.bias": {"weight_decay": 0.0}, "conv.*": {"lr": 0.03}}


def through_a_file(state: dict[str, Any]) -> dict[str, Any]:
    """What a checkpoint makes of it: arrays on the host, the rest through JSON with sorted keys."""
    rest = json.loads(json.dumps({k: v for k, v in state.items() if k != "state"}, sort_keys=True))
    arrays = {
        path: {slot: np.array(xpcnn.to_numpy(array)) for slot, array in slots.items()}
        for path, slots in state["state"].items()
        if slots
    }
    return {**rest, "state": arrays}


@pytest.mark.parametrize("case", CASES.values(), ids=CASES)
def test_goes_on_bit_for_bit(make: Any, dtype: str, case: Case) -> None:
    kind, options = case
    parameters = make_parameters(make, dtype)
    optimizer = kind(parameters, groups=GROUPS, **options)
    for number in range(5):
        step(make, optimizer, parameters, draw(number))
    optimizer.lr = 0.07
    resumed_parameters = {path: copy.copy(parameter) for path, parameter in parameters.items()}
    resumed = kind(resumed_parameters)  # with the default options: the saved ones come with the state
    resumed.load_state_dict(through_a_file(optimizer.state_dict()))
    for number in range(5, 10):
        for each, of in ((optimizer, parameters), (resumed, resumed_parameters)):
            each.lr = 0.07 / number
            step(make, each, of, draw(number))
    for path, parameter in parameters.items():
        assert resumed.options_of(path) == optimizer.options_of(path)
        np.testing.assert_array_equal(
            make.to_numpy(resumed_parameters[path].data), make.to_numpy(parameter.data), strict=True
        )
    np.testing.assert_equal(through_a_file(resumed.state_dict()), through_a_file(optimizer.state_dict()))


@pytest.mark.parametrize(
    ("name", "slots"),
    [("SGD", []), ("AdaGrad", ["h"]), ("RMSprop all", ["v", "velocity"]), ("AdamW", ["m", "v"])],
)
def test_what_it_holds(make: Any, name: str, slots: list[str]) -> None:
    kind, options = CASES[name]
    parameters = make_parameters(make, "float32")
    optimizer = kind(parameters, groups=GROUPS, **options)
    assert optimizer.state_dict()["state"] == {path: {} for path in SHAPES}
    for number in range(3):
        step(make, optimizer, parameters, draw(number))
    state = optimizer.state_dict()
    assert list(state) == ["kind", "step", "lr", "options", "groups", "steps", "state"]
    assert (state["kind"], state["step"], state["lr"]) == (kind.__name__, 3, 0.1)
    assert state["steps"] == dict.fromkeys(SHAPES, 3)
    assert [group["pattern"] for group in state["groups"]] == list(GROUPS)
    for path, arrays in state["state"].items():
        assert list(arrays) == slots
        for array in arrays.values():
            make.check_kind(array, SHAPES[path], "float32")


def test_saved_and_loaded_arrays_are_copies(make: Any) -> None:
    parameters = make_parameters(make, "float64")
    optimizer = optim.Adam(parameters)
    step(make, optimizer, parameters, draw(1))
    state = optimizer.state_dict()
    with make.unchanged(*state["state"]["fc.weight"].values()):
        step(make, optimizer, parameters, draw(2))
        optimizer.load_state_dict(state)
        step(make, optimizer, parameters, draw(3))


@pytest.mark.parametrize("source", ["numpy", "torch", "array_api_strict"])
def test_arrays_of_any_library_are_taken(make: Any, source: str) -> None:
    if xpcnn.available_backends()[source]:
        pytest.skip(f"no {source}")
    parameters = make_parameters(make, "float32")
    optimizer = optim.RMSprop(parameters)
    step(make, optimizer, parameters, draw(1))
    state = optimizer.state_dict()
    with xpcnn.use_backend(source):
        state["state"] = {
            path: {slot: xpcnn.asarray(xpcnn.to_numpy(array), "float64") for slot, array in arrays.items()}
            for path, arrays in state["state"].items()
        }
    loaded = optim.RMSprop(parameters)
    loaded.load_state_dict(state)
    for path in SHAPES:
        make.check_kind(loaded.state_dict()["state"][path]["v"], SHAPES[path], "float32")
    np.testing.assert_equal(through_a_file(loaded.state_dict()), through_a_file(optimizer.state_dict()))


def stepped(kind: type[optim.Optimizer], **options: Any) -> optim.Optimizer:
    parameters = {path: nn.Parameter(values) for path, values in draw(0).items()}
    optimizer = kind(parameters, **options)
    optimizer.step(store(parameters, draw(1)))
    return optimizer


def refuse(optimizer: optim.Optimizer, state: Any, *parts: str) -> None:
    """Assert that loading raises a message with these parts and leaves the optimiser as it was."""
    before = through_a_file(optimizer.state_dict())
    with pytest.raises(StateDictError, match=mentions(f"{type(optimizer).__name__}.load_state_dict", *parts)):
        optimizer.load_state_dict(state)
    np.testing.assert_equal(through_a_file(optimizer.state_dict()), before)


def test_every_difference_is_named_at_once() -> None:
    state = stepped(optim.Adam).state_dict()
    state["steps"]["fc9.weight"] = 1
    del state["steps"]["conv.bias"], state["state"]["conv.bias"]
    del state["state"]["conv.weight"]["m"]
    state["state"]["conv.weight"]["velocity"] = np.zeros((2, 3, 2, 2))
    state["state"]["fc.weight"]["v"] = np.zeros((5, 4))
    state["state"]["fc8.weight"] = {"m": np.zeros(2)}
    refuse(
        stepped(optim.Adam, lr=0.5),
        state,
        "missing: conv.bias\n",
        "unexpected: fc9.weight\n",
        "unexpected: fc8.weight\n",
        "missing: conv.weight m\n",
        "unexpected: conv.weight velocity\n",
        "wrong shape: fc.weight v is (5, 4), not (4, 5)",
    )


def test_another_kind() -> None:
    state = stepped(optim.Adam).state_dict()
    state["steps"]["fc9.weight"] = 1
    refuse(stepped(optim.AdamW), state, "saved by Adam, loaded into AdamW", "unexpected: fc9.weight")
    refuse(stepped(optim.SGD), stepped(optim.Adam).state_dict(), "saved by Adam, loaded into SGD")


WHOLE = {"momentum": 0.9, "weight_decay": 0, "nesterov": False}
DAMAGED: dict[str, tuple[dict[str, Any], str]] = {
    "missing option": ({"options": {"momentum": 0.9}}, "weight_decay"),
    "bad option": ({"options": {**WHOLE, "weight_decay": -1}}, "at least 0"),
    "unknown option": ({"options": {**WHOLE, "beta": 1}}, "beta"),
    "bad lr": ({"lr": -1.0}, "lr"),
    "bad group": ({"groups": [{"pattern": "*"}]}, "lr_ratio"),
    "no array": ({"state": {path: {"velocity": "text"} for path in SHAPES}}, "text"),
    **{name: ({name: "damaged"}, "") for name in ("step", "options", "groups", "steps", "state")},
}


@pytest.mark.parametrize(("change", "part"), DAMAGED.values(), ids=DAMAGED)
def test_damaged_values(change: dict[str, Any], part: str) -> None:
    state = stepped(optim.SGD, momentum=0.9).state_dict()
    refuse(stepped(optim.SGD), {**state, **change}, "not the state of an optimiser", part)


def test_parts_that_are_missing() -> None:
    state = stepped(optim.SGD, momentum=0.9, groups=GROUPS).state_dict()
    for key in state:
        refuse(stepped(optim.SGD), {k: v for k, v in state.items() if k != key}, "not the state of an", key)
    refuse(stepped(optim.SGD), None, "not the state of an optimiser")
