"""The program around the commands, and evaluate, summary and info."""

from __future__ import annotations

import argparse
import os
import platform
import re
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import xpcnn
from xpcnn import io, load_model, models
from xpcnn.cli import program
from xpcnn.data import Dataset
from xpcnn.data.mnist import MNIST

# -- the program --------------------------------------------------------------------------


def test_version(xpcnn_command: Any) -> None:
    assert xpcnn_command("--version") == (0, f"xpcnn {xpcnn.__version__}\n", "")


def test_no_command(xpcnn_command: Any) -> None:
    status, out, err = xpcnn_command()
    assert (status, out) == (2, "")
    assert err == xpcnn_command("--help").out


def test_unknown_commands_and_options(xpcnn_command: Any) -> None:
    status, _, err = xpcnn_command("fly")
    assert (status, err.count("\n")) == (2, 1)
    assert f"invalid choice: 'fly' (choose from {', '.join(map(repr, subcommands()))})" in err
    assert xpcnn_command("--fly") == (
        2,
        "",
        "xpcnn: error: unrecognized arguments: --fly; see xpcnn --help\n",
    )


def subcommands() -> dict[str, argparse.ArgumentParser]:
    (action,) = (
        action
        for action in program._parser(list(program._SUBCOMMANDS))._actions
        if isinstance(action, argparse._SubParsersAction)
    )
    return dict(action.choices)


@pytest.mark.parametrize("command", subcommands())
def test_each_option_tells_its_default(command: str, xpcnn_command: Any) -> None:
    parser = subcommands()[command]
    for action in parser._actions:
        assert action.help, action.dest
        if action.option_strings and "--help" not in action.option_strings:
            assert "(default: " in action.help % vars(action), action.dest
    status, out, err = xpcnn_command(command, "--help")
    assert (status, err) == (0, "")
    assert out.startswith(f"usage: xpcnn {command} ")


