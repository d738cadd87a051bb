"""What a test of an op sets for the process ends with it."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

import xpcnn


@pytest.fixture(autouse=True)
def _restore_limit() -> Iterator[None]:
    limit = xpcnn.get_workspace_limit()
    yield
    xpcnn.set_workspace_limit(limit)
