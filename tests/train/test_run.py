"""A run's folder: what it holds, and that several processes, kills, damage and other data cost nothing."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import xpcnn
from xpcnn import Trainer, load_model, optim
from xpcnn.data import Dataset
from xpcnn.errors import ArgumentError, CheckpointError, DivergenceError
from xpcnn.io import load_weights
from xpcnn.train import Callback, RunDirectory, restore_checkpoint, save_checkpoint

ROOT = str(Path(xpcnn.__file__).parent.parent)
CONFIG = {"any": "settings", "lr": 0.001}
WEIGHTS = ["best", "checkpoint-previous", "checkpoint", "model"]
FILES = sorted([f"{name}.safetensors" for name in WEIGHTS] + ["history.jsonl", "run.json"])


def fit(trainer: Trainer, digits: Dataset, *callbacks: Callback, epochs: int = 2, batch: int = 20) -> None:
    trainer.fit(digits[:100], digits[:20], epochs, batch, progress=None, callbacks=callbacks)


def after_each_epoch(function: Callable[[Trainer], Any]) -> Callback:
    callback = Callback()
    callback.on_epoch = lambda trainer, record: function(trainer)  # type: ignore[method-assign]
    return callback


def start(code: str, *arguments: Any) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-c", code, *map(str, arguments)],
        env={**os.environ, "PYTHONPATH": ROOT, "OPENBLAS_NUM_THREADS": "1"},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def test_what_a_finished_run_leaves(tmp_path: Path, new_trainer: Any, digits: Dataset) -> None:
    run = RunDirectory(tmp_path / "made" / "for it", CONFIG)
    assert sorted(os.listdir(run.path)) == ["run.json"]
    trainer, states, written = new_trainer(), [], []

    def note(trainer: Trainer) -> None:
        states.append(trainer.model.state_dict())
        written.append(run.history_file.read_bytes())

    fit(trainer, digits, run, after_each_epoch(note), epochs=3)
    assert sorted(os.listdir(run.path)) == FILES
    again = RunDirectory(run.path)
    assert again.config() == CONFIG
    assert again.history() == trainer.history
    scores = trainer.history.test_accuracy
    for file, epoch in ((run.weights_file, 2), (run.best_file, scores.index(max(scores)))):  # the first best
        np.testing.assert_array_equal(load_weights(file).arrays["fc.weight"], states[epoch]["fc.weight"])
    assert all(after.startswith(before) for before, after in pairwise(written))
    lines = [json.loads(line) for line in run.history_file.read_text().splitlines()]
    assert [line["epoch"] for line in lines] == [1, 2, 3]
    assert [line["losses"] for line in lines] == [trainer.history.losses[i : i + 5] for i in (0, 5, 10)]


@pytest.mark.parametrize(("scores", "best"), [((0.3, 0.6, 0.6), 1), ((0.0, 0.0, 0.0), 0)])
def test_the_first_of_the_best_epochs_is_kept_by_a_resumed_run_too(
    tmp_path: Path, new_trainer: Any, digits: Dataset, scripted: Any, scores: Any, best: int
) -> None:
    scripted(*scores)
    run, seen, resumed = RunDirectory(tmp_path, {}), [], new_trainer()
    note = after_each_epoch(lambda trainer: seen.append(trainer.model.state_dict()["fc.weight"]))
    fit(new_trainer(), digits, note, run)
    run.restore(resumed)
    fit(resumed, digits, note, run, epochs=1)
    np.testing.assert_array_equal(load_weights(run.best_file).arrays["fc.weight"], seen[best])


def test_an_average_is_what_is_saved(tmp_path: Path, digits: Dataset) -> None:
    model = xpcnn.models.tiny_convnet()
    trainer = Trainer(model, optim.SGD(model, lr=0.1), average=optim.WeightAverage(model, 0.9))
    run = RunDirectory(tmp_path, {})
    fit(trainer, digits, run, epochs=1)
    for file in (run.weights_file, run.best_file):
        loaded = load_model(file)
        for path, parameter in loaded.parameters().items():
            np.testing.assert_array_equal(parameter.data, trainer.eval_model.parameters()[path].data)
            assert not np.array_equal(parameter.data, model.parameters()[path].data)
        assert loaded.spec.input_shape == (1, 28, 28)


def test_settings(tmp_path: Path) -> None:
    run = RunDirectory(tmp_path, CONFIG)
    with pytest.raises(CheckpointError, match="holds a run already; resume it"):
        RunDirectory(tmp_path, {})
    run.save_config({**CONFIG, "epochs": 9})
    assert RunDirectory(tmp_path).config() == {**CONFIG, "epochs": 9}
    (tmp_path / "file").touch()
    for path in ("file", "file/below"):
        with pytest.raises(CheckpointError, match=f"cannot make the folder .*{path}: "):
            RunDirectory(tmp_path / path, CONFIG)


@pytest.mark.parametrize("content", [None, "", "{", "[]", "3", b"\xff\xfe\x00", '{"losses": 3}'])
def test_unreadable_json(tmp_path: Path, content: Any) -> None:
    run = RunDirectory(tmp_path)
    for name in ("config.json", "history.json"):  # of an earlier version
        if content is not None:
            (tmp_path / name).write_bytes(content if isinstance(content, bytes) else content.encode())
    for read in (run.config, run.history)[content == '{"losses": 3}' :]:
        with pytest.raises(CheckpointError, match="no such file; is" if content is None else "unreadable"):
            read()


def test_files_of_an_earlier_version(tmp_path: Path, new_trainer: Any, digits: Dataset) -> None:
    run, trainer, resumed = RunDirectory(tmp_path, {"lr": 0.5}), new_trainer(), new_trainer()
    fit(trainer, digits, run)
    (tmp_path / "config.json").write_text(json.dumps({"lr": 0.25}))
    (tmp_path / "history.json").write_text(json.dumps(trainer.history.to_json()))
    assert (run.config(), run.history()) == ({"lr": 0.5}, trainer.history)
    run.config_file.unlink()
    run.history_file.unlink()
    assert (run.config(), run.history()) == ({"lr": 0.25}, trainer.history)
    with pytest.raises(CheckpointError, match="holds a run already"):
        RunDirectory(tmp_path, {})
    run.restore(resumed)
    for record in resumed.history.epochs:
        record.steps = 0
    fit(resumed, digits, run, epochs=1)
    assert run.history_file.name == "history.jsonl"
    assert run.history() == resumed.history


HOLD = """
import sys
from xpcnn.train import RunDirectory
with RunDirectory(sys.argv[1]).writing():
    print("inside", flush=True)
    sys.stdin.read()
