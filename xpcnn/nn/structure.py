"""Whether a model is still what its recipe builds, or was changed since: a child replaced, an option set."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

from xpcnn.nn.held import walked

if TYPE_CHECKING:
    from xpcnn.nn.layer import Layer

__all__ = ["structure_of"]

_PLAIN = (str, int, float, bool, type(None))
# How a result is computed is no part of what it is. A file keeps mean and std beside the recipe.
_PASSED_OVER = frozenset({"recipe", "algorithm", "_structure", "_layers", "_mean", "_std", "_dtype"})


def structure_of(layer: Layer) -> tuple[str, ...]:
    """Return kinds, options and shapes of all layers of a model, by path; values and dtypes do not count.

    Examples
    --------
    >>> from xpcnn import nn
    >>> structure_of(nn.Sequential(fc=nn.Linear(2, 3), act=nn.LeakyReLU(0.1)))[2:]
    ('fc.weight (3, 2)', 'fc.bias (3,)', 'act LeakyReLU slope=0.1')
    """
    return tuple(line for path, one in walked(layer) for line in _lines(one, path))


def _lines(layer: Layer, path: str) -> Iterator[str]:
    options = [f"{name}={_plain(value)}" for name, value in vars(layer).items() if name not in _PASSED_OVER]
    yield " ".join([path or "it", type(layer).__qualname__, *options])
    for name, state in layer.own_states().items():
        yield f"{path}.{name} {state.shape}"


def _plain(value: Any) -> str:
    """Return an option in words: a plain value as it is, of anything else its kind."""
    if isinstance(value, _PLAIN):
        return repr(value)
    if isinstance(value, list | tuple):
        return f"({', '.join(map(_plain, value))})"
    if isinstance(value, Mapping):
        return f"{{{', '.join(f'{name}: {_plain(inner)}' for name, inner in value.items())}}}"
    return type(value).__qualname__
