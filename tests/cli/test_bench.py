"""xpcnn bench: what is measured, printed, kept and refused."""

from __future__ import annotations

import json
import time
import tracemalloc
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import xpcnn
import xpcnn.cli.bench as bench
from tests.support import oracles
from xpcnn.backend import get_backend
from xpcnn.cli import bench_cases, bench_measure
from xpcnn.cli.bench_cases import CONVOLUTIONS, FLOOR, ModelCase
from xpcnn.cli.bench_measure import Candidate, WrongResultError, interleaved, require_close
from xpcnn.cli.parser import Parser
from xpcnn.errors import AlgorithmError
from xpcnn.ops import ConvGeometry, softmax_cross_entropy

CONV = ("bench", "conv", "--geometries", "tiny", "--algorithms", "im2col,as_strided", "--repeat", 1)
SMALL = ModelCase("simple_convnet", {"filters": 3, "hidden": 5}, (5, 1, 28, 28))
SMALL_DEEP = ModelCase("deep_convnet", {"hidden": 5, "dropout": 0.5}, (5, 1, 28, 28))


# -- the command -------------------------------------------------------------------------


def test_conv(xpcnn_command: Any) -> None:
    status, out, err = xpcnn_command(*CONV, "--passes", "forward,grad_weight", "--json", "a/b.json")
    assert (status, err) == (0, "")
    lines = out.splitlines()
    assert [line.split()[0] for line in lines[:3]] == ["machine", "versions", "settings"]
    assert lines[2] == "settings   numpy, float32, 1 thread, 1 round, TF32 off"
    assert lines[4] == "tiny: 1x1x28x28 to 8, kernel 3x3; 0.0973 MFLOP"
    assert lines[5].split() == ["algorithm", "pass", "ms", "spread", "GFLOP/s", "x", "floor", "workspace"]
    assert [line.split()[0] for line in lines[6:12]] == ["gemm", "gemm", *["im2col"] * 2, *["as_strided"] * 2]
    assert lines[-1] == "json       a/b.json"
    kept = json.loads(Path("a/b.json").read_text())
    assert list(kept) == ["machine", "versions", "settings", "results"]
    assert [(one["algorithm"], one["pass_name"]) for one in kept["results"]] == [
        (name, one) for name in (FLOOR, "im2col", "as_strided") for one in ("forward", "grad_weight")
    ]
    floor, _, im2col, *_ = kept["results"]
    assert floor["floor_ratio"] == pytest.approx(1)
    assert im2col["floor_ratio"] == pytest.approx(im2col["ms"] / floor["ms"])
    assert im2col["gflops"] == pytest.approx(im2col["operations"] / im2col["ms"] / 1e6)
    assert 0 < im2col["error"] < 1e-5
    assert 0 < im2col["workspace_bytes"] < im2col["peak_bytes"]
    settings = {"benchmark": "conv", "backend": "numpy", "dtype": "float32", "threads": 1, "tf32": False}
    assert settings.items() <= kept["settings"].items()
    assert {"python", "xpcnn", "numpy", "blas"} <= kept["versions"].keys()
    assert {"processor", "cores", "device"} <= kept["machine"].keys()
    assert [path.name for path in Path("a").iterdir()] == ["b.json"]


def test_other_backends_and_dtypes(xpcnn_command: Any) -> None:
    status, out, _ = xpcnn_command(
        *CONV, "--dtype", "float64", "--backend", "array_api_strict", "--json", "d"
    )
    assert status == 0
    assert "settings   array_api_strict, float64, 1 thread" in out
    assert all(one.get("error", 0) < 1e-13 for one in json.loads(Path("d").read_text())["results"])


