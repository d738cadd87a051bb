"""Checkpoints: what they refuse, and that a refusal changes nothing."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import xpcnn
from xpcnn import Trainer, io, models, optim
from xpcnn.data import Dataset
from xpcnn.errors import CheckpointError, StateDictError
from xpcnn.train import restore_checkpoint, save_checkpoint

NewTrainer = Callable[..., Trainer]


@pytest.fixture
def saved(new_trainer: NewTrainer, digits: Dataset, tmp_path: Path) -> Path:
    """A checkpoint in the middle of the second epoch."""
    trainer = new_trainer()
    trainer.fit(digits[:100], digits[:20], 1, 50, progress=None)
    trainer.history.losses.append(float(trainer.step(*digits[:50])))
    trainer.epoch_samples = 1
    save_checkpoint(tmp_path / "c.safetensors", trainer)
    return tmp_path / "c.safetensors"


def edited(path: Path, change: Callable[[dict[str, Any], dict[str, Any]], Any]) -> Path:
    """The same checkpoint after `change(arrays, metadata)`."""
    arrays, metadata = io.load_arrays(path)
    change(arrays, metadata)
    io.save_arrays(path, arrays, metadata)
    return path


def test_everything_comes_back(saved: Path, new_trainer: NewTrainer, same_bits: Any, digits: Dataset) -> None:
    trainer, again = new_trainer(), new_trainer()
    restore_checkpoint(saved, trainer)
    assert (trainer.steps, trainer.epoch, trainer.epoch_samples) == (3, 1, 1)
    assert len(trainer.history.losses) == 3
    assert len(trainer.history.epochs) == 1
    save_checkpoint(saved.with_suffix(".npz"), trainer)
    restore_checkpoint(saved.with_suffix(".npz"), again)
    assert same_bits(trainer, again)
    assert again.history == trainer.history


def test_the_learning_rate_is_the_saved_one(saved: Path, new_trainer: NewTrainer) -> None:
    trainer = new_trainer(lr=0.5)
    restore_checkpoint(saved, trainer)
    assert trainer.optimizer.lr == 1e-3


@pytest.mark.parametrize("backend", ["torch", "array_api_strict"])
def test_on_another_backend(
    saved: Path, new_trainer: NewTrainer, same_bits: Any, backend: str, digits: Dataset
) -> None:
    if reason := xpcnn.available_backends()[backend]:
        pytest.skip(reason)
    here = new_trainer()
    with xpcnn.use_backend(backend):
        there = new_trainer()
    for trainer in (here, there):
        restore_checkpoint(saved, trainer)
    assert there.model.backend.name == backend
    assert same_bits(here, there)
    there.fit(digits[:100], None, 1, 50, progress=None)
    assert there.model.backend.name == backend


def other_model(new_trainer: NewTrainer) -> Trainer:
    model = models.tiny_convnet()
    return Trainer(model, optim.Adam(model))


def other_shapes(new_trainer: NewTrainer) -> Trainer:
    trainer = new_trainer()
    trainer.model.fc = xpcnn.nn.Linear(144, 11, seed=0)
    return Trainer(trainer.model, optim.Adam(trainer.model))


MISFITS: dict[str, tuple[Callable[[NewTrainer], Trainer], type[Exception], str]] = {
    "seed": (lambda new: new(seed=1), CheckpointError, "seed 0, but this trainer has seed 1"),
    "model": (other_model, StateDictError, r"missing: fc\.weight|wrong shape"),
    "shapes": (other_shapes, StateDictError, r"fc\.weight is \(10, 144\) but the model has \(11, 144\)"),
    "optimizer": (lambda new: new(optimizer=optim.SGD), StateDictError, "Adam"),
}


@pytest.mark.parametrize("misfit", MISFITS)
def test_a_trainer_built_otherwise_is_left_as_it_was(
    saved: Path, new_trainer: NewTrainer, same_bits: Any, misfit: str
) -> None:
    build, error, message = MISFITS[misfit]
    trainer, untouched = build(new_trainer), build(new_trainer)
    with pytest.raises(error, match=message):
        restore_checkpoint(saved, trainer)
    assert same_bits(trainer, untouched)


def drop(name: str) -> Callable[[dict[str, Any], dict[str, Any]], Any]:
    return lambda arrays, metadata: (arrays if name in arrays else metadata).pop(name)


def put(name: str, value: Any) -> Callable[[dict[str, Any], dict[str, Any]], Any]:
    return lambda arrays, metadata: metadata.update({name: json.dumps(value)})


DAMAGE: dict[str, tuple[Callable[[dict[str, Any], dict[str, Any]], Any], str]] = {
    "no progress": (drop("progress"), "damaged checkpoint"),
    "no losses": (drop("history/losses"), "damaged checkpoint"),
    "progress of another kind": (put("progress", [1]), "damaged checkpoint"),
    "progress without steps": (put("progress", {"seed": 0}), "damaged checkpoint"),
    "history of another kind": (put("history", {"epochs": [{"no": 1}], "interrupted": False}), "damaged"),
    "optimizer of another kind": (put("optimizer", {}), "state of an optimi[sz]er"),
    "no JSON": (lambda _, metadata: metadata.update(progress="{"), "damaged checkpoint"),
    "a parameter less": (drop("model/fc.weight"), r"missing: fc\.weight"),
    "a slot less": (drop("optimizer/fc.weight/m"), r"fc\.weight"),
    "an unknown part": (lambda arrays, _: arrays.update({"other/x": np.ones(1)}), "damaged checkpoint"),
    "no kind": (drop("kind"), "not a checkpoint, but a file of weights"),
}


@pytest.mark.parametrize("damage", DAMAGE)
def test_a_damaged_checkpoint_changes_nothing(
    saved: Path, new_trainer: NewTrainer, same_bits: Any, damage: str
) -> None:
    change, message = DAMAGE[damage]
    trainer = new_trainer()
    with pytest.raises(CheckpointError, match=message):
        restore_checkpoint(edited(saved, change), trainer)
    assert same_bits(trainer, new_trainer())


def test_other_files(tmp_path: Path, new_trainer: NewTrainer) -> None:
    new_trainer().model.save(tmp_path / "weights.npz")
    (tmp_path / "garbage.npz").write_bytes(b"garbage")
    for name, message in (
        ("weights", "file of weights"),
        ("garbage", "not a readable"),
        ("absent", "no such"),
    ):
        with pytest.raises(CheckpointError, match=message):
            restore_checkpoint(tmp_path / f"{name}.npz", new_trainer())
