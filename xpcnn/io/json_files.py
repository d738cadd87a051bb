"""JSON within bounds, and its values held field by field against annotated classes.

JSON can say more than our files ever do: lists in lists without end, numbers of any length, NaN, a name
twice. Here all that is refused, with one kind of error.

The fields of a dataclass or NamedTuple are the names of a JSON object, and their annotations say
what each must be. So a class that is written to a file is also the description of what is read from it.
"""

from __future__ import annotations

import dataclasses
import inspect
import json
import math
import re
import types
from collections.abc import Mapping, Sequence
from os import PathLike
from typing import Annotated, Any, Literal, NamedTuple, Union, get_args, get_origin, get_type_hints

from xpcnn.arguments import in_words, plain
from xpcnn.errors import CheckpointError
from xpcnn.io.files import replacing

__all__ = ["Range", "checked", "parse_json", "read_json", "write_json"]

MOST_BYTES = 1 << 28
"""Of a JSON file; that of a run of ten million steps is smaller."""

MOST_DEPTH = 50
MOST_DIGITS = 80  # seeds have up to 39

_MARKS = re.compile(r'"[^"\\]*(?:\\.[^"\\]*)*"|[\[{]|[\]}]')


def read_json(path: str | PathLike[str]) -> Any:
    """Return what a JSON file of at most `MOST_BYTES` bytes holds.

    Raises
    ------
    CheckpointError
        When the file is missing, cannot be read, is too large, or is refused by `parse_json`.
    """
    try:
        with open(path, "rb") as file:
            content = file.read(MOST_BYTES + 1)
    except FileNotFoundError:
        raise CheckpointError(f"{path}: no such file") from None
    except (OSError, ValueError) as error:  # a ValueError for a name with a null byte
        raise CheckpointError(f"{path}: cannot be read: {getattr(error, 'strerror', error)}") from error
    if len(content) > MOST_BYTES:
        raise CheckpointError(f"{path}: larger than {MOST_BYTES:,} bytes, the most that is read")
    return parse_json(content, f"{path}: unreadable")


def parse_json(text: str | bytes, where: str) -> Any:
    """Return what JSON text says; `where` stands for it in messages.

    Raises
    ------
    CheckpointError
        For text that is not UTF-8 or no JSON. For NaN, infinity, whole numbers of more than 80 digits, a
        name twice in one object, and values nested more than 50 deep.

    Examples
    --------
    >>> parse_json('{"loss": 1e999}', "history.json")
    Traceback (most recent call last):
        ...
    xpcnn.errors.CheckpointError: history.json: 1e999 is no finite number
    """
    try:
        if isinstance(text, bytes):
            text = text.decode("utf-8")
        value = json.loads(
            text, parse_int=_whole, parse_float=_finite, parse_constant=_finite, object_pairs_hook=_object
        )
    except RecursionError:
        raise CheckpointError(f"{where}: nested too deep") from None
    except ValueError as error:  # json's errors and those of decoding are such
        raise CheckpointError(f"{where}: {error}") from error
    depth = 0
    for mark in _MARKS.finditer(text):  # the text is JSON: the marks are in pairs
        depth += {"[": 1, "{": 1, "]": -1, "}": -1}.get(mark[0], 0)
        if depth > MOST_DEPTH:
            raise CheckpointError(f"{where}: nested more than {MOST_DEPTH} deep")
    return value


