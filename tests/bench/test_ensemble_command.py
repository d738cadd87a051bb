"""The command that trains an ensemble: resumed to the same bits, whatever it was ended by."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from benchmarks import ensemble, ensemble_folder
from benchmarks.ensemble import RECIPE, Forecast, duration, main
from benchmarks.ensemble_processes import train_members
from xpcnn import io
from xpcnn.cli import datasets
from xpcnn.data import Dataset
from xpcnn.train import RunDirectory, load_model, predict

fcntl = pytest.importorskip("fcntl")  # the command needs it, and Windows has none
ROOT = Path(ensemble.__file__).parent.parent
TINY = replace(
    RECIPE,
    dataset="synthetic-digits",
    train_samples=400,
    test_samples=150,
    evaluate_samples=150,
    model="tiny_convnet",
    model_options={"filters": 4},
    batch_size=10,
    epochs=10,
    augment="shift=2,rotate=10",
)
OWN: tuple[dict[str, Any], ...] = ({}, {"augment": "shift=1", "model_options": {"filters": 3}})
# As a shell leaves a job in the foreground: Ctrl-C is not ignored.
PROGRAM = f"""
import signal
signal.signal(signal.SIGINT, signal.default_int_handler)
import sys
from benchmarks.ensemble import main
from xpcnn.cli.settings import Settings
sys.exit(main(None, {TINY!r}, {OWN!r}))
"""
MEMBERS = 2

Start = Callable[..., subprocess.Popen[str]]
Run = Callable[..., tuple[int, str, str]]


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Start]:
    """Starts the command for a tiny ensemble; two members unless it is given something else."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith("XPCNN_")}
    environment = {**kept, "OPENBLAS_NUM_THREADS": "1", "PYTHONPATH": str(ROOT), "PYTHONWARNINGS": "error"}
    with ExitStack() as processes:

        def new(*arguments: Any) -> subprocess.Popen[str]:
            process = subprocess.Popen(
                [sys.executable, "-c", PROGRAM, *map(str, arguments), "--members", str(MEMBERS)],
                cwd=tmp_path,
                env=environment,
                text=True,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
            )
            processes.enter_context(process)
            processes.callback(process.kill)
            return process

        yield new


@pytest.fixture(scope="module")
def digits() -> tuple[Dataset, Dataset]:
    return datasets.load(TINY.dataset)


