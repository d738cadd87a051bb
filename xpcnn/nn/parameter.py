"""What a layer holds: parameters that are trained, buffers that are only saved; and the store of gradients.

Gradients are in a store of their own, so that layers hold none and backward is re-entrant.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from xpcnn.backend import Array, dtype_name, get_backend
from xpcnn.errors import ArgumentError, DtypeError
from xpcnn.ops.op import real, require_array

if TYPE_CHECKING:
    from xpcnn.nn.layer import Layer

__all__ = ["Buffer", "Gradients", "Parameter", "State"]


class State:
    """An array a layer owns and saves. `data` may be replaced, but keeps its shape."""

    def __init__(self, data: Any, dtype: Any = None) -> None:
        self.data: Array = get_backend().asarray(data, dtype)
        if dtype_name(self.data.dtype).startswith("complex"):
            raise DtypeError(f"{type(self).__name__}: data must be real, got {dtype_name(self.data.dtype)}")

    @property
    def shape(self) -> tuple[int, ...]:
        return tuple(self.data.shape)

    @property
    def dtype(self) -> Any:
        return self.data.dtype

    def __repr__(self) -> str:
        return f"{type(self).__name__}(shape={self.shape}, dtype={self.dtype})"


class Parameter(State):
    """An array that training changes.

    Parameters
    ----------
    data : array-like
        Moved to the current backend.
    dtype : str or dtype, optional
    trainable : bool
        False freezes it: no gradient is computed and no optimiser touches it.

    Examples
    --------
    >>> Parameter([1.0, 2.0], dtype="float32").shape
    (2,)
    """

    def __init__(self, data: Any, dtype: Any = None, *, trainable: bool = True) -> None:
        super().__init__(data, dtype)
        self.trainable = trainable


class Buffer(State):
    """An array that is saved with the model but not trained, such as batch-norm's running statistics."""


class Gradients:
    """The gradients one backward pass (or the sum of several) gave to each parameter.

    Attributes
    ----------
    root : Layer or None
        The outermost layer whose backward has filled this store, which paths are read from.

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
        self.root: Layer | None = None

    def bind(self, layer: Layer) -> None:
        """Let paths be read from `layer`, unless an outer layer, which calls first, was bound before."""
        if self.root is None:
            self.root = layer

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
        if other.root is not None:
            self.bind(other.root)
        for parameter, gradient in other.items():
            self._add(parameter, gradient if weight == 1 else gradient * weight)

    def items(self) -> Iterator[tuple[Parameter, Array]]:
        """Yield each parameter with its gradient, in the order they were first added."""
        return iter(self._entries.items())

    def get(self, parameter: Parameter) -> Array | None:
        """Return the gradient of `parameter`, or None when it has none."""
        return self._entries.get(parameter)

    def __getitem__(self, which: Parameter | str) -> Array:
        if isinstance(which, str):
            parameters = self.root.parameters() if self.root is not None else {}
            if which not in parameters:
                raise ArgumentError(
                    f"Gradients: there is no parameter {which!r}; the model whose backward pass filled this "
                    f"store has {', '.join(parameters) or 'none'}"
                )
            gradient = self.get(parameters[which])
        else:
            gradient = self.get(which)
        if gradient is None:
            raise ArgumentError(
                f"Gradients: no gradient is stored for {which!r}; backward was not called with this store, "
                f"or the parameter is not trainable"
            )
        return gradient

    def __contains__(self, which: Parameter | str) -> bool:
        if isinstance(which, str):
            return self.root is not None and self.root.parameters().get(which) in self._entries
        return which in self._entries

    def __len__(self) -> int:
        return len(self._entries)
