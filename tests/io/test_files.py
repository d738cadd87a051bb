"""Files that are replaced whole, kept, locked, and what killed processes leave."""

from __future__ import annotations

import os
import subprocess
import sys
import types
from pathlib import Path
from typing import Any

import pytest

import xpcnn
from xpcnn.errors import CheckpointError
from xpcnn.io import files, keeping, locked_file, make_folder, replacing, sweep

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


def write(path: Path, text: str) -> None:
    with replacing(path) as temporary:
        temporary.write_text(text)


def test_content_is_on_the_disk_before_it_has_its_name(tmp_path: Path, monkeypatch: Any) -> None:
    calls: list[str] = []
    fsync, replace = os.fsync, os.replace

    def noted_fsync(handle: int) -> None:
        calls.append("folder" if os.path.samestat(os.fstat(handle), os.stat(tmp_path)) else "file")
        fsync(handle)

    monkeypatch.setattr(os, "fsync", noted_fsync)
    monkeypatch.setattr(os, "replace", lambda a, b: (calls.append("rename"), replace(a, b)))
    write(tmp_path / "a", "new")
    assert calls == ["file", "rename", "folder"]
    assert os.listdir(tmp_path) == ["a"]


def test_a_writer_may_replace_the_temporary_file(tmp_path: Path) -> None:
    """As safetensors does."""
    with replacing(tmp_path / "a") as temporary:
        (temporary.parent / "other").write_text("whole")
        os.replace(temporary.parent / "other", temporary)
    assert (tmp_path / "a").read_text() == "whole"
    assert os.listdir(tmp_path) == ["a"]


def refuse(*_: Any) -> None:
    raise OSError(95, "Operation not supported")


@pytest.mark.parametrize("links", [True, False], ids=["links", "no links"])
def test_keeping(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, links: bool) -> None:
    if not links:
        monkeypatch.setattr(os, "link", refuse)
    a, b = tmp_path / "a", tmp_path / "b"
    for text in "123":
        with keeping(a, b):
            write(a, text)
        assert b.exists() == (text != "1")
    assert (a.read_text(), b.read_text()) == ("3", "2")
    with pytest.raises(RuntimeError), keeping(a, b):
        raise RuntimeError
    assert (a.read_text(), b.read_text()) == ("3", "2")
    assert sorted(os.listdir(tmp_path)) == ["a", "b"]


@posix
@pytest.mark.process
def test_what_a_killed_process_leaves_is_swept(tmp_path: Path) -> None:
    code = """
import os, signal, sys
from xpcnn.io import replacing
with replacing(sys.argv[1]) as temporary:
    temporary.write_text("half")
    os.kill(os.getpid(), signal.SIGKILL)
"""
    for _ in range(2):
        python(code, tmp_path / "[a]")
    (tmp_path / ".[a]b.0abc.tmp").mkdir()  # of another file
    assert len(os.listdir(tmp_path)) == 2  # the second has swept the first
    write(tmp_path / "[a]", "whole")
    assert sorted(os.listdir(tmp_path)) == [".[a]b.0abc.tmp", "[a]"]


@posix
@pytest.mark.process
def test_what_is_being_written_is_not_swept(tmp_path: Path) -> None:
    with replacing(tmp_path / "a") as first:
        first.write_text("first")
        sweep(tmp_path / "a")
        write(tmp_path / "a", "second")
        code = "import sys; from xpcnn.io import sweep; sweep(sys.argv[1])"
        assert python(code, tmp_path / "a").returncode == 0
    assert (tmp_path / "a").read_text() == "first"


@posix
@pytest.mark.process
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


@posix
def test_a_lock_on_what_its_owner_has_removed_is_none(tmp_path: Path, monkeypatch: Any) -> None:
    path, lock, owner = tmp_path / "lock", files._lock, [Path.unlink]

    def late(handle: int) -> bool:
        if owner:  # leaves between opening and locking
            owner.pop()(path)
        return lock(handle)

    monkeypatch.setattr(files, "_lock", late)
    with locked_file(path), pytest.raises(BlockingIOError), locked_file(path):
        pass


@pytest.mark.parametrize("platform", [True, False], ids=["a file system without", "a platform without"])
def test_without_locks_everybody_is_let_in_and_nothing_swept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, platform: bool
) -> None:
    fcntl = types.SimpleNamespace(flock=refuse, LOCK_EX=2, LOCK_NB=4)
    monkeypatch.setattr(files, "fcntl", fcntl if platform else None)
    (tmp_path / ".a.0abc.tmp").mkdir()
    with locked_file(tmp_path / "lock"), locked_file(tmp_path / "lock"):
        write(tmp_path / "a", "whole")
    assert sorted(os.listdir(tmp_path)) == [".a.0abc.tmp", "a"]


def test_folders(tmp_path: Path) -> None:
    for name in ("absent/a", "a\0b"):
        with pytest.raises(CheckpointError, match=f"cannot write .*{name}: "), replacing(tmp_path / name):
            pass
    make_folder(tmp_path / "x" / "y")
    make_folder(tmp_path / "x" / "y")
    write(tmp_path / "x" / "file", "")
    with pytest.raises(CheckpointError, match=r"cannot make the folder .*file/z: Not a directory"):
        make_folder(tmp_path / "x" / "file" / "z")
