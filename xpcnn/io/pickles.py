"""Read pickles of weights without running them.

A pickle is a program for a small stack machine, and some of its instructions look up functions and call them:
to load one is to run what its author wrote. This machine has the instructions that build data, and knows by
name the few functions with which NumPy's arrays are pickled. It looks nothing up, imports nothing and calls
nothing on the file's behalf; it makes those arrays itself, from bytes that are in the file. Whatever else a
pickle asks for is refused.
"""

from __future__ import annotations

import math
import pickletools
import re
from collections.abc import Callable, Sequence
from os import PathLike
from pathlib import Path
from typing import Any, NamedTuple

import numpy

from xpcnn.errors import CheckpointError

__all__ = ["read_pickle"]

MOST_INSTRUCTIONS = 2_000_000
"""A few dozen make an array, however large. The limit bounds what one-byte instructions can take."""

_MOST_NOTES = 1 << 32
_SMALL_CHANGE = 1 << 16


def read_pickle(path: str | PathLike[str]) -> Any:
    """Return what a pickle holds: NumPy arrays of numbers, dicts, lists, tuples, text and numbers alone.

    Parameters
    ----------
    path : path-like
        A pickle of any protocol, of NumPy 1 or 2; one of Python 2 in protocol 1 or 2. The keys of its dicts
        are text.

    Raises
    ------
    CheckpointError
        When the file is missing or damaged, or asks for anything else; nothing of it has been run then.

    Examples
    --------
    >>> import pickle, tempfile
    >>> path = Path(tempfile.mkdtemp()) / "params.pkl"
    >>> _ = path.write_bytes(pickle.dumps({"b1": numpy.zeros(2)}))
    >>> read_pickle(path)
    {'b1': array([0., 0.])}
    >>> _ = path.write_bytes(pickle.dumps({"b1": print}))
    >>> read_pickle(path)                                              # doctest: +ELLIPSIS
    Traceback (most recent call last):
        ...
    xpcnn.errors.CheckpointError: ...: refused: the pickle asks for builtins.print; ...
    """
    try:
        content = Path(path).read_bytes()
    except OSError as error:
        raise CheckpointError(f"{path}: cannot be read: {error.strerror or error}") from error
    try:
        result = _Machine(content).run()
        _check_plain(result)
    except RefusedError as error:
        raise CheckpointError(
            f"{path}: refused: the pickle {error}; only arrays of numbers, dicts, lists, tuples, text and "
            f"numbers are read, and nothing was run. If you made the file, unpickle it yourself and write "
            f"its arrays with numpy.savez"
        ) from None
    except Exception as error:  # a damaged file fails in pickletools, in NumPy or here, in a dozen ways
        reason = f"{type(error).__name__}: {error}"
        raise CheckpointError(f"{path}: not a readable pickle: {reason[:200]}") from error
    return result


# -- NumPy's arrays: the few names they use, and what these make here ----------------------

_LONGEST_AXIS = 1 << 48
_MOST_AXES = 32


class RefusedError(Exception):
    """Something a pickle may say, but not here."""


class Name(NamedTuple):
    """What a pickle calls by ``module.name``. It stays a name."""

    module: str
    name: str


def describe(value: Any) -> str:
    """Return what a value is, never what it holds: a small file can hold what takes forever to print."""
    return ".".join(value)[:100] if type(value) is Name else f"a {type(value).__name__.lower()}"


def exact(kind: type, value: Any) -> Any:
    """Return `value`, which must be of this type and no other."""
    if type(value) is not kind:
        raise ValueError(f"expected a {kind.__name__.lower()}, got {describe(value)}")
    return value


class Dtype:
    """A dtype in the making: its code, and the byte order that comes later."""

    def __init__(self, code: Any, *_: Any) -> None:
        if not re.fullmatch(r"[iu][1248]|f[248]|b1", exact(str, code)):
            raise RefusedError(f"holds an array of dtype {code[:20]!r}, which is not of real numbers")
        self.code, self.order = code, "="

    def build(self, version: Any, order: Any, *rest: Any) -> Dtype:
        """Take the byte order of a state; whatever else one may say makes dtypes of another kind."""
        if order not in ("<", ">", "|", "=") or any(part is not None for part in rest[:3]):
            raise RefusedError("holds an array of a structured dtype")
        self.order = order
        return self

    def array(self, data: Any, shape: Any, order: Any) -> numpy.ndarray:
        """Return a new array in native byte order: of `shape`, as long as the bytes in `data` fill it."""
        content, sizes = _bytes(data), exact(tuple, shape)
        if len(sizes) > _MOST_AXES or not all(type(n) is int and 0 <= n < _LONGEST_AXIS for n in sizes):
            raise ValueError("the shape of an array is none")
        dtype = numpy.dtype(self.code)
        if math.prod(sizes) * dtype.itemsize != len(content):
            raise ValueError(f"an array of shape {sizes} and dtype {dtype} has {len(content)} bytes")
        swapped = dtype.newbyteorder(self.order)
        return numpy.frombuffer(content, swapped).astype(dtype).reshape(sizes, order=order)