def test_model(xpcnn_command: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(bench_cases.MODELS, "simple_convnet", SMALL)  # type: ignore[arg-type]
    options = ("--geometries", "simple_convnet", "--algorithms", "auto,as_strided", "--repeat", 1)
    status, out, err = xpcnn_command("bench", "model", *options, "--json", "m.json")
    assert (status, err) == (0, "")
    assert "simple_convnet: batch 5x1x28x28; " in out
    results = json.loads(Path("m.json").read_text())["results"]
    assert [(one["algorithm"], one["pass_name"]) for one in results] == [
        (name, one) for name in ("auto", "as_strided") for one in ("train", "inference")
    ]
    assert results[0]["operations"] == 3 * results[1]["operations"]
    assert all(one["ms"] > 0 for one in results)


def test_an_algorithm_that_cannot(xpcnn_command: Any) -> None:
    status, out, _ = xpcnn_command(*CONV[:4], "--algorithms", "im2col,native", "--repeat", 1)
    assert status == 0
    assert "\n  native: is PyTorch's own convolution" in out


def test_a_wrong_result(xpcnn_command: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bench_cases, "conv_answer", lambda arrays, geometry, one: np.ones((1, 8, 26, 26)))
    status, out, _ = xpcnn_command(*CONV, "--passes", "forward", "--json", "w.json")
    assert status == 1
    assert "\n  im2col: WRONG: off by " in out
    assert out.endswith("WRONG      im2col forward of tiny\nWRONG      as_strided forward of tiny\n")
    results = json.loads(Path("w.json").read_text())["results"]
    assert [one.get("wrong") for one in results] == [None, True, True]


def test_ctrl_c_keeps_the_rounds_that_were_done(xpcnn_command: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    seconds = bench_measure._seconds
    calls = iter(range(100))

    def pressed(*arguments: Any) -> float:
        if next(calls) == 6:  # of three candidates: once each, one round
            raise KeyboardInterrupt
        return seconds(*arguments)

    monkeypatch.setattr(bench_measure, "_seconds", pressed)
    status, out, err = xpcnn_command(*CONV[:-1], 5, "--passes", "forward", "--json", "i.json")
    assert (status, err) == (130, "")
    assert out.endswith("\ninterrupted; what is above was measured\n\njson       i.json\n")
    assert [one["rounds"] for one in json.loads(Path("i.json").read_text())["results"]] == [1, 1, 1]


def test_ctrl_c_at_once(xpcnn_command: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    def press(*args: Any, **options: Any) -> Any:
        raise KeyboardInterrupt

    monkeypatch.setattr(bench_cases, "convolution", press)
    status, _, err = xpcnn_command(*CONV, "--json", "i.json")
    assert (status, err) == (130, "")
    assert not Path("i.json").exists()


def test_usage(xpcnn_command: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bench, "_measure", lambda *args: pytest.fail("measured"))
    Path("file").touch()
    told = {
        (): "xpcnn bench: error: the following arguments are required: WHAT",
        ("fly",): "xpcnn bench: error: argument WHAT: invalid choice: 'fly'",
        ("conv", "--algorithms", "im2col,winogard"): "--algorithms: 'winogard' is unknown; there are auto,",
        ("conv", "--geometries", "huge"): "argument --geometries: 'huge' is unknown; there are tiny,",
        ("conv", "--passes", "sideways"): "argument --passes: 'sideways' is unknown; there are forward,",
        ("conv", "--repeat", "0"): "argument --repeat: '0' is not a whole number of at least 1",
        ("conv", "--threads", "x"): "argument --threads: 'x' is not a whole number",
        ("conv", "--dtype", "int8"): "argument --dtype: invalid choice: 'int8'",
        ("model", "--geometries", "tiny"): "'tiny' is unknown; there are simple_convnet,",
    }
    for arguments, message in told.items():
        status, out, err = xpcnn_command("bench", *arguments)
        assert (status, out, err.count("\n")) == (2, "", 1), err
        assert err.startswith("xpcnn bench")
        assert message in err
    status, out, err = xpcnn_command("bench", "conv", "--json", "file/a.json")
    assert (status, out, err) == (1, "", "xpcnn: error: cannot make the folder file: File exists\n")


@pytest.mark.parametrize("kind", ["conv", "model"])
def test_help(xpcnn_command: Any, kind: str) -> None:
    status, out, err = xpcnn_command("bench", kind, "--help")
    assert (status, err) == (0, "")
    assert out.startswith(f"usage: xpcnn bench {kind} ")
    parser = Parser(prog="xpcnn bench")
    bench.add_arguments(parser)
    kinds: Any = next(action for action in parser._actions if action.choices)
    for action in kinds.choices[kind]._actions:
        assert action.help, action.dest
        if action.option_strings and "--help" not in action.option_strings:
            assert "(default: " in action.help % vars(action), action.dest


# -- the answers, compared with plain loops ----------------------------------------------

CASES = {
    "plain": ConvGeometry.of((2, 3, 6, 5), (4, 3, 3, 3)),
    "padded, strided": ConvGeometry.of((2, 2, 7, 8), (3, 2, 3, 2), stride=(2, 3), padding=(2, 1)),
    "dilated": ConvGeometry.of((1, 2, 9, 8), (2, 2, 3, 3), dilation=(2, 1), padding=1),
    "depthwise": ConvGeometry.of((2, 4, 5, 5), (4, 1, 3, 3), padding=1, groups=4),
    "groups": ConvGeometry.of((2, 4, 5, 5), (6, 2, 3, 3), groups=2),
    "many images": ConvGeometry.of((9, 1, 4, 4), (2, 1, 3, 3)),
}


@pytest.mark.parametrize("name", CASES)
def test_conv_answers(name: str) -> None:
    geometry = CASES[name]
    arrays = x, weight, dy = bench_cases.conv_arrays(geometry, "float64")
    options = geometry.stride, geometry.padding, geometry.dilation, geometry.groups
    dx, dweight, _ = oracles.conv2d_gradients(x, weight, dy, *options)
    y = oracles.conv2d(x, weight, None, *options)
    some = bench_measure.some_of(geometry.n)
    assert some == ([0, 4, 8] if name == "many images" else list(range(geometry.n)))
    for pass_name, values in {"forward": y[some], "grad_input": dx[some], "grad_weight": dweight}.items():
        require_close(bench_measure.conv_answer(arrays, geometry, pass_name), values, 1e-13)


@pytest.mark.parametrize("backend_name", ["numpy", "torch", "array_api_strict"])
def test_every_candidate_is_verified(backend_name: str) -> None:
    if reason := xpcnn.available_backends()[backend_name]:
        pytest.skip(reason)
    with xpcnn.use_backend(backend_name) as backend:
        problem = bench_cases.convolution("p", CASES["plain"], backend)
        for one in problem.candidates:
            if one.algorithm in (FLOOR, "auto", "im2col", "loop"):
                call, error = problem.verified(one)
                call()
                assert error is None if one.algorithm == FLOOR else 0 <= error < 1e-5  # type: ignore[operator]
        chosen = next(one.variant for one in problem.candidates if one.algorithm == "auto")
        assert chosen in xpcnn.ops.algorithm_names()


@pytest.mark.parametrize("case", [SMALL, SMALL_DEEP], ids=["without dropout", "with dropout"])
def test_models_are_verified(case: ModelCase) -> None:
    problem = bench_cases.model("m", case, "float64")
    errors = [problem.verified(one)[1] for one in problem.candidates]
    assert all(error is not None and error < 1e-10 for error in errors), errors
    assert max(errors) > 0, errors  # another convolution


def test_a_wrong_gradient_is_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    problem = bench_cases.model("m", SMALL, passes=("train",))
    problem.answer("train")
    backward = softmax_cross_entropy.backward
    monkeypatch.setattr(softmax_cross_entropy, "backward", lambda ctx: backward(ctx) * 1.1)
    with pytest.raises(WrongResultError):
        problem.verified(problem.candidates[0])


def test_candidates_that_fail() -> None:
    def greedy() -> Any:
        raise MemoryError("too much")

    problem = bench_cases.convolution("p", CASES["plain"], get_backend(), algorithms=("im2col",))
    one = Candidate("greedy", "forward", greedy, np.asarray)
    with pytest.raises(xpcnn.errors.XpcnnError, match="ran out of memory: too much"):
        problem.verified(one)
    for wrong in (np.full((2, 4, 4, 3), np.nan), np.zeros((2, 4, 4, 2))):
        with pytest.raises(WrongResultError, match="off by inf"):
            problem.verified(Candidate("w", "forward", lambda wrong=wrong: lambda: wrong, np.asarray))


@pytest.mark.parametrize("macs", [0, 10**10])
def test_a_loop_that_would_take_too_long(macs: int) -> None:
    bench_cases.check_steps(1000, 1000)
    with pytest.raises(AlgorithmError, match=r"left out: a call would take about \d+ s"):
        bench_cases.check_steps(10**6, macs)


def test_shapes_that_were_asked_for() -> None:
    shapes = {(case.input_shape, case.k, case.kernel[0]) for case in CONVOLUTIONS.values()}
    assert {((100, 1, 28, 28), 30, 5), ((32, 64, 56, 56), 64, 3), ((8, 3, 224, 224), 64, 7)} <= shapes
    assert any(case.groups == case.c > 1 for case in CONVOLUTIONS.values())
    assert any(case.dilation != (1, 1) for case in CONVOLUTIONS.values())


# -- turns, memory, threads --------------------------------------------------------------


def test_all_have_a_turn_in_each_round(monkeypatch: pytest.MonkeyPatch) -> None:
    turns: list[str] = []
    calls = {name: lambda name=name: turns.append(name) for name in "abc"}
    seconds: dict[str, list[float]] = {}
    interleaved(calls, 4, seconds, turn=0)
    assert "".join(turns) == "abc" * 5  # the first warms up
    assert [len(one) for one in seconds.values()] == [4] * 3
    monkeypatch.setattr(bench_measure, "_SLOW_SECONDS", 0.01)
    slow: dict[str, list[float]] = {}
    interleaved({"slow": lambda: time.sleep(0.02), "quick": int}, 5, slow, turn=0)
    assert [len(one) for one in slow.values()] == [3, 5]


def test_quick_calls_are_repeated_in_a_turn() -> None:
    calls: list[None] = []
    seconds: dict[str, list[float]] = {}
    interleaved({"it": lambda: calls.append(time.sleep(0.001))}, 2, seconds, turn=0.01)
    assert 2 < len(calls) <= 1 + 2 * 10
    assert min(seconds["it"]) > 0.001


def test_memory_of_numpy() -> None:
    mib = 1 << 20

    def call() -> Any:
        scratch = np.ones(8 * mib, np.uint8)
        return scratch[: 2 * mib].copy()

    peak, kept = bench_measure.traced_memory(call)
    assert peak == pytest.approx(10 * mib, rel=0.01)
    assert kept == pytest.approx(2 * mib, rel=0.01)
    assert not tracemalloc.is_tracing()


@pytest.mark.parametrize("threads", [1, 2])
def test_threads_are_held(threads: int) -> None:
    from threadpoolctl import threadpool_info

    before = xpcnn.get_num_threads()
    with bench_measure.held_to(get_backend(), threads):
        blas = {pool["num_threads"] for pool in threadpool_info() if pool["user_api"] == "blas"}
        assert {*blas, xpcnn.get_num_threads()} == {threads}
    assert xpcnn.get_num_threads() == before


def test_reasons_of_some_passes() -> None:
    what = {"geometry": "g", "description": "d", "operations": 2e9}
    said = "conv2d: algorithm 'x' needs stride 1; algorithm='auto' picks one that can"
    rows = [
        {**what, "algorithm": "x", "pass_name": name, "reason": said} for name in ("forward", "grad_input")
    ]
    rows += [{**what, "algorithm": "y", "pass_name": "grad_input", "reason": "no"}]
    assert bench.table(rows).splitlines() == ["g: d; 2 GFLOP", "  x: needs stride 1", "  y grad_input: no"]
