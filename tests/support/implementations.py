"""One suite an op over all its implementations: the definition, NumPy's kernels, CUDA's on a CPU and a GPU.

A test that takes the fixture `implementation` runs once for each, and for each dtype that it serves; one that
takes `kernels`, `cpu` or `cuda`, once for those alone. It says with `ran` which primitives that
implementation must have served itself.
"""

from __future__ import annotations

import functools
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

import xpcnn
from tests.support.cuda_emulator import HostLauncher, compiler
from tests.support.make import LACKING, Make, backend_name, why_unusable
from xpcnn.backend import cpu, cuda, registry
from xpcnn.backend.cpu import native, norm
from xpcnn.backend.cpu.native import library, primitives
from xpcnn.backend.cuda import launch
from xpcnn.backend.cuda.launch import launched_by

FLOATS = ("float32", "float64")
DTYPES = {
    "portable": FLOATS,
    "array_api_strict": FLOATS,
    "torch": FLOATS,
    "cpu": FLOATS,
    "compiled": FLOATS,
    "cuda-emulated": ("float16", *FLOATS),
    "cupy": ("float16", "bfloat16", *FLOATS),
}
BACKENDS = {"portable": "numpy", **dict.fromkeys(("cpu", "compiled", "cuda-emulated"), "numpy-readonly")}
KERNELS: dict[str, Any] = {
    "portable": dict,
    "cpu": cpu.table,
    "compiled": native.table,
    "cuda-emulated": cuda.table,
    "cupy": cuda.table,
}
CUDA = ("cuda-emulated", "cupy")
ROUNDING = {"float64": 1e-14, "float32": 1e-6, "float16": 1e-3, "bfloat16": 8e-3}
"""Largest error of a CUDA kernel, relative to the largest value: a few roundings of the dtype."""

SMALL_BLOCKS = {"_LEAST": 1, "_ROW": 8, "_BLOCK": 150}
"""NumPy's batch-norm leaves small arrays alone, and cuts only large ones: here small ones are cut, too."""


@dataclass(frozen=True)
class Implementation(Make):
    """Makes arrays of one dtype for one implementation, and notes which primitives it served."""

    kind: str
    dtype_name: str
    served: set[str] = field(default_factory=set)

    @property
    def is_cuda(self) -> bool:
        return self.kind in CUDA

    @property
    def wide(self) -> str:
        """The dtype that sums are kept in."""
        return "float64" if self.dtype_name == "float64" else "float32"

    def array(self, values: Any, dtype: str | None = None) -> Any:
        return super().array(values, dtype or self.dtype_name)

    def values(self, array: Any) -> np.ndarray[Any, Any]:
        """What an array holds, in float64."""
        return self.to_numpy(array).astype("float64")

    def check(self, y: Any, expected: Any, dtype: str | None = None, **options: Any) -> None:
        dtype = dtype or self.dtype_name
        if self.is_cuda and options.get("rtol") is None:
            options["rtol"] = ROUNDING[dtype]
        super().check(y, expected, dtype, **options)

    def ran(self, *names: str, cpu: bool = True, compiled: bool = True, cuda: bool = True) -> None:
        """Assert that this implementation served these primitives itself, if it has kernels for them.

        `cpu`, `compiled` and `cuda` are False where those leave the arguments at hand to the definition.
        """
        leaves = not (cuda if self.is_cuda else cpu if self.kind == "cpu" else compiled)
        for name in names:
            wanted = name in KERNELS.get(self.kind, dict)() and not leaves
            assert (name in self.served) == wanted, f"{self.kind}: {name} was {'not ' * wanted}served"

    def kernels(self) -> dict[str, Any]:
        """The kernels of this implementation, which note what they serve."""
        return {name: self._noting(name, kernel) for name, kernel in KERNELS[self.kind]().items()}

    def _noting(self, name: str, kernel: Any) -> Any:
        @functools.wraps(kernel)
        def noted(*args: Any, **options: Any) -> Any:
            result = kernel(*args, **options)
            if result is not NotImplemented:
                self.served.add(name)
            return result

        return noted


FIXTURES = {
    "implementation": tuple(DTYPES),
    "kernels": ("cpu", "compiled", *CUDA),
    "cpu": ("cpu",),
    "cuda": CUDA,
}


def parameters(config: pytest.Config, fixture: str, dtypes: Any = None, kinds: Any = None) -> list[Any]:
    """(kind, dtype) of every implementation there is, for a fixture."""
    chosen = config.getoption("backend")
    found = []
    for kind in FIXTURES[fixture]:
        if kind not in (kinds or FIXTURES[fixture]):
            continue
        backend = backend_name(BACKENDS.get(kind, kind))
        if why_unusable(backend) or (chosen and backend_name(chosen) != backend):
            continue
        marks = [pytest.mark.slow] if kind == "cuda-emulated" else []  # the first of a family compiles it
        if marks and compiler() is None:
            marks.append(pytest.mark.skip(reason="no C++ compiler to emulate CUDA with"))
        if kind == "compiled" and library.why_absent():
            marks.append(pytest.mark.skip(reason=f"the compiled kernels are {library.why_absent()}"))
        for dtype in DTYPES[kind]:
            if dtype not in LACKING.get(backend, ()) and dtype in (dtypes or DTYPES[kind]):
                found.append(pytest.param((kind, dtype), id=f"{kind}-{dtype}", marks=marks))
    return found


@pytest.fixture(scope="session")
def host_launcher(tmp_path_factory: pytest.TempPathFactory) -> HostLauncher:
    return HostLauncher(tmp_path_factory.mktemp("kernels"))


def _implementation(
    request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> Iterator[Implementation]:
    kind, dtype = request.param
    made = Implementation(BACKENDS.get(kind, kind), kind, dtype)
    backend = registry.load(made.backend)
    with ExitStack() as stack:
        if kind in KERNELS:
            monkeypatch.setattr(backend, "kernels", made.kernels())
        if kind == "cpu":
            for name, value in SMALL_BLOCKS.items():
                monkeypatch.setattr(norm, name, value)
        if kind == "compiled":
            monkeypatch.setattr(primitives, "LARGE", 1)
            monkeypatch.setattr(primitives, "LARGE_UPDATE", 1)
        if kind == "cuda-emulated":
            # New arrays hold NaN until a kernel writes them.
            monkeypatch.setattr(backend.xp, "empty", poisoned)
            stack.enter_context(launched_by(request.getfixturevalue("host_launcher")))
        stack.enter_context(xpcnn.use_backend(made.backend))
        yield made
    if kind == "cuda-emulated":
        assert "runtime error" not in capfd.readouterr().err  # what the sanitizer prints


implementation, kernels, cpu_kernels, cuda_kernels = (
    pytest.fixture(_implementation, name=name) for name in FIXTURES
)


@pytest.fixture
def launched(cuda: Implementation, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The names of the kernels that are launched."""
    names: list[str] = []
    launcher = launch._launcher()

    def noted(family: Any, kernel: str, *args: Any) -> None:
        names.append(kernel)
        launcher.launch(family, kernel, *args)

    noting = SimpleNamespace(launch=noted, address=launcher.address)
    monkeypatch.setattr(launch, "_launcher", lambda: noting)
    return names


def poisoned(shape: Any, *, dtype: Any = None, device: Any = None) -> np.ndarray[Any, Any]:
    """What `empty` may give: bytes that are NaN as floating numbers."""
    fresh = np.empty(shape, dtype=dtype)
    fresh.reshape(-1).view(np.uint8)[:] = 0xFF
    return fresh
