"""What `pytest benchmarks` compares: the loops, the layers' answers, PyTorch's side, the counts of memory."""

import itertools
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from benchmarks import naive, peak_memory, report, roofline, test_conv, test_im2col, test_layers, test_models
from benchmarks.torch_reference import TorchReference
from xpcnn import models
from xpcnn.backend import get_backend
from xpcnn.backend.cpu.native import library
from xpcnn.cli import bench_cases
from xpcnn.cli.bench_cases import ModelCase, conv_answer, require_close, some_of
from xpcnn.cli.machine import hardware
from xpcnn.ops import ConvGeometry

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[2]
GEOMETRIES = {
    "plain": ConvGeometry.of((2, 3, 6, 5), (4, 3, 3, 3)),
    "padded, strided": ConvGeometry.of((5, 2, 7, 8), (3, 2, 3, 2), stride=(2, 3), padding=(2, 1)),
    "dilated": ConvGeometry.of((1, 2, 9, 8), (2, 2, 3, 3), dilation=(2, 1), padding=1),
}
GROUPS = ConvGeometry.of((2, 4, 7, 7), (6, 2, 3, 3), stride=2, padding=1, groups=2)


@pytest.fixture(scope="module")
def torch():
    pytest.importorskip("torch")
    return TorchReference()


def errors_of(problem, *names):
    """Verify the candidates of these algorithms, or all."""
    return {
        (one.algorithm, one.variant, one.pass_name): problem.verified(one)[1]
        for one in problem.candidates
        if not names or one.algorithm in names
    }


