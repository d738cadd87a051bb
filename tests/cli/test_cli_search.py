"""xpcnn search: what it tells, keeps, and goes on with."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest

import xpcnn.cli.search as search
from xpcnn import Trainer
from xpcnn.cli.settings import Settings
from xpcnn.data import Dataset
from xpcnn.train import LogUniform, random_search, split

QUICK = ("--model", "tiny_convnet", "--model-option", "filters=2", "--train-samples", 50, "--epochs", 2,
         "--batch-size", 20, "--lr", "1e-4,1e-1")  # fmt: skip


@pytest.fixture(autouse=True)
def no_drawing(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Drawing takes longer than the tests' trainings."""
    if "real_curves" not in request.fixturenames:
        monkeypatch.setattr(search, "plot_search", lambda results, path: path.touch())


def without_seconds(text: str) -> str:
    return re.sub(r" +\d+\.\d( s|$|\n)", "", text)


def test_what_is_told(xpcnn_command: Any, digits: tuple[Dataset, Dataset]) -> None:
    status, out, err = xpcnn_command("search", *QUICK, "--trials", 3, "--out", "found/s.jsonl", "--seed", 4)
    assert (status, err) == (0, "")

    def build(lr: float, weight_decay: float, seed: int) -> Trainer:
        options = {"model": "tiny_convnet", "model_options": {"filters": 2}, "seed": seed}
        settings = Settings("numpy", **options, lr=lr, weight_decay=weight_decay)  # type: ignore[arg-type]
        return settings.build_trainer(train)

    train, validation = split(digits[0][:50], 0.2, seed=4)
    space = {"lr": LogUniform(1e-4, 1e-1), "weight_decay": LogUniform(1e-8, 1e-4)}
    expected = random_search(
        build, space, train, validation, trials=3, epochs=2, batch_size=20, seed=4, progress=None
    )
    best = expected.best
    assert best is not None
    lines = out.splitlines()
    assert lines[:4] == [
        "data       synthetic-digits: 40 images to train on, 10 to validate",
        "model      tiny_convnet, filters 2; adam, 2 epochs in batches of 20",
        "search     3 trials with lr 0.0001 to 0.1, weight decay 1e-08 to 0.0001, seed 4",
        "file       found/s.jsonl (Ctrl-C keeps it)",
    ]
    assert [line[:13] for line in lines[4:7]] == [f"trial {i} of 3 " for i in (1, 2, 3)]
    assert without_seconds("\n".join(lines[7:12])) == without_seconds(str(expected))
    assert lines[12:] == [
        "plot       found/s.png",
        "next:",
        "  xpcnn train --dataset synthetic-digits --model tiny_convnet --model-option filters=2 --optimizer "
        f"adam --lr {best.sample['lr']:.3g} --weight-decay {best.sample['weight_decay']:.3g}",
    ]
    assert sorted(path.name for path in Path("found").iterdir()) == ["s.jsonl", "s.png"]


