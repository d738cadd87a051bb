"""``python -m xpcnn`` is the command ``xpcnn``."""

from xpcnn.cli import command

command()
