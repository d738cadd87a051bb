"""Kernels keep nothing between calls, and cut by size alone: any number of threads gives the same bits."""

from __future__ import annotations

import functools
from concurrent.futures import ThreadPoolExecutor
from threading import Barrier
from typing import Any

import numpy as np
import pytest

import xpcnn
from tests.support.ops import Array, draw
from xpcnn.backend import cpu, threads
from xpcnn.backend.cpu import native
from xpcnn.backend.cpu.native import primitives
from xpcnn.ops.conv.algorithms.winograd import Tiling
from xpcnn.ops.conv.geometry import ConvGeometry
from xpcnn.ops.max_pool import PoolGeometry, max_pool_windows

pytestmark = pytest.mark.slow

THREADS = 4
TABLES = {"cpu": cpu.table(), "compiled": native.table()}
EVERY = [(where, name) for where, table in TABLES.items() for name in table]
each = pytest.mark.parametrize(("where", "name"), EVERY)
OPTIONS = {"lr": 0.1, "betas": (0.9, 0.99), "eps": 1e-8, "weight_decay": 0.1, "momentum": 0.9}
STATE = {"sgd_step": ("velocity",), "adam_step": ("m", "v"), "adamw_step": ("m", "v")}


@pytest.fixture(autouse=True)
def _threads_for_little_work(monkeypatch: pytest.MonkeyPatch) -> None:
    for module, name in ((threads, "LARGE"), (primitives, "LARGE"), (primitives, "LARGE_UPDATE")):
        monkeypatch.setattr(module, name, 1)


def images(*shape: int, seed: int = 0) -> Array:
    return np.moveaxis(draw(shape[0], *shape[2:], shape[1], dtype="float32", seed=seed), -1, 1)


@functools.cache
def arguments() -> dict[str, tuple[Any, ...]]:
    """What each kernel is called with, on arrays of a size that it serves."""
    shape = 12, 16, 40, 41
    x, dy = images(*shape), images(*shape, seed=1)
    weight, bias, mean, var = (np.abs(draw(16, dtype="float32", seed=seed)) for seed in range(4))
    norm = (weight, bias, mean, var)
    gradients = (dy, x, weight, 0 * mean, var, True)
    pooling = PoolGeometry.of("test", x.shape, 3, 2, 1, False)
    rows, targets = (draw(600, 1000, dtype="float32", seed=seed) for seed in (2, 3))
    y = max_pool_windows.portable(x, pooling)
    geometry, filters = ConvGeometry.of(x.shape, (8, 16, 3, 3), 1, 1), draw(3, 48, 8, dtype="float32")
    gradient, tiling = images(12, 8, 40, 41), Tiling(4, 10, 11)
    forth, back = (draw(*size, dtype="float32") for size in ((6, 6), (4, 6)))
    products = draw(36, 12 * 10 * 11, 8, dtype="float32")
    return {
        "relu_array": (x,),
        "add": (x, dy),
        "relu_grad": (dy, x),
        "batch_norm_train": (x, *norm, 0.1, 1e-5),
        "batch_norm_inference": (x, *norm, 1e-5),
        "batch_norm_gradients": gradients,
        "batch_norm_relu_train": (x, *norm, 0.1, 1e-5),
        "batch_norm_relu_inference": (x, *norm, 1e-5),
        "batch_norm_relu_gradients": (*gradients, x),
        "add_bias": (x, bias),
        "add_bias_relu": (x, bias),
        "max_pool_windows": (x, pooling),
        "max_pool_scatter": (y, x, y, pooling),
        "avg_pool_windows": (x, pooling, True),
        "avg_pool_scatter": (y, pooling, True),
        "sum_over_pixels": (x,),
        "cross_entropy": (rows, targets),
        "cross_entropy_gradient": (rows, targets, 0.5),
        "matmul": (products[:, :300], products[:, :300].transpose(0, 2, 1)),
        "unfold": (x, (3, 3), (2, 1), (1, 0, 1, 2), (1, 1)),
        "mec_forward": (x, filters, geometry),
        "mec_grad_weight": (x, gradient, geometry),
        "winograd_input": (x, forth, (1, 1, 1, 4), tiling),
        "winograd_output": (products, back, (12, 8, 40, 41), tiling),
        "winograd_output_gradient": (gradient, back, tiling),
    }


def call(name: str, kernel: Any) -> list[Array]:
    """All arrays that a kernel gives; it may write to its first argument, or to an optimiser's state."""
    if name in STATE:
        state = {slot: np.ones(600_000, "float32") for slot in STATE[name]}
        data, gradient = (draw(600_000, dtype="float32", seed=seed) for seed in (0, 1))
        update = (data, gradient, state, 3, {**OPTIONS, "nesterov": False})
        return [*kernel([update]), *state.values()]
    first, *rest = arguments()[name]
    found = kernel(first.copy("K") if name.startswith("add_bias") else first, *rest)
    return [np.asarray(a) for a in (found if isinstance(found, tuple) else [found])]


def test_every_kernel_is_called() -> None:
    assert {*arguments(), *STATE} >= {name for _, name in EVERY}


@each
def test_threads_do_not_meet(where: str, name: str) -> None:
    barrier, kernel = Barrier(THREADS), TABLES[where][name]

    def work(_: int) -> list[Array]:
        barrier.wait()
        return call(name, kernel)

    expected = call(name, kernel)
    with ThreadPoolExecutor(THREADS) as pool:
        for results in pool.map(work, range(THREADS)):
            for array, value in zip(results, expected, strict=True):
                assert array.tobytes() == value.tobytes()


@each
def test_the_number_of_threads_does_not_change_a_bit(where: str, name: str) -> None:
    found = []
    for count in (1, 2, 3):
        xpcnn.set_num_threads(count)
        found.append(b"".join(array.tobytes() for array in call(name, TABLES[where][name])))
    xpcnn.set_num_threads(None)
    assert found == found[:1] * 3
