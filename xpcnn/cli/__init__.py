"""The command line ``xpcnn``; one file for each of its commands."""

from xpcnn.cli.program import main

__all__ = ["main"]
