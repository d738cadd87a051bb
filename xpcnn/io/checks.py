"""Values from a JSON file, held field by field against annotated classes.

The fields of a dataclass or NamedTuple are the names of a JSON object, and their annotations say
what each must be. So a class that is written to a file is also the description of what is read from it.
"""

from __future__ import annotations

import dataclasses
import inspect
import math
import types
from collections.abc import Mapping, Sequence
from typing import Annotated, Any, Literal, NamedTuple, NoReturn, Union, get_args, get_origin, get_type_hints

from xpcnn.errors import CheckpointError
from xpcnn.io.json_files import brief

__all__ = ["Range", "checked"]


class Range(NamedTuple):
    """The numbers from `least` to `most`, for use in an annotation; without `least` itself where `above`.

    Examples
    --------
    >>> checked(Annotated[float, Range(0, above=True)], 0, "config.json", "lr")
    Traceback (most recent call last):
        ...
    xpcnn.errors.CheckpointError: config.json: lr: expected a number above 0, got 0
    """

    least: float = -math.inf
    most: float = math.inf
    above: bool = False

    def __contains__(self, number: object) -> bool:
        assert isinstance(number, int | float)
        return self.least <= number <= self.most and not (self.above and number == self.least)

    def __str__(self) -> str:
        low = "" if self.least == -math.inf else f" {'above' if self.above else 'of at least'} {self.least}"
        return low if self.most == math.inf else f"{low}{' and' if low else ''} of at most {self.most}"


def checked(kind: Any, value: Any, where: str, place: str = "", *, more: bool = False) -> Any:
    """Return a value of a JSON file as `kind`, which is a type as an annotation names it.

    Parameters
    ----------
    kind : type
        `int`, `float` (whole numbers become such), `bool`, `str`, None, `Any`; a union, list, tuple or
        dict of those; ``Literal[…]``; ``Annotated[int, Range(1)]``; a dataclass or NamedTuple.
    value
        As `parse_json` returned it; tuples may stand for lists.
    where, place : str
        The file, and the value's place in it, for messages.
    more : bool
        Whether an object may have names that its class does not know; they are left out.

    Raises
    ------
    CheckpointError
        When it is something else; the message names the field, what was expected and what is there.

    Examples
    --------
    >>> checked(dict[str, list[float]], {"losses": [2, 1.5]}, "history.json")
    {'losses': [2.0, 1.5]}
    >>> checked(dict[str, list[float]], {"losses": [2, "1"]}, "history.json")
    Traceback (most recent call last):
        ...
    xpcnn.errors.CheckpointError: history.json: losses[1]: expected a number, got '1'
    """
    try:
        return _checked(kind, value, place, more)
    except _MisfitError as error:
        raise CheckpointError(f"{where}: {error}") from None


class _MisfitError(Exception):
    """A value at a place is not what it must be."""

    def __init__(self, place: str, problem: str) -> None:
        super().__init__(f"{place}: {problem}" if place else problem)


def _checked(kind: Any, value: Any, place: str, more: bool = False) -> Any:
    if dataclasses.is_dataclass(kind) or hasattr(kind, "_fields"):
        return _record(kind, value, place, more)
    origin, inner = get_origin(kind), get_args(kind)
    if origin is Annotated:
        found = _checked(inner[0], value, place)
        return found if found in inner[1] else _fail(place, _name(*inner), value)
    if origin in (Union, types.UnionType):
        return _one_of(inner, kind, value, place)
    if origin is Literal:
        among = any(type(value) is type(one) and value == one for one in inner)
        return value if among else _fail(place, f"one of {', '.join(map(repr, inner))}", value)
    if origin in (list, Sequence) and isinstance(value, list | tuple):
        kinds = get_args(inner[0]) if get_origin(inner[0]) in (Union, types.UnionType) else inner
        if set(map(type, value)) <= _PLAIN.intersection(kinds):
            return list(value)  # quick, as losses are many
        return [_checked(inner[0], item, f"{place}[{i}]") for i, item in enumerate(value)]
    if origin is tuple and isinstance(value, list | tuple) and (inner[-1] is ... or len(inner) == len(value)):
        kinds = inner if inner[-1] is not ... else inner[:1] * len(value)
        pairs = enumerate(zip(kinds, value, strict=True))
        return tuple(_checked(one, item, f"{place}[{i}]") for i, (one, item) in pairs)
    if origin in (dict, Mapping) and isinstance(value, dict):
        return {name: _checked(inner[1], item, _field(place, name)) for name, item in value.items()}
    if kind is float and type(value) is int and abs(value) < 2**1023:
        return float(value)
    if kind is Any or (kind in (None, types.NoneType) and value is None) or type(value) is kind:
        return value
    return _fail(place, _name(kind), value)


_PLAIN = {int, float, str, bool, types.NoneType}


def _record(kind: Any, value: Any, place: str, more: bool) -> Any:
    """Return an object as an instance of a class with annotated fields."""
    if not isinstance(value, dict):
        _fail(place, "a mapping", value)
    kinds, own = get_type_hints(kind, include_extras=True), inspect.signature(kind).parameters
    missing = [name for name, item in own.items() if item.default is item.empty and name not in value]
    if missing:
        raise _MisfitError(place, f"lacks {', '.join(missing)}")
    unknown = [brief(name) for name in value if name not in own]
    if unknown and not more:
        raise _MisfitError(place, f"has the unknown entry {unknown[0]}")
    known = {name: item for name, item in value.items() if name in own}
    return kind(**{name: _checked(kinds[name], item, _field(place, name)) for name, item in known.items()})


def _one_of(kinds: tuple[Any, ...], union: Any, value: Any, place: str) -> Any:
    """Return a value as the first of several kinds that takes it."""
    problems = []
    for kind in kinds:
        try:
            return _checked(kind, value, place)
        except _MisfitError as error:
            if kind is not types.NoneType:
                problems.append(error)
    if len(problems) == 1 and value is not None:  # of `X | None`, what X says
        raise problems[0]
    return _fail(place, _name(union), value)


_NAMES = {
    int: "a whole number",
    float: "a number",
    str: "text",
    bool: "true or false",
    None: "null",
    types.NoneType: "null",
    list: "a list",
    dict: "a mapping",
    tuple: "a list",
    Sequence: "a list",
    Mapping: "a mapping",
}


def _name(kind: Any, allowed: object = "") -> str:
    origin, inner = get_origin(kind), get_args(kind)
    if origin in (Union, types.UnionType):
        return " or ".join(dict.fromkeys(map(_name, inner)))
    if origin is Annotated:
        return _name(*inner)
    if origin is tuple and inner[-1] is not ...:
        return f"a list of {len(inner)}"
    return f"{_NAMES.get(origin or kind, 'an object')}{allowed}"


def _fail(place: str, expected: str, value: Any) -> NoReturn:
    raise _MisfitError(place, f"expected {expected}, got {brief(value)}")


def _field(place: str, name: str) -> str:
    """Return the place of a field within another."""
    shown = name if name.isidentifier() and len(name) <= 40 else brief(name)
    return f"{place}.{shown}" if place else shown