def test_os_errors_are_one_line(xpcnn_command: Any, trained: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def denied(*args: Any, **kwargs: Any) -> None:
        raise PermissionError(13, "Permission denied", "secret.npz")

    monkeypatch.setattr("xpcnn.cli.evaluate.load_model", denied)
    assert xpcnn_command("evaluate", trained) == (1, "", "xpcnn: error: secret.npz: Permission denied\n")


def test_errors_of_many_lines_become_one(xpcnn_command: Any, trained: Path) -> None:
    arrays, metadata = io.load_arrays(trained / "model.safetensors")
    del arrays["fc2.bias"]
    arrays["extra"] = np.zeros(3)
    io.save_arrays("w.npz", arrays, metadata)
    status, _, err = xpcnn_command("summary", "w.npz")
    assert (status, err.count("\n")) == (1, 1)
    assert "do not fit this Sequential: missing: fc2.bias (10,); unexpected: extra (3,); strict=" in err


def test_downloads_are_told(xpcnn_command: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    import logging

    from xpcnn.cli import datasets

    def fetching() -> Any:
        logging.getLogger("xpcnn.data.fetch").info("fetching %s", "an address")
        raise KeyboardInterrupt

    monkeypatch.setitem(datasets.DATASETS, "mnist", fetching)
    for _ in range(2):
        result = xpcnn_command("train", "--dataset", "mnist")
        assert result.err == "xpcnn: fetching an address\nxpcnn: interrupted\n"
    assert logging.getLogger("xpcnn").handlers == []


# -- evaluate -----------------------------------------------------------------------------


def test_evaluate_a_run(xpcnn_command: Any, trained: Path, digits: tuple[Dataset, Dataset]) -> None:
    expected = xpcnn.train.evaluate(load_model(trained), digits[1])
    line = (
        f"accuracy {expected.accuracy:.2%} ({expected.correct} of 300 test images of synthetic-digits), "
        f"loss {expected.loss:.4f}, on numpy (cpu)\n"
    )
    assert expected.accuracy > 0.8
    assert xpcnn_command("evaluate", trained) == (0, line, "")
    assert xpcnn_command("evaluate", trained / "model.safetensors") == (0, line, "")


def test_evaluate_options(xpcnn_command: Any, trained: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen = []
    original = xpcnn.train.evaluate

    def noting(model: Any, data: Any, *, batch_size: int) -> Any:
        dtype = model.conv1.weight.dtype
        seen.append((model.backend.name, str(dtype).rpartition(".")[2], len(data), batch_size))
        return original(model, data, batch_size=batch_size)

    monkeypatch.setattr("xpcnn.cli.evaluate.evaluate", noting)
    given = ("--test-samples", 30, "--batch-size", 7, "--dtype", "float64", "--backend", "array_api_strict")
    result = xpcnn_command("evaluate", trained, *given)
    assert result.status == 0
    assert seen == [("array_api_strict", "float64", 30, 7)]
    assert "of 30 test images" in result.out


def test_evaluate_needs_to_know_the_dataset(xpcnn_command: Any, trained: Path) -> None:
    shutil.copy(trained / "model.safetensors", "w.safetensors")
    status, out, err = xpcnn_command("evaluate", "w.safetensors")
    assert (status, out, err.count("\n")) == (2, "", 1)
    assert "w.safetensors is not in the folder of a run, so --dataset must say" in err
    assert xpcnn_command("evaluate", "w.safetensors", "--dataset", "synthetic-digits").status == 0
    Path("run.json").write_text('{"dataset": "cifar"}')
    status, _, err = xpcnn_command("evaluate", "w.safetensors")
    assert status == 2
    assert "run.json names no known dataset, so --dataset must" in err


def truncated(trained: Path) -> Path:
    content = (trained / "model.safetensors").read_bytes()
    Path("short.safetensors").write_bytes(content[: len(content) // 2])
    return Path("short.safetensors")


def test_evaluate_what_cannot_be_read(xpcnn_command: Any, trained: Path) -> None:
    os.mkdir("folder")
    Path("notes.txt").write_text("no weights")
    told = {
        truncated(trained): "short.safetensors: not a readable safetensors file",
        "absent": "absent: no such file",
        "folder": "folder/model.safetensors: no such file",
        "notes.txt": "weight files end in .safetensors or .npz, not '.txt'",
        trained / "checkpoint.safetensors": "an xpcnn checkpoint, not the weights of a model",
    }
    for path, message in told.items():
        status, out, err = xpcnn_command("evaluate", path)
        assert (status, out, err.count("\n")) == (1, "", 1)
        assert err.startswith("xpcnn: error: ")
        assert message in err


def test_evaluate_usage(xpcnn_command: Any, trained: Path) -> None:
    for arguments in ((), (trained, "--dataset", "cifar"), (trained, "--test-samples", 301)):
        status, out, err = xpcnn_command("evaluate", *arguments)
        assert (status, out, err.count("\n")) == (2, "", 1)
        assert err.startswith("xpcnn evaluate: error: ")


# -- summary ------------------------------------------------------------------------------


def test_summary_by_name(xpcnn_command: Any) -> None:
    expected = f"{xpcnn.summary(models.simple_convnet(), (1, 28, 28))}\n"
    assert xpcnn_command("summary", "simple_convnet") == (0, expected, "")
    options = ("--model-option", "filters=4", "--input-shape", "3,32,32")
    expected = f"{xpcnn.summary(models.simple_convnet((3, 32, 32), filters=4), (3, 32, 32))}\n"
    assert xpcnn_command("summary", "simple_convnet", *options) == (0, expected, "")


def test_summary_of_a_run(xpcnn_command: Any, trained: Path) -> None:
    expected = xpcnn_command("summary", "simple_convnet", "--model-option", "filters=8")
    assert xpcnn_command("summary", trained) == expected
    assert xpcnn_command("summary", trained / "model.safetensors") == expected


def test_summary_tells_the_layer_that_does_not_fit(xpcnn_command: Any, trained: Path) -> None:
    status, out, err = xpcnn_command("summary", trained, "--input-shape", "1,32,32")
    assert (status, out, err.count("\n")) == (1, "", 1)
    assert err.endswith("(in Sequential.fc1 (Linear))\n")


def test_summary_usage(xpcnn_command: Any, trained: Path) -> None:
    told = {
        ("lenet9000",): f"'lenet9000' is no model ({', '.join(models.model_names())}), and no run or weight",
        ("simple_convnet", "--input-shape", "28"): "'28' is not channels,height,width, such as 1,28,28",
        ("simple_convnet", "--input-shape", "1,0,2"): "'1,0,2' is not channels,height,width",
        ("tiny_convnet", "--model-option", "bias=perhaps"): "'perhaps' is no value for bias",
        (trained, "--model-option", "filters=3"): "--model-option is for models by name",
    }
    for arguments, message in told.items():
        status, out, err = xpcnn_command("summary", *arguments)
        assert (status, out, err.count("\n")) == (2, "", 1)
        assert err.startswith("xpcnn summary: error: ")
        assert message in err


def test_summary_of_a_model_that_does_not_say_its_size(
    xpcnn_command: Any, trained: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("xpcnn.cli.summary.input_shape_of", lambda model: None)
    status, _, err = xpcnn_command("summary", trained)
    assert status == 2
    assert "does not say what images it takes, so --input-shape must" in err
    assert xpcnn_command("summary", trained, "--input-shape", "1,28,28").status == 0


# -- info ---------------------------------------------------------------------------------


def test_info(xpcnn_command: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("XPCNN_NUM_THREADS", raising=False)
    status, out, err = xpcnn_command("info")
    assert (status, err) == (0, "")
    parts = re.split(r"^(\w+)\n", out, flags=re.MULTILINE)[1:]
    sections = {
        title: {line[2:20].strip(): line[21:] for line in lines.splitlines()}
        for title, lines in zip(parts[::2], parts[1::2], strict=True)
    }
    assert list(sections) == ["versions", "backends", "processor", "datasets", "autotune", "settings"]
    versions = sections["versions"]
    assert versions["xpcnn"] == xpcnn.__version__
    assert versions["Python"].startswith(platform.python_version())
    assert versions["numpy"] == np.__version__
    for name, reason in xpcnn.available_backends().items():
        assert sections["backends"][name].startswith(reason or "available on ")
    assert sections["backends"]["numpy"] == "available on cpu"
    assert sections["backends"]["in use"] == "numpy (cpu)"
    assert "usable" in sections["processor"]["cores"]
    assert sections["datasets"]["synthetic-digits"] == "drawn by the program"
    assert list(sections["settings"].values()) == ["none set"]


def test_info_where_no_path_can_be(xpcnn_command: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("XPCNN_DATA_DIR", "XPCNN_CACHE_DIR"):
        monkeypatch.setenv(name, "9" * 5000)
    status, out, err = xpcnn_command("info")
    assert (status, err) == (0, "")
    assert "too long" in out
    assert "settings\n" in out


def test_info_of_files_that_another_dataset_may_own(
    xpcnn_command: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Directly in the user's folder, a name says nothing: MNIST and Fashion-MNIST have the same."""
    for file in MNIST.sha256:
        (tmp_path / f"{file}.gz").touch()
    monkeypatch.setenv("XPCNN_DATA_DIR", str(tmp_path))
    out = xpcnn_command("info").out
    assert not re.search(rf"mnist +in {tmp_path}", out)


def test_info_of_the_environment(xpcnn_command: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for file in MNIST.sha256:
        (tmp_path / "data" / "mnist").mkdir(parents=True, exist_ok=True)
        (tmp_path / "data" / "mnist" / f"{file}.gz").touch()
    monkeypatch.setenv("XPCNN_DATA_DIR", str(tmp_path / "data"))
    monkeypatch.setenv("XPCNN_BACKEND", "jax")
    status, out, _ = xpcnn_command("info")
    assert status == 0
    assert f"mnist              in {tmp_path / 'data' / 'mnist'}" in out
    assert "in use             none: $XPCNN_BACKEND=jax: unknown backend 'jax'" in out
    assert f"$XPCNN_DATA_DIR    {tmp_path / 'data'}" in out
