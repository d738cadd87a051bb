"""The loss of a batch and its gradients: all that a training loop needs besides an optimiser."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

from xpcnn.backend import Array, Key, backend_of, is_array
from xpcnn.errors import ArgumentError, ShapeError
from xpcnn.nn.gradients import Gradients
from xpcnn.nn.layer import Layer
from xpcnn.nn.shards import ShardedModel
from xpcnn.ops.op import in_words

__all__ = ["Loss", "ValueAndGrad", "as_loss", "value_and_grad"]


def value_and_grad(model: Layer, loss: Any) -> ValueAndGrad:
    """Return a function that computes the loss of a batch and the gradients of the model's parameters.

    It runs the model forward with ``train=True``, the loss forward and backward, and the model backward.

    Parameters
    ----------
    model : Layer
    loss : op, or (forward, backward)
        ``loss(y, target) -> (0-d loss, ctx)`` with ``loss.backward(ctx) -> dy``, such as
        `ops.softmax_cross_entropy`, or these two as a pair of functions.

    Returns
    -------
    function
        ``(x, t, *, key=None) -> (loss, grads)``: `x` (N, ...) is what the model takes and `t` what the loss
        takes, both on the model's backend. `key` is what random masks are a function of, a `Key` or an
        integer; None draws a fresh one. `loss` is a 0-d array on the device, and `grads` a new `Gradients`.

    Raises
    ------
    ArgumentError
        When `model` is no layer, or `loss` neither an op nor a pair. The function raises it, or `ShapeError`,
        when the loss is not 0-d, and what the model and the loss raise.

    Examples
    --------
    A training loop:

    >>> import xpcnn
    >>> from xpcnn import nn, ops, optim
    >>> model = nn.Sequential(fc=nn.Linear(2, 1, seed=0))
    >>> optimizer = optim.SGD(model, lr=0.01)
    >>> x = xpcnn.asarray([[1.0, 2.0], [3.0, 4.0], [5.0, 6.0], [7.0, 9.0]], "float32")
    >>> t = xpcnn.asarray([[1.0], [2.0], [3.0], [4.0]], "float32")
    >>> for _ in range(3):
    ...     loss, grads = nn.value_and_grad(model, ops.mean_squared_error)(x, t)
    ...     optimizer.step(grads)

    A batch that does not fit into memory is run in micro-batches. A loss is a mean over its samples, so each
    micro-batch weighs as many samples as it has:

    >>> compute = nn.value_and_grad(model, ops.mean_squared_error)
    >>> total = nn.Gradients()
    >>> for part in (slice(0, 3), slice(3, 4)):
    ...     loss, grads = compute(x[part], t[part])
    ...     total.merge(grads, weight=len(x[part]) / len(x))
    >>> loss, whole = compute(x, t)
    >>> bool(abs(total["fc.weight"] - whole["fc.weight"]).max() < 1e-4)
    True
    """
    if not isinstance(model, Layer):
        raise ArgumentError(f"value_and_grad: model must be a Layer, got {type(model).__name__}")
    return ValueAndGrad(model, as_loss("value_and_grad", loss))


class ValueAndGrad:
    """What `value_and_grad` returns: a function of a batch, to be copied and pickled with its model."""

    def __init__(self, model: Layer, loss: Loss) -> None:
        self._run = ShardedModel(model)
        self._loss = loss

    def __call__(self, x: Array, t: Array, *, key: Key | int | None = None) -> tuple[Array, Gradients]:
        """Return the loss of a batch, and its gradients."""
        with backend_of(x).model_run():
            y, ctx = self._run.forward(x, Key.fresh() if key is None else Key.of(key))
            value, loss_ctx = self._loss(y, t)
            grads = Gradients()
            self._run.backward(ctx, self._loss.backward(loss_ctx), grads)
        return value, grads


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
        if not isinstance(found, tuple) or len(found) != 2:
            raise ArgumentError(
                f"loss: {_name(self.forward)} must return a pair (0-d loss, ctx), got {type(found).__name__}"
            )
        value, ctx = found
        if is_array(value) and value.ndim == 0:
            return value, ctx
        if not is_array(value) and isinstance(value, (int, float)):
            return backend_of(target).asarray(value, "float32"), ctx
        got = f"shape {tuple(value.shape)}" if is_array(value) else type(value).__name__
        raise ShapeError(
            f"loss: {_name(self.forward)} must return a 0-d array, the mean over the batch, got {got}"
        )


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


def _name(function: Any) -> str:
    return getattr(function, "__name__", repr(function))
