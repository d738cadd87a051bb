"""One file for each algorithm; importing this package registers them."""

from xpcnn.ops.conv.algorithms import loop  # isort: skip - the definition first
from xpcnn.ops.conv.algorithms import as_strided, fft, im2col, kn2row, mec, vendor, winograd

__all__ = ["as_strided", "fft", "im2col", "kn2row", "loop", "mec", "vendor", "winograd"]
