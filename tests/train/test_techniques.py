"""A trainer with a schedule, clipped gradients, averaged weights and augmented images."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import xpcnn
from xpcnn import Key, Trainer, io, load_model, models, nn, ops, optim
from xpcnn.data import Dataset
from xpcnn.errors import ArgumentError, CheckpointError, DivergenceError, StateDictError
from xpcnn.train import ProgressLines, RunDirectory, evaluate, restore_checkpoint, save_checkpoint

NewTrainer = Callable[..., Trainer]


def jitter(images: Any, rng: np.random.Generator) -> Any:
    """An augmentation: each image moved sideways by its own distance."""
    moves = rng.integers(-3, 4, len(images))
    return np.stack([np.roll(image, move, axis=2) for image, move in zip(images, moves, strict=True)])


# -- one step ----------------------------------------------------------------------------


def test_a_step_clips_updates_schedules_and_averages(new_model: Callable[..., Any], digits: Dataset) -> None:
    """Against the same written out."""
    model, other = new_model(dtype="float64"), new_model(dtype="float64")
    optimizer = optim.SGD(model, lr=0.8)
    schedule = optim.StepLR(optimizer, 1, gamma=0.5)
    average = optim.WeightAverage(model, decay=0.25)
    trainer = Trainer(model, optimizer, schedule=schedule, clip_norm=0.5, average=average)
    averages = {path: p.data.copy() for path, p in other.parameters().items()}
    clipped = 0
    for number in range(3):
        images, labels = digits[10 * number : 10 * number + 10]
        trainer.step(images, labels)
        y, ctx = other.forward(images / 255, train=True, key=Key(0).fold("step").fold(number))
        grads = nn.Gradients()
        other.backward(
            ctx, ops.softmax_cross_entropy.backward(ops.softmax_cross_entropy(y, labels)[1]), grads
        )
        norm = math.sqrt(sum(float((gradient**2).sum()) for _, gradient in grads.items()))
        clipped += norm > 0.5
        for parameter, gradient in grads.items():
            parameter.data = parameter.data - 0.8 * 0.5**number * min(1, 0.5 / norm) * gradient
        keep = min(0.25, (1 + number) / (10 + number))
        for path, parameter in other.parameters().items():
            averages[path] = keep * averages[path] + (1 - keep) * parameter.data
    assert clipped == 3
    assert optimizer.lr == 0.8 * 0.5**3
    for path, parameter in other.parameters().items():
        np.testing.assert_allclose(model.parameters()[path].data, parameter.data, rtol=1e-4, atol=1e-6)
        ours = trainer.eval_model.parameters()[path].data
        np.testing.assert_allclose(ours, averages[path], rtol=1e-4, atol=1e-6)


def test_what_is_evaluated(new_trainer: NewTrainer, new_equipped: NewTrainer, digits: Dataset) -> None:
    plain, averaging = new_trainer(), new_equipped()
    assert plain.eval_model is plain.model
    assert averaging.average is not None
    assert averaging.eval_model is averaging.average.model
    history = averaging.fit(digits[:100], digits[100:], 2, 20, progress=None)
    expected = evaluate(averaging.average.model, digits[100:])
    assert averaging.evaluate(digits[100:]) == expected
    assert history.test_accuracy[-1] == expected.accuracy
    assert history.train_accuracy[-1] == evaluate(averaging.average.model, digits[:100]).accuracy
    assert averaging.evaluate(digits[100:]).loss != evaluate(averaging.model, digits[100:]).loss


def test_refusals(new_model: Callable[..., Any]) -> None:
    model, optimizer = new_model(), optim.SGD(other := new_model())
    schedule = optim.ExponentialLR(optim.SGD(other), 0.9)
    with pytest.raises(ArgumentError, match=r"Trainer: schedule=ExponentialLR\(gamma=0.9\) is for another"):
        Trainer(other, optimizer, schedule=schedule)
    for norm in (0.0, -1.0, math.nan):
        with pytest.raises(ArgumentError, match=r"Trainer: clip_norm must be (above 0|a finite number), got"):
            Trainer(model, optim.SGD(model), clip_norm=norm)
    with pytest.raises(ArgumentError, match="average= is of another model"):
        Trainer(model, optim.SGD(model), average=optim.WeightAverage(new_model()))
    for strange in (3, "step", [], np.zeros(3)):
        with pytest.raises(ArgumentError, match="Trainer: schedule"):
            Trainer(model, optim.SGD(model), schedule=strange)  # type: ignore[arg-type]
        with pytest.raises(ArgumentError, match="Trainer: average"):
            Trainer(model, optim.SGD(model), average=strange)  # type: ignore[arg-type]


def test_divergence_names_the_rate_of_its_step(digits: Dataset) -> None:
    model = models.tiny_convnet()
    optimizer = optim.SGD(model, lr=1e-3)
    schedule = optim.StepLR(optimizer, 4, gamma=1e33)
    trainer = Trainer(model, optimizer, schedule=schedule)
    # Step 5, the first of rate 1e30, ruins the weights, and step 6 shows it.
    with pytest.raises(DivergenceError, match=r"step 6 \(epoch 1\) with learning rate 1e\+30;"):
        trainer.fit(digits[:200], None, 2, 20, progress=None)


def test_the_learning_rate_in_the_log(
    new_trainer: NewTrainer, new_equipped: NewTrainer, digits: Dataset, capsys: pytest.CaptureFixture[str]
) -> None:
    for trainer, told in ((new_trainer(), False), (new_equipped(), True)):
        trainer.fit(digits[:100], None, 1, 20, progress=ProgressLines())
        assert (f"  lr {trainer.optimizer.lr:.2e}  " in capsys.readouterr().err) is told


# -- augmentation ------------------------------------------------------------------------


def test_augmentation_changes_the_training_batches_and_nothing_else(
    new_trainer: NewTrainer, digits: Dataset, monkeypatch: pytest.MonkeyPatch
) -> None:
    trainer, seen = new_trainer(), []
    step = trainer.step

    def noting(x: Any, t: Any) -> Any:
        seen.append((x.copy(), t.copy()))
        return step(x, t)

    monkeypatch.setattr(trainer, "step", noting)
    train = digits[:100]
    before = train.images.copy()
    history = trainer.fit(train, None, 1, 50, augment=lambda images, rng: 255 - images, progress=None)
    np.testing.assert_array_equal(train.images, before)
    known = {image.tobytes(): label for image, label in zip(train.images, train.labels, strict=True)}
    for images, labels in seen:
        assert [known[(255 - image).tobytes()] for image in images] == labels.tolist()
    assert history.train_accuracy[-1] == evaluate(trainer.model, train).accuracy


# -- resuming ----------------------------------------------------------------------------


@pytest.mark.parametrize("backend", ["numpy", "torch"])
@pytest.mark.parametrize("step", [2, 5, 8])
def test_a_resumed_run_has_the_bits_of_an_unbroken_one(
    new_equipped: NewTrainer,
    digits: Dataset,
    same_bits: Any,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    backend: str,
    step: int,
) -> None:
    if reason := xpcnn.available_backends()[backend]:
        pytest.skip(reason)
    with xpcnn.use_backend(backend):
        whole, broken, resumed = (new_equipped() for _ in range(3))

    def fit(trainer: Trainer, epochs: int) -> None:
        trainer.fit(digits[:90], digits[:40], epochs, 20, augment=jitter, progress=None)

    fit(whole, 3)
    original = Trainer.step

    def interrupted(self: Trainer, x: Any, t: Any) -> Any:
        if self.steps == step:
            raise KeyboardInterrupt
        return original(self, x, t)

    with monkeypatch.context() as patch:
        patch.setattr(Trainer, "step", interrupted)
        with pytest.raises(KeyboardInterrupt):
            fit(broken, 3)
    assert broken.steps == step
    save_checkpoint(tmp_path / "c.safetensors", broken)
    restore_checkpoint(tmp_path / "c.safetensors", resumed)
    assert same_bits(broken, resumed)
    fit(resumed, 3 - resumed.epoch)
    assert same_bits(whole, resumed)


# -- checkpoints -------------------------------------------------------------------------


@pytest.fixture
def saved(new_equipped: NewTrainer, digits: Dataset, tmp_path: Path) -> Path:
    trainer = new_equipped()
    trainer.fit(digits[:60], None, 1, 20, progress=None)
    save_checkpoint(tmp_path / "c.npz", trainer)
    return tmp_path / "c.npz"


def test_a_checkpoint_holds_schedule_and_average(
    saved: Path, new_equipped: NewTrainer, same_bits: Any
) -> None:
    trainer, again = new_equipped(), new_equipped()
    restore_checkpoint(saved, trainer)
    assert trainer.schedule is not None
    assert trainer.average is not None
    assert (trainer.schedule.last_step, trainer.average.count) == (3, 3)
    assert trainer.optimizer.lr == trainer.schedule.lr_at(3)
    save_checkpoint(saved.with_suffix(".safetensors"), trainer)
    restore_checkpoint(saved.with_suffix(".safetensors"), again)
    assert same_bits(trainer, again)


def without(new_equipped: NewTrainer, *names: str) -> Trainer:
    trainer = new_equipped()
    for name in names:
        setattr(trainer, name, None)
    return trainer


MISFITS: dict[str, tuple[Callable[[NewTrainer], Trainer], type[Exception], str]] = {
    "no schedule": (
        lambda new: without(new, "schedule"),
        CheckpointError,
        r"c\.npz: was trained with a schedule, but this trainer has none; give it schedule=",
    ),
    "no average": (
        lambda new: without(new, "average"),
        CheckpointError,
        r"c\.npz: was trained with an average of the weights, but this trainer has none; give it average=",
    ),
    "a longer schedule": (lambda new: new(steps=30), StateDictError, "T_max: saved 12, here 27"),
    "another decay": (lambda new: new(decay=0.5), StateDictError, "decay: saved 0.9, here 0.5"),
}


@pytest.mark.parametrize("misfit", MISFITS)
def test_a_trainer_built_otherwise_is_left_as_it_was(
    saved: Path, new_equipped: NewTrainer, same_bits: Any, misfit: str
) -> None:
    build, error, message = MISFITS[misfit]
    trainer, untouched = build(new_equipped), build(new_equipped)
    with pytest.raises(error, match=message):
        restore_checkpoint(saved, trainer)
    assert same_bits(trainer, untouched)


@pytest.mark.parametrize(("name", "what"), [("schedule", "a schedule"), ("average", "an average")])
def test_a_checkpoint_without_either(
    new_equipped: NewTrainer, same_bits: Any, tmp_path: Path, name: str, what: str
) -> None:
    save_checkpoint(tmp_path / "c.npz", without(new_equipped, name))
    trainer = new_equipped()
    with pytest.raises(CheckpointError, match=f"was trained without {what}.*, but this trainer has one"):
        restore_checkpoint(tmp_path / "c.npz", trainer)
    assert same_bits(trainer, new_equipped())


DAMAGE: dict[str, tuple[Callable[[dict[str, Any], dict[str, Any]], Any], str]] = {
    "an average of another kind": (
        lambda arrays, metadata: metadata.update(average="[1]"),
        "damaged checkpoint",
    ),
    "a schedule of another kind": (
        lambda arrays, metadata: metadata.update(schedule='{"no": 1}'),
        "not the state of a schedule",
    ),
    "an average less": (lambda arrays, metadata: arrays.pop("average/fc.weight"), r"missing: fc\.weight"),
    "averages of no average": (
        lambda arrays, metadata: metadata.pop("average"),
        "was trained without an average",
    ),
}


@pytest.mark.parametrize("damage", DAMAGE)
def test_a_damaged_checkpoint_changes_nothing(
    saved: Path, new_equipped: NewTrainer, same_bits: Any, damage: str
) -> None:
    change, message = DAMAGE[damage]
    arrays, metadata = io.load_arrays(saved)
    change(arrays, metadata)
    io.save_arrays(saved, arrays, metadata)
    trainer = new_equipped()
    with pytest.raises(CheckpointError, match=message):
        restore_checkpoint(saved, trainer)
    assert same_bits(trainer, new_equipped())


def test_a_plain_trainers_checkpoint_is_what_it_was_before_there_were_techniques(
    new_trainer: NewTrainer, tmp_path: Path
) -> None:
    save_checkpoint(tmp_path / "c.npz", new_trainer())
    arrays, metadata = io.load_arrays(tmp_path / "c.npz")
    assert set(metadata) == {"format_version", "kind", "progress", "optimizer", "history"}
    assert {name.partition("/")[0] for name in arrays} == {"model", "history"}
    assert set(json.loads(metadata["progress"])) == {
        "seed",
        "steps",
        "epoch",
        "samples",
        "epoch_steps",
        "epoch_seconds",
        "data",
        "batch_size",
    }


# -- what a run's files hold -------------------------------------------------------------


def test_a_run_saves_the_averages_and_what_images_they_take(tmp_path: Path, digits: Dataset) -> None:
    model = models.tiny_convnet()
    optimizer = optim.SGD(model, lr=0.1)
    trainer = Trainer(model, optimizer, average=optim.WeightAverage(model, 0.9))
    run = RunDirectory(tmp_path, {})
    trainer.fit(digits[:100], digits[:20], 1, 20, progress=None, callbacks=[run])
    for file in (run.weights_file, run.best_file):
        loaded = load_model(file)
        for path, parameter in loaded.parameters().items():
            np.testing.assert_array_equal(parameter.data, trainer.eval_model.parameters()[path].data)
            assert not np.array_equal(parameter.data, model.parameters()[path].data)
        assert loaded.spec is not None
        assert loaded.spec.input_shape == (1, 28, 28)


def test_the_images_are_noted_in_the_spec(digits: Dataset, tmp_path: Path) -> None:
    model = models.resnet20(in_channels=1, seed=0)
    assert model.spec is not None
    assert model.spec.input_shape is None
    model.save(tmp_path / "untrained.npz")
    small = Dataset(digits.images[:20, :, 4:24, 4:20], digits.labels[:20], name="small")
    Trainer(model, optim.SGD(model)).fit(small, None, 1, 20, evaluate_samples=1, progress=None)
    model.save(tmp_path / "trained.npz")
    shapes = [load_model(tmp_path / f"{name}.npz").spec for name in ("untrained", "trained")]
    assert [spec and spec.input_shape for spec in shapes] == [None, (1, 20, 16)]
