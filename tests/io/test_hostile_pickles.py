"""Pickles that want more than to be read: each gets a clear error, quickly, and nothing of it is run."""

from __future__ import annotations

import copyreg
import os
import pickle
import subprocess
import sys
import time
import tracemalloc
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.support.hostile_pickles import ARRAY, REFUSED, Calls, as_params, bombs, commands
from xpcnn import io
from xpcnn.errors import CheckpointError
from xpcnn.io import pickles
from xpcnn.io.pickles import read_pickle
from xpcnn.scratch.simple_convnet import SimpleConvNet

COMMANDS = commands(Path("canary"))
BOMBS = bombs()
HARMLESS = {"billion laughs", "a list in itself", "lists in lists in lists", "a frame that is not there"}
"""Data, if odd: `read_pickle` may give it."""


FORBIDDEN = {"pickle.find_class", "os.system", "subprocess.Popen", "os.posix_spawn", "exec", "open"}
_seen: list[str] | None = None


def _note(event: str, arguments: Any) -> None:
    if _seen is not None and event in FORBIDDEN:
        if event == "open" and str(arguments[0]).endswith(("params.pkl", "data.pkl")):
            return
        _seen.append(f"{event}{arguments}")


sys.addaudithook(_note)  # for good: Python takes none back


@contextmanager
def nothing_run() -> Iterator[None]:
    """A block in which Python reports no lookup by an unpickler, no command, no code, no other file."""
    global _seen
    _seen = []
    try:
        yield
        assert _seen == []
    finally:
        _seen = None


def refused(content: bytes, tmp_path: Path) -> str:
    """The message with which a file is refused, that must leave no trace."""
    path = tmp_path / "params.pkl"
    path.write_bytes(content)
    with nothing_run(), pytest.raises(CheckpointError) as caught:
        read_pickle(path)
    assert [found.name for found in tmp_path.iterdir()] == ["params.pkl"]
    assert len(str(caught.value)) < 700
    return str(caught.value)


@pytest.mark.parametrize("way", COMMANDS)
def test_commands_are_not_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, way: str) -> None:
    monkeypatch.chdir(tmp_path)
    message = refused(COMMANDS[way], tmp_path)
    assert "refused: the pickle " in message
    assert "nothing was run" in message


def test_the_watch_sees_what_an_unpickler_does() -> None:
    """So the tests here can fail."""
    with pytest.raises(AssertionError, match=r"pickle\.find"), nothing_run():
        pickle.loads(commands(Path(os.devnull))["GLOBAL and REDUCE"])


def test_the_commands_work_on_an_unpickler_that_runs_them(tmp_path: Path) -> None:
    """So the test above can fail: most of them leave their file in a process that loads them."""
    script = "import pickle, sys\ntry: pickle.load(open(sys.argv[1], 'rb'))\nexcept Exception: pass"
    for way in ("GLOBAL and REDUCE", "STACK_GLOBAL", "INST", "OBJ", "after the data is whole"):
        canary = tmp_path / f"canary {len(list(tmp_path.iterdir()))}".replace(" ", "-")
        path = tmp_path / "hostile.pkl"
        path.write_bytes(commands(canary)[way])
        subprocess.run([sys.executable, "-W", "ignore", "-c", script, str(path)], check=True, timeout=60)
        deadline = time.monotonic() + 5  # Popen does not wait for its child
        while not canary.exists() and time.monotonic() < deadline:
            time.sleep(0.01)
        assert canary.exists(), way


def test_a_network_is_left_as_it_was(tmp_path: Path) -> None:
    path = tmp_path / "params.pkl"
    path.write_bytes(COMMANDS["after the data is whole"])
    network = SimpleConvNet((1, 4, 4), {"filter_num": 1, "filter_size": 3, "pad": 0, "stride": 1})
    before = {key: value.copy() for key, value in network.params.items()}
    with nothing_run(), pytest.raises(CheckpointError, match="nothing was run"):
        network.load_params(path)
    for key, value in before.items():
        np.testing.assert_array_equal(network.params[key], value)


