"""How kernels are found, compiled and started; a stand-in plays CuPy's part."""

from __future__ import annotations

import importlib
import inspect
import pkgutil
import subprocess
import sys
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

import xpcnn
from tests.support.cuda import Array, Target, draw, kernels_started
from xpcnn import ops, optim, train
from xpcnn.backend._cupy import CupyBackend
from xpcnn.backend.cuda import families, pool, table
from xpcnn.backend.cuda.launch import PointerTable, _CupyLauncher, record
from xpcnn.backend.cuda.source import Family, first_argument

FAMILY = Family("conv", ("copy<float, 1>", "copy<float, 4>", "copy<double, 1>"))


class StandIn:
    """What the launcher uses of CuPy."""

    def __init__(self) -> None:
        self.modules: list[dict[str, Any]] = []
        self.calls: list[tuple[Any, ...]] = []

    def asarray(self, values: Any) -> Any:
        assert values.dtype == np.int64
        return "on the device", values.tolist()

    def RawModule(self, **options: Any) -> Any:
        self.modules.append(options)

        def get_function(name: str) -> Any:
            assert name in options["name_expressions"]
            return lambda grid, block, args: self.calls.append((name, grid, block, args))

        return SimpleNamespace(get_function=get_function)


@pytest.fixture
def cupy(monkeypatch: pytest.MonkeyPatch) -> StandIn:
    stand_in = StandIn()
    monkeypatch.setitem(sys.modules, "cupy", stand_in)
    return stand_in


def test_compiles_what_is_launched_and_once(cupy: StandIn) -> None:
    launcher = _CupyLauncher()
    assert cupy.modules == []
    for kernel in ("copy<float, 1>", "copy<float, 4>", "copy<float, 1>"):
        launcher.launch(FAMILY, kernel, 10, ())
    (module,) = cupy.modules
    assert tuple(module["name_expressions"]) == FAMILY.kernels[:2]
    assert module["code"] == FAMILY.source()
    assert '#include "common.cuh"' not in module["code"]
    launcher.launch(FAMILY, "copy<double, 1>", 10, ())
    assert tuple(cupy.modules[1]["name_expressions"]) == FAMILY.kernels[2:]


@pytest.mark.parametrize(
    ("count", "blocks"), [(1, 1), (256, 1), (257, 2), (256 << 16, 1 << 16), (1 << 33, 1 << 16)]
)
def test_a_thread_for_each_work_item_up_to_a_limit(cupy: StandIn, count: int, blocks: int) -> None:
    _CupyLauncher().launch(FAMILY, "copy<float, 1>", count, (3, 0.5))
    assert cupy.calls == [("copy<float, 1>", (blocks,), (256,), (count, 3, 0.5))]


def test_structs_go_by_value(cupy: StandIn) -> None:
    """CuPy takes a NumPy array of one item for a struct."""
    _CupyLauncher().launch(FAMILY, "copy<float, 1>", 1, (record(7, -8),))
    _, struct = cupy.calls[0][3]
    assert isinstance(struct, np.ndarray)
    assert struct.size == 1
    assert struct.tobytes() == np.array([7, -8], np.int64).tobytes()


def test_tables_of_pointers_go_to_the_device(cupy: StandIn) -> None:
    arrays = [SimpleNamespace(data=SimpleNamespace(ptr=address)) for address in (4096, 8192)]
    _CupyLauncher().launch(FAMILY, "copy<float, 1>", 1, (PointerTable((arrays[0], None, arrays[1])),))
    _, addresses = cupy.calls[0][3]
    assert addresses == ("on the device", [4096, 0, 8192])


def test_a_first_argument_tells_what_is_compiled_together() -> None:
    for family in families():
        assert {first_argument(kernel) for kernel in family.kernels} <= {
            "__half",
            "__nv_bfloat16",
            "float",
            "double",
        }


def test_nothing_imports_cupy_to_look_at_the_table() -> None:
    code = (
        "import sys; from xpcnn.backend import cuda; cuda.table(); cuda.families(); "
        "from xpcnn.backend._cupy import CupyBackend; assert 'cupy' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_the_backend_has_the_table() -> None:
    assert object.__new__(CupyBackend).kernels == table()


# Through the ops ----------------------------------------------------------------------------------------


def test_pooling_is_one_launch_a_pass(target: Target, monkeypatch: pytest.MonkeyPatch) -> None:
    x, dy = target.array(draw(2, 3, 7, 6)), target.array(draw(2, 3, 4, 3))
    monkeypatch.setattr(xpcnn.backend_of(x), "kernels", table())
    started = kernels_started(monkeypatch, pool)
    for op, backward in (
        (ops.max_pool2d, ops.max_pool2d.backward),
        (ops.avg_pool2d, ops.avg_pool2d.backward),
    ):
        _, ctx = op(x, 3, 2, 1)
        backward(ctx, dy)
    assert [kernel.partition("<")[0] for kernel in started] == list(pool.KERNELS)


def test_ops_with_kernels_and_without(target: Target, monkeypatch: pytest.MonkeyPatch) -> None:
    """One network's worth of ops gives the same numbers either way, up to rounding."""
    x, weight, bias = (target.array(draw(*shape)) for shape in ((2, 3, 9, 8), (4, 3, 3, 3), (4,)))

    def run(kernels: Any) -> list[Array]:
        monkeypatch.setattr(xpcnn.backend_of(x), "kernels", kernels)
        y, conv = ops.conv2d(x, weight, bias, stride=2, padding=1, algorithm="im2col")
        y, maxima = ops.max_pool2d(y, 3, 2, 1)
        y, means = ops.avg_pool2d(y, 2, 1, 1, count_include_pad=False)
        dy = ops.avg_pool2d.backward(means, target.array(draw(*y.shape)))
        gradients = ops.conv2d.backward(conv, ops.max_pool2d.backward(maxima, dy))
        columns = ops.im2col(x, 3, 2)
        folded = ops.col2im(columns, x.shape, 3, 2)
        return [target.wide(array) for array in (y, *gradients, columns, folded)]

    tolerance = {"float64": 1e-12, "float32": 1e-5, "float16": 1e-2, "bfloat16": 5e-2}[target.dtype]
    for got, expected in zip(run(table()), run({}), strict=True):
        np.testing.assert_allclose(got, expected, rtol=0, atol=tolerance * np.abs(expected).max())


# The table ----------------------------------------------------------------------------------------------


def replaceable() -> dict[str, Any]:
    """Every function that a backend may replace: primitives, and what `optim` marks as done `together`."""
    found = {}
    for package in (ops, optim, train):
        for info in pkgutil.walk_packages(package.__path__, f"{package.__name__}."):
            for value in vars(importlib.import_module(info.name)).values():
                if hasattr(value, "portable"):
                    found[value.__name__] = value.portable
                elif inspect.isclass(value):
                    together = [method for method in vars(value).values() if hasattr(method, "kernel")]
                    found.update({method.kernel: None for method in together})
    return found


@pytest.mark.parametrize("name", table())
def test_a_kernel_takes_what_it_replaces_takes(name: str) -> None:
    function = replaceable()[name]
    if function is not None:
        assert [*inspect.signature(table()[name]).parameters] == [*inspect.signature(function).parameters]
