"""Detect numbers that are not finite: in a step before its update, and in weights before they are saved."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

from xpcnn.backend import Array, backend_of, is_floating, namespace
from xpcnn.errors import DivergenceError
from xpcnn.nn import Gradients, Layer
from xpcnn.train.amp import SMALLEST_SCALE

if TYPE_CHECKING:
    from xpcnn.train.trainer import Trainer

__all__ = ["check_losses", "divergence", "find_problem", "finite_rows", "first_divergence", "require_finite"]

SAMPLES = "samples hold NaN or infinity"
PATIENCE = 10  # losses in a row that are not finite, with a loss scale
_MOST_ROWS, _MOST_NAMES = 5, 3  # that a message lists


# -- one step ----------------------------------------------------------------------------


def finite_rows(x: Array, t: Array) -> Array:
    """Return which samples of a batch have finite images and targets: bools (N,), where the batch is."""
    xp = namespace(x)
    rows = xp.all(xp.reshape(xp.isfinite(x), (x.shape[0], -1)), axis=1)
    if is_floating(t.dtype):
        rows = rows & xp.all(xp.reshape(xp.isfinite(t), (t.shape[0], -1)), axis=1)
    return rows


def find_problem(
    model: Layer, rows: Array, loss: Array | None = None, grads: Gradients | None = None
) -> str | None:
    """Return what is not finite in a step, or None; it reads values from the device.

    Parameters
    ----------
    model : Layer
        Whose paths name a gradient.
    rows : array of bool (N,)
        As `finite_rows` returns.
    loss, grads : 0-d array and Gradients, optional
    """
    backend = backend_of(rows)
    value = 0.0 if loss is None else float(backend.to_numpy(loss))
    bad = [i for i, finite in enumerate(backend.to_numpy(rows).tolist()) if not finite]
    problems = [] if math.isfinite(value) else [f"the loss became {value}"]
    if bad:
        listed = ", ".join(map(str, bad[:_MOST_ROWS])) + (", …" if len(bad) > _MOST_ROWS else "")
        problems.append(f"{len(bad)} of the batch's {SAMPLES} (positions from 0: {listed})")
    if problems:
        return ": ".join(problems)
    for parameter, gradient in () if grads is None else grads.items():
        if not bool(backend.xp.all(backend.xp.isfinite(gradient))):
            paths = [path for path, own in model.parameters().items() if own is parameter]
            return f"the gradient of {paths[0] if paths else 'a parameter'} became infinite or NaN"
    return None


def divergence(trainer: Trainer, problem: str, steps: int) -> DivergenceError:
    """Return the error for a problem in the step that a trainer did after `steps` others."""
    ago, schedule = trainer.steps - steps, trainer.schedule
    lr = trainer.optimizer.lr if schedule is None else schedule.lr_at(schedule.last_step - ago)
    way_out = "repair or remove them" if SAMPLES in problem else "lower the learning rate"
    place = f"step {steps + 1} (epoch {trainer.epoch + 1}) with learning rate {lr:g}"
    return DivergenceError(f"{problem} at {place}; {way_out}")


# -- the losses of several steps ---------------------------------------------------------


def check_losses(trainer: Trainer, new: int, most: int, scale: float | None) -> None:
    """Raise `DivergenceError` if training cannot go on after a trainer's last `new` steps.

    Parameters
    ----------
    trainer : Trainer
        Whose history has the losses of these steps.
    new : int
    most : int
        Ten losses in a row, or so many, that are not finite are a divergence with a loss scale; without one,
        and where a sample is not finite, the first is.
    scale : float, optional
        The present loss scale.
    """
    losses = trainer.history.losses
    for steps, rows in trainer._unread:
        if new >= trainer.steps - steps > 0 and not math.isfinite(losses[steps - trainer.steps]):
            problem = find_problem(trainer.model, rows)
            if problem is not None:
                raise divergence(
                    trainer, f"the loss became {losses[steps - trainer.steps]}: {problem}", steps
                )
    at = first_divergence(losses, new, 1 if scale is None else min(PATIENCE, most))
    if at is not None:
        raise divergence(trainer, f"the loss became {losses[at]}", trainer.steps - (len(losses) - at))
    if scale is not None and scale <= SMALLEST_SCALE:
        problem = f"gradients overflow float16 even with the loss times {scale:g}"
        raise divergence(trainer, problem, trainer.steps - 1)


def first_divergence(losses: Sequence[float], new: int, patience: int) -> int | None:
    """Return which of the last `new` losses is the first to end a row of `patience` that are not finite.

    Examples
    --------
    >>> first_divergence([1.0, math.nan, math.inf, math.nan], new=3, patience=2)
    2
    """
    for end in range(max(len(losses) - new + 1, patience), len(losses) + 1):
        if not any(map(math.isfinite, losses[end - patience : end])):
            return end - 1
    return None


# -- what is saved -----------------------------------------------------------------------


def require_finite(trainer: Trainer) -> None:
    """Raise `DivergenceError` if what a trainer would save holds NaN or infinity.

    Checked are trainable parameters, buffers, the optimiser's state and the averaged weights, with one read
    from the device.
    """
    arrays = {path: own.data for path, own in trainer.model.parameters().items() if own.trainable}
    arrays |= {path: buffer.data for path, buffer in trainer.model.buffers().items()}
    for path, entry in trainer.optimizer._entries.items():
        arrays |= {f"the optimiser's {slot} of {path}": array for slot, array in entry.state.items()}
    if trainer.average is not None:
        arrays |= {f"the average of {path}": array for path, array in trainer.average._averages.items()}
    arrays = {name: array for name, array in arrays.items() if is_floating(array.dtype)}
    if not arrays:
        return
    flags = [namespace(array).all(namespace(array).isfinite(array)) for array in arrays.values()]
    backend = backend_of(flags[0])
    finite = backend.to_numpy(backend.xp.stack(flags)).tolist()
    bad = [name for name, good in zip(arrays, finite, strict=True) if not good]
    if bad:
        more = f" and {len(bad) - _MOST_NAMES} more" if len(bad) > _MOST_NAMES else ""
        raise DivergenceError(
            f"{', '.join(bad[:_MOST_NAMES])}{more} became NaN or infinite by step {trainer.steps} "
            f"(epoch {trainer.epoch + 1}) with learning rate {trainer.optimizer.lr:g}; "
            "lower the learning rate"
        )
