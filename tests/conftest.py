"""One parametrisation over backends for the whole suite.

A test that takes the fixture `make` runs once for each usable backend; ``--backend NAME`` restricts those
tests to one. "numpy-readonly" is NumPy with inputs that refuse to be written to, which turns any in-place
write into an error; "array_api_strict" refuses whatever is not in the array API standard.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from typing import Any

import hypothesis
import numpy as np
import pytest
import threadpoolctl

import xpcnn
from xpcnn.backend import registry

BACKENDS = ("numpy", "numpy-readonly", "array_api_strict", "torch", "cupy")
DTYPES = ("float32", "float64")
TOLERANCE = {"float64": 1e-11, "float32": 1e-5}
"""Largest error allowed, relative to the largest expected value."""

HALVES = ("float16", "bfloat16")
LACKING = {"numpy": {"bfloat16"}, "array_api_strict": set(HALVES)}
"""The floating dtypes a library lacks: written down, so that no test skips what a backend has lost."""

hypothesis.settings.register_profile("xpcnn", deadline=None, derandomize=True, max_examples=40)
hypothesis.settings.load_profile("xpcnn")


def backend_name(name: str) -> str:
    """The xpcnn backend behind a name of BACKENDS."""
    return name.removesuffix("-readonly")


@functools.cache
def why_unusable(name: str) -> str | None:
    """None where the backend works here, else the reason."""
    return xpcnn.available_backends()[backend_name(name)]


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--backend", choices=BACKENDS, help="run backend-parametrised tests on this one only")


def pytest_configure(config: pytest.Config) -> None:
    chosen = config.getoption("backend")
    if chosen and (reason := why_unusable(chosen)):
        raise pytest.UsageError(f"--backend {chosen}: {reason}")


def usable_backends(config: pytest.Config) -> list[str]:
    chosen = config.getoption("backend")
    return [name for name in BACKENDS if (name == chosen if chosen else why_unusable(name) is None)]


def pytest_report_header(config: pytest.Config) -> list[str]:
    left_out = [f"{name} ({reason})" for name in BACKENDS if (reason := why_unusable(name))]
    header = ["xpcnn backends: " + ", ".join(usable_backends(config))]
    return [*header, "left out: " + "; ".join(left_out)] if left_out else header


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    if "make" in metafunc.fixturenames:
        names = usable_backends(metafunc.config)
        metafunc.parametrize("make", names, indirect=True, ids=names, scope="session")


@dataclass(frozen=True)
class Make:
    """Makes arrays of one backend, and checks what came back against NumPy values."""

    name: str

    @property
    def backend(self) -> str:
        """The name xpcnn knows: "numpy" for "numpy-readonly"."""
        return backend_name(self.name)

    @property
    def readonly(self) -> bool:
        return self.name != self.backend

    @functools.cached_property
    def xp(self) -> Any:
        """The array namespace."""
        return xpcnn.backend_of(self.array([0.0], "float32")).xp

    @functools.cached_property
    def device(self) -> Any:
        """Where `array` puts things."""
        return self.array([0.0], "float32").device

    def use(self) -> AbstractContextManager[Any]:
        """A block in which xpcnn creates its arrays on this backend."""
        return xpcnn.use_backend(self.backend)

    def has(self, name: str) -> bool:
        """Whether this backend's library has a dtype."""
        return name not in LACKING.get(self.backend, ())

    def dtype(self, name: str) -> Any:
        """The namespace's dtype of this name."""
        return getattr(self.xp, name)

    def array(self, values: Any, dtype: str | None = None) -> Any:
        """A new array of this backend; keeps the dtype and, where it can, the layout of a NumPy array."""
        host = np.array(values) if dtype == "bfloat16" else np.array(values, dtype=dtype)
        with self.use():
            array = xpcnn.asarray(host, dtype=dtype)
        if self.readonly:
            array.flags.writeable = False
        return array

    def to_numpy(self, array: Any) -> np.ndarray[Any, Any]:
        """The values on the host; bfloat16, which NumPy does not have, as float32."""
        if str(array.dtype).endswith("bfloat16"):
            array = self.xp.astype(array, self.xp.float32)
        return xpcnn.to_numpy(array)

    def check_kind(self, y: Any, shape: tuple[int, ...], dtype: str) -> None:
        """Assert that y is an array of this backend and device, of exactly this shape and dtype."""
        assert xpcnn.backend_of(y).name == self.backend
        assert y.device == self.device
        assert tuple(y.shape) == tuple(shape)
        assert y.dtype == self.dtype(dtype)

    def check(
        self, y: Any, expected: Any, dtype: str, *, rtol: float | None = None, scale: float | None = None
    ) -> None:
        """`check_kind`, then the values: errors are relative to `scale`, by default the largest expected.

        Infinities and NaNs must stand exactly where they are expected.
        """
        expected = np.asarray(expected, dtype=np.float64)
        self.check_kind(y, expected.shape, dtype)
        values = np.asarray(self.to_numpy(y), dtype=np.float64)
        finite = np.isfinite(expected)
        np.testing.assert_array_equal(values[~finite], expected[~finite])
        if not finite.any():
            return
        if scale is None:
            scale = float(np.abs(expected[finite]).max())
        allowed = (TOLERANCE[dtype] if rtol is None else rtol) * scale
        error = np.abs(values[finite] - expected[finite])
        worst = int(np.argmax(error))  # of NaNs too: argmax finds them first
        assert error[worst] <= allowed, (
            f"error {error[worst]:.3g} exceeds {allowed:.3g}: expected {expected[finite][worst]!r}, "
            f"got {values[finite][worst]!r} at {tuple(int(i) for i in np.argwhere(finite)[worst])}"
        )

    def snapshot(self, thing: Any) -> Any:
        """Copies of every array in a (nested) tuple, list or context, to compare later."""
        if isinstance(thing, tuple | list):
            return [self.snapshot(item) for item in thing]
        if hasattr(thing, "shape") and hasattr(thing, "dtype"):
            return np.array(self.to_numpy(thing))
        return thing

    @contextmanager
    def unchanged(self, *things: Any) -> Iterator[None]:
        """A block that must not change any of these arrays or contexts."""
        before = self.snapshot(things)
        yield
        np.testing.assert_equal(self.snapshot(things), before)


