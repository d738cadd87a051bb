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
IMAGES, WEIGHT, BIAS = (3, 4, 9, 8), (5, 4, 3, 3), (5,)
# (op, its options, the shapes of its arrays)
WORK: dict[str, tuple[Any, Any, list[tuple[int, ...]]]] = {
    "conv2d im2col": (ops.conv2d, {"padding": 1, "algorithm": "im2col"}, [IMAGES, WEIGHT, BIAS]),
    "conv2d as_strided": (ops.conv2d, {"padding": 1, "algorithm": "as_strided"}, [IMAGES, WEIGHT, BIAS]),
    "conv2d auto": (ops.conv2d, {"padding": 1}, [IMAGES, WEIGHT, BIAS]),
    "max_pool2d": (ops.max_pool2d, {"kernel_size": 3, "stride": 2, "padding": (0, 1)}, [IMAGES]),
    "linear": (ops.linear, {}, [(20, 30), (10, 30), (10,)]),
    "dropout": (ops.dropout, {"p": 0.5, "key": 3}, [(20, 30)]),
}


def arrays(make: Any, *shapes: tuple[int, ...]) -> list[Any]:
    return [make.array(draw(*shape, dtype="float32")) for shape in shapes]


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
    """Also from one context, of which backward may be asked many times at once."""
    op, options, shapes = WORK[name]
    given = arrays(make, *shapes)
    _, ctx = op(*given, **options)

    def work() -> Any:
        y, own = op(*given, **options)
        return y, op.backward(own, y), op.backward(ctx, y)

    expected = make.snapshot(alone(work))
    for result in in_threads(work):
        np.testing.assert_equal(make.snapshot(result), expected)


def test_threads_of_different_shapes(make: Any) -> None:
    """Scratch memory kept between calls would be shared by threads that need different amounts of it."""
    cases = [arrays(make, (n, 3, 6 + n, 7), (4, 3, 3, 3)) for n in range(1, THREADS + 1)]

    def work(case: Any) -> Any:
        y, ctx = ops.conv2d(*case, padding=1, algorithm="im2col")
        return y, ops.conv2d.backward(ctx, y)

    expected = [make.snapshot(alone(lambda case=case: work(case))) for case in cases]
    with ThreadPoolExecutor(THREADS) as pool:
        for _ in range(5):
            for result, wanted in zip(pool.map(work, cases), expected, strict=True):
                np.testing.assert_equal(make.snapshot(result), wanted)
