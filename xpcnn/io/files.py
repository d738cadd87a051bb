"""Files that are replaced whole or not at all, and a lock that ends with its process."""

from __future__ import annotations

import glob
import importlib
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any

from xpcnn.errors import CheckpointError

__all__ = ["keeping", "locked_file", "make_folder", "replacing", "sweep"]

fcntl: Any = importlib.import_module("fcntl") if os.name == "posix" else None


def make_folder(path: str | os.PathLike[str]) -> None:
    """Make a folder, and those that it lies in, unless it is there.

    Raises
    ------
    CheckpointError
        When it cannot be made.
    """
    try:
        os.makedirs(path, exist_ok=True)
    except OSError as error:
        raise CheckpointError(f"cannot make the folder {path}: {error.strerror}") from error


@contextmanager
def replacing(path: str | os.PathLike[str]) -> Iterator[Path]:
    """Give a temporary file to write beside `path`; it takes the place of `path` when the block succeeds.

    The new content is on the disk before it gets its name, so that a power cut leaves the old file or the
    new one. What killed processes have left of such temporary files is removed.

    Raises
    ------
    CheckpointError
        When the folder does not exist or cannot be written to.

    Examples
    --------
    >>> import tempfile
    >>> target = Path(tempfile.mkdtemp()) / "note.txt"
    >>> with replacing(target) as temporary:
    ...     _ = temporary.write_text("whole")
    >>> target.read_text()
    'whole'
    """
    path = Path(path)
    try:
        sweep(path)
        handle, folder = _temporary_folder(path)
    except (OSError, ValueError) as error:  # a ValueError for a name with a null byte
        raise CheckpointError(f"cannot write {path}: {getattr(error, 'strerror', None) or error}") from error
    try:
        temporary = folder / path.name
        yield temporary
        mask = os.umask(0)
        os.umask(mask)
        os.chmod(temporary, 0o666 & ~mask)  # some writers make private files; the result should not be
        _sync(temporary, os.O_RDWR)  # for writing, which Windows asks for
        os.replace(temporary, path)
        # The file is whole in any case. Windows opens no folders, and some network file systems sync none.
        with suppress(OSError):
            _sync(path.parent, os.O_RDONLY)
    except OSError as error:
        if isinstance(error, CheckpointError):
            raise
        raise CheckpointError(f"cannot write {path}: {error.strerror or error}") from error
    finally:
        shutil.rmtree(folder, ignore_errors=True)
        if handle is not None:
            os.close(handle)


@contextmanager
def keeping(path: str | os.PathLike[str], name: str | os.PathLike[str]) -> Iterator[None]:
    """Keep the file that a block replaces: it is called `name` when the block succeeds.

    Raises
    ------
    CheckpointError
        When that cannot be written.
    """
    if not os.path.exists(path):
        yield
        return
    with replacing(name) as temporary:
        try:
            os.link(path, temporary)
        except OSError:  # a file system without links
            shutil.copyfile(path, temporary)
        yield


def sweep(path: str | os.PathLike[str]) -> None:
    """Remove the temporary files of `path` whose processes are dead: nobody holds a lock on them.

    Without locks nothing is removed.
    """
    path = Path(path)
    for folder in path.parent.glob(f".{glob.escape(path.name)}.*.tmp"):
        with suppress(OSError):  # in use by a living process, or gone
            handle = os.open(folder, os.O_RDONLY)
            try:
                if _lock(handle):
                    shutil.rmtree(folder)
            finally:
                os.close(handle)


@contextmanager
def locked_file(path: str | os.PathLike[str]) -> Iterator[None]:
    """Let nobody else into a ``with`` block with the same file, which exists while the block runs.

    A killed process leaves the file, but no lock. The file holds the number of the process. Where the
    platform or the file system has no locks, anybody is let in.

    Raises
    ------
    BlockingIOError
        When another process is inside, or this one is already.
    OSError
        When the file cannot be made.
    """
    while (handle := _open_locked(path, os.O_RDWR | os.O_CREAT)) is None:
        pass
    try:
        os.ftruncate(handle, 0)
        os.write(handle, f"{os.getpid()}\n".encode())
        yield
    finally:
        with suppress(OSError):
            os.unlink(path)
        os.close(handle)


def _open_locked(path: str | os.PathLike[str], flags: int) -> int | None:
    """Open and lock a file or folder; return None for one that its owner has removed meanwhile."""
    with ExitStack() as stack:
        handle = os.open(path, flags, 0o666)
        stack.callback(os.close, handle)
        _lock(handle)
        with suppress(FileNotFoundError):
            if os.path.samestat(os.fstat(handle), os.stat(path)):
                stack.pop_all()
                return handle
    return None


def _temporary_folder(path: Path) -> tuple[int | None, Path]:
    """Return a new folder beside `path`, locked while this process uses it: see `sweep`.

    A folder, as a writer may itself replace the file that it writes.
    """
    while True:
        folder = Path(tempfile.mkdtemp(prefix=f".{path.name}.", suffix=".tmp", dir=path.parent))
        if fcntl is None:
            return None, folder
        with suppress(FileNotFoundError, BlockingIOError):  # swept by another process, or being swept
            if (handle := _open_locked(folder, os.O_RDONLY)) is not None:
                return handle, folder


def _lock(handle: int) -> bool:
    """Lock an open file; False where that cannot be done, BlockingIOError where another has it."""
    if fcntl is None:
        return False
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        raise
    except OSError:  # some network file systems have no locks
        return False
    return True


def _sync(path: Path, flags: int) -> None:
    handle = os.open(path, flags)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