@pytest.fixture(autouse=True, scope="session")
def _one_blas_thread() -> Iterator[None]:
    """NumPy gains nothing from more on arrays this small, and loses much on busy cores."""
    with threadpoolctl.ThreadpoolController().select(internal_api="openblas").limit(limits=1):
        yield


@pytest.fixture(autouse=True, scope="session")
def _one_torch_thread() -> None:
    """A thread pool only slows tensors as small as these."""
    if why_unusable("torch") is None:
        import torch

        torch.set_num_threads(1)


@pytest.fixture(scope="session")
def make(request: pytest.FixtureRequest) -> Make:
    return Make(request.param)


@pytest.fixture(params=DTYPES)
def dtype(request: pytest.FixtureRequest) -> str:
    return request.param


# Looks at a device's values ---------------------------------------------------------------------------


def noting(seen: list[str], name: str, method: Callable[..., Any]) -> Callable[..., Any]:
    def noted(*args: Any, **kwargs: Any) -> Any:
        before = len(seen)
        result = method(*args, **kwargs)
        seen[before:] = [name]  # one look, however many calls it is made of
        return result

    return noted


@pytest.fixture
def torch_looks(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[str]]:
    """Every look at a tensor's values, on a CPU that is taken for a GPU."""
    torch = pytest.importorskip("torch")
    seen: list[str] = []
    for name in ("__float__", "__int__", "__bool__", "__index__", "__array__", "item", "tolist", "numpy"):
        monkeypatch.setattr(torch.Tensor, name, noting(seen, name, getattr(torch.Tensor, name)))
    backend = registry.load("torch")
    monkeypatch.setattr(backend, "is_host", False)
    monkeypatch.setattr(backend, "to_numpy", noting(seen, "to_numpy", backend.to_numpy))
    with xpcnn.use_backend("torch"):
        yield seen


@pytest.fixture
def cupy_looks(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[str]]:
    """Every copy of a CuPy array to the host, and every wait for the device.

    All ways to the host, ``float(x)`` for one, go through the array's `get`.
    """
    if reason := xpcnn.available_backends()["cupy"]:
        pytest.skip(reason)
    import cupy

    seen: list[str] = []
    monkeypatch.setattr(cupy.ndarray, "get", noting(seen, "to_numpy", cupy.ndarray.get))
    for kind in (cupy.cuda.Stream, cupy.cuda.Event):
        monkeypatch.setattr(kind, "synchronize", noting(seen, "synchronize", kind.synchronize))
    with xpcnn.use_backend("cupy"):
        yield seen


@pytest.fixture(params=["torch_looks", "cupy_looks"])
def looks(request: pytest.FixtureRequest) -> Any:
    return request.getfixturevalue(request.param)
