"""xpcnn bench: what is measured, told, kept and refused."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import xpcnn.cli.bench as bench
from xpcnn.bench import convolutions, oracle
from xpcnn.bench.geometries import LayerCase, NetworkCase
from xpcnn.bench.oracle import Expected
from xpcnn.bench.record import load
from xpcnn.cli import benchmarking
from xpcnn.cli.parser import Parser

CONV = ("bench", "conv", "--geometries", "tiny", "--algorithms", "im2col,as_strided", "--repeat", 1)
ALONE = (*CONV, "--peers", "none")


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """The machine's own rates take longer than the rest."""
    roofs = {"gemm_gflops": 50.0, "copy_gbytes": 10.0}
    monkeypatch.setattr(benchmarking, "roofs", lambda backend, dtype: roofs)


def test_conv(xpcnn_command: Any) -> None:
    status, out, err = xpcnn_command(*ALONE, "--passes", "forward,grad_weight", "--json", "a/b.json")
    assert (status, err) == (0, "")
    lines = out.splitlines()
    assert [line.split()[0] for line in lines[:3]] == ["machine", "versions", "settings"]
    assert lines[2] == "settings   numpy, float32, 1 thread, TF32 off, 1 round"
    assert lines[4] == "tiny: 1x1x28x28 to 8, kernel 3x3; 0.0973 MFLOP"
    assert lines[5].split() == ["algorithm", "pass", "ms", "spread", "GFLOP/s", "x", "floor", "workspace"]
    assert [line.split()[0] for line in lines[6:12]] == ["gemm", "gemm", *["im2col"] * 2, *["as_strided"] * 2]
    assert lines[-1] == "json       a/b.json"
    record = load("a/b.json")
    assert record.kind == "conv"
    assert [(one.algorithm, one.pass_name) for one in record.results] == [
        (name, one) for name in ("gemm floor", "im2col", "as_strided") for one in ("forward", "grad_weight")
    ]
    assert record.machine["gemm_gflops"] == 50
    assert record.machine["device"] == "cpu"
    settings = {"backend": "numpy", "dtype": "float32", "threads": 1, "tf32": False, "rounds": 1}
    assert settings.items() <= record.settings.items()
    assert {"python", "xpcnn", "numpy", "blas"} <= record.versions.keys()
    assert all(one.error is None or one.error < 1e-5 for one in record.results)
    assert [path.name for path in Path("a").iterdir()] == ["b.json"]


def test_float64_and_other_backends(xpcnn_command: Any) -> None:
    status, _, _ = xpcnn_command(*ALONE, "--dtype", "float64", "--json", "d.json")
    assert status == 0
    assert all(one.error is None or one.error < 1e-13 for one in load("d.json").results)
    status, out, _ = xpcnn_command(*ALONE, "--backend", "array_api_strict")
    assert status == 0
    assert "array_api_strict, float32" in out


def test_peers(xpcnn_command: Any) -> None:
    pytest.importorskip("torch")
    status, out, _ = xpcnn_command(*CONV, "--peers", "torch,loop", "--passes", "forward")
    assert status == 0
    assert "x torch" in out
    assert "\n  torch (" in out
    assert "\n  plain loop " in out


def test_torch_is_the_peer_where_it_is_installed(xpcnn_command: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bench, "torch_is_installed", lambda: False)
    status, out, _ = xpcnn_command(*CONV, "--passes", "forward")
    assert status == 0
    assert "x torch" not in out
    status, out, err = xpcnn_command(*CONV, "--peers", "torch")
    assert (status, out, err.count("\n")) == (2, "", 1)
    assert "PyTorch is not installed: pip install 'xpcnn[torch]'" in err


