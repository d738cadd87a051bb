"""A disk that is really full: one error of ours, the file there stays whole, and no other is left."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from xpcnn import data, io, models, optim
from xpcnn.data.idx import write_idx
from xpcnn.errors import CheckpointError, DatasetError
from xpcnn.train import RunDirectory, Trainer, load_model, restore_checkpoint

MIB = 1 << 20


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Path]:
    """A disk of 10 MiB."""
    folder = tmp_path / "disk"
    folder.mkdir()
    if sys.platform != "linux" or os.geteuid() != 0:
        pytest.skip("mounting a small tmpfs needs root on Linux")
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=10m", "tmpfs", folder], capture_output=True, text=True
    )
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


@pytest.mark.parametrize("ending", [".safetensors", ".npz"])
@pytest.mark.parametrize("leave", [0, MIB], ids=["no room at all", "room for half of it"])
def test_arrays(disk: Path, ending: str, leave: int) -> None:
    path = disk / f"w{ending}"
    io.save_arrays(path, {"x": np.arange(MIB // 2, dtype=np.float32)}, {})
    before = path.read_bytes()
    fill(disk, leave)
    with pytest.raises(CheckpointError, match=rf"^cannot write {path}: .*No space left on device"):
        io.save_arrays(path, {"x": np.zeros(MIB // 2, np.float32)}, {})
    assert path.read_bytes() == before
    assert sorted(os.listdir(disk)) == ["filler", path.name]
    assert io.load_arrays(path)[0]["x"][-1] == MIB // 2 - 1


def test_weights_of_a_model(disk: Path) -> None:
    model = models.simple_convnet(seed=1)
    model.save(disk / "w.safetensors")
    fill(disk, MIB)
    with pytest.raises(CheckpointError, match="No space left on device"):
        models.simple_convnet(seed=2).save(disk / "w.safetensors")
    loaded = load_model(disk / "w.safetensors").state_dict()
    assert all((loaded[name] == array).all() for name, array in model.state_dict().items())


def test_json(disk: Path) -> None:
    io.write_json(disk / "a.json", {"is": "whole"})
    fill(disk)
    with pytest.raises(CheckpointError, match=r"cannot write .*a\.json: No space left on device"):
        io.write_json(disk / "a.json", {"is": ["longer"] * 100_000})
    assert io.read_json(disk / "a.json") == {"is": "whole"}
    assert sorted(os.listdir(disk)) == ["a.json", "filler"]


def test_a_picture(disk: Path) -> None:
    from matplotlib.figure import Figure

    from xpcnn.viz.canvas import write

    write(Figure(), disk / "a.png", "a test")
    before = (disk / "a.png").read_bytes()
    fill(disk)
    with pytest.raises(CheckpointError, match=r"cannot write .*a\.png: No space left on device"):
        write(Figure(figsize=(9, 9)), disk / "a.png", "a test")
    assert (disk / "a.png").read_bytes() == before
    assert sorted(os.listdir(disk)) == ["a.png", "filler"]


def test_a_table(disk: Path) -> None:
    from xpcnn.cli.search import _write
    from xpcnn.train import Trial

    _write([Trial(1, 0.1, 0.0, 0.5, 1.0)], disk / "a.csv")
    before = (disk / "a.csv").read_bytes()
    fill(disk)
    with pytest.raises(CheckpointError, match=r"cannot write .*a\.csv: No space left on device"):
        _write([Trial(n, 0.1, 0.0, 0.5, 1.0) for n in range(50_000)], disk / "a.csv")
    assert (disk / "a.csv").read_bytes() == before
    assert sorted(os.listdir(disk)) == ["a.csv", "filler"]


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


def test_the_command(disk: Path) -> None:
    """The files of one epoch fit the disk, those of the next beside them do not."""
    options = [
        "--train-samples",
        "200",
        "--test-samples",
        "50",
        "--epochs",
        "9",
        "--model-option",
        "hidden=100",
    ]
    command = [sys.executable, "-m", "xpcnn.cli", "train", "--out", str(disk / "run"), *options]
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
