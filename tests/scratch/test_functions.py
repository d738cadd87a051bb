"""The book's functions: their values on every backend, and what they accept."""

import math

import numpy as np
import pytest

import xpcnn
from tests.support import oracles
from tests.support.scratch import LABEL_FORMS, draw
from xpcnn.errors import ArgumentError, DtypeError, ShapeError
from xpcnn.scratch import functions

X = np.array([[-800.0, -2.5, -0.0, 0.0], [0.5, 3.0, 800.0, -1.0]])

CLOSED_FORMS = {
    "identity_function": lambda x: x,
    "sigmoid": oracles.sigmoid,
    "sigmoid_grad": lambda x: oracles.sigmoid(x) * (1 - oracles.sigmoid(x)),
    "relu": oracles.relu,
    "relu_grad": lambda x: np.where(x >= 0, 1.0, 0.0),
    "softmax": oracles.softmax,
}


@pytest.mark.parametrize("name", CLOSED_FORMS)
def test_values_on_every_backend(make, dtype, name):
    x = make.array(X, dtype)
    with make.unchanged(x):
        make.check(getattr(functions, name)(x), CLOSED_FORMS[name](X), dtype)


def test_step_function_and_relu_give_integers(make):
    y, z = functions.step_function(make.array(X, "float32")), functions.relu(make.array(np.array([-3, 0, 7])))
    for found, expected in ((y, [[0, 0, 0, 0], [1, 1, 1, 0]]), (z, [0, 0, 7])):
        make.check_kind(found, np.shape(expected), "int64")
        np.testing.assert_array_equal(make.to_numpy(found), expected)


@pytest.mark.parametrize("name", ["sigmoid", "sigmoid_grad", "softmax", "relu_grad"])
@pytest.mark.parametrize("kind", ["int64", "uint8"])
def test_integers_are_computed_as_floats(make, name, kind):
    values = np.array([[0, 1, 3], [250, 2, 249]]).astype(kind)
    default = str(make.xp.zeros(1).dtype).rpartition(".")[-1]
    y = getattr(functions, name)(make.array(values))
    make.check(y, CLOSED_FORMS[name](values.astype(np.float64)), default)


def test_numbers_and_lists_go_to_the_current_backend(make):
    with make.use():
        for name in ("sigmoid", "sigmoid_grad", "relu", "relu_grad", "softmax", "step_function"):
            y = getattr(functions, name)([1.0, -2.0])
            assert xpcnn.backend_of(y).name == make.backend
        assert float(functions.sigmoid(0.0)) == 0.5
        assert float(functions.relu(-2)) == 0
        assert float(functions.cross_entropy_error([0.5, 0.5], 1)) == pytest.approx(math.log(2), abs=1e-6)


def test_squared_error_is_half_the_sum(make, dtype):
    y, t = draw(3, 4), draw(3, 4, seed=1)
    found = functions.mean_squared_error(make.array(y, dtype), make.array(t, dtype))
    make.check(found, 0.5 * ((y - t) ** 2).sum(), dtype)
    assert functions.sum_squared_error is functions.mean_squared_error
    one_hot = np.arange(4) == 2
    assert functions.mean_squared_error(y[0], one_hot.astype(int)) == 0.5 * ((y[0] - one_hot) ** 2).sum()


LABELS = np.array([2, 0, 1, 1])


@pytest.mark.parametrize("form", LABEL_FORMS)
def test_losses_take_labels_in_all_forms(make, dtype, form):
    logits, t = draw(4, 3), make.array(LABEL_FORMS[form](LABELS, 3))
    y = oracles.softmax(logits)
    expected = -np.log(y[range(4), LABELS] + 1e-7).mean()
    make.check(functions.cross_entropy_error(make.array(y, dtype), t), expected, dtype)
    expected = oracles.softmax_cross_entropy(logits, LABELS)
    make.check(functions.softmax_loss(make.array(logits, dtype), t), expected, dtype)


@pytest.mark.parametrize("t", [[0, 0, 1, 0], [2], 2], ids=["one-hot", "label", "number"])
def test_a_single_sample_gives_numbers_not_arrays(t):
    """So that a script may add to a loss without changing the layer's. The 1e-7 counts, as in the book."""
    y, t = np.array([0.0, 0.4, 0.6, 0.0]), np.asarray(t)
    np.testing.assert_allclose(functions.softmax(y), np.exp(y) / np.exp(y).sum())
    for loss, right in (
        (functions.cross_entropy_error(y, t), -math.log(0.6 + 1e-7)),
        (functions.cross_entropy_error(y[[3, 1, 0, 2]], t), -math.log(1e-7)),
        (functions.softmax_loss(y, t), -math.log(functions.softmax(y)[2])),
        (functions.mean_squared_error(y, y + 1), 2.0),
    ):
        assert isinstance(loss, np.float64)
        assert loss == pytest.approx(right, rel=1e-12)


def test_half_precision_is_summed_in_float32(make):
    if not make.has("float16"):
        pytest.skip("no float16")
    y, labels = make.array(np.full((4000, 2), 0.5), "float16"), make.array(np.zeros(4000, np.int64))
    make.check(functions.cross_entropy_error(y, labels), math.log(2), "float16", rtol=1e-3)


def test_what_does_not_fit_is_refused(make):
    y = make.array(draw(4, 3))
    if xpcnn.backend_of(y).is_host:
        for label in (3, -1):
            with pytest.raises(ArgumentError, match="cross_entropy_error: a label is outside 0 to 2"):
                functions.cross_entropy_error(y, make.array([0, 1, 2, label]))
    with pytest.raises((ShapeError, DtypeError), match="softmax_cross_entropy"):
        functions.softmax_loss(y, make.array([0, 1, 2]))
    with pytest.raises(ShapeError, match=r"scores must have shape \(N, classes\)"):
        functions.softmax_loss(make.array(1.0), make.array([0]))
