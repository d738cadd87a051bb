"""The help of every command, and what evaluate, summary and info print."""

from __future__ import annotations

import json
import logging
import platform
import re
import shutil
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import xpcnn
from tests.cli.conftest import Digits, Run
from xpcnn import Trainer, io, load_model, models, nn, optim
from xpcnn.data.catalog import DATASETS
from xpcnn.train import evaluate

COMMANDS = ("train", "evaluate", "predict", "search", "plot", "summary", "bench conv", "bench model", "info")


@pytest.mark.parametrize("command", COMMANDS)
def test_each_option_tells_its_default(xpcnn_command: Run, command: str) -> None:
    status, out, err = xpcnn_command(*command.split(), "--help")
    assert (status, err) == (0, "")
    assert out.startswith(f"usage: xpcnn {command} ")
    assert "--import FILE.py" in xpcnn_command(command.split()[0], "--help").out
    options = re.split(r"\n  (?=-)", out.partition("\noptions:")[2])[2:]
    assert all("(default: " in " ".join(option.split()) for option in options), options


def test_downloads_are_told(xpcnn_command: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    def fetching() -> Any:
        logging.getLogger("xpcnn.data.fetch").info("fetching %s", "an address")
        raise KeyboardInterrupt

    monkeypatch.setitem(DATASETS, "mnist", fetching)
    for _ in range(2):
        result = xpcnn_command("train", "--dataset", "mnist")
        assert result == (130, "", "xpcnn: fetching an address\nxpcnn: interrupted\n")
    assert logging.getLogger("xpcnn").handlers == []
    assert list(Path().iterdir()) == []


# -- evaluate ----------------------------------------------------------------------------


def figures(model: nn.Layer, digits: Digits) -> str:
    result = evaluate(model, digits[1])
    counted = f"({result.correct} of 300 test images of synthetic-digits)"
    return f"accuracy {result.accuracy:.2%} {counted}, loss {result.loss:.4f}"


def test_evaluate_a_run(xpcnn_command: Run, trained: Path, digits: Digits) -> None:
    line = f"{figures(load_model(trained), digits)}, on numpy (cpu)\n"
    assert xpcnn_command("evaluate", trained) == (0, line, "")
    assert xpcnn_command("evaluate", trained / "model.safetensors") == (0, line, "")
    shutil.copy(trained / "model.safetensors", "w.safetensors")
    assert xpcnn_command("evaluate", "w.safetensors", "--dataset", "synthetic-digits") == (0, line, "")


def test_evaluate_options(xpcnn_command: Run, trained: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen = []

    def noting(model: Any, data: Any, *, batch_size: int) -> Any:
        dtype = model.conv1.weight.dtype
        seen.append((model.backend.name, str(dtype).rpartition(".")[2], len(data), batch_size))
        return evaluate(model, data, batch_size=batch_size)

    monkeypatch.setattr("xpcnn.cli.evaluate.evaluate", noting)
    given = ("--test-samples", 30, "--batch-size", 7, "--dtype", "float64", "--backend", "array_api_strict")
    result = xpcnn_command("evaluate", trained, *given)
    assert result.status == 0
    assert seen == [("array_api_strict", "float64", 30, 7)]
    assert "of 30 test images" in result.out


@pytest.mark.parametrize("vote", [None, "mean", "geometric"])
def test_evaluate_an_ensemble(xpcnn_command: Run, trained: Path, digits: Digits, vote: Any) -> None:
    """Of the trained run, and of it with its weights changed a little, twice."""
    folders = [Path("a"), Path("b"), Path("c")]
    for seed, folder in enumerate(folders):
        shutil.copytree(trained, folder)
        model = load_model(folder)
        rng = np.random.default_rng(seed)
        for parameter in model.parameters().values():
            drawn = rng.standard_normal(parameter.shape).astype("float32")
            parameter.data = parameter.data + seed * 0.5 * parameter.data.std() * drawn
        model.save(folder / "model.safetensors")
    whole = nn.Ensemble(*map(load_model, folders), vote=vote or "mean")
    each = [figures(load_model(folder), digits) for folder in folders]
    last = f"ensemble of 3, {vote or 'mean'}: {figures(whole, digits)}, on numpy (cpu)"
    assert len({*each, figures(whole, digits)}) == 4
    result = xpcnn_command("evaluate", *folders, *(() if vote is None else ("--vote", vote)))
    assert (result.status, result.err) == (0, "")
    named = [f"{path}: {one}" for path, one in zip(folders, each, strict=True)]
    assert result.out.splitlines() == [*named, last]
    whole.save("all.safetensors")
    saved = ("evaluate", "all.safetensors", "--dataset", "synthetic-digits")
    numbered = [f"member {i}: {one}" for i, one in enumerate(each)]
    assert xpcnn_command(*saved).out.splitlines() == [*numbered, last]
    assert "ensemble of 3, mean: " in xpcnn_command(*saved, "--vote", "mean").out


# -- summary -----------------------------------------------------------------------------


RESNET = partial(models.resnet18, small_images=True)
SUMMARIES: dict[str, tuple[Any, tuple[int, ...]]] = {
    "simple_convnet": (models.simple_convnet, (1, 28, 28)),
    "simple_convnet --input-shape 3,32,32": (partial(models.simple_convnet, (3, 32, 32)), (3, 32, 32)),
    "resnet18 --input-shape 1,28,28": (partial(RESNET, in_channels=1), (1, 28, 28)),
    "resnet18 --model-option small_images=true": (RESNET, (3, 32, 32)),
}


@pytest.mark.slow
@pytest.mark.parametrize("words", SUMMARIES)
def test_summary_by_name(xpcnn_command: Run, words: str) -> None:
    build, shape = SUMMARIES[words]
    assert xpcnn_command("summary", *words.split()) == (0, f"{xpcnn.summary(build(), shape)}\n", "")


def test_summary_of_files(xpcnn_command: Run, trained: Path) -> None:
    expected = xpcnn_command("summary", "simple_convnet", "--model-option", "filters=8")
    assert xpcnn_command("summary", trained) == expected
    model = models.resnet20()
    model.save("w.npz")
    assert load_model("w.npz").spec == model.spec
    assert xpcnn_command("summary", "w.npz") == (0, f"{nn.summary(model, (3, 32, 32))}\n", "")
    nn.Sequential(conv=nn.Conv2d(1, 2, 3)).save("own.npz")
    assert xpcnn_command("summary", "own.npz", "--input-shape", "1,28,28").status == 0
    # A version of before noted no images.
    old = models.simple_convnet((1, 20, 20))
    recipe = {"name": "simple_convnet", "arguments": old.spec.arguments, "mean": 0.0, "std": 1.0}
    io.save_arrays("old.npz", old.state_dict(), {"recipe": json.dumps(recipe)})
    assert xpcnn_command("summary", "old.npz") == (0, f"{nn.summary(old, (1, 20, 20))}\n", "")


@pytest.mark.slow
def test_commands_read_any_model(xpcnn_command: Run, digits: Digits) -> None:
    """A user's containers, trained in Python: without a builder the file has all that commands need."""
    pytest.importorskip("PIL.Image").fromarray(digits[1].images[0, 0]).save("7.png")
    model = nn.Sequential(
        conv=nn.Conv2d(1, 3, 5, stride=2, seed=0),
        act=nn.LeakyReLU(0.2),
        flatten=nn.Flatten(),
        fc=nn.Linear(432, 10, seed=1),
    )
    Trainer(model, optim.Adam(model)).fit(digits[0][:100], epochs=1, progress=None)
    model.save("own.npz")
    for words in (
        "evaluate own.npz --dataset synthetic-digits --test-samples 50",
        "predict --model own.npz 7.png",
        "predict --model own.npz --model own.npz 7.png",
        "summary own.npz",
        "plot own.npz filters features --dataset synthetic-digits",
    ):
        status, out, err = xpcnn_command(*words.split())
        assert (status, err) == (0, ""), err
        assert out


# -- info --------------------------------------------------------------------------------


def sections(out: str) -> dict[str, dict[str, str]]:
    parts = re.split(r"^(\w[\w ]*)\n", out, flags=re.MULTILINE)[1:]
    return {
        title: {line[2:20].strip(): line[21:] for line in lines.splitlines()}
        for title, lines in zip(parts[::2], parts[1::2], strict=True)
    }


def test_info(xpcnn_command: Run) -> None:
    status, out, err = xpcnn_command("info")
    assert (status, err) == (0, "")
    found = sections(out)
    names = ["versions", "backends", "in use", "processor", "datasets", "autotune", "settings"]
    assert list(found) == names
    assert found["versions"]["xpcnn"] == xpcnn.__version__
    assert found["versions"]["python"] == platform.python_version()
    assert found["versions"]["numpy"] == np.__version__
    for name, reason in xpcnn.available_backends().items():
        assert found["backends"][name].startswith(reason or "available on ")
    assert found["backends"]["numpy"] == "available on cpu"
    assert found["in use"]["backend"] == "numpy (cpu)"
    assert {"processor", "cores", "kernels", "kernels built", "threads"} <= found["processor"].keys()


def test_info_of_the_environment(xpcnn_command: Run, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    variables = {"XPCNN_DATA_DIR": str(tmp_path), "XPCNN_BACKEND": "jax"}
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    status, out, err = xpcnn_command("info")
    assert (status, err) == (0, "")
    found = sections(out)
    assert found["datasets"]["looked for in"].startswith(f"{tmp_path}, then ")
    assert found["in use"]["unknown"].startswith("$XPCNN_BACKEND=jax: unknown backend 'jax'")
    assert found["settings"]["$XPCNN_DATA_DIR"] == str(tmp_path)
    monkeypatch.setenv("XPCNN_CACHE_DIR", "9" * 5000)
    result = xpcnn_command("info")
    assert (result.status, result.err) == (0, "")
    assert "too long" in result.out
    assert "settings\n" in result.out
