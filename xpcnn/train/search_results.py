"""What a random search found, and the file that keeps it: a line of JSON for each trial."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from os import PathLike
from pathlib import Path
from typing import Any

from xpcnn.errors import CheckpointError
from xpcnn.io import replacing

__all__ = ["SearchFile", "SearchResults", "Trial"]

_KIND = "xpcnn random search"


@dataclass(frozen=True)
class Trial:
    """One training of a search: what was drawn for it, and the accuracies after each epoch.

    `failure` says why it has fewer than the others: its loss became no number.
    """

    number: int
    sample: dict[str, float]
    train_accuracy: list[float]
    validation_accuracy: list[float]
    seconds: float
    failure: str | None = None

    @property
    def accuracy(self) -> float | None:
        """The validation accuracy at the end; None of a training that failed."""
        return None if self.failure is not None else self.validation_accuracy[-1]

    def __str__(self) -> str:
        drawn = "  ".join(f"{name} {value:.2e}" for name, value in self.sample.items())
        found = f"{self.accuracy:7.2%}" if self.accuracy is not None else "diverged"
        reason = "" if self.failure is None else f"  {self.failure}"
        return f"{found}  {drawn}  {self.seconds:.1f} s{reason}"


@dataclass
class SearchResults:
    """The trials of a search as they were done, numbered from 1, and whether it was cut short.

    Examples
    --------
    >>> results = SearchResults([
    ...     Trial(1, {"lr": 1e-5}, [0.1], [0.12], 0.5),
    ...     Trial(2, {"lr": 3.2e-3}, [0.9], [0.88], 0.5),
    ...     Trial(3, {"lr": 9.0}, [], [], 0.1, "the loss became nan at step 2"),
    ... ])
    >>> print(results)
    rank  trial  accuracy        lr  seconds
    ----------------------------------------
       1      2    88.00%  3.20e-03      0.5
       2      1    12.00%  1.00e-05      0.5
       -      3  diverged  9.00e+00      0.1  the loss became nan at step 2
    """

    trials: list[Trial] = field(default_factory=list)
    interrupted: bool = False

    @property
    def ranked(self) -> list[Trial]:
        """The trials by their accuracy at the end, best first; the earlier of equals; failed ones last."""
        return sorted(self.trials, key=lambda trial: (-_rank(trial), trial.number))

    @property
    def best(self) -> Trial | None:
        """The trial that ended with the best validation accuracy; None if none did."""
        return next((trial for trial in self.ranked[:1] if trial.failure is None), None)

    def table(self, best: int | None = None) -> str:
        """Return the trials, or so many of the best, as a table."""
        names = list(dict.fromkeys(name for trial in self.trials for name in trial.sample))
        rows = [["rank", "trial", "accuracy", *names, "seconds"]]
        reasons = [""]
        for rank, trial in enumerate(self.ranked[:best], start=1):
            accuracy = trial.accuracy
            found = ["-", "diverged"] if accuracy is None else [str(rank), f"{accuracy:.2%}"]
            drawn = [f"{trial.sample[name]:.2e}" for name in names]
            rows.append([found[0], str(trial.number), found[1], *drawn, f"{trial.seconds:.1f}"])
            reasons.append("" if trial.failure is None else f"  {trial.failure}")
        widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
        lines = ["  ".join(map(str.rjust, row, widths)) for row in rows]
        rule = "-" * len(lines[0])
        lines = [line + reason for line, reason in zip(lines, reasons, strict=True)]
        return "\n".join([lines[0], rule, *lines[1:]])

    def __str__(self) -> str:
        return self.table()


def _same(sample: Mapping[str, float], other: Mapping[str, float]) -> bool:
    """Tell whether samples are equal, up to how two machines round a power of ten."""
    return sample.keys() == other.keys() and all(
        math.isclose(sample[name], other[name], rel_tol=1e-12) for name in sample
    )


def _rank(trial: Trial) -> float:
    return -1.0 if trial.accuracy is None else trial.accuracy


class SearchFile:
    """A file with a line that describes the search, and then one for each trial as it ended.

    Parameters
    ----------
    path : path
    header : mapping
        All that decides the results, as JSON can hold it.
    """

    def __init__(self, path: str | PathLike[str], header: Mapping[str, Any]) -> None:
        self.path = Path(path)
        self._header = json.loads(json.dumps({"kind": _KIND, "format_version": 1, **header}))

    def begin(self, sample: Callable[[int], dict[str, float]]) -> list[Trial]:
        """Return the trials kept in the file, which is begun if there is none.

        A last line without its end, as of a process that was killed, is cut off.

        Parameters
        ----------
        sample : callable
            Returns what is drawn for the trial of that number.

        Raises
        ------
        CheckpointError
            When it is no such file, is of another search, or is damaged before its last line.
        """
        try:
            content = self.path.read_bytes()
        except FileNotFoundError:
            content = b""
        except OSError as error:
            raise CheckpointError(f"{self.path}: cannot be read: {error.strerror}") from error
        if not content:
            with replacing(self.path) as temporary:
                temporary.write_text(json.dumps(self._header) + "\n", encoding="utf-8")
            return []
        whole = content[: content.rfind(b"\n") + 1]
        first, *lines = whole.splitlines() or [b""]
        self._check_header(first)
        trials: dict[int, Trial] = {}
        for number, line in enumerate(lines, start=2):
            trial = self._trial(line, f"{self.path}, line {number}")
            if trial.number in trials:
                raise CheckpointError(f"{self.path}, line {number}: trial {trial.number} is there twice")
            if not _same(trial.sample, sample(trial.number)):
                raise CheckpointError(
                    f"{self.path}, line {number}: trial {trial.number} was done with {trial.sample}, but "
                    f"{sample(trial.number)} is drawn for it; was the file changed?"
                )
            trials[trial.number] = trial
        if len(whole) < len(content):
            self._write("r+b", lambda file: file.truncate(len(whole)))
        return list(trials.values())

    def append(self, trial: Trial) -> None:
        """Add a trial.

        Raises
        ------
        CheckpointError
            When the file cannot be written.
        """
        line = json.dumps(asdict(trial), allow_nan=False) + "\n"
        self._write("ab", lambda file: file.write(line.encode()))

    def _write(self, mode: str, change: Callable[[Any], object]) -> None:
        try:
            with open(self.path, mode) as file:
                change(file)
        except OSError as error:
            raise CheckpointError(f"cannot write {self.path}: {error.strerror}") from error

    def _check_header(self, line: bytes) -> None:
        try:
            found = json.loads(line)
        except ValueError:
            found = None
        if not isinstance(found, dict) or found.get("kind") != _KIND:
            raise CheckpointError(f"{self.path}: is not the file of a random search; name another one")
        names = [name for name in {**found, **self._header} if found.get(name) != self._header.get(name)]
        if names:
            told = "; ".join(
                f"{name} {json.dumps(found.get(name))} there, {json.dumps(self._header.get(name))} here"
                for name in names
            )
            raise CheckpointError(f"{self.path}: is of another search: {told}; name another file")

    def _trial(self, line: bytes, where: str) -> Trial:
        try:
            trial = Trial(**json.loads(line))
            accuracies = [*trial.train_accuracy, *trial.validation_accuracy]
            numbers = [*accuracies, *trial.sample.values(), trial.seconds]
            if type(trial.number) is not int or not all(type(value) in (int, float) for value in numbers):
                raise ValueError(trial)
            if trial.failure is None and not trial.validation_accuracy:
                raise ValueError(trial)
        except (ValueError, TypeError, AttributeError) as error:
            raise CheckpointError(f"{where}: no readable trial: {error}") from error
        return trial
