"""How a layer is built, as data: its kind, its constructor's arguments, its children.

The data are what JSON can hold: mappings, lists, texts, numbers, true, false and null. They hold no weights,
no seeds and no code.
"""

from __future__ import annotations

import functools
import inspect
import math
from collections.abc import Callable, Mapping
from typing import Any, TypeVar, cast

from xpcnn.backend import dtype_name, is_floating
from xpcnn.errors import ArgumentError
from xpcnn.nn.parameter import State
from xpcnn.nn.tree import Tree
from xpcnn.ops.op import in_words, plain
from xpcnn.plugins import check_name

__all__ = [
    "INITIAL",
    "MOST_NESTED",
    "PARTS",
    "Configurable",
    "builds_of_children",
    "constructor",
    "is_layer",
    "join_paths",
    "kind_named",
    "registered",
    "shown_arguments",
]

MOST_NESTED = 20
"""Layers in layers: JSON of ours is nested 50 deep at most, and each layer takes two of them."""

INITIAL = frozenset({"seed", "weight_init"})  # of the weights, which are loaded
PARTS = frozenset({"type", "arguments", "children"})

_kinds: dict[str, type[Configurable]] = {}
_names: dict[type, str] = {}

Kind = TypeVar("Kind", bound="type[Configurable]")


# -- a layer as data --------------------------------------------------------------------


class Configurable(Tree):
    """What can be described by data, and built of them again: the base of `Layer`."""

    def replace_child(self, path: str, layer: Any) -> None:
        """Put a layer in the place of the child of that path, such as ``"fc"`` or ``"blocks.0"``.

        Raises
        ------
        ArgumentError
            When there is no such child.
        TypeError
            When it is in a tuple, which cannot be changed.
        """
        if path not in self.children():
            raise ArgumentError(
                f"{type(self).__name__} has no child {in_words(path)} to replace; children: "
                f"{', '.join(self.children())}"
            )
        holder: Any = vars(self)
        *outer, last = path.split(".")
        for key in outer:
            holder = holder[key] if isinstance(holder, Mapping) else holder[int(key)]
        holder[last if isinstance(holder, Mapping) else int(last)] = layer

    def config(self) -> dict[str, Any]:
        """Return how this layer is built, as data that `nn.from_config` takes.

        Returns
        -------
        dict
            ``"type"``, the name that `nn.registered` gave its class; ``"arguments"`` of its constructor, but
            for seeds and initial weights; ``"children"``, the same of each child by its name. What is empty
            is left out. JSON can hold all of it.

        Raises
        ------
        ArgumentError
            For a layer that is not registered, with its path; for an argument that cannot be read back, or is
            nothing that JSON can hold; for parameters that stand in two places.

        Examples
        --------
        >>> from xpcnn import nn
        >>> nn.Sequential(act=nn.LeakyReLU(0.1)).config()
        {'type': 'Sequential', 'children': {'act': {'type': 'LeakyReLU', 'arguments': {'slope': 0.1}}}}
        """
        _require_separate(self)
        return _described(self, "", 0)

    def config_arguments(self) -> dict[str, Any]:
        """Return the constructor's arguments by name: numbers, texts, layers, and lists and dicts of such.

        Each is the attribute (or property) of the parameter's name. A class whose attributes are other ones
        overrides this. A parameter that says whether there is a `Parameter` of its name is True where there
        is one; one of which a `Parameter` was made is left out, as weights are; ``dtype`` may be that of the
        parameters.
        """
        found = {}
        for name, parameter in constructor(cast("Any", type(self))).items():
            value = _attribute(self, name, parameter)
            if not isinstance(value, State):
                found[name] = value
        return found


