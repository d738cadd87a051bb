"""Weights in and out: safetensors and npz. Every file of ours is read, and checked, here."""

from xpcnn.io.files import locked_file, make_folder, replacing
from xpcnn.io.json_files import Range, checked, parse_json, read_json, write_json
from xpcnn.io.weights import WeightFile, load_arrays, load_weights, save_arrays

__all__ = [
    "Range", "WeightFile", "checked", "load_arrays", "load_weights", "locked_file", "make_folder",
    "parse_json", "read_json", "replacing", "save_arrays", "write_json",
]  # fmt: skip
