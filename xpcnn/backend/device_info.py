"""What a measurement should say about the device it was made on."""

from __future__ import annotations

from typing import Any

from xpcnn.backend.base import Backend

__all__ = ["device_facts"]


def device_facts(backend: Backend) -> dict[str, Any]:
    """Return the device's name, its CUDA driver where it has one, and whether float32 may become TF32.

    Examples
    --------
    >>> import xpcnn
    >>> with xpcnn.use_backend("numpy") as backend:
    ...     device_facts(backend)
    {'device': 'cpu', 'tf32': False}
    """
    facts: dict[str, Any] = {"device": str(backend.device), "tf32": bool(getattr(backend, "tf32", False))}
    if backend.name == "cupy":
        import cupy

        runtime = cupy.cuda.runtime
        facts["device"] = runtime.getDeviceProperties(backend.device)["name"].decode()
        facts |= {"cuda driver": runtime.driverGetVersion(), "cuda runtime": runtime.runtimeGetVersion()}
    elif backend.name == "torch" and backend.device.type == "cuda":
        import torch

        facts["device"] = torch.cuda.get_device_name(backend.device)
        facts |= {"cuda runtime": torch.version.cuda, "tf32": torch.backends.cuda.matmul.allow_tf32}
    return facts
