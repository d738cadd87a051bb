"""A pretended CuPy: as much of it as choosing a device asks for, and its one switch for cuBLAS."""

from __future__ import annotations

import importlib.machinery
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np
import pytest

DEFAULT, TF32 = 1, 7  # CuPy's numbers for what cuBLAS may do


class Cupy:
    """The module, whose driver counts devices by the function given and whose libraries work."""

    def __init__(self, count: Callable[[], int] = lambda: 2, current: int = 0) -> None:
        self.compute: dict[str, int] = {}
        self.capability = "90"
        self.current = current
        self.switched_on: list[int] = []
        self.module = ModuleType("cupy")
        self.module.__spec__ = importlib.machinery.ModuleSpec("cupy", None)
        runtime = SimpleNamespace(getDeviceCount=count, getDevice=lambda: self.current)
        vars(self.module).update(
            cuda=SimpleNamespace(runtime=runtime, Device=self.device),
            _core=SimpleNamespace(
                get_compute_type=lambda dtype: self.compute.get(np.dtype(dtype).name, DEFAULT),
                set_compute_type=self.set_compute_type,
                _routines_linalg=SimpleNamespace(COMPUTE_TYPE_DEFAULT=DEFAULT, COMPUTE_TYPE_TF32=TF32),
            ),
            RawKernel=lambda code, name: lambda blocks, threads, arguments: None,
            empty=np.empty,
            ones=np.ones,
            asnumpy=np.asarray,
        )

    def set_compute_type(self, dtype: Any, value: int) -> None:
        self.compute[np.dtype(dtype).name] = value
        self.switched_on.append(self.current)

    def device(self, number: int) -> Any:
        @contextmanager
        def entered() -> Iterator[None]:
            with pytest.MonkeyPatch.context() as patch:
                patch.setattr(self, "current", number)
                yield

        block = entered()
        vars(block).update(use=lambda: setattr(self, "current", number), compute_capability=self.capability)
        return block
