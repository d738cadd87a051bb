"""How much is read before the product: the functions and files that a call of `ops.conv2d` enters.

Counted with `sys.setprofile`: calls of Python code under xpcnn/, generators and lambdas included, from the
call of the op until the first function that multiplies matrices returns. All that it calls counts as well.
"""

import sys
from pathlib import Path
from types import CodeType
from typing import NamedTuple

import numpy as np
import pytest

import xpcnn
from xpcnn import ops
from xpcnn.backend.cpu.gemm import gemm
from xpcnn.backend.current import matmul

PACKAGE = str(Path(xpcnn.__file__).parent)
PRODUCTS = {gemm.__code__, matmul.portable.__code__}  # type: ignore[attr-defined]
"""What holds ``numpy.matmul`` or ``@``: on NumPy, and in reference mode."""


class Walk(NamedTuple):
    """What was entered, in order; whether a product was reached."""

    calls: list[CodeType]
    reached: bool

    @property
    def functions(self):
        return set(self.calls)

    @property
    def files(self):
        return {code.co_filename.removeprefix(PACKAGE) for code in self.calls}


def walk(call):
    """Follow a call that has been made before: nothing is imported, compiled or planned."""
    for _ in range(3):
        call()
    calls = []
    reached = False

    def profile(frame, event, _):
        nonlocal reached
        code = frame.f_code
        if reached or not code.co_filename.startswith(PACKAGE):
            return
        if event == "call":
            calls.append(code)
        elif event == "return" and code in PRODUCTS:
            reached = True

    before = sys.getprofile()
    sys.setprofile(profile)
    try:
        call()
    finally:
        sys.setprofile(before)
    return Walk(calls, reached)


def convolve(padding, algorithm="auto"):
    """A convolution of two images, with a bias."""
    rng = np.random.default_rng(0)
    x, weight, bias = (rng.standard_normal(shape, "f") for shape in ((2, 3, 8, 8), (4, 3, 3, 3), (4,)))
    return lambda: ops.conv2d(x, weight, bias, padding=padding, algorithm=algorithm)


@pytest.mark.parametrize("padding", [0, 1])
def test_conv2d(padding):
    found = walk(convolve(padding, "im2col"))
    assert found.reached
    assert len(found.calls) <= 30, found.calls
    assert len(found.functions) <= 30
    assert len(found.files) <= 8, found.files
    expected = (
        "/ops/op.py",
        "/ops/conv/conv2d.py",
        "/ops/conv/executor.py",
        "/ops/conv/algorithms/im2col.py",
    )
    assert found.files > set(expected)


@pytest.mark.parametrize("padding", [0, 1])
def test_conv2d_in_reference(padding):
    with xpcnn.reference():
        found = walk(convolve(padding))
    assert found.reached
    assert len(found.calls) <= 30, found.calls
    assert len(found.files) <= 5, found.files
    assert "/ops/conv/algorithms/im2col.py" in found.files


def test_the_count_can_fail():
    """One more function of the package counts, a generator for each time that it goes on."""
    call = convolve(0, "im2col")
    alone = walk(call)
    with_more = walk(lambda: (ops.algorithm_names(), ops.get_workspace_limit(), call()))
    assert len(with_more.calls) > len(alone.calls) + 1
    assert len(with_more.files) == len(alone.files) + 3  # registry, limit, plug-ins
