"""What a training run measured, step by step and epoch by epoch."""

from __future__ import annotations

import json
import logging
import math
import os
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

from xpcnn.errors import CheckpointError
from xpcnn.io import checked, parse_json, replacing

__all__ = ["EpochRecord", "History", "HistoryFile"]

_log = logging.getLogger(__name__)


@dataclass
class EpochRecord:
    """One epoch. `seconds` and `images_per_second` are of training alone, without the evaluation.

    Accuracies are None where the targets have no classes or there was no such set; `test_loss` is None
    without a test set. `lr` is the learning rate that the epoch ended with, and `steps` the number of the
    history's losses up to there.
    """

    epoch: int
    loss: float
    train_accuracy: float | None
    test_accuracy: float | None
    seconds: float
    images_per_second: float
    test_loss: float | None = None
    lr: float | None = None
    steps: int = 0

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


class HistoryFile:
    """Reads ``history.jsonl``, and writes it: a line each epoch, appended.

    Each line is an object: the fields of an `EpochRecord`, and ``losses``, those of the steps since the line
    before. What a run did after its last whole epoch is a line of ``losses`` alone. An interrupted run's last
    line has ``"interrupted": true``.

    Parameters
    ----------
    path : Path
        It need not exist.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._losses = self._epochs = self._end = 0  # what the file has: of a history, and in bytes

    def read(self) -> History:
        """Return the whole history; a last line that was not written whole is left out, with a note.

        Raises
        ------
        CheckpointError
            When the file is missing or unreadable.
        """
        try:
            lines = self.path.read_bytes().splitlines(keepends=True)
        except OSError as error:
            raise CheckpointError(f"{self.path}: unreadable: {error.strerror or error}") from error
        history = History()
        for number, line in enumerate(lines, start=1):
            where = f"{self.path}: unreadable: line {number}"
            if number == len(lines) and not line.endswith(b"\n"):
                _log.warning("%s was not written whole; it is left out", where)
                break
            record = checked(dict[str, Any], parse_json(line, where), where)
            own = {name: record.pop(name) for name in ("losses", "interrupted") if name in record}
            told = History.from_json(
                {"interrupted": False, **own, "epochs": [record] if record else []}, where
            )
            history.losses += told.losses
            history.epochs += told.epochs
            history.interrupted = told.interrupted
        return history

    def begin(self, history: History) -> None:
        """Write what `history` has in place of what is there.

        Raises
        ------
        CheckpointError
            When the file cannot be written.
        """
        self._losses = self._epochs = self._end = 0
        content = self._more(history)
        if content or self.path.exists():
            with replacing(self.path) as temporary:
                temporary.write_bytes(content)
        self._note(history, content)

    def append(self, history: History) -> None:
        """Write what `history` has and the file has not; `begin` has to come first."""
        content = self._more(history)
        try:
            with open(self.path, "ab") as file:
                file.truncate(self._end)  # a full disk may have left a part of a line
                file.write(content)
                file.flush()
                os.fsync(file.fileno())
        except OSError as error:
            raise CheckpointError(f"cannot write {self.path}: {error.strerror or error}") from error
        self._note(history, content)

    def _more(self, history: History) -> bytes:
        """Return the lines that the file lacks."""
        lines, told = [], self._losses
        for record in history.epochs[self._epochs :]:
            lines.append(History(history.losses[told : record.steps], [record]).to_json())
            told = record.steps  # 0 in the first records, where an earlier version made them
        if told < len(history.losses) or history.interrupted:
            lines.append(History(history.losses[told:], interrupted=history.interrupted).to_json())
        plain = [{**dict(*line.pop("epochs")), **line} for line in lines]
        for line in plain:
            if not line["interrupted"]:
                del line["interrupted"]
        return "".join(json.dumps(line, allow_nan=False) + "\n" for line in plain).encode()

    def _note(self, history: History, content: bytes) -> None:
        self._losses, self._epochs = len(history.losses), len(history.epochs)
        self._end += len(content)
