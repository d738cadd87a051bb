"""set_backend, use_backend, get_backend, $XPCNN_BACKEND: where new arrays are created."""

from __future__ import annotations

import asyncio
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import pytest

import xpcnn
from tests.support.backend import here, mentions, need, run_python
from xpcnn import errors, nn
from xpcnn.backend import Backend, registry

KNOWN = ("numpy", "cupy", "torch", "array_api_strict")


def test_default_and_available() -> None:
    assert here() == "numpy"
    assert isinstance(xpcnn.asarray([1.0]), np.ndarray)
    available = xpcnn.available_backends()
    assert tuple(available) == KNOWN
    assert available["numpy"] is None
    assert all(reason is None or len(reason) > 10 for reason in available.values())


def test_setting_each(make: Any) -> None:
    xpcnn.set_backend(make.backend)
    backend = xpcnn.get_backend()
    assert backend.name == make.backend
    assert backend.xp is make.xp
    assert backend.device == make.device or make.backend == "cupy"
    assert xpcnn.backend_of(xpcnn.asarray([1.0])) is backend
    assert xpcnn.backend_of(nn.Linear(1, 1).weight.data) is backend
    assert str(backend).startswith(f"{make.backend} (")
    assert make.backend in repr(backend)
    x = make.array([1.0, -2.0])  # existing arrays stay where they are
    for name in ("numpy", make.backend):
        xpcnn.set_backend(name)
        assert xpcnn.backend_of(x).name == make.backend
        assert xpcnn.backend_of(xpcnn.ops.relu(x)[0]).name == make.backend


use = xpcnn.use_backend


@pytest.mark.parametrize(
    ("name", "device"),
    [
        *((name, None) for name in ("tensorflow", "", "NumPy", "cpu")),
        *(("numpy", "cuda"), ("numpy", 0), ("torch", "nonsense"), ("torch", "cuda:63")),
        *(("array_api_strict", "nonsense"), ("array_api_strict", 3)),
    ],
)
def test_what_cannot_be_used_leaves_the_old_backend(name: str, device: Any) -> None:
    need(name if name in KNOWN else "numpy")
    need("array_api_strict")
    xpcnn.set_backend("array_api_strict")
    old = xpcnn.get_backend()
    parts = (name, repr(device)) if name in KNOWN else (f"unknown backend {name!r}", *KNOWN)
    with pytest.raises(errors.BackendError, match=mentions(*parts)):
        xpcnn.set_backend(name, device)
    with pytest.raises(errors.BackendError, match=mentions(*parts)), use(name, device):
        pass
    assert xpcnn.get_backend() is old


def test_a_device_that_fails_at_the_last_moment(monkeypatch: pytest.MonkeyPatch) -> None:
    need("array_api_strict")

    def fail(backend: Backend) -> None:
        raise RuntimeError("the device went away")

    with monkeypatch.context() as patch:
        patch.setattr(Backend, "activate", fail)
        with pytest.raises(RuntimeError, match="went away"):
            xpcnn.set_backend("array_api_strict")
    assert here() == "numpy"


def test_devices() -> None:
    need("array_api_strict")
    with use("array_api_strict", "device1") as backend:
        x = xpcnn.asarray([1.0])
        assert xpcnn.backend_of(x) is backend
        assert str(x.device) == str(backend.device)
        assert "device1" in str(backend)
        assert xpcnn.to_numpy(x).tolist() == [1.0]
    with use("array_api_strict") as other:
        assert other is not backend
        assert other is registry.load("array_api_strict", "cpu")


def test_override_nests_and_hides_the_default() -> None:
    need("torch")
    need("array_api_strict")
    with use("torch") as outer:
        assert xpcnn.get_backend() is outer
        with use("array_api_strict"):
            assert here() == "array_api_strict"
        with pytest.raises(ZeroDivisionError), use("numpy"):
            _ = 1 // 0
        assert xpcnn.get_backend() is outer
    assert here() == "numpy"
    with use("numpy"):
        xpcnn.set_backend("torch")
        assert here() == "numpy"
    assert here() == "torch"


def test_threads_see_the_default() -> None:
    """A new thread starts with an empty context."""
    need("torch")
    with use("torch"), ThreadPoolExecutor(1) as pool:
        assert here() == "torch"
        assert pool.submit(here).result() == "numpy"
        xpcnn.set_backend("torch")
        with use("numpy"):
            assert pool.submit(here).result() == "torch"


def test_tasks_override_their_own() -> None:
    need("torch")
    need("array_api_strict")

    async def work(name: str) -> list[str]:
        seen = [here()]
        with use(name):
            for _ in range(3):
                await asyncio.sleep(0)  # to the other task and back
                seen.append(here())
        return [*seen, here()]

    async def both() -> list[list[str]]:
        return await asyncio.gather(work("torch"), work("array_api_strict"))

    names = ("torch", "array_api_strict")
    assert asyncio.run(both()) == [["numpy", name, name, name, "numpy"] for name in names]
    with use("torch"):
        assert asyncio.run(both())[1] == ["torch", *["array_api_strict"] * 3, "torch"]


def test_one_backend_for_each_device(monkeypatch: pytest.MonkeyPatch) -> None:
    """Threads that meet a device together agree on its backend; of two, their arrays would not mix."""
    module = registry.module_of("numpy")
    create, threads = module.create, 4
    start = threading.Barrier(threads)

    def slow(device: str) -> Any:
        time.sleep(0.05)
        return create(device)

    def meet() -> Any:
        start.wait()
        return registry.instance("numpy", "a device of this test")

    monkeypatch.setattr(module, "create", slow)
    with ThreadPoolExecutor(threads) as pool:
        found = [future.result() for future in [pool.submit(meet) for _ in range(threads)]]
    assert all(backend is found[0] for backend in found)


# The environment variable --------------------------------------------------------------------------------


@pytest.mark.process
@pytest.mark.parametrize(("value", "name"), [("", "numpy"), ("array_api_strict", "array_api_strict")])
def test_environment(value: str, name: str) -> None:
    need(name)
    code = "import xpcnn; print(xpcnn.get_backend().name, xpcnn.backend_of(xpcnn.asarray([1.0])).name)"
    done = run_python(code, XPCNN_BACKEND=value)
    assert done.stdout.split() == [name, name], done.stderr


@pytest.mark.process
def test_bad_environment() -> None:
    """`import xpcnn` works, the first use says what is wrong, and set_backend is a way out."""
    code = """
import xpcnn
try:
    xpcnn.asarray([1.0])
except xpcnn.errors.BackendError as error:
    print(error)
xpcnn.set_backend('numpy')
print(xpcnn.get_backend().name)
"""
    done = run_python(code, XPCNN_BACKEND="tensorflow")
    message, name = done.stdout.splitlines()
    assert "$XPCNN_BACKEND=tensorflow" in message
    assert all(known in message for known in KNOWN)
    assert name == "numpy"