@pytest.mark.parametrize("way", REFUSED)
def test_more_than_data_is_refused(tmp_path: Path, way: str) -> None:
    refused(REFUSED[way], tmp_path)


def test_the_message_names_what_was_asked_for(tmp_path: Path) -> None:
    message = refused(COMMANDS["GLOBAL and REDUCE"], tmp_path)
    assert "refused: the pickle asks for posix.system; only arrays of numbers, dicts, lists" in message
    assert "uses the instruction INST" in refused(COMMANDS["INST"], tmp_path)
    assert "holds an array of dtype 'O8'" in refused(REFUSED["an object dtype"], tmp_path)
    assert "holds an array of a structured dtype" in refused(REFUSED["a dtype with fields"], tmp_path)
    assert "holds an array of a structured dtype" in refused(REFUSED["a subarray dtype"], tmp_path)
    assert "and dtype float64 has 8 bytes" in refused(BOMBS["a huge shape"], tmp_path)
    assert "refused: the pickle calls numpy.ndarray" in refused(REFUSED["ndarray itself, called"], tmp_path)


def test_pickles_within_an_archive_are_not_run_either(tmp_path: Path) -> None:
    """NumPy pickles arrays of objects, in npz files too."""
    archive = BytesIO()
    np.savez(archive, W1=np.array([Calls(eval, ("open('canary', 'w')",))], dtype=object))
    archive.seek(0)
    with np.load(archive) as opened:  # imports what it takes to open one
        assert opened.files == ["W1"]
    (tmp_path / "params.pkl").write_bytes(archive.getvalue())
    with nothing_run(), pytest.raises(CheckpointError, match="npz file: Object arrays cannot be loaded"):
        io.load_arrays(tmp_path / "params.pkl", ending=".npz")


def test_extension_codes_are_refused_though_they_be_registered(tmp_path: Path) -> None:
    """A code that has been used once is answered by pickle from a cache, past any `find_class`."""
    copyreg.add_extension("builtins", "print", 1)
    try:
        assert pickle.loads(b"\x80\x02\x82\x01.") is print
        assert "uses the instruction EXT1" in refused(REFUSED["EXT1"], tmp_path)
    finally:
        copyreg.remove_extension("builtins", "print", 1)
        copyreg.clear_extension_cache()


@pytest.mark.parametrize("way", BOMBS)
def test_bombs_take_little(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, way: str) -> None:
    monkeypatch.setattr(pickles, "MOST_INSTRUCTIONS", 20_000)  # a hundredth, to save time
    path = tmp_path / "params.pkl"
    path.write_bytes(BOMBS[way])
    tracemalloc.start()
    start = time.perf_counter()
    try:
        with nothing_run(), nullcontext() if way in HARMLESS else pytest.raises(CheckpointError):
            read_pickle(path)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < 30 * (1 << 20)
    assert time.perf_counter() - start < 10


def test_deep_data_is_let_go_of_too(tmp_path: Path) -> None:
    path = tmp_path / "deep.pkl"
    path.write_bytes(as_params(b"]" * 100_000 + b"a" * 99_999))
    found = read_pickle(path)
    depth, inner = 0, found.pop("W1")
    while inner:
        inner, depth = inner[0], depth + 1
    assert depth == 99_999


@pytest.mark.parametrize("length", range(0, len(as_params(ARRAY)) - 1, 3))
def test_truncated_files(tmp_path: Path, length: int) -> None:
    assert "not a readable pickle" in refused(as_params(ARRAY)[:length], tmp_path)


def test_an_honest_pickle_of_the_same_make_is_read(tmp_path: Path) -> None:
    """The pieces that the hostile ones are made of are right."""
    path = tmp_path / "params.pkl"
    path.write_bytes(as_params(ARRAY))
    np.testing.assert_array_equal(read_pickle(path)["W1"], [0.0])
    assert pickle.loads(as_params(ARRAY).replace(b"numpy.core", b"numpy._core"))["W1"] == [0.0]
