"""Telling a training that has gone astray from one that stumbled."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

from xpcnn.errors import DivergenceError

if TYPE_CHECKING:
    from xpcnn.train.trainer import Trainer

__all__ = ["first_divergence", "require_progress"]


def require_progress(trainer: Trainer, new: int, patience: int, scale: float | None) -> None:
    """Raise `DivergenceError` if one of a trainer's last `new` steps, all in its history, was one too many.

    Parameters
    ----------
    trainer : Trainer
    new : int
    patience : int
        So many losses in a row that are no numbers are a divergence.
    scale : float, optional
        The loss scale as it stands.
    """
    losses, schedule = trainer.history.losses, trainer.schedule
    at = first_divergence(losses, new, patience)
    if at is not None:
        problem = f"the loss became {losses[at]}"
    else:
        at, fault = len(losses) - 1, None if scale is None else trainer.precision.fault(scale)
        if fault is None:
            return
        problem = fault
    ago = len(losses) - at
    lr = trainer.optimizer.lr if schedule is None else schedule.lr_at(schedule.last_step - ago)
    raise DivergenceError(
        f"{problem} at step {trainer.steps - ago + 1} (epoch {trainer.epoch + 1}) with learning rate {lr:g}; "
        f"lower the learning rate"
    )


def first_divergence(losses: Sequence[float], new: int, patience: int) -> int | None:
    """Return which of the last `new` losses is the first to end a row of `patience` that are no numbers.

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
