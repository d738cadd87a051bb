"""Compiles the kernels when the package is built, in a version for each level of instructions.

Without a compiler, or where compiling fails, the package is built without them and works on NumPy alone.
"""

from __future__ import annotations

import os
import platform
import re
import shutil
import subprocess
import sys
import sysconfig
import zlib
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

try:
    from hatchling.builders.hooks.plugin.interface import BuildHookInterface
except ModuleNotFoundError:  # it is there while the package is built; `build` works without
    BuildHookInterface = object

HERE = Path(__file__).parent
FLAGS: tuple[str, ...] = (
    *("-std=c++17", "-O3", "-mtune=generic", "-fPIC", "-shared", "-fvisibility=hidden", "-ffp-contract=fast"),
    *("-fno-exceptions", "-fno-rtti", "-fno-math-errno", "-fno-trapping-math", "-fno-threadsafe-statics"),
    *("-Wall", "-Wextra"),
)
VERSIONS: dict[str, dict[str, tuple[str, ...]]] = {
    "x86_64": {
        "v2": ("-march=x86-64-v2",),
        "v3": ("-march=x86-64-v3",),
        "v4": ("-march=x86-64-v4", "-mprefer-vector-width=512"),
    },
    "aarch64": {"neon": ("-march=armv8-a",)},
}
ARCHITECTURES = {"amd64": "x86_64", "arm64": "aarch64"}
LEAST_GCC = 11
SECONDS = 600


class NativeBuildHook(BuildHookInterface):  # type: ignore[misc]
    """Adds the compiled kernels to a wheel, and names the platform they are for."""

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        if self.target_name != "wheel":
            return
        try:
            built = build()
        except RuntimeError as error:
            self.app.display_warning(f"xpcnn is installed without compiled kernels: {error}")
            return
        build_data["artifacts"] += [f"/{path.relative_to(self.root).as_posix()}" for path in built]
        build_data["pure_python"] = False
        build_data["tag"] = f"py3-none-{re.sub('[^A-Za-z0-9]', '_', sysconfig.get_platform())}"


def build(folder: Path = HERE, flags: tuple[str, ...] = ()) -> list[Path]:
    """Compile every version for this machine's architecture into `folder`, and return the files.

    What is newer than its sources is not compiled again.

    Raises
    ------
    RuntimeError
        Without a compiler that can do it; the message is why, on one line.
    """
    machine = platform.machine().lower()
    versions = VERSIONS.get(ARCHITECTURES.get(machine, machine))
    if os.name == "nt" or versions is None:
        raise RuntimeError(f"there are none for {platform.system()} on {machine}")
    sources = [*HERE.glob("*.hpp"), *HERE.glob("*.cpp"), Path(__file__)]
    newest = max(path.stat().st_mtime for path in sources)
    paths = {name: folder / f"kernels_{name}.so" for name in versions}
    missing = [
        name for name, path in paths.items() if not path.exists() or path.stat().st_mtime < newest or flags
    ]
    if missing:
        compiler = find_compiler()
        with ThreadPoolExecutor(len(missing)) as pool:
            list(pool.map(lambda name: _compile(compiler, (*versions[name], *flags), paths[name]), missing))
    return list(paths.values())


def find_compiler() -> str:
    """Return ``$CXX``, or the first of g++, clang++ and c++ that is recent enough."""
    found = [os.environ.get("CXX") or "", "g++", "clang++", "c++"]
    reasons = []
    for name in filter(None, found):
        if shutil.which(name) is None:
            continue
        try:
            answer = subprocess.run([name, "--version"], capture_output=True, text=True, timeout=60).stdout
        except (OSError, subprocess.TimeoutExpired) as error:
            reasons.append(f"{name}: {error}")
            continue
        gcc = "clang" not in answer and re.search(r"\) (\d+)\.", answer)
        if not gcc or int(gcc[1]) >= LEAST_GCC:
            return name
        reasons.append(f"{name} is GCC {gcc[1]}, and {LEAST_GCC} is needed")
    raise RuntimeError("; ".join(reasons) or "no C++ compiler was found (g++ or clang++)")


def _compile(compiler: str, flags: tuple[str, ...], path: Path) -> None:
    """Compile one version; the file is there whole or not at all."""
    part = path.with_name(f"{path.name}.{os.getpid()}.part")
    static: tuple[str, ...] = ("-static-libstdc++", "-static-libgcc")
    if sys.platform == "darwin":
        static = ()
    sources = b"".join(source.read_bytes() for source in sorted([*HERE.glob("*.cpp"), *HERE.glob("*.hpp")]))
    static += (f"-DSOURCES={zlib.crc32(sources)}",)
    command = [compiler, *FLAGS, *flags, *static, str(HERE / "kernels.cpp"), "-o", str(part)]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=SECONDS)
        if done.returncode:
            lines = [line for line in done.stderr.splitlines() if "error" in line] or ["it failed"]
            raise RuntimeError(f"{compiler}: {lines[0].strip()}")
        part.replace(path)
    except (OSError, subprocess.TimeoutExpired) as error:
        raise RuntimeError(f"{compiler}: {error}") from None
    finally:
        part.unlink(missing_ok=True)
