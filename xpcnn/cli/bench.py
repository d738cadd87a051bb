"""Time every convolution algorithm, or whole models.

Every result is compared with an independent answer before it is timed. Candidates are interleaved round by
round, so clock drift affects all of them equally; the table shows medians and their spread.
"""

from __future__ import annotations

import argparse
import math
import time
import tracemalloc
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from typing import Any

import numpy as np

from xpcnn import ops
from xpcnn.backend import Backend, get_backend
from xpcnn.backend.threads import use_num_threads
from xpcnn.cli import bench_cases as cases
from xpcnn.cli.bench_cases import FLOOR, Candidate, Problem, WrongResultError
from xpcnn.cli.machine import hardware, versions
from xpcnn.cli.options import DTYPES, Parser, add_device_options, choose_backend, count, path
from xpcnn.cli.output import printable
from xpcnn.errors import XpcnnError
from xpcnn.io import make_folder, write_json
from xpcnn.train.interrupt import status_of

__all__ = ["add_arguments", "held_to", "quartiles", "run", "traced_memory"]

_CONV = "Convolution: algorithm by pass, beside the matrix product it comes down to."
_MODEL = "A training step and inference of whole models."
_Kind = tuple[str, tuple[str, ...], Mapping[str, Any], tuple[str, ...], Callable[..., Problem]]
_KINDS: dict[str, _Kind] = {
    "conv": (_CONV, (), cases.CONVOLUTIONS, cases.PASSES, cases.conv_problem),
    "model": (_MODEL, ("auto",), cases.MODELS, cases.MODEL_PASSES, cases.model_problem),
}
"""What each is, the algorithms by default (none stands for all), cases, passes, and what builds a problem."""

_TURN_SECONDS = 0.01
"""A candidate's turn lasts about this long at least: quick calls are repeated in it."""

Row = dict[str, Any]
"""What was measured of a candidate, or the reason why nothing was."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare what can be measured, each with its options."""
    kinds = parser.add_subparsers(
        dest="kind", metavar="WHAT", required=True, parser_class=Parser, help="each has its own help"
    )
    shown = "(default: %(default)s)"
    for name, (title, default, geometries, passes, _) in _KINDS.items():
        kind: Parser = kinds.add_parser(name, help=title, description=title)
        kind.set_defaults(parser=kind)
        kind.usage = "%(prog)s [OPTION ...]"
        _add_choice(kind, "--algorithms", ops.algorithm_names(), default)
        _add_choice(kind, "--geometries", geometries)
        _add_choice(kind, "--passes", passes)
        add_device_options(kind)
        kind.add_argument("--dtype", choices=DTYPES, default="float32", help=shown)
        kind.add_argument("--threads", type=count, default=1, metavar="N", help=f"xpcnn's and BLAS's {shown}")
        kind.add_argument("--repeat", type=count, default=7, metavar="N", help=f"rounds {shown}")
        kind.add_argument("--json", type=path, metavar="FILE", help="keep the results (default: nowhere)")


def _add_choice(parser: Parser, option: str, known: Iterable[str], default: tuple[str, ...] = ()) -> None:
    """Add an option that takes several of the known names, with commas between them; by default all."""
    names = tuple(known)

    def chosen(text: str) -> tuple[str, ...]:
        for name in text.split(","):
            if name not in names:
                raise argparse.ArgumentTypeError(f"{name!r} is unknown; there are {', '.join(names)}")
        return tuple(dict.fromkeys(text.split(",")))

    told = f"of {', '.join(names)} (default: {', '.join(default) or 'all'})"
    parser.add_argument(option, type=chosen, metavar="A,B,...", default=default or names, help=told)


def run(args: argparse.Namespace) -> int:
    """Measure problem after problem, and return the exit status.

    After each problem its table is printed and the file is written, so that an interrupted run keeps what it
    measured.
    """
    backend = choose_backend(args.backend, args.device)
    if args.json is not None:
        make_folder(args.json.parent)
    facts = backend.device_info()
    settings = {
        "benchmark": args.kind,
        "backend": backend.name,
        "dtype": args.dtype,
        "threads": args.threads,
        "rounds": args.repeat,
        "tf32": facts.pop("tf32"),
        "workspace_limit": ops.get_workspace_limit() or backend.default_workspace,
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
    }
    record = {"machine": {**hardware(), **facts}, "versions": versions(), "settings": settings}
    for title, values in record.items():
        print(f"{title:<10} {', '.join(f'{name} {value}' for name, value in values.items())}", flush=True)
    _, _, geometries, _, build = _KINDS[args.kind]
    results: list[Row] = []
    status = 0
    try:
        with held_to(backend, args.threads):
            for name in args.geometries:
                rows: list[Row] = []
                try:
                    problem = build(name, geometries[name], backend, args.dtype, args.algorithms, args.passes)
                    measure(problem, args.repeat, rows)
                finally:
                    results += rows
                    if rows:
                        print(f"\n{table(rows)}", flush=True)
                    if args.json is not None and results:
                        write_json(args.json, {**record, "results": results})
    except KeyboardInterrupt as error:
        print("\ninterrupted; what is above was measured")
        status = status_of(error)
    if args.json is not None and results:
        print(f"\njson       {printable(args.json)}")
    return status or int(any(row.get("wrong") for row in results))


# -- measuring ---------------------------------------------------------------------------


