"""The names of the book "Deep Learning from Scratch", as thin adapters over the core.

A reader's script runs by changing its import lines: ``from common.layers import *`` becomes
``from xpcnn.scratch.layers import *``, and ``import numpy as np`` becomes ``from xpcnn.scratch import np``;
then `xpcnn.set_backend` decides where the script's arrays live. docs/from-scratch.md lists the lines to
change, what was mended on the way, and what each name is called in the core.
"""

from xpcnn.scratch._namespace import np

__all__ = ["np"]
