"""Run folders that several processes, kills, damage and other data come to."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import xpcnn
from xpcnn import Trainer
from xpcnn.data import Dataset
from xpcnn.errors import ArgumentError, CheckpointError
from xpcnn.train import Callback, RunDirectory, restore_checkpoint, save_checkpoint

NewTrainer = Callable[..., Trainer]
ROOT = str(Path(xpcnn.__file__).parent.parent)


def fit(
    trainer: Trainer, digits: Dataset, run: RunDirectory | None, epochs: int = 2, batch: int = 20
) -> None:
    callbacks = [] if run is None else [run]
    trainer.fit(digits[:100], digits[:20], epochs, batch, progress=None, callbacks=callbacks)


def start(code: str, *arguments: Any) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-c", code, *map(str, arguments)],
        env={**os.environ, "PYTHONPATH": ROOT, "OPENBLAS_NUM_THREADS": "1"},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


# -- the lock ------------------------------------------------------------------------------


HOLD = """
import sys
from xpcnn.train import RunDirectory
with RunDirectory(sys.argv[1]).writing():
    print("inside", flush=True)
    sys.stdin.read()
"""


@pytest.mark.skipif(os.name != "posix", reason="needs flock")
def test_one_process_at_a_time(tmp_path: Path, new_trainer: NewTrainer, digits: Dataset) -> None:
    run = RunDirectory(tmp_path, {"lr": 1})
    other = subprocess.Popen(
        [sys.executable, "-c", HOLD, str(tmp_path)],
        env={**os.environ, "PYTHONPATH": ROOT},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    with other:
        assert other.stdout is not None
        assert other.stdout.readline() == "inside\n"
        message = f"{tmp_path}: process {other.pid} is writing in this folder; wait for its end"
        before = sorted(os.listdir(tmp_path))
        for write in (lambda: run.save_config({}), lambda: fit(new_trainer(), digits, run)):
            with pytest.raises(CheckpointError, match=message):
                write()
        assert sorted(os.listdir(tmp_path)) == before
        assert run.config() == {"lr": 1}  # reading needs no lock
        other.kill()
    fit(new_trainer(), digits, run, epochs=1)
    assert not (tmp_path / "lock").exists()


def test_two_trainings_of_one_process(tmp_path: Path, new_trainer: NewTrainer, digits: Dataset) -> None:
    run, trainer = RunDirectory(tmp_path, {}), new_trainer()

    class Nested(Callback):
        def on_epoch(self, trainer: Trainer, record: Any) -> None:
            for same in (run, RunDirectory(tmp_path)):
                with pytest.raises(CheckpointError, match=r"writ(es|ing) in this folder"):
                    fit(new_trainer(seed=7), digits, same, epochs=1)

    trainer.fit(digits[:40], None, 1, 20, progress=None, callbacks=[run, Nested()])
    assert run.history() == trainer.history


BEGIN = """
import sys, time
from pathlib import Path
from xpcnn.errors import CheckpointError
from xpcnn.train import RunDirectory
print("ready", flush=True)
sys.stdin.readline()
try:
    RunDirectory(sys.argv[1], {"who": sys.argv[2]})
    print("in")
except CheckpointError as error:
    print(error)
