"""What a layer's attributes hold: layers, parameters and buffers, also in lists, tuples and dicts."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any, TypeVar

from xpcnn.errors import ArgumentError

if TYPE_CHECKING:
    from xpcnn.nn.layer import Layer

__all__ = ["DESCRIPTIONS", "PLAIN", "held", "walked"]

Kind = TypeVar("Kind")

_WITHOUT_PATHS = (set, frozenset, deque)
DESCRIPTIONS = frozenset({"spec", "_spec", "_structure"})
"""Attributes that describe a model in words, and hold nothing."""

PLAIN = frozenset({type(None), bool, int, float, str})
"""Types of attributes that hold nothing; nor do tuples of them."""


def held(owner: Any, attributes: Mapping[str, Any], kind: type[Kind]) -> dict[str, Kind]:
    """Return all objects of a kind in the attributes of a layer, by path.

    Parameters
    ----------
    owner : Layer
        For the message.
    attributes : mapping of name to value
        An element of a list or tuple has the path ``"name.0"``, a value of a dict ``"name.key"``, and so on.
    kind : type

    Raises
    ------
    ArgumentError
        When one is in a set or deque, or in a dict under a key that makes no path; for a list that holds
        itself.

    Examples
    --------
    >>> list(held("it", {"body": [1.0, (2.0, "x")], "head": {"a": 3.0}}, float))
    ['body.0', 'body.1.0', 'head.a']
    """
    all_found: dict[str, Kind] = {}
    for name, value in attributes.items():
        if isinstance(value, kind):
            all_found[name] = value
        elif _containers.get(type(value), True) and _may_hold(type(value)) and name not in DESCRIPTIONS:
            all_found.update(_in(owner, name, value, kind))
    return all_found


_containers: dict[type, bool] = {}


def _may_hold(kind: type) -> bool:
    """Return whether objects of a type are containers, in which others are looked for."""
    found = _containers.get(kind)
    if found is None:
        found = _containers[kind] = issubclass(kind, (list, tuple, Mapping, *_WITHOUT_PATHS))
    return found


def walked(layer: Layer, path: str = "", around: tuple[Layer, ...] = ()) -> Iterator[tuple[str, Layer]]:
    """Yield a layer and all layers inside it with their paths, each before its children.

    Raises
    ------
    ArgumentError
        For a layer that is inside itself.
    """
    if any(layer is outer for outer in around):
        raise ArgumentError(
            f"{type(around[0]).__name__}: {path} is a {type(layer).__name__} inside itself; a layer cannot "
            f"keep one that is around it in an attribute"
        )
    yield path, layer
    for name, child in layer.children().items():
        yield from walked(child, f"{path}.{name}" if path and name else path or name, (*around, layer))


def _in(
    owner: Any, path: str, value: Any, kind: type[Kind], around: tuple[Any, ...] = ()
) -> Iterator[tuple[str, Kind]]:
    if isinstance(value, kind):
        yield path, value
    elif not _may_hold(type(value)):
        return
    elif any(value is outer for outer in around):
        raise ArgumentError(f"{type(owner).__name__}: {path} is a {type(value).__name__} that holds itself")
    elif isinstance(value, list | tuple):
        for i, element in enumerate(value):
            if not isinstance(element, kind) and not _may_hold(type(element)):
                continue  # such as the numbers of a size
            yield from _in(owner, f"{path}.{i}", element, kind, (*around, value))
    elif isinstance(value, Mapping):
        for key, element in value.items():
            for inner, found in _in(owner, f"{path}.{key}", element, kind, (*around, value)):
                if not isinstance(key, str) or not key or "." in key:
                    raise ArgumentError(
                        f"{type(owner).__name__}: {path} has a {type(found).__name__} under the key {key!r}; "
                        f"use texts without dots as keys"
                    )
                yield inner, found
    else:  # one of _WITHOUT_PATHS
        for element in value:
            for _, found in _in(owner, path, element, kind, (*around, value)):
                raise ArgumentError(
                    f"{type(owner).__name__}: {path} is a {type(value).__name__} that holds a "
                    f"{type(found).__name__}, which has no path there; use a list, a tuple or a dict"
                )
