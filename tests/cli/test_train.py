"""xpcnn train: what it leaves and tells, resuming, and every way to fail."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import xpcnn
from xpcnn import Trainer, io
from xpcnn.cli import datasets, main, session
from xpcnn.train import RunDirectory

QUICK = ("--train-samples", 100, "--test-samples", 20, "--epochs", 2, "--batch-size", 20)
TINY = ("--model", "tiny_convnet", *QUICK)
STEPS = 5  # an epoch of QUICK
FILES = [
    "best.safetensors",
    "checkpoint-previous.safetensors",
    "checkpoint.safetensors",
    "curves.png",
    "history.jsonl",
    "model.safetensors",
    "run.json",
]


def weights(run: str | Path) -> dict[str, np.ndarray[Any, Any]]:
    return io.load_weights(RunDirectory(run).weights_file).arrays


def same_weights(a: str | Path, b: str | Path) -> bool:
    first, second = weights(a), weights(b)
    assert list(first) == list(second)
    return all(first[name].tobytes() == second[name].tobytes() for name in first)


# -- a run from beginning to end ----------------------------------------------------------


def test_a_run(xpcnn_command: Any, real_curves: None) -> None:
    status, out, err = xpcnn_command("train", *QUICK)
    assert (status, err) == (0, "")
    (folder,) = Path("runs").iterdir()
    assert re.fullmatch(r"synthetic-digits-simple_convnet-\d{8}-\d{6}", folder.name)
    assert sorted(os.listdir(folder)) == FILES
    assert json.loads((folder / "run.json").read_text()) == {
        "xpcnn": xpcnn.__version__,
        "backend": "numpy",
        "device": None,
        "dataset": "synthetic-digits",
        "train_samples": 100,
        "test_samples": 20,
        "evaluate_samples": None,
        "model": "simple_convnet",
        "model_options": {},
        "optimizer": "adam",
        "lr": 0.001,
        "momentum": None,
        "weight_decay": None,
        "epochs": 2,
        "batch_size": 20,
        "seed": 0,
        "dtype": "float32",
        "schedule": "constant",
        "lr_step": None,
        "lr_gamma": None,
        "warmup": None,
        "clip_norm": None,
        "average": None,
        "label_smoothing": None,
        "augment": None,
        "patience": None,
        "autotune": False,
        "drop_last": False,
    }
    history = RunDirectory(folder).history()
    assert len(history.losses) == 2 * STEPS
    lines = out.splitlines()
    assert lines[:5] == [
        "backend    numpy (cpu), float32",
        "data       synthetic-digits: 100 training and 20 test images of 1x28x28",
        "model      simple_convnet: 433,890 parameters",
        "optimizer  adam, lr 0.001; 2 epochs in batches of 20, seed 0",
        f"run        {folder} (Ctrl-C saves it)",
    ]
    assert [line[:11] for line in lines[5:7]] == ["epoch   1  ", "epoch   2  "]
    assert f"test accuracy {history.test_accuracy[-1]:.2%}" in lines[7]
    assert lines[8] == f"curves     {folder / 'curves.png'}"
    # The commands it proposes work as they stand.
    proposed = [line.split()[1:] for line in lines if line.startswith("  xpcnn ")]
    assert [command[0] for command in proposed] == ["evaluate", "predict"]
    assert xpcnn_command(*proposed[0]).status == 0


def test_help_tells_the_defaults(xpcnn_command: Any) -> None:
    text = " ".join(xpcnn_command("train", "--help").out.split())
    for default in ("synthetic-digits", "simple_convnet", "adam", "7", "100", "float32"):
        assert f"(default: {default})" in text


def test_the_data_is_the_published_split() -> None:
    train, test = datasets.load("synthetic-digits")
    whole = xpcnn.data.synthetic_digits(12_000, seed=0)
    np.testing.assert_array_equal(train.images, whole.images[:10_000])
    np.testing.assert_array_equal(test.labels, whole.labels[10_000:])


@pytest.mark.parametrize(
    ("name", "kind", "options"),
    [
        ("sgd", "SGD", {"momentum": 0.0, "nesterov": False}),
        ("momentum", "SGD", {"momentum": 0.9, "nesterov": False}),
        ("nesterov", "SGD", {"momentum": 0.9, "nesterov": True}),
        ("adagrad", "AdaGrad", {}),
        ("rmsprop", "RMSprop", {"momentum": 0.0}),
        ("adam", "Adam", {"weight_decay": 0.0}),
        ("adamw", "AdamW", {"weight_decay": 0.01}),
    ],
)
def test_optimizers(xpcnn_command: Any, name: str, kind: str, options: dict[str, Any]) -> None:
    assert xpcnn_command("train", *TINY, "--optimizer", name, "--out", "run").status == 0
    _, metadata = io.load_arrays("run/checkpoint.safetensors")
    optimizer = json.loads(metadata["optimizer"])
    assert optimizer["kind"] == kind
    assert optimizer["options"].items() >= options.items()
    lr = 0.001 if name in ("adam", "adamw") else 0.01
    assert optimizer["lr"] == lr == RunDirectory("run").config()["lr"]


def test_settings_reach_the_optimizer(xpcnn_command: Any) -> None:
    given = ("--optimizer", "nesterov", "--lr", 0.25, "--momentum", 0.5, "--weight-decay", 0.125)
    assert xpcnn_command("train", *TINY, *given, "--out", "run").status == 0
    optimizer = json.loads(io.load_arrays("run/checkpoint.safetensors")[1]["optimizer"])
    assert optimizer["lr"] == 0.25
    assert optimizer["options"] == {"momentum": 0.5, "weight_decay": 0.125, "nesterov": True}


def test_model_options(xpcnn_command: Any) -> None:
    options = ("filters=3", "weight_std=he", "padding=2", "input_shape=1,28,28")
    pairs = [part for option in options for part in ("--model-option", option)]
    result = xpcnn_command("train", *QUICK, *pairs, "--out", "run")
    assert result.status == 0
    assert "simple_convnet, filters 3, weight_std he, padding 2" in result.out
    assert weights("run")["fc1.weight"].shape == (100, 3 * 14 * 14)
    assert xpcnn_command("train", *TINY, "--model-option", "bias=True", "--out", "tiny").status == 0
    assert "conv1.bias" in weights("tiny")


def test_evaluate_samples(xpcnn_command: Any) -> None:
    assert xpcnn_command("train", *TINY, "--evaluate-samples", 3, "--out", "run").status == 0
    for record in RunDirectory("run").history().epochs:
        assert record.train_accuracy * 3 == pytest.approx(round(record.train_accuracy * 3))


def test_seeds(xpcnn_command: Any) -> None:
    for out, seed in (("a", 5), ("b", 5), ("c", 6)):
        assert xpcnn_command("train", *TINY, "--seed", seed, "--out", out).status == 0
    assert same_weights("a", "b")
    assert not same_weights("a", "c")


def test_dtype_and_backend(xpcnn_command: Any) -> None:
    if reason := xpcnn.available_backends()["torch"]:
        pytest.skip(reason)
    for backend in ("numpy", "torch"):
        # SGD, since Adam divides by what may be rounding errors alone.
        given = ("--optimizer", "sgd", "--dtype", "float64", "--backend", backend, "--device", "cpu")
        given += ("--out", backend)
        result = xpcnn_command("train", *TINY, *given)
        assert result.status == 0
        assert result.out.startswith(f"backend    {backend} (cpu), float64")
    ours, theirs = weights("numpy"), weights("torch")
    for name, array in ours.items():
        assert array.dtype == np.float64
        np.testing.assert_allclose(theirs[name], array, rtol=1e-9, atol=1e-14)


def test_the_backend_of_the_environment(xpcnn_command: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XPCNN_BACKEND", "array_api_strict")
    assert xpcnn_command("train", *TINY, "--epochs", 1, "--out", "run").status == 0
    assert RunDirectory("run").config()["backend"] == "array_api_strict"


def test_every_known_backend_can_be_named(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["train", "--help"])
    listed = "{" + ",".join(xpcnn.available_backends()) + "}"
    assert listed in capsys.readouterr().out.replace("\n", "")


def test_two_runs_in_one_second(xpcnn_command: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    class Still(session.datetime):
        @classmethod
        def now(cls, tz: Any = None) -> Any:
            return cls(2026, 1, 2, 3, 4, 5, tzinfo=tz)

    monkeypatch.setattr(session, "datetime", Still)
    for _ in range(3):
        assert xpcnn_command("train", *TINY, "--epochs", 1).status == 0
    name = "synthetic-digits-tiny_convnet-20260102-030405"
    assert sorted(os.listdir("runs")) == [name, f"{name}-2", f"{name}-3"]


def test_a_bar_on_a_terminal_and_the_lines_on_stdout(
    xpcnn_command: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    status, out, err = xpcnn_command("train", *TINY)
    assert status == 0
    assert re.search(r"100%.*10/10", err)
    assert len(re.findall(r"^epoch ", out, re.MULTILINE)) == 2


def test_without_matplotlib(xpcnn_command: Any, real_curves: None, monkeypatch: pytest.MonkeyPatch) -> None:
    for module in ("matplotlib", "matplotlib.figure"):
        monkeypatch.setitem(sys.modules, module, None)
    status, out, _ = xpcnn_command("train", *TINY, "--out", "run")
    assert status == 0
    assert "no curves drawn: pip install 'xpcnn[plot]'" in out
    assert sorted(os.listdir("run")) == [file for file in FILES if file != "curves.png"]


# -- Ctrl-C and resuming ------------------------------------------------------------------


@pytest.fixture
def press_at(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Arranges for Ctrl-C to be pressed in one step of the next trainings; None for not at all."""
    step = Trainer.step

    def arrange(number: int | None, times: int = 1) -> None:
        def pressed(self: Trainer, x: Any, t: Any) -> Any:
            if self.steps + 1 == number:
                for _ in range(times):
                    signal.raise_signal(signal.SIGINT)
            return step(self, x, t)

        monkeypatch.setattr(Trainer, "step", pressed)

    return arrange


