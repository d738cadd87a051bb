"""What the tests of training share: trainers of a small model, small data, and what is equal bit by bit."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

import xpcnn
from tests.support.train import small_model
from xpcnn import Trainer, data, nn, optim
from xpcnn.data import Dataset
from xpcnn.train import EpochRecord


@pytest.fixture
def new_model() -> Callable[..., nn.Sequential]:
    return small_model


@pytest.fixture
def new_trainer() -> Callable[..., Trainer]:
    """Makes trainers of the small model that are alike for like arguments."""

    def new(seed: int = 0, optimizer: Any = optim.Adam, dtype: str = "float32", **options: Any) -> Trainer:
        model = small_model(seed, dtype)
        return Trainer(model, optimizer(model, **options), seed=seed)

    return new


@pytest.fixture
def new_equipped() -> Callable[..., Trainer]:
    """Makes trainers with every technique that has a state or can change bits."""

    def new(steps: int = 15, decay: float = 0.9, seed: int = 0, dtype: Any = None) -> Trainer:
        model = small_model(seed)
        optimizer = optim.Adam(model, lr=3e-3)
        cosine = optim.CosineAnnealingLR(optimizer, steps - 3)
        schedule = optim.LinearWarmup(optimizer, 3, then=cosine)
        average = optim.WeightAverage(model, decay)
        options: Any = {"schedule": schedule, "average": average, "clip_norm": 0.5}
        return Trainer(model, optimizer, seed=seed, dtype=dtype, **options)

    return new


@pytest.fixture(scope="session")
def digits() -> Dataset:
    return data.synthetic_digits(230)


@pytest.fixture
def interrupted(monkeypatch: Any) -> Callable[[int, Callable[[], Any]], None]:
    """Calls a function that is interrupted when a trainer has done so many steps."""

    def call(steps: int, function: Callable[[], Any]) -> None:
        step = Trainer.step

        def cut(self: Trainer, x: Any, t: Any) -> Any:
            if self.steps == steps:
                raise KeyboardInterrupt
            return step(self, x, t)

        with monkeypatch.context() as patch:
            patch.setattr(Trainer, "step", cut)
            with pytest.raises(KeyboardInterrupt):
                function()

    return call


@pytest.fixture
def scripted(monkeypatch: Any) -> Callable[..., None]:
    """Lets epochs have these test accuracies, whatever the model."""

    def arrange(*accuracies: float) -> None:
        def record(**given: Any) -> EpochRecord:
            return EpochRecord(**(given | {"test_accuracy": accuracies[given["epoch"] - 1]}))

        monkeypatch.setattr("xpcnn.train.loop.EpochRecord", record)

    return arrange


def raw(value: Any) -> Any:
    """Nested state with each array as its dtype, shape and bytes."""
    if isinstance(value, dict):
        return {name: raw(item) for name, item in value.items()}
    if isinstance(value, list):
        return [raw(item) for item in value]
    if not hasattr(value, "shape"):
        return value
    array = xpcnn.to_numpy(value)
    return array.dtype.str, array.shape, array.tobytes()


@pytest.fixture
def same_bits() -> Callable[[Trainer, Trainer], bool]:
    """Tells whether two trainers stand at the same place with the same bits."""

    def everything(trainer: Trainer) -> Any:
        parts = [trainer.model, trainer.eval_model, trainer.optimizer, trainer.schedule, trainer.average]
        counters = [trainer.steps, trainer.epoch, trainer.epoch_samples]
        history = trainer.history
        measured = [history.losses, history.train_accuracy, history.test_accuracy]
        return raw([[part and part.state_dict() for part in parts], counters, measured])

    return lambda a, b: everything(a) == everything(b)
