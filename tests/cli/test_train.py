"""xpcnn train: what it leaves and prints, and that each option reaches what it is for."""

from __future__ import annotations

import json
import os
import re
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import xpcnn
from tests.cli.conftest import QUICK, TINY, Digits, Run, same_weights, weights
from xpcnn import Trainer, io, models, ops
from xpcnn.cli import train as command
from xpcnn.cli.settings import Settings
from xpcnn.data import Dataset, load_dataset
from xpcnn.train import EpochRecord, Evaluation, RunDirectory, evaluate, load_model

FILES = {"best.safetensors", "checkpoint-previous.safetensors", "checkpoint.safetensors", "curves.png",
         "history.jsonl", "model.safetensors", "run.json"}  # fmt: skip
USUAL = {"backend": "numpy", "dataset": "synthetic-digits", "model": "simple_convnet", "model_options": {},
         "optimizer": "adam", "lr": 0.001, "seed": 0, "dtype": "float32", "schedule": "constant",
         "autotune": False, "drop_last": False}  # fmt: skip
UNSET = ("device", "evaluate_samples", "momentum", "weight_decay", "lr_step", "lr_gamma", "warmup",
         "clip_norm", "average", "label_smoothing", "augment", "patience")  # fmt: skip


def checkpoint(run: str, part: str) -> Any:
    """Part of a run's checkpoint; None if it has none such."""
    _, metadata = io.load_arrays(RunDirectory(run).checkpoint_file)
    return json.loads(metadata.get(part, "null"))


@pytest.fixture
def trainings(monkeypatch: pytest.MonkeyPatch) -> list[tuple[Trainer, dict[str, Any]]]:
    """The trainer of each `fit`, and its options."""
    seen: list[tuple[Trainer, dict[str, Any]]] = []
    fit = Trainer.fit

    def noting(self: Trainer, *args: Any, **options: Any) -> Any:
        seen.append((self, options))
        return fit(self, *args, **options)

    monkeypatch.setattr(Trainer, "fit", noting)
    return seen


@pytest.mark.slow
def test_a_run(xpcnn_command: Run, real_curves: None) -> None:
    status, out, err = xpcnn_command("train", *QUICK)
    assert (status, err) == (0, "")
    (folder,) = Path("runs").iterdir()
    assert re.fullmatch(r"synthetic-digits-simple_convnet-\d{8}-\d{6}-\d{6}", folder.name)
    assert set(os.listdir(folder)) == FILES
    own = {"xpcnn": xpcnn.__version__, "train_samples": 100, "test_samples": 20}
    own |= {"epochs": 2, "batch_size": 20}
    assert json.loads((folder / "run.json").read_text()) == dict.fromkeys(UNSET) | USUAL | own
    history = RunDirectory(folder).history()
    assert len(history.losses) == 10
    lines = out.splitlines()
    assert lines[:5] == [
        "backend    numpy (cpu), float32",
        "data       synthetic-digits: 100 training and 20 test images of 1x28x28",
        "model      simple_convnet: 433,890 parameters",
        "optimizer  adam, lr 0.001; 2 epochs in batches of 20, seed 0",
        f"run        {folder} (Ctrl-C saves it)",
    ]
    assert [line[:11] for line in lines[5:7]] == ["epoch   1  ", "epoch   2  "]
    assert "  lr " not in lines[5]  # it is constant
    assert f"test accuracy {history.test_accuracy[-1]:.2%}" in lines[7]
    assert lines[8] == f"curves     {folder / 'curves.png'}"
    # The commands it proposes work as they stand.
    proposed = [line.split()[1:] for line in lines if line.startswith("  xpcnn ")]
    assert [words[0] for words in proposed] == ["evaluate", "predict"]
    assert xpcnn_command(*proposed[0]).status == 0


@pytest.mark.slow
def test_the_data_is_the_published_split() -> None:
    train, test = load_dataset("synthetic-digits")
    whole = xpcnn.data.synthetic_digits(12_000, seed=0)
    np.testing.assert_array_equal(train.images, whole.images[:10_000])
    np.testing.assert_array_equal(test.labels, whole.labels[10_000:])


NESTEROV = ("--lr", 0.25, "--momentum", 0.5, "--weight-decay", 0.125)
OPTIMIZERS: list[tuple[str, tuple[Any, ...], str, float, dict[str, Any]]] = [
    ("sgd", (), "SGD", 0.01, {"momentum": 0.0, "nesterov": False}),
    ("momentum", (), "SGD", 0.01, {"momentum": 0.9, "nesterov": False}),
    ("nesterov", NESTEROV, "SGD", 0.25, {"momentum": 0.5, "nesterov": True, "weight_decay": 0.125}),
    ("adagrad", (), "AdaGrad", 0.01, {}),
    ("rmsprop", (), "RMSprop", 0.01, {"momentum": 0.0}),
    ("adam", (), "Adam", 0.001, {"weight_decay": 0.0}),
    ("adamw", (), "AdamW", 0.001, {"weight_decay": 0.01}),
]


