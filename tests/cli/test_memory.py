"""What does not fit the memory is one line that says what was asked for."""

from __future__ import annotations

import subprocess
import sys

import pytest


@pytest.mark.skipif(sys.platform != "linux", reason="bounds a process's memory as Linux does")
@pytest.mark.parametrize(
    ("command", "option"),
    [
        ("summary", ("tiny_convnet", "--model-option", "classes=100000000")),
        ("train", ("--model", "tiny_convnet", "--model-option", "filters=1000000000", "--out", "run")),
        ("train", ("--model-option", "hidden=100000000", "--out", "run")),
    ],
)
def test_more_than_there_is(tmp_path: object, command: str, option: tuple[str, ...]) -> None:
    limited = (
        "import resource, sys\n"
        "resource.setrlimit(resource.RLIMIT_AS, (4 << 30, 4 << 30))\n"
        "from xpcnn.cli import main\n"
        "sys.exit(main())"
    )
    ended = subprocess.run(
        [sys.executable, "-c", limited, command, *option], capture_output=True, text=True, cwd=str(tmp_path)
    )
    assert (ended.returncode, ended.stderr.count("\n")) == (1, 1), ended.stderr
    assert ended.stderr.startswith(
        f"xpcnn: error: not enough memory for xpcnn {command} {' '.join(option)}: "
    )
