"""Benchmarks under pytest-benchmark: ``pytest benchmarks --device cpu``, or ``cuda``.

Each test prepares one contestant of a problem of `xpcnn.bench`, holds its result against the answer, warms it
up and times it; its calls wait for the device. What cannot be done, or would take too long, is skipped with
the reason. ``extra_info`` in ``--benchmark-json`` has the rates, memory, versions and settings.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import Any

import pytest

import xpcnn
from xpcnn.backend import Backend
from xpcnn.backend.facts import device_facts
from xpcnn.backend.torch_peer import LAYOUTS, TorchPeer, torch_is_installed
from xpcnn.bench.machine import hardware, versions
from xpcnn.bench.measure import Contestant, Problem, WrongResultError, ready
from xpcnn.bench.timing import held_to
from xpcnn.errors import XpcnnError

BACKENDS = {"cpu": "numpy", "cuda": "cupy"}
THREADS = 1
TORCH = tuple(f"torch {layout}" for layout in LAYOUTS)
SECONDS, TURN_SECONDS, LEAST_ROUNDS, MOST_ROUNDS = 0.5, 0.002, 3, 50


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--device", choices=BACKENDS, default="cpu", help="where to run the benchmarks")


def pytest_configure(config: pytest.Config) -> None:
    device = config.getoption("device")
    reason = xpcnn.available_backends()[BACKENDS[device]]
    if reason:
        raise pytest.UsageError(f"--device {device}: {reason}")


@pytest.fixture(scope="session")
def backend(request: pytest.FixtureRequest) -> Iterator[Backend]:
    """The backend of --device, the current one for the session."""
    name = BACKENDS[request.config.getoption("device")]
    with xpcnn.use_backend(name) as backend, held_to(backend, THREADS):
        yield backend


@pytest.fixture(scope="session")
def torch_peer(backend: Backend) -> TorchPeer | None:
    """PyTorch on the same device, or None."""
    if not torch_is_installed():
        return None
    return TorchPeer("cpu" if backend.name == "numpy" else f"cuda:{backend.device}", THREADS, backend.tf32)


@pytest.fixture
def run(benchmark: Any, backend: Backend) -> Any:
    """Verifies and times the contestant of a problem that has this name, such as "torch NCHW", and pass."""

    def run(problem: Problem, name: str, pass_name: str) -> None:
        for one in problem.contestants:
            if one.pass_name == pass_name and name in (one.algorithm, f"{one.algorithm} {one.variant}"):
                return time_one(benchmark, backend, problem, one)
        pytest.skip(f"{name} does not run here")

    return run


def time_one(benchmark: Any, backend: Backend, problem: Problem, contestant: Contestant) -> None:
    """Time one contestant, and note what was found."""
    try:
        known = ready(problem, contestant, problem.expected(contestant.pass_name))
    except WrongResultError:
        raise
    except XpcnnError as error:
        pytest.skip(str(error))
    benchmark.group = f"{problem.name} {contestant.pass_name}"
    begun = time.perf_counter()
    known.call()
    seconds = time.perf_counter() - begun
    repeats = max(1, min(1000, round(TURN_SECONDS / max(seconds, 1e-6))))
    rounds = max(LEAST_ROUNDS, min(MOST_ROUNDS, round(SECONDS / (repeats * max(seconds, 1e-6)))))
    benchmark.pedantic(known.call, rounds=rounds, iterations=repeats, warmup_rounds=1)
    operations = problem.operations(contestant.pass_name)
    facts = device_facts(backend)
    benchmark.extra_info |= {
        "problem": problem.description,
        "algorithm": contestant.algorithm,
        "pass": contestant.pass_name,
        "variant": contestant.variant,
        "gflops": operations / benchmark.stats.stats.median / 1e9,
        "error": known.error,
        "peak_bytes": None if known.memory is None else known.memory.peak,
        "workspace_bytes": None if known.memory is None else known.memory.workspace,
        "backend": backend.name,
        "threads": THREADS,
        "tf32": facts.pop("tf32"),
        "machine": {**hardware(), **facts},
        "versions": versions(),
    }