def test_the_defaults_are_the_books(xpcnn_command: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: dict[str, Any] = {}

    def noting(build: Any, space: Any, train: Any, validation: Any, **options: Any) -> Any:
        seen.update(options, space=space, sizes=(len(train), len(validation)))
        return random_search(build, space, train, validation, **{**options, "trials": 1, "epochs": 1})

    monkeypatch.setattr(search, "random_search", noting)
    status, out, _ = xpcnn_command("search", "--model-option", "filters=2")
    assert status == 0
    assert seen["space"] == {"lr": LogUniform(1e-6, 1e-2), "weight_decay": LogUniform(1e-8, 1e-4)}
    assert (seen["sizes"], seen["trials"], seen["batch_size"], seen["epochs"]) == ((400, 100), 100, 100, 50)
    (file,) = Path("runs").glob("*.jsonl")
    assert re.fullmatch(r"search-synthetic-digits-simple_convnet-\d{8}-\d{6}-\d{6}\.jsonl", file.name)
    assert f"plot       {file.with_suffix('.png')}\n" in out


def test_going_on(xpcnn_command: Any) -> None:
    xpcnn_command("search", *QUICK, "--trials", 2, "--out", "s.jsonl")
    status, out, _ = xpcnn_command("search", *QUICK, "--trials", 3, "--out", "s.jsonl")
    assert status == 0
    assert "2 trials were done before, in s.jsonl\ntrial 3 of 3 " in out
    assert "trial 2 of 3" not in out
    content = Path("s.jsonl").read_bytes()
    other_backend = xpcnn_command(
        "search", *QUICK, "--trials", 3, "--out", "s.jsonl", "--backend", "array_api_strict"
    )
    assert other_backend.status == 0  # which decides nothing but speed
    told = {
        ("--seed", 1): "seed 0 there, 1 here",
        ("--lr", "1e-4,1"): '"lr": {"log-uniform": [0.0001, 1.0]}',
        ("--optimizer", "nesterov"): '"optimizer": "nesterov", "momentum": 0.9',
        ("--model-option", "filters=3"): '"model_options": {"filters": 3}',
        ("--validation", "0.5"): '"synthetic-digits", 40] there',
    }
    for change, message in told.items():
        status, out, err = xpcnn_command("search", *QUICK, "--trials", 3, "--out", "s.jsonl", *change)
        assert (status, err.count("\n")) == (1, 1)
        assert err.startswith("xpcnn: error: s.jsonl: is of another search: ")
        assert message in err
    assert Path("s.jsonl").read_bytes() == content


def test_what_is_drawn_is_what_is_trained_with(xpcnn_command: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    build, options = Settings.build_trainer, []

    def noting(self: Settings, train: Dataset) -> Trainer:
        trainer = build(self, train)
        options.append({**trainer.optimizer.options_of("fc.weight"), "seed": trainer.seed})
        return trainer

    monkeypatch.setattr(Settings, "build_trainer", noting)
    given = ("--trials", 2, "--out", "s.jsonl", "--optimizer", "nesterov", "--seed", 9)
    assert xpcnn_command("search", *QUICK, *given).status == 0
    kept = [json.loads(line)["sample"] for line in Path("s.jsonl").read_text().splitlines()[1:]]
    shared = {"seed": 9, "momentum": 0.9, "nesterov": True}
    assert [{name: one[name] for name in (*kept[0], *shared)} for one in options] == [
        {**sample, **shared} for sample in kept
    ]


def test_only_the_best_are_told_of_many(xpcnn_command: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(search, "_SHOWN", 2)
    _, out, _ = xpcnn_command("search", *QUICK, "--trials", 5, "--out", "s.jsonl")
    table = out[out.index("rank") :].splitlines()
    assert [line.split()[0] for line in table[2:4]] == ["1", "2"]
    assert table[4] == "and 3 more in s.jsonl"


def test_ctrl_c(xpcnn_command: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    build, built = Settings.build_trainer, []

    def pressing(self: Settings, train: Dataset) -> Trainer:
        built.append(self)
        if len(built) == 3:
            raise KeyboardInterrupt
        return build(self, train)

    monkeypatch.setattr(Settings, "build_trainer", pressing)
    status, out, err = xpcnn_command("search", *QUICK, "--trials", 4, "--out", "s.jsonl")
    assert (status, err) == (1, "")
    assert "interrupted after 2 trials; the same command goes on with --out s.jsonl\nrank " in out
    assert "next:" not in out
    built.clear()
    built.append(None)  # so that the third is not reached
    status, out, _ = xpcnn_command("search", *QUICK, "--trials", 3, "--out", "s.jsonl")
    assert status == 0
    assert len([line for line in Path("s.jsonl").read_text().splitlines() if '"number"' in line]) == 3


def test_interrupted_at_once(xpcnn_command: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    def press(self: Settings, train: Dataset) -> Trainer:
        raise KeyboardInterrupt

    monkeypatch.setattr(Settings, "build_trainer", press)
    status, out, err = xpcnn_command("search", *QUICK, "--out", "s.jsonl")
    assert (status, err) == (1, "")
    assert out.endswith("interrupted after 0 trials; the same command goes on with --out s.jsonl\n")


def test_a_search_where_all_diverge(xpcnn_command: Any) -> None:
    given = ("--optimizer", "sgd", "--lr", "1e29,1e30", "--trials", 2, "--out", "s.jsonl")
    status, out, err = xpcnn_command("search", *QUICK, *given)
    assert (status, err) == (0, "")
    assert out.count("diverged  ") == 4
    assert "next:" not in out
    assert all(json.loads(line)["failure"] for line in Path("s.jsonl").read_text().splitlines()[1:])


@pytest.mark.parametrize("name", ["p.png", "p.svg"])
def test_the_picture(xpcnn_command: Any, real_curves: None, name: str) -> None:
    pytest.importorskip("matplotlib")
    status, out, _ = xpcnn_command("search", *QUICK, "--trials", 2, "--out", "s.jsonl", "--plot", name)
    assert status == 0
    assert f"plot       {name}\n" in out
    assert Path(name).read_bytes()[:4] in (b"\x89PNG", b"<?xm")


def test_without_matplotlib(xpcnn_command: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    def absent(results: Any, path: Path) -> None:
        raise ImportError

    monkeypatch.setattr(search, "plot_search", absent)
    status, out, _ = xpcnn_command("search", *QUICK, "--trials", 1, "--out", "s.jsonl")
    assert status == 0
    assert "nothing drawn: pip install 'xpcnn[plot]'" in out


def test_usage(xpcnn_command: Any) -> None:
    told = {
        ("--lr", "1e-3"): "argument --lr: '1e-3' is not LOW,HIGH with 0 < LOW <= HIGH",
        ("--lr", "1e-3,1e-4"): "'1e-3,1e-4' is not LOW,HIGH",
        ("--weight-decay", "0,1"): "'0,1' is not LOW,HIGH",
        ("--weight-decay", "a,b"): "'a,b' is not LOW,HIGH",
        ("--validation", "1"): "'1' is not a number between 0 and 1",
        ("--validation", "0.001"): "--validation 0.001: of 500 samples leaves a part empty",
        ("--trials", "0"): "'0' is not a whole number of at least 1",
        ("--train-samples", "5000"): "--train-samples 5000: synthetic-digits has 1000 such images",
        ("--model", "lenet9000"): "invalid choice: 'lenet9000'",
    }
    for arguments, message in told.items():
        status, out, err = xpcnn_command("search", *arguments)
        assert (status, out, err.count("\n")) == (2, "", 1)
        assert err.startswith("xpcnn search: error: ")
        assert message in err
    status, out, err = xpcnn_command(
        "search", "--model", "tiny_convnet", "--model-option", "input_shape=1,9,9"
    )
    assert (status, out, err.count("\n")) == (1, "", 1)


def test_a_folder_that_cannot_be_made(xpcnn_command: Any) -> None:
    Path("file").touch()
    status, _, err = xpcnn_command("search", *QUICK, "--out", "file/s.jsonl")
    assert (status, err) == (1, "xpcnn: error: cannot make the folder file: File exists\n")