def _attribute(layer: Any, name: str, parameter: inspect.Parameter) -> Any:
    """Return the value for a parameter of a layer's constructor; a `State` for one that is left out."""
    kind = type(layer).__name__
    if not hasattr(layer, name):
        if name == "dtype":
            return _dtype_of(layer, parameter.default)
        raise ArgumentError(
            f"{kind}: its constructor takes {name!r}, but the layer has no attribute {name!r}; write "
            f"self.{name} = {name} in __init__, or define config_arguments"
        )
    value = getattr(layer, name)
    if isinstance(parameter.default, bool) and (value is None or isinstance(value, State)):
        return value is not None
    if isinstance(value, State) and parameter.default is inspect.Parameter.empty:
        raise ArgumentError(
            f"{kind}: its constructor takes {name!r}, of which only a {type(value).__name__} is kept; give "
            f"{name!r} a default, or define config_arguments"
        )
    return dtype_name(value) if name == "dtype" and not isinstance(value, str) else value


def _dtype_of(layer: Any, default: Any) -> Any:
    kinds = {dtype_name(state.dtype) for state in layer._states().values() if is_floating(state.dtype)}
    return kinds.pop() if len(kinds) == 1 else default


def _described(layer: Any, path: str, depth: int) -> dict[str, Any]:
    kind, where = type(layer), path or "the model"
    if kind not in _names:
        raise ArgumentError(
            f'{where} is a {kind.__qualname__}, which is not registered: put @nn.registered("NAME") before '
            f"its class"
        )
    if depth > MOST_NESTED:
        raise ArgumentError(f"{path:.60}…: layers are nested more than {MOST_NESTED} deep")
    given: set[int] = set()

    def data(value: Any, what: str) -> Any:
        if isinstance(value, Configurable):
            given.add(id(value))
            return _described(value, join_paths(path, what), depth + 1)
        value = value if type(value) in _PLAIN else plain(value)
        if isinstance(value, list | tuple):
            return [data(one, f"{what}.{i}") for i, one in enumerate(value)]
        if isinstance(value, Mapping):
            if not all(isinstance(name, str) for name in value):
                raise ArgumentError(f"{where}: {kind.__name__}.{what}: a mapping's keys must be texts")
            if is_layer(value):
                raise ArgumentError(
                    f"{where}: {kind.__name__}.{what}: a mapping with the key 'type' would be read as a "
                    f"layer; rename the key"
                )
            return {name: data(one, f"{what}.{name}") for name, one in value.items()}
        if type(value) not in _PLAIN or (type(value) is float and not math.isfinite(value)):
            raise ArgumentError(
                f"{where}: {kind.__name__}.{what} is {in_words(value)}, which no file can hold; define "
                f"config_arguments, and build it of numbers and texts"
            )
        return value

    arguments = {name: data(value, name) for name, value in _arguments_of(layer, where).items()}
    children = {
        name: _described(child, join_paths(path, name), depth + 1)
        for name, child in layer.children().items()
        if id(child) not in given
    }
    found: dict[str, Any] = {"type": _names[kind], "arguments": arguments, "children": children}
    return {name: part for name, part in found.items() if part}


def _arguments_of(layer: Any, where: str) -> Mapping[str, Any]:
    """Return what `config_arguments` returns: of somebody's own layer, it may fail in any way."""
    method = f"{type(layer).__name__}.config_arguments"
    try:
        found: Any = layer.config_arguments()
    except ArgumentError:
        raise
    except Exception as error:
        raise ArgumentError(f"{where}: {method}: {type(error).__name__}: {error}") from error
    if not isinstance(found, Mapping) or not all(isinstance(name, str) for name in found):
        raise ArgumentError(f"{where}: {method} must return arguments by name, got {in_words(found)}")
    return found


_PLAIN = (type(None), bool, int, float, str)


def is_layer(data: Any) -> bool:
    """Return whether data describe a layer, and are no mapping of other things."""
    return isinstance(data, Mapping) and isinstance(data.get("type"), str) and data.keys() <= PARTS


def _require_separate(layer: Any) -> None:
    """Require that no parameter or buffer stands in two places, which data cannot say."""
    seen: dict[int, str] = {}
    for path, state in layer._states().items():
        if id(state) in seen:
            raise ArgumentError(f"{seen[id(state)]} and {path} are one {type(state).__name__}")
        seen[id(state)] = path


def join_paths(path: str, name: str) -> str:
    """Return the path of a child."""
    return ".".join(part for part in (path, name) if part)