def test_what_is_measured_by_default(xpcnn_command: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: dict[str, Any] = {}

    def noting(plan: Any, names: Any, problem: Any) -> int:
        seen.update(plan=plan, names=tuple(names), problem=problem)
        return 0

    monkeypatch.setattr(bench, "measure_all", noting)
    xpcnn_command("bench", "conv", "--peers", "none")
    assert seen["names"] == tuple(bench.CONVOLUTIONS)
    assert seen["plan"].rounds == 7
    xpcnn_command("bench", "conv", "--peers", "none", "--plot", "c.png")
    assert seen["names"] == (*bench.CONVOLUTIONS, *bench.BATCHES, *bench.SIZES)
    assert {one.pass_name for one in seen["problem"]("batch-2").contestants} == {"forward"}
    assert {one.pass_name for one in seen["problem"]("tiny").contestants} == set(convolutions.PASSES)
    xpcnn_command("bench", "conv", "--peers", "none", "--geometries", "size,tiny")
    assert seen["names"] == (*bench.SIZES, "tiny")
    xpcnn_command("bench", "model", "--peers", "none")
    assert seen["names"] == ("simple_convnet", "deep_convnet", "resnet18-cifar")
    xpcnn_command("bench", "pool", "--peers", "none")
    assert seen["names"] == tuple(bench.LAYERS)


def test_pool(xpcnn_command: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    cases = {
        "small-pool": LayerCase("max_pool2d", (2, 3, 6, 6), {"kernel_size": 2}),
        "small-norm": LayerCase("batch_norm", (2, 3, 6, 6), {}),
    }
    monkeypatch.setattr(bench, "LAYERS", cases)
    status, out, err = xpcnn_command("bench", "pool", "--peers", "none", "--repeat", 1, "--json", "p.json")
    assert (status, err) == (0, "")
    assert "small-pool: 2x3x6x6, kernel 2; " in out
    assert "GB/s" in out
    found = [(one.geometry, one.pass_name) for one in load("p.json").results]
    assert found == [(name, one) for name in cases for one in ("forward", "backward")]


def test_model(xpcnn_command: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    case = NetworkCase("simple_convnet", {"filters": 3, "hidden": 5}, (2, 1, 28, 28))
    monkeypatch.setattr(bench, "NETWORKS", {"small": case})
    status, out, err = xpcnn_command(
        "bench",
        "model",
        "--peers",
        "none",
        "--repeat",
        1,
        "--algorithms",
        "auto,as_strided",
        "--json",
        "m.json",
    )
    assert (status, err) == (0, "")
    assert "small: batch 2x1x28x28; " in out
    results = load("m.json").results
    assert [(one.algorithm, one.pass_name) for one in results] == [
        (name, one) for name in ("auto", "as_strided") for one in ("train", "inference")
    ]
    assert all(one.ms is not None for one in results)


def test_an_algorithm_that_cannot(xpcnn_command: Any) -> None:
    status, out, _ = xpcnn_command(*ALONE[:4], "--algorithms", "im2col,native", *ALONE[6:])
    assert status == 0
    assert "\n  native: is PyTorch's own convolution" in out


def test_a_wrong_result(xpcnn_command: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        oracle, "convolution", lambda arrays, geometry, one: Expected(np.ones(geometry.output_shape))
    )
    status, out, _ = xpcnn_command(*ALONE, "--passes", "forward", "--json", "w.json")
    assert status == 1
    assert "\n  im2col: WRONG: off by " in out
    assert out.endswith("WRONG      im2col forward of tiny\nWRONG      as_strided forward of tiny\n")
    assert [one.wrong for one in load("w.json").results] == [False, True, True]


def test_ctrl_c(xpcnn_command: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    original = convolutions.problem

    def pressing(name: str, *args: Any, **options: Any) -> Any:
        if name == "simple-1":
            raise KeyboardInterrupt
        return original(name, *args, **options)

    monkeypatch.setattr(convolutions, "problem", pressing)
    status, out, err = xpcnn_command(
        "bench", "conv", "--peers", "none", "--repeat", 1, "--algorithms", "im2col", "--json", "i.json"
    )
    assert (status, err) == (130, "")
    assert "tiny: 1x1x28x28" in out
    assert out.endswith("\ninterrupted; what is above was measured\njson       i.json\n")
    assert {one.geometry for one in load("i.json").results} == {"tiny"}


def test_ctrl_c_at_once(xpcnn_command: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    def press(*args: Any, **options: Any) -> Any:
        raise KeyboardInterrupt

    monkeypatch.setattr(convolutions, "problem", press)
    status, _, err = xpcnn_command(*ALONE, "--json", "i.json")
    assert (status, err) == (130, "")
    assert not Path("i.json").exists()


def test_plots(xpcnn_command: Any) -> None:
    pytest.importorskip("matplotlib")
    status, out, _ = xpcnn_command(*ALONE, "--plot", "pictures/c.png")
    assert status == 0
    assert out.endswith("plot       pictures/c.png\nplot       pictures/c-roofline.png\n")
    assert sorted(path.name for path in Path("pictures").iterdir()) == ["c-roofline.png", "c.png"]


def test_compare(xpcnn_command: Any) -> None:
    xpcnn_command(*ALONE, "--passes", "forward", "--json", "a.json")
    kept = json.loads(Path("a.json").read_text())
    for one in kept["results"]:
        for name in ("ms", "low_ms", "high_ms"):
            one[name] *= 3
    Path("b.json").write_text(json.dumps(kept))
    status, out, err = xpcnn_command("bench", "compare", "a.json", "b.json")
    assert (status, err) == (0, "")
    lines = out.splitlines()
    assert lines[0].split() == [
        "geometry",
        "algorithm",
        "pass",
        "before,",
        "ms",
        "after,",
        "ms",
        "ratio",
        "verdict",
    ]
    assert lines[2].split()[-2:] == ["3.00", "slower"]
    assert lines[-1] == "3 compared: 0 faster, 3 slower, 0 within the spread"


def test_compare_refuses(xpcnn_command: Any) -> None:
    xpcnn_command(*ALONE, "--json", "a.json")
    kept = json.loads(Path("a.json").read_text())
    kept["settings"]["benchmark"] = "pool"
    Path("pool.json").write_text(json.dumps(kept))
    Path("cut.json").write_bytes(Path("a.json").read_bytes()[:-100])
    Path("other.json").write_text("{}")
    told = {
        "pool.json": (2, "xpcnn bench compare: error: a.json is of bench conv, but pool.json of bench pool"),
        "cut.json": (1, "xpcnn: error: cut.json: unreadable: "),
        "other.json": (1, "xpcnn: error: other.json: is no file of `xpcnn bench`, which has machine, "),
        "absent.json": (1, "xpcnn: error: absent.json: no such file"),
    }
    for name, (expected, message) in told.items():
        status, out, err = xpcnn_command("bench", "compare", "a.json", name)
        assert (status, out, err.count("\n")) == (expected, "", 1)
        assert err.startswith(message)


def test_usage(xpcnn_command: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bench, "measure_all", lambda *args: pytest.fail("measured"))
    Path("file").touch()
    told = {
        (): "xpcnn bench: error: the following arguments are required: WHAT",
        ("fly",): "xpcnn bench: error: argument WHAT: invalid choice: 'fly'",
        (
            "conv",
            "--algorithms",
            "im2col,winogard",
        ): "argument --algorithms: 'winogard' is unknown; there are auto,",
        ("conv", "--geometries", "huge"): "argument --geometries: 'huge' is unknown; there are tiny,",
        ("conv", "--passes", "sideways"): "argument --passes: 'sideways' is unknown; there are forward,",
        ("conv", "--repeat", "0"): "argument --repeat: '0' is not a whole number of at least 1",
        ("conv", "--threads", "x"): "argument --threads: 'x' is not a whole number",
        ("conv", "--dtype", "int8"): "argument --dtype: invalid choice: 'int8'",
        ("conv", "--peers", "jax"): "--peers: 'jax' is unknown; there are torch, loop, or none",
        ("pool", "--peers", "loop"): "--peers: 'loop' is unknown; there are torch, or none",
        ("pool", "--algorithms", "im2col"): "unrecognized arguments: --algorithms im2col",
        ("model", "--geometries", "tiny"): "'tiny' is unknown; there are simple_convnet,",
        ("conv", "--plot", "c.txt"): "--plot c.txt: must end in one of .png, .svg, .pdf",
        ("compare", "a.json"): "the following arguments are required: B",
    }
    for arguments, message in told.items():
        status, out, err = xpcnn_command("bench", *arguments)
        assert (status, out, err.count("\n")) == (2, "", 1), err
        assert err.startswith("xpcnn bench")
        assert message in err
    status, out, err = xpcnn_command("bench", "conv", "--peers", "none", "--json", "file/a.json")
    assert (status, out, err) == (1, "", "xpcnn: error: cannot make the folder file: File exists\n")


def test_without_matplotlib(xpcnn_command: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    find = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name, *rest: None if name == "matplotlib" else find(name, *rest)
    )
    status, out, err = xpcnn_command(*ALONE, "--plot", "c.png")
    assert (status, out) == (2, "")
    assert "--plot c.png: needs matplotlib: pip install 'xpcnn[plot]'" in err


@pytest.mark.parametrize("kind", ["conv", "pool", "model", "compare"])
def test_help(xpcnn_command: Any, kind: str) -> None:
    status, out, err = xpcnn_command("bench", kind, "--help")
    assert (status, err) == (0, "")
    assert out.startswith(f"usage: xpcnn bench {kind} ")
    kinds = next(action for action in _bench_parser()._actions if action.choices)
    for action in kinds.choices[kind]._actions:
        assert action.help, action.dest
        if action.option_strings and "--help" not in action.option_strings:
            assert "(default: " in action.help % vars(action), action.dest


def _bench_parser() -> Any:
    parser = Parser(prog="xpcnn bench")
    bench.add_arguments(parser)
    return parser
