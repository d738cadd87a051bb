"""Weights in and out: safetensors and npz. Every file of ours is read, and checked, here."""

from xpcnn.io.files import keeping, locked_file, make_folder, replacing, sweep
from xpcnn.io.json_files import Range, checked, parse_json, read_json, write_json
from xpcnn.io.weights import WeightFile, load_arrays, load_weights, save_arrays

__all__ = [
    "Range", "WeightFile", "checked", "keeping", "load_arrays", "load_weights", "locked_file", "make_folder",
    "parse_json", "read_json", "replacing", "save_arrays", "sweep", "write_json",
]  # fmt: skip
