"""Algorithms of users: the worked example of the docs, what is checked of them, and those of packages."""

from __future__ import annotations

import re
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import xpcnn
from tests.support.conv_cases import CASES, Case, arrays, check_passes, reference
from tests.support.ops import draw, mentions
from xpcnn import errors, ops, plugins
from xpcnn.ops.conv import algorithm, executor
from xpcnn.ops.conv.algorithms.im2col import Im2col

PAGE = Path(__file__).parents[2] / "docs" / "writing-an-algorithm.md"
EXAMPLE, CALL = re.findall(r"```python\n(.*?)```", PAGE.read_text("utf-8"), re.DOTALL)


@pytest.fixture(autouse=True)
def _restored(monkeypatch: pytest.MonkeyPatch) -> None:
    """What a test registers is forgotten after it."""
    known = dict(algorithm.ALGORITHMS)
    monkeypatch.setattr(algorithm, "ALGORITHMS", known)
    monkeypatch.setattr(executor, "ALGORITHMS", known)


def wrong(**body: Any) -> None:
    """Register im2col with other methods as "wrong"."""
    ops.conv.register("wrong")(type("Wrong", (Im2col,), body))


# The page ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("limit", [None, 40_000], ids=["whole", "in tiles"])
@pytest.mark.parametrize("case", CASES.values(), ids=CASES.keys())
def test_the_example_is_right(make: Any, case: Case, limit: int | None) -> None:
    exec(compile(EXAMPLE, PAGE.name, "exec"), {})
    r = reference(case)
    x, w, b, dy = arrays(make, r)
    xpcnn.set_workspace_limit(limit)
    with make.unchanged(x, w, b, dy):
        y, ctx = ops.conv2d(x, w, b, **case.options, algorithm="shifted")
        check_passes(make, (y, *ops.conv2d.backward(ctx, dy)), r, "float64")


def test_the_call_of_the_page_runs() -> None:
    names: dict[str, Any] = {"x": draw(2, 3, 5, 5), "weight": draw(4, 3, 3, 3), "bias": draw(4)}
    exec(compile(EXAMPLE + CALL, PAGE.name, "exec"), names)
    assert names["ctx"].algorithm == "shifted"
    assert names["y"].shape == (2, 4, 5, 5)
    assert "shifted" in ops.algorithm_names()


# What cannot be registered ----------------------------------------------------------------------------


class Half(ops.conv.ConvAlgorithm):
    def forward(self, x: Any, weight: Any, geometry: Any) -> Any:
        return x

    def grad_input(self, dy: Any, weight: Any, geometry: Any) -> Any:
        return dy


REFUSED: dict[str, tuple[Callable[[], Any], tuple[str, ...]]] = {
    "missing methods": (
        lambda: ops.conv.register("half")(Half),
        ("'half'", "Half", "abstract methods grad_weight, workspace_bytes"),
    ),
    "a taken name": (
        lambda: ops.conv.register("mec")(Im2col),
        ("'mec'", "taken by xpcnn.ops.conv.algorithms.mec.Mec; choose another"),
    ),
    "auto": (lambda: ops.conv.register("auto")(Im2col), ("'auto'", "taken; choose another")),
    "no name": (lambda: ops.conv.register(Im2col), ("needs a name", "@register(")),  # type: ignore[arg-type]
    "an empty name": (lambda: ops.conv.register(""), ("needs a name", "''")),
    "no class": (lambda: ops.conv.register("one")(lambda x: x), ("'one'", "ConvAlgorithm")),  # type: ignore[type-var]
    "another class": (lambda: ops.conv.register("one")(dict), ("'one'", "ConvAlgorithm", "dict")),  # type: ignore[type-var]
}


@pytest.mark.parametrize(("attempt", "told"), REFUSED.values(), ids=REFUSED.keys())
def test_what_cannot_be_registered(attempt: Callable[[], Any], told: tuple[str, ...]) -> None:
    before = ops.algorithm_names()
    with pytest.raises(errors.AlgorithmError, match=mentions("register", *told)):
        attempt()
    assert ops.algorithm_names() == before


# What they return -------------------------------------------------------------------------------------


def strict(x: Any) -> Any:
    with xpcnn.use_backend("array_api_strict"):
        return xpcnn.asarray(x)


RETURNED: dict[str, tuple[Callable[[Any], Any], str]] = {
    "shape": (lambda a: a[..., 1:], r"returned float32 \(.*\); for x \([12], 3, 5, 5\) and weight"),
    "dtype": (lambda a: a.astype("float64"), "returned float64 .* must return float32"),
    "library": (strict, "returned an array on array_api_strict .*numpy"),
    "a list": (lambda a: a.tolist(), r"returned no array: \[\[\[\["),
    "nothing": (lambda a: None, "returned no array: None"),
    "a scalar": (lambda a: 1.0, "returned no array: 1.0"),
    "read-only memory": (lambda a: np.broadcast_to(a[:1, :1] * 1, a.shape), "returned memory .*new array"),
}


