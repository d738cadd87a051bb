"""What the backend tests share."""

from __future__ import annotations

import re

import pytest

import xpcnn


def mentions(*parts: str) -> str:
    """A regular expression for messages that hold all of these, in any order."""
    return r"(?s)\A" + "".join(f"(?=.*{re.escape(part)})" for part in parts)


def need(name: str) -> None:
    """Skip the test where this backend cannot be used."""
    if reason := xpcnn.available_backends()[name]:
        pytest.skip(reason)


def here() -> str:
    """The name of the backend that creates new arrays."""
    return xpcnn.get_backend().name