@pytest.mark.parametrize("step", [1, 4, 5, 8, 10])
def test_interrupted_and_resumed_is_as_never_interrupted(
    xpcnn_command: Any, press_at: Callable[..., None], step: int
) -> None:
    assert xpcnn_command("train", *TINY, "--out", "whole").status == 0
    press_at(step)
    status, out, err = xpcnn_command("train", *TINY, "--out", "broken run")
    assert (status, err) == (130, "")
    told = f"interrupted and saved after step {step}; go on with: xpcnn train --resume 'broken run'"
    assert out.splitlines()[-2:] == [told, "curves     broken run/curves.png"]
    assert sorted(os.listdir("broken run")) == [
        file for file in FILES if step > 5 or not file.startswith(("best", "checkpoint-previous"))
    ]
    assert same_weights("whole", "broken run") is (step == 2 * STEPS)
    press_at(None)
    status, out, _ = xpcnn_command("train", "--resume", "broken run")
    assert status == 0
    assert f"going on after step {step}, {(step - 1) // STEPS} of 2 epochs done" in out
    assert same_weights("whole", "broken run")
    ours, theirs = RunDirectory("broken run").history(), RunDirectory("whole").history()
    assert ours.losses == theirs.losses
    assert ours.test_accuracy == theirs.test_accuracy
    assert not ours.interrupted


