"""The benchmark beside PyTorch in miniature: what is equal, time by images, memory, profiles."""

from __future__ import annotations

import doctest
import importlib
import sys
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

import xpcnn
from xpcnn import models
from xpcnn.backend import to_numpy
from xpcnn.backend.torch_peer import TorchPeer
from xpcnn.bench.geometries import NetworkCase
from xpcnn.bench.measure import OURS
from xpcnn.ops import ConvGeometry

sys.path.append(str(Path(__file__).parents[2]))  # the benchmarks are not installed with the package


def _module(name: str) -> Any:
    return importlib.import_module(f"benchmarks.{name}")


(
    contest,
    convolutions,
    memory,
    networks,
    process,
    profile,
    rows,
    scaling,
    straightforward,
    tables,
    torch_calls,
    worker,
) = map(
    _module,
    [
        f"peers.{name}"
        for name in (
            "contest",
            "convolutions",
            "memory",
            "networks",
            "process",
            "profile",
            "rows",
            "scaling",
            "straightforward",
            "tables",
            "torch_calls",
            "worker",
        )
    ],
)
SMALL_DEEP = NetworkCase("deep_convnet", {"hidden": 5}, (5, 1, 28, 28))
SMALL_SIMPLE = NetworkCase("simple_convnet", {"hidden": 5}, (3, 1, 28, 28))


@pytest.fixture(scope="module")
def torch() -> Iterator[Any]:
    """PyTorch's process, one for all: it takes seconds to start."""
    pytest.importorskip("torch")
    with process.PeerProcess(partial(TorchPeer, threads=1)) as one:
        yield one


def scaled_convolution(peer: TorchPeer, arrays: Any, geometry: Any, layout: str, *, place: int) -> Any:
    """Another convolution, of whose three results that in one place is wrong."""
    right = torch_calls.convolution(peer, arrays, geometry, layout)
    return lambda: [part * (1.001 if i == place else 1) for i, part in enumerate(right())]


def missing(_: TorchPeer, *arguments: Any) -> Callable[[], Any]:
    raise LookupError("no such algorithm")


@pytest.mark.parametrize(
    "module", [contest, memory, process, rows, scaling, tables], ids=lambda one: one.__name__
)
def test_examples(module: Any) -> None:
    found = doctest.testmod(module)
    assert found.attempted
    assert not found.failed


# What counts as equal.


@pytest.mark.parametrize("other", [[1.0, 2.001], [1.0], [1.0, np.nan]], ids=["off", "shape", "nan"])
def test_what_is_different(other: list[float]) -> None:
    with pytest.raises(contest.DifferentError, match="sums: other "):
        contest.require_equal("sums", {OURS: [1.0, 2.0], "other": other})


@pytest.mark.parametrize("case", [SMALL_DEEP, SMALL_SIMPLE], ids=["with dropout", "without"])
def test_training_steps(torch: Any, case: NetworkCase) -> None:
    calls, off = networks.training(case, torch)
    assert list(calls) == [OURS, "NCHW", "channels-last"]
    assert 0 < off < 5e-5  # Adam's first steps are as long for gradients that are rounding alone
    assert all(np.isfinite(float(call())) for call in calls.values())


