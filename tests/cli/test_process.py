"""What shows only in a process of its own: signals, streams, imports and the memory there is."""

from __future__ import annotations

import os
import re
import shlex
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

pytestmark = [pytest.mark.process, pytest.mark.skipif(os.name != "posix", reason="signals, redirects")]

ROOT = Path(xpcnn.__file__).parent.parent
COMMAND = (sys.executable, "-m", "xpcnn.cli")
# A shell that starts a job in the background lets it ignore SIGINT; here it is a job in the foreground.
PROGRAM = """
import signal
signal.signal(signal.SIGINT, signal.default_int_handler)
import sys
from xpcnn.cli import main
sys.exit(main())
"""
HEAVY = {"torch", "cupy", "matplotlib", "PIL", "pooch", "requests", "tqdm", "safetensors", "array_api_compat"}
FEW = """
from xpcnn import data
@data.register_dataset("few")
def few():
    digits = data.synthetic_digits(550, seed=3)
    return digits[:500], digits[500:]
"""
TRAIN = "train --import few.py --dataset few --epochs 12 --batch-size 20 --model-option filters=6 --out run"
SMALL = "train --import few.py --dataset few --epochs 1 --model tiny_convnet --out run"
FULL = "xpcnn: error: standard output: No space left on device"

needs_full = pytest.mark.skipif(not Path("/dev/full").exists(), reason="there is no /dev/full")


def environment(**more: str) -> dict[str, str]:
    # Unbuffered output would hide what goes wrong when it is flushed at the end.
    ours = ("XPCNN_", "PYTHON", "LC_")
    kept = {name: text for name, text in os.environ.items() if not name.startswith(ours)}
    # One thread for NumPy's BLAS: on busy cores, two that wait for each other are a hundred times slower.
    one_thread = {f"{library}_NUM_THREADS": "1" for library in ("OPENBLAS", "MKL", "OMP")}
    return {**kept, **one_thread, "PYTHONPATH": str(ROOT), "PYTHONWARNINGS": "error", **more}


def shell(folder: Path, line: str, **variables: str) -> tuple[int, str, str]:
    """Run a command with a shell's redirections."""
    how: dict[str, Any] = {"cwd": folder, "env": environment(**variables), "encoding": "latin-1"}
    command = f"{shlex.join(COMMAND)} {line}"
    done = subprocess.run(command, shell=True, capture_output=True, timeout=120, check=False, **how)
    return done.returncode, done.stdout, done.stderr


@pytest.fixture(autouse=True)
def few(tmp_path: Path) -> None:
    """A file with a dataset that is there at once."""
    (tmp_path / "few.py").write_text(FEW)


Start = Callable[..., subprocess.Popen[str]]


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Start]:
    """Starts the command in an empty folder."""
    with ExitStack() as processes:

        def new(line: str, command: tuple[str, ...] = (sys.executable, "-c", PROGRAM), **options: Any) -> Any:
            options |= {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
            process = subprocess.Popen([*command, *line.split()], cwd=tmp_path, env=environment(), **options)
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


# -- signals -----------------------------------------------------------------------------


@pytest.mark.parametrize("status", [130, 143, 129, 138])
def test_signals_end_a_run_saved(tmp_path: Path, start: Start, status: int) -> None:
    """INT, TERM, HUP and USR1; resumed, the run has the bits of an unbroken one."""
    process = start(TRAIN)
    show_until(process, "epoch   1")
    process.send_signal(status - 128)
    code, out, err = finish(process)
    assert (code, err) == (status, "")
    told = re.search(r"interrupted and saved after step (\d+); go on with: xpcnn (.*)\n", out)
    assert told
    assert told[2] == "train --import few.py --resume run"
    if status == 130:
        assert f"going on after step {told[1]}" in finish(start(told[2]))[1]
        assert finish(start(f"{TRAIN}-whole"))[0] == 0
        ours, theirs = (RunDirectory(tmp_path / name) for name in ("run", "run-whole"))
        assert ours.history().losses == theirs.history().losses
        for name, array in io.load_weights(theirs.weights_file).arrays.items():
            assert io.load_weights(ours.weights_file).arrays[name].tobytes() == array.tobytes(), name


def test_a_background_job_of_a_shell_is_saved_too(start: Start) -> None:
    """Which has SIGINT ignored."""
    process = start(TRAIN, COMMAND, preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_IGN))
    show_until(process, "epoch   1")
    process.send_signal(signal.SIGINT)
    status, out, err = finish(process)
    assert (status, err) == (130, "")
    assert "interrupted and saved" in out