def test_interrupted_twice(xpcnn_command: Any, press_at: Callable[..., None]) -> None:
    assert xpcnn_command("train", *TINY, "--out", "whole").status == 0
    press_at(3)
    assert xpcnn_command("train", *TINY, "--out", "broken").status == 130
    press_at(7)
    assert xpcnn_command("train", "--resume", "broken").status == 130
    press_at(None)
    assert xpcnn_command("train", "--resume", "broken").status == 0
    assert same_weights("whole", "broken")


def test_a_higher_total(xpcnn_command: Any) -> None:
    assert xpcnn_command("train", *TINY, "--epochs", 4, "--out", "whole").status == 0
    assert xpcnn_command("train", *TINY, "--out", "run").status == 0
    result = xpcnn_command("train", "--resume", "run", "--epochs", 4)
    assert result.status == 0
    assert "going on after step 10, 2 of 4 epochs done" in result.out
    assert same_weights("whole", "run")
    assert RunDirectory("run").config()["epochs"] == 4


def test_nothing_left(xpcnn_command: Any) -> None:
    assert xpcnn_command("train", *TINY, "--out", "run").status == 0
    before = weights("run")
    result = xpcnn_command("train", "--resume", "run")
    assert result.status == 0
    assert "nothing left to train: 2 of 2 epochs done; --epochs N sets a higher total" in result.out
    np.testing.assert_equal(weights("run"), before)
    result = xpcnn_command("train", "--resume", "run", "--epochs", 1)
    assert result.status == 2
    assert "--epochs 1: the run has trained for 2 already" in result.err
    assert RunDirectory("run").config()["epochs"] == 2


