"""Softmax cross entropy and mean squared error."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest

from tests.support import oracles
from tests.support.ops import draw, mentions
from xpcnn import errors, ops

LABELS = np.array([0, 3, 1, 1, 2])
TARGETS = {
    "labels": LABELS,
    "one-hot": np.eye(4)[LABELS],
    "probabilities": oracles.softmax(draw(5, 4, seed=9)),
}
every_target = pytest.mark.parametrize("kind", TARGETS)


def target_array(make: Any, target: np.ndarray[Any, Any], dtype: str) -> Any:
    return make.array(target, "int64" if target.ndim == 1 else dtype)


@pytest.mark.parametrize("smoothing", [0.0, 0.1, 1.0], ids=str)
@every_target
def test_cross_entropy(make: Any, dtype: str, kind: str, smoothing: float) -> None:
    logits = (3 * draw(5, 4)).astype(dtype)
    target = TARGETS[kind] if kind == "labels" else TARGETS[kind].astype(dtype)
    x, t = make.array(logits), target_array(make, target, dtype)
    with make.unchanged(x, t):
        loss, ctx = ops.softmax_cross_entropy(x, t, label_smoothing=smoothing)
    make.check(loss, oracles.softmax_cross_entropy(logits, target, smoothing), dtype)
    with make.unchanged(x, t, ctx):
        dx = ops.softmax_cross_entropy.backward(ctx)
    make.check(dx, oracles.softmax_cross_entropy_gradients(logits, target, smoothing), dtype)


@pytest.mark.parametrize("smoothing", [0.0, 0.1], ids=["hard", "smoothed"])
@every_target
def test_cross_entropy_against_torch(make: Any, dtype: str, kind: str, smoothing: float) -> None:
    torch = pytest.importorskip("torch")
    logits = (3 * draw(5, 4)).astype(dtype)
    target = TARGETS[kind] if kind == "labels" else TARGETS[kind].astype(dtype)
    x = torch.tensor(logits, dtype=torch.float64, requires_grad=True)
    t = torch.tensor(target) if kind == "labels" else torch.tensor(target, dtype=torch.float64)
    expected = torch.nn.functional.cross_entropy(x, t, label_smoothing=smoothing)
    expected.backward()
    loss, ctx = ops.softmax_cross_entropy(make.array(logits), target_array(make, target, dtype), smoothing)
    make.check(loss, expected.item(), dtype)
    make.check(ops.softmax_cross_entropy.backward(ctx), x.grad.numpy(), dtype)


@pytest.mark.parametrize("labels_dtype", ["int8", "int16", "int32", "int64", "uint8"])
def test_labels_of_any_integer_dtype(make: Any, labels_dtype: str) -> None:
    logits = draw(5, 4)
    loss, ctx = ops.softmax_cross_entropy(make.array(logits), make.array(LABELS, labels_dtype))
    make.check(loss, oracles.softmax_cross_entropy(logits, LABELS), "float64")
    expected = oracles.softmax_cross_entropy_gradients(logits, LABELS)
    make.check(ops.softmax_cross_entropy.backward(ctx), expected, "float64")


def test_more_classes_than_a_small_label_dtype_holds(make: Any) -> None:
    """300 classes do not fit the labels' int8 in whatever the labels are compared with."""
    logits, labels = draw(3, 300), np.array([0, 5, 127])
    loss, _ = ops.softmax_cross_entropy(make.array(logits), make.array(labels, "int8"))
    make.check(loss, oracles.softmax_cross_entropy(logits, labels), "float64")


@pytest.mark.parametrize("size", [500.0, 1e4], ids=str)
@pytest.mark.parametrize("smoothing", [0.0, 0.1], ids=["hard", "smoothed"])
@every_target
def test_extreme_logits(make: Any, dtype: str, kind: str, smoothing: float, size: float) -> None:
    """Sure and right, sure and wrong, undecided: finite, exact and without a warning."""
    rows = [[1, -1, -1, -1], [1, -1, 0, -1], [1, 1, 1, 1], [-1, -1, -1, -1], [0, 0, 0.5, 1]]
    logits = (size * np.array(rows)).astype(dtype)
    target = TARGETS[kind] if kind == "labels" else TARGETS[kind].astype(dtype)
    loss, ctx = ops.softmax_cross_entropy(make.array(logits), target_array(make, target, dtype), smoothing)
    make.check(loss, oracles.softmax_cross_entropy(logits, target, smoothing), dtype)
    expected = oracles.softmax_cross_entropy_gradients(logits, target, smoothing)
    make.check(ops.softmax_cross_entropy.backward(ctx), expected, dtype)


def test_sure_and_right_costs_nothing(make: Any, dtype: str) -> None:
    loss, ctx = ops.softmax_cross_entropy(make.array([[500.0, -500.0]], dtype), make.array([0], "int64"))
    assert float(make.to_numpy(loss)) == 0
    make.check(ops.softmax_cross_entropy.backward(ctx), np.zeros((1, 2)), dtype, scale=1.0)


