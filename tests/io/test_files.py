"""Files that are replaced whole, kept, locked, and what killed processes leave."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

import xpcnn
from xpcnn.errors import CheckpointError
from xpcnn.io import keeping, locked_file, replacing, sweep

ROOT = str(Path(xpcnn.__file__).parent.parent)
posix = pytest.mark.skipif(os.name != "posix", reason="needs flock")


def python(code: str, *arguments: Any) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", code, *map(str, arguments)],
        env={**os.environ, "PYTHONPATH": ROOT},
        capture_output=True,
        text=True,
        timeout=100,
        check=False,
    )


def test_content_is_on_the_disk_before_it_has_its_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls: list[str] = []
    fsync, replace = os.fsync, os.replace

    def noted_fsync(handle: int) -> None:
        calls.append("folder" if os.path.samestat(os.fstat(handle), os.stat(tmp_path)) else "file")
        fsync(handle)

    def noted_replace(a: Any, b: Any) -> None:
        calls.append("rename")
        replace(a, b)

    monkeypatch.setattr(os, "fsync", noted_fsync)
    monkeypatch.setattr(os, "replace", noted_replace)
    with replacing(tmp_path / "a") as temporary:
        temporary.write_text("new")
    assert calls == ["file", "rename", "folder"]
    assert os.listdir(tmp_path) == ["a"]


def test_a_writer_may_replace_the_temporary_file(tmp_path: Path) -> None:
    """As safetensors does."""
    with replacing(tmp_path / "a") as temporary:
        (temporary.parent / "other").write_text("whole")
        os.replace(temporary.parent / "other", temporary)
    assert (tmp_path / "a").read_text() == "whole"
    assert os.listdir(tmp_path) == ["a"]


def test_keeping(tmp_path: Path) -> None:
    a, b = tmp_path / "a", tmp_path / "b"

    def write(text: str) -> None:
        with keeping(a, b), replacing(a) as temporary:
            temporary.write_text(text)

    write("1")
    assert not b.exists()
    write("2")
    write("3")
    assert (a.read_text(), b.read_text()) == ("3", "2")
    with pytest.raises(RuntimeError), keeping(a, b):
        raise RuntimeError
    assert (a.read_text(), b.read_text()) == ("3", "2")
    assert sorted(os.listdir(tmp_path)) == ["a", "b"]


def test_keeping_without_links(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: Any) -> None:
        raise OSError(1, "Operation not permitted")

    monkeypatch.setattr(os, "link", refuse)
    test_keeping(tmp_path)


@posix
def test_what_a_killed_process_leaves_is_swept(tmp_path: Path) -> None:
    code = """
import os, signal, sys
from xpcnn.io import replacing
with replacing(sys.argv[1]) as temporary:
    temporary.write_text("half")
    os.kill(os.getpid(), signal.SIGKILL)
"""
    for _ in range(2):
        python(code, tmp_path / "a")
    (tmp_path / ".a.0abc.tmp").touch()  # of an earlier version
    (tmp_path / ".ab.0abc.tmp").touch()  # of another file
    assert len(os.listdir(tmp_path)) == 3  # the second has swept the first
    with replacing(tmp_path / "a") as temporary:
        temporary.write_text("whole")
    assert sorted(os.listdir(tmp_path)) == [".ab.0abc.tmp", "a"]


@posix
def test_what_is_being_written_is_not_swept(tmp_path: Path) -> None:
    with replacing(tmp_path / "a") as first:
        first.write_text("first")
        sweep(tmp_path / "a")
        with replacing(tmp_path / "a") as second:
            second.write_text("second")
        assert (
            python("import sys; from xpcnn.io import sweep; sweep(sys.argv[1])", tmp_path / "a").returncode
            == 0
        )
    assert (tmp_path / "a").read_text() == "first"


@posix
def test_a_lock(tmp_path: Path) -> None:
    path = tmp_path / "lock"
    code = """
import sys
from xpcnn.io import locked_file
try:
    with locked_file(sys.argv[1]):
        print("inside")
except BlockingIOError:
    print("locked")
"""
    with locked_file(path):
        assert path.read_text() == f"{os.getpid()}\n"
        assert python(code, path).stdout == "locked\n"
        with pytest.raises(BlockingIOError), locked_file(path):
            pass
        assert path.exists()
    assert not path.exists()
    path.touch()  # left by a killed process
    assert python(code, path).stdout == "inside\n"


def test_folders_that_are_not_there(tmp_path: Path) -> None:
    with (
        pytest.raises(CheckpointError, match=r"cannot write .*absent/a: No such file"),
        replacing(tmp_path / "absent" / "a"),
    ):
        pass
