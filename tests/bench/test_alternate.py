"""Measuring in alternating processes: equal first, in turns, other checkouts, the published tables."""

import json
import shutil
import signal
import subprocess
import sys
from contextlib import ExitStack
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from benchmarks import against_torch, alternate, compare_commits, worker
from benchmarks.alternate import DifferentError, Worker, WorkerError, require_equal
from benchmarks.worker import Work
from xpcnn.backend.cpu.native import library
from xpcnn.backend.device_info import processor

pytestmark = [pytest.mark.process, pytest.mark.slow]

ROOT = Path(__file__).parents[2]
SMALL = {
    "train": Work("training", "train", (3, 1, 28, 28), "simple_convnet", {"hidden": 5}),
    "dropout": Work("with dropout", "train", (3, 1, 28, 28), "deep_convnet", {"hidden": 5}),
    "inference": Work("inference", "inference", (5, 1, 28, 28), "simple_convnet", {"hidden": 5}),
    "conv": Work("convolution", "conv", (2, 4, 7, 6)),
    "shortcuts": Work("with shortcut A", "inference", (2, 3, 7, 6), "resnet20"),
}


@pytest.fixture(scope="module")
def workers():
    """A process for each contender; PyTorch takes seconds to start."""
    pytest.importorskip("torch")
    with ExitStack() as stack:
        yield {name: stack.enter_context(Worker(name, 1)) for name in ("xpcnn", "NCHW", "channels-last")}


# -- what counts as equal ----------------------------------------------------------------


@pytest.mark.parametrize("other", [[1.0, 2.001], [1.0], [1.0, np.nan]], ids=["off", "shape", "nan"])
def test_what_is_different(other):
    with pytest.raises(DifferentError, match="sums: other "):
        require_equal("sums", {"ours": [np.array([1.0, 2.0])], "other": [np.array(other)]}, 1e-4)


@pytest.mark.parametrize("kind", SMALL)
def test_xpcnn_and_torch_compute_the_same(workers, kind):
    error = alternate.start(SMALL[kind], workers, workers["xpcnn"])
    assert 0 < error < 5e-5  # Adam's first steps are as long for gradients that are rounding alone
    seconds = alternate.in_turns(workers, 2, 0.0)
    assert seconds.keys() == workers.keys()
    assert all(len(one) == 2 and min(one) > 0 for one in seconds.values())


def test_a_wrong_update_is_seen(workers, monkeypatch):
    """PyTorch is given other weights."""
    ask = Worker.ask

    def wrong(self, *request):
        answer = ask(self, *request)
        return (answer[0], [1.1 * one for one in answer[1]]) if request[0] == "describe" else answer

    monkeypatch.setattr(Worker, "ask", wrong)
    with pytest.raises(DifferentError, match="training: NCHW is off"):
        alternate.start(SMALL["train"], workers, workers["xpcnn"])


def test_the_straightforward_network_is_the_same():
    work, names = SMALL["dropout"], ("xpcnn", "straightforward")
    made = worker.described(work, False)
    found = {name: worker.Server().results(name, work, made) for name in names}
    assert require_equal("losses", found, 1e-4) < 1e-4
    assert found["straightforward"][0].dtype == np.float64


# -- processes ---------------------------------------------------------------------------


def test_an_error_comes_with_its_traceback_and_ends_nothing(workers):
    one = workers["xpcnn"]
    with pytest.raises(WorkerError, match=r"in the process of xpcnn:\nTraceback[^µ]*no such model"):
        one.ask("describe", Work("w", "train", (1, 1, 28, 28), "no such model"), False)
    assert Path(one.ask("origin")).is_relative_to(ROOT.resolve())


def test_it_ends_with_the_process_that_asks():
    program = """
import os, signal
from benchmarks.alternate import Worker
Worker("xpcnn", 1).ask("origin")
os.kill(os.getpid(), signal.SIGKILL)
"""
    # The worker has the same stderr, which is read until nobody holds it any more.
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, cwd=ROOT, timeout=60, check=False
    )
    assert done.returncode == -signal.SIGKILL, done.stderr


def test_the_order_turns_around_from_round_to_round():
    turns = []

    def scripted(name):
        def ask(request, repeats):
            assert request == "seconds"
            turns.append(f"{name}{repeats}")
            return 0.25

        return SimpleNamespace(ask=ask)

    workers = {name: scripted(name) for name in "ab"}
    seconds = alternate.in_turns(workers, 3, turn=1.0)
    assert turns == ["a1", "b1", "a4", "b4", "b4", "a4", "a4", "b4"]
    assert alternate.in_turns(workers, 1, 1.0, into=seconds)["a"] == [0.25] * 4


# -- two commits -------------------------------------------------------------------------


def test_another_checkout_is_what_is_imported(tmp_path):
    shutil.copytree(ROOT / "xpcnn", tmp_path / "xpcnn")
    with Worker("xpcnn", 1, tmp_path) as one:
        assert Path(one.ask("origin")).is_relative_to(tmp_path.resolve())
        assert len(one.ask("results", "xpcnn", SMALL["conv"], None)) == 3


