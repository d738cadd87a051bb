"""Measurements.

``pytest benchmarks --device cpu|cuda`` times convolutions, layers, models and im2col, each held against an
independent answer first. The others run as ``python -m benchmarks.NAME``: speed of a training step beside
PyTorch, accuracies, memory.
"""