@pytest.mark.parametrize("limit", [None, 20_000], ids=["whole", "in tiles"])
@pytest.mark.parametrize("pass_name", ["forward", "grad_input", "grad_weight"])
@pytest.mark.parametrize(("change", "told"), RETURNED.values(), ids=RETURNED.keys())
def test_what_an_algorithm_returns_is_checked(
    change: Callable[[Any], Any], told: str, pass_name: str, limit: int | None
) -> None:
    right = getattr(Im2col, pass_name)
    wrong(**{pass_name: lambda self, *arguments: change(right(self, *arguments))})
    x, w = draw(2, 3, 5, 5, dtype="float32"), draw(4, 3, 3, 3, dtype="float32")
    xpcnn.set_workspace_limit(limit)

    def run() -> None:
        y, ctx = ops.conv2d(x, w, padding=1, algorithm="wrong")
        ops.conv2d.backward(ctx, y)

    for _ in range(2):  # not at first use alone
        with pytest.raises(errors.AlgorithmError, match=f"the {pass_name} of .*'wrong' {told}"):
            run()


@pytest.mark.parametrize("limit", [None, 20_000], ids=["whole", "in tiles"])
def test_arrays_in_a_file(tmp_path: Path, limit: int | None) -> None:
    """NumPy's memory maps are arrays of a type of their own; results are plain ones."""
    ops.conv.register("mine")(type("Mine", (Im2col,), {}))
    x = np.memmap(tmp_path / "x", "float64", "w+", shape=(2, 3, 5, 5))
    x[...] = draw(*x.shape)
    w, b = draw(4, 3, 3, 3), draw(4)
    xpcnn.set_workspace_limit(limit)
    y, ctx = ops.conv2d(x, w, b, algorithm="mine")
    gradients = ops.conv2d.backward(ctx, y)
    expected, ctx = ops.conv2d(np.array(x), w, b, algorithm="im2col")
    for got, right in zip((y, *gradients), (expected, *ops.conv2d.backward(ctx, expected)), strict=True):
        np.testing.assert_array_equal(got, right)


def test_an_error_names_what_the_algorithm_was_given() -> None:
    """One group of channels, not the sizes of the whole convolution."""
    wrong(forward=lambda self, *arguments: Im2col.forward(self, *arguments)[:1])
    told = (
        "returned float64 (1, 2, 5, 5); for x (3, 2, 5, 5) and weight (2, 2, 1, 1) "
        "it must return float64 (3, 2, 5, 5)"
    )
    with pytest.raises(errors.AlgorithmError, match=mentions(told)):
        ops.conv2d(draw(3, 4, 5, 5), draw(4, 2, 1, 1), groups=2, algorithm="wrong")


@pytest.mark.parametrize("view", [lambda x: x, lambda x: x[...]], ids=["itself", "a view"])
@pytest.mark.parametrize("limit", [None, 500], ids=["whole", "in tiles"])
def test_a_result_in_the_memory_of_x(make: Any, view: Any, limit: int | None) -> None:
    """The bias would be added to the caller's x."""
    if make.backend == "array_api_strict" and view(x := make.array(draw(1))) is not x:
        pytest.skip("it hides its memory")
    wrong(forward=lambda self, x, weight, geometry: view(x))
    x, w, b = make.array(draw(2, 1, 5, 5)), make.array(draw(1, 1, 1, 1)), make.array(draw(1))
    xpcnn.set_workspace_limit(limit)
    with make.unchanged(x, w, b), pytest.raises(errors.AlgorithmError, match="'wrong' returned memory of"):
        ops.conv2d(x, w, b, algorithm="wrong")


def _meeting() -> dict[str, Any]:
    """The body of a class whose instances are made by two threads at the same time, if they can be."""
    meeting = threading.Barrier(2)

    def wait(self: Any) -> None:
        with suppress(threading.BrokenBarrierError):
            meeting.wait(10)

    return {"__init__": wait}


def test_a_cell_that_is_run_again() -> None:
    """The page's example may be run twice; the second definition is the one that runs."""
    cell = """
@ops.conv.register("mine")
class Mine(Im2col):
    def forward(self, x, weight, geometry):
        return FACTOR * super().forward(x, weight, geometry)
"""
    x, w = draw(1, 1, 4, 4), draw(1, 1, 3, 3)
    expected, _ = ops.conv2d(x, w, algorithm="im2col")
    for factor in (1, 2):
        exec(cell, {"ops": ops, "Im2col": Im2col, "FACTOR": factor, "__name__": "notebook"})
        np.testing.assert_array_equal(ops.conv2d(x, w, algorithm="mine")[0], factor * expected)
    with pytest.raises(
        errors.AlgorithmError, match=mentions("'mine'", "taken by notebook.Mine", "choose another")
    ):
        exec(cell, {"ops": ops, "Im2col": Im2col, "FACTOR": 3, "__name__": "elsewhere"})


def test_two_threads_that_register_one_name() -> None:
    """One of them does, and the other is told."""
    body = _meeting()
    kinds = [type(name, (Im2col,), body) for name in ("One", "Other")]
    with ThreadPoolExecutor(2) as pool:
        found = [pool.submit(ops.conv.register("meeting"), kind).exception for kind in kinds]
        errs = [wait() for wait in found]
    assert [type(error) for error in errs if error is not None] == [errors.AlgorithmError]


