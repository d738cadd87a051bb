"""xpcnn.autotune: what is measured and when, how it is verified, and that nothing else changes."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import xpcnn
from tests.support.conv_cases import CASES, reference
from tests.support.ops import draw, mentions
from xpcnn import ops
from xpcnn.backend import backend_of
from xpcnn.ops.conv import algorithm as registry
from xpcnn.ops.conv import autotune, executor, tuning_cache
from xpcnn.ops.conv.algorithms.im2col import Im2col

NUMPY = backend_of(np.zeros(1))
GEOMETRY = ops.ConvGeometry.of((2, 3, 8, 8), (4, 3, 3, 3), padding=1)


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """An empty cache in a folder that does not exist yet, and a process that has measured nothing."""
    monkeypatch.setenv("XPCNN_CACHE_DIR", str(tmp_path / "cache"))
    forget(monkeypatch)
    limit = xpcnn.get_workspace_limit()
    yield tmp_path / "cache"
    xpcnn.set_workspace_limit(limit)


def forget(monkeypatch: pytest.MonkeyPatch) -> None:
    """Be as a new process: only the file remains."""
    monkeypatch.setattr(autotune, "_chosen", {})
    monkeypatch.setattr(tuning_cache, "_caches", {})


@pytest.fixture
def measured(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """The geometries and passes that were measured, in this order. Nothing is run: "mec" is the fastest."""
    calls: list[Any] = []

    def fastest(candidates: list[str], geometry: Any, pass_name: str, *others: Any) -> str:
        calls.append((geometry, pass_name))
        return "mec" if "mec" in candidates else candidates[-1]

    monkeypatch.setattr(autotune, "_fastest", fastest)
    return calls


@pytest.fixture
def added(monkeypatch: pytest.MonkeyPatch) -> Callable[[str, Any], None]:
    """Registers an algorithm for one test."""

    def add(name: str, algorithm: Any) -> None:
        algorithm.name = name
        monkeypatch.setitem(registry.ALGORITHMS, name, algorithm())

    return add


@pytest.fixture
def seconds(monkeypatch: pytest.MonkeyPatch) -> dict[str, float]:
    """Pretended seconds of a run by algorithm (1 if not given); "name runs" counts how often it was run."""
    pretended: dict[str, float] = {}
    of_runner: dict[Any, str] = {}
    runner = autotune._runner

    def watched(name: str, *arguments: Any) -> Any:
        run = runner(name, *arguments)
        of_runner[run] = name
        return run

    def pretend(run: Any) -> float:
        name = of_runner[run]
        pretended[f"{name} runs"] = pretended.get(f"{name} runs", 0) + 1
        return pretended.get(name, 1.0)

    monkeypatch.setattr(autotune, "_runner", watched)
    monkeypatch.setattr(autotune, "_seconds", pretend)
    return pretended


def tuned(geometry: Any = GEOMETRY, pass_name: str = "forward", dtype: str = "float32") -> str | None:
    """What `auto` would be told inside of the context, on NumPy."""
    with xpcnn.autotune():
        return autotune.tuned(geometry, pass_name, np.dtype(dtype), NUMPY, executor.run_pass)


# Where it applies -------------------------------------------------------------------------------------


def test_outside_of_the_context_nothing_is_measured(measured: list[Any], folder: Path) -> None:
    assert autotune.tuned(GEOMETRY, "forward", np.dtype("float32"), NUMPY, executor.run_pass) is None
    x, w = draw(2, 3, 8, 8), draw(4, 3, 3, 3)
    y, ctx = ops.conv2d(x, w)
    ops.conv2d.backward(ctx, y)
    assert measured == []
    assert not folder.exists()


def test_context_ends_and_nests(measured: list[Any]) -> None:
    def ask() -> str | None:
        return autotune.tuned(GEOMETRY, "forward", np.dtype("float32"), NUMPY, executor.run_pass)

    with xpcnn.autotune():
        with xpcnn.autotune():
            assert ask() == "mec"
        assert ask() == "mec"
    assert ask() is None
    with pytest.raises(ZeroDivisionError), xpcnn.autotune():
        raise ZeroDivisionError
    assert ask() is None


def test_context_is_of_one_thread(measured: list[Any]) -> None:
    answers: list[Any] = []
    with xpcnn.autotune():
        thread = threading.Thread(
            target=lambda: answers.append(
                autotune.tuned(GEOMETRY, "forward", np.dtype("float32"), NUMPY, executor.run_pass)
            )
        )
        thread.start()
        thread.join()
    assert answers == [None]


def test_named_algorithm_wins(measured: list[Any]) -> None:
    x, w = draw(2, 3, 8, 8), draw(4, 3, 3, 3)
    with xpcnn.autotune():
        with xpcnn.conv_algorithm("as_strided"):
            y, ctx = ops.conv2d(x, w)
            ops.conv2d.backward(ctx, y)
        assert ctx.algorithm == "as_strided"
        y, ctx = ops.conv2d(x, w, algorithm="im2col")
        ops.conv2d.backward(ctx, y)
    assert measured == []


def test_nothing_to_compute(measured: list[Any]) -> None:
    assert tuned(GEOMETRY.with_batch(0)) is None
    assert measured == []


def test_limit_that_leaves_only_the_loops(measured: list[Any]) -> None:
    xpcnn.set_workspace_limit(100)
    assert tuned() is None
    assert measured == []


def test_without_im2col(measured: list[Any], monkeypatch: pytest.MonkeyPatch) -> None:
    """There is nothing to compare with: the fixed rule decides."""
    monkeypatch.setattr(Im2col, "unsupported", lambda *arguments: "is out of order")
    assert tuned() is None
    assert measured == []


# What is measured once --------------------------------------------------------------------------------


def test_measured_once_in_a_process(measured: list[Any]) -> None:
    assert [tuned() for _ in range(3)] == ["mec"] * 3
    assert measured == [(GEOMETRY, "forward")]


def test_measured_once_on_a_machine(measured: list[Any], monkeypatch: pytest.MonkeyPatch) -> None:
    tuned()
    tuned(pass_name="grad_input")
    for _ in range(2):
        forget(monkeypatch)
        assert (tuned(), tuned(pass_name="grad_input")) == ("mec", "mec")
    assert measured == [(GEOMETRY, "forward"), (GEOMETRY, "grad_input")]


OTHERS: dict[str, Callable[[pytest.MonkeyPatch], Any]] = {
    "pass": lambda patch: tuned(pass_name="grad_weight"),
    "dtype": lambda patch: tuned(dtype="float64"),
    "batch": lambda patch: tuned(GEOMETRY.with_batch(3)),
    "padding": lambda patch: tuned(ops.ConvGeometry.of((2, 3, 8, 8), (4, 3, 3, 3), padding=(1, 0))),
    "stride": lambda patch: tuned(ops.ConvGeometry.of((2, 3, 8, 8), (4, 3, 3, 3), stride=2, padding=1)),
    "dilation": lambda patch: tuned(ops.ConvGeometry.of((2, 3, 8, 8), (4, 3, 3, 3), 1, 1, 2)),
    "groups": lambda patch: tuned(ops.ConvGeometry.of((2, 3, 8, 8), (3, 1, 3, 3), padding=1, groups=3)),
    "limit": lambda patch: (xpcnn.set_workspace_limit(1 << 20), tuned()),
    "xpcnn": lambda patch: (patch.setattr(xpcnn, "__version__", "0.0.0"), tuned()),
    "NumPy": lambda patch: (patch.setattr(tuning_cache, "_version", lambda package: "9.9"), tuned()),
    "processor": lambda patch: (patch.setattr(tuning_cache, "_processor", lambda: "Z80"), tuned()),
    "threads": lambda patch: (patch.setattr(tuning_cache, "_threads", lambda backend: 77), tuned()),
    "algorithms": lambda patch: (patch.setitem(registry.ALGORITHMS, "another", Im2col()), tuned()),
}


@pytest.mark.parametrize("other", OTHERS.values(), ids=OTHERS.keys())
@pytest.mark.parametrize("restarted", [False, True], ids=["in memory", "in the file"])
def test_another_choice_is_measured(
    measured: list[Any], monkeypatch: pytest.MonkeyPatch, other: Callable[[Any], Any], restarted: bool
) -> None:
    monkeypatch.setattr(tuning_cache, "_threads", lambda backend: 76)
    tuned()
    if restarted:
        forget(monkeypatch)
    tuning_cache._environment.cache_clear()  # versions do not change while a process lasts
    try:
        other(monkeypatch)
        assert len(measured) == 2
        other(monkeypatch)
        assert len(measured) == 2
    finally:
        tuning_cache._environment.cache_clear()


def test_another_backend_is_measured(measured: list[Any]) -> None:
    tuned()
    with xpcnn.use_backend("array_api_strict") as strict, xpcnn.autotune():
        autotune.tuned(GEOMETRY, "forward", strict.dtype("float32"), strict, executor.run_pass)
    assert len(measured) == 2


def test_threads_wait_for_one_measurement(monkeypatch: pytest.MonkeyPatch) -> None:
    measuring, most, calls = [0], [0], [0]

    def fastest(candidates: list[str], *arguments: Any) -> str:
        calls[0] += 1
        measuring[0] += 1
        most[0] = max(most[0], measuring[0])
        threading.Event().wait(0.02)
        measuring[0] -= 1
        return "mec"

    monkeypatch.setattr(autotune, "_fastest", fastest)
    answers: list[Any] = []
    threads = [threading.Thread(target=lambda: answers.append(tuned())) for _ in range(6)]
    threads.append(threading.Thread(target=lambda: answers.append(tuned(pass_name="grad_input"))))
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert answers == ["mec"] * 7
    assert (calls[0], most[0]) == (2, 1)


# The measurement --------------------------------------------------------------------------------------


def test_takes_the_fastest_and_drops_the_hopeless(seconds: dict[str, float]) -> None:
    seconds.update({"im2col": 0.01, "mec": 0.004, "kn2row": 0.03, "as_strided": 0.06})
    assert tuned() == "mec"
    assert seconds["im2col runs"] == seconds["mec runs"] == seconds["kn2row runs"] == 5
    assert seconds["as_strided runs"] == 1
    assert "loop runs" not in seconds


def test_long_runs_are_few(seconds: dict[str, float]) -> None:
    """About 0.2 s for each candidate; one run of those that take longer."""
    seconds.update({"im2col": 0.09, "mec": 0.3})
    assert tuned() == "im2col"
    assert seconds["im2col runs"] == 3
    assert seconds["mec runs"] == 1


def test_median_and_not_mean_or_best(monkeypatch: pytest.MonkeyPatch) -> None:
    times = iter([0.01, 0.01, 0.03, 0.001, 0.01])
    monkeypatch.setattr(autotune, "_seconds", lambda run: next(times))
    assert autotune._median(lambda: None, 0.01) == 0.01


def test_waits_for_the_device(monkeypatch: pytest.MonkeyPatch) -> None:
    """Inside the timed run; the arrays are made up and ready before."""
    events: list[str] = []
    monkeypatch.setattr(type(NUMPY), "synchronize", lambda self: events.append("waited"))
    real = autotune._seconds

    def seconds(run: Any) -> float:
        events.append("start")
        took = real(run)
        events.append("stop")
        return took

    monkeypatch.setattr(autotune, "_seconds", seconds)
    tuned()
    places = [place for place, event in enumerate(events) if event == "start"]
    assert places
    for place in places:
        assert events[place - 1] in ("waited", "stop")
        assert events[place : place + 3] == ["start", "waited", "stop"]


@pytest.mark.parametrize("pass_name", registry.PASSES)
@pytest.mark.parametrize(
    "name", ["padded 3x3", "strided and padded", "groups", "depthwise", "1x1", "batch 1"]
)
def test_every_candidate_of_every_backend(make: Any, dtype: str, name: str, pass_name: str) -> None:
    """Nothing is left out (that would be a warning, and warnings are errors), and the choice can do it."""
    case = CASES[name]
    geometry = ops.ConvGeometry.of(case.x, case.w, **case.options)
    backend = backend_of(make.array([0.0], dtype))
    with xpcnn.autotune():
        chosen = autotune.tuned(geometry, pass_name, make.dtype(dtype), backend, executor.run_pass)
    assert chosen in set(ops.algorithm_names()) - {"auto", "loop"}


@pytest.mark.parametrize("half", ["float16", "bfloat16"])
def test_half_precision(make: Any, half: str) -> None:
    """Measured as it is computed: in float32, rounded once."""
    if not make.has(half):
        pytest.skip(f"{make.backend} has no {half}")
    x, w = make.array(draw(2, 3, 8, 8), half), make.array(draw(4, 3, 3, 3), half)
    with xpcnn.autotune():
        y, ctx = ops.conv2d(x, w, padding=1)
        dx, dw, _ = ops.conv2d.backward(ctx, y)
    for array in (y, dx, dw):
        assert array.dtype == make.dtype(half)
    expected, _ = ops.conv2d(x, w, padding=1, algorithm="im2col")
    make.check(y, make.to_numpy(expected), half, rtol=1e-2)


def test_made_up_arrays_are_as_in_a_network(make: Any) -> None:
    """Of the right shapes and dtype, images over channels-last memory, the same every time, and not zeros."""
    geometry = ops.ConvGeometry.of((2, 4, 6, 5), (6, 2, 3, 3), stride=2, padding=1, groups=2)
    backend = backend_of(make.array([0.0], "float32"))
    shapes = {"x": (2, 4, 6, 5), "weight": (6, 2, 3, 3), "dy": (2, 6, 3, 3)}
    for pass_name, names in (
        ("forward", ("x", "weight")),
        ("grad_input", ("dy", "weight")),
        ("grad_weight", ("x", "dy")),
    ):
        arrays = autotune._made_up(geometry, pass_name, make.dtype("float32"), backend)
        again = autotune._made_up(geometry, pass_name, make.dtype("float32"), backend)
        for name, array, same in zip(names, arrays, again, strict=True):
            make.check_kind(array, shapes[name], "float32")
            values = make.to_numpy(array)
            np.testing.assert_array_equal(values, make.to_numpy(same))
            assert values.std() > 0.2
            assert abs(values.mean()) < 0.2
            if name != "weight" and make.backend in ("numpy", "torch"):
                assert values.transpose(0, 2, 3, 1).flags.c_contiguous


def test_results_are_those_of_im2col(make: Any, dtype: str) -> None:
    case = CASES["padded 3x3"]
    r = reference(case, dtype)
    x, w, b, dy = (make.array(a) for a in (r.x, r.w, r.b, r.dy))
    with xpcnn.autotune():
        y, ctx = ops.conv2d(x, w, b, **case.options)
        gradients = ops.conv2d.backward(ctx, dy)
    for got, expected in zip((y, *gradients), (r.y, r.dx, r.dw, r.db), strict=True):
        make.check(got, expected, dtype)


def test_auto_inside_an_algorithm_is_not_measured(
    added: Callable[[str, Any], None], seconds: dict[str, float]
) -> None:
    """An algorithm made of convolutions that `auto` chooses does not recurse, nor change the outer choice."""
    inner: list[Any] = []

    class Nested(Im2col):
        def forward(self, x: Any, weight: Any, geometry: Any) -> Any:
            inner.append(autotune.tuned(geometry, "forward", x.dtype, NUMPY, executor.run_pass))
            return super().forward(x, weight, geometry)

    added("nested", Nested)
    seconds["nested"] = 1e-6
    assert tuned() == "nested"
    assert set(inner) == {None}


class Wrong(Im2col):
    """Off by a hundredth in a single value."""

    def forward(self, x: Any, weight: Any, geometry: Any) -> Any:
        y = super().forward(x, weight, geometry)
        y[0, 0, 0, 0] += 0.01 * abs(y).max()
        return y


class Unfinished(Im2col):
    def forward(self, x: Any, weight: Any, geometry: Any) -> Any:
        return np.nan * super().forward(x, weight, geometry)


class Misshapen(Im2col):
    def forward(self, x: Any, weight: Any, geometry: Any) -> Any:
        return super().forward(x, weight, geometry)[:, :, :, 1:]


class Wide(Im2col):
    def forward(self, x: Any, weight: Any, geometry: Any) -> Any:
        return super().forward(x, weight, geometry).astype("float64")


class Broken(Im2col):
    def forward(self, x: Any, weight: Any, geometry: Any) -> Any:
        raise OSError("no such\n  device")


class Writing(Im2col):
    def forward(self, x: Any, weight: Any, geometry: Any) -> Any:
        y = super().forward(x, weight, geometry)
        x[...] = 0.0
        return y


class WritingAndBroken(Im2col):
    def forward(self, x: Any, weight: Any, geometry: Any) -> Any:
        weight *= 2
        raise OSError


FAULTS = {
    "wrong": (Wrong, "differs from that of im2col by 0.01 of the largest"),
    "NaN": (Unfinished, "differs from that of im2col by nan"),
    "shape": (Misshapen, "(2, 4, 8, 7)"),
    "dtype": (Wide, "returned float64 (2, 4, 8, 8)"),
    "raises": (Broken, "OSError: no such device"),
    "writes into x": (Writing, "it writes into its arguments"),
    "writes and raises": (WritingAndBroken, "it writes into its arguments"),
}


@pytest.mark.parametrize(("algorithm", "told"), FAULTS.values(), ids=FAULTS.keys())
def test_wrong_algorithm_is_left_out(
    added: Callable[[str, Any], None], seconds: dict[str, float], algorithm: Any, told: str
) -> None:
    """With one line that names it, however fast it is."""
    added("faulty", algorithm)
    seconds["faulty"] = 1e-6
    parts = ("autotune", "'faulty'", "forward", "(2, 3, 8, 8)", "(4, 3, 3, 3)", told)
    with pytest.warns(RuntimeWarning, match=mentions(*parts)) as caught:
        assert tuned() != "faulty"
    assert len(caught) == 1
    assert "\n" not in str(caught[0].message)
    tuned()  # remembered: no second warning
    assert tuned(pass_name="grad_weight") == "faulty"  # which is right there


@pytest.mark.parametrize("algorithm", [Writing, WritingAndBroken])
def test_one_that_writes_into_x_does_not_spoil_the_others(
    monkeypatch: pytest.MonkeyPatch, algorithm: Any
) -> None:
    """Though it is measured before them."""
    algorithm.name = "faulty"
    others = dict(registry.ALGORITHMS)
    monkeypatch.setattr(registry, "ALGORITHMS", {"faulty": algorithm(), **others})
    with pytest.warns(RuntimeWarning, match="'faulty'") as caught:
        tuned()
    assert len(caught) == 1


def test_fault_of_im2col_itself_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Im2col, "forward", Broken.forward)
    with pytest.raises(OSError, match="no such"):
        tuned()


# In a run ---------------------------------------------------------------------------------------------


def test_same_bits_as_long_as_the_file_is_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    """What a resumed run relies on: choices come from the file, not from another measurement."""

    def gradients() -> list[Any]:
        with xpcnn.autotune():
            y, ctx = ops.conv2d(
                draw(2, 3, 8, 8, dtype="float32"), draw(4, 3, 3, 3, dtype="float32"), padding=1
            )
            return [y, *ops.conv2d.backward(ctx, y)[:2]]

    first = gradients()
    forget(monkeypatch)
    for again, before in zip(gradients(), first, strict=True):
        np.testing.assert_array_equal(again, before)


def test_conv2d_runs_what_was_measured(
    added: Callable[[str, Any], None], seconds: dict[str, float], make: Any
) -> None:
    """Each pass its own choice; and outside of the context none of them."""
    ran: list[str] = []

    class Watched(Im2col):
        def forward(self, x: Any, weight: Any, geometry: Any) -> Any:
            ran.append("forward")
            return super().forward(x, weight, geometry)

        def grad_weight(self, x: Any, dy: Any, geometry: Any) -> Any:
            ran.append("grad_weight")
            return super().grad_weight(x, dy, geometry)

    added("watched", Watched)
    seconds["watched"] = 1e-6
    r = reference(CASES["strided and padded"])
    x, w, dy = make.array(r.x), make.array(r.w), make.array(r.dy)
    with xpcnn.autotune():
        _, ctx = ops.conv2d(x, w, stride=2, padding=1)
        ops.conv2d.backward(ctx, dy)
        ran.clear()
        _, ctx = ops.conv2d(x, w, stride=2, padding=1)
        assert ran == ["forward"]
        ops.conv2d.backward(ctx, dy, need_dx=False)
        assert ran == ["forward", "grad_weight"]
    ran.clear()
    _, ctx = ops.conv2d(x, w, stride=2, padding=1)
    ops.conv2d.backward(ctx, dy)
    assert ran == []
