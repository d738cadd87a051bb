"""What shows only in a process of its own: signals, pipes, imports and the time to start."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

import xpcnn
from xpcnn import io
from xpcnn.train import RunDirectory

ROOT = Path(xpcnn.__file__).parent.parent
# A shell that starts a job in the background lets it ignore SIGINT; here it is a job in the foreground.
PROGRAM = """
import signal
signal.signal(signal.SIGINT, signal.default_int_handler)
import sys
from xpcnn.cli import main
sys.exit(main())
"""
HEAVY = ("torch", "cupy", "matplotlib", "PIL", "pooch", "requests", "tqdm", "safetensors", "array_api_compat")


def environment() -> dict[str, str]:
    # Unbuffered output would hide what goes wrong when it is flushed at the end.
    kept = {
        name: value
        for name, value in os.environ.items()
        if not name.startswith("XPCNN_") and name != "PYTHONUNBUFFERED"
    }
    # One thread for NumPy's BLAS: on busy cores, two that wait for each other are a hundred times slower.
    one_thread = {f"{library}_NUM_THREADS": "1" for library in ("OPENBLAS", "MKL", "OMP")}
    return {**kept, **one_thread, "PYTHONPATH": str(ROOT), "PYTHONWARNINGS": "error"}


Start = Callable[..., subprocess.Popen[str]]


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Start]:
    """Starts the command in an empty folder."""
    with ExitStack() as processes:

        def new(*arguments: Any) -> subprocess.Popen[str]:
            process = subprocess.Popen(
                [sys.executable, "-c", PROGRAM, *map(str, arguments)],
                cwd=tmp_path,
                env=environment(),
                text=True,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
            )
            processes.enter_context(process)
            processes.callback(process.kill)
            return process

        yield new


def finish(process: subprocess.Popen[str]) -> tuple[int, str, str]:
    out, err = process.communicate(timeout=60)
    return process.returncode, out, err


def show_until(process: subprocess.Popen[str], text: str) -> None:
    """Wait for a line with this text."""
    assert process.stdout is not None
    for line in process.stdout:
        if text in line:
            return
    raise AssertionError(f"the process ended without {text!r}: {finish(process)}")


TRAIN = (
    "train",
    "--epochs",
    12,
    "--train-samples",
    1000,
    "--test-samples",
    100,
    "--model-option",
    "filters=6",
)


def test_ctrl_c_and_resume_give_the_bits_of_an_unbroken_run(tmp_path: Path, start: Start) -> None:
    assert finish(start(*TRAIN, "--out", "whole"))[0] == 0
    process = start(*TRAIN, "--out", "broken")
    show_until(process, "epoch   2")
    process.send_signal(signal.SIGINT)
    status, out, err = finish(process)
    assert (status, err) == (130, "")
    told = re.search(r"interrupted and saved after step (\d+); go on with: xpcnn train --resume broken", out)
    assert told
    assert 20 <= int(told[1]) < 120
    status, out, err = finish(start("train", "--resume", "broken"))
    assert (status, err) == (0, "")
    assert f"going on after step {told[1]}" in out
    ours, theirs = (
        io.load_weights(RunDirectory(tmp_path / run).weights_file).arrays for run in ("broken", "whole")
    )
    for name, array in theirs.items():
        assert ours[name].tobytes() == array.tobytes(), name
    histories = [RunDirectory(tmp_path / run).history().losses for run in ("broken", "whole")]
    assert histories[0] == histories[1]


def test_a_killed_run_goes_on_from_its_last_epoch(tmp_path: Path, start: Start) -> None:
    process = start(*TRAIN, "--out", "run")
    show_until(process, "epoch   2")
    process.kill()
    finish(process)
    run = RunDirectory(tmp_path / "run")
    io.load_weights(run.weights_file)
    done = len(run.history().epochs)
    assert done >= 1
    status, out, _ = finish(start("train", "--resume", "run", "--epochs", 12))
    assert status == 0
    assert re.search(r"going on after step \d+0, \d+ of 12 epochs done", out)
    assert len(run.history().epochs) == 12


def test_errors_are_one_line_and_without_traceback(start: Start) -> None:
    for arguments, status in ((("evaluate", "absent"), 1), (("train", "--lr", "x"), 2), (("fly",), 2)):
        result = finish(start(*arguments))
        assert result[:2] == (status, "")
        assert re.fullmatch(r"xpcnn.*: error: .*\n", result[2])


@pytest.mark.parametrize("arguments", [("summary", "simple_convnet"), ("info",), ("--help",)])
def test_a_closed_pipe_is_no_news(start: Start, arguments: tuple[str, ...]) -> None:
    process = start(*arguments)
    assert process.stdout is not None
    process.stdout.close()
    assert process.stderr is not None
    assert process.stderr.read() == ""
    process.wait(60)


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="there is no /dev/full")
@pytest.mark.parametrize("arguments", [("summary", "simple_convnet"), ("--help",)])
def test_output_that_cannot_be_written(tmp_path: Path, arguments: tuple[str, ...]) -> None:
    with open("/dev/full", "w") as full:
        done = subprocess.run(
            [sys.executable, "-m", "xpcnn.cli", *arguments],
            cwd=tmp_path,
            env=environment(),
            stdout=full,
            stderr=subprocess.PIPE,
            text=True,
            check=False,
        )
    assert (done.returncode, done.stderr) == (1, "xpcnn: error: standard output: No space left on device\n")


@pytest.mark.parametrize("module", ["xpcnn", "xpcnn.cli"])
def test_as_a_module(tmp_path: Path, module: str) -> None:
    command = [sys.executable, "-m", module, "--version"]
    done = subprocess.run(
        command, cwd=tmp_path, env=environment(), capture_output=True, text=True, check=True
    )
    assert done.stdout == f"xpcnn {xpcnn.__version__}\n"


def test_help_is_quick_and_imports_little() -> None:
    """A bound on what it loads beside NumPy, just above today's: 162 modules of ours, 61 of Python's."""
    code = """
