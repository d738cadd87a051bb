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
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from xpcnn.data.idx import GZIP_MAGIC, read_content
from xpcnn.errors import DatasetError

__all__ = ["DATA_DIR_VARIABLE", "Source", "cache_dir", "expand", "has_names", "holds", "load_file"]

DATA_DIR_VARIABLE = "XPCNN_DATA_DIR"
_TIMEOUT_SECONDS = 30
_CHUNK = 1 << 16
SHARED = ("raw", "")
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
        own = [top / folder for folder in source.folders]
        content, damaged = _look_in([*own, *(top / folder for folder in SHARED)], source, file)
        if content is not None:
            return content
        problems = list(damaged.values())
        # Datasets share file names: what is wrong in a shared folder may be another's, and right.
        is_own = any(path.is_relative_to(folder) for path in damaged for folder in own)
        if is_own or (damaged and root is not None):
            raise DatasetError(f"{'; '.join(problems)}; replace or remove it (xpcnn leaves it alone)")
        if root is not None:
            raise DatasetError(f"{source.name}: {_not_found(top, source, file)}")
        for problem in problems:
            _log.warning("%s; looking for %s elsewhere", problem, source.name)
        problems = problems or [f"${DATA_DIR_VARIABLE}: {_not_found(top, source, file)}"]
    folder = cache_dir() / source.name
    content, damaged = _look_in([folder], source, file)
    if content is None:
        for problem in damaged.values():
            _log.warning("%s; fetching it again", problem)
        content, kept = _fetch(source, file, folder, [*problems, *damaged.values()])
        for path in damaged.keys() - {kept}:
            path.unlink(missing_ok=True)
    return content


def has_names(folder: Path, source: Source) -> bool:
    """Whether a folder has a file of each name of a dataset."""
    return all(any(_candidates(folder, file)) for file in source.sha256)


def holds(folder: Path, source: Source) -> bool:
    """Whether a folder holds all files of a dataset, by their content."""
    return has_names(folder, source) and all(
        _look_in([folder], source, file)[0] is not None for file in source.sha256
    )


def _names_of(file: str) -> tuple[str, ...]:
    """The names a file goes by: its own, and with a dot for the hyphen before ``idx``."""
    return tuple(dict.fromkeys((file, file.replace("-idx", ".idx"))))


def _candidates(folder: Path, file: str) -> Iterator[Path]:
    """The files of a folder that may be `file`, by their names; Kaggle has some in a folder of that name."""
    for name in _names_of(file):
        for path in (folder / name, folder / f"{name}.gz", folder / name / name):
            if os.path.isfile(path):
                yield path


def _not_found(root: Path, source: Source, file: str) -> str:
    """What was looked for under a root, where, and what is there instead."""
    folders = [folder for folder in (*source.folders, *SHARED) if folder]
    where = ", ".join(f"{folder}/" for folder in folders)
    looked = f"no {' or '.join(_names_of(file))}, with or without .gz, in {where} or directly under {root}"
    if not os.path.isdir(root):
        return f"{looked}, which is no folder"
    there = [(root / folder, f"{folder}/") for folder in folders if os.path.isdir(root / folder)]
    listed = [f"{name} {_list_folder(folder)}" for folder, name in [*there, (root, "the latter")]]
    return "; ".join([looked, *listed])


def _list_folder(folder: Path) -> str:
    """Say what a folder holds."""
    try:
        names = sorted(os.listdir(folder))
    except OSError as error:
        return f"cannot be read: {error.strerror}"
    shown = [name if name.isprintable() else ascii(name) for name in names[:_MOST_NAMES]]
    more = "" if len(names) <= _MOST_NAMES else f" and {len(names) - _MOST_NAMES} more"
    return f"holds {', '.join(shown) or 'nothing'}{more}"


