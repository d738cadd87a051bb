"""The book's optimisers against its formulas, written out number by number."""

import math

import numpy as np
import pytest

from tests.support.scratch import draw, writable
from xpcnn.errors import ArgumentError, DtypeError, ShapeError
from xpcnn.scratch.optimizer import SGD, AdaGrad, Adam, Momentum, Nesterov, RMSprop

# The formulas as they are printed, number by number: a parameter's next value, and what is kept.


def sgd(p, g, t):
    return p - 0.1 * g


def momentum(p, g, t, v=0.0):
    v = 0.8 * v - 0.1 * g
    return p + v, v


def nesterov(p, g, t, v=0.0):
    v = 0.8 * v - 0.1 * g
    return p + 0.8 * 0.8 * v - (1 + 0.8) * 0.1 * g, v


def adagrad(p, g, t, h=0.0):
    h += g * g
    return p - 0.1 * g / (math.sqrt(h) + 1e-7), h


def rmsprop(p, g, t, h=0.0):
    h = 0.9 * h + (1 - 0.9) * g * g
    return p - 0.1 * g / (math.sqrt(h) + 1e-7), h


def adam(p, g, t, m=0.0, v=0.0):
    m += (1 - 0.8) * (g - m)
    v += (1 - 0.95) * (g * g - v)
    return p - 0.1 * math.sqrt(1 - 0.95**t) / (1 - 0.8**t) * m / (math.sqrt(v) + 1e-7), m, v


def rule_of(formula):
    """A function of a parameter and all its gradients so far: the parameter after them."""

    def rule(p, slopes):
        kept = ()
        for t, g in enumerate(slopes, start=1):
            p, *kept = np.atleast_1d(formula(p, g, t, *kept)).tolist()
        return p

    return rule


CASES = {
    "SGD": (lambda: SGD(lr=0.1), rule_of(sgd)),
    "Momentum": (lambda: Momentum(lr=0.1, momentum=0.8), rule_of(momentum)),
    "Nesterov": (lambda: Nesterov(lr=0.1, momentum=0.8), rule_of(nesterov)),
    "AdaGrad": (lambda: AdaGrad(lr=0.1), rule_of(adagrad)),
    "RMSprop": (lambda: RMSprop(lr=0.1, decay_rate=0.9), rule_of(rmsprop)),
    "Adam": (lambda: Adam(lr=0.1, beta1=0.8, beta2=0.95), rule_of(adam)),
}
every_optimizer = pytest.mark.parametrize(("new", "rule"), CASES.values(), ids=CASES.keys())

SHAPES = {"W1": (2, 3), "b1": (3,), "gamma": (1, 2, 2), "zero": ()}


def slopes_of(key, dtype):
    """Four gradients. In float64 every second element is so small that the 1e-7 counts."""
    drawn = np.array([draw(*SHAPES[key], seed=10 + i) for i in range(4)])
    tiny = 1e-7 if dtype == "float64" else 1.0
    return drawn * np.where(np.arange(drawn.size).reshape(drawn.shape) % 2, 1.0, tiny)


@every_optimizer
def test_the_formulas(make, dtype, new, rule):
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
def test_plain_numbers(new, rule):
    """``optimizer_compare_naive.py`` steps two numbers, and keeps a list of where they have been."""
    params = {"x": -7.0, "y": 2}
    trained, seen, slopes = new(), [], []
    for _ in range(5):
        seen.append(params["x"])
        slopes.append(params["x"] / 10.0)
        trained.update(params, {"x": slopes[-1], "y": 1.0})
    assert all(type(value) is float for value in params.values())
    np.testing.assert_allclose(seen, [rule(-7.0, slopes[:n]) for n in range(5)], rtol=1e-12)
    np.testing.assert_allclose(params["y"], rule(2.0, [1.0] * 5), rtol=1e-12)


@every_optimizer
def test_the_rate_and_the_parameters_may_be_changed_on_the_way(new, rule):
    """The rate enters Momentum's velocity, so what was gathered before is not scaled again."""
    params, trained, one = {"W": np.array([1.0])}, new(), {"W": np.array([1.0])}
    trained.update(params, one)
    params["W"] = np.array([10.0])
    trained.update(params, one)
    moved = rule(1.0, [1.0, 1.0]) - rule(1.0, [1.0])
    np.testing.assert_allclose(params["W"], 10.0 + moved, rtol=1e-12)
    params, trained = {"W": np.array([1.0])}, new()
    trained.update(params, one)
    trained.lr = 0.0
    before = params["W"].copy()
    trained.update(params, {"W": np.array([5.0])})
    expected = {"Momentum": -0.08, "Nesterov": -(0.8**3) * 0.1}
    np.testing.assert_allclose(params["W"] - before, expected.get(type(trained).__name__, 0.0), rtol=1e-12)