def measure(problem: Problem, rounds: int, rows: list[Row]) -> None:
    """Verify every candidate and time them all; after Ctrl-C `rows` has what was measured until then."""
    calls: dict[Candidate, Callable[[], Any]] = {}
    found: dict[Candidate, Row] = {}
    seconds: dict[Candidate, list[float]] = {}
    for one in problem.candidates:
        work = problem.operations(one.pass_name)
        found[one] = {"geometry": problem.name, "description": problem.description, "operations": work}
        found[one] |= {"algorithm": one.algorithm, "pass_name": one.pass_name, "variant": one.variant}
        try:
            calls[one], found[one]["error"] = problem.verified(one)
            if get_backend().name == "numpy":
                peak, kept = traced_memory(calls[one])
                found[one] |= {"peak_bytes": peak, "workspace_bytes": peak - kept}
        except XpcnnError as error:
            found[one] |= {"reason": str(error), "wrong": isinstance(error, WrongResultError)}
            rows.append(found[one])
    try:
        interleaved(calls, rounds, seconds)
    finally:
        for one, times in seconds.items():
            low, middle, high = (1e3 * value for value in quartiles(times))
            found[one] |= {"ms": middle, "low_ms": low, "high_ms": high, "rounds": len(times)}
            rows.append({**found[one], "gflops": found[one]["operations"] / middle / 1e6})


def interleaved(
    calls: Mapping[Any, Callable[[], Any]],
    rounds: int,
    into: dict[Any, list[float]],
    turn: float = _TURN_SECONDS,
) -> None:
    """Time calls in turns, and add the seconds of each round to `into`, which is filled on the way.

    All have a turn in each round, so clock drift affects all of them equally. Every call must wait for its
    device itself. One call of each, which is not counted, warms it up and says how often it is repeated.
    """
    repeats = {name: math.ceil(turn / max(_seconds(call, 1), 1e-6)) for name, call in calls.items()}
    for _ in range(rounds):
        for name, call in calls.items():
            into.setdefault(name, []).append(_seconds(call, max(1, repeats[name])))


def _seconds(call: Callable[[], Any], repeats: int) -> float:
    begun = time.perf_counter()
    for _ in range(repeats):
        call()
    return (time.perf_counter() - begun) / repeats


def quartiles(values: Sequence[float]) -> tuple[float, float, float]:
    """Return the first quartile, the median and the third quartile.

    Examples
    --------
    >>> quartiles([3.0, 1.0, 2.0, 5.0, 4.0]), quartiles([2.0])
    ((2.0, 3.0, 4.0), (2.0, 2.0, 2.0))
    """
    low, middle, high = np.percentile(values, (25, 50, 75)).tolist()
    return low, middle, high


def traced_memory(call: Callable[[], Any]) -> tuple[int, int]:
    """Return the most bytes that NumPy held at one time during a call, and those of its result."""
    tracemalloc.start()
    try:
        before, _ = tracemalloc.get_traced_memory()
        tracemalloc.reset_peak()
        result = call()
        after, peak = tracemalloc.get_traced_memory()
        del result
    finally:
        tracemalloc.stop()
    return peak - before, max(0, after - before)


@contextmanager
def held_to(backend: Backend, threads: int) -> Iterator[None]:
    """Compute on `backend` with so many threads: xpcnn's own, BLAS's and OpenMP's."""
    from threadpoolctl import threadpool_limits

    context = backend.execution_context() if threads == 1 else backend.activated()
    with use_num_threads(threads), threadpool_limits(limits=threads), context:
        yield


# -- the table ---------------------------------------------------------------------------


def table(rows: Sequence[Row]) -> str:
    """Return the results of one problem as a table, with the reasons of those that were not timed below.

    The spread is half the distance of the quartiles, relative to the median; the workspace is the most memory
    at one time, without the result.

    Examples
    --------
    >>> what = {"geometry": "tiny", "description": "one image", "operations": 2e6, "pass_name": "forward"}
    >>> one = {"algorithm": "im2col", "ms": 1.0, "low_ms": 0.9, "high_ms": 1.1, "gflops": 2.0}
    >>> print(table([{**what, **one}, {**what, "algorithm": "fft", "reason": "is for larger kernels"}]))
    tiny: one image; 2 MFLOP
      algorithm     pass     ms  spread  GFLOP/s  x floor  workspace, MiB
         im2col  forward  1.000     10%      2.0
      fft forward: is for larger kernels
    """
    lines = [("algorithm", "pass", "ms", "spread", "GFLOP/s", "x floor", "workspace, MiB")]
    floors = {row["pass_name"]: row["ms"] for row in rows if row["algorithm"] == FLOOR}
    reasons: dict[tuple[str, str], list[str]] = {}
    for row in rows:
        name, variant = row["algorithm"], row.get("variant")
        if "reason" in row:
            reasons.setdefault((name, row["reason"]), []).append(row["pass_name"])
            continue
        ms = row["ms"]
        ratio = f"{ms / floors[row['pass_name']]:.2f}" if row["pass_name"] in floors else ""
        memory = f"{row['workspace_bytes'] / (1 << 20):.2f}" if "workspace_bytes" in row else ""
        figures = f"{ms:.3f}", f"{(row['high_ms'] - row['low_ms']) / 2 / ms:.0%}", f"{row['gflops']:.1f}"
        lines.append((f"{name} ({variant})" if variant else name, row["pass_name"], *figures, ratio, memory))
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    work = max(row["operations"] for row in rows) / 1e6
    text = [f"{rows[0]['geometry']}: {rows[0]['description']}; {work:.4g} MFLOP"]
    for line in lines:
        cells = (cell.rjust(width) for cell, width in zip(line, widths, strict=True))
        text.append(f"  {'  '.join(cells)}".rstrip())
    text += [f"  {name} {', '.join(passes)}: {reason}" for (name, reason), passes in reasons.items()]
    return "\n".join(text)