"""


@pytest.mark.process
@pytest.mark.skipif(os.name != "posix", reason="needs flock")
def test_one_process_at_a_time(tmp_path: Path, new_trainer: Any, digits: Dataset) -> None:
    run = RunDirectory(tmp_path, {"lr": 1})
    with start(HOLD, tmp_path) as other:
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


@pytest.mark.skipif(os.name != "posix", reason="needs flock")
def test_one_of_two_that_begin_at_once_is_let_in(tmp_path: Path, monkeypatch: Any) -> None:
    """The other comes while the first looks whether there is a run already."""
    find, others = RunDirectory.config_file.fget, [{"who": 2}]  # type: ignore[attr-defined]

    def look(run: RunDirectory) -> Path:
        if others:
            with pytest.raises(CheckpointError, match="is writing in this folder"):
                RunDirectory(tmp_path, others.pop())
        path: Path = find(run)
        return path

    monkeypatch.setattr(RunDirectory, "config_file", property(look))
    assert RunDirectory(tmp_path, {"who": 1}).config() == {"who": 1}


def test_two_trainings_of_one_process(tmp_path: Path, new_trainer: Any, digits: Dataset) -> None:
    run, trainer = RunDirectory(tmp_path, {}), new_trainer()

    def nested(_: Trainer) -> None:
        for same in (run, RunDirectory(tmp_path)):
            with pytest.raises(CheckpointError, match=r"writ(es|ing) in this folder"):
                fit(new_trainer(seed=7), digits, same, epochs=1)

    fit(trainer, digits, run, after_each_epoch(nested), epochs=1)
    assert run.history() == trainer.history


@pytest.mark.parametrize("damage", ["cut", "empty", "missing", "no checkpoint"])
def test_a_damaged_checkpoint_is_replaced_by_the_one_before(
    tmp_path: Path, new_trainer: Any, digits: Dataset, same_bits: Any, caplog: Any, damage: str
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


def test_without_a_whole_checkpoint(tmp_path: Path, new_trainer: Any) -> None:
    run, trainer = RunDirectory(tmp_path, {}), new_trainer()
    run.restore(trainer)  # there is none yet
    run.checkpoint_file.write_bytes(b"")
    run.previous_checkpoint_file.write_bytes(b"")
    both = rf"(?s)no checkpoint is whole: .*{run.checkpoint_file.name}: .*; .*-previous\.safetensors: "
    with pytest.raises(CheckpointError, match=both):
        run.restore(trainer)
    assert trainer.steps == 0


@pytest.mark.parametrize("error", [KeyboardInterrupt, DivergenceError])
def test_what_ends_a_step_keeps_the_last_epochs_checkpoint_and_the_history(
    tmp_path: Path, new_trainer: Any, digits: Dataset, monkeypatch: Any, error: type[BaseException]
) -> None:
    """An interrupt in the middle of an update, and a divergence."""
    run, trainer, restored = RunDirectory(tmp_path, CONFIG), new_trainer(), new_trainer()
    update = trainer.optimizer.step

    def cut(grads: Any) -> None:
        if trainer.steps == 7:
            raise error
        update(grads)

    monkeypatch.setattr(trainer.optimizer, "step", cut)
    with pytest.raises(error):
        fit(trainer, digits, run)
    run.restore(restored)
    assert (restored.steps, len(run.history().losses)) == (5, 7)


def test_a_run_that_is_killed_while_saving_does_the_epoch_again(
    new_trainer: Any, digits: Dataset, tmp_path: Path, monkeypatch: Any
) -> None:
    """The checkpoint is the last of the epoch's files but for the history, which it holds too."""
    run = RunDirectory(tmp_path, {})

    def killed(path: Any, trainer: Any) -> None:
        assert run.best_file.exists()
        assert run.weights_file.exists()
        raise RuntimeError("killed")

    monkeypatch.setattr("xpcnn.train.run.save_checkpoint", killed)
    with pytest.raises(RuntimeError, match="killed"):
        fit(new_trainer(), digits, run, epochs=1)
    assert not run.checkpoint_file.exists()


