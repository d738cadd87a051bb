"""Kernels keep nothing between calls: many threads on shared inputs get what one gets, to the bit."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from threading import Barrier
from typing import Any

import numpy as np
import pytest

import xpcnn
from tests.backend.cpu.test_table import replaceable
from tests.support.cpu import Array, channels_last, draw
from xpcnn.backend.cpu import table
from xpcnn.backend.cpu.parallel import parallel_for_slices
from xpcnn.ops.conv.algorithms.winograd import Tiling
from xpcnn.ops.conv.geometry import ConvGeometry

THREADS = 4


def every_kernel() -> dict[str, Callable[[], Any]]:
    """A call of each kernel, on arrays of a size that it serves."""
    kernels = table()
    x, dy = (channels_last(draw(12, 16, 40, 41, dtype="float32", seed=seed)) for seed in (0, 1))
    weight, bias, mean, var = (np.abs(draw(16, dtype="float32", seed=seed)) for seed in range(4))
    norm = (weight, bias, mean, var)
    window = ((3, 3), (2, 2), (1, 1))
    y = kernels["max_pool_windows"](x, *window, (20, 21))
    options = {"lr": 0.1, "betas": (0.9, 0.99), "eps": 1e-8, "weight_decay": 0.1, "momentum": 0.9}
    options |= {"nesterov": False, "alpha": 0.9}

    geometry = ConvGeometry.of(x.shape, (8, 16, 3, 3), 1, 1)
    filters, gradient = draw(3, 48, 8, dtype="float32"), channels_last(draw(12, 8, 40, 41, dtype="float32"))
    tiling = Tiling(4, 10, 11)
    forth, back, kernel = (draw(*size, dtype="float32") for size in ((6, 6), (4, 6), (6, 3)))
    products, taps = draw(36, 12 * 10 * 11, 8, dtype="float32"), draw(9, 64, 80, dtype="float32")
    dkernel = draw(36, 64, 80, dtype="float32")

    def updated(name: str, *slots: str) -> Callable[[], Any]:
        def work() -> Any:
            state = {slot: np.ones(600_000, "float32") for slot in slots}
            data, gradient = x.ravel()[:300_000], dy.ravel()[:300_000]
            data, gradient = np.tile(data, 2), np.tile(gradient, 2)
            return *kernels[name]([(data, gradient, state, 3, options)]), *state.values()

        return work

    return {
        "relu_array": lambda: [kernels["relu_array"](x)],
        "add_bias": lambda: [kernels["add_bias"](x.copy("K"), bias)],
        "add_bias_relu": lambda: [kernels["add_bias_relu"](x.copy("K"), bias)],
        "batch_norm_train": lambda: kernels["batch_norm_train"](x, *norm, 0.1, 1e-5),
        "batch_norm_inference": lambda: kernels["batch_norm_inference"](x, *norm, 1e-5),
        "batch_norm_gradients": lambda: kernels["batch_norm_gradients"](dy, x, weight, mean, var, True),
        "batch_norm_relu_by_batch": lambda: kernels["batch_norm_relu_by_batch"](x, *norm, 0.1, 1e-5),
        "batch_norm_relu_by_running": lambda: kernels["batch_norm_relu_by_running"](x, *norm, 1e-5),
        "batch_norm_relu_gradients": lambda: kernels["batch_norm_relu_gradients"](
            dy, x, weight, mean, var, True, x
        ),
        "max_pool_windows": lambda: [kernels["max_pool_windows"](x, *window, (20, 21))],
        "max_pool_scatter": lambda: [kernels["max_pool_scatter"](y, x, y, *window)],
        "added": lambda: [kernels["added"](x, dy)],
        "relu_grad": lambda: [kernels["relu_grad"](dy, x)],
        "matmul": lambda: [kernels["matmul"](products, products.transpose(0, 2, 1))],
        "unfold": lambda: [kernels["unfold"](x, (3, 3), (2, 1), (1, 0, 1, 2), (1, 1))],
        "mec_forward": lambda: [kernels["mec_forward"](x, filters, geometry)],
        "mec_grad_weight": lambda: [kernels["mec_grad_weight"](x, gradient, geometry)],
        "winograd_input": lambda: [kernels["winograd_input"](x, forth, (1, 1, 1, 4), tiling)],
        "winograd_output": lambda: [kernels["winograd_output"](products, back, (12, 8, 40, 41), tiling)],
        "winograd_output_gradient": lambda: [kernels["winograd_output_gradient"](gradient, back, tiling)],
        "winograd_kernel": lambda: [kernels["winograd_kernel"](taps, kernel)],
        "winograd_taps_gradient": lambda: [kernels["winograd_taps_gradient"](dkernel, kernel)],
        "sgd_step": updated("sgd_step", "velocity"),
        "adagrad_step": updated("adagrad_step", "h"),
        "rmsprop_step": updated("rmsprop_step", "v", "velocity"),
        "adam_step": updated("adam_step", "m", "v"),
        "adamw_step": updated("adamw_step", "m", "v"),
    }


CALLS = every_kernel()


def test_every_kernel_is_called() -> None:
    assert CALLS.keys() == table().keys()


@pytest.mark.parametrize("name", CALLS)
def test_threads_do_not_meet(name: str) -> None:
    barrier = Barrier(THREADS)

    def work(_: int) -> list[Array]:
        barrier.wait()
        return [*CALLS[name]()]

    expected = [*CALLS[name]()]
    with ThreadPoolExecutor(THREADS) as pool:
        for results in pool.map(work, range(THREADS)):
            for array, value in zip(results, expected, strict=True):
                assert array.tobytes() == value.tobytes()


@pytest.mark.parametrize("name", CALLS)
def test_the_number_of_threads_does_not_change_a_bit(name: str) -> None:
    found = []
    for threads in (1, 2, 3):
        xpcnn.set_num_threads(threads)
        found.append(b"".join(np.asarray(array).tobytes() for array in CALLS[name]()))
    xpcnn.set_num_threads(None)
    assert found[0] == found[1] == found[2]


LARGE = {
    "relu_array": lambda kernels, x, dy, channel: [kernels["relu_array"](x)],
    "added": lambda kernels, x, dy, channel: [kernels["added"](x, dy)],
    "relu_grad": lambda kernels, x, dy, channel: [kernels["relu_grad"](dy, x)],
    "batch_norm_train": lambda kernels, x, dy, channel: kernels["batch_norm_train"](
        x, channel, channel, channel, channel, 0.1, 1e-5
    ),
    "batch_norm_gradients": lambda kernels, x, dy, channel: kernels["batch_norm_gradients"](
        dy, x, channel, 0 * channel, channel, True
    ),
    "batch_norm_relu_by_batch": lambda kernels, x, dy, channel: kernels["batch_norm_relu_by_batch"](
        x, channel, channel, channel, channel, 0.1, 1e-5
    ),
    "batch_norm_relu_gradients": lambda kernels, x, dy, channel: kernels["batch_norm_relu_gradients"](
        dy, x, channel, 0 * channel, channel, True, x
    ),
}


@pytest.mark.parametrize("name", LARGE)
def test_shares_of_large_arrays(name: str) -> None:
    """Arrays that several threads share: the bits of one thread, the numbers of the portable functions."""
    x, dy = (channels_last(draw(33, 64, 32, 33, dtype="float32", seed=seed)) for seed in (0, 1))
    channel = np.abs(draw(64, dtype="float32", seed=2))
    found = []
    for threads in (1, 2, 3):
        xpcnn.set_num_threads(threads)
        found.append([np.asarray(array) for array in LARGE[name](table(), x, dy, channel)])
    xpcnn.set_num_threads(None)
    portable = {kernel: replaceable()[kernel] for kernel in LARGE}
    expected = LARGE[name](portable, x.astype("float64"), dy.astype("float64"), channel.astype("float64"))
    for one, two, three, wanted in zip(*found, expected, strict=True):
        assert one.tobytes() == two.tobytes() == three.tobytes()
        assert np.abs(one - wanted).max() <= 1e-5 * max(1.0, np.abs(wanted).max())


def test_shares_cover_everything_once() -> None:
    seen = np.zeros(1000, int)

    def count(share: slice) -> None:
        assert share.start % 7 == 0
        seen[share] += 1

    parallel_for_slices(count, 1000, 7, 100)
    assert (seen == 1).all()
