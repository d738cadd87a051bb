"""xpcnn.autotune: what is measured and when, how it is verified, and where choices are kept."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
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
from xpcnn.ops.conv.tuning_cache import TuningCache

NUMPY = backend_of(np.zeros(1))
GEOMETRY = ops.ConvGeometry.of((2, 3, 8, 8), (4, 3, 3, 3), padding=1)


@pytest.fixture(autouse=True)
def file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where choices are kept, in a folder that does not exist yet; this process has measured nothing."""
    monkeypatch.setenv("XPCNN_CACHE_DIR", str(tmp_path / "cache"))
    forget(monkeypatch)
    return tmp_path / "cache" / "autotune.json"


def forget(monkeypatch: pytest.MonkeyPatch) -> None:
    """Be as a new process: only the file remains."""
    monkeypatch.setattr(autotune, "_chosen", {})
    monkeypatch.setattr(tuning_cache, "_caches", {})


@pytest.fixture
def measured(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """The geometries and passes that were measured, in this order. Nothing is run: "mec" is the fastest."""
    calls: list[Any] = []

    def fastest(candidates: list[str], task: Any) -> str:
        calls.append((task.geometry, task.pass_name))
        return "mec" if "mec" in candidates else candidates[-1]

    monkeypatch.setattr(autotune, "_fastest", fastest)
    return calls


def add(monkeypatch: pytest.MonkeyPatch, name: str, algorithm: Any) -> None:
    """Register an algorithm for one test, before all others."""
    algorithm.name = name
    known = {name: algorithm(), **registry.ALGORITHMS}
    monkeypatch.setattr(registry, "ALGORITHMS", known)
    monkeypatch.setattr(executor, "ALGORITHMS", known)


@pytest.fixture
def seconds(monkeypatch: pytest.MonkeyPatch) -> dict[str, float]:
    """Pretended seconds of a run by algorithm (1 if not given); "name runs" counts how often it was run."""
    pretended: dict[str, float] = {}

    def pretend(run: Any) -> float:
        name = run.args[0]
        pretended[f"{name} runs"] = pretended.get(f"{name} runs", 0) + 1
        return pretended.get(name, 1.0)

    monkeypatch.setattr(autotune, "_seconds", pretend)
    return pretended


def ask(geometry: Any = GEOMETRY, pass_name: str = "forward", dtype: str = "float32") -> str | None:
    """What `auto` would be told, on NumPy."""
    return autotune.fastest_algorithm(geometry, pass_name, np.dtype(dtype), NUMPY, executor.run_pass)


def tuned(*task: Any, **options: Any) -> str | None:
    """The same inside of the context."""
    with xpcnn.autotune():
        return ask(*task, **options)


# Where it applies -------------------------------------------------------------------------------------


def test_outside_of_the_context_nothing_is_measured(measured: list[Any], file: Path) -> None:
    y, ctx = ops.conv2d(draw(2, 3, 8, 8), draw(4, 3, 3, 3))
    ops.conv2d.backward(ctx, y)
    assert ask() is None
    assert measured == []
    assert not file.parent.exists()


def test_context_ends_and_nests_and_is_of_one_thread(measured: list[Any]) -> None:
    answers: list[Any] = []
    with xpcnn.autotune():
        with xpcnn.autotune():
            assert ask() == "mec"
        assert ask() == "mec"
        thread = threading.Thread(target=lambda: answers.append(ask()))
        thread.start()
        thread.join()
    assert answers == [None]
    with pytest.raises(ZeroDivisionError), xpcnn.autotune():
        raise ZeroDivisionError
    assert ask() is None


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


def test_nothing_to_measure(measured: list[Any], monkeypatch: pytest.MonkeyPatch) -> None:
    """No images; only the loops fit; no im2col to compare with. Then the fixed rule decides."""
    assert tuned(GEOMETRY.with_batch(0)) is None
    xpcnn.set_workspace_limit(100)
    assert tuned() is None
    xpcnn.set_workspace_limit(None)
    monkeypatch.setattr(Im2col, "unsupported", lambda *arguments: "is out of order")
    assert tuned() is None
    assert measured == []


# What is measured once --------------------------------------------------------------------------------


def test_measured_once_on_a_machine(measured: list[Any], monkeypatch: pytest.MonkeyPatch) -> None:
    for _ in range(3):
        assert (tuned(), tuned(), tuned(pass_name="grad_input")) == ("mec", "mec", "mec")
        forget(monkeypatch)
    assert measured == [(GEOMETRY, "forward"), (GEOMETRY, "grad_input")]


def tuned_on_strict() -> str | None:
    with xpcnn.use_backend("array_api_strict") as strict, xpcnn.autotune():
        return autotune.fastest_algorithm(
            GEOMETRY, "forward", strict.dtype("float32"), strict, executor.run_pass
        )


OTHERS: dict[str, Callable[[pytest.MonkeyPatch], Any]] = {
    "pass": lambda patch: tuned(pass_name="grad_weight"),
    "dtype": lambda patch: tuned(dtype="float64"),
    "geometry": lambda patch: tuned(GEOMETRY.with_batch(3)),
    "limit": lambda patch: (xpcnn.set_workspace_limit(1 << 20), tuned()),
    "xpcnn": lambda patch: (patch.setattr(xpcnn, "__version__", "0.0.0"), tuned()),
    "NumPy": lambda patch: (patch.setattr(np, "__version__", "9.9"), tuned()),
    "processor": lambda patch: (patch.setattr(tuning_cache, "processor", lambda: "Z80"), tuned()),
    "threads": lambda patch: (patch.setattr(tuning_cache, "blas_threads", lambda: 77), tuned()),
    "backend": lambda patch: tuned_on_strict(),
    "algorithms": lambda patch: (patch.setitem(registry.ALGORITHMS, "another", Im2col()), tuned()),
}


@pytest.mark.parametrize("name", OTHERS)
def test_another_choice_is_measured(measured: list[Any], monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    other = OTHERS[name]
    tuned()
    if name in ("xpcnn", "NumPy", "processor"):  # which do not change while a process lasts
        forget(monkeypatch)
    for _ in range(2):
        other(monkeypatch)
        assert len(measured) == 2


def test_threads_wait_for_one_measurement(monkeypatch: pytest.MonkeyPatch) -> None:
    """A second measurement would disturb the first."""
    alone, calls = threading.Lock(), []

    def fastest(candidates: list[str], *arguments: Any) -> str:
        assert alone.acquire(blocking=False)
        calls.append(candidates)
        threading.Event().wait(0.02)
        alone.release()
        return "mec"

    monkeypatch.setattr(autotune, "_fastest", fastest)
    passes = ["forward"] * 6 + ["grad_input"]
    with ThreadPoolExecutor(len(passes)) as pool:
        assert list(pool.map(lambda name: tuned(GEOMETRY, name), passes)) == ["mec"] * 7
    assert len(calls) == 2


# The measurement --------------------------------------------------------------------------------------


def test_takes_the_fastest(seconds: dict[str, float]) -> None:
    """Of five runs each, or about 0.2 s."""
    seconds.update({"im2col": 0.01, "mec": 0.004, "kn2row": 0.03, "as_strided": 0.06})
    assert tuned() == "mec"
    assert seconds["im2col runs"] == seconds["mec runs"] == seconds["kn2row runs"] == 5
    assert seconds["as_strided runs"] == 4
    assert "loop runs" not in seconds
    seconds.clear()
    seconds.update({"im2col": 0.09, "mec": 0.3})
    assert tuned(pass_name="grad_input") == "im2col"
    assert (seconds["im2col runs"], seconds["mec runs"]) == (3, 1)


def test_median_and_not_mean_or_best(monkeypatch: pytest.MonkeyPatch) -> None:
    times = iter([0.01, 0.01, 0.03, 0.001, 0.01])
    monkeypatch.setattr(autotune, "_seconds", lambda run: next(times))
    assert autotune._median(lambda: None) == 0.01


def test_waits_for_the_device(monkeypatch: pytest.MonkeyPatch) -> None:
    """Inside the timed run, and only there."""
    events: list[str] = []
    real = autotune._seconds
    monkeypatch.setattr(type(NUMPY), "synchronize", lambda self: events.append("waits"))
    monkeypatch.setattr(autotune, "_seconds", lambda run: (events.append("start"), real(run))[1])
    tuned()
    places = [place for place, event in enumerate(events) if event == "start"]
    assert places
    assert all(events[place + 1] == "waits" for place in places)


@pytest.mark.parametrize("name", ["padded 3x3", "strided and padded", "groups", "depthwise"])
def test_results_and_candidates_of_every_backend(make: Any, dtype: str, name: str) -> None:
    """Nothing is left out (that would be a warning, and warnings are errors)."""
    r = reference(CASES[name], dtype)
    x, w, b, dy = (make.array(a) for a in (r.x, r.w, r.b, r.dy))
    with xpcnn.autotune():
        y, ctx = ops.conv2d(x, w, b, **CASES[name].options)
        gradients = ops.conv2d.backward(ctx, dy)
    for got, expected in zip((y, *gradients), (r.y, r.dx, r.dw, r.db), strict=True):
        make.check(got, expected, dtype)
    chosen = [autotune._chosen[key] for key in autotune._chosen]
    assert len(chosen) == 3
    assert set(chosen) <= set(ops.algorithm_names()) - {"auto", "loop"}


def test_half_precision(make: Any) -> None:
    """Measured as it is computed: in float32, rounded once."""
    for half in filter(make.has, ("float16", "bfloat16")):
        x, w = make.array(draw(2, 3, 8, 8), half), make.array(draw(4, 3, 3, 3), half)
        with xpcnn.autotune():
            y, ctx = ops.conv2d(x, w, padding=1)
            dx, dw, _ = ops.conv2d.backward(ctx, y)
        assert y.dtype == dx.dtype == dw.dtype == make.dtype(half)
        expected, _ = ops.conv2d(x, w, padding=1, algorithm="im2col")
        make.check(y, make.to_numpy(expected), half, rtol=1e-2)


def test_auto_inside_an_algorithm_is_not_measured(
    monkeypatch: pytest.MonkeyPatch, seconds: dict[str, float]
) -> None:
    """An algorithm made of convolutions that `auto` chooses does not recurse, nor change the outer choice."""
    inner: list[Any] = []

    class Nested(Im2col):
        def forward(self, x: Any, weight: Any, geometry: Any) -> Any:
            inner.append(ask(geometry))
            return super().forward(x, weight, geometry)

    add(monkeypatch, "nested", Nested)
    seconds["nested"] = 1e-6
    assert tuned() == "nested"
    assert set(inner) == {None}


def faulty(change: Callable[[Any, Any, Any], Any]) -> type[Im2col]:
    """An algorithm whose forward pass gives ``change(y, x, weight)``."""

    right = Im2col.forward

    def forward(self: Any, x: Any, weight: Any, geometry: Any) -> Any:
        return change(right(self, x, weight, geometry), x, weight)

    return type("Faulty", (Im2col,), {"forward": forward})


def off_by_a_hundredth(y: Any, *_: Any) -> Any:
    y[0, 0, 0, 0] += 0.01 * abs(y).max()
    return y


def broken(*_: Any) -> Any:
    raise OSError("no such\n  device")


FAULTS: dict[str, tuple[Any, str]] = {
    "wrong": (off_by_a_hundredth, "differs from that of im2col by 0.01 of the largest"),
    "NaN": (lambda y, *_: np.nan * y, "differs from that of im2col by nan"),
    "shape": (lambda y, *_: y[:, :, :, 1:], "(2, 4, 8, 7)"),
    "dtype": (lambda y, *_: y.astype("float64"), "returned float64 (2, 4, 8, 8)"),
    "raises": (broken, "OSError: no such device"),
}


@pytest.mark.parametrize(("change", "told"), FAULTS.values(), ids=FAULTS.keys())
def test_wrong_algorithm_is_left_out(
    monkeypatch: pytest.MonkeyPatch, seconds: dict[str, float], change: Any, told: str
) -> None:
    """With one line that names it, however fast it is; it spoils none that is measured after it."""
    add(monkeypatch, "faulty", faulty(change))
    seconds["faulty"] = 1e-6
    parts = ("autotune", "'faulty'", "forward", "(2, 3, 8, 8)", "(4, 3, 3, 3)", told)
    with pytest.warns(RuntimeWarning, match=mentions(*parts)) as caught:
        assert tuned() != "faulty"
    assert len(caught) == 1
    assert "\n" not in str(caught[0].message)
    tuned()  # remembered: no second warning
    assert tuned(pass_name="grad_weight") == "faulty"  # which is right there


def test_fault_of_im2col_itself_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Im2col, "forward", broken)
    with pytest.raises(OSError, match="no such"):
        tuned()


def test_conv2d_runs_what_was_measured(
    monkeypatch: pytest.MonkeyPatch, seconds: dict[str, float], make: Any
) -> None:
    """And outside of the context does not."""
    ran: list[str] = []
    watched = faulty(lambda y, *_: ran.append("forward") or y)
    add(monkeypatch, "watched", watched)
    seconds["watched"] = 1e-6
    x, w = make.array(draw(2, 3, 8, 8)), make.array(draw(4, 3, 3, 3))
    with xpcnn.autotune():
        ops.conv2d(x, w)
        ran.clear()
        _, ctx = ops.conv2d(x, w)
    assert (ran, ctx.algorithm) == (["forward"], "auto")
    ops.conv2d(x, w)
    assert ran == ["forward"]


# The file ---------------------------------------------------------------------------------------------


def test_file_holds_what_a_choice_depends_on(measured: list[Any], file: Path) -> None:
    tuned()
    ((task, algorithm),) = json.loads(file.read_text()).items()
    assert algorithm == "mec"
    environment = ("device ", "threads ", f"xpcnn {xpcnn.__version__}", f"numpy {np.__version__}")
    for part in (*environment, "forward", "float32", "(2, 3, 8, 8)", "(4, 3, 3, 3)", str(64 << 20), "im2col"):
        assert part in task
    assert [path.name for path in file.parent.iterdir()] == ["autotune.json"]


def test_user_cache_without_the_variable(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("XPCNN_CACHE_DIR")
    assert tuning_cache.cache_file().parts[-2:] == ("xpcnn", "autotune.json")


DAMAGED: dict[str, bytes] = {"empty": b"", "not text": b"\xff\xfe\x00\x01", "a list": b"[1, 2]"}


@pytest.mark.parametrize("content", DAMAGED.values(), ids=DAMAGED.keys())
def test_damaged_file_is_replaced(measured: list[Any], file: Path, content: bytes) -> None:
    """One warning of one line, and everything is measured again; then the file is good again."""
    file.parent.mkdir()
    file.write_bytes(content)
    with pytest.warns(RuntimeWarning, match=mentions("autotune", str(file))) as caught:
        answers = tuned(), tuned(pass_name="grad_input")
    assert answers == ("mec", "mec")
    assert len(caught) == 1
    assert "\n" not in str(caught[0].message)
    assert len(TuningCache(file).choices) == len(measured) == 2


@pytest.mark.parametrize("what", ["a folder in its place", "a file in the folder's place"])
def test_file_that_cannot_be_written(measured: list[Any], file: Path, what: str) -> None:
    """One warning, and choices last for the process."""
    file.parent.write_text("") if "a file" in what else file.mkdir(parents=True)
    parts = ("autotune", "cannot", str(file.parent), "for this process only")
    with pytest.warns(RuntimeWarning, match=mentions(*parts)) as caught:
        assert [tuned(), tuned(pass_name="grad_input"), tuned()] == ["mec"] * 3
    assert len(caught) == 1
    assert "\n" not in str(caught[0].message)
    assert len(measured) == 2


@pytest.mark.parametrize("name", ["loop", "auto", "no such algorithm", "native"])
def test_choice_that_cannot_be_is_measured_anew(
    numpy_alone: None, measured: list[Any], monkeypatch: pytest.MonkeyPatch, file: Path, name: str
) -> None:
    """A name that someone wrote into the file is used only where it could have been measured."""
    tuned()
    file.write_text(file.read_text().replace(': "mec"', f": {json.dumps(name)}"))
    forget(monkeypatch)
    assert tuned() == "mec"
    assert len(measured) == 2
    assert list(TuningCache(file).choices.values()) == ["mec"]
