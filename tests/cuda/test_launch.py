"""How kernels are found, compiled and started; a stand-in plays CuPy's part."""

from __future__ import annotations

import sys
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

import xpcnn
from tests.support.implementations import Implementation
from tests.support.ops import channels_last, draw
from xpcnn import ops
from xpcnn.backend.cuda import FAMILIES, launch
from xpcnn.backend.cuda.launch import PointerTable, _CupyLauncher, record
from xpcnn.backend.cuda.source import STORAGE, Family, first_argument
from xpcnn.nn.preprocess import scaled_images

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
    launch._cupy_launcher.cache_clear()
    assert cupy.modules == []
    for kernel in ("copy<float, 1>", "copy<float, 4>", "copy<float, 1>"):
        launch.launch(FAMILY, kernel, 10)
    (module,) = cupy.modules
    assert tuple(module["name_expressions"]) == FAMILY.kernels[:2]
    assert module["code"] == FAMILY.source()
    assert '#include "common.cuh"' not in module["code"]
    launch.launch(FAMILY, "copy<double, 1>", 10)
    assert tuple(cupy.modules[1]["name_expressions"]) == FAMILY.kernels[2:]
    launch._cupy_launcher.cache_clear()


def test_a_thread_for_each_work_item_up_to_a_limit(cupy: StandIn) -> None:
    blocks = {1: 1, 256: 1, 257: 2, 256 << 16: 1 << 16, 1 << 33: 1 << 16}
    for count in blocks:
        _CupyLauncher().launch(FAMILY, "copy<float, 1>", count, (3, 0.5))
    expected = [("copy<float, 1>", (number,), (256,), (count, 3, 0.5)) for count, number in blocks.items()]
    assert cupy.calls == expected


def test_structs_go_by_value_and_pointers_to_the_device(cupy: StandIn) -> None:
    """CuPy takes a NumPy array of one item for a struct."""
    first, second = (SimpleNamespace(data=SimpleNamespace(ptr=address)) for address in (4096, 8192))
    table = PointerTable((first, None, second))
    _CupyLauncher().launch(FAMILY, "copy<float, 1>", 1, (record(7, -8), table))
    _, struct, addresses = cupy.calls[0][3]
    assert isinstance(struct, np.ndarray)
    assert struct.size == 1
    assert struct.tobytes() == np.array([7, -8], np.int64).tobytes()
    assert addresses == ("on the device", [4096, 0, 8192])


@pytest.mark.parametrize("family", FAMILIES, ids=lambda family: family.name)
def test_instantiations(family: Family) -> None:
    """Each once, for every storage type; their first argument tells what is compiled together."""
    assert len(set(family.kernels)) == len(family.kernels)
    # Optimisers upcast half precision before any kernel sees it.
    storages = ("float", "double") if family.name == "optim" else STORAGE.values()
    assert {first_argument(kernel) for kernel in family.kernels} == {*storages}


# Which kernel ---------------------------------------------------------------------------------------------


def every_op(i: Implementation) -> list[Any]:
    """What the kernels with vectors, or with two ways to count, make of channels-last images."""
    x, dy = channels_last(i, draw(2, 16, 7, 6)), channels_last(i, draw(2, 16, 4, 3))
    y, maxima = ops.max_pool2d(x, 3, 2, 1)
    z, means = ops.avg_pool2d(x, 3, 2, 1)
    found = [y, ops.max_pool2d.backward(maxima, dy), z, ops.avg_pool2d.backward(means, dy)]
    weight, bias = i.array(draw(8, 16, 3, 3)), i.array(draw(8))
    y, ctx = ops.conv2d(x, weight, bias, padding=1, algorithm="im2col")
    found += [y, *ops.conv2d.backward(ctx, y), *ops.dropout(x, 0.5, 3)[0:1]]
    columns = ops.im2col(x, 3, padding=1)
    found += [columns, ops.col2im(columns, x.shape, 3, padding=1)]
    digits = i.array(np.arange(252).reshape(2, 3, 7, 6), "uint8")
    found.append(scaled_images(digits, (0.1, 0.2, 0.3), (1.0, 2.0, 3.0), i.dtype(i.dtype_name)))
    return [i.to_numpy(array) for array in found]


def test_vectors_and_64_bits(cuda: Implementation, launched: list[str], monkeypatch: Any) -> None:
    """Channels-last images go by vectors, and more work items than 32 bits count give the same."""
    expected = every_op(cuda)
    width = 16 // cuda.array([0.0]).dtype.itemsize
    names = [name.partition("<")[0] for name in launched]
    once = ("max_pool_windows", "max_pool_scatter", "avg_pool_windows", "avg_pool_scatter")
    assert [names.count(name) for name in once] == [1, 1, 1, 1]
    assert {"unfold", "add_bias", "unfold_classical", "fold_classical", "drop", "scale_images"} <= {*names}
    for name in launched:
        if name.startswith(("max", "avg", "unfold<", "fold<", "add_bias")):
            assert any(f", {vector}, " in name for vector in (width, 4))  # of halves, convolutions upcast
    launched.clear()
    monkeypatch.setattr(launch, "MOST_32BIT", 0)
    monkeypatch.setattr(xpcnn.backend.cuda.conv, "vector_width", lambda *_: 1)
    monkeypatch.setattr(xpcnn.backend.cuda.pool, "vector_width", lambda *_: 1)
    for got, wanted in zip(every_op(cuda), expected, strict=True):
        np.testing.assert_array_equal(got, wanted)
    assert all(name.endswith("long long>") for name in launched if not name.startswith("moments"))