HISTORIES: dict[str, tuple[Callable[[list[bytes]], list[bytes]], str]] = {
    "none": (lambda lines: [], ""),
    "an epoch less": (lambda lines: lines[:1], ""),
    "more": (lambda lines: [*lines, b'{"losses": [0.5, null], "interrupted": true}\n'], ""),
    "half a line": (lambda lines: [*lines, b'{"losses": [1.0'], "told"),
    "a line without its end": (lambda lines: [*lines, b'{"losses": [2.0]}'], "told"),
    "a bad last line": (lambda lines: [*lines, b'{"losses": 3}\n'], "line 3"),
    "a bad line": (lambda lines: [lines[0], b"\xff\x1b}\n", lines[1]], "line 2"),
}


@pytest.mark.parametrize("found", HISTORIES)
def test_a_resumed_run_mends_its_history(
    tmp_path: Path, new_trainer: Any, digits: Dataset, caplog: Any, found: str
) -> None:
    """Its checkpoint has all of it: a kill may come between the two, or while a line is written."""
    run, trainer, resumed = RunDirectory(tmp_path, {}), new_trainer(), new_trainer()
    fit(trainer, digits, run)
    change, damage = HISTORIES[found]
    whole = run.history_file.read_bytes()
    run.history_file.write_bytes(b"".join(change(whole.splitlines(keepends=True))))
    if damage == "told":  # of the last line
        assert run.history() == trainer.history
        (note,) = (record.getMessage() for record in caplog.records)
        assert note == f"{run.history_file}: unreadable: line 3 was not written whole; it is left out"
    elif damage:
        with pytest.raises(CheckpointError, match=rf"history\.jsonl: unreadable: {damage}"):
            run.history()
    run.restore(resumed)
    fit(resumed, digits, run, epochs=1)
    assert run.history() == resumed.history
    assert len(run.history().epochs) == 3
    assert run.history_file.read_bytes().startswith(whole)