"""


def test_one_of_several_that_begin_at_once_is_let_in(tmp_path: Path) -> None:
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", BEGIN, str(tmp_path / "run"), str(number)],
            env={**os.environ, "PYTHONPATH": ROOT},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        for number in range(4)
    ]
    for process in processes:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
    for process in processes:
        assert process.stdin is not None
        process.stdin.write("\n")
        process.stdin.flush()
    told = [process.communicate(timeout=60)[0].strip() for process in processes]
    assert told.count("in") == 1
    assert all(
        "is writing in this folder" in text or "holds a run already" in text for text in told if text != "in"
    )
    assert RunDirectory(tmp_path / "run").config() == {"who": str(told.index("in"))}


# -- checkpoints ---------------------------------------------------------------------------


@pytest.mark.parametrize("damage", ["cut", "empty", "missing", "no checkpoint"])
def test_a_damaged_checkpoint_is_replaced_by_the_one_before(
    tmp_path: Path,
    new_trainer: NewTrainer,
    digits: Dataset,
    same_bits: Any,
    caplog: pytest.LogCaptureFixture,
    damage: str,
) -> None:
    run, whole, resumed = RunDirectory(tmp_path, {}), new_trainer(), new_trainer()
    fit(whole, digits, run)
    content = run.checkpoint_file.read_bytes()
    if damage == "missing":
        run.checkpoint_file.unlink()
    elif damage == "no checkpoint":
        run.checkpoint_file.write_bytes(run.weights_file.read_bytes())
    else:
        run.checkpoint_file.write_bytes(content[: len(content) // 2] if damage == "cut" else b"")
    run.restore(resumed)
    assert (resumed.epoch, resumed.steps) == (1, 5)
    (note,) = (record.getMessage() for record in caplog.records)
    assert note.endswith(f"; going on from {run.previous_checkpoint_file} instead")
    fit(resumed, digits, run, epochs=1)
    assert same_bits(whole, resumed)
    assert run.history() == resumed.history


def test_when_both_are_damaged(tmp_path: Path, new_trainer: NewTrainer, digits: Dataset) -> None:
    run, trainer = RunDirectory(tmp_path, {}), new_trainer()
    fit(trainer, digits, run)
    run.checkpoint_file.write_bytes(b"")
    run.previous_checkpoint_file.write_bytes(b"")
    restored = new_trainer()
    both = rf"(?s)no checkpoint is whole: .*{run.checkpoint_file.name}: .*; .*-previous\.safetensors: "
    with pytest.raises(CheckpointError, match=both):
        run.restore(restored)
    assert restored.steps == 0


# -- the history ---------------------------------------------------------------------------


def test_a_line_each_epoch(tmp_path: Path, new_trainer: NewTrainer, digits: Dataset) -> None:
    run, trainer = RunDirectory(tmp_path, {}), new_trainer()
    sizes = []

    class Sizes(Callback):
        def on_epoch(self, trainer: Trainer, record: Any) -> None:
            sizes.append(run.history_file.read_bytes())

    trainer.fit(digits[:100], digits[:20], 3, 20, progress=None, callbacks=[run, Sizes()])
    assert all(after.startswith(before) for before, after in pairwise(sizes))
    lines = [json.loads(line) for line in run.history_file.read_text().splitlines()]
    assert [line["epoch"] for line in lines] == [1, 2, 3]
    assert [line["losses"] for line in lines] == [trainer.history.losses[i : i + 5] for i in (0, 5, 10)]


@pytest.mark.parametrize("tail", ['{"losses": [1.0', '{"losses": [2.0]}', "\x00\x00\x00", '{"losses": 3}\n'])
def test_a_half_written_last_line_is_left_out(
    tmp_path: Path, new_trainer: NewTrainer, digits: Dataset, caplog: pytest.LogCaptureFixture, tail: str
) -> None:
    run, trainer, resumed = RunDirectory(tmp_path, {}), new_trainer(), new_trainer()
    fit(trainer, digits, run, epochs=1)
    with run.history_file.open("a") as file:
        file.write(tail)
    assert run.history() == trainer.history
    assert [record.getMessage() for record in caplog.records] == [
        f"{run.history_file}: its last line was not written whole and is left out"
    ]
    run.restore(resumed)
    fit(resumed, digits, run, epochs=1)
    assert run.history() == resumed.history
    assert len(run.history_file.read_text().splitlines()) == 2


def test_a_damaged_line_before_the_last(tmp_path: Path, new_trainer: NewTrainer, digits: Dataset) -> None:
    run = RunDirectory(tmp_path, {})
    fit(new_trainer(), digits, run)
    run.history_file.write_text("{\n" + run.history_file.read_text())
    with pytest.raises(CheckpointError, match=r"history\.jsonl: .*line 1"):
        run.history()


@pytest.mark.parametrize("line", [0, 1])
def test_a_resumed_run_mends_its_history(
    tmp_path: Path, new_trainer: NewTrainer, digits: Dataset, caplog: pytest.LogCaptureFixture, line: int
) -> None:
    """Its checkpoint has all of it."""
    run, resumed = RunDirectory(tmp_path, {}), new_trainer()
    fit(new_trainer(), digits, run)
    lines = run.history_file.read_bytes().splitlines(keepends=True)
    run.history_file.write_bytes(b"".join([*lines[:line], b"\xff\x1b}\n", *lines[line:]]))
    run.restore(resumed)
    fit(resumed, digits, run, epochs=1)
    (note,) = (record.message for record in caplog.records if "history" in record.message)
    assert note.endswith("; it and those after it are written again")
    assert run.history() == resumed.history
    assert len(run.history().epochs) == 3


@pytest.mark.parametrize("lines", [0, 1, 2, 3])
def test_a_resumed_run_cuts_the_history_to_its_checkpoint(
    tmp_path: Path, new_trainer: NewTrainer, digits: Dataset, lines: int
) -> None:
    """Or adds what is missing: a kill may come between the checkpoint and the history."""
    run, trainer = RunDirectory(tmp_path, {}), new_trainer()
    fit(trainer, digits, run, epochs=2)
    content = run.history_file.read_text().splitlines(keepends=True)
    content.append(json.dumps({"losses": [0.5, None], "interrupted": True}) + "\n")
    run.history_file.write_text("".join(content[:lines]))
    resumed = new_trainer()
    run.restore(resumed)
    fit(resumed, digits, run, epochs=1)
    assert run.history() == resumed.history
    assert len(resumed.history.epochs) == 3


def test_files_of_an_earlier_version(tmp_path: Path, new_trainer: NewTrainer, digits: Dataset) -> None:
    run, trainer = RunDirectory(tmp_path, {"lr": 0.5}), new_trainer()
    fit(trainer, digits, run)
    (tmp_path / "config.json").write_text(json.dumps({"lr": 0.25}))
    (tmp_path / "history.json").write_text(json.dumps(trainer.history.to_json()))
    assert (run.config(), run.history()) == ({"lr": 0.5}, trainer.history)
    run.config_file.unlink()
    run.history_file.unlink()
    assert (run.config(), run.history()) == ({"lr": 0.25}, trainer.history)
    with pytest.raises(CheckpointError, match="holds a run already"):
        RunDirectory(tmp_path, {})
    resumed = new_trainer()
    run.restore(resumed)
    fit(resumed, digits, run, epochs=1)
    assert run.history_file.name == "history.jsonl"
    assert run.history() == resumed.history


def test_a_history_of_many_epochs_grows_linearly(
    tmp_path: Path, new_trainer: NewTrainer, digits: Dataset
) -> None:
    run, trainer = RunDirectory(tmp_path, {}), new_trainer()
    fit(trainer, digits, run, epochs=1)
    record = trainer.history.epochs[0]
    written = 0
    size = run.history_file.stat().st_size
    for epoch in range(2, 200):
        trainer.history.losses += [0.1234567890123] * 5
        trainer.history.epochs.append(replace(record, epoch=epoch))
        run._history.append(trainer.history)
        written = run.history_file.stat().st_size
    assert written < 220 * size
    assert run.history() == trainer.history


# -- other data, other batches --------------------------------------------------------------


class Stop(Exception):
    pass


class StopAt(Callback):
    def __init__(self, step: int) -> None:
        self.step = step

    def on_losses(self, trainer: Trainer, losses: list[float]) -> None:
        if trainer.steps >= self.step:
            raise Stop


OTHERS: dict[str, Callable[[Dataset], Dataset]] = {
    "fewer": lambda digits: digits[:99],
    "others": lambda digits: digits[1:101],
    "one label": lambda digits: Dataset(
        digits.images[:100], np.r_[digits.labels[:99], (digits.labels[99] + 1) % 10], 10
    ),
    "one pixel": lambda digits: Dataset(
        np.where(np.arange(100 * 784).reshape(100, 1, 28, 28) == 5000, 77, digits.images[:100]).astype("u1"),
        digits.labels[:100],
        10,
    ),
    "more classes": lambda digits: Dataset(digits.images[:100], digits.labels[:100], 11),
}


@pytest.mark.parametrize("other", OTHERS)
def test_a_resumed_run_refuses_other_data(
    tmp_path: Path, new_trainer: NewTrainer, digits: Dataset, other: str
) -> None:
    run, trainer, resumed = RunDirectory(tmp_path, {}), new_trainer(), new_trainer()
    fit(trainer, digits, run, epochs=1)
    run.restore(resumed)
    with pytest.raises(
        ArgumentError, match=r"begun with other data \(100 images .*\) than it is given now \("
    ):
        resumed.fit(OTHERS[other](digits), None, 1, 20, progress=None, callbacks=[run])
    assert resumed.steps == 5
    fit(resumed, digits, run, epochs=1)
    assert resumed.steps == 10


def test_in_mid_epoch_only(new_trainer: NewTrainer, digits: Dataset) -> None:
    trainer = new_trainer()
    fit(trainer, digits, None, epochs=1)
    trainer.fit(digits[:60], None, 1, 20, progress=None)  # other data after a whole epoch
    with pytest.raises(Stop):
        trainer.fit(digits[:230], None, 1, 20, progress=None, callbacks=[StopAt(18)])
    assert trainer.epoch_samples
    with pytest.raises(ArgumentError, match="begun with other data"):
        trainer.fit(digits[:60], None, 1, 20, progress=None)


def test_another_batch_size_is_told(
    tmp_path: Path, new_trainer: NewTrainer, digits: Dataset, caplog: pytest.LogCaptureFixture
) -> None:
    trainer, resumed = new_trainer(), new_trainer()
    fit(trainer, digits, None, epochs=1)
    save_checkpoint(tmp_path / "c.npz", trainer)
    restore_checkpoint(tmp_path / "c.npz", resumed)
    fit(resumed, digits, None, epochs=1, batch=25)
    assert [record.getMessage() for record in caplog.records] == [
        "fit: this training was begun with batch_size=20 and goes on with batch_size=25"
    ]
    assert resumed.steps == 5 + 4


# -- kills ---------------------------------------------------------------------------------


TRAIN = """
import sys
from xpcnn import Trainer, data, models, optim
from xpcnn.train import RunDirectory
digits = data.synthetic_digits(100)
model = models.tiny_convnet(filters=2)
trainer = Trainer(model, optim.Adam(model, lr=1e-3))
run = RunDirectory(sys.argv[1])
run.restore(trainer)
print("at", trainer.epoch, flush=True)
trainer.fit(digits, digits[:20], int(sys.argv[2]) - trainer.epoch, 20, progress=None, callbacks=[run])
"""


@pytest.mark.skipif(not hasattr(signal, "SIGKILL"), reason="needs SIGKILL")
def test_killed_again_and_again(tmp_path: Path) -> None:
    """At random moments of saving and training; the last run ends with the bits of an unbroken one."""
    kills, epochs = int(os.environ.get("XPCNN_TEST_KILLS", "4")), 400
    rng, at = random.Random(0), []
    for name in ("broken", "whole"):
        (tmp_path / name).mkdir()
    for _ in range(kills):
        with start(TRAIN, tmp_path / "broken", epochs) as process:
            assert process.stdout is not None
            at.append(int(process.stdout.readline().split()[1]))
            time.sleep(rng.uniform(0, 0.3))
            process.kill()
    assert at == sorted(at)
    for name in ("broken", "whole"):
        with start(TRAIN, tmp_path / name, epochs) as process:
            _, err = process.communicate(timeout=200)
            assert (process.returncode, err) == (0, "")
    broken, whole = (RunDirectory(tmp_path / name) for name in ("broken", "whole"))
    assert broken.weights_file.read_bytes() == whole.weights_file.read_bytes()
    assert broken.history().losses == whole.history().losses
    names = {path.name for path in whole.path.iterdir()}
    assert {path.name for path in broken.path.iterdir()} == names
