"""Weights in and out: safetensors and npz."""

from xpcnn.io.files import replacing
from xpcnn.io.weights import WeightFile, load_arrays, load_weights, save_arrays, save_weights

__all__ = ["WeightFile", "load_arrays", "load_weights", "replacing", "save_arrays", "save_weights"]