@pytest.mark.parametrize(("name", "given", "kind", "lr", "options"), OPTIMIZERS)
def test_optimizers(
    xpcnn_command: Run, name: str, given: tuple[Any, ...], kind: str, lr: float, options: dict[str, Any]
) -> None:
    assert xpcnn_command(*TINY, "--optimizer", name, *given, "--out", "run").status == 0
    optimizer = checkpoint("run", "optimizer")
    assert optimizer["kind"] == kind
    assert optimizer["options"].items() >= options.items()
    assert optimizer["lr"] == lr == RunDirectory("run").config()["lr"]


def test_model_options(xpcnn_command: Run) -> None:
    options = ("filters=3", "weight_std=he", "padding=2", "input_shape=1,28,28")
    pairs = [part for option in options for part in ("--model-option", option)]
    result = xpcnn_command("train", *QUICK, *pairs, "--out", "run")
    assert result.status == 0
    assert "simple_convnet, filters 3, weight_std he, padding 2" in result.out
    assert weights("run")["fc1.weight"].shape == (100, 3 * 14 * 14)


def test_seeds(xpcnn_command: Run) -> None:
    for out, seed in (("a", 5), ("b", 5), ("c", 6)):
        assert xpcnn_command(*TINY, "--seed", seed, "--out", out).status == 0
    assert same_weights("a", "b")
    assert not same_weights("a", "c")


