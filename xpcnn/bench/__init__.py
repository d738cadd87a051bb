"""Measuring convolution, layers and networks: verified first, timed fairly, kept as JSON, drawn.

The command line ``xpcnn bench`` and the tests under ``benchmarks/`` are two faces of it: both take the shapes
from `geometries`, the contestants from `convolutions`, `layers` and `networks`, and hold every result
against `oracle` before it is timed.
"""
