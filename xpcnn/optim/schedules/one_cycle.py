"""The one-cycle schedule: up to a high learning rate, then down to almost none."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, ClassVar

from xpcnn.errors import ArgumentError
from xpcnn.optim.optimizer import Optimizer
from xpcnn.optim.options import Rule, positive, positive_count, share
from xpcnn.optim.schedules.base import Schedule

__all__ = ["OneCycleLR"]


def _strategy(what: str, value: Any) -> str:
    if value not in ("cos", "linear"):
        raise ArgumentError(f"{what} must be 'cos' or 'linear', got {value!r}")
    return str(value)


class OneCycleLR(Schedule):
    """One rise and one fall over a whole run [1]_, in PyTorch's two phases; momentum is left alone.

    With ``initial = max_lr / div_factor`` and ``final = initial / final_div_factor``, the rate goes from
    `initial` at step 0 to `max_lr` at step ``pct_start · total_steps − 1``, and on to `final` at step
    ``total_steps − 1``, along half a cosine wave each or in straight lines. Afterwards it stays at `final`
    (PyTorch ends with an error), so a run may be longer than planned, though it learns next to nothing then.

    Parameters
    ----------
    optimizer : Optimizer
        Its own learning rate is replaced. Groups keep their ratio to it.
    max_lr : float
        The peak.
    total_steps : int
        In optimisation steps: epochs × batches of the whole run.
    pct_start : float
        The share of the steps in which the rate rises, in [0, 1].
    anneal_strategy : {"cos", "linear"}
    div_factor, final_div_factor : float

    Raises
    ------
    ArgumentError
        When an option is outside its allowed values.

    References
    ----------
    .. [1] L. N. Smith and N. Topin, "Super-convergence: very fast training of neural networks using large
       learning rates", 2018.

    Examples
    --------
    >>> from xpcnn import nn, optim
    >>> optimizer = optim.SGD(nn.Linear(2, 1))
    >>> schedule = optim.OneCycleLR(optimizer, max_lr=0.5, total_steps=10, pct_start=0.5)
    >>> [round(schedule.lr_at(step), 3) for step in range(10)]
    [0.02, 0.09, 0.26, 0.43, 0.5, 0.452, 0.327, 0.173, 0.048, 0.0]
    >>> optimizer.lr
    0.02
    """

    rules: ClassVar[Mapping[str, Rule]] = {
        "max_lr": positive,
        "total_steps": positive_count,
        "pct_start": share,
        "anneal_strategy": _strategy,
        "div_factor": positive,
        "final_div_factor": positive,
    }

    def __init__(
        self,
        optimizer: Optimizer,
        max_lr: float,
        total_steps: int,
        pct_start: float = 0.3,
        anneal_strategy: str = "cos",
        div_factor: float = 25.0,
        final_div_factor: float = 1e4,
    ) -> None:
        super().__init__(
            optimizer,
            max_lr=max_lr,
            total_steps=total_steps,
            pct_start=pct_start,
            anneal_strategy=anneal_strategy,
            div_factor=div_factor,
            final_div_factor=final_div_factor,
        )

    def formula(
        self,
        step: int,
        *,
        max_lr: float,
        total_steps: int,
        pct_start: float,
        anneal_strategy: str,
        div_factor: float,
        final_div_factor: float,
    ) -> float:
        initial = max_lr / div_factor
        last = total_steps - 1
        peak = pct_start * total_steps - 1  # below 0 when the rise would take less than a step
        step = min(step, last)
        if step <= peak:
            start, end, done = initial, max_lr, step / peak if peak else 1.0
        else:
            start, end, done = max_lr, initial / final_div_factor, (step - peak) / (last - peak)
        if anneal_strategy == "cos":
            done = (1 - math.cos(math.pi * done)) / 2
        return start * (1 - done) + end * done