def test_a_signal_to_any_command(start: Start) -> None:
    process = start("bench conv --repeat 1000")
    show_until(process, "machine")
    process.send_signal(signal.SIGTERM)
    status, _, err = finish(process)
    assert status == 143
    assert "Traceback" not in err


@pytest.mark.parametrize("name", ["SIGINT", "SIGUSR1"])
def test_a_signal_at_exit_changes_no_status(start: Start, name: str) -> None:
    """The interpreter takes a while to end, in which a second signal may come."""
    code = f"import atexit, os, signal, xpcnn.cli; atexit.register(os.kill, os.getpid(), signal.{name})\n"
    done = finish(start("--version", (sys.executable, "-c", code + "xpcnn.cli.command()")))
    assert (done[0], done[2]) == (0, "")


# -- streams -----------------------------------------------------------------------------


@needs_full
@pytest.mark.parametrize("line", ["info", "--help", SMALL])
def test_streams_that_are_odd(tmp_path: Path, line: str) -> None:
    """An ASCII one, a full one, none at all: no traceback, and a true status."""
    variables = {"PYTHONIOENCODING": "ascii"}
    if line == "info":
        variables = {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}
    status, out, err = shell(tmp_path, f"{line}-ascii" if line == SMALL else line, **variables)
    assert (status, err) == (0, "")
    assert out.isascii()
    status, out, err = shell(tmp_path, f"{line} >/dev/full")
    assert (status, out) == (1, "")
    assert err == f"{FULL}{'; the run goes on without it' if line == SMALL else ''}\n"
    if line == SMALL:
        assert len(RunDirectory(tmp_path / "run").history().epochs) == 1
    assert shell(tmp_path, f"{line}-none >&- 2>&-" if line == SMALL else f"{line} >&- 2>&-") == (0, "", "")


@needs_full
@pytest.mark.parametrize("sink", ["/dev/full", "&-"])
@pytest.mark.parametrize(("line", "status"), [("info", 0), ("evaluate absent", 1), ("fly", 2), ("", 2)])
def test_a_stderr_that_takes_nothing_keeps_the_status(
    tmp_path: Path, line: str, status: int, sink: str
) -> None:
    code, out, err = shell(tmp_path, f"{line} 2>{sink}")
    assert (code, err) == (status, "")
    assert (out != "") == (status == 0)
    if line == "info":
        assert shell(tmp_path, "info >/dev/full 2>/dev/full")[0] == 1


@pytest.mark.parametrize("line", ["info", "--help"])
def test_output_that_nobody_reads_is_lost_quietly(start: Start, line: str) -> None:
    process = start(line)
    assert process.stdout is not None
    process.stdout.close()
    assert process.stderr is not None
    assert (process.stderr.read(), process.wait(60)) == ("", 1)


def test_a_dead_reader_costs_no_epoch(tmp_path: Path, start: Start) -> None:
    process = start(f"{TRAIN} --epochs 3")
    show_until(process, "backend")
    assert process.stdout is not None
    process.stdout.close()
    assert process.stderr is not None
    line = "xpcnn: error: standard output: Broken pipe; the run goes on without it\n"
    assert (process.stderr.read(), process.wait(60)) == (line, 1)
    assert len(RunDirectory(tmp_path / "run").history().epochs) == 3


