"""A layer as data, and back: its kind, its constructor's arguments, its children.

The data are what JSON can hold: mappings, lists, texts, numbers, true, false and null. They hold no weights,
no seeds and no code, and nothing in them is run.
"""

from __future__ import annotations

import functools
import inspect
import math
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple, TypeVar, cast

from xpcnn.backend import dtype_name, is_floating
from xpcnn.errors import ArgumentError, CheckpointError, UnknownLayerError, XpcnnError
from xpcnn.io import checked
from xpcnn.nn.parameter import State
from xpcnn.nn.tree import PLAIN, Tree, join_paths
from xpcnn.ops.op import in_words, plain
from xpcnn.plugins import check_name

__all__ = ["INITIAL", "Configurable", "from_config", "registered", "shown_arguments"]

INITIAL = frozenset({"seed", "weight_init"})  # of the weights, which are loaded

_kinds: dict[str, type[Configurable]] = {}
_names: dict[type, str] = {}

Kind = TypeVar("Kind", bound="type[Configurable]")


class _Parts(NamedTuple):
    type: str
    arguments: dict[str, Any] = {}  # noqa: RUF012  (nobody changes it)
    children: dict[str, Any] = {}  # noqa: RUF012


# -- to data ----------------------------------------------------------------------------


class Configurable(Tree):
    """What can be described by data, and built of them again: the base of `Layer`."""

    def replace_child(self, path: str, layer: Any) -> None:
        """Put a layer in the place of the child of that path, such as ``"fc"`` or ``"blocks.0"``."""
        if path not in self.children():
            known = ", ".join(self.children())
            raise ArgumentError(f"{type(self).__name__} has no child {in_words(path)} to replace: {known}")
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
        seen: dict[int, str] = {}
        for path, state in self._states().items():
            if (first := seen.setdefault(id(state), path)) != path:
                raise ArgumentError(f"{first} and {path} are one {type(state).__name__}")
        return _described(self, "")

    def config_arguments(self) -> dict[str, Any]:
        """Return the constructor's arguments by name: numbers, texts, layers, and lists and dicts of such.

        Each is the attribute (or property) of the parameter's name. A class whose attributes are other ones
        overrides this. A parameter that says whether there is a `Parameter` of its name is True where there
        is one; one of which a `Parameter` was made is left out, as weights are; ``dtype`` may be that of the
        parameters.
        """
        found: dict[str, Any] = {}
        for name, parameter in _constructor(cast("Any", type(self))).items():
            if not hasattr(self, name) and name != "dtype":
                raise ArgumentError(
                    f"{type(self).__name__}: its constructor takes {name!r}, but the layer has no attribute "
                    f"{name!r}; write self.{name} = {name} in __init__, or define config_arguments"
                )
            value = getattr(self, name, None)
            if name == "dtype":
                states = self._states().values() if value is None else ()
                kinds = {dtype_name(state.dtype) for state in states if is_floating(state.dtype)}
                value = kinds.pop() if len(kinds) == 1 else value or parameter.default
                found[name] = value if isinstance(value, str) else dtype_name(value)
            elif isinstance(parameter.default, bool) and (value is None or isinstance(value, State)):
                found[name] = value is not None
            elif not isinstance(value, State):
                found[name] = value
        return found


def _described(layer: Any, path: str) -> dict[str, Any]:
    kind, where = type(layer), path or "the model"
    if kind not in _names:
        raise ArgumentError(
            f'{where} is a {kind.__qualname__}, which is not registered: put @nn.registered("NAME") before '
            f"its class"
        )
    given: set[int] = set()

    def data(value: Any, what: str) -> Any:
        if isinstance(value, Configurable):
            given.add(id(value))
            return _described(value, join_paths(path, what))
        value = plain(value)
        if isinstance(value, tuple):
            return [data(one, f"{what}.{i}") for i, one in enumerate(value)]
        problem = ""
        if isinstance(value, Mapping):
            if all(isinstance(name, str) for name in value) and not _is_layer(value):
                return {name: data(one, f"{what}.{name}") for name, one in value.items()}
            problem = "a mapping's keys must be texts, and not 'type', which makes a layer"
        elif type(value) not in PLAIN or (type(value) is float and not math.isfinite(value)):
            problem = "no file can hold it; define config_arguments, and build it of numbers and texts"
        if problem:
            raise ArgumentError(f"{where}: {kind.__name__}.{what} is {in_words(value)}: {problem}")
        return value

    its_arguments = _made(lambda: dict(layer.config_arguments()), where)
    arguments = {name: data(value, name) for name, value in its_arguments.items()}
    children = {
        name: _described(child, join_paths(path, name))
        for name, child in layer.children().items()
        if id(child) not in given
    }
    found: dict[str, Any] = {"type": _names[kind], "arguments": arguments, "children": children}
    return {name: part for name, part in found.items() if part}


