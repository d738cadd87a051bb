"""Measuring: everybody's turn in each round, results verified first, memory counted, Ctrl-C."""

from __future__ import annotations

import sys
import time
import tracemalloc
import types
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

import xpcnn
from xpcnn import nn, ops
from xpcnn.backend import Backend, get_backend
from xpcnn.backend.facts import device_facts
from xpcnn.backend.memory import memory_use
from xpcnn.backend.torch_peer import TorchPeer
from xpcnn.bench import convolutions, layers, machine, networks, roofs, timing
from xpcnn.bench.geometries import LayerCase, NetworkCase
from xpcnn.bench.measure import FLOOR, Contestant, Problem, WrongResultError, measure, ready
from xpcnn.bench.network_spec import spec_of
from xpcnn.bench.oracle import Expected, relative_error
from xpcnn.errors import AlgorithmError, ArgumentError
from xpcnn.models import resnet18
from xpcnn.ops import ConvGeometry

QUICK = 1e-4
MIB = 1 << 20


def test_all_have_a_turn_in_each_round() -> None:
    turns: list[str] = []
    calls = {name: lambda name=name: turns.append(name) for name in "abc"}
    known = timing.interleaved(calls, rounds=4, block=0)
    assert "".join(turns) == "abc" * 5  # the first warms up
    assert [len(one.seconds) for one in known.values()] == [4] * 3


def test_quick_calls_are_repeated_in_a_turn() -> None:
    count = 0

    def call() -> None:
        nonlocal count
        count += 1
        time.sleep(0.001)

    known = timing.interleaved({"it": call}, rounds=2, block=0.01)
    assert 2 < count <= 1 + 2 * 10
    assert known["it"].median > 0.001


