"""The table of NumPy's own kernels."""

from __future__ import annotations

import importlib
import inspect
import pkgutil
import subprocess
import sys
from typing import Any

import numpy as np
import pytest

import xpcnn
from xpcnn import ops, optim
from xpcnn.backend.cpu import table


def replaceable() -> dict[str, Any]:
    """What a backend may replace: primitives, and the marks of updates that are done `together`."""
    found: dict[str, Any] = {}
    for package in (ops, optim):
        for info in pkgutil.walk_packages(package.__path__, f"{package.__name__}."):
            for value in vars(importlib.import_module(info.name)).values():
                if hasattr(value, "portable"):
                    found[value.__name__] = value.portable
                elif inspect.isclass(value):
                    found.update({m.kernel: None for m in vars(value).values() if hasattr(m, "kernel")})
    return found


@pytest.mark.parametrize("name", table())
def test_a_kernel_takes_what_it_replaces_takes(name: str) -> None:
    function = replaceable()[name]
    if function is not None:
        assert [*inspect.signature(table()[name]).parameters] == [*inspect.signature(function).parameters]


def test_the_backend_has_the_table() -> None:
    with xpcnn.use_backend("numpy") as numpy:
        assert numpy.kernels == table()


def test_importing_the_package_does_not_load_it() -> None:
    code = "import sys, xpcnn; assert 'xpcnn.backend.cpu' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)


def test_half_precision_stays_with_the_portable_functions() -> None:
    x = np.ones((2, 3, 4, 5), np.float16)
    assert table()["relu_array"](x) is NotImplemented
    assert table()["add_bias_relu"](x, x[0, :, 0, 0]) is NotImplemented
    assert table()["adam_step"]([(x, x, {}, 1, {})]) is NotImplemented
