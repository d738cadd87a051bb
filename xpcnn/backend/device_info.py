"""What the host computes with."""

from __future__ import annotations

import functools
import platform
from pathlib import Path

__all__ = ["processor"]


@functools.cache
def processor() -> str:
    """Return the name of the host's processor."""
    try:
        for line in Path("/proc/cpuinfo").read_text("utf-8").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    except (OSError, UnicodeDecodeError):  # not Linux
        pass
    return platform.processor() or platform.machine()
