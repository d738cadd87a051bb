"""The folder an ensemble is kept in: settings, members' runs, a log, results; and a lock."""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from xpcnn.cli.settings import Settings
from xpcnn.errors import CheckpointError
from xpcnn.io import replacing
from xpcnn.train import RunDirectory

# How long processes of an earlier command, that was killed, may take to finish their step and save.
PATIENCE_SECONDS = 30.0


class EnsembleFolder:
    """Where an ensemble is kept, begun if it was not.

    Parameters
    ----------
    path : Path
    settings : Settings
        The members', but for their seeds.
    own : sequence of dict
        For each member, the settings in which it differs.

    Raises
    ------
    CheckpointError
        When the folder holds something else, or an ensemble with other settings.
    """

    def __init__(self, path: Path, settings: Settings, own: Sequence[dict[str, Any]]) -> None:
        self.path = path.resolve()
        self.members = [self.path / f"member-{number}" for number in range(len(own))]
        self.own = list(own)
        self._settings = settings
        self._settings_file = self.path / "ensemble.json"
        self._results_file = self.path / "results.json"
        self._seconds_file = self.path / "seconds.json"
        self.settings: dict[str, Any] = {"members": len(own), **asdict(settings), "own": self.own}
        del self.settings["seed"]  # each member has its own
        if self._settings_file.exists():
            self._require_same()
        else:
            self._begin()

    def _begin(self) -> None:
        try:
            self.path.mkdir(parents=True, exist_ok=True)
            others = sorted(file.name for file in self.path.iterdir() if not file.name.startswith("."))
        except OSError as error:
            raise CheckpointError(f"cannot make the folder {self.path}: {error.strerror}") from error
        if others:
            raise CheckpointError(f"{self.path} holds {others[0]} and no ensemble; name another folder")
        _write_json(self._settings_file, self.settings)

    def _require_same(self) -> None:
        kept, asked = _read_json(self._settings_file), self.settings
        for name in sorted(asked.keys() | kept.keys()):
            if asked.get(name) != kept.get(name):
                raise CheckpointError(
                    f"{self.path} was begun with {name} {kept.get(name)!r}, not {asked.get(name)!r}; "
                    f"give the options it was begun with, or name another folder"
                )

    @contextmanager
    def locked(self) -> Iterator[int]:
        """Hold the folder. Yields the file descriptor that holds it for as long as any process has it open.

        Raises
        ------
        CheckpointError
            When another command holds it.
        """
        import fcntl  # not on Windows

        handle = os.open(self.path / ".lock", os.O_RDWR | os.O_CREAT, 0o666)
        try:
            until = time.monotonic() + PATIENCE_SECONDS
            while True:
                try:
                    fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
                    break
                except BlockingIOError:
                    if time.monotonic() > until:
                        raise CheckpointError(f"{self.path}: another command is at work there") from None
                    time.sleep(0.1)
            yield handle
        finally:
            os.close(handle)

    def run(self, number: int) -> RunDirectory:
        """Return the run of a member, begun if it was not."""
        run = RunDirectory(self.members[number])
        if run.config_file.exists():
            return run
        return RunDirectory(run.path, replace(self._settings, seed=number, **self.own[number]).to_config())

    def epochs_left(self, number: int) -> int:
        """Return how many epochs of a member are not trained and saved yet."""
        run = self.run(number)
        done = len(run.history().epochs) if run.history_file.exists() else 0
        return self._settings.epochs - done

    @property
    def seconds(self) -> float:
        """How many seconds commands have been at work here."""
        return float(_read_json(self._seconds_file)["seconds"]) if self._seconds_file.exists() else 0.0

    @seconds.setter
    def seconds(self, seconds: float) -> None:
        _write_json(self._seconds_file, {"seconds": round(seconds, 1)})

    @property
    def results(self) -> dict[str, Any] | None:
        """What came out; None before the end."""
        return _read_json(self._results_file) if self._results_file.exists() else None

    def finish(self, results: dict[str, Any], table: str) -> None:
        """Keep the results, and a table of them."""
        with replacing(self.path / "results.md") as temporary:
            temporary.write_text(table + "\n", encoding="utf-8")
        _write_json(self._results_file, results)  # last: once it is there, all is

    def note(self, line: str) -> None:
        """Add a line to the log, with the time."""
        with (self.path / "log.txt").open("a", encoding="utf-8") as file:
            file.write(f"{datetime.now(UTC):%Y-%m-%d %H:%M:%S}  {line}\n")

    def tell(self, line: str) -> None:
        """Print a line on stderr, and add it to the log."""
        print(line, file=sys.stderr, flush=True)
        self.note(line)


def _write_json(path: Path, value: dict[str, Any]) -> None:
    with replacing(path) as temporary:
        temporary.write_text(json.dumps(value, indent=1, allow_nan=False) + "\n", encoding="utf-8")


def _read_json(path: Path) -> dict[str, Any]:
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise CheckpointError(f"{path}: unreadable: {error}") from error
    if not isinstance(value, dict):
        raise CheckpointError(f"{path}: unreadable: expected an object")
    return value
