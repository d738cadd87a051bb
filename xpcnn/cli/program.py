"""The program itself: which subcommand runs, and how errors are told."""

from __future__ import annotations

import argparse
import logging
import os
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress

import xpcnn.cli.evaluate as evaluate
import xpcnn.cli.info as info
import xpcnn.cli.predict as predict
import xpcnn.cli.summary as summary
import xpcnn.cli.train as train
from xpcnn import __version__
from xpcnn.cli.options import Parser, UsageError
from xpcnn.errors import XpcnnError

__all__ = ["main"]

_SUBCOMMANDS = (train, evaluate, predict, summary, info)
_EPILOG = "Each command has its own help: xpcnn train --help. Start with: xpcnn train"


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line and return its exit status: 0, 1 (failed) or 2 (used wrongly).

    Parameters
    ----------
    argv : sequence of str, optional
        The arguments; those of the process if not given.

    Raises
    ------
    SystemExit
        From ``--help`` and ``--version`` (0), and for arguments that cannot be parsed (2).
    """
    parser = _parser()
    args, unknown = parser.parse_known_args(argv)
    if unknown:
        (args.parser or parser).error(f"unrecognized arguments: {' '.join(unknown)}")
    if args.command is None:
        parser.print_help(sys.stderr)
        return 2
    try:
        with _log_on_stderr():
            status: int = args.run(args)
        sys.stdout.flush()
        return status
    except UsageError as error:
        _tell(f"xpcnn {args.command}: error: {error}; see xpcnn {args.command} --help")
        return 2
    except BrokenPipeError:
        # Whoever read the output has gone, as `head` does. Python flushes stdout once more at exit.
        with suppress(OSError, ValueError):
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except (XpcnnError, OSError) as error:
        _tell(f"xpcnn: error: {_one_line(error)}")
        return 1
    except KeyboardInterrupt:
        _tell("xpcnn: interrupted")
        return 1


def _parser() -> argparse.ArgumentParser:
    parser = Parser(
        prog="xpcnn",
        description="Train and use convolutional networks on NumPy, CuPy, PyTorch or any array-API library.",
        epilog=_EPILOG,
    )
    parser.add_argument("--version", action="version", version=f"xpcnn {__version__}")
    parser.set_defaults(parser=None)
    commands = parser.add_subparsers(dest="command", metavar="COMMAND", parser_class=Parser)
    for module in _SUBCOMMANDS:
        name = module.__name__.rpartition(".")[2]
        described = (module.__doc__ or "").partition("\n\n")
        command = commands.add_parser(name, help=described[0], description=f"{described[0]} {described[2]}")
        module.add_arguments(command)
        command.set_defaults(run=module.run, parser=command)
    return parser


def _one_line(error: BaseException) -> str:
    """Return an error as one line, with the layers it came through."""
    if isinstance(error, OSError) and not isinstance(error, XpcnnError) and error.strerror:
        named = "" if error.filename is None else f"{error.filename}: "
        text = f"{named}{error.strerror}"
    else:
        text = str(error)
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    joined = "; ".join(lines).replace(":;", ":")
    notes = ", ".join(getattr(error, "__notes__", ()))
    return f"{joined} ({notes})" if notes else joined


def _tell(line: str) -> None:
    with suppress(OSError):  # nobody is listening: nothing is left to be done
        sys.stdout.flush()
        print(line, file=sys.stderr, flush=True)


@contextmanager
def _log_on_stderr() -> Iterator[None]:
    """Show what xpcnn logs, such as downloads, while a command runs."""
    logger = logging.getLogger("xpcnn")
    handler, level = logging.StreamHandler(), logger.level
    handler.setFormatter(logging.Formatter("xpcnn: %(message)s"))
    logger.addHandler(handler)
    logger.setLevel(logging.INFO)
    try:
        yield
    finally:
        logger.removeHandler(handler)
        logger.setLevel(level)
