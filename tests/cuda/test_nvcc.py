"""Every CUDA source, with all its instantiations, through NVIDIA's compiler for two kinds of devices."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Iterable
from pathlib import Path

import pytest

from xpcnn.backend.cuda import FAMILIES
from xpcnn.backend.cuda.source import Family, stand_alone

pytestmark = pytest.mark.slow

ARCHITECTURES = ("80", "90")

needs_nvcc = pytest.mark.skipif(shutil.which("nvcc") is None, reason="nvcc is not installed")
every_family = pytest.mark.parametrize("family", FAMILIES, ids=lambda family: family.name)


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


BROKEN = {
    "an undefined name": "{ x[0] = nothing; }",
    "a warning": "{ int unused; x[0] = 0; }",
    "what is for the host": "{ x[0] = getpid(); }",
    "nothing": "{ x[0] = count; }",
}


@needs_nvcc
@pytest.mark.parametrize("wrong", BROKEN)
def test_a_broken_source_does_not(wrong: str, tmp_path: Path) -> None:
    text = '#include "common.cuh"\n#include <unistd.h>\n'
    text += f"template <typename T> __global__ void f(long long count, T *x) {BROKEN[wrong]}"
    assert (nvcc(stand_alone(text), ["f<float>"], tmp_path).returncode == 0) == (wrong == "nothing")
