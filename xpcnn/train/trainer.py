"""The training loop: forward, loss, backward, update, and what is measured on the way."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from xpcnn import ops
from xpcnn.backend import Array, Key
from xpcnn.backend.numbers import flag, positive, whole
from xpcnn.data import Dataset, Loader
from xpcnn.nn import Layer, value_and_grad
from xpcnn.nn.preprocess import backend_like, like_of, to_images, to_targets
from xpcnn.nn.value_and_grad import Loss, as_loss
from xpcnn.optim import Optimizer, Schedule, WeightAverage, clip_grad_norm
from xpcnn.train.callback import Callback, stop_all, watchers_of
from xpcnn.train.divergence import Problem, check_losses, divergence, require_finite
from xpcnn.train.evaluate import Evaluation, evaluate
from xpcnn.train.history import EpochRecord, History
from xpcnn.train.inputs import as_dataset, joined, note_input_shape
from xpcnn.train.interrupt import Interrupt, graceful_interrupt
from xpcnn.train.parts import require_parts
from xpcnn.train.precision import UNREAD, precision_of
from xpcnn.train.same_data import require_same_data

__all__ = ["Trainer"]


class Trainer:
    """Trains a model, and keeps the score.

    Parameters
    ----------
    model : Layer
        Ending in logits, for the default loss. Batches are moved to where its parameters are.
    optimizer : Optimizer
        Of the same model.
    loss : op, or (forward, backward)
        ``loss(y, target) -> (0-d loss, ctx)`` with ``loss.backward(ctx) -> dy``, such as
        `ops.mean_squared_error`, or these two as a pair of functions.
    seed : int
        What the order of the samples, their augmentation and all random masks are functions of.
    schedule : Schedule, optional
        Of the same optimiser; moved on once after each step.
    clip_norm : float, optional
        The gradients' common norm is bounded by this before each update; see `optim.clip_grad_norm`.
    average : WeightAverage, optional
        Of the same model; updated after each step. Its model is the one that is evaluated then.
    dtype : "float16" or "bfloat16", optional
        What forward and backward compute in; see `xpcnn.train.amp`. Parameters stay float32. In float16 the
        loss is scaled, and a step in which something overflows is taken back.

    Attributes
    ----------
    steps : int
        Optimisation steps done.
    epoch, position, epoch_steps : int
        Whole epochs done, and the samples and the optimisation steps done of the next one.
    data, batch_size, resumed : str or None, int or None, bool
        What `fit` was last called with, and whether a checkpoint was restored since.
    whole : bool
        False while parameters may be half updated: nothing should be saved then.
    stopped : str or None
        Why `stop` ended the last call of `fit`; None if it did not.
    history : History
    precision : Precision
        How a step is computed; ``precision.loss_scale`` is float16's.

    Raises
    ------
    ArgumentError
        When an argument is not of its kind, `loss` is neither an op nor a pair, `schedule` another
        optimiser's, `average` another model's, `clip_norm` not above 0, or `dtype` no half precision.
    DtypeError, BackendError
        With a `dtype`, when the model is not float32, or its backend has no such numbers.

    Examples
    --------
    >>> from xpcnn import Trainer, data, models, optim
    >>> digits = data.synthetic_digits(200)
    >>> model = models.tiny_convnet()
    >>> trainer = Trainer(model, optim.SGD(model, lr=0.1))
    >>> history = trainer.fit(digits[:150], digits[150:], epochs=1, batch_size=50, progress=None)
    >>> len(history.losses), trainer.evaluate(digits[150:]).samples
    (3, 50)
    """

    def __init__(
        self,
        model: Layer,
        optimizer: Optimizer,
        *,
        loss: Any = ops.softmax_cross_entropy,
        seed: int = 0,
        schedule: Schedule | None = None,
        clip_norm: float | None = None,
        average: WeightAverage | None = None,
        dtype: Any = None,
    ) -> None:
        self._like = like_of("Trainer", model)
        require_parts(model, optimizer, schedule, average)
        self.model = model
        self.optimizer = optimizer
        self.precision = precision_of(model, dtype)
        self.loss = loss
        self.seed = whole("Trainer: seed", seed, 0)
        self.schedule = schedule
        self.clip_norm = None if clip_norm is None else positive("Trainer: clip_norm", clip_norm)
        self.average = average
        self.steps = self.epoch = self.position = self.epoch_steps = 0
        self.epoch_seconds = 0.0
        self.data: str | None = None
        self.batch_size: int | None = None
        self.resumed, self.whole = False, True
        self.stopped: str | None = None
        self.history = History()
        self._key = Key(self.seed).fold("step")

    @property
    def loss(self) -> Loss:
        """What is minimised; to be set to an op or a pair (forward, backward)."""
        return self._loss

    @loss.setter
    def loss(self, loss: Any) -> None:
        self._loss = as_loss("Trainer", loss)
        self._value_and_grad = value_and_grad(self.precision.computing, self._loss)

    @property
    def evaluated(self) -> Layer:
        """The model that is evaluated, and worth saving: the averaged one where there is an average."""
        return self.model if self.average is None else self.average.model

    def step(self, x: Any, t: Any) -> Array:
        """Do one training step and return its loss, a 0-d array on the device.

        Parameters
        ----------
        x : array (N, ...)
            uint8 images, or floating ones that are prepared already; moved if they are elsewhere. Bytes
            become ``x / 255`` where the model has no `nn.Preprocess`.
        t : array (N, ...)
            Labels, integers of shape (N,) or (N, 1), reach the loss as (N,) int64. Integer rows (N, K) and
            all floats reach it in the model's dtype, other integers as they are.

        Raises
        ------
        DivergenceError
            When the loss, a gradient or an image is not finite; nothing is updated then. Where looking at a
            value would wait for a device, the device takes the step back and the loss is NaN.
        """
        with backend_like(self.model, self._like).execution_context():
            x, t = to_images(self.model, x, self._like), to_targets(self.model, t, self._like)
            key = self._key.fold(self.steps)
            loss, grads = self.precision.gradients(self._value_and_grad, x, t, key, self.steps)
            if self.precision.problem is not None:
                raise divergence(self, self.precision.problem, self.steps)
            self.whole = False
            with self.precision.updating(grads, self.optimizer, self.average):
                if self.clip_norm is not None:
                    clip_grad_norm(grads, self.clip_norm)
                self.optimizer.step(grads)
                if self.schedule is not None:
                    self.schedule.step()
                if self.average is not None:
                    self.average.update()
            self.steps += 1
            self.whole = True
        return loss

    def fit(
        self,
        train: Any,
        test: Any = None,
        epochs: int = 1,
        batch_size: int = 100,
        evaluate_samples: int | None = None,
        drop_last: bool = False,
        evaluate_train: bool = True,
        *,
        augment: Callable[..., Any] | None = None,
        progress: Callback | str | None = "auto",
        callbacks: Sequence[Callback] = (),
    ) -> History:
        """Train for some epochs and return the history of all training so far.

        Each sample is seen once an epoch, in an order that is a function of the seed and the epoch.
        Losses, and accuracies where the targets have classes, are measured after each epoch, of the model
        `evaluated`. It notes the images' (C, H, W) and their preparation on the models.

        Parameters
        ----------
        train, test : Dataset or (images, targets)
            `test` may be left out. Targets of every kind reach the loss as `step` hands them on.
        epochs : int
            How many to train. A trainer that was interrupted, or restored from a checkpoint, in the middle
            of an epoch finishes that one as the first of them.
        batch_size : int
            The last batch of an epoch may be smaller. One of a single sample is joined to the batch before
            where the model's batch statistics cannot be taken of it.
        evaluate_samples : int, optional
            Measure accuracies and losses on the first n of each set, instead of on all.
        drop_last : bool
            Leave out a last batch that is smaller.
        evaluate_train : bool
            Measure on the training set too.
        augment : callable, optional
            Changes the images of each training batch on the host, such as those of `xpcnn.data.augment`; see
            `Loader`. Accuracies are measured on the images as they are.
        progress : "auto", Callback or None
            ``"auto"`` draws a bar on a terminal and prints a line an epoch elsewhere (on stderr).
        callbacks : sequence of Callback

        Raises
        ------
        ArgumentError
            For arguments outside their allowed values, without a test set that a callback needs, and when an
            epoch that was broken off, or a restored checkpoint, is to go on with other data.
        DivergenceError
            When a loss, a gradient or a sample is not finite; in float16, when ten losses in a row are not,
            or gradients overflow whatever the loss scale. It names the step, the learning rate, and which
            samples hold NaN or infinity. The weights stay finite.
        KeyboardInterrupt
            On Ctrl-C, SIGTERM, SIGHUP or SIGUSR1, after the step at hand is whole and the callbacks have run;
            a second signal does not wait. ``history.interrupted`` is True then.
        """
        train = as_dataset(train)
        test = None if test is None else as_dataset(test)
        epochs = whole("fit: epochs", epochs, 0)
        evaluate_train = flag("fit: evaluate_train", evaluate_train)
        if evaluate_samples is not None:
            evaluate_samples = whole("fit: evaluate_samples", evaluate_samples, 1)
        loader = Loader(train, batch_size, seed=self.seed, drop_last=drop_last, augment=augment)
        measured = [train if evaluate_train else None, test]
        if evaluate_samples is not None:
            measured = [None if data is None else data[:evaluate_samples] for data in measured]
        watchers = watchers_of(progress, callbacks, with_test=test is not None)
        require_same_data(self, train, loader.batch_size)
        note_input_shape(train, self.model, self.evaluated)
        self.precision.find_buffers()
        self.history.interrupted, self.stopped = False, None
        try:
            with (
                graceful_interrupt() as interrupt,
                self.model.backend.execution_context(),
                np.errstate(over="ignore", invalid="ignore"),  # a loss that is not finite raises below
            ):
                for watcher in watchers:
                    watcher.on_start(self, self._steps_of(epochs, loader))
                for _ in range(epochs):
                    if self.stopped is None:
                        self._train_epoch(loader, watchers, interrupt)
                        self._finish_epoch(measured, len(train), watchers, interrupt)
        except KeyboardInterrupt:
            self.history.interrupted = True
            raise
        finally:
            stop_all(watchers, self)
        return self.history

    def stop(self, reason: str) -> None:
        """Let `fit` return after the epoch at hand and its evaluation; to be called by a callback.

        Called from `Callback.on_start`, no epoch begins. The progress display tells the `reason`, which
        `stopped` keeps.
        """
        self.stopped = reason

    def evaluate(self, data: Any, *, batch_size: int | None = None) -> Evaluation:
        """Return accuracy and loss of the model `evaluated` over a dataset; see `xpcnn.train.evaluate`."""
        return evaluate(self.evaluated, data, batch_size=batch_size, loss=self.loss)

    def _steps_of(self, epochs: int, loader: Loader) -> int:
        """Return how many steps the rest of the epoch at hand and those after it will take."""
        return loader.batches(self.position) + (epochs - 1) * len(loader) if epochs else 0

    def _train_epoch(self, loader: Loader, watchers: Sequence[Callback], interrupt: Interrupt) -> None:
        pending: list[Array] = []
        begun, before = time.perf_counter(), self.epoch_seconds
        patience = min(self.precision.patience, len(loader))
        try:
            for images, targets in joined(self.model, loader.epoch(self.epoch, start=self.position)):
                pending.append(self.step(images, targets))
                self.position += len(targets)
                self.epoch_steps += 1
                if len(pending) == UNREAD:
                    self._read(pending, watchers, patience)
                interrupt.check()
        finally:
            # Read on every way out, so that the history has each step the model has taken.
            self.epoch_seconds = before + time.perf_counter() - begun
            if pending:
                self._read(pending, watchers, patience)

    def _read(self, pending: list[Array], watchers: Sequence[Callback], patience: int) -> None:
        """Read the losses of the last steps from the device, and stop if they tell of a divergence."""
        backend, loss_scale = self.model.backend, self.precision.loss_scale
        scale = [] if loss_scale is None else [loss_scale.scale]  # read with them: one wait for the device
        values = backend.to_numpy(backend.xp.stack([*pending, *scale])).tolist()
        losses = values[: len(pending)]
        pending.clear()
        self.history.losses += losses
        check_losses(self, len(losses), patience, None if loss_scale is None else values[-1])
        for watcher in watchers:
            watcher.on_losses(self, losses)

    def _finish_epoch(
        self,
        measured: Sequence[Dataset | None],
        samples: int,
        watchers: Sequence[Callback],
        interrupt: Interrupt,
    ) -> None:
        require_finite(self)
        train, test = (
            None if data is None else evaluate(self.evaluated, data, loss=self.loss, between=interrupt.check)
            for data in measured
        )
        if train is not None and not math.isfinite(train.loss):  # by finite weights that are much too large
            raise divergence(
                self, Problem(f"the loss on the training set became {train.loss}"), self.steps - 1
            )
        first = len(self.history.losses) - self.epoch_steps
        losses = [loss for loss in self.history.losses[first:] if math.isfinite(loss)]
        record = EpochRecord(
            epoch=self.epoch + 1,
            loss=sum(losses) / len(losses),
            train_accuracy=None if train is None else train.accuracy,
            test_accuracy=None if test is None else test.accuracy,
            seconds=self.epoch_seconds,
            images_per_second=samples / self.epoch_seconds,
            test_loss=None if test is None else test.loss,
            lr=self.optimizer.lr,
        )
        self.history.epochs.append(record)
        self.epoch, self.position, self.epoch_steps, self.epoch_seconds = self.epoch + 1, 0, 0, 0.0
        for watcher in watchers:
            watcher.on_epoch(self, record)
        interrupt.check()
