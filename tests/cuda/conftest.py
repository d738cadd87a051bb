"""Where kernel tests run: on the host behind the shim, and on a CUDA device where there is one."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest

import xpcnn
from tests.support.cuda import LACKING, Target
from tests.support.cuda_emulator import HostLauncher, compiler
from xpcnn.backend import registry
from xpcnn.backend.cuda.launch import launched_by


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    if "target" not in metafunc.fixturenames:
        return
    chosen = metafunc.config.getoption("backend")
    usable = {"numpy": compiler() is not None, "cupy": xpcnn.available_backends()["cupy"] is None}
    cases = [
        pytest.param((backend, dtype), id=f"{'host' if backend == 'numpy' else backend}-{dtype}")
        for backend in usable
        if usable[backend] and chosen in (None, backend)
        for dtype in getattr(metafunc.module, "TARGET_DTYPES", ("float16", "bfloat16", "float32", "float64"))
        if dtype not in LACKING.get(backend, ())
    ]
    metafunc.parametrize("target", cases, indirect=True)


@pytest.fixture(scope="session")
def host_launcher(tmp_path_factory: pytest.TempPathFactory) -> HostLauncher:
    return HostLauncher(tmp_path_factory.mktemp("kernels"))


@pytest.fixture
def target(
    request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> Iterator[Target]:
    """A device and a dtype. On the host, new arrays hold NaN until a kernel writes them."""
    backend, dtype = request.param
    if backend != "numpy":
        yield Target(backend, dtype)
        return
    monkeypatch.setattr(registry.load("numpy").xp, "empty", poisoned)
    with launched_by(request.getfixturevalue("host_launcher")):
        yield Target(backend, dtype)
    assert "runtime error" not in capfd.readouterr().err  # what the sanitizer prints


def poisoned(shape: Any, *, dtype: Any, device: Any) -> np.ndarray[Any, Any]:
    """What `empty` may give: bytes that are NaN as floating numbers."""
    fresh = np.empty(shape, dtype=dtype)
    fresh.reshape(-1).view(np.uint8)[:] = 0xFF
    return fresh
