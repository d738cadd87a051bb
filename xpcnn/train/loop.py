"""The epoch loop of `Trainer.fit`: batches, losses read a few at a time, evaluation and callbacks."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

import numpy as np

from xpcnn.backend import Array
from xpcnn.data import Dataset, Loader
from xpcnn.train.callback import Callbacks
from xpcnn.train.evaluate import evaluate
from xpcnn.train.finite import check_losses, divergence, require_finite
from xpcnn.train.history import EpochRecord
from xpcnn.train.inputs import joined
from xpcnn.train.interrupt import graceful_interrupt

if TYPE_CHECKING:
    from xpcnn.train.trainer import Trainer

__all__ = ["UNREAD", "train_epochs"]

Measured = Sequence[Dataset | None]
Check = Callable[[], None]

UNREAD = 10
"""Losses are read from a device so many at a time, as reading one waits for it."""


def train_epochs(
    trainer: Trainer, loader: Loader, measured: Measured, epochs: int, callbacks: Callbacks
) -> None:
    """Train for some epochs, the first of them from where the trainer stands.

    Parameters
    ----------
    trainer : Trainer
    loader : Loader
        Of the training data.
    measured : (Dataset or None, Dataset or None)
        The parts of training and test data that are measured after each epoch.
    epochs : int
    callbacks : Callbacks
    """
    steps = loader.batches(trainer.epoch_samples) + (epochs - 1) * len(loader) if epochs else 0
    try:
        with (
            graceful_interrupt() as check,
            trainer.model.backend.execution_context(),
            np.errstate(over="ignore", invalid="ignore"),  # a loss that is not finite raises below
        ):
            callbacks.call("on_start", trainer, steps)
            for _ in range(epochs):
                if trainer.stopped is None:
                    _train_epoch(trainer, loader, callbacks, check)
                    _finish_epoch(trainer, loader, measured, callbacks, check)
    except KeyboardInterrupt:
        trainer.history.interrupted = True
        raise
    finally:
        callbacks.call("on_stop", trainer)


def _train_epoch(trainer: Trainer, loader: Loader, callbacks: Callbacks, check: Check) -> None:
    pending: list[Array] = []
    begun, before = time.perf_counter(), trainer.epoch_seconds
    try:
        batches = loader.epoch(trainer.epoch, start=trainer.epoch_samples)
        for images, targets in joined(trainer.model, batches):
            pending.append(trainer.step(images, targets))
            trainer.epoch_samples += len(targets)
            trainer.epoch_steps += 1
            if len(pending) == UNREAD:
                _read(trainer, pending, callbacks)
            check()
    finally:
        # Read on every way out, so that the history has each step the model has taken.
        trainer.epoch_seconds = before + time.perf_counter() - begun
        if pending:
            _read(trainer, pending, callbacks)


def _read(trainer: Trainer, pending: list[Array], callbacks: Callbacks) -> None:
    """Read the losses of the last steps from the device, and stop if they tell of a divergence."""
    backend = trainer.model.backend
    scale = [] if trainer.loss_scale is None else [trainer.loss_scale.scale]  # one wait for the device
    values = backend.to_numpy(backend.xp.stack([*pending, *scale])).tolist()
    losses = values[: len(pending)]
    pending.clear()
    trainer.history.losses += losses
    check_losses(trainer, losses, values[-1] if scale else None)
    callbacks.call("on_losses", trainer, losses)


def _finish_epoch(
    trainer: Trainer, loader: Loader, measured: Measured, callbacks: Callbacks, check: Check
) -> None:
    require_finite(trainer)
    train, test = (
        None if data is None else evaluate(trainer.eval_model, data, loss=trainer.loss, between=check)
        for data in measured
    )
    if train is not None and not math.isfinite(train.loss):  # by finite weights that are much too large
        raise divergence(trainer, f"the loss on the training set became {train.loss}", trainer.steps - 1)
    history, seconds = trainer.history, trainer.epoch_seconds
    losses = [loss for loss in history.losses[-trainer.epoch_steps :] if math.isfinite(loss)]
    if not losses:
        raise divergence(trainer, "no loss of this epoch was finite", trainer.steps - 1)
    record = EpochRecord(
        epoch=trainer.epoch + 1,
        loss=sum(losses) / len(losses),
        train_accuracy=None if train is None else train.accuracy,
        test_accuracy=None if test is None else test.accuracy,
        seconds=seconds,
        images_per_second=len(loader.dataset) / seconds,
        test_loss=None if test is None else test.loss,
        lr=trainer.optimizer.lr,
        steps=len(history.losses),
    )
    history.epochs.append(record)
    trainer.epoch += 1
    trainer.epoch_samples, trainer.epoch_steps, trainer.epoch_seconds = 0, 0, 0.0
    callbacks.call("on_epoch", trainer, record)
    check()