def _is_layer(data: Any) -> bool:
    """Return whether data describe a layer, and are no mapping of other things."""
    return isinstance(data, Mapping) and isinstance(data.get("type"), str) and {*data} <= {*_Parts._fields}


@functools.cache
def _constructor(kind: Any) -> dict[str, inspect.Parameter]:
    """Return the parameters that the description of a layer holds: all but children and initial weights."""
    made_by: Any = kind.__init__
    if _is_made_of_children(kind):
        made_by = kind.from_children.__func__
    elif made_by is object.__init__:
        return {}
    _, *parameters = inspect.signature(made_by).parameters.values()
    del parameters[: _is_made_of_children(kind)]
    return {one.name: one for one in parameters if one.name not in INITIAL}


def _is_made_of_children(kind: Any) -> bool:
    """Return whether `from_children` makes instances: the class that has the constructor has it, too."""
    return next("from_children" in vars(base) for base in kind.__mro__ if "__init__" in vars(base))


def shown_arguments(layer: Any) -> str:
    """Return the arguments of a layer's constructor in words, without those that are as by default."""
    try:
        given, shown = layer.config_arguments(), []
        for name, parameter in _constructor(cast("Any", type(layer))).items():
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
    define `config_arguments`. Seeds and initial weights need none, but defaults.

    Parameters
    ----------
    name : str
        A letter, then letters, digits, dots, hyphens and underscores. Files refer to it: keep it.

    Raises
    ------
    ArgumentError
        For another spelling, or a name that another class has; for a class that is no `Layer`.

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
        _kinds[name], _names[kind] = kind, name
        return kind

    return decorate


# -- from data --------------------------------------------------------------------------


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
        return _built(data, "")
    except RecursionError:
        raise ArgumentError("from_config: nested too deep") from None


def _built(data: Any, path: str) -> Any:
    where = f"from_config: {path or 'the model'}"
    try:
        name, arguments, children = checked(_Parts, data, where)
    except CheckpointError as error:
        raise ArgumentError(str(error)) from error
    if name not in _kinds:
        raise UnknownLayerError(
            f"{where} is a {name!r:.90}, which is no known layer; import the file whose class has "
            f"@nn.registered({name!r:.90}) first: on the command line, by --import FILE.py"
        )
    kind: Any = _kinds[name]
    given: set[int] = set()

    def value(data: Any, what: str) -> Any:
        if _is_layer(data):
            layer = _built(data, join_paths(path, what))
            given.add(id(layer))
            return layer
        if isinstance(data, list | tuple):
            return tuple(value(one, f"{what}.{i}") for i, one in enumerate(data))
        if isinstance(data, Mapping):
            return {key: value(one, f"{what}.{key}") for key, one in data.items()}
        return data

    where = f"{where} ({name})"
    found = {what: value(one, what) for what, one in arguments.items()}
    if _is_made_of_children(kind):
        parts = {child: _built(part, join_paths(path, child)) for child, part in children.items()}
        layer = _made(lambda: kind.from_children(parts, **found), where)
    else:
        layer = _made(lambda: kind(**found), where)
        own = _made(layer.children, where)
        for child, part in children.items():
            if child not in own or not _is_described(own[child], part):
                other = _built(part, join_paths(path, child))
                _made(functools.partial(layer.replace_child, child, other), where)
    names = [child for child, one in layer.children().items() if id(one) not in given]
    if names != list(children):
        raise ArgumentError(
            f"{where}: it is built with the children {', '.join(names) or 'none'}, but the description has "
            f"{', '.join(map(in_words, children)) or 'none'}"
        )
    return layer


def _is_described(layer: Any, data: Any) -> bool:
    """Return whether data are the description of a layer that is there."""
    try:
        return bool(layer.config() == data)
    except ArgumentError:
        return False


def _made(make: Callable[[], Any], where: str) -> Any:
    try:
        return make()
    except MemoryError:
        raise
    except Exception as error:  # of any kind: the arguments may be odd, and the class another's
        reason = error if isinstance(error, XpcnnError | ValueError | TypeError) else repr(error)
        raise ArgumentError(f"{where}: {reason!s:.500}") from error
