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
from typing import Any

from xpcnn.cli.options import word
from xpcnn.errors import PluginError

_imported: list[str] = []


def add_import_option(parser: argparse.ArgumentParser) -> None:
    """Add ``--import``."""
    what = "run this file first, which registers what is your own; may be given again (default: none)"
    options: dict[str, Any] = {"dest": "imports", "metavar": "FILE.py", "default": argparse.SUPPRESS}
    parser.add_argument("--import", type=word, action="append", help=what, **options)


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
    file = Path(path).resolve()
    if not file.is_file():
        raise PluginError(f"--import {path}: {'is a folder' if file.is_dir() else 'no such file'}")
    if any(getattr(module, "__file__", None) == str(file) for module in [*sys.modules.values()]):
        return
    if str(file.parent) not in sys.path:
        sys.path.append(str(file.parent))
    spec = PathFinder.find_spec(file.stem)
    if spec is None or spec.origin != str(file) or file.stem in sys.modules:
        spec = spec_from_file_location(f"xpcnn_import_{file.stem}", file)
    if spec is None or spec.loader is None:
        raise PluginError(f"--import {path}: is no Python file, which ends in .py")
    sys.modules[spec.name] = module_from_spec(spec)
    try:
        spec.loader.exec_module(sys.modules[spec.name])
    except (Exception, SystemExit) as error:
        del sys.modules[spec.name]
        raise PluginError(f"--import {path}: {_described(error, str(file))}") from error


def _described(error: BaseException, file: str) -> str:
    """Return an error as one line, with the line of the file where it happened."""
    lines = [frame.lineno for frame in traceback.extract_tb(error.__traceback__) if frame.filename == file]
    where = f"line {lines[-1]}: " if lines else ""
    return f"{where}{type(error).__name__}: {error}".removesuffix(": ")
