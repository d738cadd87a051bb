"""The datasets by the names they have on the command line."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any, TypeVar

from xpcnn.data.dataset import Dataset
from xpcnn.data.mnist import fashion_mnist, mnist
from xpcnn.data.synthetic import synthetic_digits
from xpcnn.errors import ArgumentError, DatasetError
from xpcnn.plugins import Registry, check_name

__all__ = ["DATASETS", "load_dataset", "register_dataset"]

Reader = Callable[[], tuple[Dataset, Dataset]]
Function = TypeVar("Function", bound=Reader)

_TRAINING_DIGITS, _HELD_OUT_DIGITS = 10_000, 2_000


def _check_reader(name: str, read: Function) -> Function:
    try:
        inspect.signature(read).bind()
    except (TypeError, ValueError) as error:
        raise ArgumentError(
            f"register_dataset: {name!r} must be a function that returns a training and a test set, and is "
            f"called without arguments: {error}"
        ) from None
    return read


DATASETS: Registry[Reader] = Registry("xpcnn.datasets", _check_reader)
"""Functions without arguments by name, each of which returns a training and a test set."""


def register_dataset(name: str) -> Callable[[Function], Function]:
    """Return a decorator that makes a dataset known by a name, as ``xpcnn train --dataset NAME`` takes it.

    The function takes no arguments, and returns a training and a test set. It is called when the dataset is
    used. Other distributions can bring one as an entry point of the group ``xpcnn.datasets``.

    Parameters
    ----------
    name : str
        A letter, then letters, digits, dots, hyphens and underscores.

    Raises
    ------
    ArgumentError
        For another spelling, a name that is taken, or what is no function without arguments.

    Examples
    --------
    >>> from xpcnn import data
    >>> @data.register_dataset("example-digits")
    ... def example_digits():
    ...     digits = data.synthetic_digits(30, seed=1)
    ...     return digits[:20], digits[20:]
    >>> train, test = data.load_dataset("example-digits")
    >>> len(train), len(test)
    (20, 10)
    """

    check_name("register_dataset", name)

    def decorate(read: Function) -> Function:
        DATASETS.add("register_dataset", name, _check_reader(name, read))
        return read

    return decorate


def load_dataset(name: str) -> tuple[Dataset, Dataset]:
    """Return the training and the test set of that name.

    Raises
    ------
    ArgumentError
        For an unknown name.
    DatasetError
        When it cannot be found or read; when the function that is registered returns something else.
    """
    if not isinstance(name, str) or name not in DATASETS:
        raise ArgumentError(f"unknown dataset {name!r:.60}; known: {', '.join(DATASETS)}")
    found: Any = DATASETS[name]()
    match found:
        case (Dataset() as train, Dataset() as test):
            return train, test
    raise DatasetError(
        f"the dataset {name!r} must be two, a training and a test set, each a xpcnn.data.Dataset; its "
        f"function returned {type(found).__name__}"
    )


@register_dataset("synthetic-digits")
def _synthetic_digits() -> tuple[Dataset, Dataset]:
    digits = synthetic_digits(_TRAINING_DIGITS + _HELD_OUT_DIGITS, seed=0)
    return digits[:_TRAINING_DIGITS], digits[_TRAINING_DIGITS:]


register_dataset("mnist")(mnist)
register_dataset("fashion-mnist")(fashion_mnist)
