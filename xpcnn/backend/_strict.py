"""array_api_strict: the standard and nothing else, over NumPy. In tests it stands in for other libraries."""

from __future__ import annotations

import importlib.util
import operator
from typing import Any

import numpy as np

from xpcnn.backend.arrays import Array
from xpcnn.backend.base import Backend, host_array
from xpcnn.errors import BackendError


def unavailable(device: Any = None) -> str | None:
    """Return why this backend cannot be used, or None."""
    if importlib.util.find_spec("array_api_strict") is None:
        return "array_api_strict is not installed: pip install array-api-strict"
    return None


def parse_device(device: Any) -> Any:
    """Return the library's device for what the user named."""
    import array_api_strict

    if isinstance(device, array_api_strict.Device):
        return device
    try:
        return array_api_strict.Device("CPU_DEVICE" if device in (None, "cpu") else device)
    except (ValueError, TypeError, AssertionError) as error:
        raise BackendError(f"backend array_api_strict has no device {device!r}") from error


device_of = operator.attrgetter("device")


class StrictBackend(Backend):
    """array_api_strict on one of its pretended devices."""

    def __init__(self, device: Any) -> None:
        import array_api_strict

        super().__init__("array_api_strict", array_api_strict, device)

    def asarray(self, x: Any, dtype: Any = None) -> Array:
        # Copied: the library shares NumPy's memory, but forgets that it may be read-only.
        array = np.array(host_array(x, dtype), order="C")
        self.dtype(array.dtype)  # raises for one that the standard has not
        return self.xp.asarray(array, dtype=self.dtype(dtype), device=self.device)

    def copy(self, x: Array) -> Array:
        return self.xp.asarray(np.array(self.to_numpy(x), order="C"), device=self.device)

    def to_numpy(self, x: Any) -> np.ndarray:
        return np.asarray(x.to_device(self.xp.Device("CPU_DEVICE")))


create = StrictBackend
