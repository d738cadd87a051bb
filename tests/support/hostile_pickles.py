"""Pickles that would do something if they were run: one for each way there is."""

from __future__ import annotations

import pickle
import struct
from collections import OrderedDict
from pathlib import Path
from typing import Any

import numpy as np


def text(value: str) -> bytes:
    return pickle.SHORT_BINUNICODE + bytes([len(value)]) + value.encode()


def number(value: int) -> bytes:
    return pickle.BININT + struct.pack("<i", value)


def data(value: bytes) -> bytes:
    return pickle.SHORT_BINBYTES + bytes([len(value)]) + value


def name(module: str, attribute: str) -> bytes:
    return f"c{module}\n{attribute}\n".encode()


def as_params(value: bytes) -> bytes:
    """A pickle of ``{"W1": value}``."""
    return b"\x80\x04}" + text("W1") + value + b"s."


class Calls:
    """What is pickled as a call."""

    def __init__(self, *reduced: Any) -> None:
        self.reduced = reduced

    def __reduce__(self) -> Any:
        return self.reduced


def dtype(code: str = "f8", build: bytes = b"") -> bytes:
    return name("numpy", "dtype") + text(code) + b"\x89\x88\x87R" + build


def shape(*sizes: int) -> bytes:
    return b"(" + b"".join(pickle.LONG1 + bytes([8]) + struct.pack("<q", size) for size in sizes) + b"t"


EMPTY = name("numpy.core.multiarray", "_reconstruct") + name("numpy", "ndarray") + b"K\x00\x85C\x01b\x87R"


def array(sizes: bytes, kind: bytes, content: bytes) -> bytes:
    return EMPTY + b"(K\x01" + sizes + kind + b"\x89" + content + b"tb"


ARRAY = array(shape(1), dtype(), data(bytes(8)))


def commands(canary: Path) -> dict[str, bytes]:
    """Pickles that make the file `canary` when they are loaded by `pickle.load`."""
    touch = f"touch {canary}"
    code = f"open({str(canary)!r}, 'w')"
    system = text(touch) + b"\x85R"
    return {
        "GLOBAL and REDUCE": as_params(name("posix", "system") + system),
        "STACK_GLOBAL": as_params(text("posix") + text("system") + b"\x93" + system),
        "os, which is posix": as_params(name("os", "system") + system),
        "eval": as_params(name("builtins", "eval") + text(code) + b"\x85R"),
        "eval, by its old name": as_params(name("__builtin__", "eval") + text(code) + b"\x85R"),
        "INST": b"}(" + text(touch) + b"iposix\nsystem\n" + b"0.",
        "OBJ": as_params(b"(" + name("posix", "system") + text(touch) + b"o"),
        "NEWOBJ": as_params(
            name("builtins", "map") + name("posix", "system") + b"]" + text(touch) + b"a\x86\x81"
        ),
        "NEWOBJ_EX": as_params(
            name("subprocess", "Popen") + b"]" + text("touch") + b"a" + text(str(canary)) + b"a\x85}\x92"
        ),
        "before the data": b"\x80\x04" + name("posix", "system") + system + b"0" + as_params(ARRAY)[2:],
        "after the data is whole": as_params(ARRAY)[:-1] + name("posix", "system") + system + b"0.",
        "in a key": b"\x80\x04}" + name("posix", "system") + system + b"K\x01s.",
        "a dotted name": as_params(text("numpy") + text("f2py.os.system") + b"\x93" + system),
        "numpy's own doors": as_params(
            name("numpy.testing._private.utils", "runstring") + text(code) + b"}\x86R"
        ),
        "numpy.load": as_params(name("numpy", "load") + text(str(canary)) + b"\x85R"),
        "getattr": as_params(
            name("builtins", "getattr")
            + name("os", "path")
            + text("os")
            + b"\x86R0"
            + name("posix", "system")
            + system
        ),
        "through functools": pickle.dumps({"W1": Calls(eval, (code,))}),
        "BUILD on a class": as_params(name("numpy", "ndarray") + b"}" + text("x") + b"K\x01sb"),
        "items of a call": pickle.dumps({"W1": Calls(list, (), None, iter([Calls(eval, (code,))]))}),
    }


STATE = b"(K\x03" + text("|")  # of a dtype, up to its byte order

