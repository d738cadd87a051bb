"""Several models on the command line: xpcnn evaluate and predict as an ensemble."""

from __future__ import annotations

import json
import os
import re
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from xpcnn import load_model, models, nn
from xpcnn.data import Dataset
from xpcnn.train import evaluate, predict


@pytest.fixture
def others(xpcnn_command: Any, trained: Path) -> list[Path]:
    """Three runs: the trained one, and the same with its weights changed a little, twice."""
    folders = [Path("a"), Path("b"), Path("c")]
    for seed, folder in enumerate(folders):
        shutil.copytree(trained, folder)
        model = load_model(folder)
        rng = np.random.default_rng(seed)
        for parameter in model.parameters().values():
            drawn = rng.standard_normal(parameter.shape).astype("float32")
            parameter.data = parameter.data + seed * 0.5 * parameter.data.std() * drawn
        model.save(folder / "model.safetensors")
    return folders


def together(folders: list[Path], vote: str = "mean") -> nn.Ensemble:
    return nn.Ensemble(*map(load_model, folders), vote=vote)


# -- evaluate -----------------------------------------------------------------------------


@pytest.mark.parametrize("vote", [None, "mean", "geometric"])
def test_evaluate(xpcnn_command: Any, others: list[Path], digits: tuple[Dataset, Dataset], vote: Any) -> None:
    own = [evaluate(load_model(folder), digits[1]) for folder in others]
    whole = evaluate(together(others, vote or "mean"), digits[1])
    assert len({result.correct for result in [*own, whole]}) == 4
    options = () if vote is None else ("--vote", vote)
    status, out, err = xpcnn_command("evaluate", *others, *options)
    assert (status, err) == (0, "")

    def figures(result: Any) -> str:
        counted = f"({result.correct} of 300 test images of synthetic-digits)"
        return f"accuracy {result.accuracy:.2%} {counted}, loss {result.loss:.4f}"

    assert out.splitlines() == [
        *(f"{folder}: {figures(result)}" for folder, result in zip(others, own, strict=True)),
        f"ensemble of 3, {vote or 'mean'}: {figures(whole)}, on numpy (cpu)",
    ]


def test_a_saved_ensemble(xpcnn_command: Any, others: list[Path]) -> None:
    together(others, "geometric").save("all.safetensors")
    several = xpcnn_command("evaluate", *others, "--vote", "geometric").out
    dataset = ("--dataset", "synthetic-digits")
    saved = xpcnn_command("evaluate", "all.safetensors", *dataset)
    assert (saved.status, saved.err) == (0, "")
    for number, folder in enumerate(others):
        several = re.sub(rf"^{folder}: ", f"member {number}: ", several, flags=re.MULTILINE)
    assert saved.out == several
    other_vote = xpcnn_command("evaluate", "all.safetensors", *dataset, "--vote", "mean").out
    assert other_vote.splitlines()[-1] == xpcnn_command("evaluate", *others).out.splitlines()[-1]
    nested = xpcnn_command("evaluate", "all.safetensors", "a", *dataset)
    assert (nested.status, nested.out.count("\n")) == (0, 3)


def test_on_another_backend_in_another_dtype(xpcnn_command: Any, others: list[Path]) -> None:
    given = ("--backend", "array_api_strict", "--dtype", "float64", "--test-samples", 50, "--batch-size", 20)
    status, out, err = xpcnn_command("evaluate", *others[:2], *given)
    assert (status, err) == (0, "")
    assert out.splitlines()[-1].startswith("ensemble of 2, mean: accuracy ")
    assert "of 50 test images" in out
    assert out.splitlines()[-1].rpartition(", on ")[2].startswith("array_api_strict")


