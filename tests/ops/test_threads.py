"""Operations keep no state: many threads on shared inputs get what one gets, to the bit."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from threading import Barrier
from typing import Any

import numpy as np
import pytest

from tests.support.ops import draw
from xpcnn import ops

THREADS = 8


def conv2d(make: Any, algorithm: str) -> Any:
    x, w, b = (make.array(draw(*shape, dtype="float32")) for shape in ((3, 4, 9, 8), (5, 4, 3, 3), (5,)))
    dy = make.array(draw(3, 5, 9, 8, dtype="float32"))

    def work() -> Any:
        y, ctx = ops.conv2d(x, w, b, padding=1, algorithm=algorithm)
        return y, ops.conv2d.backward(ctx, dy)

    return work


def max_pool2d(make: Any) -> Any:
    x, dy = make.array(draw(3, 4, 9, 8, dtype="float32")), make.array(draw(3, 4, 4, 4, dtype="float32"))

    def work() -> Any:
        y, ctx = ops.max_pool2d(x, 3, 2, (0, 1))
        return y, ops.max_pool2d.backward(ctx, dy)

    return work


def linear(make: Any) -> Any:
    x, w, b = (make.array(draw(*shape, dtype="float32")) for shape in ((20, 30), (10, 30), (10,)))
    dy = make.array(draw(20, 10, dtype="float32"))

    def work() -> Any:
        y, ctx = ops.linear(x, w, b)
        return y, ops.linear.backward(ctx, dy)

    return work


def dropout(make: Any) -> Any:
    x = make.array(draw(20, 30, dtype="float32"))

    def work() -> Any:
        y, ctx = ops.dropout(x, 0.5, 3)
        return y, ops.dropout.backward(ctx, x)

    return work


WORK = {
    "conv2d im2col": lambda make: conv2d(make, "im2col"),
    "conv2d as_strided": lambda make: conv2d(make, "as_strided"),
    "conv2d auto": lambda make: conv2d(make, "auto"),
    "max_pool2d": max_pool2d,
    "linear": linear,
    "dropout": dropout,
}


def in_threads(work: Any, rounds: int = 6) -> list[Any]:
    """Run from eight threads that start together, several times each."""
    start = Barrier(THREADS)

    def run() -> list[Any]:
        start.wait()
        return [work() for _ in range(rounds)]

    with ThreadPoolExecutor(THREADS) as pool:
        futures = [pool.submit(run) for _ in range(THREADS)]
        return [result for future in futures for result in future.result()]


def alone(work: Any) -> Any:
    """Run from one new thread: PyTorch's bits depend on a thread's helpers; the main one may have others."""
    with ThreadPoolExecutor(1) as pool:
        return pool.submit(work).result()


@pytest.mark.parametrize("name", WORK)
def test_threads_get_the_same(make: Any, name: str) -> None:
    work = WORK[name](make)
    expected = make.snapshot(alone(work))
    for result in in_threads(work):
        np.testing.assert_equal(make.snapshot(result), expected)


def test_threads_share_a_context(make: Any) -> None:
    """Backward is re-entrant: one context, many gradients at once."""
    x, w = make.array(draw(3, 4, 9, 8, dtype="float32")), make.array(draw(5, 4, 3, 3, dtype="float32"))
    y, ctx = ops.conv2d(x, w, padding=1)
    expected = make.snapshot(alone(lambda: ops.conv2d.backward(ctx, y)))
    for result in in_threads(lambda: ops.conv2d.backward(ctx, y)):
        np.testing.assert_equal(make.snapshot(result), expected)


def test_threads_of_different_shapes(make: Any) -> None:
    """Scratch memory kept between calls would be shared by threads that need different amounts of it."""
    cases = [
        (make.array(draw(n, 3, 6 + n, 7, dtype="float32")), make.array(draw(4, 3, 3, 3, dtype="float32")))
        for n in range(1, THREADS + 1)
    ]

    def work(case: tuple[Any, Any]) -> Any:
        y, ctx = ops.conv2d(*case, padding=1, algorithm="im2col")
        return y, ops.conv2d.backward(ctx, y)

    expected = [make.snapshot(alone(lambda case=case: work(case))) for case in cases]
    with ThreadPoolExecutor(THREADS) as pool:
        for _ in range(5):
            for result, wanted in zip(pool.map(work, cases), expected, strict=True):
                np.testing.assert_equal(make.snapshot(result), wanted)
