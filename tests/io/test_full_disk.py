"""A disk that is really full: one error of ours, the file there stays whole, and no other is left."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from xpcnn import data, io, models, optim
from xpcnn.data.idx import write_idx
from xpcnn.errors import CheckpointError, DatasetError
from xpcnn.train import RunDirectory, Trainer, Trial, load_model, restore_checkpoint

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


def write_model(path: Path, large: bool) -> None:
    models.simple_convnet(seed=1, hidden=1000 if large else 100).save(path)


def write_json(path: Path, large: bool) -> None:
    io.write_json(path, {"is": ["whole"] * (500_000 if large else 1)})


def write_picture(path: Path, large: bool) -> None:
    from matplotlib.figure import Figure

    from xpcnn.viz.canvas import write

    write(Figure(figsize=(30, 30) if large else (3, 3)), path, "a test")


def write_table(path: Path, large: bool) -> None:
    from xpcnn.cli.search import _write

    _write([Trial(n, 0.1, 0.0, 0.5, 1.0) for n in range(100_000 if large else 1)], path)


WRITERS: dict[str, Callable[[Path, bool], None]] = {
    "w.safetensors": write_arrays,
    "w.npz": write_arrays,
    "m.safetensors": write_model,
    "a.json": write_json,
    "a.png": write_picture,
    "a.csv": write_table,
}


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


@pytest.mark.slow
def test_the_command(disk: Path) -> None:
    """The files of one epoch fit the disk, those of the next beside them do not."""
    options = {"train-samples": 200, "test-samples": 50, "epochs": 9, "model-option": "hidden=100"}
    command = [sys.executable, "-m", "xpcnn.cli", "train", "--out", str(disk / "run")]
    command += [f"--{name}={value}" for name, value in options.items()]
    ended = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert ended.returncode == 1
    assert ended.stderr.startswith("xpcnn: error: cannot write ")
    assert "No space left on device" in ended.stderr
    assert ended.stderr.count("\n") == 1
    run = RunDirectory(disk / "run")
    load_model(disk / "run")
    arrays: dict[str, Any] = io.load_arrays(run.checkpoint_file)[0]
    assert "history/losses" in arrays
    assert not list(disk.rglob("*.tmp"))
