"""Where measured choices are kept: a file that outlives the process, and is never worth an error."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import xpcnn
from tests.support.ops import mentions
from xpcnn import ops
from xpcnn.backend import backend_of
from xpcnn.ops.conv import autotune, executor, tuning_cache
from xpcnn.ops.conv.tuning_cache import TuningCache

NUMPY = backend_of(np.zeros(1))
GEOMETRY = ops.ConvGeometry.of((2, 3, 8, 8), (4, 3, 3, 3), padding=1)


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where choices are kept, which does not exist yet; and a process that has measured nothing."""
    monkeypatch.setenv("XPCNN_CACHE_DIR", str(tmp_path / "cache"))
    forget(monkeypatch)
    return tmp_path / "cache"


def forget(monkeypatch: pytest.MonkeyPatch) -> None:
    """Be as a new process: only the file remains."""
    monkeypatch.setattr(autotune, "_chosen", {})
    monkeypatch.setattr(tuning_cache, "_caches", {})


@pytest.fixture(autouse=True)
def measured(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The passes that were measured, in this order. Nothing is run: "mec" is the fastest."""
    calls: list[str] = []

    def fastest(candidates: list[str], geometry: Any, pass_name: str, *others: Any) -> str:
        calls.append(pass_name)
        return "mec"

    monkeypatch.setattr(autotune, "_fastest", fastest)
    return calls


def tuned(pass_name: str = "forward") -> str | None:
    """What `auto` would be told inside of the context."""
    with xpcnn.autotune():
        return autotune.tuned(GEOMETRY, pass_name, np.dtype("float32"), NUMPY, executor.run_pass)


def file_in(folder: Path) -> Path:
    return folder / "autotune.json"


def test_file_holds_what_a_choice_depends_on(measured: list[Any], folder: Path) -> None:
    tuned()
    content = json.loads(file_in(folder).read_text())
    ((environment, choices),) = content["choices"].items()
    for part in ("numpy on ", "thread", f"xpcnn {xpcnn.__version__}", f"numpy {np.__version__}"):
        assert part in environment
    ((task, algorithm),) = choices.items()
    assert algorithm == "mec"
    for part in ("forward", "float32", "x2,3,8,8", "w4,3,3,3", f"limit{64 << 20}", "im2col", "mec"):
        assert part in task
    assert "loop" not in task
    assert [path.name for path in folder.iterdir()] == ["autotune.json"]


def test_every_size_makes_another_task() -> None:
    shapes = (6, 4, 9, 9), (4, 2, 3, 3)
    geometries = [
        ops.ConvGeometry.of(x, w, *options, groups=2)
        for x in (shapes[0], (5, 4, 9, 9), (6, 4, 8, 9), (6, 4, 9, 8))
        for w in (shapes[1], (2, 2, 3, 3), (4, 2, 2, 3), (4, 2, 3, 2))
        for options in ((1, 0, 1), ((2, 1), 0, 1), ((1, 2), 0, 1), (1, 1, 1), (1, 0, (2, 1)), (1, 0, (1, 2)))
    ]
    names = ("im2col", "mec")
    tasks = {tuning_cache.task(geometry, "forward", "float32", 5, names) for geometry in geometries}
    assert len(tasks) == len(geometries)
    for others in (("grad_input", "float32", 5, names), ("forward", "float64", 5, names)):
        tasks.add(tuning_cache.task(geometries[0], *others))
    tasks.add(tuning_cache.task(geometries[0], "forward", "float32", 6, names))
    tasks.add(tuning_cache.task(geometries[0], "forward", "float32", 5, names[:1]))
    assert len(tasks) == len(geometries) + 4


def test_user_cache_without_the_variable(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delenv("XPCNN_CACHE_DIR")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    path = tuning_cache.cache_file()
    assert path.name == "autotune.json"
    assert "xpcnn" in path.parts
    if sys.platform == "linux":
        assert tmp_path in path.parents


GOOD = '{"format": 1, "choices": {"e": {"t": "mec"}}}'
DAMAGED: dict[str, bytes] = {
    "empty": b"",
    "truncated": GOOD[:-5].encode(),
    "not JSON": b"import os",
    "not text": b"\xff\xfe\x00\x01",
    "a list": b"[1, 2]",
    "a number": b"1",
    "null": b"null",
    "of another program": b'{"version": 3, "entries": []}',
    "of an older format": GOOD.replace("1", "0").encode(),
    "of a later format": GOOD.replace("1", "2").encode(),
    "no choices": b'{"format": 1}',
    "choices in a list": b'{"format": 1, "choices": ["mec"]}',
    "choices one level deep": b'{"format": 1, "choices": {"e": "mec"}}',
    "choices that are no names": b'{"format": 1, "choices": {"e": {"t": 3}}}',
    "nested without end": b"[" * 100_000,
}


@pytest.mark.parametrize("content", DAMAGED.values(), ids=DAMAGED.keys())
def test_damaged_file_is_replaced(measured: list[Any], folder: Path, content: bytes) -> None:
    """One warning of one line, and everything is measured again; then the file is good again."""
    folder.mkdir()
    file_in(folder).write_bytes(content)
    with pytest.warns(RuntimeWarning, match=mentions("autotune", str(file_in(folder)))) as caught:
        answers = tuned(), tuned(pass_name="grad_input")
    assert answers == ("mec", "mec")
    assert len(caught) == 1
    assert "\n" not in str(caught[0].message)
    assert len(TuningCache(file_in(folder))) == len(measured) == 2


def test_file_damaged_meanwhile_loses_nothing_of_this_process(measured: list[Any], folder: Path) -> None:
    tuned()
    file_in(folder).write_text("{")
    tuned(pass_name="grad_input")
    assert len(TuningCache(file_in(folder))) == 2


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="this system has no named pipes")
def test_pipe_in_its_place_is_replaced(measured: list[Any], folder: Path) -> None:
    folder.mkdir()
    os.mkfifo(file_in(folder))
    assert tuned() == "mec"
    assert len(TuningCache(file_in(folder))) == 1


def test_folder_in_its_place(measured: list[Any], folder: Path) -> None:
    file_in(folder).mkdir(parents=True)
    with pytest.warns(RuntimeWarning, match=mentions("cannot write", str(file_in(folder)))) as caught:
        assert [tuned(), tuned(pass_name="grad_input")] == ["mec", "mec"]
    assert len(caught) == 1
    assert [path.name for path in folder.iterdir()] == ["autotune.json"]


def test_others_may_read_it(measured: list[Any], folder: Path) -> None:
    """The temporary file is private; what takes the place of the old one is not."""
    tuned()
    assert file_in(folder).stat().st_mode & 0o777 == 0o644


@pytest.mark.parametrize("name", ["loop", "auto", "no such algorithm", "native"])
def test_choice_that_cannot_be_is_measured_anew(
    measured: list[Any], monkeypatch: pytest.MonkeyPatch, folder: Path, name: str
) -> None:
    """A name that someone wrote into the file is used only where it could have been measured."""
    tuned()
    file_in(folder).write_text(file_in(folder).read_text().replace('"mec"', json.dumps(name)))
    forget(monkeypatch)
    assert tuned() == "mec"
    assert len(measured) == 2
    assert json.dumps(name) not in file_in(folder).read_text()


def test_folder_that_cannot_be_written(
    measured: list[Any], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """One warning, and choices last for the process. (A file in the folder's place stops root too.)"""
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("XPCNN_CACHE_DIR", str(tmp_path / "file" / "cache"))
    parts = ("autotune", "cannot write", str(tmp_path / "file" / "cache"), "this process")
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        answers = [tuned(), tuned(pass_name="grad_input"), tuned()]
    assert answers == ["mec"] * 3
    assert len(measured) == 2
    (told,) = (str(warning.message) for warning in caught)
    assert all(part in told for part in parts)
    assert "\n" not in told


def test_interrupted_write_leaves_the_old_file(
    measured: list[Any], monkeypatch: pytest.MonkeyPatch, folder: Path
) -> None:
    tuned()
    before = file_in(folder).read_text()

    def interrupted(*paths: Any) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(os, "replace", interrupted)
        with pytest.raises(KeyboardInterrupt):
            tuned(pass_name="grad_input")
    assert file_in(folder).read_text() == before
    assert [path.name for path in folder.iterdir()] == ["autotune.json"]


def test_last_writer_wins(tmp_path: Path) -> None:
    path = tmp_path / "autotune.json"
    one, two = TuningCache(path), TuningCache(path)
    one.add("e", "a", "mec")
    two.add("e", "b", "fft")
    assert (two.find("e", "a"), one.find("e", "b")) == (None, None)
    after = TuningCache(path)
    assert (after.find("e", "a"), after.find("e", "b"), len(after)) == (None, "fft", 1)
    one.add("f", "a", "im2col")  # which still knows all that it measured
    after = TuningCache(path)
    assert [after.find(*key) for key in (("e", "a"), ("e", "b"), ("f", "a"))] == ["mec", None, "im2col"]


def test_many_processes_write_at_once(tmp_path: Path) -> None:
    """The file is whole at every moment, and holds all that one of them measured."""
    code = (
        "import sys, pathlib, warnings; warnings.simplefilter('error')\n"
        "from xpcnn.ops.conv.tuning_cache import TuningCache\n"
        "cache = TuningCache(pathlib.Path(sys.argv[1]))\n"
        "for number in range(20): cache.add(sys.argv[2], str(number), 'mec')\n"
        "TuningCache(pathlib.Path(sys.argv[1]))\n"
    )
    path = tmp_path / "autotune.json"
    root = str(Path(xpcnn.__file__).parent.parent)
    environment = {**os.environ, "PYTHONPATH": root}
    processes = [
        subprocess.Popen([sys.executable, "-c", code, str(path), name], env=environment) for name in "abc"
    ]
    assert [process.wait() for process in processes] == [0, 0, 0]
    content = json.loads(path.read_text())["choices"]
    assert any(len(choices) == 20 for choices in content.values())
    assert [left.name for left in tmp_path.iterdir()] == ["autotune.json"]