def test_sure_and_wrong_costs_the_difference(make: Any, dtype: str) -> None:
    loss, ctx = ops.softmax_cross_entropy(make.array([[500.0, -500.0]], dtype), make.array([1], "int64"))
    assert float(make.to_numpy(loss)) == 1000
    make.check(ops.softmax_cross_entropy.backward(ctx), [[1.0, -1.0]], dtype)


@pytest.mark.parametrize("as_array", [False, True], ids=["number", "0-d array"])
def test_incoming_gradient(make: Any, dtype: str, as_array: bool) -> None:
    """A loss may be one term of a weighted sum."""
    logits = draw(5, 4, dtype=dtype)
    dy = make.array(0.25, dtype) if as_array else 0.25
    _, ctx = ops.softmax_cross_entropy(make.array(logits), make.array(LABELS, "int64"))
    expected = oracles.softmax_cross_entropy_gradients(logits, LABELS, dy=0.25)
    make.check(ops.softmax_cross_entropy.backward(ctx, dy), expected, dtype)
    y, target = draw(5, 4, dtype=dtype), draw(5, 4, dtype=dtype, seed=1)
    _, ctx = ops.mean_squared_error(make.array(y), make.array(target))
    expected = oracles.mean_squared_error_gradients(y, target, dy=0.25)
    make.check(ops.mean_squared_error.backward(ctx, dy), expected, dtype)


def test_transposed_logits(make: Any) -> None:
    logits = draw(5, 4)
    x = make.xp.permute_dims(make.array(np.ascontiguousarray(logits.T)), (1, 0))
    loss, ctx = ops.softmax_cross_entropy(x, make.array(LABELS, "int64"))
    make.check(loss, oracles.softmax_cross_entropy(logits, LABELS), "float64")
    expected = oracles.softmax_cross_entropy_gradients(logits, LABELS)
    make.check(ops.softmax_cross_entropy.backward(ctx), expected, "float64")


def test_many_samples_and_classes(make: Any) -> None:
    """The mean of a large batch in float32."""
    logits, labels = 5 * draw(500, 20, dtype="float32"), np.arange(500) * 7 % 20
    loss, _ = ops.softmax_cross_entropy(make.array(logits), make.array(labels, "int64"))
    make.check(loss, oracles.softmax_cross_entropy(logits, labels), "float32")


# Mean squared error -----------------------------------------------------------------------------------


@pytest.mark.parametrize("shape", [(5, 4), (6,), (2, 3, 4, 5), ()], ids=str)
def test_mean_squared_error(make: Any, dtype: str, shape: tuple[int, ...]) -> None:
    y_values = np.asarray(draw(*shape), dtype)
    target_values = np.asarray(draw(*shape, seed=1), dtype)
    y, target = make.array(y_values), make.array(target_values)
    with make.unchanged(y, target):
        loss, ctx = ops.mean_squared_error(y, target)
    make.check(loss, oracles.mean_squared_error(y_values, target_values), dtype)
    with make.unchanged(y, target, ctx):
        dx = ops.mean_squared_error.backward(ctx)
    make.check(dx, oracles.mean_squared_error_gradients(y_values, target_values), dtype)


# Errors -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("labels", "wrong"), [([0, 4], "4"), ([-1, 0], "-1"), ([0, 100], "100")], ids=str)
def test_label_out_of_range(make: Any, labels: list[int], wrong: str) -> None:
    """Found where looking at a label costs nothing; elsewhere it would make the device wait."""
    if make.backend != "numpy":
        pytest.skip("checked where reads are free")
    with pytest.raises(errors.ArgumentError, match=mentions("softmax_cross_entropy", wrong, "4")):
        ops.softmax_cross_entropy(make.array(draw(2, 4)), make.array(labels, "int64"))


def test_empty_batch(make: Any) -> None:
    empty = make.array(np.zeros((0, 4)))
    for target in (make.array(np.zeros(0), "int64"), empty):
        with pytest.raises(errors.ShapeError, match=mentions("softmax_cross_entropy", "empty batch")):
            ops.softmax_cross_entropy(empty, target)
    with pytest.raises(errors.ShapeError, match=mentions("mean_squared_error", "empty batch")):
        ops.mean_squared_error(empty, empty)


BAD_TARGETS = {
    "too few labels": ((4,), "int64", errors.ShapeError, "(4,)"),
    "too few rows": ((4, 4), "float64", errors.ShapeError, "(4, 4)"),
    "too few classes": ((5, 3), "float64", errors.ShapeError, "(5, 3)"),
    "three axes": ((5, 4, 1), "float64", errors.ShapeError, "(5, 4, 1)"),
    "fractional labels": ((5,), "float64", errors.DtypeError, "float64"),
    "probabilities of another dtype": ((5, 4), "float32", errors.DtypeError, "float32"),
}


