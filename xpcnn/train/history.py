"""What a training run measured, step by step and epoch by epoch."""

from __future__ import annotations

import json
import logging
import math
import os
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, NamedTuple

from xpcnn.errors import CheckpointError
from xpcnn.io import checked, parse_json

__all__ = ["EpochRecord", "History", "HistoryFile"]

_log = logging.getLogger(__name__)


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


class HistoryFile:
    """Reads ``history.jsonl``, and appends what a history has more: a line each epoch.

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
        self._interrupted = False

    def read(self) -> History:
        """Return the whole history; a last line that was not written whole is left out, with a note.

        Raises
        ------
        CheckpointError
            When the file is missing or unreadable.
        """
        history = History()
        for line, _ in self._lines():
            history.losses += line.losses
            history.epochs += line.epochs
            history.interrupted = line.interrupted
        return history

    def follow(self, history: History) -> None:
        """Keep the lines that tell the beginning of `history`, and append what it has more.

        From a damaged line on the file is written again, with a note.

        Raises
        ------
        CheckpointError
            When the file cannot be read or written.
        """
        self._losses = self._epochs = self._end = 0
        self._interrupted = False
        for line, end in self._lines(repair=True) if self.path.exists() else ():
            losses, epochs = self._losses + len(line.losses), self._epochs + len(line.epochs)
            same = History(history.losses[self._losses : losses], history.epochs[self._epochs : epochs])
            if replace(same, interrupted=line.interrupted).to_json() != line.to_json():
                break
            self._losses, self._epochs, self._end = losses, epochs, end
            self._interrupted = line.interrupted
        self.append(history)

    def append(self, history: History) -> None:
        """Write what `history` has and the file has not; `follow` has to come first."""
        lines, losses = [], history.losses[self._losses :]
        for record in history.epochs[self._epochs :]:
            lines.append(History(losses, [record]))
            losses = []
        if losses or history.interrupted or self._interrupted:
            lines.append(History(losses, interrupted=history.interrupted))
        if not lines and not self.path.exists():
            return
        content = b"".join(map(_encoded, lines))
        try:
            with open(self.path, "ab") as file:
                file.truncate(self._end)  # what goes on otherwise, or a full disk has left of a line
                file.write(content)
                file.flush()
                os.fsync(file.fileno())
        except OSError as error:
            raise CheckpointError(f"cannot write {self.path}: {error.strerror or error}") from error
        self._losses, self._epochs = len(history.losses), len(history.epochs)
        self._interrupted, self._end = history.interrupted, self._end + len(content)

    def _lines(self, repair: bool = False) -> Iterator[tuple[History, int]]:
        """Yield what each line tells, and where in the file it ends; if `repair`, up to a damaged one."""
        try:
            lines = self.path.read_bytes().splitlines(keepends=True)
        except FileNotFoundError:
            raise CheckpointError(
                f"{self.path}: no such file; is {self.path.parent} the folder of a run?"
            ) from None
        except OSError as error:
            raise CheckpointError(f"{self.path}: unreadable: {error.strerror or error}") from error
        end = 0
        for number, line in enumerate(lines, start=1):
            end += len(line)
            try:
                if not line.endswith(b"\n"):
                    raise CheckpointError(f"{self.path}: unreadable: line {number} was not written whole")
                yield _decoded(line, f"{self.path}: unreadable: line {number}"), end
            except CheckpointError as error:
                if number < len(lines) and not repair:
                    raise
                _log.warning("%s; it and what follows are left out", error)
                return


def _encoded(part: History) -> bytes:
    """Return the line that tells of at most one epoch, and the losses before it."""
    plain = part.to_json()
    (record,) = plain["epochs"] or [{}]
    marks = {"interrupted": True} if part.interrupted else {}
    return json.dumps({**record, "losses": plain["losses"], **marks}, allow_nan=False).encode() + b"\n"


def _decoded(line: bytes, where: str) -> History:
    record = checked(dict[str, Any], parse_json(line, where), where)
    plain: dict[str, Any] = {"interrupted": False}
    plain |= {name: record.pop(name) for name in ("losses", "interrupted") if name in record}
    return History.from_json({**plain, "epochs": [record] if record else []}, where)
