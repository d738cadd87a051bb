"""``python -m xpcnn.cli`` is the command ``xpcnn``."""

from xpcnn.cli import command

command()
