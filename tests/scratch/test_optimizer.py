"""The book's optimisers against its formulas, written out number by number."""

from __future__ import annotations

import math
from collections import OrderedDict
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from tests.support.scratch import draw, writable
from xpcnn.errors import ArgumentError, DtypeError, ShapeError
from xpcnn.scratch import optimizer
from xpcnn.scratch.optimizer import SGD, AdaGrad, Adam, Momentum, Nesterov, RMSprop

Rule = Callable[[float, list[float]], float]
"""A parameter and all its gradients so far -> the parameter after them."""


def sgd(p: float, slopes: list[float], lr: float = 0.1) -> float:
    for g in slopes:
        p -= lr * g
    return p


def momentum(p: float, slopes: list[float], lr: float = 0.1, m: float = 0.8) -> float:
    v = 0.0
    for g in slopes:
        v = m * v - lr * g
        p += v
    return p


def nesterov(p: float, slopes: list[float], lr: float = 0.1, m: float = 0.8) -> float:
    v = 0.0
    for g in slopes:
        v = m * v - lr * g
        p += m * m * v
        p -= (1 + m) * lr * g
    return p


def adagrad(p: float, slopes: list[float], lr: float = 0.1) -> float:
    h = 0.0
    for g in slopes:
        h += g * g
        p -= lr * g / (math.sqrt(h) + 1e-7)
    return p


def rmsprop(p: float, slopes: list[float], lr: float = 0.1, decay: float = 0.9) -> float:
    h = 0.0
    for g in slopes:
        h = decay * h + (1 - decay) * g * g
        p -= lr * g / (math.sqrt(h) + 1e-7)
    return p


def adam(p: float, slopes: list[float], lr: float = 0.1, b1: float = 0.8, b2: float = 0.95) -> float:
    m = v = 0.0
    for t, g in enumerate(slopes, start=1):
        m += (1 - b1) * (g - m)
        v += (1 - b2) * (g * g - v)
        p -= lr * math.sqrt(1 - b2**t) / (1 - b1**t) * m / (math.sqrt(v) + 1e-7)
    return p


CASES: dict[str, tuple[Callable[[], Any], Rule]] = {
    "SGD": (lambda: SGD(lr=0.1), sgd),
    "Momentum": (lambda: Momentum(lr=0.1, momentum=0.8), momentum),
    "Nesterov": (lambda: Nesterov(lr=0.1, momentum=0.8), nesterov),
    "AdaGrad": (lambda: AdaGrad(lr=0.1), adagrad),
    "RMSprop": (lambda: RMSprop(lr=0.1, decay_rate=0.9), rmsprop),
    "Adam": (lambda: Adam(lr=0.1, beta1=0.8, beta2=0.95), adam),
}
every_optimizer = pytest.mark.parametrize(("new", "rule"), CASES.values(), ids=CASES.keys())

SHAPES = {"W1": (2, 3), "b1": (3,), "gamma": (1, 2, 2), "zero": ()}


def slopes_of(key: str, dtype: str) -> Any:
    """Four gradients. In float64 every second element is so small that the 1e-7 counts."""
    drawn = np.array([draw(*SHAPES[key], seed=10 + i) for i in range(4)])
    tiny = 1e-7 if dtype == "float64" else 1.0
    return drawn * np.where(np.arange(drawn.size).reshape(drawn.shape) % 2, 1.0, tiny)


@every_optimizer
def test_the_formulas(make: Any, dtype: str, new: Callable[[], Any], rule: Rule) -> None:
    """In place: the arrays stay the same objects, gradients stay as they are."""
    params = {key: writable(make, draw(*shape), dtype) for key, shape in SHAPES.items()}
    before, trained = dict(params), new()
    for i in range(4):
        grads = {key: make.array(slopes_of(key, dtype)[i], dtype) for key in params}
        with make.unchanged(*grads.values()):
            trained.update(params, grads)
    for key, shape in SHAPES.items():
        assert params[key] is before[key]
        expected = np.zeros(shape)
        for at in np.ndindex(shape):
            expected[at] = rule(float(draw(*shape)[at]), [float(s[at]) for s in slopes_of(key, dtype)])
        make.check(params[key], expected, dtype)


@every_optimizer
def test_plain_numbers(new: Callable[[], Any], rule: Rule) -> None:
    """``optimizer_compare_naive.py`` steps two numbers, and keeps a list of where they have been."""
    params: OrderedDict[str, Any] = OrderedDict(x=-7.0, y=2)
    trained, seen = new(), []
    slopes = []
    for _ in range(5):
        seen.append(params["x"])
        slopes.append(params["x"] / 10)
        trained.update(params, {"x": slopes[-1], "y": 0})
    assert isinstance(params["x"], float)
    assert len(set(seen)) == 5
    for n, x in enumerate([*seen[1:], params["x"]], start=1):
        assert x == pytest.approx(rule(-7.0, slopes[:n]), rel=1e-12)
    assert params["y"] == 2.0


