"""Losses: the mean over a batch, as a 0-d array on the device."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, NamedTuple

from xpcnn.backend import Array, Backend, Namespace, backend_of, dtype_name, is_array, primitive
from xpcnn.errors import ArgumentError, DtypeError, ShapeError
from xpcnn.ops.op import (
    accumulator,
    below_max,
    check_backend,
    check_rank,
    check_shapes,
    common_backend,
    in_words,
    op,
    real,
    require_array,
    upcast,
)


class Loss(NamedTuple):
    """``forward(y, target) -> (0-d loss, ctx)`` and ``backward(ctx) -> dy``."""

    forward: Callable[[Any, Array], tuple[Array, Any]]
    backward: Callable[[Any], Any]

    def __call__(self, y: Any, target: Array) -> tuple[Array, Any]:
        """Return the loss, a 0-d array where `target` is, and its context.

        Raises
        ------
        ArgumentError, ShapeError
            When `forward` returns something else.
        """
        found = self.forward(y, target)
        where = f"loss: {getattr(self.forward, '__name__', repr(self.forward))} must return"
        if not isinstance(found, tuple) or len(found) != 2:
            raise ArgumentError(f"{where} a pair (0-d loss, ctx), got {type(found).__name__}")
        value: Any = found[0]
        if isinstance(value, (int, float)) and not is_array(value):
            return backend_of(target).asarray(value, "float32"), found[1]
        if not is_array(value) or value.ndim:
            got = f"shape {tuple(value.shape)}" if is_array(value) else type(value).__name__
            raise ShapeError(f"{where} a 0-d array, the mean over the batch, got {got}")
        return found


def as_loss(where: str, loss: Any) -> Loss:
    """Return an op, or a pair (forward, backward), as a `Loss`.

    Raises
    ------
    ArgumentError
        For anything else.

    Examples
    --------
    >>> from xpcnn import ops
    >>> as_loss("Trainer", ops.mean_squared_error).backward is ops.mean_squared_error.backward
    True
    """
    if isinstance(loss, (tuple, list)) and len(loss) == 2 and all(map(callable, loss)):
        return Loss(*loss)
    backward = getattr(loss, "backward", None)
    if callable(loss) and not isinstance(loss, type) and callable(backward):
        return Loss(loss, backward)
    got = "a function without .backward" if callable(loss) else in_words(loss)
    raise ArgumentError(
        f"{where}: loss must be an op with its derivative, such as ops.mean_squared_error, or a pair of "
        f"functions (forward, backward), got {got}"
    )


class SoftmaxCrossEntropyContext(NamedTuple):
    """The log-probabilities and the target distribution, both (N, classes)."""

    log_probabilities: Array
    target: Array
    dtype: Any


@op
def softmax_cross_entropy(
    logits: Array, target: Array, label_smoothing: float = 0.0
) -> tuple[Array, SoftmaxCrossEntropyContext]:
    """Return the mean cross-entropy between the softmax of `logits` and `target`.

    Parameters
    ----------
    logits : array (N, classes)
        Half precision is summed in float32. Of −inf, the class is impossible: the loss stays finite where it
        is not wanted, and is infinite where it is.
    target : array (N,) of any integer dtype, or (N, classes) of the dtype of `logits`
        Labels, or one probability distribution a row (one-hot rows, for example).
    label_smoothing : float
        The share of each target that is spread evenly over all classes.

    Returns
    -------
    loss : 0-d array
    ctx : SoftmaxCrossEntropyContext

    Raises
    ------
    ShapeError
        For shapes that do not fit, or an empty batch, which has no mean.
    ArgumentError
        For a label outside 0 … classes − 1, on backends where looking costs nothing; on a GPU such a label
        makes the loss NaN instead, because looking would wait for the device.

    References
    ----------
    Label smoothing: Szegedy et al., "Rethinking the Inception architecture for computer vision", 2016.

    Examples
    --------
    >>> import xpcnn
    >>> loss, ctx = xpcnn.ops.softmax_cross_entropy(xpcnn.asarray([[0.0, 0.0]]), xpcnn.asarray([1]))
    >>> round(float(loss), 6)
    0.693147
    """
    backend = common_backend("softmax_cross_entropy", logits=logits)
    xp = backend.xp
    check_rank("softmax_cross_entropy", "logits", logits.shape, 2, "(N, classes)")
    classes = logits.shape[1]
    _not_empty("softmax_cross_entropy", "logits", logits)
    if type(label_smoothing) is not float or not 0 <= label_smoothing <= 1:
        label_smoothing = real("softmax_cross_entropy: label_smoothing", label_smoothing, 0, 1)
    dtype = accumulator(backend, logits.dtype) or logits.dtype
    wanted = _distribution(backend, logits, target, dtype)
    if label_smoothing:
        wanted = wanted * (1 - label_smoothing) + label_smoothing / classes
    loss, log_probabilities = cross_entropy(logits, wanted)
    ctx = SoftmaxCrossEntropyContext(log_probabilities, wanted, logits.dtype)
    return _zero_d(xp, loss, logits.dtype), ctx


@primitive
def cross_entropy(logits: Array, target: Array) -> tuple[Array, Array]:
    """Return the mean over N of −Σ target · log softmax(logits), and these logarithms (N, classes)."""
    backend = backend_of(logits)
    xp = backend.xp
    shifted = below_max(backend, logits, axis=1)
    log_probabilities = shifted - xp.log(xp.sum(xp.exp(shifted), axis=1, keepdims=True))
    # A class that is not wanted may be impossible, with a logarithm of −inf: 0 · −inf counts as 0.
    loss = -xp.sum(target * backend.masked(target != 0, log_probabilities)) / logits.shape[0]
    return loss, log_probabilities


@softmax_cross_entropy.def_backward
def _softmax_cross_entropy_grad(ctx: SoftmaxCrossEntropyContext, dy: Any = 1.0) -> Array:
    """Return dlogits (N, classes) = (softmax·Σtarget − target)·dy/N, for a scalar `dy`."""
    xp = backend_of(ctx.target).xp
    scale = _scalar(dy, ctx.target, ctx.target.shape[0])
    dlogits = cross_entropy_gradient(ctx.log_probabilities, ctx.target, scale)
    return xp.astype(dlogits, ctx.dtype, copy=False)


@primitive
def cross_entropy_gradient(log_probabilities: Array, target: Array, scale: Any) -> Array:
    """Return (softmax·Σtarget − target)·scale."""
    xp = backend_of(target).xp
    # Σtarget is 1 for a distribution; targets that are none still get their true gradient.
    total = xp.sum(target, axis=1, keepdims=True)
    dlogits: Array = (xp.exp(log_probabilities) * total - target) * scale
    return dlogits


class MeanSquaredErrorContext(NamedTuple):
    """The difference between prediction and target."""

    difference: Array
    dtype: Any


@op
def mean_squared_error(y: Array, target: Array) -> tuple[Array, MeanSquaredErrorContext]:
    """Return the mean of ``(y − target)²`` over all elements.

    Parameters
    ----------
    y, target : array, the same shape and dtype
        Half precision is summed in float32.

    Returns
    -------
    loss : 0-d array
    ctx : MeanSquaredErrorContext

    Raises
    ------
    ShapeError
        For different shapes, or arrays without elements.

    Examples
    --------
    >>> import xpcnn
    >>> loss, ctx = xpcnn.ops.mean_squared_error(xpcnn.asarray([1.0, 2.0]), xpcnn.asarray([1.0, 4.0]))
    >>> float(loss)
    2.0
    """
    backend = common_backend("mean_squared_error", y=y, target=target)
    xp = backend.xp
    check_shapes("mean_squared_error", "y", tuple(y.shape), target=target)
    _not_empty("mean_squared_error", "y", y)
    difference = upcast(backend, y) - upcast(backend, target)
    loss = xp.mean(difference * difference)
    return _zero_d(xp, loss, y.dtype), MeanSquaredErrorContext(difference, y.dtype)


@mean_squared_error.def_backward
def _mean_squared_error_grad(ctx: MeanSquaredErrorContext, dy: Any = 1.0) -> Array:
    """Return the gradient for `y`: ``2·(y − target)·dy/size``, for a scalar `dy`."""
    xp = backend_of(ctx.difference).xp
    size = math.prod(ctx.difference.shape)
    return xp.astype(ctx.difference * (2 * _scalar(dy, ctx.difference, size)), ctx.dtype, copy=False)


def _zero_d(xp: Namespace, loss: Array, dtype: Any) -> Array:
    """Return the loss as a 0-d array: NumPy's reductions give array scalars."""
    return xp.asarray(xp.astype(loss, dtype, copy=False))


