"""Finding a dataset's files: the user's folder, the user cache, then mirrors.

A file is trusted by the SHA-256 of its *decompressed* content, so a copy that someone compressed again is as
good as the original. Downloads go to a name of their own beside the target and are renamed only once the
content has been checked; so an interrupted or concurrent fetch never leaves a bad file under the good name.
"""

from __future__ import annotations

import hashlib
import logging
import os
import secrets
import sys
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from xpcnn.data.idx import GZIP_MAGIC, read_content
from xpcnn.errors import DatasetError

__all__ = ["DATA_DIR_VARIABLE", "Source", "cache_dir", "expand", "load_file"]

DATA_DIR_VARIABLE = "XPCNN_DATA_DIR"
_TIMEOUT_SECONDS = 30
_CHUNK = 1 << 16
_SHARED = ("raw", "")
"""Folders under a root that any dataset's files may lie in; "" is the root itself."""

_MOST_NAMES = 8  # of what a folder holds, in messages
_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Source:
    """Where a dataset's files come from, and how they are recognised.

    Parameters
    ----------
    name : str
        The dataset, and the folder that its files are cached in.
    mirrors : tuple of str
        Base URLs, tried in this order; each holds ``<file>.gz``.
    sha256 : mapping of str to str
        File name without ``.gz`` -> SHA-256 of the decompressed content, in hexadecimal.
    folders : tuple of str
        Under a user's root, where to look for the files.
    sizes : mapping of str to int
        File name without ``.gz`` -> bytes of that content: no more are fetched or decompressed.
    """

    name: str
    mirrors: tuple[str, ...]
    sha256: Mapping[str, str]
    folders: tuple[str, ...]
    sizes: Mapping[str, int]


def cache_dir() -> Path:
    """The folder that fetched datasets are kept in, one folder for each."""
    import pooch

    return Path(pooch.os_cache("xpcnn"))


def expand(root: str | os.PathLike[str]) -> Path:
    """The user's own folder for datasets, with ``~`` and ``~name`` expanded.

    Raises
    ------
    DatasetError
        When there is no such user.
    """
    try:
        return Path(root).expanduser()
    except RuntimeError as error:
        raise DatasetError(f"${DATA_DIR_VARIABLE} or root: {str(root)!r}: {error}") from None


def load_file(source: Source, file: str, root: str | os.PathLike[str] | None = None) -> bytes:
    """The verified, decompressed content of one file of a dataset, fetched if need be.

    Parameters
    ----------
    source : Source
        The dataset.
    file : str
        One of ``source.sha256``; it is looked for with and without ``.gz``, and with a dot for a hyphen.
    root : path-like, optional
        Look in ``source.folders`` under `root`, in ``root/raw`` and in `root` itself, and nowhere else.
        Without it the search goes through ``$XPCNN_DATA_DIR`` in that way, ``<user cache>/<name>`` and the
        mirrors.

    Returns
    -------
    bytes
        Content whose SHA-256 is ``source.sha256[file]``.

    Raises
    ------
    DatasetError
        A damaged file in the user's own folder (which is never overwritten), no such file under `root`, or
        no mirror that gave the right content: the message lists each mirror with its reason.
    """
    user_root = os.environ.get(DATA_DIR_VARIABLE) if root is None else root
    problems: list[str] = []
    if user_root:
        top = expand(user_root)
        own = _look_in((top / folder for folder in source.folders), source, file, problems)
        # Datasets share file names: what is wrong in a shared folder may be another's, and right.
        is_damaged = bool(problems)
        content = own or _look_in((top / folder for folder in _SHARED), source, file, problems)
        if content is not None:
            return content
        if is_damaged or (problems and root is not None):
            raise DatasetError(f"{'; '.join(problems)}; replace or remove it (xpcnn leaves it alone)")
        problems = problems or [f"${DATA_DIR_VARIABLE}: {_not_found(top, source, file)}"]
        if root is not None:
            raise DatasetError(f"{source.name}: {_not_found(top, source, file)}")
    folder = cache_dir() / source.name
    content = _look_in([folder], source, file, problems)
    return _fetch(source, file, folder, problems) if content is None else content


