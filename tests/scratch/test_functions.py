"""The book's functions: their values on every backend, and what they accept."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest

import xpcnn
from tests.support import oracles
from tests.support.scratch import draw
from xpcnn.errors import ArgumentError, BackendError, DtypeError, ShapeError
from xpcnn.scratch import functions

X = np.array([[-800.0, -2.5, -0.0, 0.0], [0.5, 3.0, 800.0, -1.0]])

CLOSED_FORMS: dict[str, Any] = {
    "identity_function": lambda x: x,
    "sigmoid": oracles.sigmoid,
    "sigmoid_grad": lambda x: oracles.sigmoid(x) * (1 - oracles.sigmoid(x)),
    "relu": oracles.relu,
    "relu_grad": lambda x: np.where(x >= 0, 1.0, 0.0),
    "softmax": oracles.softmax,
}


@pytest.mark.parametrize("name", CLOSED_FORMS)
def test_values_on_every_backend(make: Any, dtype: str, name: str) -> None:
    x = make.array(X, dtype)
    with make.unchanged(x):
        make.check(getattr(functions, name)(x), CLOSED_FORMS[name](X), dtype)


def test_the_step_function_gives_integers(make: Any) -> None:
    y = functions.step_function(make.array(X, "float32"))
    make.check_kind(y, X.shape, "int64")
    np.testing.assert_array_equal(make.to_numpy(y), [[0, 0, 0, 0], [1, 1, 1, 0]])


@pytest.mark.parametrize("name", ["sigmoid", "sigmoid_grad", "softmax", "relu_grad"])
@pytest.mark.parametrize("kind", ["int64", "uint8"])
def test_integers_are_computed_as_floats(make: Any, name: str, kind: str) -> None:
    values = np.array([[0, 1, 3], [250, 2, 249]]).astype(kind)
    default = str(make.xp.zeros(1).dtype).rpartition(".")[-1]
    y = getattr(functions, name)(make.array(values))
    make.check(y, CLOSED_FORMS[name](values.astype(np.float64)), default)


def test_relu_keeps_integers(make: Any) -> None:
    y = functions.relu(make.array(np.array([-3, 0, 7])))
    make.check_kind(y, (3,), "int64")
    np.testing.assert_array_equal(make.to_numpy(y), [0, 0, 7])


def test_numbers_and_lists_go_to_the_current_backend(make: Any) -> None:
    with make.use():
        for name in (*CLOSED_FORMS, "step_function"):
            if name != "identity_function":
                y = getattr(functions, name)([1.0, -2.0])
                assert xpcnn.backend_of(y).name == make.backend
        assert float(functions.sigmoid(0.0)) == 0.5
        assert float(functions.relu(-2)) == 0
        assert float(functions.cross_entropy_error([0.5, 0.5], 1)) == pytest.approx(math.log(2), abs=1e-6)


def test_softmax_of_one_sample_and_of_a_batch() -> None:
    one = np.array([0.3, 2.9, 4.0])
    np.testing.assert_allclose(functions.softmax(one), np.exp(one) / np.exp(one).sum())
    np.testing.assert_allclose(functions.softmax(np.stack([one, one + 1e4]))[1], functions.softmax(one))


def test_squared_error_is_half_the_sum(make: Any, dtype: str) -> None:
    y, t = draw(3, 4), draw(3, 4, seed=1)
    found = functions.mean_squared_error(make.array(y, dtype), make.array(t, dtype))
    make.check(found, 0.5 * ((y - t) ** 2).sum(), dtype)
    assert functions.sum_squared_error is functions.mean_squared_error


def test_squared_error_takes_one_hot_integers() -> None:
    y = np.array([0.1, 0.05, 0.6, 0.0, 0.05, 0.1, 0.0, 0.1, 0.0, 0.0])
    t = np.array([0, 0, 1, 0, 0, 0, 0, 0, 0, 0])
    assert functions.mean_squared_error(y, t) == pytest.approx(0.0975, abs=1e-15)


LABELS = np.array([2, 0, 1, 1])
FORMS = {
    "labels": LABELS,
    "uint8 labels": LABELS.astype(np.uint8),
    "a column": LABELS[:, None],
    "one-hot": np.eye(3)[LABELS],
    "one-hot float32": np.eye(3, dtype=np.float32)[LABELS],
    "one-hot integers": np.eye(3, dtype=np.int64)[LABELS],
    "one-hot bool": np.eye(3, dtype=bool)[LABELS],
}
every_form = pytest.mark.parametrize("form", FORMS.values(), ids=FORMS.keys())


@every_form
def test_cross_entropy_of_probabilities(make: Any, dtype: str, form: Any) -> None:
    y = oracles.softmax(draw(4, 3))
    expected = -np.log(y[range(4), LABELS] + 1e-7).mean()
    make.check(functions.cross_entropy_error(make.array(y, dtype), make.array(form)), expected, dtype)


@every_form
def test_softmax_loss_of_logits(make: Any, dtype: str, form: Any) -> None:
    logits = draw(4, 3)
    expected = oracles.softmax_cross_entropy(logits, LABELS)
    make.check(functions.softmax_loss(make.array(logits, dtype), make.array(form)), expected, dtype)


def test_a_probability_of_zero_is_cut_off_as_in_the_book() -> None:
    y, t = np.array([[1.0, 0.0]]), np.array([1])
    assert functions.cross_entropy_error(y, t) == pytest.approx(-math.log(1e-7))
    assert functions.cross_entropy_error(y[0], t) == functions.cross_entropy_error(y, t)


@pytest.mark.parametrize("t", [[0, 0, 1, 0], [2], 2], ids=["one-hot", "label", "number"])
def test_a_single_sample(t: Any) -> None:
    y = np.array([0.1, 0.05, 0.6, 0.25])
    assert functions.cross_entropy_error(y, np.asarray(t)) == pytest.approx(-math.log(0.6), abs=1e-6)


def test_half_precision_is_summed_in_float32(make: Any) -> None:
    y = np.full((4000, 2), 0.5)
    labels = np.zeros(4000, dtype=np.int64)
    if not make.has("float16"):
        pytest.skip("no float16")
    found = functions.cross_entropy_error(make.array(y, "float16"), make.array(labels))
    make.check(found, math.log(2), "float16", rtol=1e-3)


def test_numpy_gets_numbers_not_arrays() -> None:
    """As in the book, so that a script may add to a loss without changing the layer's."""
    y, t = np.array([[0.5, 0.5]]), np.array([0])
    for name in ("cross_entropy_error", "softmax_loss"):
        assert isinstance(getattr(functions, name)(y, t), np.float64)
    assert isinstance(functions.mean_squared_error(y, y), np.float64)


def test_what_does_not_fit_is_refused(make: Any) -> None:
    y = make.array(draw(4, 3))
    if xpcnn.backend_of(y).is_host:
        for label in (3, -1):
            with pytest.raises(ArgumentError, match="cross_entropy_error: a label is outside 0 to 2"):
                functions.cross_entropy_error(y, make.array([0, 1, 2, label]))
    with pytest.raises((ShapeError, DtypeError), match="softmax_cross_entropy"):
        functions.softmax_loss(y, make.array([0, 1, 2]))


def test_arrays_of_two_backends_are_refused() -> None:
    with xpcnn.use_backend("array_api_strict"):
        t = xpcnn.asarray(LABELS)
    for name in ("cross_entropy_error", "softmax_loss", "mean_squared_error"):
        with pytest.raises(BackendError, match="numpy"):
            getattr(functions, name)(draw(4, 3), t)
