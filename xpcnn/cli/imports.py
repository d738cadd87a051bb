"""``--import FILE.py``: a user's own models, layers, datasets and algorithms, before anything is named."""

from __future__ import annotations

import argparse
import shlex
import sys
import traceback
from collections.abc import Sequence
from importlib.machinery import ModuleSpec, PathFinder, SourceFileLoader
from importlib.util import module_from_spec
from pathlib import Path

from xpcnn.errors import PluginError

__all__ = ["add_import_option", "import_file", "import_files", "import_options", "without_imports"]

_OPTION = "--import"

_imported: list[str] = []


def add_import_option(parser: argparse.ArgumentParser) -> None:
    """Add ``--import`` to a command's help; `without_imports` takes it out of the arguments."""
    parser.add_argument(
        _OPTION,
        action="append",
        dest="imports",
        metavar="FILE.py",
        default=argparse.SUPPRESS,
        help="run this file first, which registers models, layers, datasets or algorithms of your own; may "
        "be given again (default: none)",
    )


def without_imports(argv: Sequence[str]) -> tuple[list[str], list[str]]:
    """Return the arguments but for ``--import FILE.py``, and these files in order.

    One without a file is left for the parser to refuse.
    """
    rest: list[str] = []
    files: list[str] = []
    words = iter(argv)
    for word in words:
        if word == "--":
            rest += [word, *words]
        elif word.startswith(f"{_OPTION}="):
            files.append(word.removeprefix(f"{_OPTION}="))
        elif word == _OPTION:
            file = next(words, None)
            if file is None or file.startswith("--"):
                rest += [word] if file is None else [word, file]
            else:
                files.append(file)
        else:
            rest.append(word)
    return rest, files


def import_options() -> str:
    """Return what another command needs to know the same names: `` --import FILE.py`` for each file."""
    return "".join(f" {_OPTION} {shlex.quote(path)}" for path in _imported)


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
    file = Path(path)
    if not file.is_file():
        raise PluginError(f"{_OPTION} {path}: {'is a folder' if file.is_dir() else 'no such file'}")
    place = str(file.resolve())
    name = file.stem
    there = sys.modules.get(name)
    if getattr(there, "__file__", None) == place:
        return
    if there is not None or not name.isidentifier() or _is_another(name, place):
        name = f"xpcnn_import_{''.join(c if c.isalnum() else '_' for c in name)}"
        if getattr(sys.modules.get(name), "__file__", None) == place:
            return
    if str(file.resolve().parent) not in sys.path:
        sys.path.append(str(file.resolve().parent))
    loader = SourceFileLoader(name, place)
    spec = ModuleSpec(name, loader, origin=place)
    spec.has_location = True
    module = module_from_spec(spec)
    before, sys.modules[name] = sys.modules.get(name), module
    try:
        loader.exec_module(module)
    except (Exception, SystemExit) as error:
        if before is None:
            del sys.modules[name]
        else:
            sys.modules[name] = before
        raise PluginError(f"{_OPTION} {path}: {_told(error, place)}") from error


def _is_another(name: str, place: str) -> bool:
    """Return whether a module of a name can be imported that is not that file."""
    found = PathFinder.find_spec(name)
    return found is not None and found.origin != place


def _told(error: BaseException, place: str) -> str:
    """Return an error as one line that begins with the line of the file where it happened."""
    lines = [frame.lineno for frame in traceback.extract_tb(error.__traceback__) if frame.filename == place]
    if isinstance(error, SyntaxError) and error.filename == place:
        lines.append(error.lineno)
    where = f"line {lines[-1]}: " if lines else ""
    what = error.msg if isinstance(error, SyntaxError) else str(error)
    return f"{where}{type(error).__name__}: {what}" if what else f"{where}{type(error).__name__}"
