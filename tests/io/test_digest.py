"""A flipped bit in a file of ours is found, or changes nothing that is read; equal runs write equal bytes."""

from __future__ import annotations

import hashlib
import json
import random
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.numpy

from tests.support.files import every_ending, write_foreign
from xpcnn import data, io, models, optim
from xpcnn.errors import CheckpointError
from xpcnn.train import RunDirectory, Trainer, restore_checkpoint, save_checkpoint

ARRAYS = {
    "b": np.arange(6, dtype=np.float32).reshape(2, 3) / 7,
    "a": np.array(7, dtype=np.int64),
    "c": np.array([True, False]),
    "ä": np.empty((0, 2), np.float16),
}
METADATA = {"recipe": '{"name": "x"}', "made": "ünder test"}


def raw_metadata(path: Path) -> dict[str, str]:
    """The metadata as they stand in a file, read without xpcnn."""
    if path.suffix == ".npz":
        with np.load(path) as archive:
            return json.loads(str(archive["__metadata__"]))
    with safetensors.safe_open(path, framework="numpy") as file:
        return json.loads(file.metadata()["__metadata__"])


@every_ending
def test_the_digest_is_what_its_page_says(tmp_path: Path, ending: str) -> None:
    """Computed here from the description in docs/weight-files.md alone."""
    given = {**ARRAYS, "b": ARRAYS["b"].astype(">f4")}
    io.save_arrays(tmp_path / f"w{ending}", given, METADATA)
    text = (
        r'[[["format_version","1"],["made","\u00fcnder test"],["recipe","{\"name\": \"x\"}"]],'
        r'[["a","int64",[]],["b","float32",[2,3]],["c","bool",[2]],["\u00e4","float16",[0,2]]]]'
    )
    content = (7).to_bytes(8, "little") + ARRAYS["b"].astype("<f4").tobytes() + b"\1\0"
    digest = "xpcnn-sha256:" + hashlib.sha256(text.encode() + content).hexdigest()
    assert raw_metadata(tmp_path / f"w{ending}")["digest"] == digest
    assert io.load_arrays(tmp_path / f"w{ending}")[1] == {"format_version": "1", **METADATA}


def read(path: Path) -> Any:
    """All that a file says, to be compared."""
    arrays, metadata = io.load_arrays(path)
    return {name: (array.dtype, array.shape, array.tobytes()) for name, array in arrays.items()}, metadata


def assert_found(path: Path, bits: list[int]) -> int:
    """Flip each bit; return how many were found."""
    content, expected, found = path.read_bytes(), read(path), 0
    for bit in bits:
        bad = bytearray(content)
        bad[bit // 8] ^= 1 << bit % 8
        path.write_bytes(bad)
        try:
            assert read(path) == expected, f"bit {bit} changed what is read"
        except CheckpointError:
            found += 1
    path.write_bytes(content)
    return found


@pytest.mark.fuzz
@pytest.mark.slow
def test_flipped_bits(tmp_path: Path) -> None:
    """Of a zip archive some say nothing, such as dates; whatever bears on the content is found."""
    digits, model = data.synthetic_digits(20, seed=0), models.tiny_convnet(filters=2)
    trainer = Trainer(model, optim.Adam(model))
    trainer.fit(digits, digits, 1, 10, progress=None)
    for name, least in (("w.safetensors", 300), ("c.safetensors", 300), ("w.npz", 200)):
        path, rng = tmp_path / name, random.Random(0)
        if name[0] == "w":
            io.save_arrays(path, ARRAYS, METADATA)
        else:
            save_checkpoint(path, trainer)
        end = 8 * path.stat().st_size
        bits = rng.sample(range(end), 100) + rng.sample(range(min(end, 8 * 4000)), 200)
        assert least <= assert_found(path, bits)
    restore_checkpoint(tmp_path / "c.safetensors", trainer)


@every_ending
def test_a_weight_or_a_word_that_was_changed(tmp_path: Path, ending: str) -> None:
    path = tmp_path / f"w{ending}"
    io.save_arrays(path, ARRAYS, METADATA)
    noted = raw_metadata(path)
    for arrays, metadata in (
        ({**ARRAYS, "b": ARRAYS["b"] + 1}, noted),
        (ARRAYS, {**noted, "made": "another"}),
        ({name: array for name, array in ARRAYS.items() if name != "c"}, noted),
        ({**ARRAYS, "b": ARRAYS["b"].reshape(3, 2)}, noted),
        ({**ARRAYS, "b": ARRAYS["b"].view(np.int32)}, noted),
        (ARRAYS, {("digesu" if name == "digest" else name): text for name, text in noted.items()}),
    ):
        write_foreign(path, arrays, json.dumps(metadata))
        with pytest.raises(CheckpointError, match=f"w{ending}: damaged: .*digest"):
            io.load_arrays(path)
    # Files of others and of earlier versions have none.
    write_foreign(path, ARRAYS, json.dumps({"format_version": "1", **METADATA}))
    found, metadata = io.load_arrays(path)
    assert found.keys() == ARRAYS.keys()
    assert metadata == {"format_version": "1", **METADATA}


def test_a_digest_outside_the_metadata_is_that_of_a_damaged_file(tmp_path: Path) -> None:
    noted = {"__metadatb__": '{"digest": "xpcnn-sha256:' + "0" * 64 + '"}'}
    safetensors.numpy.save_file({"w": np.ones(2)}, tmp_path / "w.safetensors", noted)
    with pytest.raises(CheckpointError, match=r"w\.safetensors: damaged: .*digest"):
        io.load_arrays(tmp_path / "w.safetensors")


def test_equal_runs_write_equal_weights(tmp_path: Path) -> None:
    """To the byte, wherever and whenever they ran. (safetensors orders metadata at random.)"""
    digits = data.synthetic_digits(40, seed=0)
    for name in ("a", "b/c", "d"):
        model = models.tiny_convnet(filters=2)
        run = RunDirectory(tmp_path / name, {"name": name})
        Trainer(model, optim.Adam(model)).fit(digits, digits, 2, 10, progress=None, callbacks=[run])
        model.save(run.path / "w.npz")
    for file in ("model.safetensors", "best.safetensors", "w.npz"):
        first = (tmp_path / "a" / file).read_bytes()
        assert first == (tmp_path / "b/c" / file).read_bytes() == (tmp_path / "d" / file).read_bytes()
        assert str(tmp_path).encode() not in first
