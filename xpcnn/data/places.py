"""Where a dataset's files may be, and under which names: as unpackers, Kaggle and torchvision leave them."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from xpcnn.data.fetch import Source

__all__ = ["SHARED", "candidates", "not_found"]

SHARED = ("raw", "")
"""Folders under a root that any dataset's files may lie in; "" is the root itself."""

_MOST_NAMES = 8


def _names_of(file: str) -> tuple[str, ...]:
    """The names a file goes by: its own, and with a dot for the hyphen before ``idx``."""
    return tuple(dict.fromkeys((file, file.replace("-idx", ".idx"))))


def candidates(folder: Path, file: str) -> Iterator[Path]:
    """The files of a folder that may be `file`, by their names; Kaggle has some in a folder of that name."""
    for name in _names_of(file):
        for path in (folder / name, folder / f"{name}.gz", folder / name / name):
            if os.path.isfile(path):
                yield path


def not_found(root: Path, source: Source, file: str) -> str:
    """What was looked for under a root, where, and what is there instead."""
    where = ", ".join(f"{folder}/" for folder in (*source.folders, *SHARED) if folder)
    looked = f"no {' or '.join(_names_of(file))}, with or without .gz, in {where} or directly under {root}"
    if not os.path.isdir(root):
        return f"{looked}, which is no folder"
    listed = [_listed(root / folder, f"{folder}/") for folder in (*source.folders, *SHARED) if folder]
    return "; ".join([looked, *filter(None, listed), _listed(root, "the latter") or ""])


def _visible(name: str) -> str:
    return name if name.isprintable() else ascii(name)


def _listed(folder: Path, name: str) -> str | None:
    """Return a folder's name and what it holds, or None where there is no such folder."""
    if not os.path.isdir(folder):
        return None
    try:
        names = sorted(os.listdir(folder))
    except OSError as error:
        return f"{name} cannot be read: {error.strerror}"
    more = "" if len(names) <= _MOST_NAMES else f" and {len(names) - _MOST_NAMES} more"
    return f"{name} holds {', '.join(map(_visible, names[:_MOST_NAMES])) or 'nothing'}{more}"