@pytest.mark.process
def test_the_suite_runs(tmp_path):
    """One geometry, the algorithms that the project is about, the compiled kernels and the plain loop."""
    path = tmp_path / "bench.json"
    chosen = "test_conv and tiny and grad_weight and (im2col or as_strided or native or loop)"
    command = [sys.executable, "-m", "pytest", "-q", "benchmarks", "--backend", "numpy", "-k", chosen]
    own = {name: value for name, value in os.environ.items() if not name.startswith("PYTEST_")}
    command += ["-p", "no:cacheprovider", "--benchmark-json", str(path)]
    done = subprocess.run(command, cwd=ROOT, env=own, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    found = [one["extra_info"] for one in json.loads(path.read_text())["benchmarks"]]
    assert {one["algorithm"] for one in found} == {
        *("im2col", "as_strided", "loop", "plain loop"),
        *(() if library.why_absent() else ("native",)),
    }
    one = next(one for one in found if one["algorithm"] == "im2col")
    assert (one["geometry"], one["pass_name"], one["backend"]) == ("tiny", "grad_weight", "numpy")
    assert one["workspace_bytes"] is not None
    assert {"processor", "cores", "kernels", "device"} <= one["machine"].keys()


@pytest.mark.parametrize("name", GEOMETRIES)
def test_loops(name):
    geometry = GEOMETRIES[name]
    arrays = bench_cases.conv_arrays(geometry, "float64")
    for pass_name, loop in naive.PASSES.items():
        found = loop(*arrays, geometry)
        found = found if pass_name == "grad_weight" else found[some_of(geometry.n)]
        require_close(found, conv_answer(arrays, geometry, pass_name), 1e-13)


@pytest.mark.parametrize("name", GEOMETRIES)
def test_three_ways_of_im2col(name):
    errors = errors_of(test_im2col.problem(name, GEOMETRIES[name], get_backend()))
    assert list(errors.values()) == [0.0] * 3


WINDOW = {"kernel_size": 3, "stride": 2, "padding": 1}
LAYERS = {
    "max pool": test_layers.LayerCase("max_pool2d", (2, 3, 6, 6), {"kernel_size": 2}),
    "max pool, overlapping": test_layers.LayerCase("max_pool2d", (5, 2, 7, 7), WINDOW),
    "avg pool": test_layers.LayerCase("avg_pool2d", (2, 3, 7, 7), WINDOW),
    "batch norm": test_layers.LayerCase("batch_norm", (5, 3, 4, 4), {}),
    "relu": test_layers.LayerCase("relu", (5, 3, 4, 4), {}),
}
MODELS = {
    "simple_convnet": ModelCase("simple_convnet", {"hidden": 5}, (5, 1, 28, 28)),
    "deep_convnet": ModelCase("deep_convnet", {"hidden": 5, "dropout": 0.5}, (5, 1, 28, 28)),
    "resnet18": ModelCase("resnet18", {"classes": 10, "small_images": True}, (4, 3, 16, 16)),
}


@pytest.mark.parametrize("name", ["convolution", *LAYERS, *MODELS])
def test_xpcnn_and_torch(torch, name, monkeypatch):
    monkeypatch.setattr(test_layers, "LAYERS", LAYERS)
    monkeypatch.setattr(test_models, "MODELS", MODELS)
    if name == "convolution":
        errors = errors_of(test_conv.problem("g", GROUPS, get_backend(), torch), "torch")
    elif name in MODELS:
        errors = errors_of(test_models.problem(name, torch), "auto", "torch")
        test_models.problem.cache_clear()
    else:
        problem = test_layers.problem(name, get_backend(), torch)
        errors = errors_of(problem)
        assert all(np.abs(problem.answer(one)).max() > 0 for one in test_layers.PASSES)
    assert len(errors) == 6
    assert all(error is not None and error < (1e-3 if name in MODELS else 1e-5) for error in errors.values())


# -- memory ------------------------------------------------------------------------------


def test_arrays_are_counted_once():
    x = np.zeros(100)
    around = [x, (x.reshape(10, 10).T, {"part": x[::2]}), None, "text"]
    around.append(around)
    assert peak_memory.array_bytes(around) == 800
    model = models.tiny_convnet()
    parameters = sum(4 * parameter.data.size for parameter in model.parameters().values())
    assert peak_memory.array_bytes(model, model) == parameters


def test_memory_of_a_step():
    peak, contexts = peak_memory.step_memory(ModelCase("simple_convnet", {"hidden": 5}, (3, 1, 28, 28)))
    assert contexts > 4 * 3 * 30 * 24 * 24  # the ReLU's and the pooling's at least
    assert peak > 0.5 * contexts


@pytest.mark.parametrize("step", [False, True])
def test_the_memory_command(step, capsys):
    peak_memory.main(["--step"] if step else ["--model", "tiny_convnet", "--samples", "20"])
    out = capsys.readouterr().out
    assert ("simple_convnet, training step, batch 100: peak " if step else "20 images evaluated, ") in out


# -- reports -----------------------------------------------------------------------------


def test_the_published_tables_are_those_of_the_kept_results(capsys):
    docs = ROOT / "docs" / "benchmarks"
    for name in ("conv", "pool", "model"):
        report.main([str(docs / "results" / f"{name}-cpu.json")])
        title, lines = capsys.readouterr().out.split("\n\n", 1)
        assert title == "AMD EPYC, cpu, numpy, threads 1, TF32 off"
        assert "\n".join(lines.strip().splitlines()[2:]) in (docs / "conv.md").read_text("utf-8"), name


def test_a_report_of_pytest_benchmark(tmp_path, capsys):
    machine = {"processor": "P", "device": "GPU"}
    what = {"geometry": "tiny", "pass_name": "forward", "backend": "cupy", "threads": 1, "machine": machine}
    times = {
        "gemm floor": 2.0,
        "mec": 4.0,
        "im2col": 3.0,
        "native": 2.5,
        "torch": 9.0,
        "auto": 3.0,
        "loop": 900.0,
    }
    rows = [(name, "im2col" if name == "auto" else "", ms) for name, ms in times.items()]
    kept = [
        {"extra_info": {**what, "algorithm": name, "variant": variant}, "stats": {"median": ms}}
        for name, variant, ms in [*rows, ("torch", "NCHW", 8.0)]
    ]
    (tmp_path / "b.json").write_text(json.dumps({"benchmarks": kept}))
    report.main([str(tmp_path / "b.json")])
    assert capsys.readouterr().out.strip().splitlines() == [
        "P, GPU, cupy, threads 1, TF32 off",
        "",
        "| geometry | pass | floor, ms | `native` | `im2col` | `mec` | PyTorch | `auto` |",
        "|---|---|---|---|---|---|---|---|",
        "| `tiny` | forward | 2e+03 | **1.25** | 1.50 | 2.00 | 4.00 | 1.50 (im2col) |",
    ]


def made_here(path: Path, of_pytest: bool, processor: str | None = None) -> Path:
    """A file of `xpcnn bench conv`, or of pytest-benchmark, without roofs."""
    machine = {"processor": processor or hardware()["processor"], "device": "cpu"}
    rows = [
        {"geometry": name, "pass_name": one, "algorithm": algorithm, "gflops": 9.0, "ms": 1.0}
        for name, one, algorithm in itertools.product(
            ("tiny", "56x56"), bench_cases.PASSES, ("native", "loop", "gemm floor")
        )
    ]
    settings: dict[str, Any] = {"backend": "numpy", "threads": 1, "dtype": "float32"}
    kept: dict[str, Any] = {"machine": machine, "settings": settings, "results": rows}
    if of_pytest:
        about = {"backend": "numpy", "threads": 1, "machine": machine}
        kept = {"benchmarks": [{"extra_info": row | about, "stats": {"median": 1.0}} for row in rows]}
    path.write_text(json.dumps(kept))
    return path


@pytest.mark.parametrize("of_pytest", [False, True])
def test_the_roofline(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, of_pytest: bool) -> None:
    pytest.importorskip("matplotlib")
    for name, small in {"PRODUCT": 16, "MEMORY": 1000, "ROUNDS": 2}.items():
        monkeypatch.setattr(roofline, name, small)
    file, plot = made_here(tmp_path / "b.json", of_pytest), tmp_path / "r.png"
    roofline.main([str(file), "--plot", str(plot)])
    assert plot.read_bytes().startswith(b"\x89PNG")
    roofs = json.loads(file.read_text())["roofs"]
    assert roofs.keys() - {"native_gflops"} == {"gemm_gflops", "copy_gbytes", "add_gbytes"}
    assert ("native_gflops" in roofs) is (library.why_absent() is None)
    assert min(roofs.values()) > 0
    monkeypatch.setattr(roofline, "measured_roofs", lambda threads, dtype: pytest.fail("measured again"))
    assert roofline.roofs_of(file) == (roofs, 4)


def test_what_the_roofs_are(tmp_path: Path) -> None:
    roofs = {"gemm_gflops": 90.0, "native_gflops": 110.0, "copy_gbytes": 20.0, "add_gbytes": 18.0}
    assert [roofline.best(roofs, unit) for unit in ("_gflops", "_gbytes")] == [110.0, 20.0]
    with pytest.raises(SystemExit, match=r"only where it was made, on .*another CPU"):
        roofline.roofs_of(made_here(tmp_path / "b.json", False, "another CPU"))


def test_the_plot_of_the_series(tmp_path):
    pytest.importorskip("matplotlib")
    kept = ROOT / "docs" / "benchmarks" / "results" / "conv-cpu.json"
    report.main([str(kept), "--plot", str(tmp_path / "s.png")])
    assert (tmp_path / "s.png").read_bytes().startswith(b"\x89PNG")