def test_a_torn_line_is_overwritten(tmp_path: Path, new_trainer: Any, digits: Dataset) -> None:
    """As a disk that was full for a while leaves one."""
    run, trainer = RunDirectory(tmp_path, {}), new_trainer()

    def tear(_: Trainer) -> None:
        with open(run.history_file, "ab") as file:
            file.write(b'{"losses": [1.0')

    fit(trainer, digits, run, after_each_epoch(tear))
    assert run.history() == trainer.history


def other_pixel(digits: Dataset) -> Dataset:
    images = digits.images[:100].copy()
    images[6, 0, 10, 16] ^= 77
    return Dataset(images, digits.labels[:100], 10)


OTHERS: dict[str, Callable[[Dataset], Dataset]] = {
    "one label": lambda digits: Dataset(
        digits.images[:100], np.r_[digits.labels[:99], (digits.labels[99] + 1) % 10], 10
    ),
    "one pixel": other_pixel,
    "more classes": lambda digits: Dataset(digits.images[:100], digits.labels[:100], 11),
}


@pytest.mark.parametrize("other", OTHERS)
def test_a_resumed_run_refuses_other_data(
    tmp_path: Path, new_trainer: Any, digits: Dataset, other: str
) -> None:
    run, resumed = RunDirectory(tmp_path, {}), new_trainer()
    fit(new_trainer(), digits, run, epochs=1)
    run.restore(resumed)
    message = r"begun with other data \(100 images .*\) than it is given now \("
    with pytest.raises(ArgumentError, match=message):
        resumed.fit(OTHERS[other](digits), None, 1, 20, progress=None, callbacks=[run])
    assert resumed.steps == 5
    fit(resumed, digits, run, epochs=1)
    assert resumed.steps == 10


def test_in_mid_epoch_only(new_trainer: Any, digits: Dataset, interrupted: Any) -> None:
    trainer = new_trainer()
    fit(trainer, digits, epochs=1)
    trainer.fit(digits[:60], None, 1, 20, progress=None)  # other data after a whole epoch
    interrupted(10, lambda: trainer.fit(digits, None, 1, 20, progress=None))
    assert trainer.epoch_samples
    with pytest.raises(ArgumentError, match="begun with other data"):
        trainer.fit(digits[:60], None, 1, 20, progress=None)


def test_another_batch_size_is_told(tmp_path: Path, new_trainer: Any, digits: Dataset, caplog: Any) -> None:
    trainer, resumed = new_trainer(), new_trainer()
    fit(trainer, digits, epochs=1)
    save_checkpoint(tmp_path / "c.npz", trainer)
    restore_checkpoint(tmp_path / "c.npz", resumed)
    fit(resumed, digits, epochs=1, batch=25)
    assert [record.getMessage() for record in caplog.records] == [
        "fit: this training was begun with batch_size=20 and goes on with batch_size=25"
    ]
    assert resumed.steps == 5 + 4


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


@pytest.mark.process
@pytest.mark.slow
@pytest.mark.skipif(not hasattr(signal, "SIGKILL"), reason="needs SIGKILL")
def test_killed_again_and_again(tmp_path: Path) -> None:
    """At random moments of saving and training; the last run ends with the bits of an unbroken one."""
    kills, epochs = int(os.environ.get("XPCNN_TEST_KILLS", "4")), 100
    rng, at = random.Random(0), []
    for name in ("broken", "whole"):
        (tmp_path / name).mkdir()
    for _ in range(kills):
        with start(TRAIN, tmp_path / "broken", epochs) as process:
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