def test_two_threads_that_use_a_package_first(monkeypatch: pytest.MonkeyPatch) -> None:
    kind = type("Meeting", (Im2col,), _meeting())
    monkeypatch.setattr(plugins, "names", lambda group: ("meeting",))
    monkeypatch.setattr(plugins, "load", lambda group, name: kind)
    x, w = draw(2, 3, 5, 5), draw(4, 3, 3, 3)
    with ThreadPoolExecutor(2) as pool:
        runs = [pool.submit(ops.conv2d, x, w, algorithm="meeting") for _ in range(2)]
        (one, _), (other, _) = (run.result() for run in runs)
    np.testing.assert_array_equal(one, other)


def test_a_name_that_comes_to_mean_another_algorithm() -> None:
    """The plan of the first is not used for the second."""
    x, w = draw(1, 1, 4, 4), draw(1, 1, 3, 3)
    ops.conv.register("mine")(type("First", (Im2col,), {}))
    first, _ = ops.conv2d(x, w, algorithm="mine")
    del algorithm.ALGORITHMS["mine"]
    with pytest.raises(errors.AlgorithmError, match="unknown algorithm 'mine'; known: auto, loop, "):
        ops.conv2d(x, w, algorithm="mine")
    forward = {"forward": lambda self, *arguments: 2 * Im2col.forward(self, *arguments)}
    ops.conv.register("mine")(type("Second", (Im2col,), forward))
    np.testing.assert_array_equal(ops.conv2d(x, w, algorithm="mine")[0], 2 * first)


# Those of packages ------------------------------------------------------------------------------------

CODE = """
from xpcnn.ops.conv.algorithms.im2col import Im2col
class Mine(Im2col): pass
class Unfinished: pass
"""


@pytest.fixture
def site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A folder with an installed package of good and broken algorithms."""
    metadata = tmp_path / "acme-1.0.dist-info"
    metadata.mkdir()
    (metadata / "METADATA").write_text("Metadata-Version: 2.1\nName: acme\nVersion: 1.0\n")
    points = {"good": "acme_conv:Mine", "gone": "acme_gone:Mine", "unfinished": "acme_conv:Unfinished"}
    lines = [f"{name} = {value}" for name, value in points.items()]
    (metadata / "entry_points.txt").write_text("\n".join(["[xpcnn.conv_algorithms]", *lines]) + "\n")
    (tmp_path / "acme_conv.py").write_text(CODE)
    monkeypatch.syspath_prepend(str(tmp_path))
    plugins._found.cache_clear()
    yield tmp_path
    plugins._found.cache_clear()
    sys.modules.pop("acme_conv", None)


def test_an_algorithm_of_a_package(site: Path) -> None:
    assert {"good", "gone", "unfinished"} < set(ops.algorithm_names())
    assert "acme_conv" not in sys.modules
    x, w = draw(2, 3, 5, 5), draw(4, 3, 3, 3)
    y, ctx = ops.conv2d(x, w, algorithm="good")
    np.testing.assert_array_equal(y, ops.conv2d(x, w, algorithm="im2col")[0])
    ops.conv2d.backward(ctx, y)
    with xpcnn.conv_algorithm("good"):
        assert ops.conv2d(x, w)[1].algorithm == "good"


@pytest.mark.parametrize(
    ("name", "told"), [("gone", "acme_gone"), ("unfinished", "must be a subclass of xpcnn.ops.conv.")]
)
def test_a_broken_package_is_named_and_harms_no_other(site: Path, name: str, told: str) -> None:
    x, w = draw(2, 3, 5, 5), draw(4, 3, 3, 3)
    for _ in range(2):
        with pytest.raises(errors.AlgorithmError, match=f"conv2d: algorithm '{name}' of a plug-in .*{told}"):
            ops.conv2d(x, w, algorithm=name)
    ops.conv2d(x, w, algorithm="good")
    ops.conv2d(x, w)


@pytest.mark.process
def test_packages_are_not_looked_for_without_need(site: Path) -> None:
    code = """
import numpy as np, xpcnn
x = np.ones((1, 1, 3, 3))
for name in ("auto", "mec"):
    xpcnn.ops.conv2d(x, x, algorithm=name)
assert xpcnn.plugins._found.cache_info().misses == 0
"""
    subprocess.run([sys.executable, "-c", code], check=True)


def test_autotune_leaves_broken_packages_out(
    site: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XPCNN_CACHE_DIR", str(tmp_path / "cache"))
    x, w = draw(2, 3, 5, 7), draw(4, 3, 3, 3)
    with xpcnn.autotune(), pytest.warns(RuntimeWarning) as caught:
        ops.conv2d(x, w)
    texts = sorted(str(one.message) for one in caught)
    assert len(texts) == 2
    for name, text in zip(("gone", "unfinished"), texts, strict=True):
        assert text.startswith(f"autotune: leaving out algorithm '{name}'")