@every_optimizer
def test_the_rate_may_be_changed_on_the_way(new: Callable[[], Any], rule: Rule) -> None:
    """It enters Momentum's velocity, so what was gathered before is not scaled again."""
    params, trained = {"W": np.array([1.0])}, new()
    trained.update(params, {"W": np.array([1.0])})
    trained.lr = 0.0
    before = params["W"].copy()
    trained.update(params, {"W": np.array([5.0])})
    moved = params["W"] - before
    expected = {"Momentum": -0.08, "Nesterov": -(0.8**3) * 0.1}
    np.testing.assert_allclose(moved, expected.get(type(trained).__name__, 0.0), rtol=1e-12)


@every_optimizer
@pytest.mark.parametrize(("of_params", "of_grads"), [("float32", "float64"), ("float16", "float32")])
def test_parameters_keep_their_dtype(
    make: Any, new: Callable[[], Any], rule: Rule, of_params: str, of_grads: str
) -> None:
    if not make.has(of_params):
        pytest.skip(f"no {of_params}")
    W = writable(make, [1.0, -2.0], of_params)
    new().update({"W": W}, {"W": make.array([0.5, 0.25], of_grads)})
    make.check(W, [rule(1.0, [0.5]), rule(-2.0, [0.25])], of_params, rtol=2e-3)


@every_optimizer
def test_parameters_may_be_replaced_between_steps(new: Callable[[], Any], rule: Rule) -> None:
    params, trained = {"W": np.array([1.0])}, new()
    trained.update(params, {"W": np.array([1.0])})
    params["W"] = np.array([10.0])
    trained.update(params, {"W": np.array([1.0])})
    moved = rule(1.0, [1.0, 1.0]) - rule(1.0, [1.0])
    np.testing.assert_allclose(params["W"], 10.0 + moved, rtol=1e-12)


@every_optimizer
def test_one_optimizer_for_several_networks(new: Callable[[], Any], rule: Rule) -> None:
    """The book's comparisons step networks of different parameters by one SGD."""
    one, other = {"W1": np.array([1.0]), "gamma1": np.array([2.0])}, {"W2": np.array([3.0, 4.0])}
    trained = new()
    for _ in range(2):
        trained.update(one, {"W1": np.array([0.5]), "gamma1": np.array([0.25])})
        if not isinstance(trained, Adam):  # which counts its updates for all together
            trained.update(other, {"W2": np.array([1.0, 2.0])})
    np.testing.assert_allclose(one["W1"], [rule(1.0, [0.5, 0.5])], rtol=1e-12)
    np.testing.assert_allclose(one["gamma1"], [rule(2.0, [0.25, 0.25])], rtol=1e-12)
    if not isinstance(trained, Adam):
        np.testing.assert_allclose(other["W2"], [rule(3.0, [1.0, 1.0]), rule(4.0, [2.0, 2.0])], rtol=1e-12)


def test_sgd_for_networks_of_other_shapes() -> None:
    sgd, one, other = SGD(), {"W1": np.ones(2)}, {"W1": np.ones((3, 4))}
    for params in (one, other, one):
        sgd.update(params, {"W1": np.ones(params["W1"].shape)})
    np.testing.assert_allclose(one["W1"], [0.98, 0.98])
    np.testing.assert_allclose(other["W1"], np.full((3, 4), 0.99))


@every_optimizer
def test_a_gradient_that_is_missing(new: Callable[[], Any], rule: Rule) -> None:
    with pytest.raises(KeyError, match="b1"):
        new().update({"W1": np.ones(2), "b1": np.ones(2)}, {"W1": np.ones(2)})


def test_a_gradient_of_another_shape() -> None:
    with pytest.raises(ShapeError, match=r"the gradient of W1 has the shape \(3,\)"):
        SGD().update({"W1": np.ones(2)}, {"W1": np.ones(3)})


def test_what_adam_and_nesterov_keep() -> None:
    adam, nesterov = Adam(), Nesterov()
    assert (adam.iter, adam.m, adam.v, nesterov.v) == (0, None, None, None)
    adam.update({"W": np.ones(2)}, {"W": np.ones(2)})
    assert adam.iter == 1
    np.testing.assert_allclose([adam.m["W"], adam.v["W"]], [[0.1, 0.1], [0.001, 0.001]])


