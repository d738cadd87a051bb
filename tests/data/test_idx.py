"""IDX files: round trips, and one clear line for every kind of damage."""

import gzip
import re

import numpy as np
import pytest

from tests.support.files import at_most_mib
from xpcnn.data import read_idx
from xpcnn.data.idx import write_idx
from xpcnn.errors import DatasetError, DtypeError, ShapeError

ARRAY = np.arange(24, dtype=np.uint8).reshape(4, 3, 2)
HEADER = bytes((0, 0, 8, 3)) + np.array([4, 3, 2], ">u4").tobytes()
CONTENT = HEADER + ARRAY.tobytes()


@pytest.mark.parametrize("name", ["x-idx3-ubyte", "x-idx3-ubyte.gz"])
@pytest.mark.parametrize("dtype", ["u1", "i1", "i2", "i4", "f4", "f8"])
def test_round_trip(tmp_path, name, dtype):
    for shape in ((2, 3, 4), (0, 28, 28)):
        array = (np.arange(np.prod(shape)).reshape(shape) - (0 if dtype == "u1" else 12)).astype(dtype)
        write_idx(tmp_path / name, array)
        back = read_idx(str(tmp_path / name))
        np.testing.assert_array_equal(back, array)
        assert back.dtype == array.dtype
        assert back.dtype.isnative
        assert back.flags.writeable


def test_the_bytes_are_those_of_the_format_for_any_memory_order(tmp_path):
    kinds = {"i2": "0b01 fffe", "i4": "0c01 fffffffe", "f4": "0d01 c0000000", "f8": "0e01 c000000000000000"}
    for kind, found in kinds.items():
        write_idx(tmp_path / "x", np.array([-2], kind))
        assert (tmp_path / "x").read_bytes() == bytes.fromhex("0000" + found.replace(" ", "00000001"))
    write_idx(tmp_path / "a.gz", ARRAY.transpose(2, 0, 1).astype(">f8"))
    write_idx(tmp_path / "b.gz", np.ascontiguousarray(ARRAY.transpose(2, 0, 1)).astype("<f8"))
    assert (tmp_path / "a.gz").read_bytes() == (tmp_path / "b.gz").read_bytes()
    assert (tmp_path / "a.gz").read_bytes()[4:8] == bytes(4)  # no time stamp


def test_gzip_is_recognised_by_content_not_by_name(tmp_path):
    (tmp_path / "named-plain").write_bytes(gzip.compress(CONTENT))
    (tmp_path / "named.gz").write_bytes(CONTENT)
    np.testing.assert_array_equal(read_idx(tmp_path / "named-plain"), ARRAY)
    np.testing.assert_array_equal(read_idx(tmp_path / "named.gz"), ARRAY)


DAMAGED = {
    "empty": (b"", "truncated: its header takes 8 bytes, found 0"),
    "magic": (b"\x89PNG" + CONTENT[4:], "at least 1), found 89 50 4e 47"),
    "no dimension": (b"\0\0\x08\0" + CONTENT[4:], "not an IDX file: it should begin with 00 00 TT DD"),
    "type": (b"\0\0\x0a\x03" + CONTENT[4:], "(type: one of 08, 09, 0b, 0c, 0d, 0e; dimensions: at least 1)"),
    "header": (CONTENT[:15], "truncated: its header takes 16 bytes, found 15"),
    "body": (CONTENT[:-1], "truncated: shape (4, 3, 2) of uint8 takes 40 bytes, found 39"),
    "trailing": (CONTENT + b"ab", "2 trailing bytes: shape (4, 3, 2) of uint8 takes 40 bytes, found 42"),
    "huge": (HEADER[:4] + b"\xff" * 12, "truncated: shape (4294967295, 4294967295, 4294967295)"),
    "gzip cut": (gzip.compress(CONTENT)[:-9], "truncated: the gzip stream breaks off after"),
    "gzip cut in its header": (gzip.compress(CONTENT)[:5], "truncated: the gzip stream breaks off after 5"),
    "gzip checksum": (gzip.compress(CONTENT)[:-8] + b"\0" * 8, "damaged gzip stream: CRC check failed"),
    "gzip trailing": (gzip.compress(CONTENT) + b"more", "damaged gzip stream: Not a gzipped file"),
    "gzip body": (gzip.compress(CONTENT)[:10] + b"\xff" * 40, "damaged gzip stream"),
    "70 axes": (b"\0\0\x08\x46" + b"\0\0\0\1" * 70 + b"x", "an array of 70 axes, which cannot be made"),
    "0 x huge": (b"\0\0\x0e\x05" + b"\0" * 4 + b"\xff" * 16, "an array of 5 axes, which cannot be made"),
    "gzip huge": (
        gzip.compress(HEADER[:4] + b"\xff" * 12),
        "more than 100 times as many; decompress it by ha",
    ),
    "gzip goes on": (gzip.compress(CONTENT + b"ab"), "more than the 40 bytes it should decompress to"),
    "gzip of a short body": (gzip.compress(CONTENT[:-1]), "takes 40 bytes, found 39"),
}


@pytest.mark.parametrize(("content", "message"), DAMAGED.values(), ids=DAMAGED.keys())
def test_damage_is_one_clear_line_that_names_the_file(tmp_path, content, message):
    path = tmp_path / "x-idx3-ubyte"
    path.write_bytes(content)
    with pytest.raises(DatasetError, match=re.escape(message)) as caught:
        read_idx(path)
    assert str(caught.value).startswith(f"{path}: ")
    assert "\n" not in str(caught.value)


def test_what_cannot_be_read_or_written_is_refused(tmp_path):
    with pytest.raises(DatasetError, match=r"nowhere: cannot be read: No such file"):
        read_idx(tmp_path / "nowhere")
    with pytest.raises(DatasetError, match="cannot be written: "):
        write_idx(tmp_path / "absent" / "x", ARRAY)
    with pytest.raises(DtypeError, match="IDX cannot hold int64, only uint8, int8, int16, int32"):
        write_idx(tmp_path / "x", np.zeros(3, np.int64))
    with pytest.raises(ShapeError, match=r"IDX holds 1 to 255 dimensions, got shape \(\)"):
        write_idx(tmp_path / "x", np.array(3, np.uint8))
    assert not (tmp_path / "x").exists()


@pytest.mark.parametrize("sizes", [(4, 3, 2), (1, 1 << 26, 256)], ids=["less than there is", "implausible"])
def test_a_bomb_is_left_before_it_has_grown(tmp_path, sizes):
    """Some 30 kB that become 32 MB: no more memory is taken than the header says, nor than is plausible."""
    header = HEADER[:4] + np.array(sizes, ">u4").tobytes()
    (tmp_path / "x").write_bytes(gzip.compress(header + bytes(1 << 25), 1))
    with at_most_mib(4), pytest.raises(DatasetError, match="decompress"):
        read_idx(tmp_path / "x")
