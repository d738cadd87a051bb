"""The benchmark beside PyTorch: ratios, tables, processes, and a run that is ended."""

from __future__ import annotations

import importlib
import json
import os
import sys
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from xpcnn.bench.measure import OURS
from xpcnn.bench.timing import Timing

sys.path.append(str(Path(__file__).parents[2]))  # the benchmarks are not installed with the package


def _module(name: str) -> Any:
    return importlib.import_module(f"benchmarks.{name}")


against_torch = _module("against_torch")
contest, memory, process, rows, scaling, tables, worker = (
    _module(f"peers.{name}")
    for name in ("contest", "memory", "process", "rows", "scaling", "tables", "worker")
)


# Ratios.


def _play(monkeypatch: pytest.MonkeyPatch, played: dict[str, list[float]], *, ends: bool = False) -> None:
    """Let the rounds of a contest take these seconds."""

    def interleaved(calls: Any, rounds: int, block: float, into: dict[str, Timing], pause: float) -> None:
        into.update({name: Timing(seconds) for name, seconds in played.items()})
        if ends:
            raise KeyboardInterrupt

    monkeypatch.setattr(contest, "interleaved", interleaved)


NOTHING = {OURS: int, "NCHW": int, "channels-last": int}


def test_the_ratio_is_to_the_better(monkeypatch: pytest.MonkeyPatch) -> None:
    _play(
        monkeypatch,
        {OURS: [1.0, 2.0, 3.0], "NCHW": [9.0, 1.0, 9.0], "channels-last": [4.0, 4.0, 5.0]},
    )
    found, interrupted = contest.contest("deep", "w", 2, [(NOTHING, 3)])
    assert not interrupted
    assert (found.rival, found.rounds, found.threads) == ("channels-last", 3, 2)
    assert found.ms == {OURS: 2000, "NCHW": 9000, "channels-last": 4000}
    assert (found.low_ms[OURS], found.high_ms[OURS]) == (1500, 2500)
    assert found.ratio == 0.5
    assert (found.low_ratio, found.high_ratio) == pytest.approx((0.375, 0.55))  # of 0.25, 0.5, 0.6


def test_ctrl_c_keeps_whole_rounds(monkeypatch: pytest.MonkeyPatch) -> None:
    played = {OURS: [1.0, 2.0], "NCHW": [4.0, 4.0], "channels-last": [8.0]}
    _play(monkeypatch, played, ends=True)
    found, interrupted = contest.contest("deep", "w", 1, [(NOTHING, 3)])
    assert interrupted
    assert (found.rounds, found.rival) == (2, "NCHW")
    _play(monkeypatch, {OURS: [1.0]}, ends=True)
    assert contest.contest("deep", "w", 1, [(NOTHING, 3)]) == (None, True)


def test_a_contest_is_timed() -> None:
    calls = {OURS: lambda: sum(range(20_000)), "NCHW": int}
    found, _ = contest.contest("simple", "w", 1, [(calls, 2), (calls, 1)], 1e-3)
    assert (found.rounds, found.rival) == (3, "NCHW")
    assert found.ms[OURS] > found.ms["NCHW"]


# Tables.


def result(row: str, ratio: float, threads: int = 1) -> dict[str, Any]:
    ms = {OURS: 10.0 * ratio, "NCHW": 12.0, "channels-last": 10.0}
    found = contest.Contest(
        row, rows.CONTESTS[row].work, threads, 5, ms, ms, ms, "channels-last", ratio, 0.9 * ratio, 1.1 * ratio
    )
    kept: dict[str, Any] = json.loads(json.dumps(found.to_json()))
    return kept


SHAPES = [name for name in rows.CONTESTS if name.startswith("conv-")]