class Cell:
    """An array in the making: pickles note it down before they fill it."""

    array: numpy.ndarray | None = None

    def __init__(self, kind: Any, *_: Any) -> None:
        if kind != _NDARRAY:
            raise RefusedError(f"makes an array of the kind {describe(kind)}")

    def build(self, *state: Any) -> numpy.ndarray:
        """Fill in a state (…, shape, dtype, in Fortran's order, bytes)."""
        shape, dtype, in_fortran_order, data = state[-4:]
        self.array = exact(Dtype, dtype).array(data, shape, "F" if in_fortran_order in (True, 1) else "C")
        return self.array


def _from_buffer(data: Any, dtype: Any, shape: Any, order: Any, axes: Any = None) -> numpy.ndarray:
    array: numpy.ndarray = exact(Dtype, dtype).array(data, shape, "F" if order == "F" else "C")
    return array.transpose(exact(tuple, axes)) if order == "K" and axes is not None else array


def _scalar(dtype: Any, data: Any) -> Any:
    return exact(Dtype, dtype).array(data, (), "C")[()]


def _bytes(data: Any = b"", *_: Any) -> bytes:
    """Return bytes of bytes, or of the text that old protocols and Python 2 write in their place."""
    if type(data) is str:
        return data.encode("latin-1")
    return bytes(data) if type(data) is bytearray else exact(bytes, data)


_NDARRAY = Name("numpy", "ndarray")

_NOT_CALLED = {_NDARRAY}
"""Names that may stand in a pickle as an argument alone."""

_CALLS: dict[Name, Callable[..., Any]] = {Name("numpy", "dtype"): Dtype, Name("_codecs", "encode"): _bytes}
"""Names that may be called, with what is called in their place."""

for _builtins in ("__builtin__", "builtins"):  # in protocols up to 2, and later
    _CALLS[Name(_builtins, "bytes")] = _CALLS[Name(_builtins, "bytearray")] = _bytes
for _core in ("numpy.core", "numpy._core"):  # of NumPy 1 and 2
    _CALLS[Name(f"{_core}.multiarray", "_reconstruct")] = Cell
    _CALLS[Name(f"{_core}.multiarray", "scalar")] = _scalar
    _CALLS[Name(f"{_core}.numeric", "_frombuffer")] = _from_buffer


# -- the machine ---------------------------------------------------------------------------


class _Machine:
    """The stack machine: `stacks` wait below the marks, and values are noted in `memo`."""

    def __init__(self, content: bytes) -> None:
        self.content = content
        self.stack: list[Any] = []
        self.stacks: list[list[Any]] = []
        self.memo: dict[int, Any] = {}
        # Bytes may be named many times, and copied each time. Honest files name them once, or twice where
        # they are decoded from text first; only single bytes are shared.
        self.allowance = 2 * len(content) + _SMALL_CHANGE

    def run(self) -> Any:
        for count, (opcode, argument, _) in enumerate(pickletools.genops(self.content)):
            if count >= MOST_INSTRUCTIONS:
                raise RefusedError(f"has more than {MOST_INSTRUCTIONS:,} instructions")
            if opcode.name == "STOP":
                break
            step = _STEPS.get(opcode.name)
            if step is None:
                raise RefusedError(f"uses the instruction {opcode.name}")
            step(self, argument)
        return self.stack.pop()

    def push(self, value: Any) -> None:
        self.stack.append(value)

    def take(self, count: int) -> tuple[Any, ...]:
        """Return, and take away, the top `count` values."""
        return tuple(reversed([self.stack.pop() for _ in range(count)]))

    def mark(self) -> None:
        self.stacks.append(self.stack)
        self.stack = []

    def to_mark(self) -> list[Any]:
        """Return, and take away, all that was pushed since the last mark."""
        items, self.stack = self.stack, self.stacks.pop()
        return items

    def pop_or_unmark(self) -> None:
        if self.stack:
            self.stack.pop()
        else:
            self.to_mark()

    def put(self, index: int) -> None:
        if not 0 <= index < _MOST_NOTES:
            raise ValueError(f"there is no note {index}")
        self.memo[index] = self.stack[-1]

    def get(self, index: int) -> None:
        value = self.memo[index]
        self.push(value.array if type(value) is Cell and value.array is not None else value)

    def append(self, items: list[Any]) -> None:
        exact(list, self.stack[-1]).extend(items)

    def set_items(self, items: Sequence[Any]) -> None:
        exact(dict, self.stack[-1]).update(_pairs(items))

    def reduce(self) -> None:
        function, arguments = self.take(2)
        if type(function) is not Name or function not in _CALLS:
            raise RefusedError(f"calls {describe(function)}")
        self.push_made(_CALLS[function](*exact(tuple, arguments)))

    def build(self) -> None:
        thing, state = self.take(2)
        if type(thing) not in (Dtype, Cell):
            raise RefusedError(f"sets the state of {describe(thing)}")
        self.push_made(thing.build(*exact(tuple, state)))

    def push_made(self, made: Any) -> None:
        """Push what a call or a state made; its bytes come off the allowance."""
        self.allowance -= getattr(made, "nbytes", len(made) if type(made) is bytes else 0)
        if self.allowance < 0:
            raise RefusedError("makes more bytes than it has")
        self.push(made)

    def name(self, module: Any, attribute: Any) -> None:
        name = Name(exact(str, module), exact(str, attribute))
        if name not in _CALLS and name not in _NOT_CALLED:
            raise RefusedError(f"asks for {describe(name)}")
        self.push(name)


