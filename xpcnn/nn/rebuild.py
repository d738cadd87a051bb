"""A layer from data that describe it: strictly checked, and nothing in it is run."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Mapping
from typing import Any

from xpcnn.errors import ArgumentError, CheckpointError, UnknownLayerError, XpcnnError
from xpcnn.io import checked
from xpcnn.nn.config import (
    MOST_NESTED,
    PARTS,
    builds_of_children,
    constructor,
    is_layer,
    join_paths,
    kind_named,
)
from xpcnn.nn.init import replacing
from xpcnn.ops.op import in_words

__all__ = ["from_config"]


def from_config(data: Any) -> Any:
    """Return a new layer as `Layer.config` describes it, on the current backend.

    Its weights are freshly drawn; `load_state_dict` loads the saved ones.

    Parameters
    ----------
    data : mapping
        As `Layer.config` returned it, or as JSON did of that.

    Returns
    -------
    Layer

    Raises
    ------
    UnknownLayerError
        For a type that is not registered.
    ArgumentError
        For data that describe no layer, such as an argument that the layer does not take, with its path.

    Examples
    --------
    >>> from xpcnn import nn
    >>> nn.from_config({"type": "Linear", "arguments": {"in_features": 3, "out_features": 2}})
    Linear(3, 2)
    """
    try:
        return _built(data, "", 0)
    except RecursionError:
        raise ArgumentError("from_config: nested too deep") from None


def _built(data: Any, path: str, depth: int) -> Any:
    where = f"from_config: {path or 'the model'}"
    if depth > MOST_NESTED:
        raise ArgumentError(f"from_config: {path:.60}…: layers are nested more than {MOST_NESTED} deep")
    name, arguments, children = _parts(data, where)
    kind = kind_named(name)
    if kind is None:
        raise UnknownLayerError(
            f"{where} is a {name!r:.90}, which is no known layer; import the file whose class has "
            f"@nn.registered({name!r:.90}) first: on the command line, by --import FILE.py"
        )
    where = f"{where} ({name})"

    if not children or builds_of_children(kind):
        return _layer(kind, arguments, children, path, depth, where)
    with replacing() as count:
        layer = _layer(kind, arguments, children, path, depth, where)
        _made(lambda: count(sum(math.prod(state.shape) for state in layer._states().values())), where)
    return layer


def _layer(
    kind: Any, arguments: Mapping[str, Any], children: Mapping[str, Any], path: str, depth: int, where: str
) -> Any:
    given: set[int] = set()

    def value(data: Any, what: str) -> Any:
        if is_layer(data):
            layer = _built(data, join_paths(path, what), depth + 1)
            given.add(id(layer))
            return layer
        if isinstance(data, list | tuple):
            return tuple(value(one, f"{what}.{i}") for i, one in enumerate(data))
        if isinstance(data, Mapping):
            return {key: value(one, f"{what}.{key}") for key, one in data.items()}
        return data

    found = {what: value(data, what) for what, data in _checked_arguments(kind, arguments, where).items()}
    if builds_of_children(kind):
        layers = {child: _built(part, join_paths(path, child), depth + 1) for child, part in children.items()}
        layer = _made(lambda: kind.from_children(layers, **found), where)
    else:
        layer = _made(lambda: kind(**found), where)
        own = _made(layer.children, where)
        for child, part in children.items():
            if child not in own or _config_of(own[child]) != part:
                other = _built(part, join_paths(path, child), depth + 1)
                _made(functools.partial(layer.replace_child, child, other), where)
    names = [child for child, one in layer.children().items() if id(one) not in given]
    if names != list(children):
        raise ArgumentError(
            f"{where}: it is built with the children {', '.join(names) or 'none'}, but the description has "
            f"{', '.join(map(in_words, children)) or 'none'}"
        )
    return layer


def _config_of(layer: Any) -> dict[str, Any] | None:
    try:
        config: dict[str, Any] = layer.config()
    except ArgumentError:
        return None
    return config


def _made(make: Callable[[], Any], where: str) -> Any:
    try:
        return make()
    except MemoryError:
        raise
    except Exception as error:  # of any kind: the arguments may be odd, and the class another's
        reason = error if isinstance(error, XpcnnError | ValueError | TypeError) else repr(error)
        raise ArgumentError(f"{where}: {reason!s:.500}") from error


def _parts(data: Any, where: str) -> tuple[str, Mapping[str, Any], Mapping[str, Any]]:
    """Return the type, the arguments and the children that data name."""
    if not isinstance(data, Mapping):
        raise ArgumentError(f"{where}: expected a mapping with a type, got {in_words(data)}")
    unknown = [in_words(name) for name in data if name not in PARTS]
    if unknown or not isinstance(data.get("type"), str):
        problem = f"has the unknown entry {unknown[0]}" if unknown else "lacks a type, the name of a layer"
        raise ArgumentError(f"{where}: {problem}")
    parts = [data.get(name, {}) for name in ("arguments", "children")]
    for name, part in zip(("arguments", "children"), parts, strict=True):
        if not isinstance(part, Mapping) or not all(isinstance(key, str) for key in part):
            raise ArgumentError(f"{where}: {name}: expected a mapping, got {in_words(part)}")
    return data["type"], parts[0], parts[1]


def _checked_arguments(kind: type, arguments: Mapping[str, Any], where: str) -> Mapping[str, Any]:
    """Return arguments that a constructor takes, of the types that its annotations name where it is ours."""
    known = constructor(kind)
    unknown = [in_words(name) for name in arguments if name not in known]
    if unknown:
        raise ArgumentError(f"{where}: has no argument {unknown[0]}; it has {', '.join(known) or 'none'}")
    missing = [name for name, one in known.items() if one.default is one.empty and name not in arguments]
    if missing:
        raise ArgumentError(f"{where}: lacks the argument {missing[0]!r}")
    if not kind.__module__.startswith("xpcnn."):
        return arguments
    try:
        return {
            name: value if is_layer(value) else checked(known[name].annotation, value, where, name)
            for name, value in arguments.items()
        }
    except CheckpointError as error:
        raise ArgumentError(str(error)) from error
