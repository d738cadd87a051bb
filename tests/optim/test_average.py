"""Averaged weights against torch.optim.swa_utils and the formula; moving, saving and refusing."""

from __future__ import annotations

import copy
from typing import Any

import numpy as np
import pytest

import xpcnn
from tests.support.optim import mentions
from xpcnn import nn, optim
from xpcnn.errors import ArgumentError, StateDictError

Values = dict[str, Any]


def build(make: Any, dtype: str = "float64") -> nn.Layer:
    with make.use():
        return nn.Sequential(
            conv=nn.Conv2d(1, 2, 2, seed=1), bn=nn.BatchNorm2d(2), flatten=nn.Flatten(), fc=nn.Linear(8, 3)
        ).to(dtype=dtype)


def drawn(model: nn.Layer, seed: int) -> Values:
    """Values for every entry, positive as variances are; seed + 5 for the integer ones."""
    return {
        path: np.asarray(seed + 5)
        if path.endswith("num_batches_tracked")
        else np.abs(np.random.default_rng([seed, number]).standard_normal(tuple(array.shape)))
        for number, (path, array) in enumerate(model.state_dict().items())
    }


def expected_averages(start: Values, passed: list[Values], decay: float) -> Values:
    """The docstring's formula in float64."""
    average = {path: np.asarray(value, np.float64) for path, value in start.items()}
    for number, weights in enumerate(passed):
        d = min(decay, (1 + number) / (10 + number))
        average = {path: a + (1 - d) * (weights[path] - a) for path, a in average.items()}
    return average


def host(make: Any, model: nn.Layer) -> Values:
    return {path: np.array(make.to_numpy(array)) for path, array in model.state_dict().items()}


def run(make: Any, model: Any, average: Any, updates: int, first: int = 0) -> list[Values]:
    """Put drawn weights into the model, one set after another; return them as they are in its dtype."""
    passed = []
    for number in range(first, first + updates):
        model.load_state_dict(drawn(model, number))
        passed.append(host(make, model))
        average.update()
    return passed


@pytest.mark.parametrize("decay", [0.999, 0.6, 0.0])
def test_follows_its_formula(make: Any, dtype: str, decay: float) -> None:
    model = build(make, dtype)
    start = host(make, model)
    average = optim.WeightAverage(model, decay=decay)
    for path, array in average.model.state_dict().items():
        np.testing.assert_array_equal(make.to_numpy(array), start[path], strict=True)
    passed = run(make, model, average, 25)
    assert average.count == 25
    expected = expected_averages(start, passed, decay)
    averaged = average.model.state_dict()
    assert list(averaged) == list(start)
    make.check(averaged.pop("bn.num_batches_tracked"), 24 + 5, "int64", rtol=0)
    for path, array in averaged.items():
        make.check(array, expected[path], dtype, rtol=1e-13 if dtype == "float64" else 1e-6)


def test_still_weights_stay_to_the_last_bit(make: Any, dtype: str) -> None:
    model = build(make, dtype)
    model.load_state_dict(drawn(model, 3))
    average = optim.WeightAverage(model, decay=0.9)
    for _ in range(50):
        average.update()
    for path, array in average.model.state_dict().items():
        np.testing.assert_array_equal(make.to_numpy(array), make.to_numpy(model.state_dict()[path]))


def test_nothing_that_others_hold_is_written(make: Any) -> None:
    model = build(make)
    average = optim.WeightAverage(model)
    run(make, model, average, 2)
    held = [array.data for one in (model, average.model) for array in one.parameters().values()]
    state = average.state_dict()
    assert not {id(array) for array in state["averages"].values()} & {id(array) for array in held}
    with make.unchanged(*held, *state["averages"].values()):
        average.update()
        average.load_state_dict(state)
        average.update()
    assert average.model is not model
    x = make.array(np.random.default_rng(0).standard_normal((2, 1, 3, 3)))
    with make.unchanged(*average.model.state_dict().values()):
        model.forward(x, train=True)  # batch statistics, of the trained model alone


def test_shared_and_0_d_parameters(make: Any) -> None:
    with make.use():
        layer = nn.Linear(2, 2, dtype="float64")
        model = nn.Sequential(a=layer, b=layer)
        layer.scale = nn.Parameter(make.array(2.0, "float64"))
    average = optim.WeightAverage(model)
    layer.scale.data = make.array(4.0, "float64")
    average.update()
    make.check(average.model.parameters()["b.scale"].data, 2.0 + 0.9 * 2.0, "float64")
    assert average.model.parameters()["a.scale"] is average.model.parameters()["b.scale"]


