"""CuPy: arrays on a CUDA device. CuPy is imported only when asked for."""

from __future__ import annotations

import functools
import importlib.util
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from types import MappingProxyType
from typing import Any

import numpy as np

from xpcnn.backend._cudnn import CudnnConvolution, first_line
from xpcnn.backend.arrays import LibraryArray as Array
from xpcnn.backend.arrays import dtype_name
from xpcnn.backend.base import UNIFORM_STEPS, Backend, host_array, require_convertible
from xpcnn.backend.random import Key
from xpcnn.backend.windows import window_view
from xpcnn.errors import BackendError

_INSTALL = "pip install 'xpcnn[cuda12]' (or 'xpcnn[cuda13]' for CUDA 13)"

# It includes a header of the toolkit, as the kernels here do.
_TRIAL = """#include <cuda_fp16.h>
extern "C" __global__ void trial(__half *x) { *x = __float2half(1.0f); }"""


def unavailable(device: Any = None) -> str | None:
    """Return why this backend cannot be used on a device, by default the current one, or None.

    An importable CuPy is no backend until a device answers, a kernel is compiled and a product computed.
    """
    if importlib.util.find_spec("cupy") is None:
        return f"CuPy is not installed: {_INSTALL}"
    try:
        import cupy
    except Exception as error:  # a broken CUDA installation raises many kinds while importing
        return f"CuPy cannot be imported: {first_line(error.__cause__ or error)}; reinstall it: {_INSTALL}"
    try:
        count = cupy.cuda.runtime.getDeviceCount()
    except Exception as error:  # CUDARuntimeError, or whatever a missing driver raises
        return f"no CUDA device: {first_line(error)}"
    if not count:
        return "no CUDA device: the driver found none"
    index = parse_device(device)
    try:
        _try_libraries(index)
    except BackendError as error:
        return str(error)
    return None


@functools.cache
def _try_libraries(device: int) -> None:
    """Raise an error for a library that every model needs and that fails on a device; try a good one once."""
    import cupy

    def compiling() -> None:
        cupy.RawKernel(_TRIAL, "trial")((1,), (1,), (cupy.empty(1, dtype=np.float16),))

    def multiplying() -> None:
        one = cupy.ones((1, 1), dtype=np.float32)
        cupy.asnumpy(one @ one)

    trials = {"NVRTC, which compiles kernels,": compiling, "cuBLAS, which multiplies matrices,": multiplying}
    for library, trial in trials.items():
        try:
            with cupy.cuda.Device(device):
                trial()
        except Exception as error:  # ImportError, OSError, errors of CUDA's and CuPy's own
            raise BackendError(
                f"{library} fails on CUDA device {device}: {first_line(error)}; the libraries come with "
                f"{_INSTALL}, or with NVIDIA's CUDA toolkit"
            ) from error


def parse_device(device: Any) -> int:
    """Return the device number for what the user named: 0, "cuda:0" or a CuPy device."""
    import cupy

    if device is None:
        return int(cupy.cuda.runtime.getDevice())
    named = device.removeprefix("cuda").lstrip(":") or 0 if isinstance(device, str) else device
    try:
        index = int(getattr(named, "id", named))
    except (TypeError, ValueError):
        raise BackendError(f"backend cupy: device must be a number or 'cuda:N', got {device!r}") from None
    count = cupy.cuda.runtime.getDeviceCount()
    if not 0 <= index < count:
        raise BackendError(f"backend cupy has no device {index}: the driver found {count} (0 to {count - 1})")
    return index


def device_of(x: Any) -> int:
    """Return the device an array of this library lives on."""
    return int(x.device.id)


