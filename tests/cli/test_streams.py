"""stdout and stderr that are missing, full, unread or of few characters: no traceback, and a true status."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

import xpcnn

ROOT = Path(xpcnn.__file__).parent.parent
COMMAND = f"{sys.executable} -m xpcnn.cli"

needs_full = pytest.mark.skipif(not Path("/dev/full").exists(), reason="there is no /dev/full")
needs_shell = pytest.mark.skipif(os.name != "posix", reason="redirects as a POSIX shell does")

SMALL = "--epochs 1 --train-samples 60 --test-samples 20 --model tiny_convnet --out run"
EVERY = ["info", "--help", "--version", "train --help", "summary simple_convnet", f"train {SMALL}"]


def environment() -> dict[str, str]:
    ours = ("XPCNN_", "PYTHON", "LC_")
    kept = {name: text for name, text in os.environ.items() if not name.startswith(ours)}
    return {**kept, "OPENBLAS_NUM_THREADS": "1", "PYTHONPATH": str(ROOT), "PYTHONWARNINGS": "error"}


def shell(folder: Path, line: str, **variables: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        line,
        shell=True,
        cwd=folder,
        env={**environment(), **variables},
        capture_output=True,
        text=True,
        encoding="latin-1",
        timeout=120,
        check=False,
    )


@needs_shell
@pytest.mark.parametrize("command", EVERY)
@pytest.mark.parametrize(
    "variables",
    [{"PYTHONIOENCODING": "ascii"}, {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}],
    ids=["PYTHONIOENCODING", "locale"],
)
def test_an_ascii_stdout(tmp_path: Path, command: str, variables: dict[str, str]) -> None:
    done = shell(tmp_path, f"{COMMAND} {command}", **variables)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.isascii()


@needs_shell
def test_characters_that_stdout_lacks_are_escaped(tmp_path: Path) -> None:
    info = shell(tmp_path, f"{COMMAND} info", PYTHONIOENCODING="ascii").stdout
    assert re.search(r"\$XPCNN_\\u2026 +none set", info)
    folder = "dié"
    told = shell(tmp_path, f"{COMMAND} evaluate {folder}", PYTHONIOENCODING="ascii")
    assert (told.returncode, told.stdout) == (1, "")
    assert re.fullmatch(r"xpcnn: error: di\\xe9.*no such file.*\n", told.stderr)


@needs_full
@pytest.mark.parametrize("command", EVERY)
def test_a_full_stdout_is_a_failure_in_one_line(tmp_path: Path, command: str) -> None:
    done = shell(tmp_path, f"{COMMAND} {command} >/dev/full")
    assert (done.returncode, done.stderr) == (
        1,
        "xpcnn: error: standard output: No space left on device"
        f"{'; the run goes on without it' if command.startswith('train --epochs') else ''}\n",
    )


@needs_full
@pytest.mark.parametrize(
    ("command", "status"),
    [("info", 0), ("--help", 0), ("evaluate absent", 1), ("train --lr x", 2), ("fly", 2), ("", 2)],
)
@pytest.mark.parametrize("sink", ["/dev/full", "&-"])
def test_a_stderr_that_takes_nothing_keeps_the_status(
    tmp_path: Path, command: str, status: int, sink: str
) -> None:
    done = shell(tmp_path, f"{COMMAND} {command} 2>{sink}")
    assert (done.returncode, done.stderr) == (status, "")
    assert (done.stdout != "") == (status == 0)


@needs_full
def test_both_full(tmp_path: Path) -> None:
    assert shell(tmp_path, f"{COMMAND} info >/dev/full 2>/dev/full").returncode == 1


@needs_shell
@pytest.mark.parametrize("command", EVERY)
def test_no_stdout_and_no_stderr_at_all(tmp_path: Path, command: str) -> None:
    done = shell(tmp_path, f"{COMMAND} {command} >&- 2>&-")
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


@needs_shell
@pytest.mark.parametrize("command", EVERY)
def test_output_that_nobody_reads_is_lost_quietly(tmp_path: Path, command: str) -> None:
    reading, writing = os.pipe()
    os.close(reading)
    done = subprocess.run(
        [*COMMAND.split(), *command.split()],
        cwd=tmp_path,
        env=environment(),
        stdout=writing,
        stderr=subprocess.PIPE,
        timeout=120,
        check=False,
    )
    os.close(writing)
    # A training that goes on tells that nobody will see more of it.
    note = b"xpcnn: error: standard output: Broken pipe; the run goes on without it\n"
    assert (done.returncode, done.stderr) == (1, note if command == f"train {SMALL}" else b"")


def test_the_streams_of_a_caller_are_left_as_they_were(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    from xpcnn.cli import main

    monkeypatch.setattr(sys, "stderr", None)
    errors = sys.stdout.errors
    assert main(["info"]) == 0
    assert sys.stderr is None
    assert sys.stdout.errors == errors
    assert "versions" in capsys.readouterr().out