def test_names_cannot_command_a_terminal(tmp_path: Path) -> None:
    name = "a\x1b[31m\nb\u202e"
    (tmp_path / name).mkdir()
    plain = {"PYTHONIOENCODING": "ascii"}
    for status, words in ((1, ("evaluate", name)), (2, ("evaluate", "x", "--dataset", name))):
        code, out, err = shell(tmp_path, shlex.join(words), **plain)
        assert (code, out, err.count("\n")) == (status, "", 1)
        assert "a\\x1b[31m" in err
    code, out, err = shell(tmp_path, f"{SMALL} --out {shlex.quote(name + 'é')}", **plain)
    assert (code, err) == (0, "")
    assert "a\\x1b[31m\\nb\\u202e\\xe9" in out
    assert "\x1b" not in out


def test_the_streams_of_a_caller_are_left_as_they_were(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    from xpcnn.cli import main

    monkeypatch.setattr(sys, "stderr", None)
    errors = sys.stdout.errors
    assert main(["info"]) == 0
    assert sys.stderr is None
    assert sys.stdout.errors == errors
    assert "versions" in capsys.readouterr().out


# -- the environment ---------------------------------------------------------------------


NONSENSE = [
    ("XPCNN_DATA_DIR", "~nouser", "train --dataset mnist", "'~nouser'"),
    ("XPCNN_CACHE_DIR", "~nouser", f"{SMALL} --autotune", "'~nouser'"),
    ("XPCNN_NUM_THREADS", "9" * 5000, SMALL, "$XPCNN_NUM_THREADS must be an integer of at least 1"),
    ("XPCNN_BACKEND", "\x1b[1m", "train", "unknown backend '\\x1b[1m'"),
]


@pytest.mark.parametrize(("variable", "value", "line", "message"), NONSENSE)
def test_variables_that_make_no_sense(
    tmp_path: Path, variable: str, value: str, line: str, message: str
) -> None:
    given = {variable: value, "PYTHONIOENCODING": "ascii:backslashreplace"}
    status, _, err = shell(tmp_path, line, **given)
    assert (status, err.count("\n")) == (1, 1)
    assert message in err
    assert len(err) < 400


GREEDY = ("summary tiny_convnet --model-option classes=100000000",
          "train --model tiny_convnet --model-option filters=1000000000 --out run")  # fmt: skip


@pytest.mark.skipif(sys.platform != "linux", reason="bounds a process's memory as Linux does")
@pytest.mark.parametrize("line", GREEDY)
def test_more_memory_than_there_is(start: Start, line: str) -> None:
    limited = f"import resource; resource.setrlimit(resource.RLIMIT_AS, (4 << 30, 4 << 30))\n{PROGRAM}"
    status, _, err = finish(start(line, (sys.executable, "-c", limited)))
    assert (status, err.count("\n")) == (1, 1), err
    assert err.startswith(f"xpcnn: error: not enough memory for xpcnn {line}: ")


@pytest.mark.parametrize("module", ["xpcnn", "xpcnn.cli"])
def test_as_a_module(start: Start, module: str) -> None:
    done = finish(start("--version", (sys.executable, "-m", module)))
    assert done == (0, f"xpcnn {xpcnn.__version__}\n", "")


def test_help_is_quick_and_imports_little(start: Start) -> None:
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
    loaded = finish(start("", (sys.executable, "-c", code)))[1].splitlines()[-1].split()
    own = [name for name in loaded if name.partition(".")[0] == "xpcnn"]
    others = [name for name in loaded if name not in own]
    assert not HEAVY & {name.partition(".")[0] for name in others}
    assert 100 < len(own) < 180, own
    assert len(others) < 80, others
    # No command's own module: those are loaded when they are asked for.
    assert not {f"xpcnn.cli.{name}" for name in ("train", "evaluate", "predict", "plot", "bench")} & set(own)
