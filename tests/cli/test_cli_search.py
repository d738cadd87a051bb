"""xpcnn search: what it tells and writes, and that the test set stays unseen."""

from __future__ import annotations

import csv
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import xpcnn.cli.search as search
from xpcnn import Trainer
from xpcnn.cli import datasets
from xpcnn.cli.settings import Settings
from xpcnn.data import Dataset
from xpcnn.train import random_search, ranked, split

QUICK = ("--model", "tiny_convnet", "--model-option", "filters=2", "--train-samples", 50, "--epochs", 2,
         "--batch-size", 20, "--lr", "1e-4,1e-1")  # fmt: skip


def rows(path: str = "s.csv") -> list[dict[str, str]]:
    with open(path, newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def test_what_is_told_and_written(xpcnn_command: Any, digits: tuple[Dataset, Dataset]) -> None:
    status, out, err = xpcnn_command("search", *QUICK, "--trials", 3, "--out", "found/s.csv", "--seed", 4)
    assert (status, err) == (0, "")

    def build(lr: float, weight_decay: float, seed: int) -> Trainer:
        options = {"model": "tiny_convnet", "model_options": {"filters": 2}, "seed": seed}
        settings = Settings("numpy", **options, lr=lr, weight_decay=weight_decay)  # type: ignore[arg-type]
        return settings.build_trainer(train)

    train, validation = split(digits[0][:50], 0.2, seed=4)
    options: dict[str, Any] = {"trials": 3, "epochs": 2, "batch_size": 20, "seed": 4, "lr": (1e-4, 1e-1)}
    expected = ranked(random_search(build, train, validation, **options))
    lines = out.splitlines()
    assert lines[0] == (
        "3 trials of tiny_convnet with adam, 2 epochs: 40 images of synthetic-digits to train on, "
        "10 to validate"
    )
    assert [line[:15] for line in lines[1:4]] == [f"trial {i} of 3   " for i in (1, 2, 3)]
    for rank, (line, trial) in enumerate(zip(lines[4:7], expected, strict=True), start=1):
        told = rf"   {rank}\.  trial {trial.number}  +{trial.accuracy:.2%}  lr {trial.lr:.2e}  weight decay "
        assert re.fullmatch(rf"{told}{trial.weight_decay:.2e}  \d+\.\d s", line)
    best = expected[0]
    assert lines[7:] == [
        "all 3 in found/s.csv",
        "next: xpcnn train --dataset synthetic-digits --model tiny_convnet --model-option filters=2 "
        f"--optimizer adam --lr {best.lr:.3g} --weight-decay {best.weight_decay:.3g}",
    ]
    names = ("number", "lr", "weight_decay", "accuracy")
    assert [[float(row[name]) for name in names] for row in rows("found/s.csv")] == [
        [getattr(trial, name) for name in names] for trial in expected
    ]
    assert [path.name for path in Path("found").iterdir()] == ["s.csv"]


def test_the_test_set_is_never_seen(
    xpcnn_command: Any, digits: tuple[Dataset, Dataset], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Other test images change nothing, and what ranks the trials is no training image."""
    seen: list[tuple[Dataset, Dataset]] = []
    fit = Trainer.fit

    def noting(self: Trainer, train: Dataset, test: Dataset, *given: Any, **options: Any) -> Any:
        seen.append((train, test))
        return fit(self, train, test, *given, **options)

    monkeypatch.setattr(Trainer, "fit", noting)
    assert xpcnn_command("search", *QUICK, "--trials", 2, "--out", "a.csv").status == 0
    monkeypatch.setitem(datasets.DATASETS, "synthetic-digits", lambda: (digits[0], digits[1][:1]))
    assert xpcnn_command("search", *QUICK, "--trials", 2, "--out", "b.csv").status == 0
    one, other = (
        [{name: value for name, value in row.items() if name != "seconds"} for row in rows(name)]
        for name in ("a.csv", "b.csv")
    )
    assert one == other
    given = {image.tobytes() for image in digits[0].images[:50]}
    for train, validation in seen:
        held_out = {image.tobytes() for image in validation.images}
        assert held_out <= given
        assert not held_out & {image.tobytes() for image in train.images}


def test_the_defaults_are_the_books(xpcnn_command: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: dict[str, Any] = {}

    def noting(build: Any, train: Any, validation: Any, **options: Any) -> Any:
        seen.update(options, sizes=(len(train), len(validation)))
        return random_search(build, train, validation, **{**options, "trials": 1, "epochs": 1})

    monkeypatch.setattr(search, "random_search", noting)
    status, out, _ = xpcnn_command("search", "--model-option", "filters=2")
    assert status == 0
    assert (seen["lr"], seen["weight_decay"]) == ((1e-6, 1e-2), (1e-8, 1e-4))
    assert (seen["sizes"], seen["trials"], seen["batch_size"], seen["epochs"]) == ((400, 100), 100, 100, 50)
    (file,) = Path("runs").iterdir()
    assert re.fullmatch(r"search-synthetic-digits-simple_convnet-\d{8}-\d{6}-\d{6}\.csv", file.name)
    assert f"all 1 in {file}\n" in out


def test_what_is_drawn_is_what_is_trained_with(xpcnn_command: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    build, options = Settings.build_trainer, []

    def noting(self: Settings, train: Dataset) -> Trainer:
        trainer = build(self, train)
        options.append({**trainer.optimizer.options_of("fc.weight"), "seed": trainer.seed})
        return trainer

    monkeypatch.setattr(Settings, "build_trainer", noting)
    given = ("--trials", 2, "--out", "s.csv", "--optimizer", "nesterov", "--seed", 9)
    assert xpcnn_command("search", *QUICK, *given).status == 0
    shared = {"seed": 9, "momentum": 0.9, "nesterov": True}
    names = ("lr", "weight_decay", *shared)
    expected = [
        {"lr": float(row["lr"]), "weight_decay": float(row["weight_decay"]), **shared}
        for row in sorted(rows(), key=lambda row: row["number"])
    ]
    assert [{name: one[name] for name in names} for one in options] == expected


def test_only_the_best_are_told_of_many(xpcnn_command: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(search, "_SHOWN", 2)
    _, out, _ = xpcnn_command("search", *QUICK, "--trials", 5, "--out", "s.csv")
    assert re.findall(r"^ +(\d)\.  trial", out, flags=re.MULTILINE) == ["1", "2"]
    assert "\nall 5 in s.csv\n" in out
    accuracies = [float(row["accuracy"]) for row in rows()]
    assert len(accuracies) == 5
    np.testing.assert_array_equal(accuracies, sorted(accuracies, reverse=True))


@pytest.mark.parametrize("press", [1, 3])
def test_ctrl_c(xpcnn_command: Any, monkeypatch: pytest.MonkeyPatch, press: int) -> None:
    """What is done is written; whether anything was done at all is told."""
    build, built = Settings.build_trainer, []

    def pressing(self: Settings, train: Dataset) -> Trainer:
        built.append(self)
        if len(built) == press:
            raise KeyboardInterrupt
        return build(self, train)

    monkeypatch.setattr(Settings, "build_trainer", pressing)
    status, out, err = xpcnn_command("search", *QUICK, "--trials", 4, "--out", "s.csv")
    assert (status, err) == (130, "")
    assert f"interrupted after {press - 1} trials\n" in out
    assert f"all {press - 1} in s.csv\n" in out
    assert len(rows()) == press - 1


def test_a_search_that_is_killed_keeps_its_trials(
    xpcnn_command: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    build = Settings.build_trainer

    def counting(self: Settings, train: Dataset) -> Trainer:
        kept.append(len(rows()))
        return build(self, train)

    kept: list[int] = []
    monkeypatch.setattr(Settings, "build_trainer", counting)
    assert xpcnn_command("search", *QUICK, "--trials", 3, "--out", "s.csv").status == 0
    assert kept == [0, 1, 2]


def test_a_search_where_all_diverge(xpcnn_command: Any) -> None:
    given = ("--optimizer", "sgd", "--lr", "1e29,1e30", "--trials", 2, "--out", "s.csv")
    status, out, err = xpcnn_command("search", *QUICK, *given)
    assert (status, err) == (0, "")
    assert out.count("diverged  ") == 4
    assert "next:" not in out
    assert all(row["failure"] and not row["accuracy"] for row in rows())


def test_usage(xpcnn_command: Any) -> None:
    Path("there.csv").write_text("mine")
    told = {
        ("--lr", "1e-3"): "argument --lr: '1e-3' is not LOW,HIGH with 0 < LOW <= HIGH",
        ("--lr", "1e-3,1e-4"): "'1e-3,1e-4' is not LOW,HIGH",
        ("--lr", "1e-3,inf"): "'1e-3,inf' is not LOW,HIGH",
        ("--weight-decay", "0,1"): "'0,1' is not LOW,HIGH",
        ("--weight-decay", "a,b"): "'a,b' is not LOW,HIGH",
        ("--validation", "1"): "'1' is not a number between 0 and 1",
        ("--trials", "0"): "'0' is not a whole number of at least 1",
        ("--train-samples", "5000"): "--train-samples 5000: synthetic-digits has 1000 such images",
        ("--model", "lenet9000"): "invalid choice: 'lenet9000'",
        ("--out", "there.csv"): "--out there.csv: is there already; name another file",
    }
    for arguments, message in told.items():
        status, out, err = xpcnn_command("search", *arguments)
        assert (status, out, err.count("\n")) == (2, "", 1)
        assert err.startswith("xpcnn search: error: ")
        assert message in err
    assert Path("there.csv").read_text() == "mine"
    for arguments in (
        ("--validation", "0.001"),
        ("--model", "tiny_convnet", "--model-option", "input_shape=1,9,9"),
    ):
        status, out, err = xpcnn_command("search", *arguments)
        assert (status, out, err.count("\n")) == (1, "", 1)
    assert not Path("runs").exists()


def test_a_folder_that_cannot_be_made(xpcnn_command: Any) -> None:
    Path("file").touch()
    status, _, err = xpcnn_command("search", *QUICK, "--out", "file/s.csv")
    assert (status, err.count("\n")) == (1, 1)
    assert err.startswith("xpcnn: error: cannot ")
