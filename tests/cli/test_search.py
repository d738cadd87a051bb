"""xpcnn search: what it prints and writes, and that the test set stays unseen."""

from __future__ import annotations

import csv
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import xpcnn.cli.search as search
from tests.cli.conftest import Digits, Run
from xpcnn import Trainer
from xpcnn.cli.settings import Settings
from xpcnn.data import Dataset
from xpcnn.train import random_search, ranked, split

QUICK = ("--model", "tiny_convnet", "--model-option", "filters=2", "--train-samples", 50, "--epochs", 2,
         "--batch-size", 20, "--lr", "1e-4,1e-1")  # fmt: skip


def rows(path: str = "s.csv") -> list[dict[str, str]]:
    with open(path, newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def test_output_and_table(xpcnn_command: Run, digits: Digits, monkeypatch: pytest.MonkeyPatch) -> None:
    """And what trains and what ranks the trials are parts of the training set."""
    seen: list[tuple[Dataset, Dataset]] = []

    def noting(build: Any, train: Dataset, validation: Dataset, **options: Any) -> Any:
        seen.append((train, validation))
        return random_search(build, train, validation, **options)

    monkeypatch.setattr(search, "random_search", noting)
    given = ("--trials", 3, "--out", "found/s.csv", "--seed", 4, "--optimizer", "nesterov")
    status, out, err = xpcnn_command("search", *QUICK, *given)
    assert (status, err) == (0, "")
    parts = split(digits[0][:50], 0.2, seed=4)
    for found, expected in zip(seen[0], parts, strict=True):
        np.testing.assert_array_equal(found.images, expected.images)

    def build(lr: float, weight_decay: float, seed: int) -> Trainer:
        options = {"model": "tiny_convnet", "model_options": {"filters": 2}, "seed": seed}
        how = {"optimizer": "nesterov", "lr": lr, "weight_decay": weight_decay}
        return Settings("numpy", **options, **how).build_trainer(parts[0])  # type: ignore[arg-type]

    options: dict[str, Any] = {"trials": 3, "epochs": 2, "batch_size": 20, "seed": 4, "lr": (1e-4, 1e-1)}
    trials = list(random_search(build, *parts, **options))
    best = ranked(trials)[0]
    lines = out.splitlines()
    assert lines[0] == (
        "3 trials of tiny_convnet with nesterov, 2 epochs: 40 images of synthetic-digits to train on, "
        "10 to validate"
    )
    figures = r" +{0.accuracy:.2%}  lr {0.lr:.2e}  weight decay {0.weight_decay:.2e}  \d+\.\d s"
    for line, trial in zip(lines[1:4], trials, strict=True):
        assert re.fullmatch(f"trial {trial.number} of 3 " + figures.format(trial), line)
    assert lines[4] == "all 3, best first, in found/s.csv"
    assert re.fullmatch(f"best: trial {best.number} " + figures.format(best), lines[5])
    assert lines[6:] == [
        "next: xpcnn train --dataset synthetic-digits --model tiny_convnet --model-option filters=2 "
        f"--optimizer nesterov --lr {best.lr:.3g} --weight-decay {best.weight_decay:.3g}"
    ]
    names = ("number", "lr", "weight_decay", "accuracy")
    assert [[float(row[name]) for name in names] for row in rows("found/s.csv")] == [
        [getattr(trial, name) for name in names] for trial in ranked(trials)
    ]


def test_the_defaults_are_the_books(xpcnn_command: Run, monkeypatch: pytest.MonkeyPatch) -> None:
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
    assert f"all 1, best first, in {file}\n" in out


@pytest.mark.parametrize("press", [1, 3])
def test_ctrl_c(xpcnn_command: Run, monkeypatch: pytest.MonkeyPatch, press: int) -> None:
    """The table holds each trial as soon as it ends, so an interrupt or a kill loses none."""
    fit, kept = Trainer.fit, []

    def pressing(self: Trainer, *args: Any, **options: Any) -> Any:
        kept.append(len(rows()))
        if len(kept) == press:
            raise KeyboardInterrupt
        return fit(self, *args, **options)

    monkeypatch.setattr(Trainer, "fit", pressing)
    status, out, err = xpcnn_command("search", *QUICK, "--trials", 4, "--out", "s.csv")
    assert (status, err) == (130, "")
    assert f"interrupted after {press - 1} trials\nall {press - 1}, best first, in s.csv\n" in out
    assert kept == list(range(press))
    assert len(rows()) == press - 1


def test_a_search_where_all_diverge(xpcnn_command: Run) -> None:
    given = ("--optimizer", "sgd", "--lr", "1e29,1e30", "--trials", 2, "--out", "s.csv")
    status, out, err = xpcnn_command("search", *QUICK, *given)
    assert (status, err) == (0, "")
    assert out.count("diverged  ") == 2
    assert "next:" not in out
    assert all(row["failure"] and not row["accuracy"] for row in rows())
