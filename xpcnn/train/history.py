"""What a training run measured, step by step and epoch by epoch."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass, field
from typing import Any

__all__ = ["EpochRecord", "History"]


@dataclass
class EpochRecord:
    """One epoch. `seconds` and `images_per_second` are of training alone, without the evaluation."""

    epoch: int
    loss: float
    train_accuracy: float
    test_accuracy: float | None
    seconds: float
    images_per_second: float


@dataclass
class History:
    """The loss of every step, a record of every epoch, and whether the run was cut short.

    Examples
    --------
    >>> History(losses=[2.0, 1.0]).to_json()["losses"]
    [2.0, 1.0]
    """

    losses: list[float] = field(default_factory=list)
    epochs: list[EpochRecord] = field(default_factory=list)
    interrupted: bool = False

    @property
    def train_accuracy(self) -> list[float]:
        """The accuracy on the training set after each epoch."""
        return [record.train_accuracy for record in self.epochs]

    @property
    def test_accuracy(self) -> list[float | None]:
        """The accuracy on the test set after each epoch; None where there was no test set."""
        return [record.test_accuracy for record in self.epochs]

    @property
    def seconds(self) -> float:
        """The seconds spent training."""
        return sum(record.seconds for record in self.epochs)

    def to_json(self) -> dict[str, Any]:
        """Return what a JSON file holds; a loss that is no number becomes None."""
        plain = asdict(self)
        plain["losses"] = [loss if math.isfinite(loss) else None for loss in self.losses]
        return plain

    @classmethod
    def from_json(cls, plain: dict[str, Any]) -> History:
        """Return the history that `to_json` described."""
        losses = [math.nan if loss is None else float(loss) for loss in plain["losses"]]
        epochs = [EpochRecord(**record) for record in plain["epochs"]]
        return cls(losses, epochs, bool(plain["interrupted"]))
