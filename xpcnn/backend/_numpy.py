"""NumPy: arrays in host memory."""

from __future__ import annotations

import functools
import math
import operator
from collections.abc import Callable, Iterable, Mapping
from contextlib import AbstractContextManager
from types import MappingProxyType, ModuleType
from typing import Any, Final

import numpy as np

from xpcnn.backend.allocator import keep_freed_memory, release_freed_memory
from xpcnn.backend.arrays import Array, Namespace
from xpcnn.backend.base import MIB, Backend, host_array
from xpcnn.backend.convolution import VendorConvolution
from xpcnn.backend.reference import in_reference
from xpcnn.backend.threads import one_blas_thread, parallel_for, parallel_map
from xpcnn.backend.windows import window_view
from xpcnn.errors import BackendError


def unavailable(device: Any = None) -> str | None:
    """Return why this backend cannot be used, or None."""
    return None


def parse_device(device: Any) -> str:
    """Return the library's device for what the user named."""
    if device not in (None, "cpu"):
        raise BackendError(f"backend numpy has only the device 'cpu', got {device!r}")
    return "cpu"


device_of = operator.attrgetter("device")


# Elements that dozens of passes over them find in the cache.
_BLOCK = 1 << 14


class NumpyBackend(Backend):
    """NumPy on the host."""

    cache_block_bytes = 9 * MIB // 2

    def __init__(self, device: str) -> None:
        super().__init__("numpy", _namespace(), device)

    @functools.cached_property
    def kernels(self) -> Mapping[str, Callable[..., Any]]:  # type: ignore[override]
        from xpcnn.backend import cpu
        from xpcnn.backend.cpu import native

        return {**cpu.table(), **native.table()}

    @functools.cached_property
    def convolutions(self) -> Mapping[str, VendorConvolution]:  # type: ignore[override]
        from xpcnn.backend.cpu.native.convolution import CompiledConvolution

        own: VendorConvolution = CompiledConvolution()
        return MappingProxyType({"native": own})

    def execution_context(self) -> AbstractContextManager[object]:
        keep_freed_memory()
        return one_blas_thread

    def release_memory(self) -> None:
        release_freed_memory()

    parallel_map = staticmethod(parallel_map)
    parallel_for = staticmethod(parallel_for)

    def asarray(self, x: Any, dtype: Any = None) -> np.ndarray:
        # Not ``dtype in (None, x.dtype)``: to NumPy, the dtype float64 equals None.
        if (
            type(x) is np.ndarray
            and x.dtype.isnative
            and x.dtype.kind in "biuf"
            and (dtype is None or dtype == x.dtype)
        ):
            return x
        return np.asarray(host_array(x, dtype), dtype=self.dtype(dtype))

    def copy(self, x: Any) -> np.ndarray:
        return np.array(x, order="C")

    def ascontiguous(self, x: Any) -> np.ndarray:
        return np.asarray(x, order="C")

    def is_fresh(self, x: Any, *inputs: Any) -> bool:
        return bool(x.flags.writeable) and not any(np.may_share_memory(x, one) for one in inputs)

    def channels_last(self, x: Any) -> np.ndarray:
        return np.ascontiguousarray(x.transpose(0, 2, 3, 1))

    def sliding_windows(
        self, x: Any, kernel: tuple[int, int], stride: tuple[int, int], dilation: tuple[int, int]
    ) -> Array:
        shape, strides = window_view(x.shape, x.strides, kernel, stride, dilation)
        return np.lib.stride_tricks.as_strided(x, shape, strides, writeable=False)

    def masked(self, mask: Array, x: Any) -> Array:
        if in_reference():
            return super().masked(mask, x)
        # numpy.where branches on every element; an integer product is exact and twenty times faster.
        bits = x.view(f"i{x.dtype.itemsize}")
        kept: Array = (bits * mask).view(x.dtype)
        return kept

    def has_finite_sums(self, arrays: Iterable[Any]) -> bool:
        return all(math.isfinite(np.add.reduce(array, axis=None)) for array in arrays)

    def one_hot(self, labels: Any, classes: int, dtype: Any) -> np.ndarray:
        return np.asarray(labels[:, None] == np.arange(classes), dtype=dtype)

    def erfc(self, x: Array) -> Array:
        if in_reference():
            return super().erfc(x)
        y = np.array(x, order="K")  # dense, so that the next line is a view
        flat = y.ravel(order="K")
        for start in range(0, flat.size, _BLOCK):
            part = slice(start, start + _BLOCK)
            flat[part] = super().erfc(flat[part])
        return y


_AS_THE_STANDARD: Final = (
    *("arange", "empty", "empty_like", "full", "full_like"),
    *("ones", "ones_like", "permute_dims", "zeros", "zeros_like"),
)
"""Functions that are the standard's in NumPy itself from version 2 on: they need no wrapper."""


def _namespace() -> Namespace:
    """Return array_api_compat's namespace, without a Python call around each new array."""
    import array_api_compat.numpy as compat

    xp = ModuleType(compat.__name__)
    vars(xp).update(vars(compat))
    vars(xp).update({name: getattr(np, name) for name in _AS_THE_STANDARD}, astype=_astype)
    return xp


def _astype(x: Any, dtype: Any, /, *, copy: bool = True, device: Any = None) -> Any:
    if device not in (None, "cpu"):
        raise ValueError(f"unsupported device for NumPy: {device!r}")
    return x.astype(dtype, copy=copy)


create = NumpyBackend