def _candidates(folder: Path, file: str) -> Iterator[Path]:
    """The files of a folder that may be `file`, by their names; Kaggle has some in a folder of that name."""
    for name in dict.fromkeys((file, file.replace("-idx", ".idx"))):
        for path in (folder / name, folder / f"{name}.gz", folder / name / name):
            if os.path.isfile(path):
                yield path


def _not_found(root: Path, source: Source, file: str) -> str:
    """What was looked for under a root, where, and what is there instead."""
    places = [root / folder for folder in (*source.folders, *_SHARED)]
    held = [f"{place} holds {_names_in(place)}" for place in places if os.path.isdir(place)]
    looked = f"no {file} or {file.replace('-idx', '.idx')}, with or without .gz, in"
    return f"{looked} {', '.join(map(str, places))}; {'; '.join(held) or 'none of these is a folder'}"


def _names_in(folder: Path) -> str:
    try:
        names = sorted(os.listdir(folder))
    except OSError as error:
        return f"what cannot be read: {error.strerror}"
    more = f" and {len(names) - _MOST_NAMES} more" if len(names) > _MOST_NAMES else ""
    return (", ".join(map(repr, names[:_MOST_NAMES])) or "nothing") + more


def _look_in(folders: Iterable[Path], source: Source, file: str, problems: list[str]) -> bytes | None:
    """The first good copy of `file` in some folders; a list takes what is wrong with those before it."""
    for path in (path for folder in folders for path in _candidates(folder, file)):
        try:
            return _verify(path, str(path), source, file)
        except DatasetError as error:
            problems.append(str(error))
    return None


def _verify(path: Path, name: str, source: Source, file: str) -> bytes:
    content, expected = read_content(path, name, source.sizes[file]), source.sha256[file]
    actual = hashlib.sha256(content).hexdigest()
    if actual != expected:
        raise DatasetError(f"{name}: wrong content: SHA-256 (decompressed) is {actual}, expected {expected}")
    return content


def _fetch(source: Source, file: str, folder: Path, problems: list[str]) -> bytes:
    """Download `file` into `folder` from the first mirror that has it right, and remove damaged copies."""
    for mirror in source.mirrors:
        url = f"{mirror.rstrip('/')}/{file}.gz"
        part = folder / f".{file}.{secrets.token_hex(8)}.part"
        try:
            folder.mkdir(parents=True, exist_ok=True)
            _log.info("fetching %s", url)
            _download(url, part, source.sizes[file])
            content = _verify(part, url, source, file)
            gzipped = part.read_bytes().startswith(GZIP_MAGIC)  # unless decompressed on the way
            target = folder / (f"{file}.gz" if gzipped else file)
            os.replace(part, target)
            for damaged in set(_candidates(folder, file)) - {target}:
                damaged.unlink(missing_ok=True)
            return content
        except (OSError, ValueError) as error:  # every requests exception is an OSError
            reason = " ".join(str(error).split())
            problems.append(reason if isinstance(error, DatasetError) else f"{url}: {reason}")
        finally:  # also on Ctrl-C
            if os.path.exists(part):
                part.unlink()
    raise DatasetError(
        f"{source.name}: cannot get {file}: {'; '.join(problems)}; to provide the files by hand, put "
        f"{', '.join(f'{name}.gz' for name in source.sha256)} into {folder} or into a folder "
        f"{source.folders[0]} under ${DATA_DIR_VARIABLE}"
    )


def _download(url: str, path: Path, most: int) -> None:
    """Fetch a file whose content, once decompressed, has at most `most` bytes."""
    import requests
    from tqdm.auto import tqdm

    most += most // 1000 + 1024  # what gzip adds to content that it cannot compress
    with requests.get(url, stream=True, timeout=_TIMEOUT_SECONDS) as response:
        response.raise_for_status()
        if url.startswith("https:") and not response.url.startswith("https:"):
            raise DatasetError(f"{url}: leads to {response.url}, which is not encrypted")
        total = int(response.headers.get("Content-Length", 0)) or None
        silent = sys.stderr is None or not sys.stderr.isatty()
        with path.open("wb") as file, tqdm(total=total, unit="B", unit_scale=True, disable=silent) as bar:
            for chunk in response.iter_content(_CHUNK):
                file.write(chunk)
                bar.update(len(chunk))
                if file.tell() > most:
                    raise DatasetError(f"{url}: sends more than {most:,} bytes, more than the file has")