@every_optimizer
@pytest.mark.parametrize(("of_params", "of_grads"), [("float32", "float64"), ("float16", "float32")])
def test_parameters_keep_their_dtype(make, new, rule, of_params, of_grads):
    if not make.has(of_params):
        pytest.skip(f"no {of_params}")
    W = writable(make, [1.0, -2.0], of_params)
    new().update({"W": W}, {"W": make.array([0.5, 0.25], of_grads)})
    make.check(W, [rule(1.0, [0.5]), rule(-2.0, [0.25])], of_params, rtol=2e-3)


@every_optimizer
def test_parameters_of_the_other_byte_order_keep_it(new, rule):
    W = np.array([1.0, -2.0], ">f8")
    new().update({"W": W}, {"W": np.array([0.5, 0.25], ">f4")})
    np.testing.assert_allclose(W, [rule(1.0, [0.5]), rule(-2.0, [0.25])], rtol=1e-12)


@every_optimizer
def test_half_precision_follows_the_rule_in_float32(make, new, rule):
    """A gradient whose square is below float16's least number moves the weight as any other does."""
    if not make.has("float16"):
        pytest.skip("no float16")
    gradients = [2.0**-14, 0.0, 2.0**-13, 2.0**-14]
    W, zero, trained = writable(make, [0.25], "float16"), writable(make, [0.25], "float16"), new()
    for gradient in gradients:
        grads = {"W": make.array([gradient], "float16"), "zero": make.array([0.0], "float16")}
        trained.update({"W": W, "zero": zero}, grads)
    # Four roundings to numbers that are 2⁻¹² apart.
    np.testing.assert_allclose(make.to_numpy(W), [rule(0.25, gradients)], rtol=0, atol=4 * 2.0**-13)
    np.testing.assert_array_equal(make.to_numpy(zero), [0.25])


@every_optimizer
def test_numpy_numbers_as_options(new, rule):
    """float64 scalars, as linspace gives them, would turn a float32 step into float64."""
    options = {name: value for name, value in vars(new()).items() if isinstance(value, float)}
    trained = type(new())(**{name: np.float64(value) for name, value in options.items()})
    assert [type(getattr(trained, name)) for name in options] == [float] * len(options)


@pytest.mark.parametrize(
    ("name", "key"), [("SGD", "W1"), *((name, "W2") for name in CASES if name != "Adam")]
)
def test_one_optimizer_for_several_networks(name, key):
    """As the book's comparisons do; of one key, SGD alone. Adam counts its updates for all together."""
    new, rule = CASES[name]
    one, other, trained = {"W1": np.ones(1)}, {key: np.array([[3.0, 4.0]])}, new()
    for _ in range(2):
        trained.update(one, {"W1": np.array([0.5])})
        trained.update(other, {key: np.array([[1.0, 2.0]])})
    np.testing.assert_allclose(one["W1"], [rule(1.0, [0.5, 0.5])], rtol=1e-12)
    np.testing.assert_allclose(other[key], [[rule(3.0, [1.0, 1.0]), rule(4.0, [2.0, 2.0])]], rtol=1e-12)


def test_what_adam_and_nesterov_keep():
    trained = Adam()
    assert (trained.iter, trained.m, trained.v, Nesterov().v) == (0, None, None, None)
    trained.update({"W": np.ones(2)}, {"W": np.ones(2)})
    assert trained.iter == 1
    np.testing.assert_allclose([trained.m["W"], trained.v["W"]], [[0.1, 0.1], [0.001, 0.001]])


@every_optimizer
def test_what_cannot_be_updated_is_refused(new, rule):
    weights = {"W": np.array([1.0])}
    for dtype in ("int64", "uint8", "bool", "complex128"):
        params = {"b": np.array([1.0]), "W": np.array([1, 2], dtype)}
        grads = {"b": np.array([1.0]), "W": np.array([0.5, 0.5])}
        with pytest.raises(
            DtypeError, match=rf"{type(new()).__name__}.update: params\['W'\].*{dtype}.*astype"
        ):
            new().update(params, grads)
        assert params["b"] == [1.0]
    with pytest.raises(ArgumentError, match=r"params\['W'\] must be an array or a number, got list"):
        new().update({"W": [1.0]}, weights)
    with pytest.raises(KeyError, match="b1"):
        new().update({"W": np.ones(2), "b1": np.ones(2)}, {"W": np.ones(2)})
    for wrong in (None, [1.0], "W", np.array([1.0])):
        with pytest.raises(ArgumentError, match="params must be a dictionary"):
            new().update(wrong, weights)
        with pytest.raises(ArgumentError, match="grads must be a dictionary"):
            new().update(weights, wrong)
    for rate in (None, "0.1", [0.1], math.nan):
        with pytest.raises(ArgumentError, match="lr must be a finite number"):
            type(new())(lr=rate)
    with pytest.raises(ShapeError, match=r"the gradient of W has the shape \(3,\)"):
        SGD().update({"W": np.ones(2)}, {"W": np.ones(3)})
