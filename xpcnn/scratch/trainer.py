"""The book's trainer (``common/trainer.py``)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from xpcnn.arguments import whole
from xpcnn.backend import Array, backend_of
from xpcnn.errors import ArgumentError
from xpcnn.scratch import optimizer as optimizers
from xpcnn.scratch._arrays import samples, size_of
from xpcnn.scratch._namespace import random_of

__all__ = ["Trainer"]

_NAMES = ("SGD", "Momentum", "Nesterov", "AdaGrad", "RMSprop", "Adam")
_OPTIMIZERS = {name.lower(): getattr(optimizers, name) for name in _NAMES}


class Trainer:
    """Trains a network of the book's kind, one that has ``params``, ``gradient``, ``loss`` and ``accuracy``.

    Each epoch goes through all samples once, in a new order drawn by the global generator of their library
    (``np.random.seed`` repeats a run), the last batch being smaller where `mini_batch_size` does not divide.
    Accuracies are measured after each epoch. The book draws every batch with replacement, and measures after
    the first batch of an epoch, or hardly ever where the batch size does not divide.

    Parameters
    ----------
    network : object
    x_train, x_test : array (N, ...)
        On the backend of the network's parameters.
    t_train, t_test : array
        Labels (N,) or (N, 1), or one-hot rows (N, classes).
    epochs : int
    mini_batch_size : int
    optimizer : str
        "SGD", "Momentum", "Nesterov", "AdaGrad", "RMSprop" or "Adam", in any case.
    optimizer_param : dict
        Its arguments.
    evaluate_sample_num_per_epoch : int, optional
        Measure on the first n samples of each set, instead of on all.
    verbose : bool
        Print every loss and accuracy.

    Attributes
    ----------
    train_loss_list : list of float
        After each update, on the batch of that update.
    train_acc_list, test_acc_list : list of float
        One entry an epoch.
    optimizer : object
    current_iter, current_epoch, iter_per_epoch, max_iter : int

    Raises
    ------
    ArgumentError
        For an unknown optimiser, or an empty batch.
    ShapeError
        For an empty set, or other numbers of labels than of samples.

    Examples
    --------
    >>> from xpcnn.scratch import np
    >>> from xpcnn.scratch.simple_convnet import SimpleConvNet
    >>> np.random.seed(0)
    >>> x, t = np.random.rand(10, 1, 8, 8), np.arange(10)
    >>> network = SimpleConvNet((1, 8, 8), {"filter_num": 2, "filter_size": 3, "pad": 0, "stride": 1})
    >>> trainer = Trainer(network, x, t, x, t, epochs=2, mini_batch_size=4, verbose=False)
    >>> trainer.train()
    >>> len(trainer.train_loss_list), len(trainer.test_acc_list)
    (6, 2)
    """

    def __init__(
        self,
        network: Any,
        x_train: Array,
        t_train: Array,
        x_test: Array,
        t_test: Array,
        epochs: int = 20,
        mini_batch_size: int = 100,
        optimizer: str = "SGD",
        optimizer_param: Mapping[str, Any] = {"lr": 0.01},  # the book's default; only read
        evaluate_sample_num_per_epoch: int | None = None,
        verbose: bool = True,
    ) -> None:
        if optimizer.lower() not in _OPTIMIZERS:
            raise ArgumentError(f"Trainer: unknown optimizer {optimizer!r}; known: {', '.join(_OPTIMIZERS)}")
        self.network, self.verbose, self.epochs = network, verbose, epochs
        self.x_train, self.t_train = x_train, _labels("train", x_train, t_train)
        self.x_test, self.t_test = x_test, _labels("test", x_test, t_test)
        self.batch_size = whole("Trainer: mini_batch_size", mini_batch_size, 1)
        self.evaluate_sample_num_per_epoch = evaluate_sample_num_per_epoch
        self.optimizer = _OPTIMIZERS[optimizer.lower()](**optimizer_param)

        self.train_size = x_train.shape[0]
        self.iter_per_epoch = -(-self.train_size // self.batch_size)
        self.max_iter = epochs * self.iter_per_epoch
        self.current_iter = self.current_epoch = 0
        self.train_loss_list: list[float] = []
        self.train_acc_list: list[float] = []
        self.test_acc_list: list[float] = []

    def train_step(self) -> None:
        """Update the network by the next batch; after the last one of an epoch, measure the accuracies."""
        x_batch, t_batch = self._next_batch()
        grads = self.network.gradient(x_batch, t_batch)
        self.optimizer.update(self.network.params, grads)

        loss = float(self.network.loss(x_batch, t_batch))
        self.train_loss_list.append(loss)
        if self.verbose:
            print(f"train loss:{loss}")
        self.current_iter += 1
        if self.current_iter % self.iter_per_epoch == 0:
            self._finish_epoch()

    def train(self) -> None:
        """Train for all epochs, then measure the accuracy on the whole test set."""
        with backend_of(self.x_train).execution_context():
            for _ in range(self.max_iter):
                self.train_step()
            if self.verbose:
                accuracy = float(self.network.accuracy(self.x_test, self.t_test))
                print(f"=============== Final Test Accuracy ===============\ntest acc:{accuracy}")

    def _next_batch(self) -> tuple[Array, Array]:
        xp = backend_of(self.x_train).xp
        start = self.current_iter % self.iter_per_epoch * self.batch_size
        if start == 0:
            self._order = random_of(backend_of(self.x_train)).permutation(self.train_size)
        chosen = self._order[start : min(start + self.batch_size, self.train_size)]
        return xp.take(self.x_train, chosen, axis=0), xp.take(self.t_train, chosen, axis=0)

    def _finish_epoch(self) -> None:
        self.current_epoch += 1
        accuracies = []
        for x, t in ((self.x_train, self.t_train), (self.x_test, self.t_test)):
            first = slice(min(self.evaluate_sample_num_per_epoch or x.shape[0], x.shape[0]))
            accuracies.append(float(self.network.accuracy(x[first, ...], t[first, ...])))
        self.train_acc_list.append(accuracies[0])
        self.test_acc_list.append(accuracies[1])
        if self.verbose:
            print(f"=== epoch:{self.current_epoch}, train acc:{accuracies[0]}, test acc:{accuracies[1]} ===")


def _labels(part: str, x: Array, t: Array) -> Array:
    """Return `t` with labels (N, 1) as (N,), which every network of the book's kind takes."""
    _, t = samples(f"Trainer, {part} set", x, t)
    return backend_of(t).xp.reshape(t, (-1,)) if size_of(t) == t.shape[0] else t
