"""CuPy without a GPU: an importable CuPy is no backend until a device answers. A pretended CuPy stands in."""

from __future__ import annotations

import contextlib
import importlib.util
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np
import pytest

import xpcnn
from tests.support.backend import mentions
from tests.support.cupy import Cupy
from xpcnn import errors
from xpcnn.backend import _cupy

Pretend = Callable[[Callable[[], int]], ModuleType]


def check_refused(*parts: str) -> None:
    """cupy is left out with this reason, which choosing it repeats, and nothing else changes."""
    reason = xpcnn.available_backends()["cupy"]
    assert reason is not None
    assert "\n" not in reason
    for part in parts:
        assert part in reason
    old = xpcnn.get_backend()
    with pytest.raises(errors.BackendError, match=mentions("backend cupy cannot be used", reason)):
        xpcnn.set_backend("cupy")
    with pytest.raises(errors.BackendError, match=mentions(reason)), xpcnn.use_backend("cupy"):
        pass
    with pytest.raises(errors.BackendError, match=mentions(reason)):
        xpcnn.nn.Linear(1, 1).to(backend="cupy")
    assert xpcnn.get_backend() is old


@pytest.fixture
def pretend(monkeypatch: pytest.MonkeyPatch) -> Pretend:
    """Put a module in CuPy's place: its driver counts devices by the function given, its libraries work."""

    def install(count: Callable[[], int]) -> ModuleType:
        module = Cupy(count, current=1).module
        monkeypatch.setitem(sys.modules, "cupy", module)
        return module

    _cupy._try_libraries.cache_clear()
    return install


def test_not_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    find_spec = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name, *rest: None if name == "cupy" else find_spec(name, *rest)
    )
    check_refused("not installed", "pip install 'xpcnn[cuda12]'", "xpcnn[cuda13]")


@pytest.mark.parametrize(
    ("source", "reason"),
    [
        ("raise ImportError('libcuda.so.1: cannot open\\nsecond line')", "libcuda.so.1: cannot open"),
        ("raise RuntimeError('libcuda.so.1: cannot open')", "libcuda.so.1: cannot open"),
        # As CuPy words it: what happened is the cause.
        ("raise ImportError('==\\nFailed') from OSError('libcuda.so.1: gone')", "libcuda.so.1: gone"),
        ("raise ImportError", "ImportError"),
    ],
    ids=["ImportError", "RuntimeError", "with a cause", "without text"],
)
def test_import_fails(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, source: str, reason: str) -> None:
    (tmp_path / "cupy").mkdir()
    (tmp_path / "cupy" / "__init__.py").write_text(source)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "cupy", raising=False)
    check_refused("cannot be imported", reason, "xpcnn[cuda12]")


def raising(error: Exception) -> Callable[..., Any]:
    def fail(*_: Any, **__: Any) -> Any:
        raise error

    return fail


def test_driver(pretend: Pretend) -> None:
    pretend(raising(RuntimeError("cudaErrorInsufficientDriver: version is insufficient\nmore")))
    check_refused("no CUDA device", "cudaErrorInsufficientDriver: version is insufficient")
    pretend(lambda: 0)
    check_refused("no CUDA device", "the driver found none")
    pretend(lambda: 2)
    assert xpcnn.available_backends()["cupy"] is None


@pytest.mark.parametrize(
    ("function", "library", "error"),
    [
        ("RawKernel", "NVRTC", RuntimeError("CuPy failed to load libnvrtc.so.13: cannot open\nmore")),
        ("asnumpy", "cuBLAS", ImportError("libcublas.so.13: cannot open")),
    ],
)
def test_libraries(pretend: Pretend, function: str, library: str, error: Exception) -> None:
    """As `pip install cupy-cuda13x` leaves it without a toolkit: the driver counts devices, and no more."""
    module = pretend(lambda: 2)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, function, raising(error))
        check_refused(library, "device 1", str(error).splitlines()[0], "xpcnn[cuda12]", "toolkit")
    assert _cupy.unavailable() is None  # once it is installed


def test_the_device_that_is_asked_for_is_tried_once(pretend: Pretend) -> None:
    """A trial takes memory on its device, so no other may be touched."""
    tried: list[int] = []
    module = pretend(lambda: 3)
    vars(module.cuda).update(Device=lambda number: (tried.append(number), contextlib.nullcontext())[1])
    assert _cupy.unavailable(2) is _cupy.unavailable("cuda:2") is None
    assert set(tried) == {2}
    before = len(tried)
    assert _cupy.unavailable(2) is None
    assert len(tried) == before


def test_device_names(pretend: Pretend) -> None:
    pretend(lambda: 2)
    for named in (None, 1, "1", "cuda:1", SimpleNamespace(id=1)):
        assert _cupy.parse_device(named) == 1
    assert [_cupy.parse_device(named) for named in (0, "0", "cuda")] == [0, 0, 0]
    wrong: dict[Any, tuple[str, ...]] = {
        2: ("no device 2", "found 2"),
        -1: ("no device -1",),
        "cuda:7": ("no device 7",),
        "gpu": ("'gpu'", "cuda:N"),
        (0,): ("(0,)",),
    }
    for device, parts in wrong.items():
        with pytest.raises(errors.BackendError, match=mentions("cupy", *parts)):
            xpcnn.set_backend("cupy", device)


def test_bfloat16_needs_a_package_that_brings_it() -> None:
    backend = object.__new__(_cupy.CupyBackend)  # asking for a dtype needs no device
    vars(backend).update(name="cupy", xp=SimpleNamespace(), _cupy=SimpleNamespace(__version__="13.6.0"))
    parts = ("cupy", "bfloat16", "CuPy 14", "this is CuPy 13.6.0", "pip install", "ml_dtypes")
    with pytest.raises(errors.BackendError, match=mentions(*parts)):
        backend.dtype("bfloat16")
    backend.xp.bfloat16 = np.void(b"xx").dtype
    assert backend.dtype("bfloat16") == np.dtype("V2")
