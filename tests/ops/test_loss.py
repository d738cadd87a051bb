"""Softmax cross entropy and mean squared error."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest

import xpcnn
from tests.support import oracles
from tests.support.ops import draw, mentions
from xpcnn import errors, ops

LABELS = np.array([0, 3, 1, 1, 2])
TARGETS = {
    "labels": LABELS,
    "one-hot": np.eye(4)[LABELS],
    "probabilities": oracles.softmax(draw(5, 4, seed=9)),
    "no distribution": np.abs(draw(5, 4, seed=8)),
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


@pytest.mark.parametrize("labels_dtype", ["int8", "int16", "int32", "uint8"])
def test_labels_of_any_integer_dtype(make: Any, labels_dtype: str) -> None:
    """Also where 300 classes do not fit it."""
    for logits, labels in ((draw(5, 4), LABELS), (draw(3, 300), np.array([0, 5, 127]))):
        loss, ctx = ops.softmax_cross_entropy(make.array(logits), make.array(labels, labels_dtype))
        make.check(loss, oracles.softmax_cross_entropy(logits, labels), "float64")
        expected = oracles.softmax_cross_entropy_gradients(logits, labels)
        make.check(ops.softmax_cross_entropy.backward(ctx), expected, "float64")


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


@pytest.mark.parametrize(("label", "cost", "gradient"), [(0, 0, [0.0, 0.0]), (1, 1000, [1.0, -1.0])])
def test_sure_predictions(make: Any, dtype: str, label: int, cost: float, gradient: list[float]) -> None:
    """Right ones cost nothing, wrong ones the difference."""
    loss, ctx = ops.softmax_cross_entropy(make.array([[500.0, -500.0]], dtype), make.array([label], "int64"))
    assert float(make.to_numpy(loss)) == cost
    make.check(ops.softmax_cross_entropy.backward(ctx), [gradient], dtype, scale=1.0)
    size = float(np.finfo(dtype).max) * 0.4  # a difference that the dtype holds
    loss, _ = ops.softmax_cross_entropy(make.array([[size, -size]], dtype), make.array([label], "int64"))
    make.check(loss, 2 * label * float(np.array(size, dtype)), dtype)


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


def test_transposed_logits_and_large_batches(make: Any) -> None:
    for shape, dtype in (((5, 4), "float64"), ((500, 20), "float32")):
        logits, labels = 5 * draw(*shape, dtype=dtype), np.arange(shape[0]) * 7 % shape[1]
        x = make.xp.permute_dims(make.array(np.ascontiguousarray(logits.T)), (1, 0))
        loss, ctx = ops.softmax_cross_entropy(x, make.array(labels, "int64"))
        make.check(loss, oracles.softmax_cross_entropy(logits, labels), dtype)
        expected = oracles.softmax_cross_entropy_gradients(logits, labels)
        make.check(ops.softmax_cross_entropy.backward(ctx), expected, dtype)


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


def test_labels_out_of_range() -> None:
    """Found where looking at a label costs nothing; elsewhere it would make the device wait."""
    for labels, wrong in (([0, 4], "4"), ([-1, 0], "-1"), ([0, 100], "100")):
        with pytest.raises(errors.ArgumentError, match=mentions("softmax_cross_entropy", wrong, "4")):
            ops.softmax_cross_entropy(draw(2, 4), np.array(labels))


def test_labels_out_of_range_elsewhere(make: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(xpcnn.backend_of(make.array([0.0])), "is_host", False)
    loss, ctx = ops.softmax_cross_entropy(make.array(draw(2, 4)), make.array([0, 4], "int64"))
    assert np.isnan(float(make.to_numpy(loss)))
    nan = np.isnan(make.to_numpy(ops.softmax_cross_entropy.backward(ctx)))
    np.testing.assert_array_equal(nan.all(1), [False, True])


BAD_TARGETS = {
    "too few labels": ((4,), "int64", errors.ShapeError, "(4,)"),
    "too few rows": ((4, 4), "float64", errors.ShapeError, "(4, 4)"),
    "too few classes": ((5, 3), "float64", errors.ShapeError, "(5, 3)"),
    "three axes": ((5, 4, 1), "float64", errors.ShapeError, "(5, 4, 1)"),
    "fractional labels": ((5,), "float64", errors.DtypeError, "float64"),
}


@pytest.mark.parametrize(("shape", "dtype", "kind", "told"), BAD_TARGETS.values(), ids=BAD_TARGETS.keys())
def test_bad_target(make: Any, shape: Any, dtype: str, kind: type[errors.XpcnnError], told: str) -> None:
    with pytest.raises(kind, match=mentions("softmax_cross_entropy", "target", told)):
        ops.softmax_cross_entropy(make.array(draw(5, 4)), make.array(np.zeros(shape), dtype))


def test_bad_arguments(make: Any) -> None:
    name, labels, x = "softmax_cross_entropy", make.array(LABELS, "int64"), make.array(draw(5, 4))
    for smoothing in (-0.1, 1.1, float("nan")):
        with pytest.raises(errors.ArgumentError, match=mentions("label_smoothing", str(smoothing))):
            ops.softmax_cross_entropy(x, labels, label_smoothing=smoothing)
    with pytest.raises(errors.ShapeError, match=mentions(name, "(5, 4, 1)")):
        ops.softmax_cross_entropy(make.array(draw(5, 4, 1)), labels)
    # (5, 1) against (5,) would broadcast to (5, 5) and train on nonsense.
    with pytest.raises(errors.ShapeError, match=mentions("mean_squared_error", "(5, 1)", "(5,)")):
        ops.mean_squared_error(make.array(draw(5, 1)), make.array(draw(5)))
    empty = make.array(np.zeros((0, 4)))
    for target in (make.array(np.zeros(0), "int64"), empty):
        with pytest.raises(errors.ShapeError, match=mentions(name, "empty batch")):
            ops.softmax_cross_entropy(empty, target)
    with pytest.raises(errors.ShapeError, match=mentions("mean_squared_error", "empty batch")):
        ops.mean_squared_error(empty, empty)
    for op, ctx in ((f, f(x, x)[1]) for f in (ops.softmax_cross_entropy, ops.mean_squared_error)):
        with pytest.raises(errors.ShapeError, match=mentions("dy of a loss", "scalar", "(5, 4)")):
            op.backward(ctx, x)


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


def test_the_impossible_class_itself(make: Any, dtype: str) -> None:
    loss, _ = ops.softmax_cross_entropy(make.array([[-INF, 0.0]], dtype), make.array([0], "int64"))
    assert float(make.to_numpy(loss)) == INF


@pytest.mark.parametrize("kind", IMPOSSIBLE)
def test_softmax_of_impossible_classes(make: Any, dtype: str, kind: str) -> None:
    torch = pytest.importorskip("torch")
    logits = impossible(kind, dtype)
    expected = torch.softmax(torch.tensor(logits), dim=1).numpy()
    make.check(ops.softmax(make.array(logits))[0], expected, dtype)
    log = make.to_numpy(ops.log_softmax(make.array(logits))[0])
    with np.errstate(divide="ignore"):
        np.testing.assert_allclose(np.exp(log), expected, rtol=1e-5)
