"""Pickles that would do something if they were run: one for each way there is."""

import pickle
import struct
from collections import OrderedDict
from pathlib import Path

import numpy as np


def text(value):
    return pickle.SHORT_BINUNICODE + bytes([len(value)]) + value.encode()


def data(value):
    return pickle.SHORT_BINBYTES + bytes([len(value)]) + value


def name(module, attribute):
    return f"c{module}\n{attribute}\n".encode()


def as_params(value):
    """A pickle of ``{"W1": value}``."""
    return b"\x80\x04}" + text("W1") + value + b"s."


class Calls:
    """What is pickled as a call."""

    def __init__(self, *reduced):
        self.reduced = reduced

    def __reduce__(self):
        return self.reduced


def dtype(code="f8", build=b""):
    return name("numpy", "dtype") + text(code) + b"\x89\x88\x87R" + build


def shape(*sizes):
    return b"(" + b"".join(pickle.LONG1 + bytes([8]) + struct.pack("<q", size) for size in sizes) + b"t"


RECONSTRUCT = name("numpy.core.multiarray", "_reconstruct")
EMPTY = RECONSTRUCT + name("numpy", "ndarray") + b"K\x00\x85C\x01b\x87R"


def filled(sizes, kind, content):
    """The state of an array."""
    return b"(K\x01" + sizes + kind + b"\x89" + content + b"tb"


ARRAY = EMPTY + filled(shape(1), dtype(), data(bytes(8)))


def commands(canary):
    """Pickles that make the file `canary` when they are loaded by `pickle.load`."""
    touch, code = text(f"touch {canary}"), f"open({str(canary)!r}, 'w')"
    system = name("posix", "system")
    run = system + touch + b"\x85R"
    values = {
        "GLOBAL and REDUCE": run,
        "STACK_GLOBAL": text("posix") + text("system") + b"\x93" + touch + b"\x85R",
        "os, which is posix": name("os", "system") + touch + b"\x85R",
        "eval": name("builtins", "eval") + text(code) + b"\x85R",
        "eval, by its old name": name("__builtin__", "eval") + text(code) + b"\x85R",
        "OBJ": b"(" + system + touch + b"o",
        "NEWOBJ": name("builtins", "map") + system + b"]" + touch + b"a\x86\x81",
        "NEWOBJ_EX": name("subprocess", "Popen") + b"](" + text("touch") + text(str(canary)) + b"e\x85}\x92",
        "a dotted name": text("numpy") + text("f2py.os.system") + b"\x93" + touch + b"\x85R",
        "numpy's own doors": name("numpy.testing._private.utils", "runstring") + text(code) + b"}\x86R",
        "numpy.load": name("numpy", "load") + text(str(canary)) + b"\x85R",
        "getattr": name("builtins", "getattr") + name("os", "path") + text("os") + b"\x86R0" + run,
        "BUILD on a class": name("numpy", "ndarray") + b"}" + text("x") + b"K\x01sb",
    }
    return {way: as_params(value) for way, value in values.items()} | {
        "INST": b"}(" + touch + b"iposix\nsystem\n" + b"0.",
        "before the data": b"\x80\x04" + run + b"0" + as_params(ARRAY)[2:],
        "after the data is whole": as_params(ARRAY)[:-1] + run + b"0.",
        "in a key": b"\x80\x04}" + run + b"K\x01s.",
        "a call": pickle.dumps({"W1": Calls(eval, (code,))}),
        "items of a call": pickle.dumps({"W1": Calls(list, (), None, iter([Calls(eval, (code,))]))}),
    }


STATE = b"(K\x03" + text("|")  # of a dtype, up to its byte order
END = b"J\xff\xff\xff\xff" * 2 + b"K\x00tb"  # and from its sizes on
WITH_FIELDS = dtype("f8", STATE + b"N" + text("a") + b"\x85}" + END)
OF_SUBARRAYS = dtype("f8", STATE + dtype() + shape(2) + b"\x86NN" + END)