def _look_in(folders: list[Path], source: Source, file: str) -> tuple[bytes | None, dict[Path, str]]:
    """The first good copy of `file` in some folders, and what is wrong with the copies before it."""
    damaged: dict[Path, str] = {}
    for path in (path for folder in folders for path in _candidates(folder, file)):
        try:
            return _verify(path, str(path), source, file), damaged
        except DatasetError as error:
            damaged[path] = str(error)
    return None, damaged


def _verify(path: Path, name: str, source: Source, file: str) -> bytes:
    content, expected = read_content(path, name, source.sizes[file]), source.sha256[file]
    actual = hashlib.sha256(content).hexdigest()
    if actual != expected:
        raise DatasetError(f"{name}: wrong content: SHA-256 (decompressed) is {actual}, expected {expected}")
    return content


def _fetch(source: Source, file: str, folder: Path, problems: list[str]) -> tuple[bytes, Path]:
    """Download `file` into `folder` from the first mirror that has it right; its content and path."""
    by_hand = (
        f"to provide the files by hand, put {', '.join(f'{name}.gz' for name in source.sha256)} into "
        f"{folder} or into a folder {source.folders[0]} under ${DATA_DIR_VARIABLE}"
    )
    try:
        folder.mkdir(parents=True, exist_ok=True)
        if not os.access(folder, os.W_OK):
            raise PermissionError(None, "not writable")
    except OSError as error:
        raise DatasetError(
            f"{source.name}: cannot use the cache folder {folder}: {error.strerror}; {by_hand}"
        ) from error
    for mirror in source.mirrors:
        url = f"{mirror.rstrip('/')}/{file}.gz"
        part = folder / f".{file}.{os.getpid()}-{secrets.token_hex(4)}.part"
        try:
            _log.info("fetching %s", url)
            _download(url, part, source.sizes[file])
            content = _verify(part, url, source, file)
            gzipped = part.read_bytes().startswith(GZIP_MAGIC)  # unless decompressed on the way
            target = folder / (f"{file}.gz" if gzipped else file)
            os.replace(part, target)
            return content, target
        except OSError as error:  # every requests exception is one
            problems.append(str(error) if isinstance(error, DatasetError) else f"{url}: {_reason(error)}")
        finally:  # also on Ctrl-C
            part.unlink(missing_ok=True)
    raise DatasetError(f"{source.name}: cannot get {file}: {'; '.join(problems)}; {by_hand}")


def _download(url: str, path: Path, most: int) -> None:
    """Fetch a file whose content, once decompressed, has at most `most` bytes."""
    import requests
    from tqdm.auto import tqdm

    most += most // 1000 + 1024  # what gzip adds to content that it cannot compress
    with requests.get(url, stream=True, timeout=_TIMEOUT_SECONDS) as response:
        response.raise_for_status()
        if url.startswith("https:") and not response.url.startswith("https:"):
            raise DatasetError(f"{url}: leads to {response.url}, which is not encrypted")
        length = response.headers.get("Content-Length", "")
        total = int(length) if length.isdecimal() and len(length) < 20 else None
        silent = sys.stderr is None or not sys.stderr.isatty()
        with path.open("wb") as file, tqdm(total=total, unit="B", unit_scale=True, disable=silent) as bar:
            got = 0
            for chunk in response.iter_content(_CHUNK):
                got += len(chunk)
                if got > most:
                    raise DatasetError(f"{url}: sends more than {most:,} bytes, more than the file has")
                file.write(chunk)
                bar.update(len(chunk))


def _reason(error: OSError) -> str:
    """One line from a requests exception, whose own text repeats the URL and wraps the cause thrice."""
    import requests

    if isinstance(error, requests.HTTPError) and error.response is not None:
        return f"HTTP {error.response.status_code} {error.response.reason}"
    if isinstance(error, requests.Timeout):
        return f"no answer within {_TIMEOUT_SECONDS} seconds"
    cause = error.args[0] if isinstance(error, requests.ConnectionError) and error.args else error
    return " ".join(str(getattr(cause, "reason", cause)).split()) or type(error).__name__