import sys, numpy
before = set(sys.modules)
from xpcnn.cli import main
try:
    main(["--help"])
except SystemExit:
    print(*sorted(set(sys.modules) - before))
"""
    command = [sys.executable, "-c", code]
    done = subprocess.run(command, env=environment(), capture_output=True, text=True, check=True)
    loaded = done.stdout.splitlines()[-1].split()
    own = [name for name in loaded if name.partition(".")[0] == "xpcnn"]
    others = [name for name in loaded if name not in own]
    assert not set(HEAVY) & {name.partition(".")[0] for name in others}
    assert 100 < len(own) < 180, own
    assert len(others) < 80, others
    # No command's own module: those are loaded when they are asked for.
    assert not {f"xpcnn.cli.{name}" for name in ("train", "evaluate", "predict", "plot", "bench")} & set(own)


@pytest.mark.skipif(not hasattr(signal, "SIGHUP"), reason="needs POSIX signals")
@pytest.mark.parametrize(
    ("name", "expected"), [("SIGINT", 130), ("SIGTERM", 143), ("SIGHUP", 129), ("SIGUSR1", 138)]
)
def test_signals_end_a_run_saved(tmp_path: Path, start: Start, name: str, expected: int) -> None:
    process = start(*TRAIN, "--out", "run")
    show_until(process, "epoch   1")
    process.send_signal(getattr(signal, name))
    status, out, err = finish(process)
    assert (status, err) == (expected, "")
    told = re.search(r"interrupted and saved after step (\d+); go on with: xpcnn train --resume run", out)
    assert told
    assert f"going on after step {told[1]}" in finish(start("train", "--resume", "run", "--epochs", 12))[1]


@pytest.mark.skipif(not hasattr(signal, "SIGTERM"), reason="needs SIGTERM")
def test_a_signal_to_any_command(start: Start) -> None:
    process = start("bench", "conv", "--repeat", 1000)
    show_until(process, "machine")
    process.send_signal(signal.SIGTERM)
    status, _, err = finish(process)
    assert status == 143
    assert "Traceback" not in err


def test_a_background_job_of_a_shell_is_saved_too(tmp_path: Path) -> None:
    """Which has SIGINT ignored."""
    command = [sys.executable, "-m", "xpcnn.cli", *map(str, TRAIN), "--out", "run"]
    with subprocess.Popen(
        command,
        cwd=tmp_path,
        env=environment(),
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_IGN),
    ) as process:
        show_until(process, "epoch   1")
        process.send_signal(signal.SIGINT)
        status, out, err = finish(process)
    assert (status, err) == (130, "")
    assert "interrupted and saved" in out


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="there is no /dev/full")
def test_a_full_log_costs_no_epoch(tmp_path: Path) -> None:
    short = [str(word) for word in TRAIN] + ["--epochs", "2", "--out", "run"]
    with open("/dev/full", "w") as full:
        done = subprocess.run(
            [sys.executable, "-m", "xpcnn.cli", *short],
            cwd=tmp_path,
            env=environment(),
            stdout=full,
            stderr=subprocess.PIPE,
            text=True,
            check=False,
        )
    assert (done.returncode, done.stderr) == (
        1,
        "xpcnn: error: standard output: No space left on device; the run goes on without it\n",
    )
    assert len(RunDirectory(tmp_path / "run").history().epochs) == 2


def test_a_dead_reader_costs_no_epoch(tmp_path: Path, start: Start) -> None:
    process = start(*TRAIN, "--epochs", 3, "--out", "run")
    show_until(process, "backend")
    assert process.stdout is not None
    process.stdout.close()
    assert process.stderr is not None
    err = process.stderr.read()
    assert process.wait(60) == 1
    assert err == "xpcnn: error: standard output: Broken pipe; the run goes on without it\n"
    assert len(RunDirectory(tmp_path / "run").history().epochs) == 3


def ended(tmp_path: Path, *arguments: str, **variables: str) -> tuple[int, str, str]:
    done = subprocess.run(
        [sys.executable, "-m", "xpcnn.cli", *arguments],
        cwd=tmp_path,
        env=environment() | variables,
        capture_output=True,
        check=False,
    )
    return done.returncode, done.stdout.decode("ascii"), done.stderr.decode("ascii")


def test_names_cannot_command_a_terminal(tmp_path: Path) -> None:
    name = "a\x1b[31m\nb\u202e"
    (tmp_path / name).mkdir()
    plain = {"PYTHONIOENCODING": "ascii"}
    status, out, err = ended(tmp_path, "evaluate", name, **plain)
    assert (status, out, err.count("\n")) == (1, "", 1)
    assert "\x1b" not in err
    assert "a\\x1b[31m" in err
    status, out, err = ended(tmp_path, "evaluate", "x", "--dataset", name, **plain)
    assert (status, out, err.count("\n")) == (2, "", 1)
    assert "\x1b" not in err
    status, out, err = ended(tmp_path, *map(str, TRAIN), "--epochs", "1", "--out", name + "é", **plain)
    assert (status, err) == (0, "")
    assert "a\\x1b[31m\\nb\\u202e\\xe9" in out
    assert "\x1b" not in out


@pytest.mark.parametrize(
    ("variable", "value", "command", "message"),
    [
        ("XPCNN_DATA_DIR", "~nouser", ("train", "--dataset", "mnist"), "'~nouser'"),
        ("XPCNN_CACHE_DIR", "~nouser", ("train", "--autotune"), "'~nouser'"),
        (
            "XPCNN_NUM_THREADS",
            "9" * 5000,
            ("train",),
            "$XPCNN_NUM_THREADS must be a number of threads from 1",
        ),
        ("XPCNN_NUM_THREADS", "9" * 12, ("train",), "$XPCNN_NUM_THREADS must be a number of threads from 1"),
        ("XPCNN_BACKEND", "\x1b[1m", ("train",), "unknown backend '\\x1b[1m'"),
    ],
)
def test_variables_that_make_no_sense(
    tmp_path: Path, variable: str, value: str, command: tuple[str, ...], message: str
) -> None:
    status, _, err = ended(
        tmp_path, *command, **{variable: value, "PYTHONIOENCODING": "ascii:backslashreplace"}
    )
    assert (status, err.count("\n")) == (1, 1)
    assert message in err
    assert len(err) < 400
    status, out, err = ended(
        tmp_path, "info", **{variable: value, "PYTHONIOENCODING": "ascii:backslashreplace"}
    )
    assert (status, err) == (0, "")
    assert f"${variable}" in out


@pytest.mark.skipif(not hasattr(signal, "SIGHUP"), reason="needs POSIX signals")
@pytest.mark.parametrize("name", ["SIGINT", "SIGTERM", "SIGHUP", "SIGUSR1"])
def test_a_signal_at_exit_changes_no_status(tmp_path: Path, name: str) -> None:
    """The interpreter takes a while to end, in which a second signal may come."""
    code = f"import atexit, os, signal, xpcnn.cli; atexit.register(os.kill, os.getpid(), signal.{name})\n"
    done = subprocess.run(
        [sys.executable, "-c", code + "xpcnn.cli.command()", "--version"],
        cwd=tmp_path,
        env=environment(),
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, "")