def test_the_table_beside_pytorch() -> None:
    every = [result(name, ratio) for name, ratio in zip(SHAPES, (0.5, 0.5, 2.0, 2.0), strict=True)]
    table = tables.beside_pytorch(
        [*every, *(result(name, 0.5, 2) for name in SHAPES[:3]), result("deep", 1.2)]
    )
    lines = tables.markdown(table).splitlines()
    assert lines[0] == (
        "| work | threads | xpcnn, ms | PyTorch NCHW, ms | channels-last, ms | ratio | spread | wanted |"
    )
    assert lines[1] == "|---|---|---|---|---|---|---|---|"
    assert lines[2] == (
        "| deep_convnet, training step, batch 100 | 1 | 12.0 | 12.0 | 10.0 | 1.20 | 1.08 – 1.32 | ≤ 1.30 |"
    )
    assert lines[3].startswith("| 3×3 convolution, forward and backward, 32×64×56×56 | 1 | 5.00 |")
    assert lines[4].startswith("| 3×3 convolution, forward and backward, 32×64×56×56 | 2 |")
    # With two threads a shape is missing, and so is the mean.
    assert [line for line in lines if "mean" in line] == [
        "| 3×3 convolutions, geometric mean | 1 |  |  |  | 1.00 |  | ≤ 0.85 |"
    ]
    assert tables.text(table).splitlines()[0].split("  ")[0] == "work"


def test_the_table_of_the_rest() -> None:
    plain = contest.Contest(
        "straightforward",
        "deep",
        1,
        5,
        {OURS: 100.0, "straightforward": 1000.0},
        {},
        {},
        "straightforward",
        0.1,
        0.08,
        0.125,
    ).to_json()
    line = scaling.Scaling("linear", "inference", 1, 5, {"50": 10.0, "100": 20.0}, 0.2, 0.0, 0.0, 1.0)
    used = memory.StepMemory("memory-deep", "step", 2, 30 << 20, 20 << 20, 10 << 20)
    evaluated = {"kind": "evaluation", "row": "evaluation", "work": "e", "threads": 1, "megabytes": 61.0}
    table = tables.by_itself([evaluated, used.to_json(), line.to_json(), plain, result("deep", 1.0)])
    assert table[1:] == [
        ["deep", "1", "1,000 ms and 100 ms: 10.0 times faster (8.0 – 12.5)", "≥ 7"],
        [
            "inference",
            "1",
            "10.0, 20.0 ms for 50, 100 images: 0.2 ms an image, within 0% of a line; "
            "as n to the power of 1.00",
            "linear",
        ],
        ["step", "2", "peak 30 MB, contexts 20 MB: 1.50", "≤ 1.5"],
        ["e", "1", "61 MB above rest", "≤ 150 MB"],
    ]


def test_no_results_are_no_tables() -> None:
    assert tables.beside_pytorch([]) == tables.by_itself([]) == []


def test_rows_by_name() -> None:
    assert rows.chosen("conv") == tuple(SHAPES)
    assert rows.chosen("memory-deep,simple") == ("simple", "memory-deep")
    with pytest.raises(ValueError, match="'com' is no row; there are conv, memory, simple,"):
        rows.chosen("com")


# The processes.