@functools.cache
def constructor(kind: Any) -> dict[str, inspect.Parameter]:
    """Return the parameters that the description of a layer holds: all but children and initial weights."""
    made_by: Any = kind.__init__
    if builds_of_children(kind):
        made_by = kind.from_children.__func__
    elif made_by is object.__init__:
        return {}
    eval_str = kind.__module__.startswith("xpcnn.")  # another's annotations may be anything
    _, *parameters = inspect.signature(made_by, eval_str=eval_str).parameters.values()
    del parameters[: builds_of_children(kind)]
    return {one.name: one for one in parameters if one.name not in INITIAL}


def builds_of_children(kind: Any) -> bool:
    """Return whether `from_children` makes instances: the class that has the constructor has it, too."""
    for base in kind.__mro__:
        if "__init__" in vars(base):
            return "from_children" in vars(base)
    return False


def shown_arguments(layer: Any) -> str:
    """Return the arguments of a layer's constructor in words, without those that are as by default."""
    try:
        given, shown = layer.config_arguments(), []
        for name, parameter in constructor(cast("Any", type(layer))).items():
            value, default = given.get(name), parameter.default
            if default is parameter.empty:
                shown.append(repr(value))
            elif name != "dtype" and value not in (default, (default, default)):
                shown.append(f"{name}={value!r}")
        return ", ".join(shown)
    except Exception:  # of somebody's own layer, which may still be in the making
        return ""


# -- kinds of layers --------------------------------------------------------------------


def registered(name: str) -> Callable[[Kind], Kind]:
    """Return a decorator that makes a class of layers known by a name, so that files can hold them.

    Each parameter of the class's constructor should have an attribute of the same name, or else the class
    define `config_arguments`. Seeds and initial weights need none.

    Parameters
    ----------
    name : str
        A letter, then letters, digits, dots, hyphens and underscores. Files refer to it: keep it.

    Raises
    ------
    ArgumentError
        For another spelling, or a name that another class has; for a class that is no `Layer`, or whose
        constructor takes ``*args`` or ``**kwargs`` that no method of its own describes.

    Examples
    --------
    >>> from xpcnn import nn
    >>> @nn.registered("example.Scale")
    ... class Scale(nn.Layer):
    ...     def __init__(self, factor: float = 1.0) -> None:
    ...         self.factor = factor
    >>> nn.from_config(Scale(2.0).config()).factor
    2.0
    """
    check_name("registered", name)

    def decorate(kind: Kind) -> Kind:
        if not isinstance(kind, type) or not issubclass(kind, Configurable):
            raise ArgumentError(
                f"registered: {in_words(kind)} is no class of layers; derive it from nn.Layer"
            )
        other = _kinds.get(name, kind)
        # A cell or a file that is run again makes the same class once more.
        if (other.__module__, other.__qualname__) != (kind.__module__, kind.__qualname__):
            raise ArgumentError(
                f"registered: the name {name!r} is that of {other.__module__}.{other.__qualname__} already; "
                f"choose another one, such as {'my.' + name!r}"
            )
        _require_readable(kind)
        _kinds[name], _names[kind] = kind, name
        return kind

    return decorate


def _require_readable(kind: Any) -> None:
    """Require that a class's arguments are read back by their names, or by a method of its own."""
    if builds_of_children(kind) or kind.config_arguments is not Configurable.config_arguments:
        return
    for one in constructor(kind).values():
        if one.kind in (one.VAR_POSITIONAL, one.VAR_KEYWORD, one.POSITIONAL_ONLY):
            raise ArgumentError(
                f"registered: the constructor of {kind.__qualname__} takes {one}, which has no name to "
                f"be read back by; give its parameters names, or define config_arguments and from_children"
            )
    for name in INITIAL.intersection(inspect.signature(kind).parameters):
        if inspect.signature(kind).parameters[name].default is inspect.Parameter.empty:
            raise ArgumentError(
                f"registered: the constructor of {kind.__qualname__} takes {name!r} without a default; files "
                f"hold no {name}, so give it one, such as {name}=None"
            )


def kind_named(name: str) -> Any:
    """Return the class that is registered under a name, or None."""
    return _kinds.get(name)
