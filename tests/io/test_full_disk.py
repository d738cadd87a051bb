"""A disk that is really full: one error of ours, the file there stays whole, and no other is left."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from xpcnn import data, io, models, optim
from xpcnn.data.idx import write_idx
from xpcnn.errors import CheckpointError, DatasetError
from xpcnn.train import RunDirectory, Trainer, load_model, restore_checkpoint

MIB = 1 << 20
pytestmark = pytest.mark.process


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Path]:
    """A disk of 10 MiB."""
    folder = tmp_path / "disk"
    folder.mkdir()
    if sys.platform != "linux" or os.geteuid() != 0:
        pytest.skip("mounting a small tmpfs needs root on Linux")
    command = ["mount", "-t", "tmpfs", "-o", "size=10m", "tmpfs", folder]
    mounted = subprocess.run(command, capture_output=True, text=True)
    if mounted.returncode:
        pytest.skip(f"a tmpfs cannot be mounted here: {mounted.stderr.strip()}")
    yield folder
    subprocess.run(["umount", folder], check=True)


def fill(disk: Path, leave: int = 0) -> None:
    """Take all space but some bytes."""
    with open(disk / "filler", "wb", buffering=0) as file:
        free = os.statvfs(disk)
        wanted = free.f_bavail * free.f_frsize - leave
        while wanted > 0:
            wanted -= file.write(bytes(min(wanted, MIB)))


def write_arrays(path: Path, large: bool) -> None:
    io.save_arrays(path, {"x": np.arange((MIB // 2) << large, dtype=np.float32)}, {})


def write_json(path: Path, large: bool) -> None:
    io.write_json(path, {"is": ["whole"] * (500_000 if large else 1)})


WRITERS = {"w.safetensors": write_arrays, "w.npz": write_arrays, "a.json": write_json}


@pytest.mark.parametrize("name", WRITERS)
@pytest.mark.parametrize("leave", [0, MIB], ids=["no room at all", "room for half of it"])
def test_the_file_that_is_there_stays_whole(disk: Path, name: str, leave: int) -> None:
    path = disk / name
    WRITERS[name](path, False)
    before = path.read_bytes()
    fill(disk, min(leave, len(before)))
    with pytest.raises(CheckpointError, match=rf"^cannot write {path}: .*No space left on device"):
        WRITERS[name](path, True)
    assert path.read_bytes() == before
    assert sorted(os.listdir(disk)) == sorted(["filler", name])


def test_a_dataset(disk: Path) -> None:
    fill(disk)
    with pytest.raises(DatasetError, match=r"cannot be written: No space left on device"):
        write_idx(disk / "x", np.zeros(MIB, np.uint8))


def test_a_run_keeps_its_last_whole_files(disk: Path) -> None:
    digits = data.synthetic_digits(40, seed=0)

    def trainer() -> Trainer:
        model = models.simple_convnet(filters=8, hidden=50)
        return Trainer(model, optim.Adam(model))

    one, run = trainer(), RunDirectory(disk / "run", {"seed": 0})
    one.fit(digits, digits, 1, 20, progress=None, callbacks=[run])
    after_an_epoch = one.model.state_dict()
    fill(disk, 64 << 10)
    with pytest.raises(CheckpointError, match=r"cannot write .*: .*No space left on device"):
        one.fit(digits, digits, 1, 20, progress=None, callbacks=[run])
    kept = load_model(run.weights_file).state_dict()
    assert all((kept[name] == array).all() for name, array in after_an_epoch.items())
    load_model(run.best_file)
    again = trainer()
    restore_checkpoint(run.checkpoint_file, again)
    assert again.epoch == 1
    assert not list(disk.rglob("*.tmp"))
