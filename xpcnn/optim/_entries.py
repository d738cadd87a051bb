"""What an optimiser keeps for each parameter, and updates of many of them at once."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any, NamedTuple, TypeVar

from xpcnn.backend import Array, Backend, dtype_name
from xpcnn.errors import ArgumentError
from xpcnn.nn import Gradients, Parameter

__all__ = ["Due", "Entry", "alike", "kernel_of", "require_store", "together"]

Update = TypeVar("Update", bound=Callable[..., Any])


@dataclass
class Entry:
    """One parameter with the options that apply to it, how often it was updated, and its state."""

    parameter: Parameter
    lr_ratio: float = 1.0
    options: dict[str, Any] = field(default_factory=dict)
    steps: int = 0
    state: dict[str, Array] = field(default_factory=dict)


class Due(NamedTuple):
    """A parameter that a step updates; `data` and `gradient` are float32 where it is half precision."""

    entry: Entry
    data: Array
    gradient: Array
    backend: Backend


def together(kernel: str) -> Callable[[Update], Update]:
    """Mark an `Optimizer.update` as one that a backend may do for all parameters at once.

    The function of this name in `Backend.kernels`, where there is one, takes a list with
    ``(data, gradient, state, steps, options)`` for each parameter, all of one dtype. It changes the arrays in
    ``state`` in place and returns the list of new arrays, or NotImplemented. A subclass that defines an
    `update` of its own is not marked by this one.
    """

    def mark(update: Update) -> Update:
        update.kernel = kernel  # type: ignore[attr-defined]
        return update

    return mark


def kernel_of(update: Callable[..., Array], backend: Backend) -> Callable[..., Any] | None:
    """Return the backend's kernel for a marked `update`, if it has one."""
    return backend.kernels.get(getattr(update, "kernel", ""))


def alike(due: Iterable[Due]) -> list[list[Due]]:
    """Return what is due by backend and dtype."""
    groups: dict[tuple[Backend, str], list[Due]] = {}
    for one in due:
        groups.setdefault((one.backend, dtype_name(one.gradient.dtype)), []).append(one)
    return list(groups.values())


def require_store(where: str, grads: Any) -> None:
    """Refuse anything but a store of gradients."""
    if not isinstance(grads, Gradients):
        raise ArgumentError(
            f"{where}: grads must be the nn.Gradients that backward filled, got {type(grads).__name__}"
        )
