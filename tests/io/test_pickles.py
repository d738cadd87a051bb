"""Old pickles of data are read as they were written, and hostile ones refused, quickly, with nothing run."""

from __future__ import annotations

import copyreg
import os
import pickle
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.support.files import at_most_mib
from tests.support.hostile_pickles import ARRAY, BOMBS, HARMLESS, REFUSED, as_params, commands
from xpcnn.errors import CheckpointError
from xpcnn.io import pickles
from xpcnn.io.pickles import read_pickle

COMMANDS = commands(Path("canary"))
FORBIDDEN = {"pickle.find_class", "os.system", "subprocess.Popen", "os.posix_spawn", "exec", "open"}
_seen: list[str] | None = None


def _note(event: str, arguments: Any) -> None:
    if _seen is not None and event in FORBIDDEN and not str(arguments[0]).endswith("params.pkl"):
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


@pytest.fixture
def path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A file in an empty folder, which is the current one."""
    monkeypatch.chdir(tmp_path)
    return tmp_path / "params.pkl"


def refused(path: Path, content: bytes) -> str:
    """The message with which a file is refused, that must leave no trace."""
    path.write_bytes(content)
    with nothing_run(), pytest.raises(CheckpointError) as caught:
        read_pickle(path)
    assert [found.name for found in path.parent.iterdir()] == ["params.pkl"]
    assert len(str(caught.value)) < 700
    return str(caught.value)


DRAWN = np.random.default_rng(0).standard_normal((6, 4))
VALUES: dict[str, Any] = {
    "float16": DRAWN.astype("f2"),
    "big-endian": DRAWN.astype(">f4"),
    "Fortran order": np.asfortranarray(DRAWN),
    "transposed": DRAWN.reshape(2, 3, 4).transpose(1, 0, 2),
    "a slice": DRAWN[::2, 1:],
    "0-d": np.array(3.5),
    "empty": np.empty((0, 3)),
    "integers": np.arange(5),
    "bytes": np.arange(5, dtype=np.uint8),
    "bool": np.array([True, False]),
    "a NumPy number": np.float32(1.5),
    "numbers and text": [1, -(2**70), 2.5, True, "é", {"a": (1, 2, 3, "b")}, [], {}, ()],
}


@pytest.mark.parametrize("value", VALUES.values(), ids=VALUES.keys())
@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
def test_everything_that_is_data_is_read(path: Path, protocol: int, value: Any) -> None:
    path.write_bytes(pickle.dumps({"key": value, "again": value}, protocol))
    found = read_pickle(path)
    assert list(found) == ["key", "again"]
    for item in found.values():
        np.testing.assert_equal(item, value)
        assert type(item) is type(value)
        if isinstance(value, np.ndarray):
            assert item.dtype == value.dtype.newbyteorder("=")
            assert item.flags.writeable
            assert found["key"] is found["again"]


PYTHON_2 = (
    b"\x80\x02}q\x00U\x02W1q\x01cnumpy.core.multiarray\n_reconstruct\nq\x02cnumpy\nndarray\nq\x03K\x00\x85U\x01b\x87R"
    b"(K\x01K\x02\x85cnumpy\ndtype\nq\x04U\x02f4K\x00K\x01\x87R(K\x03U\x01<NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK\x00tb"
    b"\x89U\x08\x00\x00\x80?\x00\x00 \xc0tbs."
)


def test_a_pickle_of_python_2_and_one_by_hand(path: Path) -> None:
    """The first has text for bytes, which the machine takes for Latin-1; the other is made by hand."""
    path.write_bytes(PYTHON_2)
    np.testing.assert_array_equal(read_pickle(path)["W1"], np.array([1.0, -2.5], dtype=np.float32))
    path.write_bytes(as_params(ARRAY))
    np.testing.assert_array_equal(read_pickle(path)["W1"], [0.0])
    assert pickle.loads(as_params(ARRAY).replace(b"numpy.core", b"numpy._core"))["W1"] == [0.0]


def test_deep_data_is_freed_too(path: Path) -> None:
    path.write_bytes(as_params(b"]" * 20_000 + b"a" * 19_999))
    found = read_pickle(path)
    depth, inner = 0, found.pop("W1")
    while inner:
        inner, depth = inner[0], depth + 1
    assert depth == 19_999


@pytest.mark.parametrize("way", COMMANDS)
def test_commands_are_not_run(path: Path, way: str) -> None:
    message = refused(path, COMMANDS[way])
    assert "refused: the pickle " in message
    assert "nothing was run" in message


def test_the_watch_sees_what_an_unpickler_does() -> None:
    """So the test above can fail."""
    with pytest.raises(AssertionError, match=r"pickle\.find"), nothing_run():
        pickle.loads(commands(Path(os.devnull))["GLOBAL and REDUCE"])


@pytest.mark.process
def test_the_commands_work_on_an_unpickler_that_runs_them(tmp_path: Path) -> None:
    """So they are hostile: they leave their files in a process that loads them."""
    ways = ("GLOBAL and REDUCE", "STACK_GLOBAL", "INST", "OBJ", "after the data is whole")
    for number, way in enumerate(ways):
        (tmp_path / f"{number}.pkl").write_bytes(commands(tmp_path / str(number))[way])
    script = "import pickle, sys\nfor name in sys.argv[1:]:\n try: pickle.load(open(name, 'rb'))\n except: 0"
    names = sorted(map(str, tmp_path.glob("*.pkl")))
    subprocess.run([sys.executable, "-W", "ignore", "-c", script, *names], check=True, timeout=60)
    assert all((tmp_path / str(number)).exists() for number in range(len(ways)))


@pytest.mark.parametrize("way", REFUSED)
def test_more_than_data_is_refused(path: Path, way: str) -> None:
    content, told = REFUSED[way]
    assert told in refused(path, content)


def test_the_message_names_what_was_asked_for(path: Path) -> None:
    message = refused(path, COMMANDS["GLOBAL and REDUCE"])
    assert "refused: the pickle asks for posix.system; only arrays of numbers, dicts, lists" in message
    assert "uses the instruction INST" in refused(path, COMMANDS["INST"])
    assert "and dtype float64 has 8 bytes" in refused(path, BOMBS["a huge shape"])
    for length in range(0, len(as_params(ARRAY)) - 1, 9):
        assert "not a readable pickle" in refused(path, as_params(ARRAY)[:length])
    with pytest.raises(CheckpointError, match="cannot be read"):
        read_pickle(path.parent)


def test_extension_codes_are_refused_though_they_be_registered(path: Path) -> None:
    """A code that has been used once is answered by pickle from a cache, past any `find_class`."""
    copyreg.add_extension("builtins", "print", 1)
    try:
        assert pickle.loads(b"\x80\x02\x82\x01.") is print
        assert "uses the instruction EXT1" in refused(path, REFUSED["EXT1"][0])
    finally:
        copyreg.remove_extension("builtins", "print", 1)
        copyreg.clear_extension_cache()


@pytest.mark.parametrize("way", BOMBS)
def test_bombs_take_little(path: Path, monkeypatch: pytest.MonkeyPatch, way: str) -> None:
    monkeypatch.setattr(pickles, "MOST_INSTRUCTIONS", 20_000)  # a hundredth, to save time
    path.write_bytes(BOMBS[way])
    start = time.perf_counter()
    with at_most_mib(30), nothing_run(), nullcontext() if way in HARMLESS else pytest.raises(CheckpointError):
        read_pickle(path)
    assert time.perf_counter() - start < 10
