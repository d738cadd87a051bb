"""Checkpoints: that everything comes back, what they refuse, and that a refusal changes nothing."""

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
from xpcnn.train import amp, restore_checkpoint, save_checkpoint


@pytest.fixture
def saved(new_equipped: Any, digits: Dataset, tmp_path: Path) -> Path:
    """A checkpoint in the middle of the second epoch."""
    trainer = new_equipped()
    trainer.fit(digits[:100], digits[:20], 1, 50, progress=None)
    trainer.history.losses.append(float(trainer.step(*digits[:50])))
    trainer.epoch_samples = trainer.epoch_steps = 1
    save_checkpoint(tmp_path / "c.safetensors", trainer)
    return tmp_path / "c.safetensors"


def test_everything_comes_back(saved: Path, new_equipped: Any, same_bits: Any) -> None:
    trainer, again = new_equipped(), new_equipped()
    trainer.optimizer.lr = 0.5
    restore_checkpoint(saved, trainer)
    assert (trainer.steps, trainer.epoch, trainer.epoch_samples) == (3, 1, 1)
    assert (len(trainer.history.losses), len(trainer.history.epochs)) == (3, 1)
    assert (trainer.schedule.last_step, trainer.average.count) == (3, 3)
    assert trainer.optimizer.lr == trainer.schedule.lr_at(3)
    save_checkpoint(saved.with_suffix(".npz"), trainer)
    restore_checkpoint(saved.with_suffix(".npz"), again)
    assert same_bits(trainer, again)
    assert again.history == trainer.history


def test_what_a_plain_trainers_checkpoint_holds(new_trainer: Any, tmp_path: Path) -> None:
    save_checkpoint(tmp_path / "c.npz", new_trainer())
    arrays, metadata = io.load_arrays(tmp_path / "c.npz")
    assert set(metadata) == {"format_version", "kind", "progress", "optimizer", "history"}
    assert {name.partition("/")[0] for name in arrays} == {"model", "history"}
    names = {"seed", "steps", "epoch", "samples", "epoch_steps", "epoch_seconds", "data", "batch_size"}
    assert set(json.loads(metadata["progress"])) == names


@pytest.mark.slow
@pytest.mark.parametrize("backend", ["torch", "array_api_strict"])
def test_on_another_backend(
    saved: Path, new_equipped: Any, same_bits: Any, backend: str, digits: Dataset
) -> None:
    if reason := xpcnn.available_backends()[backend]:
        pytest.skip(reason)
    here = new_equipped()
    with xpcnn.use_backend(backend):
        there = new_equipped()
    for trainer in (here, there):
        restore_checkpoint(saved, trainer)
    assert same_bits(here, there)
    there.fit(digits[:100], None, 1, 50, progress=None)
    assert there.model.backend.name == backend


@pytest.fixture
def _quick_growth(monkeypatch: Any) -> None:
    monkeypatch.setattr(amp, "GROWTH_INTERVAL", 1)


def jitter(images: Any, rng: np.random.Generator) -> Any:
    """An augmentation: each image moved sideways by its own distance."""
    moves = rng.integers(-3, 4, len(images))
    return np.stack([np.roll(image, move, axis=2) for image, move in zip(images, moves, strict=True)])


BROKEN = [("numpy", None, 2), ("numpy", None, 5), *(("torch", d, 8) for d in (None, "float16", "bfloat16"))]


@pytest.mark.usefixtures("_quick_growth")
@pytest.mark.parametrize("case", BROKEN)
def test_a_resumed_run_has_the_bits_of_an_unbroken_one(
    new_equipped: Any, digits: Dataset, same_bits: Any, interrupted: Any, tmp_path: Path, case: Any
) -> None:
    """With every technique, and a loss scale that grows until it overflows."""
    backend, dtype, step = case
    if reason := xpcnn.available_backends()[backend]:
        pytest.skip(reason)
    with xpcnn.use_backend(backend):
        whole, broken, resumed = (new_equipped(dtype=dtype) for _ in range(3))

    def fit(trainer: Trainer, epochs: int) -> None:
        trainer.fit(digits[:90], digits[:40], epochs, 20, augment=jitter, progress=None)

    def scale(trainer: Trainer) -> Any:
        return trainer.loss_scale and trainer.loss_scale.state_dict()

    fit(whole, 3)
    interrupted(step, lambda: fit(broken, 3))
    assert broken.steps == step
    save_checkpoint(tmp_path / "c.safetensors", broken)
    restore_checkpoint(tmp_path / "c.safetensors", resumed)
    assert same_bits(broken, resumed)
    assert scale(broken) == scale(resumed)
    fit(resumed, 3 - resumed.epoch)
    assert same_bits(whole, resumed)
    assert scale(whole) == scale(resumed)


