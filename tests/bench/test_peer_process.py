"""The process that another library is timed in: calls, errors, its end. PyTorch itself is in `test_peers`."""

from __future__ import annotations

import importlib
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from xpcnn.backend import heap
from xpcnn.bench.measure import OURS
from xpcnn.bench.timing import TimedElsewhere, interleaved

ROOT = Path(__file__).parents[2]
sys.path.append(str(ROOT))  # the benchmarks are not installed with the package

process, contest = (importlib.import_module(f"benchmarks.peers.{name}") for name in ("process", "contest"))


class Library:
    """Another library, whose arrays are tuples in a set of one."""

    def host(self, tensor: set[tuple[float, ...]]) -> np.ndarray:
        (values,) = tensor
        return np.array(values)


def scaled(_: Library, factor: float, *values: float) -> Callable[[], Any]:
    return lambda: ({tuple(factor * value for value in values)}, {(factor,)})


def sleeping(_: Library, seconds: float) -> Callable[[], Any]:
    return lambda: time.sleep(seconds) or {(seconds,)}


def telling(_: Library) -> Callable[[], Any]:
    """Tell its process, its environment, and whether its allocator was set up."""
    return lambda: {(os.getpid(), int(os.environ["PEER_TEST"]), heap.keep_freed_memory.cache_info().currsize)}


def failing(_: Library, early: bool) -> Callable[[], Any]:
    if early:
        raise ValueError("no such weights")
    return lambda: 1 // 0


def ending(_: Library) -> Callable[[], Any]:
    return lambda: os._exit(3)


@pytest.fixture(scope="module")
def library() -> Iterator[Any]:
    with pytest.MonkeyPatch.context() as patch, process.PeerProcess(Library) as one:
        patch.setenv("PEER_TEST", "7")
        one.prepare(telling, {})  # starts it, within this environment
        yield one


@pytest.fixture
def own() -> Iterator[Any]:
    with process.PeerProcess(Library) as one:
        yield one


def test_calls_give_host_arrays(library: Any) -> None:
    calls = library.prepare(scaled, {"double": (2, 1.0, 2.0), "triple": (3, 1.0)})
    values, factor = calls["double"]()
    assert isinstance(values, np.ndarray)
    assert (values.tolist(), factor.tolist()) == ([2.0, 4.0], [2])
    assert calls["triple"]()[0].tolist() == [3.0]


def test_it_is_another_process_with_its_own_allocator(library: Any) -> None:
    heap.keep_freed_memory()
    first, again = (library.prepare(telling, {"it": ()})["it"]().tolist() for _ in range(2))
    pid, variable, allocator_set_up = first
    assert pid != os.getpid()
    assert variable == 7
    assert not allocator_set_up
    assert again == first


def test_it_is_timed_there(library: Any) -> None:
    call = library.prepare(sleeping, {"it": (0.02,)})["it"]
    assert isinstance(call, TimedElsewhere)
    begun = time.perf_counter()
    seconds = call.seconds(3)
    assert 0.02 <= seconds < 0.06
    assert time.perf_counter() - begun >= 3 * seconds


def test_interleaved_asks_for_its_seconds() -> None:
    asked: list[int] = []

    class Call:
        def __call__(self) -> None:
            raise AssertionError("timed from here")

        def seconds(self, repeats: int) -> float:
            asked.append(repeats)
            return 0.25

    known = interleaved({"there": Call(), "here": int}, rounds=2, block=1.0)
    assert asked == [1, 4, 4]
    assert known["there"].seconds == [0.25, 0.25]


def test_nothing_runs_before_a_turn(monkeypatch: pytest.MonkeyPatch) -> None:
    events: list[Any] = []
    monkeypatch.setattr(time, "sleep", events.append)
    calls = {name: lambda name=name: events.append(name) for name in "ab"}
    interleaved(calls, rounds=2, block=0, pause=0.5)
    assert events == ["a", "b", *(0.5, "a", 0.5, "b") * 2]


@pytest.mark.parametrize(
    ("early", "told"), [(True, "ValueError: no such weights"), (False, "ZeroDivisionError")]
)
def test_an_error_comes_with_its_traceback(library: Any, early: bool, told: str) -> None:
    with pytest.raises(process.PeerError, match=told) as caught:
        library.prepare(failing, {"it": (early,)})["it"]()
    assert "in failing\n" in str(caught.value) or "in <lambda>\n" in str(caught.value)
    assert library.prepare(scaled, {"it": (1, 5.0)})["it"]()[0].tolist() == [5.0]  # it goes on


def test_what_was_prepared_before_is_forgotten(library: Any) -> None:
    before = library.prepare(scaled, {"it": (1, 5.0)})["it"]
    library.prepare(scaled, {"it": (1, 6.0)})
    with pytest.raises(process.PeerError, match="KeyError"):
        before()


def test_its_end_is_an_error(own: Any) -> None:
    assert not own.running
    calls = own.prepare(ending, {"it": ()})
    assert own.running
    with pytest.raises(process.PeerError, match="has ended, with 3"):
        calls["it"]()
    assert not own.running


@pytest.mark.skipif(os.name != "posix", reason="sends signals")
def test_ctrl_c_keeps_whole_rounds_and_ends_it(own: Any) -> None:
    calls = {OURS: lambda: time.sleep(0.001), **own.prepare(sleeping, {"NCHW": (0.05,)})}
    child, _ = own._started
    ended = threading.Timer(1.0, os.kill, (os.getpid(), signal.SIGINT))
    before = signal.signal(signal.SIGINT, signal.default_int_handler)  # it may be ignored, in the background
    try:
        ended.start()
        found, interrupted = contest.contest("simple", "w", 1, [(calls, 10_000)], 0)
        ended.join()
    finally:
        signal.signal(signal.SIGINT, before)
    assert interrupted
    assert found.rounds >= 1
    assert found.ms["NCHW"] >= 50
    own.close()
    assert not child.is_alive()


@pytest.mark.skipif(os.name != "posix", reason="sends signals")
def test_it_ends_with_the_process_that_asks() -> None:
    program = f"""
import os, signal
from benchmarks.peers.process import PeerProcess
from {Path(__file__).stem} import Library, scaled
PeerProcess(Library).prepare(scaled, {{}})
print("prepared", flush=True)
os.kill(os.getpid(), signal.SIGKILL)
"""
    paths = os.pathsep.join([str(ROOT), str(Path(__file__).parent), os.environ.get("PYTHONPATH", "")])
    # It has the same stderr, which is read until nobody holds it any more.
    told = subprocess.run(
        [sys.executable, "-c", program],
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONPATH": paths},
        timeout=60,
    )
    assert told.returncode == -signal.SIGKILL, told.stderr
    assert told.stdout == "prepared\n"
