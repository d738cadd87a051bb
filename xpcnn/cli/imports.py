"""``--import FILE.py``: a user's own models, layers, datasets and algorithms, before anything is named."""

from __future__ import annotations

import argparse
import shlex
import sys
import traceback
from collections.abc import Sequence
from importlib.machinery import PathFinder
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path

from xpcnn.cli.options import word
from xpcnn.errors import PluginError

__all__ = ["add_import_option", "import_file", "import_files", "import_options"]

_imported: list[str] = []


def add_import_option(parser: argparse.ArgumentParser) -> None:
    """Add ``--import``."""
    parser.add_argument(
        "--import",
        type=word,
        action="append",
        dest="imports",
        metavar="FILE.py",
        default=argparse.SUPPRESS,
        help="run this file first, which registers models, layers, datasets or algorithms of your own; may "
        "be given again (default: none)",
    )


def import_options() -> str:
    """Return what another command needs to know the same names: `` --import FILE.py`` for each file."""
    return "".join(f" --import {shlex.quote(path)}" for path in _imported)


def import_files(paths: Sequence[str]) -> None:
    """Import files in order; see `import_file`."""
    _imported.clear()
    for path in paths:
        import_file(path)
        _imported.append(path)


def import_file(path: str) -> None:
    """Run a Python file as a module, once in a process.

    The module has the name of the file, unless another module has it. Modules beside the file can be imported
    from it.

    Raises
    ------
    PluginError
        When the file is missing, or ends in an error or in SystemExit; with the file's own line.
    """
    if not Path(path).is_file():
        raise PluginError(f"--import {path}: {'is a folder' if Path(path).is_dir() else 'no such file'}")
    file = Path(path).resolve()
    if str(file.parent) not in sys.path:
        sys.path.append(str(file.parent))
    name = file.stem
    found = PathFinder.find_spec(name) if name.isidentifier() else None
    other = found is not None and found.origin != str(file)
    if not name.isidentifier() or other or (name in sys.modules and _origin(name) != str(file)):
        name = f"xpcnn_import_{''.join(c if c.isalnum() else '_' for c in name)}"
    if _origin(name) == str(file):
        return
    spec = spec_from_file_location(name, file)
    if spec is None or spec.loader is None:
        raise PluginError(f"--import {path}: is no Python file, which ends in .py")
    before, sys.modules[name] = sys.modules.get(name), module_from_spec(spec)
    try:
        spec.loader.exec_module(sys.modules[name])
    except (Exception, SystemExit) as error:
        del sys.modules[name]
        if before is not None:
            sys.modules[name] = before
        raise PluginError(f"--import {path}: {_described(error, str(file))}") from error


def _origin(name: str) -> str | None:
    """Return the file of a module that was imported."""
    return getattr(sys.modules.get(name), "__file__", None)


def _described(error: BaseException, file: str) -> str:
    """Return an error as one line that begins with the line of the file where it happened."""
    lines = [frame.lineno for frame in traceback.extract_tb(error.__traceback__) if frame.filename == file]
    what = str(error)
    if isinstance(error, SyntaxError):
        what = error.msg
        lines += [error.lineno] if error.filename == file else []
    where = f"line {lines[-1]}: " if lines else ""
    return f"{where}{type(error).__name__}: {what}".removesuffix(": ")
