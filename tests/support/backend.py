"""What the backend tests share."""

from __future__ import annotations

import os
import re
import subprocess
import sys

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


def run_python(code: str, *arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run `code` in a fresh interpreter, with these environment variables beside the present ones."""
    command = [sys.executable, "-c", code, *arguments]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path), **environment}
    return subprocess.run(command, env=environment, timeout=180, capture_output=True, text=True, check=False)