def test_resuming_on_another_backend(xpcnn_command: Any) -> None:
    assert xpcnn_command("train", *TINY, "--out", "run").status == 0
    result = xpcnn_command("train", "--resume", "run", "--epochs", 3, "--backend", "array_api_strict")
    assert result.status == 0
    assert result.out.startswith("backend    array_api_strict")
    assert RunDirectory("run").config()["backend"] == "array_api_strict"


def test_resuming_before_the_first_checkpoint(xpcnn_command: Any) -> None:
    assert xpcnn_command("train", *TINY, "--out", "whole").status == 0
    os.mkdir("killed")
    shutil.copy("whole/run.json", "killed")
    assert xpcnn_command("train", "--resume", "killed").status == 0
    assert same_weights("whole", "killed")


def test_a_second_ctrl_c_in_mid_update(xpcnn_command: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    step = xpcnn.optim.Adam.step

    def cut_short(self: Any, grads: Any) -> None:
        if self.state_dict()["step"] == 7:
            raise KeyboardInterrupt
        step(self, grads)

    monkeypatch.setattr(xpcnn.optim.Adam, "step", cut_short)
    result = xpcnn_command("train", *TINY, "--out", "run")
    assert result.status == 130
    told = (
        "in the middle of a step; the checkpoint of the last epoch stands; go on with: xpcnn train --resume"
    )
    assert told in result.out
    monkeypatch.setattr(xpcnn.optim.Adam, "step", step)
    assert "going on after step 5, 1 of 2" in xpcnn_command("train", "--resume", "run").out


def test_ctrl_c_before_training(xpcnn_command: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    def pressed() -> Any:
        raise KeyboardInterrupt

    monkeypatch.setitem(datasets.DATASETS, "synthetic-digits", pressed)
    assert xpcnn_command("train") == (130, "", "xpcnn: interrupted\n")
    assert os.listdir() == []


# -- errors -------------------------------------------------------------------------------

USAGE = {
    "unknown model": (("--model", "vgg"), "--model: invalid choice: 'vgg'"),
    "unknown backend": (("--backend", "jax"), "--backend: invalid choice: 'jax'"),
    "unknown option": (("--frobnicate",), "unrecognized arguments: --frobnicate"),
    "abbreviation": (("--epoch", 3), "unrecognized arguments: --epoch 3"),
    "lr": (("--lr", "fast"), "--lr: 'fast' is not a number of at least 0"),
    "negative lr": (("--lr=-1",), "--lr: '-1' is not a number of at least 0"),
    "lr is no number": (("--lr", "nan"), "--lr: 'nan' is not a number of at least 0"),
    "no epochs": (("--epochs", 0), "--epochs: '0' is not a whole number of at least 1"),
    "negative seed": (("--seed=-1",), "--seed: '-1' is not a whole number of at least 0"),
    "too many samples": (("--train-samples", 2000), "--train-samples 2000: synthetic-digits has 1000 such"),
    "too many tests": (("--test-samples", 301), "--test-samples 301: synthetic-digits has 300 such images"),
    "momentum of Adam": (("--momentum", 0.5), "--momentum is for the optimizers momentum and nesterov, not"),
    "no such model option": (("--model-option", "depth=3"), "simple_convnet takes input_shape, filters, "),
    "model option without value": (("--model-option", "filters"), "expected NAME=VALUE"),
    "model option 0": (("--model-option", "hidden=0"), "'0' is no value for hidden, whose default is 100"),
    "seed as a model option": (("--model-option", "seed=1"), "takes input_shape"),
    "shape": (("--model-option", "input_shape=28"), "whose default is 1,28,28"),
    "resume and lr": (("--resume", "run", "--lr", 1), "so --lr cannot be given with it"),
    "resume and model option": (("--resume", "run", "--model-option", "a=1"), "so --model-option cannot"),
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
    assert os.listdir() == []


def folder_with(files: dict[str, str]) -> None:
    for name, content in files.items():
        Path(name).parent.mkdir(parents=True, exist_ok=True)
        Path(name).write_text(content)


CONFIG = json.dumps(session.Settings(backend="numpy").to_config())
FAILURES: dict[str, tuple[tuple[Any, ...], dict[str, str], str]] = {
    "no such run": (("--resume", "absent"), {}, "absent/run.json: no such file; is absent the folder of a"),
    "unreadable settings": (("--resume", "r"), {"r/run.json": "{"}, "r/run.json: unreadable"),
    "settings of another kind": (("--resume", "r"), {"r/run.json": "{}"}, "r/run.json: lacks backend, "),
    "settings of a newer version": (
        ("--resume", "r"),
        {"r/run.json": CONFIG.replace("synthetic-digits", "cifar")},
        "r/run.json: unknown dataset 'cifar'",
    ),
    "a model of a newer version": (
        ("--resume", "r"),
        {"r/run.json": CONFIG.replace("simple_convnet", "vgg99")},
        "unknown model 'vgg99'",
    ),
    "damaged checkpoint": (
        ("--resume", "r"),
        {"r/run.json": CONFIG, "r/checkpoint.safetensors": "garbage"},
        "r/checkpoint.safetensors: not a readable safetensors file",
    ),
    "a folder in use": (("--out", "r"), {"r/run.json": "{}"}, "r holds a run already; resume it, or name"),
    "a folder that is a file": (("--out", "r"), {"r": ""}, "cannot make the folder r: "),
    "images that do not fit": (
        ("--model-option", "input_shape=1,32,32"),
        {},
        "but weight expects 5880 (shape (100, 5880)); images are flattened by nn.Flatten "
        "(in Sequential.fc1 (Linear))",
    ),
    "images too small": (("--model-option", "input_shape=1,4,4"), {}, "kernel 5x5 is larger than"),
    "device": (("--device", "cuda"), {}, "backend numpy has only the device 'cpu', got 'cuda'"),
}


@pytest.mark.parametrize("case", FAILURES)
def test_failures(xpcnn_command: Any, case: str) -> None:
    arguments, files, message = FAILURES[case]
    folder_with(files)
    status, out, err = xpcnn_command("train", *arguments)
    assert (status, out) == (1, "")
    assert err.startswith("xpcnn: error: ")
    assert err.count("\n") == 1
    assert message in err
    assert {str(path) for path in Path().rglob("*") if path.is_file()} == set(files)


def test_a_backend_that_is_not_there(xpcnn_command: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    if (reason := xpcnn.available_backends()["cupy"]) is None:
        pytest.skip("CuPy works here")
    status, _, err = xpcnn_command("train", "--backend", "cupy")
    assert (status, err) == (1, f"xpcnn: error: backend cupy cannot be used: {reason}\n")
    monkeypatch.setenv("XPCNN_BACKEND", "jax")
    status, _, err = xpcnn_command("train")
    assert (status, err.count("\n")) == (1, 1)
    assert "error: $XPCNN_BACKEND=jax: unknown backend 'jax'; known: numpy, " in err


def test_data_that_is_damaged(xpcnn_command: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    folder_with({"data/mnist/train-images-idx3-ubyte": "garbage"})
    monkeypatch.setenv("XPCNN_DATA_DIR", "data")
    status, _, err = xpcnn_command("train", "--dataset", "mnist")
    assert (status, err.count("\n")) == (1, 1)
    assert "train-images-idx3-ubyte: wrong content" in err


def test_divergence(xpcnn_command: Any) -> None:
    status, _, err = xpcnn_command("train", *TINY, "--optimizer", "sgd", "--lr", 1e30, "--out", "run")
    assert status == 1
    assert re.fullmatch(r"xpcnn: error: the loss became \w+ at step \d \(epoch 1\) with .*\n", err)
    assert sorted(os.listdir("run")) == ["history.jsonl", "run.json"]


def test_unexpected_errors_keep_their_traceback(xpcnn_command: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    def wrong(self: Trainer, x: Any, t: Any) -> Any:
        raise RuntimeError("a bug")

    monkeypatch.setattr(Trainer, "step", wrong)
    with pytest.raises(RuntimeError, match="a bug"):
        xpcnn_command("train", *TINY)


def test_the_last_batch_can_be_left_out(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Of 101 images in batches of 100, one is left over."""
    arguments = [
        "train",
        "--train-samples",
        "101",
        "--test-samples",
        "20",
        "--epochs",
        "1",
        "--model",
        "tiny_convnet",
    ]
    for options, steps in (([], 2), (["--drop-last"], 1)):
        out = tmp_path / str(steps)
        assert main([*arguments, *options, "--out", str(out)]) == 0
        assert len(RunDirectory(out).history().losses) == steps
    with pytest.raises(SystemExit, match="2"):
        main([*arguments, "--train-samples", "50", "--drop-last", "--out", str(tmp_path / "none")])
    assert "no batch of --batch-size 100 is left of 50 images" in capsys.readouterr().err
    assert not (tmp_path / "none").exists()