def changed(new: Any, **parts: Any) -> Trainer:
    """A trainer whose attributes are others; its optimiser is that of its model."""
    trainer = new()
    for name, part in parts.items():
        setattr(trainer, name, part)
    if parts.keys() & {"model", "optimizer"}:
        trainer.optimizer = parts.get("optimizer", optim.Adam)(trainer.model)
    return trainer


def with_a_wider_head(new: Any) -> Trainer:
    trainer = new()
    trainer.model.fc = xpcnn.nn.Linear(144, 11, seed=0)
    return changed(lambda: trainer, model=trainer.model)


MISFITS: dict[str, tuple[Callable[[Any], Trainer], type[Exception], str]] = {
    "seed": (lambda new: new(seed=1), CheckpointError, "with seed=0, but this trainer has seed=1"),
    "model": (
        lambda new: changed(new, model=models.tiny_convnet()),
        StateDictError,
        r"missing: fc\.weight|wrong shape",
    ),
    "shapes": (with_a_wider_head, StateDictError, r"fc\.weight is \(10, 144\) but the model has \(11, 144\)"),
    "optimizer": (lambda new: changed(new, optimizer=optim.SGD), StateDictError, "Adam"),
    "no schedule": (
        lambda new: changed(new, schedule=None),
        CheckpointError,
        "with schedule=…, but this trainer has schedule=None",
    ),
    "no average": (
        lambda new: changed(new, average=None),
        CheckpointError,
        "with average=…, but this trainer has average=None",
    ),
    "a longer schedule": (lambda new: new(steps=30), StateDictError, "T_max: saved 12, here 27"),
    "another decay": (lambda new: new(decay=0.5), StateDictError, "decay: saved 0.9, here 0.5"),
}


@pytest.mark.parametrize("misfit", MISFITS)
def test_a_trainer_built_otherwise_is_left_as_it_was(
    saved: Path, new_equipped: Any, same_bits: Any, misfit: str
) -> None:
    build, error, message = MISFITS[misfit]
    trainer, untouched = build(new_equipped), build(new_equipped)
    with pytest.raises(error, match=message):
        restore_checkpoint(saved, trainer)
    assert same_bits(trainer, untouched)


Change = Callable[[dict[str, Any], dict[str, Any]], Any]


def drop(name: str) -> Change:
    return lambda arrays, metadata: (arrays if name in arrays else metadata).pop(name)


def put(name: str, value: str) -> Change:
    return lambda arrays, metadata: metadata.update({name: value})


NO_RECORD = '{"epochs": [{"no": 1}], "interrupted": false}'
DAMAGE: dict[str, tuple[Change, str]] = {
    "no progress": (drop("progress"), "damaged checkpoint"),
    "no losses": (drop("history/losses"), "damaged checkpoint"),
    "losses that are no row": (
        lambda arrays, _: arrays.update({"history/losses": np.ones((2, 2))}),
        "history/losses is no list",
    ),
    "progress of another kind": (put("progress", "[1]"), "damaged checkpoint"),
    "progress without steps": (put("progress", '{"seed": 0}'), "damaged checkpoint"),
    "history of another kind": (put("history", NO_RECORD), "damaged checkpoint"),
    "optimizer of another kind": (put("optimizer", "{}"), "state of an optimi[sz]er"),
    "no JSON": (put("progress", "{"), "damaged checkpoint"),
    "a parameter less": (drop("model/fc.weight"), r"missing: fc\.weight"),
    "a slot less": (drop("optimizer/fc.weight/m"), r"fc\.weight"),
    "an unknown part": (lambda arrays, _: arrays.update({"other/x": np.ones(1)}), "damaged checkpoint"),
    "no kind": (drop("kind"), "not a checkpoint, but a file of weights"),
    "an average of another kind": (put("average", "[1]"), "damaged checkpoint"),
    "a schedule of another kind": (put("schedule", '{"no": 1}'), "not the state of a schedule"),
    "an average less": (drop("average/fc.weight"), r"missing: fc\.weight"),
    "averages of no average": (drop("average"), "average=None, but this trainer has average=…"),
}


@pytest.mark.parametrize("damage", DAMAGE)
def test_a_damaged_checkpoint_changes_nothing(
    saved: Path, new_equipped: Any, same_bits: Any, damage: str
) -> None:
    change, message = DAMAGE[damage]
    arrays, metadata = io.load_arrays(saved)
    change(arrays, metadata)
    io.save_arrays(saved, arrays, metadata)
    trainer = new_equipped()
    with pytest.raises(CheckpointError, match=message):
        restore_checkpoint(saved, trainer)
    assert same_bits(trainer, new_equipped())


def test_other_files(tmp_path: Path, new_trainer: Any) -> None:
    new_trainer().model.save(tmp_path / "weights.npz")
    (tmp_path / "garbage.npz").write_bytes(b"garbage")
    for name, message in (("weights", "of weights"), ("garbage", "not a readable"), ("absent", "no such")):
        with pytest.raises(CheckpointError, match=message):
            restore_checkpoint(tmp_path / f"{name}.npz", new_trainer())
