"""Numbers that are not finite: found in a step before its update, and in weights before they are saved.

On a device, where looking at a value would wait for it, a step that is not finite is taken back: whether it
is finite is a 0-d array there, and `where` chooses between the new arrays and the old.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

import numpy as np

from xpcnn.backend import Array, backend_of, home_of, is_floating, namespace
from xpcnn.errors import DivergenceError
from xpcnn.nn import Gradients, Layer
from xpcnn.optim import Optimizer, WeightAverage
from xpcnn.train.amp import SMALLEST_SCALE, LowPrecisionModel

if TYPE_CHECKING:
    from xpcnn.train.trainer import Trainer

__all__ = ["check_losses", "divergence", "find_problem", "finite_rows", "finite_step", "kept_if"]
__all__ += ["require_finite", "select"]

SAMPLES = "samples hold NaN or infinity"
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
    bad = np.flatnonzero(~backend.to_numpy(rows)).tolist()
    problems = [] if math.isfinite(value) else [f"the loss became {value}"]
    if bad:
        listed = ", ".join(map(str, bad[:_MOST_ROWS])) + (", …" if len(bad) > _MOST_ROWS else "")
        problems.append(f"{len(bad)} of the batch's {SAMPLES} (positions from 0: {listed})")
    if not problems and grads is not None:
        paths = {parameter: path for path, parameter in model.parameters().items()}
        for parameter, gradient in grads.items():
            if not bool(backend.xp.all(backend.xp.isfinite(gradient))):
                return f"the gradient of {paths.get(parameter, 'a parameter')} became infinite or NaN"
    return ": ".join(problems) or None


def divergence(trainer: Trainer, problem: str, steps: int) -> DivergenceError:
    """Return the error for a problem in the step that a trainer did after `steps` others."""
    ago, schedule = trainer.steps - steps, trainer.schedule
    lr = trainer.optimizer.lr if schedule is None else schedule.lr_at(schedule.last_step - ago)
    way_out = "repair or remove them" if SAMPLES in problem else "lower the learning rate"
    place = f"step {steps + 1} (epoch {trainer.epoch + 1}) with learning rate {lr:g}"
    return DivergenceError(f"{problem} at {place}; {way_out}")


def check_losses(trainer: Trainer, losses: list[float], scale: float | None) -> None:
    """Raise `DivergenceError` if training cannot go on after a trainer's last steps.

    Parameters
    ----------
    trainer : Trainer
    losses : list of float
        Of these steps. One that is not finite is a divergence, but with a loss scale only where a sample is
        not finite.
    scale : float, optional
        The present loss scale.
    """
    unread = dict(trainer._unread)
    for steps, loss in enumerate(losses, start=trainer.steps - len(losses)):
        if not math.isfinite(loss):
            problem = find_problem(trainer.model, unread[steps]) if steps in unread else None
            if problem is not None or scale is None:
                raise divergence(
                    trainer, f"the loss became {loss}" + ((problem and f": {problem}") or ""), steps
                )
    if scale is not None and scale <= SMALLEST_SCALE:
        problem = f"losses or gradients overflow float16 even with the loss times {scale:g}"
        raise divergence(trainer, problem, trainer.steps - 1)


# -- taking a step back ------------------------------------------------------------------


def finite_step(
    rows: Array, loss: Array, grads: Gradients, low: LowPrecisionModel | None
) -> tuple[Array, Array]:
    """Return a step's loss, NaN where it is a divergence, and whether the step is to be kept, both 0-d.

    Parameters
    ----------
    rows : array of bool (N,)
        Which samples of the batch are finite.
    loss, grads : 0-d array and Gradients
    low : LowPrecisionModel or None
        With a loss scale, it knows whether gradients are finite, and what overflows is no divergence.
    """
    xp = namespace(loss)
    good = xp.all(rows)
    finite = good & xp.isfinite(loss)
    if low is None or low.loss_scale is None:
        for _, gradient in grads.items():
            finite = finite & xp.all(xp.isfinite(gradient))
        good = finite
    elif low.finite is not None:
        finite = finite & low.finite
    return xp.where(good, loss, xp.full_like(loss, math.nan)), finite


@contextmanager
def kept_if(
    finite: Array, grads: Gradients, optimizer: Optimizer, average: WeightAverage | None
) -> Iterator[None]:
    """Return the context in which gradients are applied; what that changes is kept if `finite`, a 0-d bool.

    Parameters, the arrays of the optimiser and of the average keep their bits otherwise. What the host counts
    moves on, since it does not know: the steps of the schedule, and the numbers of updates by which Adam and
    `WeightAverage` correct for their start.
    """
    # An update gives parameters and averages new arrays, and the old ones keep their values. The optimiser's
    # own arrays it changes in place, so these are copied.
    before = [
        (entry, entry.parameter.data, {slot: home_of(one).copy(one) for slot, one in entry.state.items()})
        for entry in optimizer._entries.values()
        if entry.parameter in grads
    ]
    averages = {} if average is None else dict(average._averages)
    with np.errstate(over="ignore", invalid="ignore"):
        yield
    for entry, data, state in before:
        entry.parameter.data = select(finite, entry.parameter.data, data)
        for slot, new in entry.state.items():
            entry.state[slot] = select(finite, new, state.get(slot))
    if average is not None:
        kept = {path: select(finite, new, averages[path]) for path, new in average._averages.items()}
        average._set(kept)


def select(flag: Array, new: Array, old: Array | None) -> Array:
    """Return one of two arrays, chosen by a 0-d array where they are; None stands for zeros."""
    backend = backend_of(new)
    xp = backend.xp
    # The model may have moved since.
    return xp.where(flag, new, xp.zeros_like(new) if old is None else backend.asarray(old, new.dtype))


# -- what is saved -----------------------------------------------------------------------


def require_finite(trainer: Trainer) -> None:
    """Raise `DivergenceError` if what a trainer would save holds NaN or infinity.

    Checked are trainable parameters, buffers, the optimiser's state and the averaged weights, with one read
    from the device.
    """
    model, average = trainer.model, trainer.average
    arrays = {path: own.data for path, own in model.parameters().items() if own.trainable}
    arrays |= {path: buffer.data for path, buffer in model.buffers().items()}
    for path, entry in trainer.optimizer._entries.items():
        arrays |= {f"the optimiser's {slot} of {path}": array for slot, array in entry.state.items()}
    averages = {} if average is None else average._averages
    arrays |= {f"the average of {path}": array for path, array in averages.items()}
    flags = {
        name: namespace(a).all(namespace(a).isfinite(a)) for name, a in arrays.items() if is_floating(a.dtype)
    }
    if not flags:
        return
    backend = trainer.model.backend
    finite = backend.to_numpy(backend.xp.stack(list(flags.values())))
    bad = [name for name, good in zip(flags, finite, strict=True) if not good]
    if bad:
        more = f" and {len(bad) - _MOST_NAMES} more" if len(bad) > _MOST_NAMES else ""
        problem = f"{', '.join(bad[:_MOST_NAMES])}{more} became NaN or infinite"
        raise divergence(trainer, problem, trainer.steps - 1)
