"""Read pickles of weights without running them.

A pickle is a program for a small stack machine, and some of its instructions look up functions and call them:
to load one is to run what its author wrote. This machine has the instructions that build data, and knows by
name the few functions with which NumPy's arrays are pickled. It looks nothing up, imports nothing and calls
nothing on the file's behalf; it makes those arrays itself, from bytes that are in the file. Whatever else a
pickle asks for is refused.
"""

from __future__ import annotations

import pickletools
from collections.abc import Callable, Sequence
from os import PathLike
from pathlib import Path
from typing import Any

import numpy

from xpcnn.errors import CheckpointError
from xpcnn.io.pickled_arrays import CALLS, NOT_CALLED, Cell, Dtype, Name, RefusedError, describe, exact

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
        if type(function) is not Name or function not in CALLS:
            raise RefusedError(f"calls {describe(function)}")
        self.push_made(CALLS[function](*exact(tuple, arguments)))

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
        if name not in CALLS and name not in NOT_CALLED:
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
