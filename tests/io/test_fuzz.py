"""Whatever happens to the bytes of a file, it is read or refused by one kind of error."""

from __future__ import annotations

import json
import pickle
import subprocess
import sys
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.support.mutated_files import check_plain
from xpcnn.errors import CheckpointError
from xpcnn.io.pickles import read_pickle

pytestmark = [pytest.mark.fuzz, pytest.mark.slow]

fuzz = settings(suppress_health_check=[HealthCheck.function_scoped_fixture])


INSTRUCTIONS = [
    *(
        bytes([code])
        for code in range(256)
        if code in b"().0123FNSTUVXab}dc]lpqrtuehijRsIJKLMGBC\x80" or code > 127
    ),
    *(b"numpy\n", b"ndarray\n", b"\1\0\0\0", b"\0", b"\xff" * 4, b"f8\n", b"5\n", b"K\x01", b"\x03abc"),
]
PHRASES = [
    *(
        b"cnumpy.core.multiarray\n_reconstruct\n",
        b"cnumpy\nndarray\n",
        b"cnumpy\ndtype\n",
        b"c_codecs\nencode\n",
    ),
    *(b"cbuiltins\nbytearray\n", b"cposix\nsystem\n", b"\x8c\x02f8\x89\x88\x87R", b"K\x00\x85C\x01b\x87R"),
    *(b"(K\x01K\x01\x85", b"\x89C\x08" + bytes(8) + b"tb"),
    b"(K\x03\x8c\x01|NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK\x00tb",
]


@settings(fuzz, max_examples=300)
@given(program=st.lists(st.sampled_from(INSTRUCTIONS + PHRASES * 4), max_size=60))
def test_pickles_of_whole_instructions_at_random(tmp_path: Path, program: list[bytes]) -> None:
    path = tmp_path / "params.pkl"
    path.write_bytes(b"\x80\x04" + b"".join(program) + b".")
    with suppress(CheckpointError):
        check_plain(read_pickle(path))


LEAVES = st.one_of(
    st.integers(),
    st.floats(allow_nan=False),
    st.text(max_size=5),
    st.booleans(),
    st.integers(0, 3).map(np.zeros),
)


def inside(inner: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    lists = st.lists(inner, max_size=4)
    return st.one_of(lists, lists.map(tuple), st.dictionaries(st.text(max_size=5), inner, max_size=4))


@settings(fuzz, max_examples=60)
@given(value=st.recursive(LEAVES, inside, max_leaves=12), protocol=st.integers(0, pickle.HIGHEST_PROTOCOL))
def test_all_plain_data_is_read_as_it_was(tmp_path: Path, value: Any, protocol: int) -> None:
    path = tmp_path / "data.pkl"
    path.write_bytes(pickle.dumps(value, protocol))
    found = read_pickle(path)
    np.testing.assert_equal(found, value)
    assert type(found) is type(value)


@pytest.mark.process
@pytest.mark.skipif(sys.platform != "linux", reason="bounds a process's memory as Linux does")
def test_damaged_files_of_every_kind(tmp_path: Path) -> None:
    """The process has half a GiB beside what it starts with, and ten seconds for each file."""
    script, cases = Path(__file__).parents[1] / "support" / "mutated_files.py", 120
    command = [sys.executable, script, tmp_path, str(cases), "1"]
    ended = subprocess.run(command, capture_output=True, text=True, timeout=600)
    assert ended.returncode == 0, ended.stderr[-2000:]
    found = json.loads(ended.stdout)
    assert found["failures"] == {}
    assert len(found["kinds"]) >= 15
    for name, counts in found["kinds"].items():
        assert sum(counts.values()) == cases
        assert counts["refused"] or name == "tuning cache", name  # which is left out, with a warning
