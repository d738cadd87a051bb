"""xpcnn train with schedules, augmentation, averaged weights and the rest."""

from __future__ import annotations

import json
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from xpcnn import Trainer, io, ops
from xpcnn.cli.settings import Settings
from xpcnn.data import Dataset
from xpcnn.train import EpochRecord, RunDirectory, evaluate, load_model

QUICK = ("--train-samples", 100, "--test-samples", 20, "--epochs", 2, "--batch-size", 20)
TINY = ("train", "--model", "tiny_convnet", *QUICK)
ALL = (
    *("--schedule", "cosine", "--warmup", 0.5, "--augment", "shift=2,rotate=10", "--label-smoothing", 0.1),
    *("--clip-norm", 0.5, "--average", 0.9, "--patience", 9),
)


def checkpoint(run: str) -> dict[str, Any]:
    _, metadata = io.load_arrays(RunDirectory(run).checkpoint_file)
    described = {name: metadata[name] for name in ("schedule", "average") if name in metadata}
    return {name: json.loads(text) for name, text in described.items()}


# -- the other techniques ----------------------------------------------------------------


def test_everything_reaches_the_trainer(xpcnn_command: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[Any] = []
    fit = Trainer.fit

    def noting(self: Trainer, *args: Any, **kwargs: Any) -> Any:
        seen.append((self, kwargs))
        return fit(self, *args, **kwargs)

    monkeypatch.setattr(Trainer, "fit", noting)
    result = xpcnn_command(*TINY, *ALL, "--out", "run")
    assert (result.status, result.err) == (0, "")
    ((trainer, options),) = seen
    assert trainer.clip_norm == 0.5
    assert trainer.average.decay == 0.9
    logits, labels = np.random.default_rng(0).normal(size=(3, 10)), np.arange(3)
    expected, _ = ops.softmax_cross_entropy(logits, labels, label_smoothing=0.1)
    assert trainer.loss[0](logits, labels)[0] == expected
    images = np.random.default_rng(0).integers(0, 256, (2, 1, 28, 28), dtype=np.uint8)
    assert options["augment"](images, np.random.default_rng(1)).shape == images.shape
    assert [type(callback).__name__ for callback in options["callbacks"]] == ["RunDirectory", "EarlyStopping"]
    assert options["callbacks"][1].patience == 9
    assert (
        "\naugment    shift=2,rotate=10\n"
        "with       label smoothing 0.1, gradients clipped to norm 0.5, weights averaged with decay 0.9, "
        "early stopping after 9 epochs without a better test accuracy\n"
    ) in result.out
    config = RunDirectory("run").config()
    given = {"augment": "shift=2,rotate=10", "label_smoothing": 0.1, "clip_norm": 0.5, "average": 0.9}
    assert config.items() >= {**given, "patience": 9, "schedule": "cosine", "warmup": 0.5}.items()


def test_the_result_is_the_averages_and_without_label_smoothing(
    xpcnn_command: Any, digits: tuple[Dataset, Dataset]
) -> None:
    result = xpcnn_command(*TINY, "--average", 0.9, "--label-smoothing", 0.5, "--out", "run")
    expected = evaluate(load_model("run"), digits[1][:20])
    assert f"test accuracy {expected.accuracy:.2%} (loss {expected.loss:.4f}) on 20 images" in result.out
    assert f"loss {expected.loss:.4f}" in xpcnn_command("evaluate", "run", "--test-samples", 20).out


@pytest.fixture
def press_at(monkeypatch: pytest.MonkeyPatch) -> Callable[[int | None], None]:
    """Arranges for Ctrl-C to be pressed in one step of the next trainings; None for not at all."""
    step = Trainer.step

    def arrange(number: int | None) -> None:
        def pressed(self: Trainer, x: Any, t: Any) -> Any:
            if self.steps + 1 == number:
                signal.raise_signal(signal.SIGINT)
            return step(self, x, t)

        monkeypatch.setattr(Trainer, "step", pressed)

    return arrange


@pytest.mark.parametrize("model", ["tiny_convnet", "deep_convnet"])
def test_interrupted_and_resumed_with_everything_is_as_never_interrupted(
    xpcnn_command: Any, press_at: Callable[[int | None], None], model: str
) -> None:
    given = (*TINY, "--model", model, *ALL)
    assert xpcnn_command(*given, "--out", "whole").status == 0
    for step in (3, 7):
        press_at(step)
        arguments = (*given, "--out", "broken") if step == 3 else ("train", "--resume", "broken")
        status, out, err = xpcnn_command(*arguments)
        assert (status, err) == (130, "")
        assert f"interrupted and saved after step {step};" in out
    press_at(None)
    status, out, _ = xpcnn_command("train", "--resume", "broken")
    assert status == 0
    assert "\naugment    shift=2,rotate=10\n" in out
    for file in ("weights_file", "best_file"):
        ours, theirs = (io.load_weights(getattr(RunDirectory(run), file)) for run in ("broken", "whole"))
        np.testing.assert_equal(ours.arrays, theirs.arrays)
        assert ours.metadata == theirs.metadata
    histories = [RunDirectory(run).history() for run in ("broken", "whole")]
    assert histories[0].losses == histories[1].losses
    assert histories[0].test_accuracy == histories[1].test_accuracy
    assert checkpoint("broken") == checkpoint("whole")


# -- early stopping ----------------------------------------------------------------------


@pytest.fixture
def accuracies(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every run has the same test accuracies, the best of them after the second epoch."""

    def record(**measured: Any) -> EpochRecord:
        epoch = measured["epoch"]
        return EpochRecord(**{**measured, "test_accuracy": (0.5, 0.9, 0.8, 0.7, 0.95)[epoch - 1]})

    monkeypatch.setattr("xpcnn.train.loop.EpochRecord", record)


def test_early_stopping(xpcnn_command: Any, accuracies: None) -> None:
    status, out, err = xpcnn_command(*TINY, "--epochs", 5, "--patience", 2, "--out", "run")
    assert (status, err) == (0, "")
    told = "stopped: no better test accuracy in 2 epochs than the 90.00% of epoch 2"
    best = f"best       90.00% after epoch 2, in {Path('run/best.safetensors')}"
    lines = out.splitlines()
    assert lines.index(told) == [line[:9] for line in lines].index("epoch   4") + 1
    assert best in lines
    assert xpcnn_command("evaluate", "run/best.safetensors").status == 0
    again = xpcnn_command("train", "--resume", "run")
    assert (again.status, len(RunDirectory("run").history().epochs)) == (0, 4)
    assert told in again.out
    more = xpcnn_command("train", "--resume", "run", "--patience", 3)
    assert more.status == 0
    assert "stopped" not in more.out
    assert "best  " not in more.out  # it is the last
    assert len(RunDirectory("run").history().epochs) == 5
    assert RunDirectory("run").config()["patience"] == 3


def test_the_bar_tells_why_it_ends(
    xpcnn_command: Any, accuracies: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sys.stderr.isatty", lambda: True)
    result = xpcnn_command(*TINY, "--epochs", 5, "--patience", 2, "--out", "run")
    assert "\nstopped: no better test accuracy in 2 epochs" in result.out


# -- what older versions left, and what is refused ---------------------------------------


def test_a_run_of_a_version_without_techniques_is_resumed(xpcnn_command: Any) -> None:
    assert xpcnn_command(*TINY, "--out", "whole", "--epochs", 3).status == 0
    assert xpcnn_command(*TINY, "--out", "run").status == 0
    run = RunDirectory("run")
    config = run.config()
    later = ("schedule", "lr_step", "lr_gamma", "warmup", "clip_norm", "average", "label_smoothing")
    for name in (*later, "augment", "patience"):
        del config[name]
    run.save_config(config)
    assert xpcnn_command("train", "--resume", "run", "--epochs", 3).status == 0
    weights = [io.load_weights(RunDirectory(name).weights_file).arrays for name in ("run", "whole")]
    np.testing.assert_equal(weights[0], weights[1])
    assert run.config()["schedule"] == "constant"


USAGE = {
    "unknown schedule": (("--schedule", "linear"), "--schedule: invalid choice: 'linear' (choose from"),
    "lr step": (("--lr-step", 0), "--lr-step: '0' is not a whole number of at least 1"),
    "lr step of cosine": (
        ("--schedule", "cosine", "--lr-step", 3),
        "--lr-step is for the schedules step and exponential, not for cosine",
    ),
    "lr gamma without": (
        ("--lr-gamma", 0.5),
        "--lr-gamma is for the schedules step and exponential, not for c",
    ),
    "lr gamma": (("--schedule", "step", "--lr-gamma", 0), "--lr-gamma: '0' is not a number above 0"),
    "warm-up": (("--warmup", 0), "--warmup: '0' is not a number above 0"),
    "warm-up of one-cycle": (
        ("--warmup", 1, "--schedule", "one-cycle"),
        "--warmup is not for the schedule one-",
    ),
    "all warm-up": (
        ("--warmup", 2, "--epochs", 2),
        "--warmup 2: must be shorter than the 2 epochs of the run",
    ),
    "clip norm": (("--clip-norm", 0), "--clip-norm: '0' is not a number above 0"),
    "infinite norm": (("--clip-norm", "inf"), "--clip-norm: 'inf' is not a number above 0"),
    "average": (("--average", 1), "--average: '1' is not a number of at least 0 and below 1"),
    "smoothing": (("--label-smoothing", 1.1), "--label-smoothing: '1.1' is not a number from 0 to 1"),
    "patience": (("--patience", 0), "--patience: '0' is not a whole number of at least 1"),
    "augmentation": (
        ("--augment", "sharpen=2"),
        "--augment: no transform is called 'sharpen'; known: brightness, ",
    ),
    "no augmentation": (("--augment", ""), "--augment: no transform is named"),
    "augmentation without a number": (("--augment", "shift=far"), "--augment: 'far' is not a number in"),
    "smoothing with auxiliary heads": (
        ("--model", "googlenet", "--model-option", "aux=true", "--label-smoothing", 0.1),
        "--label-smoothing cannot be used with auxiliary heads",
    ),
    "resume and schedule": (
        ("--resume", "run", "--schedule", "step"),
        "so --schedule cannot be given with it",
    ),
    "resume and smoothing": (("--resume", "run", "--label-smoothing", 0.1), "so --label-smoothing cannot be"),
}


@pytest.mark.parametrize("case", USAGE)
def test_usage_errors(xpcnn_command: Any, case: str) -> None:
    arguments, message = USAGE[case]
    status, out, err = xpcnn_command("train", *arguments)
    assert (status, out) == (2, "")
    assert err.startswith("xpcnn train: error: ")
    assert err.endswith("; see xpcnn train --help\n")
    assert err.count("\n") == 1
    assert message in err
    assert list(Path().iterdir()) == []


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [("schedule", "linear", "unknown schedule 'linear'"), ("augment", "sharpen=2", "sharpen")],
)
def test_settings_of_a_newer_version(xpcnn_command: Any, name: str, value: Any, message: str) -> None:
    assert xpcnn_command(*TINY, "--out", "run").status == 0
    run = RunDirectory("run")
    run.save_config({**run.config(), name: value, "epochs": 3})
    status, _, err = xpcnn_command("train", "--resume", "run")
    assert (status, err.count("\n")) == (1, 1)
    assert message in err


def test_help_tells_the_techniques(xpcnn_command: Any) -> None:
    text = " ".join(xpcnn_command("train", "--help").out.split())
    for option in Settings.__dataclass_fields__:
        if option != "model_options":
            assert f"--{option.replace('_', '-')} " in text
    assert "{constant,step,exponential,cosine,one-cycle}" in text
