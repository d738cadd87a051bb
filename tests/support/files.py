"""Weight files made without xpcnn, and a bound on the memory that reading takes."""

import tracemalloc
import zipfile
from contextlib import contextmanager

import numpy as np
import pytest
import safetensors.numpy

MIB = 1 << 20

every_ending = pytest.mark.parametrize("ending", [".safetensors", ".npz"])


@contextmanager
def at_most_mib(most):
    """Bound the memory that a block takes; NumPy's arrays count."""
    tracemalloc.start()
    try:
        yield
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < most * MIB, peak / MIB


def write_foreign(path, arrays, metadata=None):
    """Write arrays as another tool would, with any text where xpcnn's own metadata stand."""
    if path.suffix == ".npz":
        np.savez(path, **arrays, **({} if metadata is None else {"__metadata__": np.array(metadata)}))
    else:
        noted = None if metadata is None else {"__metadata__": metadata}
        safetensors.numpy.save_file(dict(arrays), path, noted)


def npy(dtype, shape, content=b""):
    """The bytes of an npy file whose header says so."""
    header = f"{{'descr': {dtype!r}, 'fortran_order': False, 'shape': {shape!r}, }}".ljust(117) + "\n"
    return b"\x93NUMPY\x01\x00" + len(header).to_bytes(2, "little") + header.encode("latin-1") + content


def add_entries(path, method=zipfile.ZIP_DEFLATED, **entries):
    """Put entries of any content into an archive, which is made if there is none."""
    with zipfile.ZipFile(path, "a", method) as archive:
        for name, content in entries.items():
            archive.writestr(f"{name}.npy", content)
