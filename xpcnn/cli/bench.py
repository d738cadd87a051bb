"""Time every convolution algorithm, or whole models.

Every result is compared with an independent answer before it is timed. Candidates are interleaved round by
round, so clock drift affects all of them equally; the table shows medians and their spread.
"""

from __future__ import annotations

import argparse
import math
import tracemalloc
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from timeit import timeit
from typing import Any

import numpy as np

from xpcnn import ops
from xpcnn.backend import Backend
from xpcnn.backend.threads import use_num_threads
from xpcnn.cli import bench_cases as cases
from xpcnn.cli.bench_cases import FLOOR, Candidate, Problem, WrongResultError
from xpcnn.cli.machine import hardware, versions
from xpcnn.cli.options import DTYPES, Parser, add_shared, choose_backend, count, path
from xpcnn.cli.output import printable
from xpcnn.errors import XpcnnError
from xpcnn.io import make_folder, write_json
from xpcnn.train.interrupt import status_of

_CONV = "Convolution: algorithm by pass, beside the matrix product it comes down to."
_MODEL = "A training step and inference of whole models."
_Kind = tuple[str, Sequence[str], Mapping[str, Any], Sequence[str], Callable[..., Problem]]
_KINDS: dict[str, _Kind] = {
    "conv": (_CONV, (), cases.CONVOLUTIONS, cases.PASSES, cases.conv_problem),
    "model": (_MODEL, ("auto",), cases.MODELS, cases.MODEL_PASSES, cases.model_problem),
}
"""What each is, its algorithms by default (none stands for all), cases, passes, what builds a problem."""

_TURN_SECONDS = 0.01
"""A candidate's turn lasts about this long at least: quick calls are repeated in it."""

Row = dict[str, Any]
"""What was measured of a candidate, or the reason why nothing was."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare what can be measured, each with its options."""
    what = "each has its own help"
    kinds = parser.add_subparsers(dest="kind", metavar="WHAT", required=True, parser_class=Parser, help=what)
    shown = "(default: %(default)s)"
    for name, (title, algorithms, geometries, passes, _) in _KINDS.items():
        kind: Parser = kinds.add_parser(name, help=title, description=title, usage="%(prog)s [OPTION ...]")
        kind.set_defaults(parser=kind)
        _add_choice(kind, "--algorithms", ops.algorithm_names(), algorithms or ops.algorithm_names())
        _add_choice(kind, "--geometries", geometries, geometries)
        _add_choice(kind, "--passes", passes, passes)
        add_shared(kind, "--backend", "--device")
        kind.add_argument("--dtype", choices=DTYPES, default="float32", help=shown)
        kind.add_argument("--threads", type=count, default=1, metavar="N", help=f"xpcnn's and BLAS's {shown}")
        kind.add_argument("--repeat", type=count, default=7, metavar="N", help=f"rounds {shown}")
        kind.add_argument("--json", type=path, metavar="FILE", help="keep the results (default: nowhere)")


def _add_choice(parser: Parser, option: str, known: Iterable[str], default: Iterable[str]) -> None:
    """Add an option that takes several of the known names, with commas between them."""

    def chosen(text: str) -> list[str]:
        for name in text.split(","):
            if name not in known:
                raise argparse.ArgumentTypeError(f"{name!r} is unknown; there are {', '.join(known)}")
        return list(dict.fromkeys(text.split(",")))

    usual = ", ".join(default) if set(default) < set(known) else "all"
    what = f"of {', '.join(known)} (default: {usual})"
    parser.add_argument(option, type=chosen, metavar="A,B,...", default=list(default), help=what)


def run(args: argparse.Namespace) -> int:
    """Measure problem after problem, and return the exit status.

    After each problem its table is printed and the file is written, so an interrupt loses one problem at
    most.
    """
    backend = choose_backend(args.backend, args.device)
    if args.json is not None:
        make_folder(args.json.parent)
    facts = backend.device_info()
    limit, date = ops.get_workspace_limit() or backend.default_workspace, datetime.now(UTC)
    settings = {"benchmark": args.kind, "backend": backend.name, "dtype": args.dtype, "rounds": args.repeat}
    settings |= {"threads": args.threads, "tf32": facts.pop("tf32"), "workspace_limit": limit}
    settings["date"] = date.isoformat(timespec="seconds")
    record = {"machine": {**hardware(), **facts}, "versions": versions(), "settings": settings}
    for title, values in record.items():
        print(f"{title:<10} {', '.join(f'{name} {value}' for name, value in values.items())}", flush=True)
    *_, geometries, _, build = _KINDS[args.kind]
    algorithms = {*args.algorithms, FLOOR}
    results: list[Row] = []
    try:
        with held_to(backend, args.threads):
            for name in args.geometries:
                problem = build(name, geometries[name], backend, args.dtype)
                asked = [one for one in problem.candidates if one.algorithm in algorithms]
                asked = [one for one in asked if one.pass_name in args.passes]
                rows = measure(problem, asked, args.repeat, counts_memory=backend.name == "numpy")
                print(f"\n{table(rows)}", flush=True)
                results += rows
                if args.json is not None:
                    write_json(args.json, {**record, "results": results})
    except KeyboardInterrupt as error:
        print("\ninterrupted; what is above was measured")
        return status_of(error)
    if args.json is not None:
        print(f"\njson       {printable(args.json)}")
    return int(any(row.get("wrong") for row in results))