def test_the_worker_prints_what_it_found(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def wrong(_: Any) -> Any:
        raise contest.DifferentError("losses: NCHW is off")

    def equal(_: Any) -> Any:
        return NOTHING, 1e-7

    monkeypatch.setattr(contest, "BLOCK_SECONDS", 0)
    monkeypatch.setattr(
        worker.rows,
        "CONTESTS",
        {"simple": rows.ContestRow("s", wrong, {}), "deep": rows.ContestRow("d", equal, {})},
    )
    status = worker.main(["--threads", "1", "--rounds", "2", "--rows", "simple,deep"])
    said = capsys.readouterr()
    (found,) = map(json.loads, said.out.splitlines())
    assert (found["row"], found["rounds"], found["off"]) == ("deep", 2, 1e-7)
    assert "DIFFERENT, not timed: losses: NCHW is off" in said.err
    assert status == 1


def test_pytorchs_process_is_a_new_one_after_some_rounds(monkeypatch: pytest.MonkeyPatch) -> None:
    class Torch:
        started, running = 0, False

        def close(self) -> None:
            self.running = False

    def prepare(torch: Any, beside: bool) -> Any:
        assert not torch.running
        torch.started += 1
        torch.running = beside
        return NOTHING, 1e-7 * torch.started

    monkeypatch.setattr(contest, "BLOCK_SECONDS", 0)
    monkeypatch.setattr(contest, "PAUSE_SECONDS", 0)
    for beside, processes in ((True, 3), (False, 1)):
        torch = Torch()
        row = rows.ContestRow("d", partial(prepare, beside=beside), {})
        monkeypatch.setattr(worker.rows, "CONTESTS", {"deep": row})
        found, _ = worker.measure("deep", 1, 2 * worker.ROUNDS_OF_A_PROCESS + 1, torch)
        assert torch.started == processes
        assert found["rounds"] == 2 * worker.ROUNDS_OF_A_PROCESS + 1
        assert found["off"] == 1e-7 * processes


def test_the_worker_ends_its_peer(monkeypatch: pytest.MonkeyPatch) -> None:
    ended: list[Any] = []

    def broken(torch: Any) -> Any:
        monkeypatch.setattr(torch, "close", lambda: ended.append(torch))
        raise process.PeerError("in PyTorch's process")

    monkeypatch.setattr(worker.rows, "CONTESTS", {"simple": rows.ContestRow("s", broken, {})})
    with pytest.raises(process.PeerError):
        worker.main(["--threads", "1", "--rounds", "2", "--rows", "simple"])
    assert len(ended) == 1


def _plays(monkeypatch: pytest.MonkeyPatch, program: str) -> None:
    """Let a Python program take the worker's place."""
    start = against_torch._Child.__init__

    def init(self: Any, *args: Any) -> None:
        start(self, *args)
        self.command = [sys.executable, "-c", program]

    monkeypatch.setattr(against_torch._Child, "__init__", init)


def test_a_run_keeps_its_results(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    said = json.dumps(result("deep", 1.2))
    _plays(monkeypatch, f"import os; assert os.environ['XPCNN_NUM_THREADS'] == '2'; print({said!r})")
    path = tmp_path / "cpu.json"
    results, status = against_torch.measured(("deep",), (2,), 5, path)
    assert status == 0
    kept = json.loads(path.read_text("utf-8"))
    assert kept["results"] == results == [result("deep", 1.2)]
    assert kept["settings"]["rounds"] == 5
    assert {"machine", "versions", "settings", "results"} == kept.keys()
    assert [one.name for one in tmp_path.iterdir()] == ["cpu.json"]


def test_each_memory_has_a_process() -> None:
    parts = against_torch._processes(("simple", "linear", "memory-deep", "memory-resnet", "evaluation"))
    assert parts == [["simple", "linear"], ["memory-deep"], ["memory-resnet"], ["evaluation"]]


def test_memory_of_evaluation(monkeypatch: pytest.MonkeyPatch) -> None:
    _plays(monkeypatch, "print('deep_convnet: 10,000 images evaluated, 61 MB above the resting process')")
    (found,), _ = against_torch.measured(("evaluation",), (1,), 5)
    assert found["megabytes"] == 61
    assert found["work"] == "deep_convnet, evaluating 10,000 images: memory"


@pytest.mark.skipif(os.name != "posix", reason="sends signals")
def test_ctrl_c_waits_for_what_was_measured(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    first, last = json.dumps(result("simple", 0.9)), json.dumps(result("deep", 1.2))
    program = f"""
import os, signal, sys, time
signal.signal(signal.SIGINT, signal.default_int_handler)  # as the worker does
print({first!r}, flush=True)
try:
    for _ in range(30):  # one that comes just before a read is not seen before the next
        os.kill(os.getppid(), signal.SIGINT)
        time.sleep(1)
except KeyboardInterrupt:
    print({last!r}, flush=True)
    sys.exit(130)
"""
    _plays(monkeypatch, program)
    path = tmp_path / "cpu.json"
    results, status = against_torch.measured(("simple", "deep"), (1, 2), 5, path)
    assert [one["row"] for one in results] == ["simple", "deep"]
    assert json.loads(path.read_text("utf-8"))["results"] == results
    assert status == against_torch.INTERRUPTED
    assert "interrupted" in capsys.readouterr().err


def test_what_was_kept_is_shown(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "cpu.json"
    path.write_text(json.dumps({"results": [result("deep", 1.2)]}), "utf-8")
    assert against_torch.main(["--show", str(path), "--markdown"]) == 0
    assert capsys.readouterr().out.splitlines()[1].startswith("|---|")
    assert against_torch.main(["--show", str(path)]) == 0
    assert capsys.readouterr().out.startswith("work ")


@pytest.mark.parametrize("arguments", [["--rows", "com"], ["--threads", "0"], ["--profile", "vgg"]])
def test_wrong_arguments(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        against_torch.main(arguments)
    assert arguments[0] in capsys.readouterr().err


def test_the_page_names_every_row() -> None:
    page = (Path(__file__).parents[2] / "docs" / "benchmarks" / "cpu.md").read_text("utf-8")
    assert [name for name in rows.NAMES if f"`{name}`" not in page] == []
