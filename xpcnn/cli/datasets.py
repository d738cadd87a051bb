"""The datasets by the names they have on the command line."""

from __future__ import annotations

from collections.abc import Callable

from xpcnn import data
from xpcnn.cli.parser import UsageError
from xpcnn.data import Dataset

__all__ = ["DATASETS", "first", "load"]

_TRAINING_DIGITS, _HELD_OUT_DIGITS = 10_000, 2_000


def _synthetic_digits() -> tuple[Dataset, Dataset]:
    digits = data.synthetic_digits(_TRAINING_DIGITS + _HELD_OUT_DIGITS, seed=0)
    return digits[:_TRAINING_DIGITS], digits[_TRAINING_DIGITS:]


DATASETS: dict[str, Callable[[], tuple[Dataset, Dataset]]] = {
    "synthetic-digits": _synthetic_digits,
    "mnist": lambda: data.mnist(),
    "fashion-mnist": lambda: data.fashion_mnist(),
}


def load(name: str) -> tuple[Dataset, Dataset]:
    """Return the training and the test set of that name."""
    return DATASETS[name]()


def first(dataset: Dataset, samples: int | None, option: str) -> Dataset:
    """Return the first `samples` of a dataset, or all of it for None."""
    if samples is None:
        return dataset
    if samples > len(dataset):
        raise UsageError(f"{option} {samples}: {dataset.name} has {len(dataset)} such images")
    return dataset[:samples]