@pytest.mark.parametrize(("shape", "dtype", "kind", "told"), BAD_TARGETS.values(), ids=BAD_TARGETS.keys())
def test_bad_target(make: Any, shape: Any, dtype: str, kind: type[errors.XpcnnError], told: str) -> None:
    with pytest.raises(kind, match=mentions("softmax_cross_entropy", "target", told)):
        ops.softmax_cross_entropy(make.array(draw(5, 4)), make.array(np.zeros(shape), dtype))


@pytest.mark.parametrize("smoothing", [-0.1, 1.1, float("nan")], ids=str)
def test_bad_smoothing(make: Any, smoothing: float) -> None:
    with pytest.raises(errors.ArgumentError, match=mentions("label_smoothing", str(smoothing))):
        ops.softmax_cross_entropy(
            make.array(draw(5, 4)), make.array(LABELS, "int64"), label_smoothing=smoothing
        )


def test_bad_logits(make: Any) -> None:
    labels = make.array(LABELS, "int64")
    with pytest.raises(errors.ShapeError, match=mentions("softmax_cross_entropy", "(5, 4, 1)")):
        ops.softmax_cross_entropy(make.array(draw(5, 4, 1)), labels)
    with pytest.raises(errors.DtypeError, match=mentions("softmax_cross_entropy", "logits", "int64")):
        ops.softmax_cross_entropy(make.array(np.zeros((5, 4)), "int64"), labels)


def test_mean_squared_error_takes_equal_shapes(make: Any) -> None:
    """(5, 1) against (5,) would broadcast to (5, 5) and train on nonsense."""
    with pytest.raises(errors.ShapeError, match=mentions("mean_squared_error", "(5, 1)", "(5,)")):
        ops.mean_squared_error(make.array(draw(5, 1)), make.array(draw(5)))
    with pytest.raises(errors.DtypeError, match=mentions("mean_squared_error", "float32", "float64")):
        ops.mean_squared_error(make.array(draw(5)), make.array(draw(5), "float32"))


# -- impossible classes ------------------------------------------------------------------

INF = math.inf
IMPOSSIBLE = {
    "one class": [[-INF, 0.0, 1.0, 0.5], [0.3, -INF, -1.0, 2.0]],
    "all but one": [[-INF, 2.0, -INF, -INF], [-INF, -INF, 1.0, -INF]],
    "beyond the dtype": [[0.9, 0.9, -0.9, -INF], [-0.9, 0.9, 0.9, 0.5]],  # times the largest number
}


def impossible(kind: str, dtype: str) -> np.ndarray[Any, Any]:
    largest = float(np.finfo(dtype).max) if kind == "beyond the dtype" else 1.0
    return (np.array(IMPOSSIBLE[kind]) * largest).astype(dtype)


@pytest.mark.parametrize("form", ["labels", "rows"])
@pytest.mark.parametrize("kind", IMPOSSIBLE)
def test_impossible_classes_that_are_not_wanted(make: Any, dtype: str, kind: str, form: str) -> None:
    """Against the same loss over the possible classes alone, from Python's own floats."""
    logits, labels = impossible(kind, dtype), np.array([1, 2])
    target = make.array(labels, "int64") if form == "labels" else make.array(np.eye(4)[labels], dtype)
    x = make.array(logits)
    with make.unchanged(x, target):
        loss, ctx = ops.softmax_cross_entropy(x, target)
    losses, gradients = [], []
    for row, label in zip(logits.astype(np.float64).tolist(), labels, strict=True):
        powers = [math.exp(max(value - max(row), -1e6)) for value in row]
        losses.append(max(row) - row[label] + math.log(math.fsum(powers)))
        gradients.append([(p / math.fsum(powers) - (i == label)) / 2 for i, p in enumerate(powers)])
    make.check(loss, math.fsum(losses) / 2, dtype)
    make.check(ops.softmax_cross_entropy.backward(ctx), gradients, dtype)


def test_the_impossible_class_itself_costs_infinity(make: Any, dtype: str) -> None:
    loss, _ = ops.softmax_cross_entropy(make.array([[-INF, 0.0]], dtype), make.array([0], "int64"))
    assert float(make.to_numpy(loss)) == INF


def test_differences_that_the_dtype_holds_stay_exact(make: Any, dtype: str) -> None:
    size = float(np.finfo(dtype).max) * 0.4
    loss, _ = ops.softmax_cross_entropy(make.array([[size, -size]], dtype), make.array([1], "int64"))
    make.check(loss, 2 * float(np.array(size, dtype)), dtype)


@pytest.mark.parametrize("kind", IMPOSSIBLE)
def test_softmax_of_impossible_classes(make: Any, dtype: str, kind: str) -> None:
    torch = pytest.importorskip("torch")
    logits = impossible(kind, dtype)
    expected = torch.softmax(torch.tensor(logits), dim=1).numpy()
    make.check(ops.softmax(make.array(logits))[0], expected, dtype)
    log = make.to_numpy(ops.log_softmax(make.array(logits))[0])
    with np.errstate(divide="ignore"):
        np.testing.assert_allclose(np.exp(log), expected, rtol=1e-5)
