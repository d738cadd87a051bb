"""What a training run measured, step by step and epoch by epoch."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass, field
from typing import Any, NamedTuple

from xpcnn.io import checked

__all__ = ["EpochRecord", "History"]


@dataclass
class EpochRecord:
    """One epoch. `seconds` and `images_per_second` are of training alone, without the evaluation.

    Accuracies are None where the targets have no classes or there was no such set; `test_loss` is None
    without a test set. `lr` is the learning rate that the epoch ended with.
    """

    epoch: int
    loss: float
    train_accuracy: float | None
    test_accuracy: float | None
    seconds: float
    images_per_second: float
    test_loss: float | None = None
    lr: float | None = None

    @property
    def score(self) -> float | None:
        """The test accuracy, or without classes minus the test loss: the higher, the better."""
        if self.test_accuracy is None and self.test_loss is not None:
            return -math.inf if math.isnan(self.test_loss) else -self.test_loss
        return self.test_accuracy


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
    def train_accuracy(self) -> list[float | None]:
        """The accuracy on the training set after each epoch; None where it has no classes."""
        return [record.train_accuracy for record in self.epochs]

    @property
    def test_accuracy(self) -> list[float | None]:
        """The accuracy on the test set after each epoch; None where there was none, or no classes."""
        return [record.test_accuracy for record in self.epochs]

    @property
    def test_loss(self) -> list[float | None]:
        """The loss on the test set after each epoch; None where there was none."""
        return [record.test_loss for record in self.epochs]

    @property
    def seconds(self) -> float:
        """The seconds spent training."""
        return sum(record.seconds for record in self.epochs)

    def to_json(self) -> dict[str, Any]:
        """Return what a JSON file holds; a loss that is no number becomes None."""
        plain = asdict(self)
        plain["losses"] = [_number(loss) for loss in self.losses]
        for record in plain["epochs"]:
            record["test_loss"] = _number(record["test_loss"])
        return plain

    @classmethod
    def from_json(cls, plain: Any, where: str = "history") -> History:
        """Return the history that `to_json` described; `where` stands for its file in messages.

        Raises
        ------
        CheckpointError
            When it is something else; the message names the field.
        """
        saved: _Saved = checked(_Saved, plain, where)
        losses = [math.nan if loss is None else float(loss) for loss in saved.losses]
        return cls(losses, saved.epochs, saved.interrupted)


class _Saved(NamedTuple):
    """What `History.to_json` writes."""

    losses: list[float | None]
    epochs: list[EpochRecord]
    interrupted: bool


def _number(value: float | None) -> float | None:
    return value if value is not None and math.isfinite(value) else None
