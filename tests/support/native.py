"""The compiled kernels, in a chosen version or none."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from xpcnn.backend import cpu, registry
from xpcnn.backend.cpu import native
from xpcnn.backend.cpu.native import convolution, library
from xpcnn.errors import BackendError
from xpcnn.ops.conv import executor

needs_kernels = pytest.mark.skipif(
    library.why_absent() is not None, reason=f"the compiled kernels are {library.why_absent()}"
)


def use_version(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    """Load a version of the kernels for the rest of a test, or skip where this machine cannot run it."""
    backend = registry.load("numpy")
    assert backend.kernels is not None  # what the undoing puts back is found before anything changes
    monkeypatch.setenv(library.VARIABLE, name)
    forget()
    try:
        if library.why_absent() and name != "0":
            pytest.skip(f"the compiled kernels are {library.why_absent()}")
    except BackendError as error:
        pytest.skip(str(error))
    monkeypatch.setattr(backend, "kernels", {**cpu.table(), **native.table()})


def forget() -> None:
    """Let the next call look for the library again."""
    library.library.cache_clear()
    library._loaded.cache_clear()
    convolution._plans.clear()
    executor._plans.clear()


@pytest.fixture
def numpy_alone(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """What xpcnn is where nothing was compiled."""
    use_version(monkeypatch, "0")
    yield
    forget()