@pytest.fixture
def run(
    digits: tuple[Dataset, Dataset], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> Run:
    """Runs the command in this process; the members have their own."""
    monkeypatch.setitem(datasets.DATASETS, TINY.dataset, lambda: digits)  # drawing them takes a while
    monkeypatch.setenv("PYTHONWARNINGS", "error")  # of the members' processes
    for name in [name for name in os.environ if name.startswith("XPCNN_")]:
        monkeypatch.delenv(name)

    def new(*arguments: Any, **settings: Any) -> tuple[int, str, str]:
        status = main(["--members", str(MEMBERS), *map(str, arguments)], replace(TINY, **settings), OWN)
        return (status, *capsys.readouterr())

    return new


def finish(process: subprocess.Popen[str]) -> tuple[int, str, str]:
    out, err = process.communicate(timeout=60)
    return process.returncode, out, err


def show_until(process: subprocess.Popen[str], pattern: str) -> None:
    """Wait for a line of the progress."""
    assert process.stderr is not None
    seen = []
    for line in process.stderr:
        seen.append(line)
        if re.search(pattern, line):
            return
    raise AssertionError(f"the command ended without {pattern!r}: {seen}, {finish(process)}")


def held(folder: Path) -> bool:
    """Whether the command, or a process it started, is still there."""
    with (folder / ".lock").open("w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
    return False


def without_times(results: dict[str, Any]) -> dict[str, Any]:
    members = [{**member, "training_seconds": None} for member in results["members"]]
    return {**results, "members": members, "training_seconds": None, "wall_seconds": None}


def test_killed_and_interrupted_it_ends_with_the_same_bits(
    tmp_path: Path, start: Start, run: Run, digits: tuple[Dataset, Dataset]
) -> None:
    status, out, err = run(tmp_path / "whole", "--processes", 1)
    assert status == 0
    assert re.search(r"^estimate: about .+ for \d+ epochs of .+ s, 1 at a time$", err, re.M)
    last = r"^member 1  epoch  10  loss .+ test +\d+\.\d+%  \d+\.\d s  \d+ s so far, about 0 s left$"
    assert re.search(last, err, re.M)
    log = (tmp_path / "whole" / "log.txt").read_text().splitlines()
    assert [line.partition("  ")[2] for line in log] == err.splitlines()
    assert out == (tmp_path / "whole" / "results.md").read_text()
    results = json.loads((tmp_path / "whole" / "results.json").read_text())
    check_results(tmp_path / "whole", results, digits[1])

    command = start("broken", "--processes", 2)
    show_until(command, r"member \d  epoch   1")
    command.kill()
    command.wait(60)
    command = start("broken", "--processes", 2)  # at once, while members may still be saving
    show_until(command, r"member \d  goes on after step \d")
    show_until(command, r"member \d  epoch   3")
    command.send_signal(signal.SIGINT)
    status, out, err = finish(command)
    assert (status, out) == (1, "")
    assert err.splitlines()[-1] == "interrupted; the same command goes on"
    assert not held(tmp_path / "broken")
    members = [RunDirectory(tmp_path / "broken" / f"member-{number}") for number in range(MEMBERS)]
    assert any(member.history().interrupted for member in members if member.history_file.exists())
    status, out, err = run(tmp_path / "broken", "--processes", 1)
    assert status == 0
    assert re.search(r"^member \d  goes on after step \d+, \d+ of 10 epochs done$", err, re.M)

    same = [f"member-{number}/{file}.safetensors" for number in range(MEMBERS) for file in ("model", "best")]
    for file in (*same, "ensemble.safetensors"):
        ours, theirs = (io.load_weights(tmp_path / run / file).arrays for run in ("broken", "whole"))
        assert ours.keys() == theirs.keys()
        for name, array in theirs.items():
            assert ours[name].tobytes() == array.tobytes(), (file, name)
    resumed = json.loads((tmp_path / "broken" / "results.json").read_text())
    assert without_times(resumed) == without_times(results)

    table = (tmp_path / "broken" / "results.md").read_text()
    assert run(tmp_path / "broken", "--processes", 1) == (0, table, "")  # nothing is left to be done


def check_results(folder: Path, results: dict[str, Any], test: Dataset) -> None:
    test = test[:150]
    each = [predict(load_model(folder / f"member-{number}"), test.images) for number in range(MEMBERS)]
    assert not np.array_equal(*each)
    for member, probabilities in zip(results["members"], each, strict=True):
        assert member["correct"] == np.sum(probabilities.argmax(1) == test.labels)
        assert member["test_accuracy"] == member["correct"] / member["samples"]
    means = {"ensemble": np.prod(each, axis=0, dtype="float64"), "mean": np.mean(each, axis=0)}
    right = {name: np.sum(mean.argmax(1) == test.labels) for name, mean in means.items()}
    for name, correct in right.items():
        assert results[name] == {"test_accuracy": correct / 150, "correct": correct, "samples": 150}
    assert load_model(folder / "ensemble.safetensors").vote == "geometric"
    assert [(member["seed"], member["own"]) for member in results["members"]] == [*enumerate(OWN)]
    for number, (augment, filters) in enumerate([("shift=2,rotate=10", 4), ("shift=1", 3)]):
        config = RunDirectory(folder / f"member-{number}").config()
        assert (config["augment"], config["model_options"], config["seed"]) == (
            augment,
            {"filters": filters},
            number,
        )
    assert 0 < results["training_seconds"] < results["wall_seconds"]
    table = (folder / "results.md").read_text()
    for title, name in (("**all, geometric mean of the probabilities**", "ensemble"), ("all, mean", "mean")):
        assert f"| {title} | {right[name] / 150:.2%} | {150 - right[name]} of 150 |" in table
    assert re.search(r"^\| seed 0 \| .+\n\| seed 1, augment shift=1, filters 3 \| ", table, re.M)


def test_a_member_that_fails_ends_the_command_in_one_line(tmp_path: Path, run: Run) -> None:
    folder = ensemble_folder.EnsembleFolder(tmp_path / "run", TINY, OWN[:1])
    folder.run(0).checkpoint_file.write_bytes(b"no checkpoint")
    status, out, err = run(tmp_path / "run", "--members", 1)
    assert (status, out) == (1, "")
    told = err.splitlines()[-1]
    assert re.fullmatch(r"python -m benchmarks.ensemble: error: member 0: .*checkpoint.safetensors: .+", told)
    assert not held(tmp_path / "run")


def test_other_settings_are_refused(tmp_path: Path, run: Run) -> None:
    def error(*arguments: Any, **settings: Any) -> str:
        status, out, err = run(*arguments, **settings)
        assert (status, out, err.count("\n")) == (1, "", 1)
        return err

    ensemble_folder.EnsembleFolder(tmp_path / "run", TINY, OWN)
    assert "was begun with members 2, not 4; give" in error(tmp_path / "run", "--members", 4)
    assert "was begun with epochs 10, not 7; give" in error(tmp_path / "run", "--epochs", 7)
    assert f"was begun with lr {TINY.lr}, not 0.1; give" in error(tmp_path / "run", lr=0.1)
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "thesis.txt").touch()
    assert "holds thesis.txt and no ensemble" in error(tmp_path / "other")
    assert "cannot make the folder" in error(tmp_path / "other" / "thesis.txt")
    (tmp_path / "run" / "ensemble.json").write_text("{")
    assert "ensemble.json: unreadable" in error(tmp_path / "run")


def test_one_command_at_a_time(tmp_path: Path, run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ensemble_folder, "PATIENCE_SECONDS", 0.05)
    folder = ensemble_folder.EnsembleFolder(tmp_path / "run", TINY, OWN)
    with folder.locked():
        status, out, err = run(tmp_path / "run")
    assert (status, out) == (1, "")
    assert err.endswith("another command is at work there\n")


def test_members_hold_the_folder_until_they_end(tmp_path: Path) -> None:
    """Those of a command that was killed may be saving when the next one begins."""
    folder = ensemble_folder.EnsembleFolder(tmp_path / "run", TINY, OWN[:1])
    folder.run(0)
    with folder.locked() as lock:
        reports = train_members(folder.members, [0], 1, [lock])
        assert next(reports) == (0, {"step": 0, "epochs": 0})
    assert held(folder.path)
    reports.close()
    assert not held(folder.path)
    assert folder.run(0).history().interrupted


@pytest.mark.parametrize("arguments", [(), ("x", "--members", "0"), ("x", "--epochs", "no"), ("x", "--fly")])
def test_wrong_options(arguments: tuple[str, ...], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main(arguments)
    assert ended.value.code == 2
    assert re.fullmatch(r"python -m benchmarks.ensemble: error: .*\n", capsys.readouterr().err)


def test_the_estimate_shares_the_members_among_the_processes() -> None:
    forecast = Forecast(dict.fromkeys(range(5), 25), 2)
    assert forecast.epoch_seconds is None
    forecast.saw(0, {"step": 0, "epochs": 0})
    forecast.saw(0, {"epoch_seconds": 100.0})
    assert forecast.seconds == 3 * 25 * 100
    forecast.saw(0, {"epoch": 1, "epoch_seconds": 60.0})
    forecast.saw(1, {"epoch": 1, "epoch_seconds": 80.0})
    forecast.saw(0, {"epoch_seconds": 1.0})  # of a member that begins: whole epochs tell more
    assert forecast.seconds == (24 + 25 + 25) * 70
    assert str(forecast) == f"about {duration(74 * 70)} for 123 epochs of 70.0 s"
    assert duration(74 * 70) == "1 h 26 min"
