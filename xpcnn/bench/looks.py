"""How contestants look in every picture, and what the pictures say they are of."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import NamedTuple

from xpcnn.bench.measure import FLOOR, OURS, PLAIN_LOOP, Result
from xpcnn.bench.record import Record

__all__ = ["Look", "in_order", "look_of", "subject"]


class Look(NamedTuple):
    """How a contestant is drawn everywhere; hatches and markers tell without colour."""

    color: str
    hatch: str
    marker: str


_LOOKS: Mapping[str, Look] = {
    "auto": Look("#222222", "", "*"),
    OURS: Look("#222222", "", "*"),
    "im2col": Look("#0072b2", "", "o"),
    "as_strided": Look("#56b4e9", "//", "s"),
    "kn2row": Look("#009e73", "", "^"),
    "mec": Look("#d55e00", "", "D"),
    "winograd": Look("#cc79a7", "", "v"),
    "fft": Look("#e69f00", "\\\\", "P"),
    "native": Look("#8c564b", "", "h"),
    "cudnn": Look("#117733", "xx", "X"),
    "loop": Look("#c8b400", "..", "<"),
    "torch": Look("#999999", "", "p"),
    PLAIN_LOOP: Look("#dddddd", "..", ">"),
}
_OTHER = Look("#bbbbbb", "++", "d")


def look_of(algorithm: str) -> Look:
    """Return how a contestant is drawn; those without a look of their own share one."""
    return _LOOKS.get(algorithm, _OTHER)


def in_order(results: Iterable[Result]) -> list[str]:
    """Return the contestants of results in the order in which every picture shows them, the floor first."""
    known = [FLOOR, *_LOOKS]
    names = dict.fromkeys(result.algorithm for result in results)
    return sorted(names, key=lambda name: known.index(name) if name in known else len(known))


def subject(record: Record) -> str:
    """Return what was measured on what, for titles."""
    settings, machine = record.settings, record.machine
    on = machine["processor"] if machine["device"] == "cpu" else machine["device"]
    said = f"{settings['backend']} on {on}, {settings['dtype']}"
    if machine["device"] == "cpu":
        return f"{said}, {settings['threads']} thread{'s' if settings['threads'] > 1 else ''}"
    return f"{said}, TF32 {'on' if settings['tf32'] else 'off'}"
