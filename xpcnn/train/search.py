"""Random search for a learning rate and a weight decay: many short trainings, with values drawn at random.

References
----------
Bergstra and Bengio, "Random search for hyper-parameter optimization", 2012; as in Saito, "Deep Learning from
Scratch", 2016, section 6.5.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

from xpcnn.arguments import whole
from xpcnn.backend import Key
from xpcnn.data import Dataset
from xpcnn.errors import ArgumentError, DivergenceError
from xpcnn.train.trainer import Trainer

__all__ = ["Trial", "random_search", "ranked", "split"]


@dataclass(frozen=True)
class Trial:
    """One training of a search; `failure` says why it has no validation accuracy: its loss diverged."""

    number: int
    lr: float
    weight_decay: float
    accuracy: float | None
    seconds: float
    failure: str = ""


def ranked(trials: Iterable[Trial]) -> list[Trial]:
    """Return trials by validation accuracy, best first: the earlier of equals, and those that diverged last.

    Examples
    --------
    >>> accuracies = {1: 0.12, 2: None, 3: 0.9}
    >>> trials = [Trial(number, 1e-3, 1e-6, accuracy, 0.5) for number, accuracy in accuracies.items()]
    >>> [trial.number for trial in ranked(trials)]
    [3, 1, 2]
    """
    return sorted(trials, key=lambda t: (t.accuracy is None, -(t.accuracy or 0.0), t.number))


def split(dataset: Dataset, fraction: float = 0.2, seed: int = 0) -> tuple[Dataset, Dataset]:
    """Return the larger and the smaller part of a dataset, parted at random, such as for validation.

    Parameters
    ----------
    dataset : Dataset
    fraction : float
        Of the second part, between 0 and 1.
    seed : int
        What the choice is a function of. The samples keep their order.

    Raises
    ------
    ArgumentError
        When one part would be empty.

    Examples
    --------
    >>> from xpcnn import data
    >>> [len(part) for part in split(data.synthetic_digits(500), 0.2)]
    [400, 100]
    """
    count = round(fraction * len(dataset)) if 0 < fraction < 1 else 0
    if not 0 < count < len(dataset):
        raise ArgumentError(f"split: fraction {fraction} of {len(dataset)} samples leaves a part empty")
    order = np.argsort(Key(seed).fold("split").generator().random(len(dataset)), kind="stable")
    return dataset[np.sort(order[count:])], dataset[np.sort(order[:count])]


def random_search(
    build: Callable[..., Trainer],
    train: Any,
    validation: Any,
    *,
    lr: tuple[float, float] = (1e-6, 1e-2),
    weight_decay: tuple[float, float] = (1e-8, 1e-4),
    trials: int = 100,
    epochs: int = 1,
    batch_size: int = 100,
    seed: int = 0,
) -> Iterator[Trial]:
    """Train with values drawn at random, many times, and yield what came of each as it ends.

    All trials are given the same seed: with the same initial weights and order of samples, what differs is
    the values alone. They are a function of the seed and the trial's number.

    Parameters
    ----------
    build : callable
        ``build(lr=…, weight_decay=…, seed=…)`` returns a new `Trainer`.
    train, validation : Dataset or (images, labels)
        The accuracy on the second ranks the trials. Take a part of the training data for it (see `split`),
        never the test set, which has to stay unseen until the search has chosen.
    lr, weight_decay : (float, float)
        The least and the greatest value. Logarithms are spread evenly: each power of ten is as likely.
    trials, epochs, batch_size : int
        How many trainings there are, and how long each is.
    seed : int

    Yields
    ------
    Trial
        See `ranked`. A training whose loss became NaN or infinite is one too, with the reason.

    Raises
    ------
    ArgumentError
        For arguments outside their allowed values, when `build` returns something else, and when the
        validation set has no classes.

    Examples
    --------
    >>> from xpcnn import Trainer, data, models, optim
    >>> def build(lr, weight_decay, seed):
    ...     model = models.tiny_convnet(seed=seed)
    ...     return Trainer(model, optim.SGD(model, lr=lr, weight_decay=weight_decay), seed=seed)
    >>> train, validation = split(data.synthetic_digits(100))
    >>> found = ranked(random_search(build, train, validation, lr=(1e-4, 1e-1), trials=3, batch_size=20))
    >>> found[0].accuracy >= found[-1].accuracy
    True
    """
    for name, count in (("trials", trials), ("epochs", epochs), ("batch_size", batch_size)):
        whole(f"random_search: {name}", count, 1)
    ranges = {"lr": lr, "weight_decay": weight_decay}
    for name, (low, high) in ranges.items():
        if not 0 < low <= high < math.inf:
            raise ArgumentError(
                f"random_search: {name} must be (low, high), 0 < low <= high, got {low}, {high}"
            )

    def run(number: int) -> Trial:
        start, accuracy, failure = time.perf_counter(), None, ""
        values = {name: _draw(name, low, high, seed, number) for name, (low, high) in ranges.items()}
        trainer = build(**values, seed=seed)
        if not isinstance(trainer, Trainer):
            raise ArgumentError(f"random_search: build must return a Trainer, got {type(trainer).__name__}")
        try:
            trainer.fit(train, validation, epochs, batch_size, evaluate_train=False, progress=None)
            accuracy = trainer.history.test_accuracy[-1]
            if accuracy is None:
                raise ArgumentError("random_search: validation has no classes, so there is no accuracy")
        except DivergenceError as error:
            failure = " ".join(str(error).split())
        seconds = time.perf_counter() - start
        return Trial(number, **values, accuracy=accuracy, seconds=seconds, failure=failure)

    return map(run, range(1, trials + 1))


def _draw(name: str, low: float, high: float, seed: int, trial: int) -> float:
    fraction = Key(seed).fold("random search").fold(trial).fold(name).generator().random()
    exponent = math.log10(low) + fraction * (math.log10(high) - math.log10(low))
    return min(max(10**exponent, low), high)
