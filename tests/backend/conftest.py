"""Every test starts with numpy as the process default, which is put back after it."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

import xpcnn


@pytest.fixture(autouse=True)
def numpy_by_default() -> Iterator[None]:
    before = xpcnn.get_backend()
    xpcnn.set_backend("numpy")
    yield
    xpcnn.set_backend(before.name, before.device)
