"""Show versions, backends and devices, and where datasets and measured choices are kept.

This is what a bug report should come with.
"""

from __future__ import annotations

import argparse
import itertools
import os
from collections.abc import Iterator

from xpcnn.backend import available_backends, get_backend, get_num_threads, use_backend
from xpcnn.backend.cpu.native.library import VARIABLE, built_versions
from xpcnn.backend.threads import THREADS_VARIABLE
from xpcnn.cli.machine import hardware, versions
from xpcnn.cli.output import printable
from xpcnn.data.fetch import DATA_DIR_VARIABLE, cache_dir, expand
from xpcnn.errors import BackendError, XpcnnError
from xpcnn.ops.conv.tuning_cache import tuning_cache

_DEVICES = {"cupy": ("{}",), "torch": ("cuda:{}", "mps", "xpu:{}")}
"""The names that devices beside the default one may have; {} stands for 0, 1, …"""

Lines = Iterator[tuple[str, object]]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare no options: there are none."""


def run(args: argparse.Namespace) -> int:
    """Print it all; an error, such as of a path that cannot be, is the last line of its section."""
    for section in (_versions, _backends, _in_use, _processor, _datasets, _autotune, _settings):
        print(section.__name__[1:].replace("_", " "))
        try:
            for name, value in section():
                print(f"  {printable(name):<18} {printable(value)}", flush=True)
        except (XpcnnError, OSError) as error:
            print(f"  {'unknown':<18} {getattr(error, 'strerror', None) or error}", flush=True)
    return 0


def _versions() -> Lines:
    yield from versions().items()


def _backends() -> Lines:
    for name, reason in available_backends().items():
        yield name, reason or f"available on {', '.join(dict.fromkeys(_devices(name)))}"


def _devices(name: str) -> Iterator[str]:
    with use_backend(name) as backend:
        yield str(backend.device)
    for pattern in _DEVICES.get(name, ()):
        for number in itertools.count() if "{}" in pattern else (0,):
            try:
                with use_backend(name, pattern.format(number)) as backend:
                    yield str(backend.device)
            except BackendError:
                break


def _in_use() -> Lines:
    backend = get_backend()
    switches = (f"{name} {'on' if value else 'off'}" for name, value in backend.settings().items())
    yield "backend", ", ".join((str(backend), *switches))


def _processor() -> Lines:
    from threadpoolctl import threadpool_info

    yield from hardware().items()
    for pool in threadpool_info():
        yield "thread pool", f"{pool['internal_api']} {pool['version']}, {pool['num_threads']} threads"
    yield "kernels built", f"{', '.join(built_versions()) or 'none'} (${VARIABLE} chooses)"
    yield "threads", f"{get_num_threads()} (${THREADS_VARIABLE}, or the usable cores)"


def _datasets() -> Lines:
    own = os.environ.get(DATA_DIR_VARIABLE)
    yield "looked for in", ", then ".join(map(str, [*([expand(own)] if own else []), cache_dir()]))


def _autotune() -> Lines:
    cache = tuning_cache()
    yield "measured choices", f"{len(cache.choices)} in {cache.path}"


def _settings() -> Lines:
    for name in sorted(name for name in os.environ if name.startswith("XPCNN_")):
        yield f"${name}", os.environ[name]
