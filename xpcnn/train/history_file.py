"""A run's history on the disk: a line each epoch, which is appended, with the losses of its steps.

Each line is an object: the fields of an `EpochRecord`, and ``losses``, those of the steps since the line
before. What a run did after its last whole epoch is a line of ``losses`` alone. An interrupted run's last
line has ``"interrupted": true``.
"""

from __future__ import annotations

import json
import logging
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from xpcnn.errors import CheckpointError
from xpcnn.io import checked, parse_json
from xpcnn.train.history import History

__all__ = ["HistoryFile"]

_log = logging.getLogger(__name__)


class HistoryFile:
    """Reads ``history.jsonl``, and appends what a history has more.

    Parameters
    ----------
    path : Path
        It need not exist.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._losses = self._epochs = 0  # how many of a history the file has
        self._interrupted = False
        self._end = 0  # of that, in bytes

    def read(self) -> History:
        """Return the whole history; a last line that was not written whole is left out, with a note.

        Raises
        ------
        CheckpointError
            When the file is missing or unreadable.
        """
        history = History()
        for part, _ in self._parts():
            history.losses += part.losses
            history.epochs += part.epochs
            history.interrupted = part.interrupted
        return history

    def follow(self, history: History) -> None:
        """Keep the lines that tell the beginning of `history`, and append what it has more.

        From a damaged line on the file is written again, with a note.

        Raises
        ------
        CheckpointError
            When the file cannot be read or written.
        """
        self._count(History(), 0)
        if self.path.exists():
            known = History()
            for part, end in self._parts(repaired=True):
                losses, epochs = len(known.losses), len(known.epochs)
                known.losses += part.losses
                known.epochs += part.epochs
                known.interrupted = part.interrupted
                same = History(
                    history.losses[losses : len(known.losses)],
                    history.epochs[epochs : len(known.epochs)],
                    part.interrupted,
                )
                if same.to_json() != part.to_json():
                    break
                self._count(known, end)
        self.append(history)

    def append(self, history: History) -> None:
        """Write what `history` has and the file has not; `follow` has to come first."""
        content = "".join(f"{json.dumps(line, allow_nan=False)}\n" for line in self._new(history)).encode()
        if not content and not self.path.exists():
            return
        try:
            with open(self.path, "ab") as file:
                file.truncate(self._end)  # what goes on otherwise, or a full disk has left of a line
                file.write(content)
                file.flush()
                os.fsync(file.fileno())
        except OSError as error:
            raise CheckpointError(f"cannot write {self.path}: {error.strerror or error}") from error
        self._count(history, self._end + len(content))

    def _new(self, history: History) -> Iterator[dict[str, Any]]:
        """Yield the lines that are missing, all losses on the first of them."""
        losses = history.losses[self._losses :]
        for record in history.epochs[self._epochs :]:
            yield _line(History(losses, [record]))
            losses = []
        if losses or history.interrupted or self._interrupted:
            yield _line(History(losses, interrupted=history.interrupted))

    def _count(self, history: History, end: int) -> None:
        self._losses, self._epochs = len(history.losses), len(history.epochs)
        self._interrupted, self._end = history.interrupted, end

    def _parts(self, repaired: bool = False) -> Iterator[tuple[History, int]]:
        """Yield what each line tells, and where in the file it ends; a damaged one ends it if `repaired`."""
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
                    raise CheckpointError(f"{self.path}: unreadable: line {number} has no end")
                part = _part(line, f"{self.path}: unreadable: line {number}")
            except CheckpointError as error:
                if repaired and number < len(lines):
                    _log.warning("%s; it and those after it are written again", error)
                    return
                if number < len(lines):
                    raise
                _log.warning("%s: its last line was not written whole and is left out", self.path)
                return
            yield part, end


def _line(part: History) -> dict[str, Any]:
    plain = part.to_json()
    (record,) = plain["epochs"] or [{}]
    return {**record, "losses": plain["losses"], **({"interrupted": True} if part.interrupted else {})}


def _part(line: bytes, where: str) -> History:
    """Return what `_line` was made of."""
    record = checked(dict[str, Any], parse_json(line, where), where)
    plain: dict[str, Any] = {"interrupted": False}
    plain |= {name: record.pop(name) for name in ("losses", "interrupted") if name in record}
    return History.from_json({**plain, "epochs": [record] if record else []}, where)
