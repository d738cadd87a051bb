"""A step that turns out not to be finite is taken back on the device; the host reads nothing.

Whether a step is finite is a 0-d array on the device, and `where` chooses between the new arrays and the old.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np

from xpcnn.backend import Array, backend_of, home_of, namespace
from xpcnn.nn import Gradients
from xpcnn.optim import Optimizer, WeightAverage
from xpcnn.train.amp import LowPrecisionModel

__all__ = ["finite_step", "kept_if", "select"]


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
    entries = [entry for entry in optimizer._entries.values() if entry.parameter in grads]
    parameters = [(entry.parameter, entry.parameter.data) for entry in entries]
    states = [
        (entry.state, {slot: home_of(array).copy(array) for slot, array in entry.state.items()})
        for entry in entries
    ]
    averages = {} if average is None else dict(average._averages)
    with np.errstate(over="ignore", invalid="ignore"):
        yield
    for parameter, old in parameters:
        if parameter.data is not old:
            parameter.data = select(finite, parameter.data, old)
    for state, before in states:
        for slot, new in state.items():
            old = before[slot] if slot in before else namespace(new).zeros_like(new)
            state[slot] = select(finite, new, old)
    if average is not None:
        kept = {path: select(finite, new, averages[path]) for path, new in average._averages.items()}
        average._set(kept)


def select(flag: Array, new: Array, old: Array) -> Array:
    """Return one of two arrays, chosen by a 0-d array where they are."""
    backend = backend_of(new)
    return backend.xp.where(flag, new, backend.asarray(old, new.dtype))  # the model may have moved
