"""Tasks on threads: in order, bounded, not nested, with the caller's settings and the same bits."""

from __future__ import annotations

import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import pytest

import xpcnn
from xpcnn import Trainer, data, errors, models, nn, ops, optim
from xpcnn.backend.threads import HANDOVER, parallel_for, parallel_map


@pytest.fixture(autouse=True)
def _four_threads() -> Iterator[None]:
    xpcnn.set_num_threads(4)
    yield
    xpcnn.set_num_threads(None)


def map_all(function: Callable[[Any], Any], items: Any, max_workers: int | None = None) -> None:
    """`parallel_map` as `parallel_for` is called."""
    list(parallel_map(function, items, max_workers))


@pytest.mark.parametrize("count", [0, 1, 2, 50])
def test_everything_is_run_once_and_results_are_in_order(count: int) -> None:
    seen = set()

    def work(i: int) -> int:
        seen.add(threading.get_ident())
        time.sleep(0.002 * (5 - i % 5))
        return i * i

    assert list(parallel_map(work, range(count))) == [i * i for i in range(count)]
    assert list(parallel_map(work, range(count), 3)) == [i * i for i in range(count)]
    assert (threading.get_ident() in seen) == (count > 0)
    assert (len(seen) > 1) == (count > 1)
    done: list[int] = []
    parallel_for(done.append, range(count))
    assert sorted(done) == list(range(count))


@pytest.mark.parametrize("run", [parallel_for, map_all])
@pytest.mark.parametrize("allowed", [1, 2])
def test_bounded_and_not_nested(run: Callable[..., None], allowed: int) -> None:
    running, most, lock = 0, 0, threading.Lock()

    def work(_: int) -> None:
        nonlocal running, most
        with lock:
            running += 1
            most = max(most, running)
        if allowed > 1:
            inner: list[int] = []
            run(lambda _: inner.append(threading.get_ident()), range(3))
            assert set(inner) == {threading.get_ident()}
        time.sleep(0.002)
        with lock:
            running -= 1

    run(work, range(12), max_workers=allowed)
    assert most == allowed


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


@pytest.mark.parametrize("run", [parallel_for, map_all])
@pytest.mark.parametrize("place", [0, 3, 11])
def test_an_error_ends_a_run(run: Callable[..., None], place: int) -> None:
    done: list[int] = []

    def work(i: int) -> None:
        if i == place:
            raise ZeroDivisionError
        time.sleep(0.002)
        done.append(i)

    with pytest.raises(ZeroDivisionError):
        run(work, range(50))
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

    others = [threading.Thread(target=parallel_for, args=(work, range(8))) for _ in range(2)]
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


def test_settings_of_the_caller_hold_in_the_workers() -> None:
    x, w = np.ones((1, 1, 3, 3)), np.ones((1, 1, 2, 2))
    with xpcnn.conv_algorithm("fft"):
        names = list(parallel_map(lambda _: ops.conv2d(x, w)[1].algorithm, range(4)))
    assert names == ["fft"] * 4


@pytest.mark.parametrize("wrong", [0, -1, 1.5, True, "two", 10_000], ids=repr)
def test_wrong_number_of_threads(wrong: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(errors.ArgumentError, match="set_num_threads"):
        xpcnn.set_num_threads(wrong)
    assert xpcnn.get_num_threads() == 4
    xpcnn.set_num_threads(None)
    monkeypatch.setenv("XPCNN_NUM_THREADS", str(wrong))
    with pytest.raises(errors.ArgumentError, match=rf"\$XPCNN_NUM_THREADS.*{wrong}"):
        xpcnn.get_num_threads()
    monkeypatch.setenv("XPCNN_NUM_THREADS", "3")
    assert xpcnn.get_num_threads() == 3
    monkeypatch.delenv("XPCNN_NUM_THREADS")
    assert xpcnn.get_num_threads() >= 1


def batch_statistics() -> nn.Layer:
    first, second = (nn.Conv2d(c, 64, 3, stride=2, seed=c) for c in (1, 64))
    head = nn.MaxPool2d(4), nn.Flatten(), nn.Linear(64, 10, seed=2)
    return nn.Sequential(first, nn.BatchNorm2d(64), nn.ReLU(), second, nn.ReLU(), *head)


@pytest.mark.slow
@pytest.mark.parametrize("build", [models.deep_convnet, batch_statistics], ids=["shards", "whole"])
def test_training_is_the_same_to_the_bit(build: Callable[[], nn.Layer]) -> None:
    def trained(threads: int) -> list[np.ndarray]:
        xpcnn.set_num_threads(threads)
        model = build()
        trainer = Trainer(model, optim.Adam(model, lr=1e-3), seed=5)
        digits = data.synthetic_digits(66)
        trainer.fit(digits, digits, epochs=1, batch_size=33, progress=None)
        return [*model.state_dict().values(), np.array(trainer.history.losses)]

    one = trained(1)
    for threads in (2, 4):
        np.testing.assert_equal(trained(threads), one)


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


def test_models_called_from_the_users_own_threads() -> None:
    model, x = models.simple_convnet(), data.synthetic_digits(60).images.astype(np.float32) / 255
    expected = model(x)
    with ThreadPoolExecutor(8) as pool:
        for y in pool.map(lambda _: model(x), range(16)):
            np.testing.assert_array_equal(y, expected)