def test_dtype_and_backend(xpcnn_command: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XPCNN_BACKEND", "array_api_strict")
    for out, given in (("strict", ()), ("numpy", ("--backend", "numpy", "--device", "cpu"))):
        # SGD, since Adam divides by what may be rounding errors alone.
        result = xpcnn_command(*TINY, "--optimizer", "sgd", "--dtype", "float64", *given, "--out", out)
        assert result.status == 0
        assert result.out.splitlines()[0].endswith(", float64")
    assert RunDirectory("strict").config()["backend"] == "array_api_strict"
    for name, array in weights("numpy").items():
        assert array.dtype == np.float64
        np.testing.assert_allclose(weights("strict")[name], array, rtol=1e-9, atol=1e-14)


def test_samples_and_batches(xpcnn_command: Run) -> None:
    assert xpcnn_command(*TINY, "--evaluate-samples", 3, "--out", "run").status == 0
    for record in RunDirectory("run").history().epochs:
        assert record.train_accuracy * 3 == pytest.approx(round(record.train_accuracy * 3))
    for options, steps in (((), 6), (("--drop-last",), 5)):  # of 101 images one is left over
        given = (*options, "--train-samples", 101, "--epochs", 1, "--out", f"steps-{steps}")
        assert xpcnn_command(*TINY, *given).status == 0
        assert len(RunDirectory(f"steps-{steps}").history().losses) == steps


def test_a_bar_on_a_terminal_and_the_lines_on_stdout(
    xpcnn_command: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    status, out, err = xpcnn_command(*TINY)
    assert status == 0
    assert re.search(r"100%.*10/10", err)
    assert len(re.findall(r"^epoch ", out, re.MULTILINE)) == 2


def test_without_matplotlib(xpcnn_command: Run, real_curves: None, monkeypatch: pytest.MonkeyPatch) -> None:
    for module in ("matplotlib", "matplotlib.figure"):
        monkeypatch.setitem(sys.modules, module, None)
    status, out, _ = xpcnn_command(*TINY, "--out", "run")
    assert status == 0
    assert "no curves drawn: pip install 'xpcnn[plot]'" in out
    assert set(os.listdir("run")) == FILES - {"curves.png"}


# -- models built for their data ---------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize("model", ["resnet20", "simple_convnet"])
def test_a_model_is_built_for_its_dataset(
    xpcnn_command: Run, monkeypatch: pytest.MonkeyPatch, model: str
) -> None:
    """Images of 3 channels and 32x30 pixels, of 7 classes; then summarised and predicted with."""
    image = pytest.importorskip("PIL.Image")
    pixels = np.random.default_rng(0).integers(0, 256, (100, 3, 32, 30), dtype=np.uint8)
    colours = Dataset(pixels, np.arange(100) % 7, classes=7, name="colours")
    monkeypatch.setitem(xpcnn.data.catalog.DATASETS, "mnist", lambda: (colours[:20], colours[20:]))
    given = ("train", "--dataset", "mnist", "--epochs", 1, "--test-samples", 5, "--model", model)
    result = xpcnn_command(*given, "--out", "run")
    assert (result.status, result.err) == (0, "")
    spec = load_model("run").spec
    assert spec is not None
    assert (spec.input_shape, spec.arguments["classes"]) == ((3, 32, 30), 7)
    if model == "simple_convnet":
        assert spec.arguments["input_shape"] == (3, 32, 30)
        return
    assert (spec.arguments["in_channels"], spec.arguments["small_images"]) == (3, True)
    expected = f"{xpcnn.summary(models.resnet20(classes=7, in_channels=3), (3, 32, 30))}\n"
    assert xpcnn_command("summary", "run") == (0, expected, "")
    image.new("RGB", (30, 32)).save("same.png")
    image.new("RGB", (90, 70)).save("other.png")
    result = xpcnn_command("predict", "--model", "run", "same.png", "other.png")
    assert [line.partition("  ")[2] for line in result.out.splitlines()] == ["as it is", "90x70 -> 30x32"]
    own = ("--model-option", "small_images=false", "--model-option", "classes=8")
    assert xpcnn_command(*given, *own, "--out", "own").status == 0
    arguments = load_model("own").spec.arguments
    assert (arguments["small_images"], arguments["classes"]) == (False, 8)


def test_googlenet_with_auxiliary_heads(xpcnn_command: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    """Their loss is the one that is minimised; the rest is as for other models."""
    seen = []
    monkeypatch.setattr(Trainer, "fit", lambda self, *args, **options: seen.append(self) or self.history)
    monkeypatch.setattr(command, "summary", lambda model, shape: xpcnn.nn.Summary((), 0, 0, 0))
    monkeypatch.setattr(command, "evaluate", lambda model, test: Evaluation(0.0, 0.0, 0, 10))
    for aux in ("true", "false"):
        given = ("--model", "googlenet", "--model-option", f"aux={aux}", "--out", aux)
        assert xpcnn_command("train", *QUICK, *given).status == 0
    assert [trainer.loss == models.googlenet_loss for trainer in seen] == [True, False]


# -- techniques --------------------------------------------------------------------------


def test_techniques_reach_the_trainer(xpcnn_command: Run, trainings: Any) -> None:
    given = {"schedule": "cosine", "warmup": 0.5, "clip_norm": 0.5, "average": 0.9}
    given |= {"label_smoothing": 0.1, "augment": "shift=2,rotate=10", "patience": 9}
    options = [word for name, value in given.items() for word in (f"--{name.replace('_', '-')}", value)]
    result = xpcnn_command(*TINY, *options, "--out", "run")
    assert (result.status, result.err) == (0, "")
    ((trainer, how),) = trainings
    assert (trainer.clip_norm, trainer.average.decay) == (0.5, 0.9)
    logits, labels = np.random.default_rng(0).normal(size=(3, 10)), np.arange(3)
    expected, _ = ops.softmax_cross_entropy(logits, labels, label_smoothing=0.1)
    assert trainer.loss[0](logits, labels)[0] == expected
    assert [type(one).__name__ for one in how["augment"].transforms] == ["Shift", "Rotate"]
    assert [type(callback).__name__ for callback in how["callbacks"]] == ["RunDirectory", "EarlyStopping"]
    assert how["callbacks"][1].patience == 9
    told = ", ".join(f"{name.replace('_', ' ')} {value}" for name, value in given.items())
    assert f"\nwith       {told}\n" in result.out
    assert RunDirectory("run").config().items() >= given.items()


def test_the_result_is_the_averages_and_without_label_smoothing(xpcnn_command: Run, digits: Digits) -> None:
    result = xpcnn_command(*TINY, "--average", 0.9, "--label-smoothing", 0.5, "--out", "run")
    expected = evaluate(load_model("run"), digits[1][:20])
    assert f"test accuracy {expected.accuracy:.2%} (loss {expected.loss:.4f}) on 20 images" in result.out


def test_early_stopping(xpcnn_command: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every run has the same test accuracies, the best of them after the second epoch; the bar tells, too."""

    def record(**measured: Any) -> EpochRecord:
        accuracy = (0.5, 0.9, 0.8, 0.7, 0.95)[measured["epoch"] - 1]
        return EpochRecord(**{**measured, "test_accuracy": accuracy})

    monkeypatch.setattr("xpcnn.train.loop.EpochRecord", record)
    reason = "stopped: no better test accuracy in 2 epochs than the 90.00% of epoch 2"
    for terminal in (False, True):
        monkeypatch.setattr(sys.stderr, "isatty", lambda terminal=terminal: terminal)
        out = f"run-{terminal}"
        result = xpcnn_command(*TINY, "--epochs", 5, "--patience", 2, "--out", out)
        assert result.status == 0
        lines = result.out.splitlines()
        assert lines.index(reason) == [line[:9] for line in lines].index("epoch   4") + 1
        assert f"best       90.00% after epoch 2, in {out}/best.safetensors" in lines
    again = xpcnn_command("train", "--resume", "run-False")
    assert (again.status, len(RunDirectory("run-False").history().epochs)) == (0, 4)
    assert reason in again.out
    more = xpcnn_command("train", "--resume", "run-False", "--patience", 3)
    assert more.status == 0
    assert "stopped" not in more.out
    assert "best  " not in more.out  # it is the last
    assert RunDirectory("run-False").config()["patience"] == 3


# -- schedules ---------------------------------------------------------------------------

STEPS = np.arange(21)
# Of 4 epochs of 5 batches: the rate of each step, and of the step after them.
RATES: dict[str, tuple[dict[str, Any], Any]] = {
    "step": ({"lr_step": 2, "lr_gamma": 0.1}, 0.5 * 0.1 ** (STEPS // 10)),
    "exponential": ({"lr_step": 2, "lr_gamma": 0.1}, 0.5 * 0.1 ** (STEPS / 10)),
    "cosine": ({}, 0.25 * (1 + np.cos(np.pi * STEPS / 20))),
    "constant": ({"warmup": 0.8}, [*np.linspace(0.5 / 3, 0.5, 5), *[0.5] * 16]),
}


def rates(**given: Any) -> list[float]:
    train = Dataset(np.zeros((5, 1, 28, 28), np.uint8), np.zeros(5, int), name="none")
    settings = Settings("numpy", model="tiny_convnet", epochs=4, lr=0.5, batch_size=1, **given)
    schedule = settings.build_trainer(train).schedule
    assert schedule is not None
    return [schedule.lr_at(step) for step in range(21)]


@pytest.mark.parametrize("schedule", RATES)
def test_rates(schedule: str) -> None:
    options, expected = RATES[schedule]
    np.testing.assert_allclose(rates(schedule=schedule, **options), expected, rtol=1e-12, atol=1e-15)


def test_one_cycle_and_warmup_are_within_the_run() -> None:
    lrs = rates(schedule="one-cycle")
    assert max(lrs) == pytest.approx(0.5)
    assert lrs.index(max(lrs)) == 0.3 * 20 - 1
    assert lrs[19] < 1e-5 * 0.5
    assert rates(schedule="cosine", warmup=0.8)[20] == pytest.approx(0, abs=1e-15)
    assert rates(warmup=0.01)[:2] == [pytest.approx(0.5 / 3), 0.5]  # one step at least


STEPWISE = ("--schedule", "exponential", "--lr-gamma", 0.5, "--lr-step", 2)
SCHEDULES: list[tuple[tuple[Any, ...], str | None, str]] = [
    (("--schedule", "one-cycle"), "OneCycleLR", "schedule one-cycle"),
    (("--schedule", "step"), "StepLR", "schedule step, lr step 1, lr gamma 0.1"),
    (STEPWISE, "ExponentialLR", "schedule exponential, lr step 2, lr gamma 0.5"),
    (("--warmup", 0.5, "--schedule", "cosine"), "LinearWarmup", "schedule cosine, warmup 0.5"),
]


@pytest.mark.parametrize(("given", "kind", "told"), SCHEDULES)
def test_a_run_with_a_schedule(xpcnn_command: Run, given: tuple[Any, ...], kind: str, told: str) -> None:
    result = xpcnn_command(*TINY, *given, "--lr", 0.005, "--out", "run")
    assert (result.status, result.err) == (0, "")
    before = "optimizer  adam, lr 0.005; 2 epochs in batches of 20, seed 0"
    assert f"\n{before}\nwith       {told}\n" in result.out
    assert re.search(r"^epoch   1 .*  lr \d\.\d\de-\d\d  ", result.out, re.MULTILINE)
    saved = checkpoint("run", "schedule")
    assert (saved["kind"], saved["step"]) == (kind, 10)
    assert RunDirectory("run").config()["lr"] == 0.005  # not what the schedule made of it
    assert xpcnn_command("train", "--resume", "run").status == 0
