"""Benchmarks under pytest-benchmark: ``pytest benchmarks --backend numpy``, or ``cupy``.

Each test prepares one candidate of a problem, compares its result with an independent answer, warms it up
and times it; its calls wait for the device. What cannot be done, or would take too long, is skipped with the
reason.
``extra_info`` in ``--benchmark-json`` has rates, memory, versions and settings.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import suppress
from typing import Any

import pytest

import xpcnn
from benchmarks.peak_memory import memory_use
from benchmarks.torch_reference import TorchReference, torch_is_installed
from xpcnn.backend import Backend, backend_names
from xpcnn.cli.bench import held_to
from xpcnn.cli.bench_cases import Problem, WrongResultError
from xpcnn.cli.machine import hardware, versions
from xpcnn.errors import XpcnnError

SECONDS, ROUND_SECONDS, LEAST_ROUNDS, MOST_ROUNDS = 0.5, 0.002, 3, 50
UNCOUNTED = ("torch", "loop", "plain loop")
"""Whose memory is not counted: another allocator's, and that of loops, which counting makes much slower."""
TORCH = ("torch NCHW", "torch channels-last")


def pytest_addoption(parser: pytest.Parser) -> None:
    with suppress(ValueError):  # the tests have it, too, where both are run at once
        parser.addoption("--backend", choices=backend_names(), help="what to run on (default: numpy)")
    parser.addoption(
        "--threads", type=int, default=1, help="of xpcnn, BLAS and PyTorch on a CPU (default: 1)"
    )


def pytest_configure(config: pytest.Config) -> None:
    name = config.getoption("backend") or "numpy"
    if reason := xpcnn.available_backends()[name]:
        raise pytest.UsageError(f"--backend {name}: {reason}")


@pytest.fixture(scope="session")
def threads(request: pytest.FixtureRequest) -> int:
    """The number of threads of --threads."""
    return int(request.config.getoption("threads"))


@pytest.fixture(scope="session")
def backend(request: pytest.FixtureRequest, threads: int) -> Iterator[Backend]:
    """The backend of --backend, the current one for the session."""
    name = request.config.getoption("backend") or "numpy"
    with xpcnn.use_backend(name) as backend, held_to(backend, threads):
        yield backend


@pytest.fixture(scope="session")
def torch(backend: Backend, threads: int) -> TorchReference | None:
    """PyTorch on the same device, or None."""
    if not torch_is_installed():
        return None
    device = f"cuda:{backend.device}" if backend.name == "cupy" else str(backend.device)
    on_host = backend.name in ("numpy", "array_api_strict")
    return TorchReference("cpu" if on_host else device, threads, backend.tf32)


@pytest.fixture
def run(benchmark: Any, backend: Backend, threads: int) -> Any:
    """Verifies and times the candidate of a problem that has this name, such as "torch NCHW", and pass."""

    def run(problem: Problem, name: str, pass_name: str) -> None:
        named = [
            one
            for one in problem.candidates
            if one.pass_name == pass_name and name in (one.algorithm, f"{one.algorithm} {one.variant}")
        ]
        if not named:
            pytest.skip(f"{name} does not run here")
        try:
            call, error = problem.verified(named[0])
        except WrongResultError:
            raise
        except XpcnnError as error:
            pytest.skip(str(error))
        benchmark.group = f"{problem.name} {pass_name}"
        memory = None if named[0].algorithm in UNCOUNTED else memory_use(backend, call)
        begun = time.perf_counter()
        call()
        seconds = max(time.perf_counter() - begun, 1e-6)
        repeats = max(1, min(1000, round(ROUND_SECONDS / seconds)))
        rounds = max(LEAST_ROUNDS, min(MOST_ROUNDS, round(SECONDS / (repeats * seconds))))
        benchmark.pedantic(call, rounds=rounds, iterations=repeats, warmup_rounds=1)
        if benchmark.stats is None:  # by --benchmark-disable, or under pytest-xdist: verified, not timed
            return
        facts = backend.device_info()
        benchmark.extra_info |= {
            "geometry": problem.name,
            "description": problem.description,
            "algorithm": named[0].algorithm,
            "pass_name": pass_name,
            "variant": named[0].variant,
            "gflops": problem.operations[pass_name] / benchmark.stats.stats.median / 1e9,
            "error": error,
            "peak_bytes": None if memory is None else memory.peak,
            "workspace_bytes": None if memory is None else memory.workspace,
            "backend": backend.name,
            "threads": threads,
            "tf32": facts.pop("tf32"),
            "machine": {**hardware(), **facts},
            "versions": versions(),
        }

    return run