_BY_HAND = {
    "EXT1": (b"\x82\x01", "uses the instruction EXT1"),
    "EXT2": (b"\x83\x01\x00", "uses the instruction EXT2"),
    "EXT4": (b"\x84\x01\x00\x00\x00", "uses the instruction EXT4"),
    "PERSID": (b"Pposix\n", "uses the instruction PERSID"),
    "BINPERSID": (text("posix") + b"Q", "uses the instruction BINPERSID"),
    "NEXT_BUFFER": (b"\x97", "uses the instruction NEXT_BUFFER"),
    "READONLY_BUFFER": (data(b"x") + b"\x98", "uses the instruction READONLY_BUFFER"),
    "a class": (name("numpy", "ndarray"), "holds numpy.ndarray"),
    "a function": (RECONSTRUCT, "holds numpy.core.multiarray._reconstruct"),
    "a dtype": (dtype(), "holds a dtype"),
    "an array that is never filled": (EMPTY, "holds a cell"),
    "an array that is filled twice": (
        ARRAY + filled(shape(1), dtype(), data(bytes(8))),
        "sets the state of a ndarray",
    ),
    "an object dtype": (EMPTY + filled(shape(1), dtype("O8"), b"]Na"), "holds an array of dtype 'O8'"),
    "an object dtype, plain": (EMPTY + filled(shape(1), dtype("O"), b"]Na"), "holds an array of dtype 'O'"),
    "a dtype with fields": (EMPTY + filled(shape(1), WITH_FIELDS, data(bytes(8))), "of a structured dtype"),
    "a subarray dtype": (EMPTY + filled(shape(1), OF_SUBARRAYS, data(bytes(8))), "of a structured dtype"),
    "a matrix": (RECONSTRUCT + name("numpy", "matrix") + b"K\x00\x85C\x01b\x87R", "asks for numpy.matrix"),
    "an array of no kind": (
        RECONSTRUCT + RECONSTRUCT + b"K\x00\x85C\x01b\x87R",
        "makes an array of the kind",
    ),
    "ndarray itself, called": (name("numpy", "ndarray") + shape(2) + b"\x85R", "calls numpy.ndarray"),
    "the state of an array": (ARRAY + b"}" + text("x") + b"K\x01sb", "sets the state of a ndarray"),
    "the state of a dict": (b"}}" + text("x") + b"K\x01sb", "sets the state of a dict"),
    "calls a list": (b"])R", "calls a list"),
    "calls a text": (text("posix") + b")R", "calls a str"),
}
_BY_PYTHON = {
    "a set": ({1, 2}, "uses the instruction EMPTY_SET"),
    "a frozen set": (frozenset([1]), "uses the instruction FROZENSET"),
    "None": (None, "holds a nonetype"),
    "bytes": (b"abc", "holds a bytes"),
    "a complex number": (1j, "asks for builtins.complex"),
    "an OrderedDict": (OrderedDict(W1=1), "asks for collections.OrderedDict"),
    "a path": (Path("x"), "asks for pathlib.PosixPath"),
    "an array of objects": (np.array([print, None], dtype=object), "holds an array of dtype 'O8'"),
    "an array of text": (np.array(["a"]), "holds an array of dtype 'U1'"),
    "an array of dates": (np.array(["2016-09-24"], dtype="M8[D]"), "holds an array of dtype 'M8'"),
    "an array of complex numbers": (np.array([1j]), "holds an array of dtype 'c16'"),
    "a structured array": (np.zeros(1, dtype=[("a", "f8")]), "holds an array of dtype 'V8'"),
    "a masked array": (np.ma.masked_array([1.0, 2.0], [True, False]), "asks for numpy.ma"),
}
REFUSED = {way: (as_params(value), told) for way, (value, told) in _BY_HAND.items()}
REFUSED |= {way: (pickle.dumps({"W1": value}, 4), told) for way, (value, told) in _BY_PYTHON.items()}
"""Each is a pickle of more than data, with what is said of it."""

HARMLESS = {"billion laughs", "a list in itself", "lists in lists in lists", "a frame that is not there"}
"""Bombs that are data, if odd: `read_pickle` may give them."""


def bombs():
    """Small files that would take much memory or time."""
    huge = 1 << 40
    laughs = b"](K\x01e\x94" + b"".join(
        b"](" + b"h" + bytes([i]) + b"h" + bytes([i]) + b"e\x94" for i in range(60)
    )
    megabyte = pickle.BINBYTES + struct.pack("<I", 1 << 20) + bytes(1 << 20)
    again = EMPTY + b"(K\x01" + shape(1 << 20) + dtype("u1") + b"\x89h\x00tb0"
    many = "".join(f"p{(2**61 - 1) * i}\n" for i in range(1, 50)).encode()
    numbers = b"".join(pickle.BININT + struct.pack("<i", i) + b"K\x00" for i in range(9))
    shapes = {
        "a huge shape": (shape(huge, huge), bytes(8)),
        "a huge shape of nothing": (shape(0, 1 << 62), b""),
        "a negative shape": (shape(-1, -1), bytes(8)),
        "a shape of true": (b"\x88\x85", bytes(8)),
        "a shape of many axes": (shape(*[1] * 40), bytes(8)),
    }
    values = {
        "bytes that are not there": b"\x8e" + struct.pack("<Q", huge),
        "text that is not there": b"\x8d" + struct.pack("<Q", huge),
        "a number that is not there": b"\x8b" + struct.pack("<i", 2**31 - 1),
        "a number of too many digits": b"L" + b"9" * 5000 + b"L\n",
        "bytearray(huge)": name("builtins", "bytearray") + shape(huge) + b"R",
        "bytes(huge)": name("builtins", "bytes") + shape(huge) + b"R",
        "a list in itself": b"]\x94h\x00a",
        "lists in lists in lists": b"]" * 5000 + b"a" * 4999,
    }
    values |= {way: EMPTY + filled(sizes, dtype(), data(raw)) for way, (sizes, raw) in shapes.items()}
    return {way: as_params(value) for way, value in values.items()} | {
        "a frame that is not there": b"\x80\x04\x95" + struct.pack("<Q", huge) + b"}.",
        "a note far away": b"\x80\x04}r\xff\xff\xff\xff" + text("W1") + b"Ns.",
        "notes that collide": b"\x80\x04}" + many + b".",
        "keys that collide": b"\x80\x04}(" + numbers + b"u.",
        "the same bytes, many times": b"\x80\x04" + megabyte + b"\x940" + again * 50 + b"}.",
        "billion laughs": b"\x80\x04" + laughs + b"}" + text("W1") + b"h\x3cs.",
        "marks upon marks": b"\x80\x04" + b"(" * 5000 + b".",
        "instructions without end": b"\x80\x04" + b"N0" * 10_001 + b"}.",
    }


BOMBS = bombs()
