"""What a layer holds: parameters that are trained, buffers that are only saved."""

from __future__ import annotations

from typing import Any

from xpcnn.backend import Array, dtype_name, get_backend
from xpcnn.errors import DtypeError

__all__ = ["Buffer", "Parameter", "State"]


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