@pytest.mark.parametrize(("dtype", "rtol"), [("float16", 1e-3), ("bfloat16", 8e-3)])
def test_half_precision_is_averaged_in_float32(make: Any, dtype: str, rtol: float) -> None:
    if not make.has(dtype):
        pytest.skip(f"no {dtype}")
    with make.use():
        model = nn.Linear(1, 1).to(dtype=dtype)
    model.weight.data = make.array([[1.0]], dtype)
    average = optim.WeightAverage(model, decay=0.999)
    average.count = 10_000  # past the first updates
    model.weight.data = make.array([[2.0]], dtype)
    for _ in range(1000):
        average.update()
    make.check(average.state_dict()["averages"]["weight"], [[2 - 0.999**1000]], "float32")
    make.check(average.model.weight.data, [[2 - 0.999**1000]], dtype, rtol=rtol)


def test_follows_a_model_that_is_moved(make: Any) -> None:
    model = build(make, "float64")
    start = host(make, model)
    average = optim.WeightAverage(model, decay=0.5)
    passed = run(make, model, average, 3)
    target = "numpy" if make.backend != "numpy" else "array_api_strict"
    if xpcnn.available_backends()[target]:
        pytest.skip(f"no {target}")
    model.to(backend=target, dtype="float32")
    assert average.model.backend.name == make.backend  # until the next update
    run(make, model, average, 1, first=3)
    expected = expected_averages(start, [*passed, drawn(model, 3)], 0.5)
    for path, array in average.model.state_dict().items():
        assert xpcnn.backend_of(array).name == target
        if path != "bn.num_batches_tracked":
            assert str(array.dtype).endswith("float32")
            np.testing.assert_allclose(xpcnn.to_numpy(array), expected[path], rtol=1e-5, atol=1e-6)
    average.model(xpcnn.backend_of(array).asarray(np.zeros((1, 1, 3, 3), np.float32)))


def test_goes_on_from_saved_state(make: Any, dtype: str) -> None:
    model = build(make, dtype)
    average = optim.WeightAverage(model, decay=0.9)
    run(make, model, average, 7)
    state = average.state_dict()
    assert list(state) == ["decay", "count", "averages"]
    assert list(state["averages"]) == [*model.parameters(), *model.buffers()]
    state["averages"] = {path: np.array(make.to_numpy(a)) for path, a in state["averages"].items()}
    other = copy.deepcopy(model)
    resumed = optim.WeightAverage(other, decay=0.9)
    resumed.load_state_dict(state)
    for one, its in ((model, average), (other, resumed)):
        run(make, one, its, 5, first=7)
    np.testing.assert_equal(host(make, resumed.model), host(make, average.model))
    assert resumed.count == 12
    for path, array in resumed.model.state_dict().items():
        make.check_kind(array, array.shape, "int64" if path == "bn.num_batches_tracked" else dtype)


def test_refused() -> None:
    average = optim.WeightAverage(nn.Sequential(fc=nn.Linear(2, 3)), decay=0.9)
    before = average.state_dict()
    wider = nn.Sequential(fc=nn.Linear(2, 4, bias=False), more=nn.Linear(1, 1))
    parts = "decay: saved 0.5, here 0.9", "missing: fc.bias", "unexpected: more.weight", "fc.weight is (4, 2)"
    with pytest.raises(StateDictError, match=mentions(*parts)):
        average.load_state_dict(optim.WeightAverage(wider, decay=0.5).state_dict())
    for broken in ({}, None, {**before, "count": -1}, {**before, "averages": 3}):
        with pytest.raises(StateDictError, match="not the state of a WeightAverage"):
            average.load_state_dict(broken)  # type: ignore[arg-type]
    np.testing.assert_equal(average.state_dict(), before)
    for decay in (1.0, -0.1, float("nan"), "0.9"):
        with pytest.raises(ArgumentError, match="WeightAverage: decay must be"):
            optim.WeightAverage(nn.Linear(1, 1), decay=decay)  # type: ignore[arg-type]
    with pytest.raises(ArgumentError, match="model must be a Layer, got dict"):
        optim.WeightAverage({})  # type: ignore[arg-type]
    assert repr(optim.WeightAverage(nn.ReLU(), 0.9)) == "WeightAverage(ReLU, decay=0.9, count=0)"
