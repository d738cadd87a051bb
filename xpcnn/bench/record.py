"""Measurements in a file, and two files side by side."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from os import PathLike
from typing import Any, NamedTuple

from xpcnn.bench.measure import Result
from xpcnn.errors import CheckpointError
from xpcnn.io import checked, read_json, write_json

__all__ = ["Change", "Record", "changes", "load", "save"]

_PARTS = ("machine", "versions", "settings", "results")


@dataclass(frozen=True)
class Record:
    """What was measured, on what, with which settings.

    Attributes
    ----------
    machine, versions, settings : dict
    results : list of Result
    """

    machine: Mapping[str, Any]
    versions: Mapping[str, Any]
    settings: Mapping[str, Any]
    results: Sequence[Result]

    @property
    def kind(self) -> str:
        """What was measured: conv, pool or model."""
        return str(self.settings["benchmark"])


def save(record: Record, path: str | PathLike[str]) -> None:
    """Write a record as JSON; a file that is there already is replaced whole or not at all.

    Raises
    ------
    CheckpointError
        When it cannot be written.
    """
    kept: dict[str, Any] = {name: getattr(record, name) for name in _PARTS}
    write_json(path, {**kept, "results": [result.to_json() for result in record.results]})


def load(path: str | PathLike[str]) -> Record:
    """Read what `save` wrote.

    Raises
    ------
    CheckpointError
        When the file cannot be read, is damaged, or is something else.
    """
    kept = read_json(path)
    if not isinstance(kept, dict) or not all(name in kept for name in _PARTS):
        raise CheckpointError(f"{path}: is no file of `xpcnn bench`, which has {', '.join(_PARTS)}")
    where = f"{path}: was not written by this version of `xpcnn bench`"
    record: Record = checked(Record, kept, where)
    checked(str, record.settings.get("benchmark"), where, "settings.benchmark")
    return record


class Change(NamedTuple):
    """One contestant in two records.

    Attributes
    ----------
    geometry, algorithm, pass_name : str
    before, after : float
        Milliseconds.
    ratio : float
        `after` by `before`.
    verdict : {"faster", "slower", ""}
        Empty where the spreads of the two overlap.
    """

    geometry: str
    algorithm: str
    pass_name: str
    before: float
    after: float
    ratio: float
    verdict: str


def changes(before: Record, after: Record) -> tuple[list[Change], int, int]:
    """Return what both records timed, and how many times only the first and only the second has.

    A contestant is faster, or slower, where the quartiles of its rounds lie apart.
    """
    ones, others = (
        {(one.geometry, one.algorithm, one.pass_name): one for one in record.results if one.ms is not None}
        for record in (before, after)
    )
    found = []
    for key, one in ones.items():
        if key in others:
            found.append(_compared(one, others[key]))
    return found, len(ones.keys() - others.keys()), len(others.keys() - ones.keys())


def _compared(one: Result, other: Result) -> Change:
    assert one.ms is not None
    assert other.ms is not None
    verdict = ""
    if (other.high_ms or other.ms) < (one.low_ms or one.ms):
        verdict = "faster"
    elif (other.low_ms or other.ms) > (one.high_ms or one.ms):
        verdict = "slower"
    ratio = other.ms / one.ms
    return Change(one.geometry, one.algorithm, one.pass_name, one.ms, other.ms, ratio, verdict)
