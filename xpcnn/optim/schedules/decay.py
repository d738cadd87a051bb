"""Schedules that lower the learning rate from its base: in stairs, exponentially, along a cosine."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import ClassVar

from xpcnn.optim.optimizer import Optimizer
from xpcnn.optim.options import Rule, non_negative, positive, positive_count
from xpcnn.optim.schedules.base import Schedule

__all__ = ["CosineAnnealingLR", "ExponentialLR", "StepLR"]


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

    rules: ClassVar[Mapping[str, Rule]] = {"step_size": positive_count, "gamma": positive}

    def __init__(self, optimizer: Optimizer, step_size: int, gamma: float = 0.1) -> None:
        super().__init__(optimizer, step_size=step_size, gamma=gamma)

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

    rules: ClassVar[Mapping[str, Rule]] = {"gamma": positive}

    def __init__(self, optimizer: Optimizer, gamma: float) -> None:
        super().__init__(optimizer, gamma=gamma)

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

    rules: ClassVar[Mapping[str, Rule]] = {"T_max": positive_count, "eta_min": non_negative}

    def __init__(self, optimizer: Optimizer, T_max: int, eta_min: float = 0.0) -> None:
        super().__init__(optimizer, T_max=T_max, eta_min=eta_min)

    def formula(self, step: int, *, T_max: int, eta_min: float) -> float:
        high = (1 + math.cos(math.pi * step / T_max)) / 2
        return self.base_lr * high + eta_min * (1 - high)
