"""The datasets that commands take by name."""

from __future__ import annotations

from xpcnn.cli.parser import UsageError
from xpcnn.data import Dataset
from xpcnn.data.catalog import DATASETS, load_dataset

__all__ = ["DATASETS", "first", "load"]


def load(name: str) -> tuple[Dataset, Dataset]:
    """Return the training and the test set of that name."""
    return load_dataset(name)


def first(dataset: Dataset, samples: int | None, option: str) -> Dataset:
    """Return the first `samples` of a dataset, or all of it for None."""
    if samples is None:
        return dataset
    if samples > len(dataset):
        raise UsageError(f"{option} {samples}: {dataset.name} has {len(dataset)} such images")
    return dataset[:samples]
