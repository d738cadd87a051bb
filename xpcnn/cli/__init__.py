"""The command line ``xpcnn``; one file for each of its commands."""

from xpcnn.cli.main import command, main

__all__ = ["command", "main"]
