"""Batches in an order that is a pure function of the seed and the epoch."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

import numpy as np

from xpcnn.arguments import flag, whole
from xpcnn.data.dataset import Dataset
from xpcnn.errors import ArgumentError

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Batch = tuple[NDArray[Any], NDArray[Any]]
    Augment = Callable[[NDArray[Any], np.random.Generator], NDArray[Any]]

__all__ = ["Loader"]

_STREAM, _AUGMENT_STREAM = 1, 3  # set the loader's random streams apart from others of the same seed


class Loader:
    """Iterates over a dataset in batches, each sample once an epoch.

    ``loader.epoch(3)`` gives the same batches whatever was asked before, and ``loader.epoch(3, start=700)``
    the same samples from the 701st on. So a resumed run needs only the seed, the epoch and the number of
    samples done. ``for images, targets in loader`` is one epoch, and each new loop the next one.

    Parameters
    ----------
    dataset : Dataset
        Not copied. Shuffled batches are copies; unshuffled ones are views.
    batch_size : int
        Samples in a batch.
    shuffle : bool
        Draw a new order, without replacement, for every epoch.
    seed : int
        Not negative; it alone decides the orders and what `augment` draws.
    drop_last : bool
        Leave out a last batch of fewer than `batch_size` samples.
    augment : callable, optional
        ``augment(images, rng)`` returns the images to take instead, such as a transform of
        `xpcnn.data.augment`; it must not write to `images`. Each batch has a generator of its own, made from
        the seed, the epoch and the place of its first sample, so it draws the same wherever an epoch starts.

    Raises
    ------
    ArgumentError
        Something other than a `Dataset`, or an empty one, ``batch_size < 1``, a negative seed, or `drop_last`
        leaving no batch at all.

    Examples
    --------
    >>> from xpcnn.data import Loader, synthetic_digits
    >>> loader = Loader(synthetic_digits(250), batch_size=100)
    >>> len(loader), [len(labels) for images, labels in loader]
    (3, [100, 100, 50])
    >>> all_of_it, rest = list(loader.epoch(5)), list(loader.epoch(5, start=200))
    >>> bool((rest[0][1] == all_of_it[2][1]).all())
    True
    """

    def __init__(
        self,
        dataset: Dataset,
        batch_size: int = 100,
        *,
        shuffle: bool = True,
        seed: int = 0,
        drop_last: bool = False,
        augment: Augment | None = None,
    ) -> None:
        if not isinstance(dataset, Dataset):
            raise ArgumentError(f"Loader: dataset must be a Dataset, got {type(dataset).__name__}")
        if augment is not None and not callable(augment):
            raise ArgumentError(f"Loader: augment must be callable or None, got {type(augment).__name__}")
        self.dataset = dataset
        self.batch_size = whole("Loader: batch_size", batch_size, 1)
        self.shuffle = flag("Loader: shuffle", shuffle)
        self.seed = whole("Loader: seed", seed, 0)
        self.drop_last = flag("Loader: drop_last", drop_last)
        self.augment = augment
        self._next = 0
        if len(dataset) == 0:
            raise ArgumentError(f"Loader: {dataset!r} is empty")
        if len(self) == 0:
            raise ArgumentError(
                f"Loader: drop_last with batch_size={batch_size} leaves no batch of {len(dataset)} samples"
            )

    def __len__(self) -> int:
        """The number of batches in an epoch."""
        return self.batches()

    def batches(self, start: int = 0) -> int:
        """The number of batches that an epoch has left after its first `start` samples."""
        samples = len(self.dataset) - whole("Loader: start", start, 0)
        return samples // self.batch_size if self.drop_last else -(-samples // self.batch_size)

    def __iter__(self) -> Iterator[Batch]:
        """The next epoch: 0 in the first loop over this loader, 1 in the second; `epoch` names one."""
        self._next += 1
        return self.epoch(self._next - 1)

    def order(self, index: int) -> NDArray[np.int64]:
        """The positions (N,) int64 of the samples in the order that epoch `index` visits them."""
        index = whole("Loader: epoch", index, 0)
        if not self.shuffle:
            return np.arange(len(self.dataset))
        # Sorting raw 64-bit numbers: NumPy promises that these stay the same between releases, and makes no
        # such promise for Generator.permutation.
        numbers = self._random_bits(_STREAM, index).random_raw(len(self.dataset))
        return np.argsort(numbers, kind="stable")

    def epoch(self, index: int, start: int = 0) -> Iterator[Batch]:
        """The batches of epoch `index`, without its first `start` samples.

        Parameters
        ----------
        index : int
            The epoch, from 0.
        start : int
            Samples to skip, up to all of them (which leaves none). The batches begin there, so an epoch can
            be finished with another batch size.

        Yields
        ------
        images : ndarray, shape (B, C, H, W), the dataset's dtype unless `augment` changes it
        targets : ndarray, shape (B, ...), as the dataset holds them
        """
        index = whole("Loader.epoch: index", index, 0)
        start = whole("Loader.epoch: start", start, 0)
        if start > len(self.dataset):
            raise ArgumentError(f"Loader.epoch: start={start} is beyond its {len(self.dataset)} samples")
        return self._batches(index, start)

    def _batches(self, index: int, start: int) -> Iterator[Batch]:
        images, targets = self.dataset
        order = self.order(index) if self.shuffle else None
        for first in range(start, start + self.batches(start) * self.batch_size, self.batch_size):
            span = slice(first, first + self.batch_size)
            chosen = span if order is None else order[span]
            batch = images[chosen]
            if self.augment is not None:
                bits = self._random_bits(_AUGMENT_STREAM, index, first)
                batch = self.augment(batch, np.random.Generator(bits))
            yield batch, targets[chosen]

    def _random_bits(self, *key: int) -> np.random.Philox:
        return np.random.Philox(np.random.SeedSequence(self.seed, spawn_key=key))
