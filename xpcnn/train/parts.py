"""What a trainer is put together from: of the right kinds, and made for one another."""

from __future__ import annotations

from typing import Any

from xpcnn.errors import ArgumentError
from xpcnn.nn import Layer
from xpcnn.optim import Optimizer, Schedule, WeightAverage

__all__ = ["require_parts"]


def require_parts(model: Layer, optimizer: Any, schedule: Any, average: Any) -> None:
    """Raise `ArgumentError` where one is of another kind, or was made for another model or optimiser.

    There may be no schedule and no average.
    """
    parts = (("optimizer", optimizer, Optimizer), ("schedule", schedule, Schedule))
    for argument, part, kind in (*parts, ("average", average, WeightAverage)):
        if not isinstance(part, kind) and (part is not None or argument == "optimizer"):
            raise ArgumentError(
                f"Trainer: {argument} must be an optim.{kind.__name__}, got {type(part).__name__}"
            )
    if schedule is not None and schedule.optimizer is not optimizer:
        raise ArgumentError(
            f"Trainer: schedule={schedule!r} is for another optimiser; make it for the one given"
        )
    if average is not None and average.source is not model:
        raise ArgumentError("Trainer: average= is of another model; make it for the one given")
