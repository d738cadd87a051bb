"""Pieces on threads: in order, re-entrant, bounded, and with the caller's settings."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import pytest

import xpcnn
from xpcnn import Trainer, data, errors, models, nn, ops, optim
from xpcnn.backend import matmul
from xpcnn.backend.threads import HANDOVER, parallel_for, parallel_map


@pytest.fixture(autouse=True)
def _four_threads() -> Iterator[None]:
    xpcnn.set_num_threads(4)
    yield
    xpcnn.set_num_threads(None)


def test_results_come_in_order_from_several_threads() -> None:
    seen = set()

    def work(i: int) -> int:
        seen.add(threading.get_ident())
        time.sleep(0.002 * (5 - i % 5))
        return i * i

    assert list(parallel_map(work, range(20))) == [i * i for i in range(20)]
    assert len(seen) > 1
    assert threading.get_ident() in seen


@pytest.mark.parametrize("count", [0, 1])
def test_too_few_items_for_threads(count: int) -> None:
    assert (
        list(parallel_map(lambda i: threading.get_ident(), range(count))) == [threading.get_ident()] * count
    )


def test_no_more_at_a_time_than_allowed() -> None:
    running, most, lock = 0, 0, threading.Lock()

    def work(_: int) -> None:
        nonlocal running, most
        with lock:
            running += 1
            most = max(most, running)
        time.sleep(0.002)
        with lock:
            running -= 1

    list(parallel_map(work, range(12), max_workers=2))
    assert most == 2
    list(parallel_map(work, range(12), max_workers=1))
    assert most == 2


def test_a_worker_starts_no_further_threads() -> None:
    def inner(_: int) -> int:
        return threading.get_ident()

    def outer(_: int) -> bool:
        return set(parallel_map(inner, range(4))) == {threading.get_ident()}

    assert all(parallel_map(outer, range(4)))


def test_an_error_is_raised_and_the_rest_is_not_run_on() -> None:
    done = []

    def work(i: int) -> None:
        if i == 3:
            raise ZeroDivisionError
        time.sleep(0.001)
        done.append(i)

    with pytest.raises(ZeroDivisionError):
        list(parallel_map(work, range(50)))
    count = len(done)
    time.sleep(0.02)
    assert len(done) == count < 20


@pytest.mark.parametrize("count", [0, 1, 2, 50])
def test_everything_is_run_once(count: int) -> None:
    done: list[int] = []
    parallel_for(done.append, range(count))
    assert sorted(done) == list(range(count))


def test_free_threads_take_what_is_left() -> None:
    slow, seen = threading.Event(), []

    def work(i: int) -> None:
        if i == 0:
            assert slow.wait(10)  # all the others are done meanwhile
            return
        seen.append(threading.get_ident())
        if len(seen) == 19:
            slow.set()

    parallel_for(work, range(20))
    assert len(seen) == 19


def test_runs_are_bounded_and_not_nested() -> None:
    running, most, lock = 0, 0, threading.Lock()

    def work(_: int) -> None:
        nonlocal running, most
        with lock:
            running += 1
            most = max(most, running)
        if allowed > 1:
            inner: list[int] = []
            parallel_for(lambda _: inner.append(threading.get_ident()), range(3))
            assert set(inner) == {threading.get_ident()}
        time.sleep(0.002)
        with lock:
            running -= 1

    for allowed in (2, 1):
        most = 0
        parallel_for(work, range(12), max_workers=allowed)
        assert most == allowed


@pytest.mark.parametrize("place", [0, 3, 11])
def test_an_error_ends_a_run(place: int) -> None:
    done = []

    def work(i: int) -> None:
        if i == place:
            raise ZeroDivisionError
        time.sleep(0.002)
        done.append(i)

    with pytest.raises(ZeroDivisionError):
        parallel_for(work, range(50))
    count = len(done)
    time.sleep(0.02)
    assert len(done) == count < 24
    parallel_for(done.append, range(3))  # and threads are there for the next


def test_the_lock_changes_hands_sooner_meanwhile() -> None:
    before = sys.getswitchinterval()
    seen: list[float] = []

    def work(_: int) -> None:
        seen.append(sys.getswitchinterval())
        time.sleep(0.002)

    others = [threading.Thread(target=lambda: list(parallel_map(work, range(8)))) for _ in range(2)]
    for other in others:
        other.start()
    parallel_for(work, range(8))
    for other in others:
        other.join()
    assert max(seen) == pytest.approx(HANDOVER, rel=1e-3)
    assert sys.getswitchinterval() == before
    with pytest.raises(ZeroDivisionError):
        parallel_for(lambda i: 1 // i, range(3))
    assert sys.getswitchinterval() == before


@pytest.mark.skipif(not hasattr(os, "fork"), reason="forks")
def test_a_child_forked_meanwhile_waits_as_before() -> None:
    code = """
import os, sys, threading
from xpcnn import set_num_threads
from xpcnn.backend.threads import parallel_for
set_num_threads(2)
before = sys.getswitchinterval()
inside, done = threading.Event(), threading.Event()
def work(i):
    inside.set()
    done.wait(20)
run = threading.Thread(target=parallel_for, args=(work, range(2)))
run.start()
inside.wait(20)
child = os.fork()
if child == 0:
    os._exit(0 if sys.getswitchinterval() == before else 1)
