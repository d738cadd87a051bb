"""The command line ``xpcnn``; one file for each of its commands."""

from xpcnn.cli.program import command, main

__all__ = ["command", "main"]
