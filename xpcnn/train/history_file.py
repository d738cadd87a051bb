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
from dataclasses import replace
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
