"""Detect numbers that are not finite, before they reach the weights."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

from xpcnn.backend import Array, backend_of, is_floating, namespace
from xpcnn.errors import DivergenceError
from xpcnn.nn import Gradients, Layer

if TYPE_CHECKING:
    from xpcnn.train.trainer import Trainer

__all__ = ["check_losses", "divergence", "finite_gradients", "finite_rows", "first_divergence", "problem_of"]

_LISTED = 5


def finite_rows(x: Array, t: Array) -> Array:
    """Return which samples of a batch have finite images and targets: bools (N,), where the batch is."""
    xp = namespace(x)
    rows = xp.all(xp.reshape(xp.isfinite(x), (x.shape[0], -1)), axis=1)
    if is_floating(t.dtype):
        rows = rows & xp.all(xp.reshape(xp.isfinite(t), (t.shape[0], -1)), axis=1)
    return rows


def finite_gradients(grads: Gradients, start: Array) -> Array:
    """Return whether a 0-d bool holds, and all gradients are finite: a 0-d bool on the device."""
    xp = namespace(start)
    for _, gradient in grads.items():
        start = start & xp.all(xp.isfinite(gradient))
    return start


def problem_of(model: Layer, loss: Array | None, grads: Gradients | None, rows: Array) -> str | None:
    """Return what is not finite in a step, in words, or None; it reads values from the device.

    Parameters
    ----------
    model : Layer
    loss, grads : 0-d array and Gradients, optional
        Passed over where None.
    rows : array of bool (N,)
        As `finite_rows` returns.
    """
    backend = backend_of(rows)
    xp = backend.xp
    value = 0.0 if loss is None else float(backend.to_numpy(loss))
    became = "" if math.isfinite(value) else f"the loss became {value}"
    if not bool(xp.all(rows)):
        bad = [i for i, finite in enumerate(backend.to_numpy(rows).tolist()) if not finite]
        return "; ".join(filter(None, (became, _name_rows(bad))))
    if became:
        return became
    for parameter, gradient in () if grads is None else grads.items():
        if not bool(xp.all(xp.isfinite(gradient))):
            paths = [path for path, own in model.parameters().items() if own is parameter]
            return f"the gradient of {paths[0] if paths else 'a parameter'} became infinite or NaN"
    return None


def _name_rows(bad: Sequence[int]) -> str:
    listed = ", ".join(map(str, bad[:_LISTED])) + (", …" if len(bad) > _LISTED else "")
    return f"{len(bad)} of the batch's samples hold NaN or infinity (positions from 0: {listed})"


def divergence(trainer: Trainer, problem: str, steps: int) -> DivergenceError:
    """Return the error for a problem in a trainer's step after so many steps."""
    ago, schedule = trainer.steps - steps, trainer.schedule
    lr = trainer.optimizer.lr if schedule is None else schedule.lr_at(schedule.last_step - ago)
    way_out = "repair or remove them" if "samples hold" in problem else "lower the learning rate"
    what, _, why = problem.partition("; ")
    return DivergenceError(
        f"{what} at step {steps + 1} (epoch {trainer.epoch + 1}) with learning rate {lr:g}"
        f"{': ' + why if why else ''}; {way_out}"
    )


def check_losses(trainer: Trainer, new: int, patience: int, scale: float | None) -> None:
    """Raise `DivergenceError` if one of a trainer's last `new` steps, all in its history, was one too many.

    Parameters
    ----------
    trainer : Trainer
    new : int
    patience : int
        So many losses in a row that are not finite are a divergence. One from a sample that holds NaN or
        infinity is one at once.
    scale : float, optional
        The loss scale as it stands.
    """
    losses = trainer.history.losses
    for steps, rows in trainer.precision.unread:
        if new >= trainer.steps - steps > 0 and not math.isfinite(losses[steps - trainer.steps]):
            problem = problem_of(trainer.model, None, None, rows)
            if problem is not None:
                raise divergence(
                    trainer, f"the loss became {losses[steps - trainer.steps]}; {problem}", steps
                )
    at = first_divergence(losses, new, patience)
    if at is not None:
        raise divergence(trainer, f"the loss became {losses[at]}", trainer.steps - (len(losses) - at))
    fault = None if scale is None else trainer.precision.fault(scale)
    if fault is not None:
        raise divergence(trainer, fault, trainer.steps - 1)


def first_divergence(losses: Sequence[float], new: int, patience: int) -> int | None:
    """Return which of the last `new` losses is the first to end a row of `patience` that are not finite.

    Examples
    --------
    >>> first_divergence([1.0, math.nan, math.inf, math.nan], new=3, patience=2)
    2
    """
    for i in range(len(losses) - new, len(losses)):
        row = losses[max(i + 1 - patience, 0) : i + 1]
        if len(row) == patience and not any(math.isfinite(loss) for loss in row):
            return i
    return None
