"""How much of a training step on one thread is spent outside the compiled kernels, as JSON.

    python -m benchmarks.outside_kernels
    python -m benchmarks.outside_kernels --models deep_convnet --rounds 31

Rounds take turns: in one, steps are timed as they are; in the next, every compiled function and
`numpy.matmul` have a timer around them. What the timer shows for a call that does nothing is Python's, and
counts as outside. So does all of NumPy; its matrix products are given apart.
"""

from __future__ import annotations

import argparse
import functools
import json
import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np

from xpcnn import Trainer, optim
from xpcnn.backend import use_backend
from xpcnn.backend.cpu.native.library import Library, library, why_absent
from xpcnn.cli.bench import held_to
from xpcnn.cli.bench_cases import MODELS
from xpcnn.cli.machine import hardware, versions

DTYPE, STEPS, EMPTY_CALLS = "float32", 5, 10_000


@contextmanager
def timed_calls(places: Sequence[tuple[Any, str]]) -> Iterator[list[float]]:
    """Put a timer around functions, each an owner's attribute; fill a list with the seconds of each call."""
    seconds: list[float] = []

    def timed(function: Callable[..., Any]) -> Callable[..., Any]:
        def call(*arguments: Any, **options: Any) -> Any:
            begun = time.perf_counter()
            result = function(*arguments, **options)
            seconds.append(time.perf_counter() - begun)
            return result

        return call

    known = [(owner, name, getattr(owner, name)) for owner, name in places]
    for owner, name, function in known:
        setattr(owner, name, timed(function))
    try:
        yield seconds
    finally:
        for owner, name, function in known:
            setattr(owner, name, function)


def share_outside(step: Callable[[], Any], kernels: Library, rounds: int) -> dict[str, float]:
    """Return the milliseconds of a step, those in kernels and in products, and the share outside kernels."""
    owners = kernels, *kernels.winograd.values()
    compiled = [(owner, name) for owner in owners for name, one in vars(owner).items() if callable(one)]
    with timed_calls([(kernels, "width")]) as empty:
        for _ in range(EMPTY_CALLS):
            kernels.width()
    step()
    times: dict[str, list[float]] = {"step": [], "kernels": [], "products": []}
    for _ in range(rounds):
        begun = time.perf_counter()
        for _ in range(STEPS):
            step()
        times["step"].append(time.perf_counter() - begun)
        with timed_calls(compiled) as inside, timed_calls([(np, "matmul")]) as products:
            for _ in range(STEPS):
                step()
        times["kernels"].append(sum(inside) - len(inside) * statistics.median(empty))
        times["products"].append(sum(products))
    ms = {f"{name}_ms": 1e3 * statistics.median(some) / STEPS for name, some in times.items()}
    share = 1 - ms["kernels_ms"] / ms["step_ms"]
    return {**ms, "calls": len(inside) / STEPS, "share_outside": share}


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--models", nargs="+", choices=MODELS, default=["deep_convnet", "simple_convnet"])
    parser.add_argument("--rounds", type=int, default=15, help="(default: %(default)s)")
    options = parser.parse_args(arguments)
    kernels = library(DTYPE)
    if kernels is None:
        parser.exit(1, f"there are no compiled kernels: {why_absent()}\n")
    found: dict[str, Any] = {"machine": hardware(), "versions": versions()}
    with use_backend("numpy") as backend, held_to(backend, 1):
        for name in options.models:
            trainer = Trainer(model := MODELS[name].build(DTYPE), optim.Adam(model, lr=1e-3))
            step = functools.partial(trainer.step, *MODELS[name].batch())
            found[name] = share_outside(step, kernels, options.rounds)
    print(json.dumps(found, indent=1))


if __name__ == "__main__":
    main()
