"""The tables of kernels: which primitives they replace, what they leave to the definition, when they load."""

from __future__ import annotations

import inspect
from typing import Any

import numpy as np
import pytest

import xpcnn
from tests.support.backend import run_python
from tests.support.implementations import Implementation
from tests.support.ops import channels_last, draw
from tests.support.primitives import replaceable
from xpcnn.backend import cpu, cuda
from xpcnn.backend._cupy import CupyBackend
from xpcnn.backend._numpy import NumpyBackend
from xpcnn.backend.cpu import native
from xpcnn.ops.max_pool import PoolGeometry

TABLES = {"cpu": cpu.table(), "compiled": native.table(), "cuda": cuda.table()}
EVERY = [(where, name) for where, table in TABLES.items() for name in table]


@pytest.mark.parametrize(("where", "name"), EVERY)
def test_a_kernel_takes_what_it_replaces_takes(where: str, name: str) -> None:
    definition = replaceable()[name]
    if definition is not None:
        names, own = ([*inspect.signature(f).parameters] for f in (definition, TABLES[where][name]))
        assert own[: len(names)] == names or "given" in names


def test_backends_have_the_tables() -> None:
    assert NumpyBackend("cpu").kernels.keys() == {**cpu.table(), **native.table()}.keys()
    assert object.__new__(CupyBackend).kernels.keys() == cuda.table().keys()


@pytest.mark.process
def test_what_is_loaded() -> None:
    code = """
import sys, xpcnn
assert not {'xpcnn.backend.cpu', 'xpcnn.backend.cuda'} & {*sys.modules}
from xpcnn.backend import cuda
from xpcnn.backend._cupy import CupyBackend
cuda.table()
assert 'cupy' not in sys.modules
"""
    assert run_python(code).returncode == 0


def test_what_is_left_to_the_definition(kernels: Implementation) -> None:
    """Other dtypes, memory orders, sizes."""
    i, table = kernels, kernels.kernels()
    other = "int64" if i.is_cuda else "float16"

    def array(*shape: int, dtype: str = other) -> Any:
        return i.array(np.ones(shape), dtype)

    pooling = PoolGeometry.of("test", (2, 3, 6, 6), 3, 2, 0, False)
    x, y, three = array(2, 3, 6, 6), array(2, 3, 2, 2), array(3)
    calls: dict[str, tuple[Any, ...]] = {
        "max_pool_windows": (x, pooling),
        "max_pool_scatter": (y, x, y, pooling),
        "avg_pool_windows": (x, pooling, True),
        "avg_pool_scatter": (y, pooling, True),
        "batch_norm_train": (x, three, three, three, three, 0.1, 1e-5),
        "batch_norm_inference": (x, three, three, three, three, 1e-5),
        "batch_norm_gradients": (x, x, three, three, three, True),
        "relu_array": (x,),
        "relu_grad": (x, x),
        "add": (x, x),
        "add_bias": (x, three),
        "drop": (x, 0.5, xpcnn.Key(1)),
        "unfold_classical": (x, (3, 3), (1, 1), (0, 0, 0, 0), (1, 1)),
        "fold": (array(2, 27), (2, 3, 3, 3), (3, 3), (1, 1), (0, 0, 0, 0), (1, 1)),
        "fold_classical": (array(2, 27), (2, 3, 3, 3), (3, 3), (1, 1), (0, 0, 0, 0), (1, 1)),
        "scaled_images": (i.array(np.ones((2, 3))), (1.0,), (0.0,), i.dtype(i.dtype_name)),
        "adam_step": ([(x, x, {}, 1, {})],),
    }
    for name, arguments in calls.items():
        if name in table:
            assert table[name](*arguments) is NotImplemented, name
    large = channels_last(i, draw(2, 300, 6, 6))
    mixed = i.array(draw(3), "float64" if i.dtype_name != "float64" else "float32")
    first = i.array(draw(2, 3, 6, 6))
    if "add_bias" in table:
        assert table["add_bias"](first, mixed) is NotImplemented
        assert table["add_bias"](first[:, :, ::2], i.array(draw(3))) is NotImplemented
    if i.kind == "compiled":
        assert table["add"](large, large[:1]) is NotImplemented
    if not i.is_cuda:
        assert table["batch_norm_train"](first, *[None] * 4, 0.1, 1e-5) is NotImplemented
    if i.kind == "cpu":
        rest = large, *[i.array(draw(300))] * 3, True
        assert table["batch_norm_gradients"](i.array(draw(2, 300, 6, 6)), *rest) is NotImplemented
