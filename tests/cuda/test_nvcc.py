"""Every CUDA source, with all its instantiations, through NVIDIA's compiler for two kinds of devices."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Iterable
from pathlib import Path

import pytest

from xpcnn.backend.cuda import families
from xpcnn.backend.cuda.source import STORAGE, Family, stand_alone

ARCHITECTURES = ("80", "90")

needs_nvcc = pytest.mark.skipif(shutil.which("nvcc") is None, reason="nvcc is not installed")
every_family = pytest.mark.parametrize("family", families(), ids=lambda family: family.name)


def nvcc(source: str, kernels: Iterable[str], directory: Path) -> subprocess.CompletedProcess[str]:
    """Compile a source and a table that needs these kernels, for every architecture; warnings are errors."""
    table = ",\n".join(f"(const void *)&{kernel}" for kernel in kernels)
    path = directory / "kernels.cu"
    path.write_text(
        f"{source}\nextern const void *const table[];\nconst void *const table[] = {{{table}}};\n"
    )
    targets = [f"-gencode=arch=compute_{number},code=sm_{number}" for number in ARCHITECTURES]
    strict = ["-std=c++17", "-Werror=all-warnings"]
    command = ["nvcc", *strict, *targets, "-c", path, "-o", path.with_suffix(".o")]
    return subprocess.run(command, capture_output=True, text=True, check=False)


@needs_nvcc
@every_family
def test_every_instantiation_compiles(family: Family, tmp_path: Path) -> None:
    done = nvcc(family.source(), family.kernels, tmp_path)
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "kernels.o").stat().st_size


@every_family
def test_no_kernel_is_declared_twice(family: Family) -> None:
    assert len(set(family.kernels)) == len(family.kernels)


@every_family
def test_every_storage_type_is_served(family: Family) -> None:
    # Optimisers widen half precision before any kernel sees it.
    for storage in ("float", "double") if family.name == "optim" else STORAGE.values():
        assert any(f"<{storage}" in kernel for kernel in family.kernels), storage


BROKEN = {
    "syntax": "{ FOR_EACH(int, i, count) }",
    "an undefined name": "{ x[0] = nothing; }",
    "what the type has not": "{ x[0] = x[0].at; }",
    "a warning": "{ int unused; x[0] = 0; }",
    "what is for the host": "{ x[0] = getpid(); }",
}


@needs_nvcc
@pytest.mark.parametrize("body", [*BROKEN.values()], ids=[*BROKEN])
def test_a_broken_source_does_not(body: str, tmp_path: Path) -> None:
    text = '#include "common.cuh"\n#include <unistd.h>\n'
    text += f"template <typename T> __global__ void broken(long long count, T *x) {body}"
    assert nvcc(stand_alone(text), ["broken<float>"], tmp_path).returncode != 0


@needs_nvcc
def test_a_sound_source_does(tmp_path: Path) -> None:
    text = '#include "common.cuh"\n#include <unistd.h>\n'
    text += "template <typename T> __global__ void sound(long long count, T *x) { x[0] = count; }"
    done = nvcc(stand_alone(text), ["sound<float>"], tmp_path)
    assert done.returncode == 0, done.stderr