class CupyBackend(Backend):
    """CuPy on one CUDA device."""

    is_host = False
    default_workspace = 1 << 30
    switches = MappingProxyType({"tf32": False, "deterministic": True})

    def __init__(self, device: int) -> None:
        import cupy

        from xpcnn.backend._cupy_namespace import CupyNamespace

        super().__init__("cupy", CupyNamespace(), device)
        self._cupy = cupy
        self.deterministic = True
        self.convolutions = MappingProxyType({"cudnn": CudnnConvolution(self, cupy)})

    @property
    def tf32(self) -> bool:
        # Asked of CuPy, not remembered: $CUPY_TF32 and other code may switch it too.
        in_use = self._cupy._core.get_compute_type(np.float32)
        return bool(in_use == self._cupy._core._routines_linalg.COMPUTE_TYPE_TF32)

    @tf32.setter
    def tf32(self, value: bool) -> None:
        linalg = self._cupy._core._routines_linalg
        device = self._cupy.cuda.Device(self.device)
        if value and int(device.compute_capability) < 80:
            raise BackendError(
                f"backend {self}: tf32 needs a GPU of compute capability 8.0 or higher, "
                f"this one has {device.compute_capability[:-1]}.{device.compute_capability[-1]}"
            )
        with device:
            # One switch for all devices and threads of the process: CuPy has no narrower one.
            self._cupy._core.set_compute_type(
                np.float32, linalg.COMPUTE_TYPE_TF32 if value else linalg.COMPUTE_TYPE_DEFAULT
            )

    @functools.cached_property
    def kernels(self) -> Mapping[str, Callable[..., Any]]:  # type: ignore[override]
        from xpcnn.backend.cuda import table

        return table()

    def check_current(self) -> None:
        # CuPy launches on the calling thread's current device: arrays elsewhere would be computed there.
        current = int(self._cupy.cuda.runtime.getDevice())
        if self.device != current:
            raise BackendError(
                f"the array is on cupy device {self.device}, but this thread's current device is {current}; "
                f"call xpcnn.set_backend('cupy', device={self.device}) or work inside "
                f"`with cupy.cuda.Device({self.device}):`"
            )

    def activate(self) -> None:
        self._cupy.cuda.Device(self.device).use()

    def activated(self) -> AbstractContextManager[object]:
        device: AbstractContextManager[object] = self._cupy.cuda.Device(self.device)
        return device

    def asarray(self, x: Any, dtype: Any = None) -> Array:
        if not isinstance(x, self._cupy.ndarray):
            x = host_array(x, dtype)
        require_convertible(x, dtype)
        with self.activated():
            return self._cupy.asarray(x, dtype=self.dtype(dtype))

    def to_numpy(self, x: Array) -> np.ndarray:
        with self.activated():
            host: np.ndarray = self._cupy.asnumpy(x)
        # NumPy has no bfloat16; float32 holds each of its values exactly.
        return host.astype(np.float32) if dtype_name(x.dtype) == "bfloat16" else host

    def device_info(self) -> dict[str, Any]:
        runtime = self._cupy.cuda.runtime
        return super().device_info() | {
            "device": runtime.getDeviceProperties(self.device)["name"].decode(),
            "cuda driver": runtime.driverGetVersion(),
            "cuda runtime": runtime.runtimeGetVersion(),
        }

    def synchronize(self) -> None:
        self._cupy.cuda.get_current_stream().synchronize()

    def dtype(self, dtype: Any) -> Any:
        if dtype is not None and dtype_name(dtype) == "bfloat16" and not hasattr(self.xp, "bfloat16"):
            raise BackendError(
                f"backend cupy has bfloat16 from CuPy 14 on, beside the package ml_dtypes, and this is CuPy "
                f"{self._cupy.__version__}; both come with {_INSTALL}"
            )
        return super().dtype(dtype)

    def release_memory(self) -> None:
        self._cupy.get_default_memory_pool().free_all_blocks()
        self._cupy.get_default_pinned_memory_pool().free_all_blocks()

    def copy(self, x: Array) -> Array:
        with self.activated():
            return self._cupy.array(x, order="C")

    def is_fresh(self, x: Array, *inputs: Array) -> bool:
        return not any(self._cupy.may_share_memory(x, one) for one in inputs)

    def channels_last(self, x: Array) -> Array:
        return self._cupy.ascontiguousarray(x.transpose(0, 2, 3, 1))

    def sliding_windows(
        self, x: Array, kernel: tuple[int, int], stride: tuple[int, int], dilation: tuple[int, int]
    ) -> Array:
        # Not cupy's sliding_window_view: it waits for the device.
        shape, strides = window_view(x.shape, x.strides, kernel, stride, dilation)
        return self._cupy.lib.stride_tricks.as_strided(x, shape, strides)

    def erfc(self, x: Array) -> Array:
        from cupyx.scipy.special import erfc

        return erfc(x)

    def uniform(self, key: Key, shape: tuple[int, ...], dtype: Any) -> Array:
        random = self._cupy.random
        generator = random.Generator(random.Philox4x3210(seed=key.seed64))
        # CuPy draws float32 and float64 alone. Rounded to fewer bits, the largest numbers would become 1.
        steps = UNIFORM_STEPS.get(dtype_name(dtype))
        drawn = generator.random(size=shape, dtype=np.float32 if steps else dtype)
        return (self._cupy.floor(drawn * steps) / steps).astype(dtype) if steps else drawn


create = CupyBackend