def write_json(path: str | PathLike[str], value: Any) -> None:
    """Write a value as JSON that `read_json` reads; a file that is there is replaced whole or not at all.

    NumPy's numbers are written as Python's.

    Raises
    ------
    CheckpointError
        When the file cannot be written.
    ValueError
        For NaN and infinite numbers, which JSON has not.
    """
    text = json.dumps(plain(value), indent=1, allow_nan=False) + "\n"
    with replacing(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def _whole(digits: str) -> int:
    if len(digits) > MOST_DIGITS:
        raise ValueError(f"a number of {len(digits):,} digits")
    return int(digits)


def _finite(text: str) -> float:
    number = float(text)
    if not math.isfinite(number):
        raise ValueError(f"{text:.40} is no finite number")
    return number


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for name, value in pairs:
        if name in found:
            raise ValueError(f"{brief(name)} stands there twice")
        found[name] = value
    return found


def brief(value: Any) -> str:
    """Return a value as a message shows it: escaped, on one line, and short."""
    if isinstance(value, list | dict):
        what = "a list" if isinstance(value, list) else "a mapping"
        return f"{what} of {len(value)}"
    text = ascii(value) if isinstance(value, str) else in_words(value)
    return text if len(text) <= 40 else f"{text[:37]}…"


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
    if dataclasses.is_dataclass(kind) or hasattr(kind, "_fields"):
        return _record(kind, value, where, place, more)
    origin, inner = get_origin(kind), get_args(kind)
    if origin is Annotated:
        found = checked(inner[0], value, where, place)
        if found in inner[1]:
            return found
    elif origin in (Union, types.UnionType):
        return _one_of(inner, kind, value, where, place)
    elif origin is Literal:
        if any(type(value) is type(one) and value == one for one in inner):
            return value
    elif origin in _LISTS and isinstance(value, list | tuple):
        plain = get_args(inner[0]) if get_origin(inner[0]) in (Union, types.UnionType) else inner
        if origin is not tuple and set(map(type, value)) <= _PLAIN.intersection(plain):
            return list(value)  # quick, as losses are many
        kinds = inner[:1] * len(value) if origin is not tuple or inner[-1] is ... else inner
        if len(kinds) == len(value):
            pairs = enumerate(zip(kinds, value, strict=True))
            items = [checked(one, item, where, f"{place}[{i}]") for i, (one, item) in pairs]
            return tuple(items) if origin is tuple else items
    elif origin in _MAPPINGS and isinstance(value, dict):
        return {name: checked(inner[1], item, where, _field(place, name)) for name, item in value.items()}
    elif kind is float and type(value) is int and abs(value) < 2**1023:
        return float(value)
    elif kind is Any or type(value) is (types.NoneType if kind is None else kind):
        return value
    raise _misfit(where, place, f"expected {_name(kind)}, got {brief(value)}")


def _misfit(where: str, place: str, problem: str) -> CheckpointError:
    return CheckpointError(f"{where}: {place}: {problem}" if place else f"{where}: {problem}")


def _record(kind: Any, value: Any, where: str, place: str, more: bool) -> Any:
    """Return an object as an instance of a class with annotated fields."""
    if not isinstance(value, dict):
        raise _misfit(where, place, f"expected a mapping, got {brief(value)}")
    kinds, own = get_type_hints(kind, include_extras=True), inspect.signature(kind).parameters
    missing = [name for name, item in own.items() if item.default is item.empty and name not in value]
    if missing:
        raise _misfit(where, place, f"lacks {', '.join(missing)}")
    unknown = [brief(name) for name in value if name not in own]
    if unknown and not more:
        raise _misfit(where, place, f"has the unknown entry {unknown[0]}")
    known = {name: value[name] for name in own if name in value}
    return kind(
        **{name: checked(kinds[name], item, where, _field(place, name)) for name, item in known.items()}
    )


def _one_of(kinds: tuple[Any, ...], union: Any, value: Any, where: str, place: str) -> Any:
    """Return a value as the first of several kinds that takes it."""
    problems = []
    for kind in kinds:
        try:
            return checked(kind, value, where, place)
        except CheckpointError as error:
            if kind is not types.NoneType:
                problems.append(error)
    if len(problems) == 1:  # of `X | None`, what X says
        raise problems[0]
    raise _misfit(where, place, f"expected {_name(union)}, got {brief(value)}")


_LISTS, _MAPPINGS = (list, tuple, Sequence), (dict, Mapping)
_PLAIN = {int, float, str, bool, types.NoneType}
_NAMES: dict[Any, str] = {int: "a whole number", float: "a number", str: "text", bool: "true or false"}
_NAMES |= {None: "null", types.NoneType: "null"}
_NAMES |= dict.fromkeys(_LISTS, "a list") | dict.fromkeys(_MAPPINGS, "a mapping")


def _name(kind: Any) -> str:
    origin, inner = get_origin(kind), get_args(kind)
    if origin in (Union, types.UnionType):
        return " or ".join(dict.fromkeys(map(_name, inner)))
    if origin is Annotated:
        return f"{_name(inner[0])}{inner[1]}"
    if origin is Literal:
        return f"one of {', '.join(map(repr, inner))}"
    if origin is tuple and inner[-1] is not ...:
        return f"a list of {len(inner)}"
    return _NAMES.get(origin or kind, "an object")


def _field(place: str, name: str) -> str:
    """Return the place of a field within another."""
    shown = name if name.isidentifier() and len(name) <= 40 else brief(name)
    return f"{place}.{shown}" if place else shown
