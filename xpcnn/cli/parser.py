"""A parser whose errors are one line, and the error of arguments that cannot be followed."""

from __future__ import annotations

import argparse
from typing import Any, NoReturn

from xpcnn.cli.output import shown

__all__ = ["Parser", "UsageError"]


class UsageError(Exception):
    """Arguments that can be parsed, but not followed."""


class Parser(argparse.ArgumentParser):
    """An `argparse` parser that takes no abbreviations, and whose errors are one line."""

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs, allow_abbrev=False)

    def error(self, message: str) -> NoReturn:
        self.exit(2, f"{self.prog}: error: {shown(message)}; see {self.prog} --help\n")
