"""The compiled kernels, in a chosen version."""

from __future__ import annotations

import pytest

from xpcnn.backend import registry
from xpcnn.backend.cpu.native import convolution, library
from xpcnn.errors import BackendError

CACHED = (library.library, library._loaded)


def use_version(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    """Load a version of the kernels for the rest of a test, or skip where this machine cannot run it."""
    monkeypatch.setenv(library.VARIABLE, name)
    forget()
    monkeypatch.setattr(registry.load("numpy"), "kernels", {}, raising=False)
    try:
        if library.why_absent() and name != "0":
            pytest.skip(f"the compiled kernels are {library.why_absent()}")
    except BackendError as error:
        pytest.skip(str(error))


def forget() -> None:
    """Let the next call look for the library again."""
    for function in CACHED:
        function.cache_clear()
    convolution._plans.clear()
