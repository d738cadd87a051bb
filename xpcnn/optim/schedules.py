"""The learning rate as a function of the step: stairs, exponential, cosine, one cycle, and a warm-up."""

from __future__ import annotations

import math
from collections.abc import Mapping
from functools import partial
from typing import Any

from xpcnn.errors import ArgumentError
from xpcnn.ops.op import positive, real, whole
from xpcnn.optim.options import Rules, non_negative
from xpcnn.optim.schedule import Schedule

__all__ = ["CosineAnnealingLR", "ExponentialLR", "LinearWarmup", "OneCycleLR", "StepLR"]

_count = partial(whole, least=1)
_part = partial(real, least=0, most=1)


def _as_given(what: str, value: Any) -> Any:
    return value


class StepLR(Schedule):
    """Stairs: every `step_size` optimisation steps the rate is multiplied by `gamma`.

    ``lr(s) = base · gamma^⌊s / step_size⌋``, as in PyTorch.

    Parameters
    ----------
    optimizer : Optimizer
    step_size : int
        In optimisation steps: epochs × batches.
    gamma : float
        Above 0.

    Raises
    ------
    ArgumentError
        When `step_size` is not an integer of at least 1, or `gamma` not a number above 0.

    Examples
    --------
    >>> from xpcnn import nn, optim
    >>> schedule = optim.StepLR(optim.SGD(nn.Linear(2, 1), lr=0.5), step_size=10, gamma=0.5)
    >>> [schedule.lr_at(step) for step in (0, 9, 10, 20)]
    [0.5, 0.5, 0.25, 0.125]
    """

    rules = Rules(step_size=(..., _count), gamma=(0.1, positive))

    def formula(self, step: int, *, step_size: int, gamma: float) -> float:
        return self.base_lr * gamma ** (step // step_size)


class ExponentialLR(Schedule):
    """Every optimisation step multiplies the rate by `gamma`: ``lr(s) = base · gamma^s``, as in PyTorch.

    For a factor f over n steps, gamma is ``f ** (1 / n)``.

    Parameters
    ----------
    optimizer : Optimizer
    gamma : float
        Above 0.

    Raises
    ------
    ArgumentError
        When `gamma` is not a number above 0.

    Examples
    --------
    >>> from xpcnn import nn, optim
    >>> schedule = optim.ExponentialLR(optim.SGD(nn.Linear(2, 1), lr=0.5), gamma=0.5)
    >>> [schedule.lr_at(step) for step in range(4)]
    [0.5, 0.25, 0.125, 0.0625]
    """

    rules = Rules(gamma=(..., positive))

    def formula(self, step: int, *, gamma: float) -> float:
        return self.base_lr * gamma**step


class CosineAnnealingLR(Schedule):
    """Half a cosine wave from the base rate down to `eta_min` after `T_max` optimisation steps [1]_.

    ``lr(s) = eta_min + (base − eta_min) · (1 + cos(π s / T_max)) / 2``, as in PyTorch: also beyond `T_max`,
    where the rate rises again and is back at the base rate after another `T_max` steps, and so on.

    Parameters
    ----------
    optimizer : Optimizer
    T_max : int
        In optimisation steps: epochs × batches of the whole run.
    eta_min : float
        The lowest rate.

    Raises
    ------
    ArgumentError
        When `T_max` is not an integer of at least 1, or `eta_min` is negative.

    References
    ----------
    .. [1] I. Loshchilov and F. Hutter, "SGDR: stochastic gradient descent with warm restarts", ICLR 2017.

    Examples
    --------
    >>> from xpcnn import nn, optim
    >>> schedule = optim.CosineAnnealingLR(optim.SGD(nn.Linear(2, 1), lr=0.5), T_max=100)
    >>> [round(schedule.lr_at(step), 3) for step in (0, 25, 50, 75, 100)]
    [0.5, 0.427, 0.25, 0.073, 0.0]
    """

    rules = Rules(T_max=(..., _count), eta_min=(0.0, non_negative))

    def formula(self, step: int, *, T_max: int, eta_min: float) -> float:
        high = (1 + math.cos(math.pi * step / T_max)) / 2
        return self.base_lr * high + eta_min * (1 - high)


class OneCycleLR(Schedule):
    """One rise and one fall over a whole run [1]_, in PyTorch's two phases; momentum is left alone.

    With ``initial = max_lr / div_factor`` and ``final = initial / final_div_factor``, the rate goes from
    `initial` at step 0 to `max_lr` at step ``pct_start · total_steps − 1``, and on to `final` at step
    ``total_steps − 1``, along half a cosine wave each. Afterwards it stays at `final`
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
        The fraction of the steps in which the rate rises, in [0, 1].
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

    rules = Rules(
        max_lr=(..., positive),
        total_steps=(..., _count),
        pct_start=(0.3, _part),
        div_factor=(25.0, positive),
        final_div_factor=(1e4, positive),
    )

    def formula(self, step: int, **options: Any) -> float:
        max_lr, last = options["max_lr"], options["total_steps"] - 1
        initial = max_lr / options["div_factor"]
        peak = options["pct_start"] * options["total_steps"] - 1  # below 0: the rise takes less than a step
        step = min(step, last)
        if step <= peak:
            start, end, done = initial, max_lr, step / peak if peak else 1.0
        else:
            start, end = max_lr, initial / options["final_div_factor"]
            done = (step - peak) / (last - peak)
        done = (1 - math.cos(math.pi * done)) / 2
        return float(start * (1 - done) + end * done)


class LinearWarmup(Schedule):
    """A straight rise to the base rate over the first `steps` optimisation steps [1]_, then another schedule.

    ``lr(s) = base · (start_factor + (1 − start_factor) · s / steps)`` for ``s < steps``; from there on
    ``then.lr_at(s − steps)``, or the base rate where there is no `then`. With `then` the base rate is
    ``then.lr_at(0)``, so the two meet. The same as PyTorch's `LinearLR` and `then` in a `SequentialLR`.

    Parameters
    ----------
    optimizer : Optimizer
    steps : int
        Optimisation steps: epochs × batches of the warm-up.
    then : Schedule, optional
        What follows, counted from the end of the warm-up: made just before, for the same optimiser, and never
        stepped itself. The steps it is told of are those that remain of the run.
    start_factor : float
        The rate of step 0 over the base rate, in [0, 1]; a third, as in PyTorch.

    Raises
    ------
    ArgumentError
        When `steps` or `start_factor` are outside their allowed values; when `then` is no schedule, belongs
        to another optimiser or was stepped already.

    References
    ----------
    .. [1] P. Goyal et al., "Accurate, large minibatch SGD: training ImageNet in 1 hour", 2017.

    Examples
    --------
    >>> from xpcnn import nn, optim
    >>> optimizer = optim.SGD(nn.Linear(2, 1), lr=0.5)
    >>> cosine = optim.CosineAnnealingLR(optimizer, T_max=90)
    >>> schedule = optim.LinearWarmup(optimizer, 10, then=cosine, start_factor=0.2)
    >>> [round(schedule.lr_at(step), 3) for step in (0, 5, 10, 55, 100)]
    [0.1, 0.3, 0.5, 0.25, 0.0]
    >>> optimizer.lr
    0.1
    """

    rules = Rules(steps=(..., _count), then=(None, _as_given), start_factor=(1 / 3, _part))

    def check_together(self, where: str, options: Mapping[str, Any]) -> None:
        then = options["then"]
        if then is None:
            return
        if not isinstance(then, Schedule) or then.optimizer is not self.optimizer or then.last_step:
            raise ArgumentError(
                f"{where}: then must be a new schedule of the same optimiser, at step 0, got {then!r}"
            )

    def formula(self, step: int, *, steps: int, then: Schedule | None, start_factor: float) -> float:
        if step >= steps:
            return self.base_lr if then is None else then.lr_at(step - steps)
        top = self.base_lr if then is None else then.lr_at(0)
        return top * (start_factor + (1 - start_factor) * step / steps)

    def state_dict(self) -> dict[str, Any]:
        """Return what every schedule's state has, and ``then``: that one's state, or None."""
        state = super().state_dict()
        then = state["options"].pop("then")
        return {**state, "then": None if then is None else then.state_dict()}

    def _adopt(self, state: Mapping[str, Any]) -> None:
        super()._adopt(state)
        if self.options["then"] is not None:
            self.options["then"]._adopt(state["then"])
