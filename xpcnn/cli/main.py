"""The program: which subcommand runs, and how errors are reported."""

from __future__ import annotations

import importlib
import shlex
import sys
from collections.abc import Sequence
from contextlib import suppress
from typing import NoReturn

from xpcnn import __version__
from xpcnn.cli import output
from xpcnn.cli.imports import add_import_option, import_files
from xpcnn.cli.options import Parser, UsageError
from xpcnn.errors import XpcnnError
from xpcnn.train.interrupt import ignore_signals, interruptible, status_of

# Each is a module of this package, imported when it is asked for: --help alone needs none of them.
_SUBCOMMANDS = {
    "train": "Train a model, on digits the program draws itself if no dataset is named.",
    "evaluate": "Measure a trained model's accuracy and loss on a test set.",
    "predict": "Read pictures of any size and of every kind that Pillow reads.",
    "search": "Search for a learning rate and a weight decay at random: many short trainings, ranked.",
    "plot": "Draw pictures of a trained run; or of Sobel's edges, augmented images and initial values.",
    "summary": "Show a model's layers: output shapes, parameters, multiply-accumulates, receptive fields.",
    "bench": "Time every convolution algorithm, or whole models.",
    "info": "Show versions, backends and devices, and where datasets and measured choices are kept.",
}
_DESCRIPTION = "Train and use convolutional networks on NumPy, CuPy, PyTorch or any array-API library."
_EPILOG = "Each command has its own help: xpcnn train --help. Start with: xpcnn train"


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line and return its exit status.

    It is 0; 1 if the command failed or lost output; 128 and the number of the signal, such as 130 for Ctrl-C
    and 143 for SIGTERM, if one ended it.

    Parameters
    ----------
    argv : sequence of str, optional
        The arguments; those of the process if not given.

    Raises
    ------
    SystemExit
        From ``--help`` and ``--version`` (0), and when the arguments are wrong (2).
    """
    with output.writable_streams():
        try:
            with interruptible():
                try:
                    return _run(argv)
                finally:
                    output.flush_stdout()
        except BrokenPipeError:  # whoever read the output has gone, as `head` does
            output.discard(sys.stdout)
        except (XpcnnError, OSError) as error:
            _print_error(f"error: {output.one_line(error)}")
        except MemoryError as error:
            words = output.printable(shlex.join(["xpcnn", *(sys.argv[1:] if argv is None else argv)]))
            _print_error(f"error: not enough memory for {words}: {output.one_line(error)}".removesuffix(": "))
        except KeyboardInterrupt as error:
            _print_error(f"interrupted by {error}".removesuffix(" by SIGINT").removesuffix(" by "))
            return status_of(error)
        return 1


def command() -> NoReturn:
    """Be the process ``xpcnn``: exit with the status of `main`, which no later signal changes."""
    try:
        status = main()
    finally:
        ignore_signals()
    sys.exit(status)


def _run(argv: Sequence[str] | None) -> int:
    first = Parser(prog="xpcnn", add_help=False)
    add_import_option(first)
    imports, words = first.parse_known_args(argv)
    import_files(getattr(imports, "imports", ()))
    parser = _parser(words)
    args, unknown = parser.parse_known_args(words)
    command: Parser = args.parser
    if unknown:
        command.error(f"unrecognized arguments: {' '.join(unknown)}")
    if args.command is None:
        parser.print_help(sys.stderr)
        parser.exit(2)
    try:
        with output.log_on_stderr(), output.plain_output():
            status: int = args.run(args)
    except UsageError as error:
        command.error(str(error))
    return status


def _parser(argv: Sequence[str]) -> Parser:
    """Return the parser of the program, and within it those of the subcommands that are named."""
    parser = Parser(prog="xpcnn", description=_DESCRIPTION, epilog=_EPILOG)
    parser.add_argument("--version", action="version", version=f"xpcnn {__version__}")
    parser.set_defaults(parser=parser)
    commands = parser.add_subparsers(dest="command", metavar="COMMAND", parser_class=Parser)
    for name, reason in _SUBCOMMANDS.items():
        command = commands.add_parser(name, help=reason)
        if name in argv:
            module = importlib.import_module(f"xpcnn.cli.{name}")
            command.description = (module.__doc__ or "").replace("\n\n", " ", 1)
            module.add_arguments(command)
            add_import_option(command)
            command.set_defaults(run=module.run, parser=command)
    return parser


def _print_error(line: str) -> None:
    try:
        output.flush_stdout()
    except OSError:
        output.discard(sys.stdout)
    with suppress(OSError):  # nobody is listening: nothing is left to be done
        print(f"xpcnn: {line}", file=sys.stderr, flush=True)