def test_runs_on_several_datasets(xpcnn_command: Any, others: list[Path]) -> None:
    config = json.loads((others[1] / "run.json").read_text())
    (others[1] / "run.json").write_text(json.dumps({**config, "dataset": "mnist"}))
    status, out, err = xpcnn_command("evaluate", *others)
    assert (status, out, err.count("\n")) == (2, "", 1)
    assert "several datasets (a on synthetic-digits, b on mnist, c on synthetic-digits), so --dataset" in err
    assert xpcnn_command("evaluate", *others, "--dataset", "synthetic-digits").status == 0


def test_models_that_do_not_fit_together(xpcnn_command: Any, others: list[Path]) -> None:
    models.simple_convnet(classes=5).save("five.npz")
    status, out, _ = xpcnn_command("predict", "x.png", "--model", "a", "--model", "five.npz")
    assert (status, out) == (1, "")


def test_a_vote_of_one(xpcnn_command: Any, others: list[Path]) -> None:
    for command in (("evaluate", "a"), ("predict", "x.png", "--model", "a")):
        status, out, err = xpcnn_command(*command, "--vote", "geometric")
        assert (status, out, err.count("\n")) == (2, "", 1)
        assert "error: --vote geometric: is for several models, and a is one" in err


def test_majority_votes_were_removed(xpcnn_command: Any, others: list[Path]) -> None:
    status, out, err = xpcnn_command("evaluate", *others, "--vote", "majority")
    assert (status, out, err.count("\n")) == (2, "", 1)
    assert "argument --vote: invalid choice: 'majority' (choose from " in err


def test_a_run_that_is_not_there(xpcnn_command: Any, others: list[Path]) -> None:
    status, out, err = xpcnn_command("evaluate", "a", "absent")
    assert (status, out) == (1, "")
    assert err.startswith("xpcnn: error: absent: no such file")


# -- predict ------------------------------------------------------------------------------


@pytest.fixture
def picture(xpcnn_command: Any, digits: tuple[Dataset, Dataset]) -> np.ndarray:
    """A file of a test image, 7.png, and the image."""
    pytest.importorskip("PIL.Image").fromarray(digits[1].images[7, 0]).save("7.png")
    return digits[1].images[7:8]


@pytest.mark.parametrize("vote", ["mean", "geometric"])
def test_predict(xpcnn_command: Any, others: list[Path], picture: np.ndarray, vote: str) -> None:
    given = [argument for folder in others for argument in ("--model", folder)]
    (row,) = predict(together(others, vote), picture)
    expected = f"7.png: {row.argmax()} ({row.max():.1%})  as it is\n"
    assert xpcnn_command("predict", "7.png", *given, "--vote", vote) == (0, expected, "")
    together(others, vote).save("all.npz")
    assert xpcnn_command("predict", "7.png", "--model", "all.npz") == (0, expected, "")
    if vote == "mean":
        assert xpcnn_command("predict", "7.png", *given) == (0, expected, "")


def test_predict_with_members_that_were_not_trained(xpcnn_command: Any, picture: np.ndarray) -> None:
    nn.Ensemble(models.simple_convnet(seed=0), models.deep_convnet(seed=1)).save("both.npz")
    status, out, err = xpcnn_command("predict", "7.png", "--model", "both.npz")
    assert (status, err) == (0, "")
    assert re.fullmatch(r"7\.png: \d \(\d+\.\d%\)  as it is\n", out)
    models.simple_convnet((1, 20, 20)).save("small.npz")
    status, out, err = xpcnn_command("predict", "7.png", "--model", "both.npz", "--model", "small.npz")
    assert (status, out) == (1, "")
    assert err.endswith("the models were made for images of different sizes: (1, 20, 20), (1, 28, 28)\n")


def test_the_newest_run_is_one_model(xpcnn_command: Any, others: list[Path], picture: np.ndarray) -> None:
    os.mkdir("runs")
    shutil.copytree("a", "runs/a")
    shutil.copytree("b", "runs/b")
    status, out, err = xpcnn_command("predict", "7.png")
    assert (status, out.count("\n")) == (0, 1)
    assert re.fullmatch(r"xpcnn: with runs/[ab], the newest run\n", err)