def _pairs(items: Sequence[Any]) -> dict[str, Any]:
    # Text hashes differently in every process. Chosen numbers would all land in one place of the dict.
    return {exact(str, key): value for key, value in zip(items[::2], items[1::2], strict=True)}


_STEPS: dict[str, Callable[[_Machine, Any], Any]] = {
    **dict.fromkeys(("INT", "BININT", "BININT1", "BININT2", "LONG", "LONG1", "LONG4"), _Machine.push),
    **dict.fromkeys(("FLOAT", "BINFLOAT", "STRING", "BINSTRING", "SHORT_BINSTRING"), _Machine.push),
    **dict.fromkeys(("UNICODE", "BINUNICODE", "SHORT_BINUNICODE", "BINUNICODE8"), _Machine.push),
    **dict.fromkeys(("BINBYTES", "SHORT_BINBYTES", "BINBYTES8", "BYTEARRAY8"), _Machine.push),
    **dict.fromkeys(("PUT", "BINPUT", "LONG_BINPUT"), _Machine.put),
    **dict.fromkeys(("GET", "BINGET", "LONG_BINGET"), _Machine.get),
    **dict.fromkeys(("PROTO", "FRAME"), lambda machine, _: None),
    "MEMOIZE": lambda machine, _: machine.put(len(machine.memo)),
    "MARK": lambda machine, _: machine.mark(),
    "POP": lambda machine, _: machine.pop_or_unmark(),
    "POP_MARK": lambda machine, _: machine.to_mark(),
    "DUP": lambda machine, _: machine.push(machine.stack[-1]),
    "NONE": lambda machine, _: machine.push(None),
    "NEWTRUE": lambda machine, _: machine.push(True),
    "NEWFALSE": lambda machine, _: machine.push(False),
    "EMPTY_LIST": lambda machine, _: machine.push([]),
    "EMPTY_DICT": lambda machine, _: machine.push({}),
    "EMPTY_TUPLE": lambda machine, _: machine.push(()),
    "LIST": lambda machine, _: machine.push(machine.to_mark()),
    "DICT": lambda machine, _: machine.push(_pairs(machine.to_mark())),
    "TUPLE": lambda machine, _: machine.push(tuple(machine.to_mark())),
    "TUPLE1": lambda machine, _: machine.push(machine.take(1)),
    "TUPLE2": lambda machine, _: machine.push(machine.take(2)),
    "TUPLE3": lambda machine, _: machine.push(machine.take(3)),
    "APPEND": lambda machine, _: machine.append([machine.stack.pop()]),
    "APPENDS": lambda machine, _: machine.append(machine.to_mark()),
    "SETITEM": lambda machine, _: machine.set_items(machine.take(2)),
    "SETITEMS": lambda machine, _: machine.set_items(machine.to_mark()),
    "GLOBAL": lambda machine, names: machine.name(*names.split(" ", 1)),
    "STACK_GLOBAL": lambda machine, _: machine.name(*machine.take(2)),
    "REDUCE": lambda machine, _: machine.reduce(),
    "BUILD": lambda machine, _: machine.build(),
}
"""Each instruction that builds data. Those that are missing make objects, or ask others for them."""

_PLAIN = {bool, int, float, str, numpy.ndarray}


def _check_plain(result: Any) -> None:
    """Refuse what belongs in a pickle but is no data: names, None, bytes, arrays that were never filled."""
    waiting, seen = [result], set()
    while waiting:
        value = waiting.pop()
        if type(value) in (dict, list, tuple):
            if id(value) not in seen:
                seen.add(id(value))
                waiting += value.values() if type(value) is dict else value
        elif type(value) not in _PLAIN and not isinstance(value, numpy.generic):
            raise RefusedError(f"holds {describe(value)}")
