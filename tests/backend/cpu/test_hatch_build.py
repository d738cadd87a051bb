"""How the kernels are compiled: whole or not at all, and never in the way of an install."""

from __future__ import annotations

import os
import platform
import types
from pathlib import Path
from typing import Any

import pytest

from xpcnn.backend.cpu.native import hatch_build

GCC = 'echo "g++ (Debian 12.2.0) {version}.2.0"'
COMPILES = 'while [ $# -gt 1 ]; do [ "$1" = -o ] && echo kernels > "$2"; shift; done'


@pytest.fixture
def tools(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder that is all that is searched for compilers; they are shell scripts."""
    if os.name == "nt":
        pytest.skip("compilers are shell scripts here")
    folder = tmp_path / "tools"
    folder.mkdir()
    monkeypatch.setenv("PATH", str(folder))
    monkeypatch.delenv("CXX", raising=False)
    monkeypatch.setattr(platform, "machine", lambda: "x86_64")
    return folder


def put(folder: Path, name: str, version: int = 12, does: str = COMPILES) -> None:
    path = folder / name
    answer = f'if [ "$1" = --version ]; then {GCC.format(version=version)}; exit; fi'
    path.write_text(f"#!/bin/sh\n{answer}\n{does}\n")
    path.chmod(0o755)


def test_every_version_is_built_once(tools: Path, tmp_path: Path) -> None:
    put(tools, "g++")
    built = hatch_build.build(tmp_path)
    assert [path.name for path in built] == ["kernels_v2.so", "kernels_v3.so", "kernels_v4.so"]
    assert all(path.read_text() == "kernels\n" for path in built)
    (tools / "g++").unlink()  # what is there already needs no compiler
    assert hatch_build.build(tmp_path) == built


@pytest.mark.parametrize(
    ("name", "version", "does", "told"),
    [
        (None, 0, "", "no C\\+\\+ compiler was found"),
        ("g++", 10, COMPILES, "g\\+\\+ is GCC 10, and 11 is needed"),
        (
            "c++",
            12,
            'echo "kernels.cpp:3: error: no such thing" >&2; exit 1',
            "c\\+\\+: kernels.cpp:3: error: no such",
        ),
        ("clang++", 12, "exit 1", "clang\\+\\+: it failed"),
    ],
)
def test_why_it_cannot_be(tools: Path, tmp_path: Path, name: Any, version: int, does: str, told: str) -> None:
    """On one line; nothing is left behind, and the package is built without kernels."""
    if name:
        put(tools, name, version, does)
    with pytest.raises(RuntimeError, match=told) as caught:
        hatch_build.build(tmp_path)
    assert "\n" not in str(caught.value)
    assert [path.name for path in tmp_path.iterdir()] == ["tools"]


def test_a_compiler_that_does_not_run(tools: Path, tmp_path: Path) -> None:
    (tools / "g++").write_bytes(b"\x7fELF of another machine")
    (tools / "g++").chmod(0o755)
    with pytest.raises(RuntimeError, match=r"^g\+\+: .*") as caught:
        hatch_build.build(tmp_path)
    assert "\n" not in str(caught.value)
    put(tools, "clang++")
    assert len(hatch_build.build(tmp_path)) == 3


@pytest.mark.parametrize("machine", ["riscv64", "ppc64le"])
def test_other_processors(tools: Path, machine: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(platform, "machine", lambda: machine)
    with pytest.raises(RuntimeError, match=f"on {machine}"):
        hatch_build.build()


def hook(folder: Path, target: str, warnings: list[str]) -> Any:
    """A build of a target; it warns into the list."""

    class Hook(hatch_build.NativeBuildHook):
        root, target_name = str(folder), target
        app = types.SimpleNamespace(display_warning=warnings.append)

        def __init__(self) -> None:
            pass

    return Hook()


@pytest.mark.parametrize("fails", [False, True])
def test_the_wheel(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fails: bool) -> None:
    """One with kernels names its platform; without, it is pure, and one line says why."""

    def build() -> list[Path]:
        if fails:
            raise RuntimeError("no compiler")
        return [tmp_path / "xpcnn" / "kernels_v3.so"]

    monkeypatch.setattr(hatch_build, "build", build)
    warnings: list[str] = []
    data: dict[str, Any] = {"artifacts": []}
    hook(tmp_path, "sdist", warnings).initialize("standard", data)
    assert data == {"artifacts": []}
    hook(tmp_path, "wheel", warnings).initialize("standard", data)
    if fails:
        assert data == {"artifacts": []}
        assert warnings == ["xpcnn is installed without compiled kernels: no compiler"]
    else:
        assert data["artifacts"] == ["/xpcnn/kernels_v3.so"]
        assert data["pure_python"] is False
        assert data["tag"].startswith("py3-none-")