def test_a_wrong_update_is_seen(torch: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    adam = networks.optim.Adam
    monkeypatch.setattr(networks.optim, "Adam", lambda model, lr: adam(model, lr=1.1 * lr))
    with pytest.raises(contest.DifferentError, match="losses: NCHW is off"):
        networks.training(SMALL_SIMPLE, torch)


def test_inference_in_batches(torch: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(networks, "PYTORCHS_BATCH", 2)
    calls, off = networks.inference(SMALL_DEEP, torch)
    assert [part.shape[0] for part in calls["NCHW"]()] == [2, 2, 1]
    assert calls[OURS]().shape == (5, 10)
    assert off < 1e-5


def test_images_in_another_order_are_seen(torch: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(networks, "_batches", lambda count: [slice(2, 4), slice(0, 2), slice(4, 5)])
    with pytest.raises(contest.DifferentError, match="probabilities: NCHW"):
        networks.inference(SMALL_DEEP, torch)


@pytest.mark.parametrize("groups", [1, 2])
def test_convolutions(torch: Any, groups: int) -> None:
    geometry = ConvGeometry.of((2, 4, 7, 6), (6, 4 // groups, 3, 3), 2, 1, 1, groups)
    calls, off = convolutions.forward_backward(geometry, torch)
    assert list(calls) == [OURS, "NCHW", "channels-last"]
    assert 0 <= off < 1e-5
    y, dx, dweight = calls["channels-last"]()
    shapes = geometry.output_shape, geometry.input_shape, geometry.weight_shape
    assert (tuple(y.shape), tuple(dx.shape), tuple(dweight.shape)) == shapes


@pytest.mark.parametrize("place", [0, 1, 2])
def test_a_wrong_convolution_is_seen(torch: Any, monkeypatch: pytest.MonkeyPatch, place: int) -> None:
    wrong = SimpleNamespace(convolution=partial(scaled_convolution, place=place))
    monkeypatch.setattr(convolutions, "torch_calls", wrong)
    with pytest.raises(contest.DifferentError, match=("y: ", "dx: ", "dweight: ")[place]):
        convolutions.forward_backward(ConvGeometry.of((1, 2, 5, 5), (2, 2, 3, 3)), torch)


def test_an_error_in_pytorchs_process(torch: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(convolutions, "torch_calls", SimpleNamespace(convolution=missing))
    with pytest.raises(process.PeerError, match="LookupError: no such algorithm"):
        convolutions.forward_backward(ConvGeometry.of((1, 2, 5, 5), (2, 2, 3, 3)), torch)


def test_a_contest_between_processes(torch: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    prepare = partial(networks.training, SMALL_SIMPLE)
    monkeypatch.setattr(rows, "CONTESTS", {"simple": rows.ContestRow("s", prepare, {})})
    found, interrupted = worker.measure("simple", 1, 2, torch)
    assert not interrupted
    assert list(found["ms"]) == [OURS, "NCHW", "channels-last"]
    assert found["rounds"] == 2
    assert min(found["ms"].values()) > 0
    assert 0 < found["off"] < 1e-5


def test_the_straightforward_network_is_the_same_in_float64() -> None:
    options = {"hidden": 5, "dropout": 0.0, "dtype": "float64"}
    model = models.deep_convnet(**options)
    trainer = networks.Trainer(model, networks.optim.Adam(model, lr=1e-3))
    plain = straightforward.DeepConvNet(model.state_dict(), dropout=0.0)
    images, labels = networks.batch_of(SMALL_DEEP)
    images = images.astype(np.float64)
    for _ in range(4):
        assert plain.step(images, labels) == pytest.approx(float(trainer.step(images, labels)), rel=1e-9)
    for name, value in model.state_dict().items():
        np.testing.assert_allclose(plain.params[name], to_numpy(value), atol=1e-7)


def test_beside_the_straightforward_network() -> None:
    calls, off = networks.beside_straightforward(SMALL_DEEP, None)
    assert list(calls) == [OURS, networks.STRAIGHTFORWARD]
    assert off < 1e-4
    assert all(np.isfinite(float(call())) for call in calls.values())


# Time by images, memory, profile.


def test_scaling() -> None:
    found, interrupted = scaling.scaling("linear", "w", 1, SMALL_SIMPLE, 2, (1, 2, 4), 0)
    assert not interrupted
    assert list(found.ms) == ["1", "2", "4"]
    assert found.rounds == 2


def test_fit_of_what_is_not_linear() -> None:
    slope, start, off, exponent = scaling.fit((50, 100, 200, 400), (25.0, 100.0, 400.0, 1600.0))
    assert exponent == pytest.approx(2)
    assert off > 0.3
    assert slope > 0 > start


def test_arrays_are_counted_once() -> None:
    x = np.zeros(100)
    around: list[Any] = [x, (x.reshape(10, 10).T, {"part": x[::2]}), None, "text"]
    around.append(around)
    assert memory.array_bytes(around) == 800
    model = models.tiny_convnet()
    parameters = sum(4 * parameter.data.size for parameter in model.parameters().values())
    assert memory.array_bytes(model, model) == parameters


def test_memory_of_a_step() -> None:
    found = memory.step_memory("memory-deep", "w", 1, SMALL_SIMPLE)
    # The ReLU's and the pooling's at least: 3 x 30 x 24 x 24 numbers.
    assert found.contexts > found.made > 4 * 3 * 30 * 24 * 24
    assert found.peak > 0.5 * found.made
    assert found.to_json()["ratio"] == found.peak / found.contexts


class Clock:
    """Goes on by a second whenever it is looked at."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        self.now += 1
        return self.now


def test_a_profile_puts_all_time_down_to_owners() -> None:
    model = models.simple_convnet()
    trainer = networks.Trainer(model, networks.optim.Adam(model))
    images, labels = networks.batch_of(SMALL_SIMPLE)
    clock = Clock()
    with networks.get_backend().model_run(), profile.Profile(clock) as found:
        trainer.step(images, labels)
    names = {(owner.op, owner.pass_name) for owner in found.seconds}
    assert {("convolution", "forward"), ("convolution", "grad_weight"), ("linear", "backward")} <= names
    assert {("optimiser", "update"), ("max_pool2d", "backward"), ("trainer", "")} <= names
    assert ("convolution", "grad_input") not in names  # the first layer needs none
    # The clock is looked at once more for each event than time is put down: for its new beginning.
    assert sum(found.seconds.values()) * 2 == pytest.approx(clock.now, rel=0.01)


def test_a_forward_pass_within_a_gradient_is_the_gradients() -> None:
    ops = profile.ops
    x, weight = np.ones((1, 2, 6, 6), np.float32), np.ones((2, 2, 3, 3), np.float32)
    y, ctx = ops.conv2d(x, weight, padding=1, algorithm="im2col")
    with profile.Profile() as found:
        ops.conv2d.backward(ctx, y, need_dweight=False)
    passes = {owner.pass_name for owner in found.calls if owner.algorithm == "im2col"}
    assert passes == {"grad_input"}


@pytest.mark.parametrize("algorithm", ["im2col", "mec", "winograd"])
def test_pieces_are_the_algorithms(algorithm: str) -> None:
    ops = profile.ops
    x, weight = np.ones((64, 2, 6, 6), np.float32), np.ones((2, 2, 3, 3), np.float32)
    before = xpcnn.get_workspace_limit()
    xpcnn.set_workspace_limit(100_000)
    try:
        with profile.Profile() as found:
            y, ctx = ops.conv2d(x, weight, padding=1, algorithm=algorithm)
            ops.conv2d.backward(ctx, y)
    finally:
        xpcnn.set_workspace_limit(before)
    owners = {(owner.algorithm, owner.pass_name) for owner in found.calls if owner.level == 4}
    assert owners == {(algorithm, one) for one in ("forward", "grad_input", "grad_weight")}


def test_the_table_of_a_profile(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XPCNN_NUM_THREADS", "1")
    monkeypatch.setattr(profile, "MODELS", {"simple_convnet": SMALL_SIMPLE})
    title, _, header, *lines = profile.table_of("simple_convnet", steps=2).splitlines()
    assert title.startswith("simple_convnet, batch 3x1x28x28, one thread: ")
    assert header.split() == ["op", "algorithm", "pass", "calls", "ms", "share"]
    shares = [float(line.split()[-1].rstrip("%")) for line in lines]
    assert sum(shares) == pytest.approx(100, abs=0.1 * len(shares))
    assert shares[:-1] == sorted(shares[:-1], reverse=True)