REFUSED: dict[str, bytes] = {
    "EXT1": as_params(b"\x82\x01"),
    "EXT2": as_params(b"\x83\x01\x00"),
    "EXT4": as_params(b"\x84\x01\x00\x00\x00"),
    "PERSID": as_params(b"Pposix\n"),
    "BINPERSID": as_params(text("posix") + b"Q"),
    "NEXT_BUFFER": as_params(b"\x97"),
    "READONLY_BUFFER": as_params(data(b"x") + b"\x98"),
    "a set": pickle.dumps({"W1": {1, 2}}, 4),
    "a frozen set": pickle.dumps({"W1": frozenset([1])}, 4),
    "None": pickle.dumps({"W1": None}),
    "bytes": pickle.dumps({"W1": b"abc"}),
    "a complex number": pickle.dumps({"W1": 1j}),
    "an OrderedDict": pickle.dumps(OrderedDict(W1=1)),
    "a path": pickle.dumps({"W1": Path("x")}),
    "a class": as_params(name("numpy", "ndarray")),
    "a function": as_params(name("numpy.core.multiarray", "_reconstruct")),
    "a dtype": as_params(dtype()),
    "an array that is never filled": as_params(EMPTY),
    "an array that is filled twice": as_params(
        ARRAY + b"(K\x01" + shape(1) + dtype() + b"\x89" + data(bytes(8)) + b"tb"
    ),
    "an array of objects": pickle.dumps({"W1": np.array([print, None], dtype=object)}),
    "an object dtype": as_params(array(shape(1), dtype("O8"), b"]Na")),
    "an object dtype, plain": as_params(array(shape(1), dtype("O"), b"]Na")),
    "an array of text": pickle.dumps({"W1": np.array(["a"])}),
    "an array of dates": pickle.dumps({"W1": np.array(["2016-09-24"], dtype="M8[D]")}),
    "an array of complex numbers": pickle.dumps({"W1": np.array([1j])}),
    "a structured array": pickle.dumps({"W1": np.zeros(1, dtype=[("a", "f8")])}),
    "a dtype with fields": as_params(
        array(
            shape(1),
            dtype("f8", STATE + b"N" + text("a") + b"\x85}" + b"J\xff\xff\xff\xff" * 2 + b"K\x00tb"),
            data(bytes(8)),
        )
    ),
    "a subarray dtype": as_params(
        array(
            shape(1),
            dtype("f8", STATE + dtype() + shape(2) + b"\x86NNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK\x00tb"),
            data(bytes(8)),
        )
    ),
    "a masked array": pickle.dumps({"W1": np.ma.masked_array([1.0, 2.0], [True, False])}),
    "a matrix": as_params(
        name("numpy.core.multiarray", "_reconstruct") + name("numpy", "matrix") + b"K\x00\x85C\x01b\x87R"
    ),
    "ndarray itself, called": as_params(name("numpy", "ndarray") + shape(2) + b"\x85R"),
    "the state of an array set anew": as_params(ARRAY + b"}" + text("x") + b"K\x01sb"),
    "the state of a dict": b"\x80\x04}}" + text("x") + b"K\x01sb.",
    "calls a list": as_params(b"])R"),
    "calls a text": as_params(text("posix") + b")R"),
}
"""Each is a pickle of more than data, or speaks of something else than the machine knows."""


def bombs() -> dict[str, bytes]:
    """Small files that would take much memory or time."""
    huge = 1 << 40
    laughs = b"](K\x01e\x94" + b"".join(
        b"](" + b"h" + bytes([i]) + b"h" + bytes([i]) + b"e\x94" for i in range(60)
    )
    megabyte = pickle.BINBYTES + struct.pack("<I", 1 << 20) + bytes(1 << 20)
    again = EMPTY + b"(K\x01" + shape(1 << 20) + dtype("u1") + b"\x89h\x00tb0"
    many = "".join(f"p{(2**61 - 1) * i}\n" for i in range(1, 50)).encode()
    return {
        "a huge shape": as_params(array(shape(huge, huge), dtype(), data(bytes(8)))),
        "a huge shape of nothing": as_params(array(shape(0, 1 << 62), dtype(), data(b""))),
        "a negative shape": as_params(array(shape(-1, -1), dtype(), data(bytes(8)))),
        "a shape of true": as_params(array(b"\x88\x85", dtype(), data(bytes(8)))),
        "a shape of many axes": as_params(array(shape(*[1] * 40), dtype(), data(bytes(8)))),
        "bytes that are not there": as_params(b"\x8e" + struct.pack("<Q", huge)),
        "text that is not there": as_params(b"\x8d" + struct.pack("<Q", huge)),
        "a frame that is not there": b"\x80\x04\x95" + struct.pack("<Q", huge) + b"}.",
        "a number that is not there": as_params(b"\x8b" + struct.pack("<i", 2**31 - 1)),
        "a number of too many digits": as_params(b"L" + b"9" * 5000 + b"L\n"),
        "bytearray(huge)": as_params(name("builtins", "bytearray") + shape(huge) + b"R"),
        "bytes(huge)": as_params(name("builtins", "bytes") + shape(huge) + b"R"),
        "a note far away": b"\x80\x04}r\xff\xff\xff\xff" + text("W1") + b"Ns.",
        "notes that collide": b"\x80\x04}" + many + b".",
        "keys that collide": b"\x80\x04}(" + b"".join(number(i) + b"K\x00" for i in range(9)) + b"u.",
        "the same bytes, many times": b"\x80\x04" + megabyte + b"\x940" + again * 50 + b"}.",
        "billion laughs": b"\x80\x04" + laughs + b"}" + text("W1") + b"h\x3cs.",
        "a list in itself": as_params(b"]\x94h\x00a"),
        "lists in lists in lists": as_params(b"]" * 5000 + b"a" * 4999),
        "marks upon marks": b"\x80\x04" + b"(" * 5000 + b".",
        "instructions without end": b"\x80\x04" + b"N0" * 10_001 + b"}.",
    }