def test_slow_calls_have_fewer_rounds(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(timing, "SLOW_SECONDS", 0.01)
    known = timing.interleaved({"slow": lambda: time.sleep(0.02), "quick": int}, rounds=5, block=0)
    assert [len(one.seconds) for one in known.values()] == [timing.SLOW_ROUNDS, 5]


def test_what_a_timing_says() -> None:
    known = timing.Timing([3.0, 1.0, 2.0, 5.0, 4.0])
    assert (known.median, known.low, known.high, known.best) == (3, 2, 4, 1)
    assert timing.Timing([2.0]).low == timing.Timing([2.0]).high == 2


def test_threads_are_held() -> None:
    """Those of BLAS, and our own."""
    from threadpoolctl import threadpool_info

    def counts() -> set[int]:
        blas = {pool["num_threads"] for pool in threadpool_info() if pool["user_api"] == "blas"}
        return {*blas, xpcnn.get_num_threads()}

    before = xpcnn.get_num_threads()
    for threads in (1, 2):
        with timing.held_to(get_backend(), threads):
            assert counts() == {threads}
        assert xpcnn.get_num_threads() == before


# Memory.


def test_memory_of_numpy() -> None:
    def call() -> Any:
        scratch = np.ones(8 * MIB, np.uint8)
        return scratch[: 2 * MIB].copy()

    for _ in range(2):
        use = memory_use(get_backend(), call)
        assert use is not None
        assert use.peak == pytest.approx(10 * MIB, rel=0.01)
        assert use.kept == pytest.approx(2 * MIB, rel=0.01)
        assert use.workspace == pytest.approx(8 * MIB, rel=0.01)
        assert not tracemalloc.is_tracing()


def test_memory_of_what_is_traced_already() -> None:
    tracemalloc.start()
    try:
        before = np.ones(4 * MIB, np.uint8)
        use = memory_use(get_backend(), lambda: before[:MIB].copy())
        assert use is not None
        assert use.peak == pytest.approx(MIB, rel=0.01)
        assert tracemalloc.is_tracing()
    finally:
        tracemalloc.stop()


def test_memory_that_nobody_counts() -> None:
    pytest.importorskip("torch")
    with xpcnn.use_backend("torch") as backend:
        assert memory_use(backend, lambda: None) is None


# Problems.


def contestant(name: str, value: Any, *, verified: bool = True) -> Contestant:
    def prepare() -> Callable[[], Any]:
        if isinstance(value, Exception):
            raise value
        return lambda: value

    return Contestant(name, "forward", prepare, np.asarray, get_backend(), verified)


def problem(*contestants: Contestant) -> Problem:
    return Problem(
        "p",
        "a problem",
        list(contestants),
        operations=lambda _: 2e6,
        traffic=lambda _: 1e3,
        expected=lambda _: Expected(np.array([1.0, 2.0])),
        tolerance=1e-3,
    )


def test_results() -> None:
    right, wrong = np.array([1.0, 2.0001]), np.array([1.0, 2.1])
    results, interrupted = measure(
        problem(
            contestant(FLOOR, None, verified=False),
            contestant("wrong", wrong),
            contestant("unable", AlgorithmError("needs more")),
            contestant("right", right),
            contestant("greedy", MemoryError("too much")),
        ),
        3,
        QUICK,
    )
    assert not interrupted
    floor, bad, unable, good, greedy = results
    assert [result.algorithm for result in results] == [FLOOR, "wrong", "unable", "right", "greedy"]
    assert floor.floor_ratio == 1
    assert good.ms is not None
    assert good.rounds == 3
    assert good.error == pytest.approx(5e-5)
    assert good.gflops == pytest.approx(2e6 / (good.ms / 1000) / 1e9)
    assert good.floor_ratio == pytest.approx(good.ms / (floor.ms or 0))
    assert bad.wrong
    assert bad.ms is None
    assert bad.reason == "WRONG: off by 5.0e-02 of the largest number, where 1e-03 is allowed"
    assert (unable.reason, unable.wrong) == ("needs more", False)
    assert greedy.reason == "ran out of memory: too much"


def test_a_wrong_result_is_an_error() -> None:
    one = problem(contestant("wrong", np.array([1.0, 2.1])))
    with pytest.raises(WrongResultError):
        ready(one, one.contestants[0], one.expected("forward"))


def test_of_variants_the_fastest_is_kept() -> None:
    def variant(name: str, seconds: float) -> Contestant:
        call = lambda: time.sleep(seconds)  # noqa: E731
        return Contestant("a", "forward", lambda: call, np.asarray, verified=False, variant=name)

    results, _ = measure(
        problem(variant("slow", 0.01), variant("fast", 0.001), variant("slower", 0.02)), 2, 0
    )
    assert [result.variant for result in results] == ["fast"]


def test_ctrl_c_keeps_the_rounds_that_were_done() -> None:
    count = 0

    def press() -> np.ndarray:
        nonlocal count
        count += 1
        if count == 5:  # verified, warmed up, two rounds
            raise KeyboardInterrupt
        return np.array([1.0, 2.0])

    patient = contestant("patient", np.array([1.0, 2.0]))
    pressed = Contestant("pressed", "forward", lambda: press, np.asarray)
    results, interrupted = measure(problem(patient, pressed), 7, 0)
    assert interrupted
    assert {result.algorithm: result.rounds for result in results} == {"patient": 3, "pressed": 2}


def test_ctrl_c_before_the_first_round() -> None:
    def press() -> Any:
        raise KeyboardInterrupt

    pressed = Contestant("pressed", "forward", lambda: press, np.asarray)
    results, interrupted = measure(problem(contestant("a", AlgorithmError("no")), pressed), 7, 0)
    assert interrupted
    assert [result.algorithm for result in results] == ["a"]


def test_every_contestant_of_a_convolution() -> None:
    geometry = ConvGeometry.of((2, 4, 8, 8), (4, 4, 3, 3), padding=1)
    results, _ = measure(convolutions.problem("c", geometry, get_backend(), plain_loop=True), 1, 0)
    assert not any(result.wrong for result in results)
    timed = {(result.algorithm, result.pass_name) for result in results if result.ms is not None}
    for name in (FLOOR, "auto", "im2col", "as_strided", "loop", "plain loop"):
        assert {(name, one) for one in convolutions.PASSES} <= timed
    unable = {result.algorithm for result in results if result.reason}
    assert unable <= set(ops.algorithm_names())
    auto = next(result for result in results if result.algorithm == "auto")
    assert auto.variant in ops.algorithm_names()
    assert auto.workspace_bytes is not None


def test_convolution_where_there_are_no_groups_in_a_loop() -> None:
    geometry = ConvGeometry.of((2, 4, 5, 5), (4, 1, 3, 3), padding=1, groups=4)
    results, _ = measure(
        convolutions.problem("d", geometry, get_backend(), algorithms=("im2col",), plain_loop=True), 1, 0
    )
    assert {result.reason for result in results if result.algorithm == "plain loop"} == {"has no groups"}
    assert all(result.ms is not None for result in results if result.algorithm in ("im2col", FLOOR))


@pytest.mark.parametrize("name", ["numpy", "torch", "array_api_strict"])
def test_any_backend(name: str) -> None:
    if reason := xpcnn.available_backends()[name]:
        pytest.skip(reason)
    geometry = ConvGeometry.of((1, 2, 6, 6), (2, 2, 3, 3))
    with xpcnn.use_backend(name) as backend, timing.held_to(backend, 1):
        results, _ = measure(
            convolutions.problem("c", geometry, backend, algorithms=("im2col", "loop")), 1, 0
        )
        assert all(result.ms is not None for result in results)
        case = LayerCase("max_pool2d", (1, 2, 6, 6), {"kernel_size": 2})
        results, _ = measure(layers.problem("p", case, backend), 1, 0)
        assert all(result.ms is not None for result in results)


# PyTorch beside ours.


def test_torch_convolution() -> None:
    pytest.importorskip("torch")
    geometry = ConvGeometry.of((2, 4, 7, 7), (6, 2, 3, 3), stride=2, padding=1, groups=2)
    one = convolutions.problem("c", geometry, get_backend(), algorithms=(), torch_peer=TorchPeer())
    theirs = [other for other in one.contestants if other.algorithm == "torch"]
    assert len(theirs) == 6
    for other in theirs:
        found = relative_error(other.evidence(other.prepare()()), one.expected(other.pass_name))
        assert found < 1e-5, (other.variant, other.pass_name)


NETWORKS = {
    "with dropout": NetworkCase("deep_convnet", {"hidden": 5}, (5, 1, 28, 28)),
    "with residuals": NetworkCase("small", {}, (4, 3, 8, 8)),
}


def small_residual(dtype: str) -> nn.Layer:
    options = {"seed": 0, "dtype": dtype}
    body = nn.Sequential(
        conv1=nn.Conv2d(3, 4, 3, stride=2, padding=1, bias=False, **options),
        bn1=nn.BatchNorm2d(4, dtype=dtype),
    )
    block = nn.Residual(body, nn.Conv2d(3, 4, 1, stride=2, **options))
    tail = {"relu": nn.ReLU(), "pool": nn.AdaptiveAvgPool2d(1), "flatten": nn.Flatten()}
    return nn.Sequential({"block": block, **tail, "fc": nn.Linear(4, 10, **options)})


@pytest.mark.parametrize("name", NETWORKS)
def test_networks(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    pytest.importorskip("torch")
    if name == "with residuals":
        monkeypatch.setattr(networks, "_built", lambda case, dtype: small_residual(dtype))
    one = networks.problem(name, NETWORKS[name], get_backend(), dtype="float64", torch_peer=TorchPeer())
    results, _ = measure(one, 1, 0)
    assert [result.algorithm for result in results] == ["auto", "auto", "torch", "torch"]
    assert [result.reason for result in results] == [None] * 4
    train, inference, *_ = results
    assert train.operations == 3 * inference.operations
    assert train.workspace_bytes is not None


def test_a_wrong_gradient_is_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    one = networks.problem("n", NETWORKS["with dropout"], get_backend(), passes=("train",))
    expected = one.expected("train")
    backward = networks.softmax_cross_entropy.backward
    monkeypatch.setattr(networks.softmax_cross_entropy, "backward", lambda ctx: backward(ctx) * 1.1)
    with pytest.raises(WrongResultError):
        ready(one, one.contestants[0], expected)


def test_a_layer_that_torchs_side_does_not_know() -> None:
    with pytest.raises(ArgumentError, match="cannot build a layer of the kind GELU"):
        spec_of(nn.Sequential(nn.GELU()))


def test_spec_of_a_residual_network() -> None:
    kind, options = spec_of(resnet18(classes=10, small_images=True))
    assert kind == "Sequential"
    assert "Residual" in str(options)


# The machine.


def test_facts() -> None:
    assert {"processor", "cores", "python", "xpcnn", "numpy", "blas"} <= machine.machine().keys()
    assert machine.machine() == {**machine.hardware(), **machine.versions()}
    assert device_facts(get_backend()) == {"device": "cpu", "tf32": False}


def test_roofs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(roofs, "_SIZE", {False: 64})
    monkeypatch.setattr(roofs, "_BYTES", {False: 1 << 16})
    found = roofs.roofs(get_backend(), "float32", rounds=1)
    assert found.keys() == {"gemm_gflops", "copy_gbytes"}
    assert all(value > 0 for value in found.values())


class Pool:
    """Stands in for CuPy's memory pool and its hooks."""

    def __init__(self) -> None:
        self.hooks: list[Any] = []
        self.next = 0

    def module(self) -> types.ModuleType:
        pool = self

        class MemoryHook:
            def __enter__(self) -> Any:
                pool.hooks.append(self)
                return self

            def __exit__(self, *error: object) -> None:
                pool.hooks.remove(self)

        module = types.ModuleType("cupy")
        module.cuda = types.SimpleNamespace(MemoryHook=MemoryHook)  # type: ignore[attr-defined]
        return module

    def malloc(self, size: int) -> int:
        self.next += 1
        for hook in self.hooks:
            hook.malloc_postprocess(device_id=0, size=size - 5, mem_size=size, mem_ptr=self.next, pmem_id=1)
        return self.next

    def free(self, pointer: int) -> None:
        for hook in self.hooks:
            hook.free_postprocess(device_id=0, mem_size=0, mem_ptr=pointer, pmem_id=1)


def test_memory_of_a_pool(monkeypatch: pytest.MonkeyPatch) -> None:
    pool = Pool()
    monkeypatch.setitem(sys.modules, "cupy", pool.module())
    backend = Backend("cupy", np, 0)
    before = pool.malloc(4096)

    def call() -> None:
        scratch = pool.malloc(1024)
        pool.free(before)  # was not handed out in the call
        pool.malloc(512)
        pool.free(scratch)
        pool.malloc(256)

    use = memory_use(backend, call)
    assert use is not None
    assert (use.peak, use.kept, use.workspace) == (1536, 768, 768)
    assert pool.hooks == []