status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
done.set()
run.join()
raise SystemExit(status or sys.getswitchinterval() != before)
"""
    subprocess.run([sys.executable, "-W", "ignore", "-c", code], check=True, timeout=60)


def test_settings_of_the_caller_hold_in_the_workers() -> None:
    x = xpcnn.asarray(np.ones((1, 1, 3, 3)))
    w = xpcnn.asarray(np.ones((1, 1, 2, 2)))
    with xpcnn.conv_algorithm("fft"):
        names = list(parallel_map(lambda _: ops.conv2d(x, w)[1].algorithm, range(4)))
    assert names == ["fft"] * 4


@pytest.mark.parametrize("wrong", [0, -1, 1.5, True, "two"], ids=repr)
def test_number_of_threads_must_be_positive(wrong: Any) -> None:
    with pytest.raises(errors.ArgumentError, match="set_num_threads"):
        xpcnn.set_num_threads(wrong)
    assert xpcnn.get_num_threads() == 4


def test_variable(monkeypatch: pytest.MonkeyPatch) -> None:
    xpcnn.set_num_threads(None)
    monkeypatch.setenv("XPCNN_NUM_THREADS", "3")
    assert xpcnn.get_num_threads() == 3
    monkeypatch.setenv("XPCNN_NUM_THREADS", "many")
    with pytest.raises(errors.ArgumentError, match=r"\$XPCNN_NUM_THREADS.*many"):
        xpcnn.get_num_threads()
    monkeypatch.delenv("XPCNN_NUM_THREADS")
    assert xpcnn.get_num_threads() >= 1


# The same bits ----------------------------------------------------------------------------------------------


def trained(threads: int, build: Any) -> list[np.ndarray]:
    xpcnn.set_num_threads(threads)
    model = build()
    trainer = Trainer(model, optim.Adam(model, lr=1e-3), seed=5)
    digits = data.synthetic_digits(130)
    trainer.fit(digits, digits, epochs=1, batch_size=65, progress=None)
    return [*model.state_dict().values(), np.array(trainer.history.losses)]


MODELS = {
    "shards": lambda: models.deep_convnet(),
    "batch statistics": lambda: nn.Sequential(
        nn.Conv2d(1, 64, 3, seed=0),
        nn.BatchNorm2d(64),
        nn.ReLU(),
        nn.Conv2d(64, 64, 3, stride=2, seed=1),
        nn.ReLU(),
        nn.MaxPool2d(4),
        nn.Flatten(),
        nn.Linear(64 * 9, 10, seed=2),
    ),
}


@pytest.mark.parametrize("name", MODELS)
def test_training_is_the_same_to_the_bit_for_any_number_of_threads(name: str) -> None:
    one = trained(1, MODELS[name])
    for threads in (2, 4):
        np.testing.assert_equal(trained(threads, MODELS[name]), one)


@pytest.mark.parametrize("algorithm", ["im2col", "kn2row", "mec", "winograd", "fft", "as_strided"])
def test_convolution_is_the_same_to_the_bit(algorithm: str) -> None:
    rng = np.random.default_rng(0)
    x, w = rng.standard_normal((40, 16, 20, 20), dtype="f"), rng.standard_normal((24, 16, 3, 3), dtype="f")
    results = []
    for threads in (1, 2, 4):
        xpcnn.set_num_threads(threads)
        y, ctx = ops.conv2d(x, w, padding=1, algorithm=algorithm)
        results.append((y, *ops.conv2d.backward(ctx, y)[:2]))
    for other in results[1:]:
        np.testing.assert_equal(other, results[0])


# Among other threads and processes --------------------------------------------------------------------------


def test_models_called_from_the_users_own_threads() -> None:
    model, x = models.simple_convnet(), data.synthetic_digits(120).images.astype(np.float32) / 255
    expected = model(x)
    with ThreadPoolExecutor(8) as pool:
        for y in pool.map(lambda _: model(x), range(24)):
            np.testing.assert_array_equal(y, expected)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_a_forked_process_has_threads_of_its_own() -> None:
    """After the parent has used its threads; a child that waited for them would never end."""
    code = """
import os, warnings
import numpy as np, xpcnn
from xpcnn import ops
warnings.simplefilter("ignore")
xpcnn.set_num_threads(2)
x, w = np.ones((40, 16, 20, 20), "f"), np.ones((16, 16, 3, 3), "f")
before = ops.conv2d(x, w)[0]
child = os.fork()
if child == 0:
    os._exit(0 if np.array_equal(ops.conv2d(x, w)[0], before) else 1)
raise SystemExit(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
"""
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)


@pytest.mark.parametrize(
    "sizes", [(36, 64, 96, 80), (16, 128, 256, 256), (5, 300, 300, 300), (3, 0, 4, 2), (0, 2, 2, 2)]
)
def test_a_stacked_product_is_the_same_to_the_bit(sizes: tuple[int, int, int, int]) -> None:
    stack, rows, inner, columns = sizes
    rng = np.random.default_rng(0)
    a = rng.standard_normal((stack, inner, rows), dtype="f").transpose(0, 2, 1)
    b = rng.standard_normal((stack, inner, columns), dtype="f")
    product = matmul(a, b)
    xpcnn.set_num_threads(1)
    np.testing.assert_array_equal(product, matmul(a, b))
    np.testing.assert_allclose(product, a @ b, rtol=0, atol=1e-3)