# -- measuring ---------------------------------------------------------------------------


def measure(problem: Problem, asked: Sequence[Candidate], rounds: int, counts_memory: bool) -> list[Row]:
    """Verify candidates, and time those that can do the problem and do it right."""
    rows: list[Row] = []
    calls = {}
    for place, one in enumerate(asked):
        row = {"geometry": problem.name, "description": problem.description, "algorithm": one.algorithm}
        work = {"pass_name": one.pass_name, "operations": problem.operations[one.pass_name]}
        rows.append({**row, **work, "variant": one.variant})
        try:
            calls[place], rows[place]["error"] = problem.verified(one)
        except XpcnnError as error:
            rows[place] |= {"reason": str(error), "wrong": isinstance(error, WrongResultError)}
            continue
        if counts_memory:
            peak, kept = traced_memory(calls[place])
            rows[place] |= {"peak_bytes": peak, "workspace_bytes": peak - kept}
    for place, seconds in interleaved(calls, rounds).items():
        low, middle, high = (1e3 * value for value in quartiles(seconds))
        gflops = rows[place]["operations"] / middle / 1e6
        rows[place] |= {"ms": middle, "low_ms": low, "high_ms": high, "gflops": gflops}
    return rows


def interleaved(
    calls: Mapping[Any, Callable[[], Any]], rounds: int, turn: float = _TURN_SECONDS
) -> dict[Any, list[float]]:
    """Return the seconds of calls, round by round.

    All have a turn in each round, so clock drift affects all of them equally. Every call must wait for its
    device itself. One call of each, which is not counted, warms it up and says how often it is repeated.
    """
    repeats = {name: math.ceil(turn / max(_seconds(call, 1), 1e-6)) or 1 for name, call in calls.items()}
    found: dict[Any, list[float]] = {name: [] for name in calls}
    for _ in range(rounds):
        for name, call in calls.items():
            found[name].append(_seconds(call, repeats[name]))
    return found


def _seconds(call: Callable[[], Any], repeats: int) -> float:
    return timeit(call, number=repeats) / repeats


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

_TITLES = ("algorithm", "pass", "ms", "spread", "GFLOP/s", "x floor", "workspace, MiB")


def table(rows: Sequence[Row]) -> str:
    """Return the results of one problem as a table, with the reasons of those that were not timed below.

    The spread is half the distance of the quartiles, relative to the median; the workspace is the most memory
    at one time, without the result.

    Examples
    --------
    >>> what = {"geometry": "tiny", "description": "one image", "operations": 2e6, "pass_name": "forward"}
    >>> one = {"algorithm": "im2col", "ms": 1.0, "low_ms": 0.9, "high_ms": 1.1, "gflops": 2.0, "variant": ""}
    >>> print(table([{**what, **one}, {**what, "algorithm": "fft", "reason": "is for larger kernels"}]))
    tiny: one image; 2 MFLOP
      algorithm     pass     ms  spread  GFLOP/s  x floor  workspace, MiB
         im2col  forward  1.000     10%      2.0
      fft forward: is for larger kernels
    """
    timed = [row for row in rows if "ms" in row]
    floors = {row["pass_name"]: row["ms"] for row in timed if row["algorithm"] == FLOOR}
    lines = [_TITLES]
    for row in timed:
        ms, pass_name = row["ms"], row["pass_name"]
        name = f"{row['algorithm']} ({row['variant']})" if row["variant"] else row["algorithm"]
        spread = f"{(row['high_ms'] - row['low_ms']) / 2 / ms:.0%}"
        ratio = f"{ms / floors[pass_name]:.2f}" if pass_name in floors else ""
        memory = f"{row['workspace_bytes'] / (1 << 20):.2f}" if "workspace_bytes" in row else ""
        lines.append((name, pass_name, f"{ms:.3f}", spread, f"{row['gflops']:.1f}", ratio, memory))
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    work = max(row["operations"] for row in rows) / 1e6
    text = [f"{rows[0]['geometry']}: {rows[0]['description']}; {work:.4g} MFLOP"]
    text += [f"  {'  '.join(map(str.rjust, line, widths))}".rstrip() for line in lines]
    reasons: dict[tuple[str, str], list[str]] = {}
    for row in rows:
        if "reason" in row:
            reasons.setdefault((row["algorithm"], row["reason"]), []).append(row["pass_name"])
    text += [f"  {name} {', '.join(passes)}: {reason}" for (name, reason), passes in reasons.items()]
    return "\n".join(text)
