"""The loss of a batch and its gradients: all that a training loop needs besides an optimiser.

Gradients are in a store of their own, so that layers hold none and backward is re-entrant.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any, NamedTuple

from xpcnn.backend import Array, Key, backend_of, is_array
from xpcnn.errors import ArgumentError, ShapeError
from xpcnn.nn.parameter import Parameter
from xpcnn.ops.op import in_words, real, require_array

if TYPE_CHECKING:
    from xpcnn.nn.layer import Layer

__all__ = ["Gradients", "Loss", "ValueAndGrad", "as_loss", "value_and_grad"]


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
    from xpcnn.nn.layer import Layer  # here, because layers name the store below

    if not isinstance(model, Layer):
        raise ArgumentError(f"value_and_grad: model must be a Layer, got {type(model).__name__}")
    return ValueAndGrad(model, as_loss("value_and_grad", loss))


class ValueAndGrad:
    """What `value_and_grad` returns: a function of a batch, to be copied and pickled with its model."""

    def __init__(self, model: Layer, loss: Loss) -> None:
        from xpcnn.nn.shards import ShardedModel  # here, because it imports layers

        self._run = ShardedModel(model)
        self._loss = loss

    def __call__(self, x: Array, t: Array, *, key: Key | int | None = None) -> tuple[Array, Gradients]:
        """Return the loss of a batch, and its gradients."""
        with backend_of(x).execution_context():
            y, ctx = self._run.forward(x, Key.fresh() if key is None else Key.of(key))
            value, loss_ctx = self._loss(y, t)
            grads = Gradients()
            self._run.backward(ctx, self._loss.backward(loss_ctx), grads)
        return value, grads


class Gradients:
    """The gradients one backward pass (or the sum of several) gave to each parameter.

    Examples
    --------
    >>> import xpcnn
    >>> from xpcnn import nn
    >>> model = nn.Sequential(fc=nn.Linear(2, 1, weight_init=1.0, seed=0))
    >>> y, ctx = model.forward(xpcnn.asarray([[3.0, 4.0]], dtype="float32"))
    >>> grads = nn.Gradients()
    >>> dx = model.backward(ctx, xpcnn.asarray([[1.0]], dtype="float32"), grads)
    >>> grads["fc.weight"]
    array([[3., 4.]], dtype=float32)
    >>> grads[model.fc.weight] is grads["fc.weight"]
    True
    """

    def __init__(self) -> None:
        # A parameter hashes by identity; two with equal values are still two.
        self._entries: dict[Parameter, Array] = {}
        self._root: Layer | None = None

    @property
    def root(self) -> Layer | None:
        """The outermost layer whose backward has filled this store, which paths are read from."""
        return self._root

    def bind(self, layer: Layer) -> None:
        """Let paths be read from `layer`, unless an outer layer, which calls first, was bound before."""
        if self._root is None:
            self._root = layer

    def add(self, parameter: Parameter, gradient: Array) -> None:
        """Add a gradient to what is stored for `parameter`.

        Raises
        ------
        ArgumentError, BackendError
            When `parameter` is none, or `gradient` no array.
        """
        if not isinstance(parameter, Parameter):
            raise ArgumentError(f"Gradients.add: expected a Parameter, got {type(parameter).__name__}")
        self._add(parameter, require_array("Gradients.add", "gradient", gradient))

    def _add(self, parameter: Parameter, gradient: Array) -> None:
        before = self._entries.get(parameter)
        self._entries[parameter] = gradient if before is None else before + gradient

    def replace(self, parameter: Parameter, gradient: Array) -> None:
        """Store a gradient in the place of the one `parameter` has, as when gradients are clipped.

        The array that was there keeps its values.

        Raises
        ------
        ArgumentError
            When `parameter` has no gradient yet.
        """
        if parameter not in self._entries:
            raise ArgumentError(f"Gradients.replace: no gradient is stored for {parameter!r}; add it instead")
        self._entries[parameter] = gradient

    def merge(self, other: Gradients, *, weight: float = 1.0) -> None:
        """Add all gradients of another store, as when the shards of a batch are summed.

        Parameters
        ----------
        other : Gradients
            It stays as it is.
        weight : float
            What each of its gradients is multiplied by: for a micro-batch of n of the N samples of a batch,
            and a loss that is a mean, n / N.

        Raises
        ------
        ArgumentError
            When `other` is no store, or `weight` no finite number.
        """
        if not isinstance(other, Gradients):
            raise ArgumentError(f"Gradients.merge: expected Gradients, got {type(other).__name__}")
        if type(weight) is not float or not math.isfinite(weight):
            weight = real("Gradients.merge: weight", weight)
        if other._root is not None:
            self.bind(other._root)
        for parameter, gradient in other.items():
            self._add(parameter, gradient if weight == 1 else gradient * weight)

    def items(self) -> Iterator[tuple[Parameter, Array]]:
        """Yield each parameter with its gradient, in the order they were first added."""
        return iter(self._entries.items())

    def get(self, parameter: Parameter) -> Array | None:
        """Return the gradient of `parameter`, or None when it has none."""
        return self._entries.get(parameter)

    def __getitem__(self, which: Parameter | str) -> Array:
        parameter = self._at(which) if isinstance(which, str) else which
        gradient = self.get(parameter)
        if gradient is None:
            raise ArgumentError(
                f"Gradients: no gradient is stored for {which!r}; backward was not called with this store, "
                f"or the parameter is not trainable"
            )
        return gradient

    def __contains__(self, which: Parameter | str) -> bool:
        if isinstance(which, str):
            known = self._root.parameters() if self._root is not None else {}
            return which in known and known[which] in self._entries
        return which in self._entries

    def __len__(self) -> int:
        return len(self._entries)

    def _at(self, path: str) -> Parameter:
        if self._root is None:
            raise ArgumentError(f"Gradients: no backward pass has filled this store, so {path!r} is unknown")
        parameters = self._root.parameters()
        if path not in parameters:
            raise ArgumentError(
                f"Gradients: the model has no parameter {path!r}; it has {', '.join(parameters) or 'none'}"
            )
        return parameters[path]


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
        value: Any = found[0]
        if is_array(value) and value.ndim == 0:
            return found
        if not is_array(value) and isinstance(value, (int, float)):
            return backend_of(target).asarray(value, "float32"), found[1]
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
