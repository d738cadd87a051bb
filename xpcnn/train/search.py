"""Random search for hyper-parameters: many short trainings, each with values drawn at random.

References
----------
Bergstra and Bengio, "Random search for hyper-parameter optimization", 2012; as in Saito, "Deep Learning from
Scratch", 2016, section 6.5.
"""

from __future__ import annotations

import math
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from os import PathLike
from typing import Any, TextIO

import numpy as np

from xpcnn.backend import Key
from xpcnn.data import Dataset
from xpcnn.errors import ArgumentError, DivergenceError
from xpcnn.train.inputs import as_dataset
from xpcnn.train.search_results import SearchFile, SearchResults, Trial
from xpcnn.train.trainer import Trainer

__all__ = ["LogUniform", "draw_sample", "random_search", "split"]


@dataclass(frozen=True)
class LogUniform:
    """Numbers from `low` to `high` whose logarithms are spread evenly: each power of ten is as likely.

    Raises
    ------
    ArgumentError
        Unless both are finite, and ``0 < low <= high``.

    Examples
    --------
    >>> LogUniform(1e-6, 1e-2).at(0.5)
    0.0001
    """

    low: float
    high: float

    def __post_init__(self) -> None:
        if not 0 < self.low <= self.high < math.inf:
            raise ArgumentError(f"LogUniform: expected 0 < low <= high, got {self.low} and {self.high}")

    def at(self, share: float) -> float:
        """Return the number that this share of all draws, from 0 to 1, lies below."""
        low, high = math.log10(self.low), math.log10(self.high)
        return min(max(10 ** (low + share * (high - low)), self.low), self.high)


def draw_sample(space: Mapping[str, LogUniform], seed: int, trial: int) -> dict[str, float]:
    """Return the values of one trial: each a function of the seed, the trial's number and its own name.

    Examples
    --------
    >>> space = {"lr": LogUniform(1e-6, 1e-2), "weight_decay": LogUniform(1e-8, 1e-4)}
    >>> seventh = draw_sample(space, seed=0, trial=7)
    >>> seventh == draw_sample(space, seed=0, trial=7), seventh == draw_sample(space, seed=0, trial=8)
    (True, False)
    """
    key = Key(seed).fold("random search").fold(trial)
    # Of the raw bits, which NumPy promises to keep between releases: 53 fit into a float.
    return {name: kind.at((_bits(key.fold(name), 1)[0] >> 11) / (1 << 53)) for name, kind in space.items()}


