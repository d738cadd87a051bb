"""Plots. They need matplotlib (``pip install 'xpcnn[plot]'``), which is imported when one is drawn."""

from xpcnn.viz.curves import plot_curves

__all__ = ["plot_curves"]
