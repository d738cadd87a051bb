"""Random search: what is drawn, what a trial is, how trials are ranked, and the page about it."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest

from xpcnn import Trainer, models, ops, optim
from xpcnn.data import Dataset
from xpcnn.errors import ArgumentError
from xpcnn.train import Trial, random_search, ranked, split

RANGES: dict[str, Any] = {"lr": (1e-4, 1e-1), "weight_decay": (1e-8, 1e-4)}


def build(lr: float, weight_decay: float, seed: int, **options: Any) -> Trainer:
    model = models.tiny_convnet(filters=2, seed=seed)
    return Trainer(model, optim.SGD(model, lr=lr, weight_decay=weight_decay), seed=seed, **options)


@pytest.fixture(scope="module")
def parts(digits: Dataset) -> tuple[Dataset, Dataset]:
    return split(digits[:50], 0.2)


def drawn(monkeypatch: Any, trials: int, seed: int = 0, **ranges: Any) -> np.ndarray:
    """The values of a search (trials, 2) that trains nothing."""
    with monkeypatch.context() as patch:
        patch.setattr(Trainer, "fit", lambda self, *given, **options: self.history)
        patch.setattr("xpcnn.train.History.test_accuracy", [0.5])
        trainer = build(0.1, 0.0, 0)
        found = random_search(lambda **values: trainer, None, None, trials=trials, seed=seed, **ranges)
        return np.array([(trial.lr, trial.weight_decay) for trial in found])


def test_logarithms_are_spread_evenly(monkeypatch: Any) -> None:
    values = drawn(monkeypatch, 2000)
    for column, (low, high) in zip(values.T, ((1e-6, 1e-2), (1e-8, 1e-4)), strict=True):
        assert low <= column.min() < column.max() <= high
        counts, _ = np.histogram(np.log10(column), bins=8, range=(math.log10(low), math.log10(high)))
        assert (np.abs(counts - 250) < 5 * math.sqrt(250)).all()
    assert abs(np.corrcoef(np.log10(values.T))[0, 1]) < 5 / math.sqrt(2000)
    assert set(drawn(monkeypatch, 3, lr=(0.3, 0.3))[:, 0]) == {0.3}


def test_values_are_a_function_of_seed_trial_and_name(monkeypatch: Any) -> None:
    first = drawn(monkeypatch, 5, seed=3, **RANGES)
    np.testing.assert_array_equal(drawn(monkeypatch, 7, seed=3, **RANGES)[:5], first)
    np.testing.assert_array_equal(drawn(monkeypatch, 5, seed=3, lr=(1e-4, 1e-1))[:, 0], first[:, 0])
    assert len(np.unique(np.stack([first, drawn(monkeypatch, 5, seed=4, **RANGES)]))) == 20
    # Of NumPy's raw bits, which no release changes.
    np.testing.assert_allclose(first[4], [0.004863371533030632, 3.3623633634654997e-07], rtol=1e-12)


def test_the_validation_set(digits: Dataset) -> None:
    train, validation = split(digits, 0.1, seed=2)
    assert (len(train), len(validation)) == (207, 23)
    rows = [image.tobytes() for part in (train, validation) for image in part.images]
    assert sorted(rows) == sorted(image.tobytes() for image in digits.images)
    assert (train.classes, train.name) == (digits.classes, digits.name)
    again, other = split(digits, 0.1, seed=2)[1], split(digits, 0.1, seed=3)[1]
    np.testing.assert_array_equal(again.images, validation.images)
    assert (other.images != validation.images).any()
    for share in (0.0, 1.0, -0.1, 0.001, 0.999, math.nan):
        with pytest.raises(ArgumentError, match=r"split: fraction .* of 230 samples leaves a part empty"):
            split(digits, share)


def test_each_trial_is_a_training_of_its_own(parts: tuple[Dataset, Dataset]) -> None:
    calls: list[dict[str, float]] = []

    def noting(**values: Any) -> Trainer:
        calls.append(values)
        return build(**values)

    found = random_search(noting, *parts, **RANGES, trials=1000, epochs=2, batch_size=20, seed=7)
    trials = [next(found), next(found)]  # each as it ends
    assert [trial.number for trial in trials] == [1, 2]
    assert calls == [{"lr": t.lr, "weight_decay": t.weight_decay, "seed": 7} for t in trials]
    for trial in trials:
        trainer = build(trial.lr, trial.weight_decay, 7)
        trainer.fit(*parts, epochs=2, batch_size=20, progress=None)
        assert trial.accuracy == trainer.evaluate(parts[1]).accuracy
        assert (trial.failure, trial.seconds > 0) == ("", True)


def test_a_training_that_diverges_is_a_trial(parts: tuple[Dataset, Dataset]) -> None:
    (trial,) = random_search(build, *parts, lr=(1e29, 1e30), trials=1, batch_size=20)
    assert trial.accuracy is None
    assert trial.failure
    assert "\n" not in trial.failure


def test_ranks() -> None:
    accuracies = [0.5, None, 0.75, 0.5, 0.0, None]
    trials = [Trial(number, 1e-3, 1e-6, accuracy, 1.2) for number, accuracy in enumerate(accuracies, start=1)]
    for order in (trials, trials[::-1]):
        assert [trial.number for trial in ranked(order)] == [3, 1, 4, 5, 2, 6]


def test_arguments(parts: tuple[Dataset, Dataset]) -> None:
    for option in ("trials", "epochs", "batch_size"):
        with pytest.raises(ArgumentError, match=f"random_search: {option} must be an integer of at least 1"):
            random_search(build, *parts, **{option: 0})
    for bounds in ((0, 1), (-1, 1), (1, 0.1), (1, math.inf), (math.nan, 1), (1, math.nan)):
        for name in ("lr", "weight_decay"):
            with pytest.raises(ArgumentError, match=rf"random_search: {name} must be \(low, high\)"):
                random_search(build, *parts, **{name: bounds})
    heights = Dataset(parts[0].images, np.zeros((len(parts[0]), 10), "float32"))
    with pytest.raises(ArgumentError, match="validation has no classes, so there is no accuracy"):
        list(random_search(lambda **v: build(**v, loss=ops.mean_squared_error), heights, heights, trials=1))
    with pytest.raises(ArgumentError, match="build must return a Trainer, got NoneType"):
        list(random_search(lambda **values: None, *parts, trials=1))  # type: ignore[arg-type, return-value]