def test_a_comparison(monkeypatch, capsys):
    runs = iter([(0.010, 0.011, 1.1), (0.010, 0.009, 0.9), (0.010, 0.010, 1.0)])
    monkeypatch.setattr(compare_commits, "run", lambda *arguments: next(runs))
    monkeypatch.setattr(compare_commits, "checkout", lambda commit, folder: None)
    assert compare_commits.main(["HEAD", "--works", "simple", "--threads", "2"]) == 0
    line = capsys.readouterr().out.splitlines()[-1]
    assert line == "| simple_convnet, training step, batch 100 | 2 | 10 | 10 | 1.000 | 0.900 – 1.100 |"

    def different(*arguments):
        raise DifferentError("losses: now is off")

    monkeypatch.setattr(compare_commits, "run", different)
    assert compare_commits.main(["HEAD", "--works", "conv-14x14", "--threads", "1"]) == 1
    assert "DIFFERENT, not timed: losses: now is off" in capsys.readouterr().out
    assert compare_commits.ratio_of([1.0, 2.0, 4.0], [2.0, 2.0, 2.0]) == (2.0, 2.0, 1.0)


@pytest.mark.skipif(not (ROOT / ".git").exists(), reason="is no git checkout")
def test_the_package_of_a_commit(tmp_path):
    compare_commits.checkout("HEAD", tmp_path)
    assert (tmp_path / "xpcnn" / "__init__.py").exists()
    with pytest.raises(SystemExit, match="no-such-commit: "):
        compare_commits.checkout("no-such-commit", tmp_path)


# -- beside PyTorch ----------------------------------------------------------------------

SECONDS = {"xpcnn": [1.0, 2.0, 3.0], "NCHW": [9.0, 1.0, 9.0], "channels-last": [4.0, 4.0, 5.0]}


def test_the_ratio_is_to_the_better():
    found = against_torch.result("deep", "w", 2, SECONDS)
    assert (found["rival"], found["rounds"], found["threads"], found["ratio"]) == ("channels-last", 3, 2, 0.5)
    assert found["ms"] == {"xpcnn": 2000, "NCHW": 9000, "channels-last": 4000}
    assert (found["low_ms"]["xpcnn"], found["high_ms"]["xpcnn"]) == (1500, 2500)
    assert (found["low_ratio"], found["high_ratio"]) == pytest.approx((0.375, 0.55))  # of 0.25, 0.5, 0.6


def test_a_run_keeps_its_rows(monkeypatch, tmp_path, capsys):
    def contest(row, threads, rounds):
        if row == "inference":
            raise DifferentError("probabilities")
        if row == "resnet":
            raise KeyboardInterrupt
        return against_torch.result(row, "w", threads, SECONDS)

    monkeypatch.setattr(against_torch, "contest", contest)
    path = tmp_path / "cpu.json"
    options = ["--rows", "deep,inference", "--threads", "2", "--json", str(path)]
    assert against_torch.main(options) == 1
    kept = json.loads(path.read_text("utf-8"))
    assert kept.keys() == {"machine", "versions", "settings", "results"}
    assert [one["row"] for one in kept["results"]] == ["deep"]
    assert against_torch.main(["--rows", "simple,resnet,conv", "--threads", "1", "--json", str(path)]) == 130
    assert [one["row"] for one in json.loads(path.read_text("utf-8"))["results"]] == ["simple"]
    said = capsys.readouterr()
    assert "DIFFERENT, not timed: probabilities" in said.err
    assert "interrupted; what was measured is kept" in said.err


def test_the_published_tables_are_those_of_the_kept_results(capsys):
    docs = ROOT / "docs" / "benchmarks"
    files = list((docs / "results").glob("cpu*.json"))
    assert files
    for kept in files:
        assert against_torch.main(["--show", str(kept), "--markdown"]) == 0
        shown = capsys.readouterr().out.strip()
        assert shown.count("\n") > 30
        for table in shown.split("\n\n"):
            assert table in (docs / "cpu.md").read_text("utf-8"), kept.name


def test_a_record_tells_what_it_was_made_on() -> None:
    record = against_torch.new_record([1], 15)
    made = against_torch.made_on(record)
    kernels = library.version() or f"none: {library.why_absent()}"
    for part in (processor(), record["versions"]["blas"], f"compiled kernels: {kernels}; 15 rounds"):
        assert part in made


def test_a_record_tells_why_there_are_no_kernels(numpy_alone: None) -> None:
    absent = "compiled kernels: none: switched off by $XPCNN_NATIVE=0; 15 rounds"
    assert absent in against_torch.made_on(against_torch.new_record([1], 15))


def test_what_is_wanted() -> None:
    found = {row: [against_torch.limit(row, threads) for threads in (1, 2, 4)] for row in ("deep", "linear")}
    assert found == {"deep": ["≤ 0.90", "≤ 0.95", ""], "linear": ["", "", ""]}


def test_memory_has_rows(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(against_torch, "EVALUATED", "tiny_convnet")
    monkeypatch.setattr(against_torch, "IMAGES", 20)
    monkeypatch.setattr(against_torch, "MEMORY", {"memory-deep": "simple_convnet"})
    results = [against_torch.measured(row, 1, 1) for row in ("evaluation", "memory-deep")]
    _, step, evaluation = against_torch.by_itself(results)
    assert step[-1] == "≤ 1.3"
    assert results[1]["ratio"] == results[1]["peak"] / results[1]["contexts"] > 0.5
    assert evaluation[::3] == ["tiny_convnet, evaluating 20 images: memory", "≤ 50 MB"]


@pytest.mark.parametrize("arguments", [["--rows", "com"], ["--threads", "0"]])
def test_wrong_arguments(arguments, capsys):
    with pytest.raises(SystemExit):
        against_torch.main(arguments)
    assert arguments[0] in capsys.readouterr().err