def _not_empty(op: str, name: str, array: Array) -> None:
    if 0 in array.shape:
        raise ShapeError(f"{op}: {name} is an empty batch (shape {tuple(array.shape)}), which has no mean")


def _scalar(dy: Any, like: Array, count: int) -> Any:
    """Return dy/count, as a Python number or as a 0-d array of `like`'s dtype."""
    if isinstance(dy, (int, float)):
        return dy / count
    dy = require_array("a loss's backward", "dy", dy)
    backend = backend_of(dy, like)
    if math.prod(dy.shape) != 1:
        raise ShapeError(f"dy of a loss must be a scalar, got shape {tuple(dy.shape)}")
    return backend.xp.reshape(backend.xp.astype(dy, like.dtype, copy=False), ()) / count


def _distribution(backend: Backend, logits: Array, target: Array, dtype: Any) -> Array:
    """Return the target as rows of probabilities (N, classes)."""
    xp = backend.xp
    op = "softmax_cross_entropy"
    check_backend(op, "logits", backend, "target", target)
    n, classes = logits.shape
    shape = tuple(target.shape)
    if shape == (n, classes):
        if not xp.isdtype(target.dtype, "integral"):
            common_backend(op, logits=logits, target=target)
        return xp.astype(target, dtype, copy=False)
    if shape != (n,):
        raise ShapeError(
            f"{op}: target must be labels of shape ({n},) or rows of shape ({n}, {classes}) for logits "
            f"{tuple(logits.shape)}, got shape {shape}"
        )
    if not xp.isdtype(target.dtype, "integral"):
        raise DtypeError(
            f"{op}: target of shape {shape} must be integer labels, got {dtype_name(target.dtype)}"
        )
    # Signed and wide on every backend, so that comparisons and one_hot agree.
    labels = xp.astype(target, xp.int64, copy=False)
    outside = (labels < 0) | (labels >= classes)
    if backend.is_host and bool(xp.any(outside)):
        bad = int(labels[int(xp.argmax(xp.astype(outside, xp.int8)))])
        raise ArgumentError(f"{op}: label {bad} is outside 0 to {classes - 1} for {classes} classes")
    rows = backend.one_hot(xp.where(outside, xp.zeros_like(labels), labels), classes, dtype)
    return xp.where(outside[:, None], xp.full_like(rows, math.nan), rows)
