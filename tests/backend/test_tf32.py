"""The options of set_backend and use_backend: TF32 and determinism, off and on, and always told."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from types import ModuleType
from typing import Any

import pytest

import xpcnn
from tests.support.backend import mentions, need
from tests.support.cupy import DEFAULT, TF32, Cupy
from xpcnn import errors
from xpcnn.backend import _cupy, registry
from xpcnn.cli import main


@pytest.fixture
def cupy(monkeypatch: pytest.MonkeyPatch) -> Cupy:
    """The pretended CuPy in the real one's place; its backends are forgotten after the test."""
    pretended = Cupy()
    namespaces = ModuleType("xpcnn.backend._cupy_namespace")
    vars(namespaces).update(CupyNamespace=lambda: ModuleType("array_api_compat.cupy"))
    monkeypatch.setitem(sys.modules, "cupy", pretended.module)
    monkeypatch.setitem(sys.modules, namespaces.__name__, namespaces)
    monkeypatch.setattr(_cupy, "_try_libraries", lambda device: None)
    monkeypatch.setattr(registry, "_instances", dict(registry._instances))
    for device in (0, 1):
        registry._instances.pop(("cupy", device), None)
    return pretended


def test_setting(cupy: Cupy) -> None:
    xpcnn.set_backend("cupy")
    assert xpcnn.get_backend().settings() == {"tf32": False, "deterministic": True}
    assert cupy.compute == {"float32": DEFAULT}
    cupy.switched_on.clear()
    xpcnn.set_backend("cupy", device=1, tf32=True)
    backend = xpcnn.get_backend()
    assert (backend.tf32, cupy.compute, cupy.switched_on) == (True, {"float32": TF32}, [1])
    assert repr(backend) == "<backend cupy (1), tf32=True, deterministic=True>"
    assert str(backend) == "cupy (1)"
    assert registry.load("cupy", 0).tf32 is True  # CuPy has one switch for all devices
    xpcnn.set_backend("cupy", device=1)  # what is not named has its default
    assert xpcnn.get_backend() is backend
    assert repr(backend) == "<backend cupy (1), tf32=False, deterministic=True>"
    cupy.compute["float32"] = TF32  # by other code
    assert backend.tf32 is True


def test_within_a_block(cupy: Cupy) -> None:
    xpcnn.set_backend("cupy")
    with xpcnn.use_backend("cupy", tf32=True, deterministic=False) as backend:
        assert backend.settings() == {"tf32": True, "deterministic": False}
        with xpcnn.use_backend("cupy") as same:  # what is not named stays
            assert same is backend
            assert same.tf32 is True
        with xpcnn.use_backend("cupy", tf32=False):
            assert backend.settings() == {"tf32": False, "deterministic": False}
        with pytest.raises(ZeroDivisionError), xpcnn.use_backend("cupy", tf32=False):
            _ = 1 // 0
        assert backend.tf32 is True
    assert backend.settings() == {"tf32": False, "deterministic": True}


def test_old_devices_have_none(cupy: Cupy) -> None:
    cupy.capability = "75"
    old = xpcnn.get_backend()
    with pytest.raises(errors.BackendError, match=mentions("cupy (0)", "tf32", "8.0", "7.5")) as e:
        xpcnn.set_backend("cupy", tf32=True)
    assert "\n" not in str(e.value)
    with pytest.raises(errors.BackendError), xpcnn.use_backend("cupy", tf32=True):
        pass
    assert xpcnn.get_backend() is old
    assert cupy.compute.get("float32", DEFAULT) == DEFAULT
    xpcnn.set_backend("cupy", tf32=False)


@pytest.mark.parametrize(
    ("name", "options", "parts"),
    [
        ("numpy", {"tf32": True}, ("numpy (cpu)", "'tf32'", "it has none")),
        ("numpy", {"tf32": False}, ("numpy (cpu)", "'tf32'")),
        ("torch", {"tf32": True}, ("torch (cpu)", "'tf32'", "it has none")),
        ("array_api_strict", {"deterministic": True}, ("'deterministic'",)),
        ("cupy", {"tf23": True}, ("cupy (0)", "'tf23'", "tf32, deterministic")),
        ("cupy", {"tf32": 1}, ("tf32", "True or False", "1")),
        ("cupy", {"tf32": True, "deterministic": None}, ("deterministic", "True or False", "None")),
    ],
)
def test_wrong_options(cupy: Cupy, name: str, options: dict[str, Any], parts: tuple[str, ...]) -> None:
    need(name)
    old = xpcnn.get_backend()
    with pytest.raises(errors.BackendError, match=mentions(*parts)) as e:
        xpcnn.set_backend(name, **options)
    assert "\n" not in str(e.value)
    with pytest.raises(errors.BackendError, match=mentions(*parts)), xpcnn.use_backend(name, **options):
        pass
    assert xpcnn.get_backend() is old
    assert registry.load("cupy", 0).settings() == {"tf32": False, "deterministic": True}


@pytest.mark.usefixtures("cupy")
def test_info_tells(capsys: pytest.CaptureFixture[str]) -> None:
    xpcnn.set_backend("cupy", tf32=True)
    assert main(["info"]) == 0
    assert "cupy (0), tf32 on, deterministic on\n" in capsys.readouterr().out


# PyTorch ----------------------------------------------------------------------------------------------


@pytest.fixture
def torch() -> Iterator[Any]:
    module = pytest.importorskip("torch")
    backends = module.backends
    before = backends.cuda.matmul.allow_tf32, backends.cudnn.allow_tf32
    yield module
    backends.cuda.matmul.allow_tf32, backends.cudnn.allow_tf32 = before


def test_torch_on_a_gpu(torch: Any) -> None:
    """PyTorch's own default is on for convolutions alone; xpcnn's is off, and on is on for both."""
    from xpcnn.backend._torch import TorchBackend

    backend = TorchBackend(torch.device("cuda", 0))
    assert backend.switches == {"tf32": False}
    backend.configure(backend.switches)
    assert (torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32) == (False, False)
    assert backend.tf32 is False
    backend.configure({"tf32": True})
    assert (torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32) == (True, True)
    assert repr(backend) == "<backend torch (cuda:0), tf32=True>"
    torch.backends.cuda.matmul.allow_tf32 = False
    assert backend.tf32 is True  # convolutions still round


def test_a_cpu_has_no_switch(torch: Any) -> None:
    backend = xpcnn.get_backend()
    assert (backend.settings(), backend.tf32, repr(backend)) == ({}, False, "<backend numpy (cpu)>")
    torch.backends.cudnn.allow_tf32 = True
    with xpcnn.use_backend("torch") as backend:
        assert backend.tf32 is False
        assert backend.settings() == {}
    assert torch.backends.cudnn.allow_tf32 is True
