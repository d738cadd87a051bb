"""xpcnn bench: what is measured, printed and kept; its answers compared with plain loops."""

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
from tests.cli.conftest import Run
from tests.support import oracles
from tests.support.native import needs_kernels
from xpcnn.backend import get_backend
from xpcnn.cli import bench_cases
from xpcnn.cli.bench_cases import FLOOR, Candidate, ModelCase, WrongResultError, require_close
from xpcnn.errors import AlgorithmError, XpcnnError
from xpcnn.ops import ConvGeometry, softmax_cross_entropy

CONV = ("bench", "conv", "--algorithms", "im2col,as_strided", "--repeat", 1, "--geometries", "tiny")
SMALL = ModelCase("simple_convnet", {"filters": 3, "hidden": 5}, (5, 1, 28, 28))
SMALL_DEEP = ModelCase("deep_convnet", {"hidden": 5, "dropout": 0.5}, (5, 1, 28, 28))


def kept(path: str) -> Any:
    return json.loads(Path(path).read_text())


# -- the command -------------------------------------------------------------------------


@needs_kernels
def test_compiled_kernels_are_a_row(xpcnn_command: Run) -> None:
    status, out, err = xpcnn_command(*CONV, "--algorithms", "auto,native,im2col", "--json", "n.json")
    assert (status, err) == (0, "")
    timed = [one for one in kept("n.json")["results"] if one["algorithm"] == "native"]
    assert [one["pass_name"] for one in timed] == list(bench_cases.PASSES)
    assert all(one["ms"] > 0 and one["error"] < 1e-5 for one in timed)
    assert [line.split()[:1] for line in out.splitlines()].count(["native"]) == 3
    assert f"kernels {kept('n.json')['machine']['kernels']}, " in out


def test_conv(numpy_alone: None, xpcnn_command: Run) -> None:
    given = ("--algorithms", "im2col,as_strided,native", "--passes", "forward,grad_weight")
    status, out, err = xpcnn_command(*CONV, *given, "--json", "a/b.json")
    assert (status, err) == (0, "")
    lines = out.splitlines()
    assert [line.split()[0] for line in lines[:3]] == ["machine", "versions", "settings"]
    assert lines[4].startswith("tiny: 1x1x28x28 to 8, kernel (3, 3), ")
    assert lines[5].split()[:6] == ["algorithm", "pass", "ms", "spread", "GFLOP/s", "x"]
    assert [line.split()[0] for line in lines[6:13]] == [
        *["gemm"] * 2, *["as_strided"] * 2, *["im2col"] * 2, "native",
    ]  # fmt: skip
    assert "native forward, grad_weight: conv2d: algorithm 'native' needs the compiled kernels" in out
    assert lines[-1] == "json       a/b.json"
    record = kept("a/b.json")
    assert list(record) == ["machine", "versions", "settings", "results"]
    timed = [one for one in record["results"] if "ms" in one]
    assert [(one["algorithm"], one["pass_name"]) for one in timed] == [
        (name, one) for name in (FLOOR, "as_strided", "im2col") for one in ("forward", "grad_weight")
    ]
    im2col = timed[4]
    assert im2col["gflops"] == pytest.approx(im2col["operations"] / im2col["ms"] / 1e6)
    assert 0 < im2col["error"] < 1e-5
    assert 0 < im2col["workspace_bytes"] < im2col["peak_bytes"]
    settings = {"benchmark": "conv", "backend": "numpy", "dtype": "float32", "threads": 1, "tf32": False}
    assert settings.items() <= record["settings"].items()
    assert {"python", "xpcnn", "numpy", "blas"} <= record["versions"].keys()
    assert {"processor", "cores", "device"} <= record["machine"].keys()
    assert [path.name for path in Path("a").iterdir()] == ["b.json"]


