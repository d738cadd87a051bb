"""What a trainer takes for a loss: an op with its `.backward`, or a pair of functions."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

from xpcnn import ops
from xpcnn.backend import Array, backend_of, is_array
from xpcnn.errors import ArgumentError, ShapeError

__all__ = ["Loss", "as_loss"]


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

    @property
    def is_cross_entropy(self) -> bool:
        """Whether rows of targets are taken for probabilities of classes."""
        from xpcnn.models.googlenet import googlenet_loss

        forward: Any = self.forward
        while isinstance(forward, functools.partial):
            forward = forward.func
        return forward in (ops.softmax_cross_entropy, googlenet_loss[0])


def as_loss(where: str, loss: Any) -> Loss:
    """Return an op, or a pair (forward, backward), as a `Loss`.

    Raises
    ------
    ArgumentError
        For anything else.

    Examples
    --------
    >>> as_loss("Trainer", ops.mean_squared_error).backward is ops.mean_squared_error.backward
    True
    """
    if isinstance(loss, (tuple, list)) and len(loss) == 2 and all(map(callable, loss)):
        return Loss(*loss)
    backward = getattr(loss, "backward", None)
    if callable(loss) and not isinstance(loss, type) and callable(backward):
        return Loss(loss, backward)
    got = "a function without .backward" if callable(loss) else repr(loss)
    raise ArgumentError(
        f"{where}: loss must be an op with its derivative, such as ops.mean_squared_error, or a pair of "
        f"functions (forward, backward), got {got}"
    )


def _name(function: Any) -> str:
    return getattr(function, "__name__", repr(function))