def test_adam_differs_from_the_cores_where_gradients_are_tiny() -> None:
    """On purpose: the book's 1e-7 stands beside the uncorrected root."""
    tiny = 1e-7
    params = {"W": np.array([0.0])}
    Adam(lr=1.0).update(params, {"W": np.array([tiny])})
    root = math.sqrt(0.001) * tiny
    np.testing.assert_allclose(params["W"], -math.sqrt(0.001) / 0.1 * 0.1 * tiny / (root + 1e-7), rtol=1e-9)
    assert abs(params["W"][0]) < 0.1  # the core, with its eps beside the corrected root, steps 0.9


def test_the_default_arguments_are_the_books() -> None:
    assert [(new().lr) for new in (SGD, Momentum, Nesterov, AdaGrad, RMSprop)] == [0.01] * 5
    assert (Momentum().momentum, Nesterov().momentum, RMSprop().decay_rate) == (0.9, 0.9, 0.99)
    adam = Adam()
    assert (adam.lr, adam.beta1, adam.beta2) == (0.001, 0.9, 0.999)
    assert "np" in optimizer.__all__  # scripts take it from `from common.optimizer import *`


@every_optimizer
@pytest.mark.parametrize("dtype", ["int64", "uint8", "bool", "complex128"])
def test_parameters_that_are_not_floating_are_refused(new: Callable[[], Any], rule: Rule, dtype: str) -> None:
    params = {"b": np.array([1.0]), "W": np.array([1, 2], dtype)}
    with pytest.raises(DtypeError, match=rf"{type(new()).__name__}.update: params\['W'\].*{dtype}.*astype"):
        new().update(params, {"b": np.array([1.0]), "W": np.array([0.5, 0.5])})
    assert params["b"] == [1.0]


@every_optimizer
def test_half_precision_follows_the_rule_in_float32(make: Any, new: Callable[[], Any], rule: Rule) -> None:
    """A gradient whose square is below float16's least number moves the weight as any other does."""
    if not make.has("float16"):
        pytest.skip("no float16")
    gradients = [2.0**-14, 0.0, 2.0**-13, 2.0**-14]
    W, zero, trained = writable(make, [0.25], "float16"), writable(make, [0.25], "float16"), new()
    for gradient in gradients:
        params = {"W": W, "zero": zero}
        trained.update(params, {"W": make.array([gradient], "float16"), "zero": make.array([0.0], "float16")})
    # Four roundings to numbers that are 2⁻¹² apart.
    np.testing.assert_allclose(make.to_numpy(W), [rule(0.25, gradients)], rtol=0, atol=4 * 2.0**-13)
    np.testing.assert_array_equal(make.to_numpy(zero), [0.25])


@every_optimizer
def test_parameters_of_the_other_byte_order_keep_it(new: Callable[[], Any], rule: Rule) -> None:
    params = {"W": np.array([1.0, -2.0], ">f8")}
    W = params["W"]
    new().update(params, {"W": np.array([0.5, 0.25], ">f4")})
    assert params["W"] is W
    assert W.dtype == np.dtype(">f8")
    np.testing.assert_allclose(W, [rule(1.0, [0.5]), rule(-2.0, [0.25])], rtol=1e-12)


@every_optimizer
def test_numpy_numbers_as_options(new: Callable[[], Any], rule: Rule) -> None:
    """float64 scalars, as linspace gives them, would turn a float32 step into float64."""
    plain, numpy_s = new(), new()
    for name, value in vars(plain).items():
        if isinstance(value, float):
            setattr(numpy_s, name, np.float64(value))
            assert type(getattr(numpy_s, name)) is float
    ours, theirs = ({"W": np.array([1.0, -2.0], "f4")} for _ in range(2))
    for _ in range(3):
        gradient = {"W": np.array([0.5, 0.25], "f4")}
        plain.update(ours, gradient)
        numpy_s.update(theirs, gradient)
    np.testing.assert_array_equal(ours["W"], theirs["W"])


@every_optimizer
def test_what_is_no_dictionary_or_number_is_refused(new: Callable[[], Any], rule: Rule) -> None:
    weights = {"W": np.array([1.0])}
    for wrong in (None, [1.0], "W", np.array([1.0])):
        with pytest.raises(ArgumentError, match="params must be a dictionary"):
            new().update(wrong, weights)
        with pytest.raises(ArgumentError, match="grads must be a dictionary"):
            new().update(weights, wrong)
    for rate in (None, "0.1", [0.1], math.nan):
        with pytest.raises(ArgumentError, match="lr must be a finite number"):
            type(new())(lr=rate)