def test_other_backends_and_dtypes(xpcnn_command: Run) -> None:
    given = ("--dtype", "float64", "--backend", "array_api_strict", "--json", "d")
    assert xpcnn_command(*CONV, *given).status == 0
    settings = {"backend": "array_api_strict", "dtype": "float64", "threads": 1, "rounds": 1}
    assert settings.items() <= kept("d")["settings"].items()
    assert all((one["error"] or 0) < 1e-13 for one in kept("d")["results"])


def test_model(xpcnn_command: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(bench_cases.MODELS, "simple_convnet", SMALL)
    options = ("--geometries", "simple_convnet", "--repeat", 1)
    status, out, err = xpcnn_command("bench", "model", *options, "--json", "m.json")
    assert (status, err) == (0, "")
    assert "simple_convnet: batch 5x1x28x28; " in out
    train, inference = kept("m.json")["results"]
    for one, name in ((train, "train"), (inference, "inference")):
        assert (one["algorithm"], one["pass_name"], one["ms"] > 0) == ("auto", name, True)
    assert train["operations"] == 3 * inference["operations"]


def test_a_wrong_result(xpcnn_command: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bench_cases, "conv_answer", lambda arrays, geometry, one: np.ones((1, 8, 26, 26)))
    status, out, _ = xpcnn_command(*CONV, "--passes", "forward", "--json", "w.json")
    assert status == 1
    assert "\n  im2col forward: WRONG: off by " in out
    wrong = {one["algorithm"]: one.get("wrong") for one in kept("w.json")["results"]}
    assert wrong == {"im2col": True, "as_strided": True, FLOOR: None}


@pytest.mark.parametrize("call", [0, 6])
def test_ctrl_c_keeps_the_problems_that_were_done(
    xpcnn_command: Run, monkeypatch: pytest.MonkeyPatch, call: int
) -> None:
    seconds, calls = bench._seconds, iter(range(100))

    def pressed(*arguments: Any) -> float:
        if next(calls) == call:  # of three candidates: once each, one round
            raise KeyboardInterrupt
        return seconds(*arguments)

    monkeypatch.setattr(bench, "_seconds", pressed)
    status, out, err = xpcnn_command(*CONV[:-1], "tiny,simple-1", "--passes", "forward", "--json", "i.json")
    assert (status, err) == (130, "")
    assert "\ninterrupted; what is above was measured\n" in out
    assert Path("i.json").exists() is (call > 0)
    if call:
        assert [one["geometry"] for one in kept("i.json")["results"]] == ["tiny"] * 3


# -- the answers, compared with plain loops ----------------------------------------------

CASES = {
    "padded, strided": ConvGeometry.of((2, 2, 7, 8), (3, 2, 3, 2), stride=(2, 3), padding=(2, 1)),
    "dilated": ConvGeometry.of((1, 2, 9, 8), (2, 2, 3, 3), dilation=(2, 1), padding=1),
    "groups": ConvGeometry.of((2, 4, 5, 5), (6, 2, 3, 3), groups=2),
    "many images": ConvGeometry.of((9, 4, 4, 4), (4, 1, 3, 3), groups=4),
}


@pytest.mark.parametrize("name", CASES)
def test_conv_answers(name: str) -> None:
    geometry = CASES[name]
    arrays = x, weight, dy = bench_cases.conv_arrays(geometry, "float64")
    options = geometry.stride, geometry.padding, geometry.dilation, geometry.groups
    dx, dweight, _ = oracles.conv2d_gradients(x, weight, dy, *options)
    y = oracles.conv2d(x, weight, None, *options)
    some = bench_cases.some_of(geometry.n)
    assert some == ([0, 4, 8] if name == "many images" else list(range(geometry.n)))
    for pass_name, values in {"forward": y[some], "grad_input": dx[some], "grad_weight": dweight}.items():
        require_close(bench_cases.conv_answer(arrays, geometry, pass_name), values, 1e-13)


@pytest.mark.slow
@pytest.mark.parametrize("backend_name", ["numpy", "torch", "array_api_strict"])
def test_every_candidate_is_verified(backend_name: str) -> None:
    if reason := xpcnn.available_backends()[backend_name]:
        pytest.skip(reason)
    with xpcnn.use_backend(backend_name) as backend:
        for name in ("groups", "padded, strided"):
            problem = bench_cases.conv_problem(name, CASES[name], backend)
            for one in problem.candidates:
                assert (one.variant in xpcnn.ops.algorithm_names()) is (one.algorithm == "auto")
                if one.algorithm in (FLOOR, "auto", "im2col", "loop"):
                    call, error = problem.verified(one)
                    call()
                    assert error is None if one.algorithm == FLOOR else 0 <= error < 1e-5  # type: ignore[operator]


@pytest.mark.parametrize("case", [SMALL, SMALL_DEEP], ids=["without dropout", "with dropout"])
def test_models_are_verified(case: ModelCase) -> None:
    problem = bench_cases.model_problem("m", case, get_backend(), "float64")
    errors = [problem.verified(one)[1] or 0 for one in problem.candidates if one.algorithm == "auto"]
    assert 0 < max(errors) < 1e-10, errors  # another convolution


def test_a_wrong_gradient_is_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    problem = bench_cases.model_problem("m", SMALL, get_backend())
    problem.answer("train")
    backward = softmax_cross_entropy.backward
    monkeypatch.setattr(softmax_cross_entropy, "backward", lambda ctx: backward(ctx) * 1.1)
    with pytest.raises(WrongResultError):
        problem.verified(problem.candidates[0])


def test_candidates_that_fail() -> None:
    def greedy() -> Any:
        raise MemoryError("too much")

    problem = bench_cases.conv_problem("p", CASES["groups"], get_backend())
    with pytest.raises(XpcnnError, match="ran out of memory: too much"):
        problem.verified(Candidate("greedy", "forward", greedy, np.asarray))
    for wrong in (np.full((2, 6, 3, 3), np.nan), np.zeros((2, 6, 3, 2))):
        with pytest.raises(WrongResultError, match="off by inf"):
            problem.verified(Candidate("w", "forward", lambda wrong=wrong: lambda: wrong, np.asarray))
    bench_cases.check_steps(1000, 1000)
    with pytest.raises(AlgorithmError, match=r"left out: a call would take about \d+ s"):
        bench_cases.check_steps(1000, 10**10)


# -- turns, memory, threads --------------------------------------------------------------


def test_all_have_a_turn_in_each_round() -> None:
    turns: list[str] = []
    seconds = bench.interleaved({name: lambda name=name: turns.append(name) for name in "abc"}, 4, turn=0)
    assert "".join(turns) == "abc" * 5  # the first warms up
    assert [len(one) for one in seconds.values()] == [4] * 3
    quick: list[None] = []
    seconds = bench.interleaved({"it": lambda: quick.append(time.sleep(0.001))}, 2, turn=0.01)
    assert 2 < len(quick) <= 1 + 2 * 10  # repeated in a turn
    assert min(seconds["it"]) > 0.001


def test_memory_of_numpy() -> None:
    mib = 1 << 20

    def call() -> Any:
        scratch = np.ones(8 * mib, np.uint8)
        return scratch[: 2 * mib].copy()

    peak, kept = bench.traced_memory(call)
    assert (peak, kept) == (pytest.approx(10 * mib, rel=0.01), pytest.approx(2 * mib, rel=0.01))
    assert not tracemalloc.is_tracing()


@pytest.mark.parametrize("threads", [1, 2])
def test_threads_are_held(threads: int) -> None:
    from threadpoolctl import threadpool_info

    before = xpcnn.get_num_threads()
    with bench.held_to(get_backend(), threads):
        blas = {pool["num_threads"] for pool in threadpool_info() if pool["user_api"] == "blas"}
        assert {*blas, xpcnn.get_num_threads()} == {threads}
    assert xpcnn.get_num_threads() == before
