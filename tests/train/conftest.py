"""What the tests of training share: a small model with every kind of state, small data, and Ctrl-C."""

from __future__ import annotations

import signal
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
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
def ctrl_c() -> Iterator[Callable[[], None]]:
    """Presses Ctrl-C, handled as in a program started from a terminal."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield lambda: signal.raise_signal(signal.SIGINT)
    signal.signal(signal.SIGINT, before)


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


def host_state(model: nn.Layer) -> dict[str, np.ndarray[Any, Any]]:
    return {name: xpcnn.to_numpy(array) for name, array in model.state_dict().items()}


@pytest.fixture
def same_bits() -> Callable[[Trainer, Trainer], bool]:
    """Tells whether two trainers stand at the same place with the same bits."""

    def everything(trainer: Trainer) -> list[Any]:
        optimizer = trainer.optimizer.state_dict()
        slots = optimizer.pop("state")
        schedule = trainer.schedule and trainer.schedule.state_dict()
        average = {} if trainer.average is None else trainer.average.state_dict()
        arrays = {
            **host_state(trainer.model),
            **{f"evaluated {path}": array for path, array in host_state(trainer.eval_model).items()},
            **{
                f"average {path}": xpcnn.to_numpy(array)
                for path, array in average.pop("averages", {}).items()
            },
            **{
                f"{path}/{name}": xpcnn.to_numpy(array)
                for path, entry in slots.items()
                for name, array in entry.items()
            },
        }
        raw = {name: (array.dtype.str, array.shape, array.tobytes()) for name, array in arrays.items()}
        counters = (trainer.steps, trainer.epoch, trainer.epoch_samples)
        accuracies = (trainer.history.train_accuracy, trainer.history.test_accuracy)
        techniques = (schedule, average)
        return [raw, optimizer, techniques, counters, trainer.history.losses, accuracies]

    return lambda a, b: everything(a) == everything(b)
