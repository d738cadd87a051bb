"""Measurements: speed beside PyTorch, accuracies, memory. Each runs as ``python -m benchmarks.NAME``."""
