"""Warm-up: a low learning rate that rises to the base, and then another schedule."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

from xpcnn.errors import ArgumentError
from xpcnn.optim.optimizer import Optimizer
from xpcnn.optim.options import Rule, positive, positive_count
from xpcnn.optim.schedules.base import Schedule

__all__ = ["LinearWarmup"]


def _start_factor(what: str, value: Any) -> float:
    factor = positive(what, value)
    if factor > 1:
        raise ArgumentError(f"{what} must be at most 1, got {value!r}")
    return factor


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
        The rate of step 0 over the base rate, in (0, 1]; a third, as in PyTorch.

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

    rules: ClassVar[Mapping[str, Rule]] = {"steps": positive_count, "start_factor": _start_factor}

    def __init__(
        self, optimizer: Optimizer, steps: int, then: Schedule | None = None, start_factor: float = 1 / 3
    ) -> None:
        self.then = then
        if then is not None:
            _require_new(then, optimizer)
        super().__init__(optimizer, steps=steps, start_factor=start_factor)

    def formula(self, step: int, *, steps: int, start_factor: float) -> float:
        if step >= steps:
            return self.base_lr if self.then is None else self.then.lr_at(step - steps)
        top = self.base_lr if self.then is None else self.then.lr_at(0)
        return top * (start_factor + (1 - start_factor) * step / steps)

    def _shown(self) -> dict[str, Any]:
        return {**self.options, "then": self.then}

    def state_dict(self) -> dict[str, Any]:
        """Return what every schedule's state has, and ``then``: that one's state, or None."""
        return {**super().state_dict(), "then": None if self.then is None else self.then.state_dict()}

    def _differences(self, state: Mapping[str, Any]) -> list[str]:
        problems = super()._differences(state)
        if problems:
            return problems
        saved = state["then"]
        if saved is None or self.then is None:
            kinds = [None if saved is None else saved["kind"], self.then and type(self.then).__name__]
            return [] if kinds == [None, None] else [f"then: saved {kinds[0]}, here {kinds[1]}"]
        return [f"then: {problem}" for problem in self.then._differences(saved)]

    def _adopt(self, state: Mapping[str, Any]) -> None:
        super()._adopt(state)
        if self.then is not None:
            self.then._adopt(state["then"])


def _require_new(then: Schedule, optimizer: Optimizer) -> None:
    if not isinstance(then, Schedule):
        raise ArgumentError(f"LinearWarmup: then must be a schedule or None, got {then!r}")
    if then.optimizer is not optimizer:
        raise ArgumentError(f"LinearWarmup: then={then!r} is for another optimiser; make it for the same one")
    if then.last_step:
        raise ArgumentError(
            f"LinearWarmup: then={then!r} is at step {then.last_step}, but the warm-up comes before its "
            f"step 0; make a new one"
        )
