"""Weights in and out: safetensors and npz."""

from xpcnn.io.files import keeping, locked_file, replacing, sweep
from xpcnn.io.weights import WeightFile, load_arrays, load_weights, save_arrays, save_weights

__all__ = [
    "WeightFile",
    "keeping",
    "load_arrays",
    "load_weights",
    "locked_file",
    "replacing",
    "save_arrays",
    "save_weights",
    "sweep",
]