def split(dataset: Dataset, share: float = 0.2, seed: int = 0) -> tuple[Dataset, Dataset]:
    """Return the larger and the smaller part of a dataset, parted at random, such as for validation.

    Parameters
    ----------
    dataset : Dataset
    share : float
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
    count = round(share * len(dataset)) if 0 < share < 1 else 0
    if not 0 < count < len(dataset):
        raise ArgumentError(
            f"split: share {share} of {len(dataset)} samples leaves a part empty; it must be between 0 and 1"
        )
    order = np.argsort(_bits(Key(seed).fold("split"), len(dataset)), kind="stable")
    return dataset[np.sort(order[count:])], dataset[np.sort(order[:count])]


def _bits(key: Key, count: int) -> list[int]:
    return [int(bits) for bits in key.generator().bit_generator.random_raw(count)]


def random_search(
    build: Callable[..., Trainer],
    space: Mapping[str, LogUniform],
    train: Any,
    validation: Any,
    *,
    trials: int = 100,
    epochs: int = 1,
    batch_size: int = 100,
    seed: int = 0,
    path: str | PathLike[str] | None = None,
    settings: Mapping[str, Any] | None = None,
    progress: TextIO | str | None = "auto",
) -> SearchResults:
    """Train with values drawn at random, many times, and return what came of each.

    All trials are given the same seed: with the same initial weights and order of samples, what differs is
    the sample alone.

    Parameters
    ----------
    build : callable
        ``build(**sample, seed=seed)`` returns a new `Trainer`, such as
        ``build(lr=1e-3, weight_decay=1e-6, seed=0)``.
    space : mapping of name to LogUniform
        What is drawn; see `draw_sample`.
    train, validation : Dataset or (images, labels)
        The accuracy on the second is what counts; `split` parts one set into both.
    trials, epochs, batch_size : int
        How many trainings there are, and how long each is.
    seed : int
    path : path, optional
        Of a file with one line of JSON for each trial, written as soon as it ends. If it is there, its
        trials are not run again, and those still lacking are added; `trials` may be more than before. A last
        line that was cut short is dropped, and its trial is run again.
    settings : mapping, optional
        What else decides the results, such as ``{"model": "lenet5"}``, as JSON can hold it: kept in the file,
        so that another search does not go on with it.
    progress : "auto", text stream or None
        Where each trial is told in a line; ``"auto"`` is stderr.

    Returns
    -------
    SearchResults
        ``print(results)`` shows them as a table, best first. A training whose loss became no number is
        among them, last, with the reason. On Ctrl-C the trials done until then are returned, with
        ``interrupted=True``.

    Raises
    ------
    ArgumentError
        For arguments outside their allowed values, or when `build` returns something else.
    CheckpointError
        When the file cannot be read or written, or is of another search.

    Examples
    --------
    >>> from xpcnn import Trainer, data, models, optim
    >>> def build(lr, seed):
    ...     model = models.tiny_convnet(seed=seed)
    ...     return Trainer(model, optim.SGD(model, lr=lr), seed=seed)
    >>> train, validation = split(data.synthetic_digits(100))
    >>> space = {"lr": LogUniform(1e-4, 1e-1)}
    >>> results = random_search(build, space, train, validation, trials=3, batch_size=20, progress=None)
    >>> len(results.trials), results.best is results.ranked[0]
    (3, True)
    """
    train, validation = as_dataset(train), as_dataset(validation)
    if min(trials, epochs, batch_size) < 1:
        raise ArgumentError(
            f"random_search: trials, epochs and batch_size must be at least 1, "
            f"got {trials}, {epochs} and {batch_size}"
        )
    if not space or "seed" in space:
        raise ArgumentError(
            f"random_search: space must name what is drawn, and not 'seed', got "
            f"{', '.join(space) or 'nothing'}"
        )

    stream = sys.stderr if progress == "auto" else progress
    if isinstance(stream, str):
        raise ArgumentError(f"random_search: progress must be 'auto', a stream or None, got {progress!r}")
    results, file = SearchResults(), None
    if path is not None:
        header = {
            "seed": seed,
            "space": {name: {"log-uniform": [kind.low, kind.high]} for name, kind in space.items()},
            "epochs": epochs,
            "batch_size": batch_size,
            "training set": [train.name, len(train)],
            "validation set": [validation.name, len(validation)],
            "settings": dict(settings or {}),
        }
        file = SearchFile(path, header)
        results.trials += file.begin(lambda number: draw_sample(space, seed, number))
    done = {trial.number for trial in results.trials}
    if done:
        _tell(stream, f"{len(done)} trials were done before, in {path}")
    fit = {"train": train, "test": validation, "epochs": epochs, "batch_size": batch_size}
    try:
        for number in range(1, trials + 1):
            if number not in done:
                trial = _run(build, number, draw_sample(space, seed, number), seed, fit)
                if file is not None:
                    file.append(trial)
                results.trials.append(trial)
                best = "  the best so far" if results.best is trial else ""
                _tell(stream, f"trial {number:{len(str(trials))}d} of {trials}  {trial}{best}")
    except KeyboardInterrupt:
        results.interrupted = True
    return results


def _run(
    build: Callable[..., Trainer], number: int, sample: dict[str, float], seed: int, fit: Mapping[str, Any]
) -> Trial:
    begun, failure = time.perf_counter(), None
    trainer = build(**sample, seed=seed)
    if not isinstance(trainer, Trainer):
        raise ArgumentError(f"random_search: build must return a Trainer, got {type(trainer).__name__}")
    try:
        trainer.fit(**fit, progress=None)
    except DivergenceError as error:
        failure = str(error)
    history, seconds = trainer.history, round(time.perf_counter() - begun, 3)
    validation_accuracy = [accuracy for accuracy in history.test_accuracy if accuracy is not None]
    return Trial(number, sample, history.train_accuracy, validation_accuracy, seconds, failure)


def _tell(stream: TextIO | None, line: str) -> None:
    if stream is not None:
        print(line, file=stream, flush=True)
