"""Time every convolution algorithm, or whole models.

Every result is compared with an independent answer before it is timed. Candidates are interleaved round by
round, so clock drift affects all of them equally; the table shows medians and their spread.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable, Iterable, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from xpcnn import ops
from xpcnn.backend import Backend
from xpcnn.cli import bench_cases
from xpcnn.cli.bench_cases import CONVOLUTIONS, FLOOR, MODEL_PASSES, MODELS, PASSES
from xpcnn.cli.bench_measure import (
    Candidate,
    Problem,
    WrongResultError,
    held_to,
    interleaved,
    quartiles,
    traced_memory,
)
from xpcnn.cli.machine import hardware, versions
from xpcnn.cli.options import DTYPES, add_device_options, choose_backend, count
from xpcnn.cli.output import shown
from xpcnn.cli.parser import Parser
from xpcnn.errors import CheckpointError, XpcnnError
from xpcnn.io import write_json
from xpcnn.ops import get_workspace_limit
from xpcnn.train.interrupt import status_of

__all__ = ["add_arguments", "run"]

Rows = list[dict[str, Any]]
"""A result each: what was measured, or the reason why nothing was."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare what can be measured, each with its options."""
    kinds = parser.add_subparsers(
        dest="kind", metavar="WHAT", required=True, parser_class=Parser, help="each has its own help"
    )
    algorithms = ops.algorithm_names()
    conv = _kind(kinds, "conv", "convolution: algorithm by pass, beside the matrix product it comes down to")
    _add_choice(conv, "--algorithms", algorithms, algorithms, "all")
    _add_choice(conv, "--geometries", CONVOLUTIONS, tuple(CONVOLUTIONS), "all")
    _add_choice(conv, "--passes", PASSES, PASSES, "all")
    model = _kind(kinds, "model", "a training step and inference of whole models")
    _add_choice(model, "--algorithms", algorithms, ("auto",), "auto")
    _add_choice(model, "--geometries", MODELS, tuple(MODELS), "all")
    _add_choice(model, "--passes", MODEL_PASSES, MODEL_PASSES, "all")


def _kind(kinds: Any, name: str, title: str) -> Parser:
    parser: Parser = kinds.add_parser(name, help=title, description=title[0].upper() + title[1:] + ".")
    parser.set_defaults(parser=parser)
    parser.usage = "%(prog)s [OPTION ...]"
    add_device_options(parser)
    parser.add_argument("--dtype", choices=DTYPES, default="float32", help="(default: %(default)s)")
    parser.add_argument(
        "--threads", type=count, default=1, metavar="N", help="of xpcnn and of BLAS (default: %(default)s)"
    )
    parser.add_argument("--repeat", type=count, default=7, metavar="N", help="rounds (default: %(default)s)")
    parser.add_argument("--json", type=Path, metavar="FILE", help="keep the results here (default: nowhere)")
    return parser


def _add_choice(
    parser: Parser, option: str, known: Iterable[str], default: tuple[str, ...], words: str
) -> None:
    """Add an option that takes several of the names known, with commas between them."""
    names = tuple(known)

    def chosen(text: str) -> tuple[str, ...]:
        for name in text.split(","):
            if name not in names:
                raise argparse.ArgumentTypeError(f"{name!r} is unknown; there are {', '.join(names)}")
        return tuple(dict.fromkeys(text.split(",")))

    text = f"of {', '.join(names)} (default: {words})"
    parser.add_argument(option, type=chosen, metavar="A,B,...", default=default, help=text)


def run(args: argparse.Namespace) -> int:
    """Measure problem after problem, and return the exit status.

    After each problem its table is printed and the file is written, so that an interrupted run keeps what it
    measured.
    """
    backend = choose_backend(args.backend, args.device)
    if args.json is not None:
        _make_folder(args.json.parent)
    record = _record(args, backend)
    _introduce(record)
    begun, interrupted = time.perf_counter(), None
    try:
        with held_to(backend, args.threads):
            for name in args.geometries:
                rows: Rows = []
                try:
                    _measure(_problem(args, name, backend), backend, args.repeat, rows)
                finally:
                    record["results"] += rows
                    record["settings"]["seconds"] = round(time.perf_counter() - begun, 1)
                    if rows:
                        print(f"\n{table(rows)}", flush=True)
                    if args.json is not None and record["results"]:
                        write_json(args.json, record)
    except KeyboardInterrupt as error:
        interrupted = error
        print("\ninterrupted; what is above was measured")
    wrong = [row for row in record["results"] if row.get("wrong")]
    if args.json is not None and record["results"]:
        print(f"\njson       {shown(args.json)}")
    for row in wrong:
        print(f"WRONG      {row['algorithm']} {row['pass_name']} of {row['geometry']}")
    return int(bool(wrong)) if interrupted is None else status_of(interrupted)


def _make_folder(folder: Path) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise CheckpointError(f"cannot make the folder {folder}: {error.strerror}") from error


def _problem(args: argparse.Namespace, name: str, backend: Backend) -> Problem:
    if args.kind == "conv":
        options = args.dtype, args.algorithms, args.passes
        return bench_cases.convolution(name, CONVOLUTIONS[name], backend, *options)
    return bench_cases.model(name, MODELS[name], args.dtype, args.algorithms, args.passes)


def _record(args: argparse.Namespace, backend: Backend) -> dict[str, Any]:
    facts = backend.device_info()
    settings = {
        "benchmark": args.kind,
        "backend": backend.name,
        "dtype": args.dtype,
        "threads": args.threads,
        "tf32": facts.pop("tf32"),
        "workspace_limit": get_workspace_limit() or backend.default_workspace,
        "rounds": args.repeat,
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
    }
    return {"machine": {**hardware(), **facts}, "versions": versions(), "settings": settings, "results": []}


def _introduce(record: dict[str, Any]) -> None:
    machine, settings = record["machine"], record["settings"]
    device = "" if machine["device"] == "cpu" else f", {machine['device']}"
    print(f"machine    {machine['processor']}, {machine['cores']} cores{device}")
    print(f"versions   {', '.join(f'{name} {found}' for name, found in record['versions'].items() if found)}")
    counts = (
        f"{settings[name]} {name[: -1 if settings[name] == 1 else None]}" for name in ("threads", "rounds")
    )
    tf32 = "on" if settings["tf32"] else "off"
    print(
        f"settings   {settings['backend']}, {settings['dtype']}, {', '.join(counts)}, TF32 {tf32}", flush=True
    )


def _measure(problem: Problem, backend: Backend, rounds: int, rows: Rows) -> None:
    """Verify every candidate and time them all; Ctrl-C leaves in `rows` what was measured until then."""
    ready: dict[Candidate, tuple[Callable[[], Any], dict[str, Any]]] = {}
    failed: dict[Candidate, dict[str, Any]] = {}
    seconds: dict[Candidate, list[float]] = {}
    try:
        for one in problem.candidates:
            try:
                call, error = problem.verified(one)
                known: dict[str, Any] = {} if error is None else {"error": error}
                if backend.name == "numpy":
                    peak, kept = traced_memory(call)
                    known |= {"peak_bytes": peak, "workspace_bytes": peak - kept}
                ready[one] = call, known
            except XpcnnError as error:
                failed[one] = {"reason": str(error), "wrong": isinstance(error, WrongResultError)}
        interleaved({one: call for one, (call, _) in ready.items()}, rounds, seconds)
    finally:
        floors = {one.pass_name: quartiles(seconds[one])[1] for one in seconds if one.algorithm == FLOOR}
        for one in problem.candidates:
            found = failed.get(one)
            if one in seconds:
                low, middle, high = (1e3 * value for value in quartiles(seconds[one]))
                found = {"ms": middle, "low_ms": low, "high_ms": high, "rounds": len(seconds[one])}
                found |= {"gflops": problem.operations(one.pass_name) / middle / 1e6, **ready[one][1]}
                if one.pass_name in floors:
                    found["floor_ratio"] = middle / floors[one.pass_name] / 1e3
            if found is not None:
                work = problem.operations(one.pass_name)
                what = {"geometry": problem.name, "description": problem.description, "operations": work}
                rows.append({**what, "algorithm": one.algorithm, "pass_name": one.pass_name, **found})
                if one.variant:
                    rows[-1]["variant"] = one.variant


# -- the table ---------------------------------------------------------------------------


def table(rows: Sequence[dict[str, Any]]) -> str:
    """Return the results of one problem as a table, with the reasons of those that were not timed below.

    Columns that nothing is known for are left out. The spread is half the distance of the quartiles, relative
    to the median; the workspace is the most memory at one time, without the result.

    Examples
    --------
    >>> what = {"geometry": "tiny", "description": "one image", "operations": 2e6, "pass_name": "forward"}
    >>> one = {**what, "algorithm": "im2col", "ms": 1.0, "low_ms": 0.9, "high_ms": 1.1, "gflops": 2.0}
    >>> print(table([one, {**what, "algorithm": "fft", "reason": "is for larger kernels"}]))
    tiny: one image; 2 MFLOP
      algorithm  pass        ms  spread  GFLOP/s
      im2col     forward  1.000     10%      2.0
      fft: is for larger kernels
    """
    lines = [["algorithm", "pass", "ms", "spread", "GFLOP/s", "x floor", "workspace"]]
    for row in rows:
        if "ms" in row:
            variant, ratio, workspace = (
                row.get(name) for name in ("variant", "floor_ratio", "workspace_bytes")
            )
            cells = [f"{row['algorithm']} ({variant})" if variant else row["algorithm"], row["pass_name"]]
            cells += [f"{row['ms']:.{3 if row['ms'] < 10 else 1}f}"]
            cells += [f"{(row['high_ms'] - row['low_ms']) / 2 / row['ms']:.0%}", f"{row['gflops']:.1f}"]
            cells += ["" if ratio is None else f"{ratio:.2f}", "" if workspace is None else _size(workspace)]
            lines.append(cells)
    most = max(row["operations"] for row in rows)
    work = f"{most / 1e9:.3g} GFLOP" if most >= 1e8 else f"{most / 1e6:.3g} MFLOP"
    title = f"{rows[0]['geometry']}: {rows[0]['description']}; {work}"
    return "\n".join([title, *(f"  {line}" for line in [*_aligned(lines), *_reasons(rows)])])


def _size(count: float) -> str:
    for unit, factor in (("GiB", 1 << 30), ("MiB", 1 << 20), ("KiB", 1 << 10)):
        if count >= factor:
            return f"{count / factor:.1f} {unit}"
    return f"{count:.0f} B"


def _reasons(rows: Sequence[dict[str, Any]]) -> list[str]:
    """Return why some were not timed: once, where the reason is that of all their passes."""
    passes: dict[tuple[str, str], list[str]] = {}
    for row in rows:
        if "reason" in row:
            reason = row["reason"].removeprefix(f"conv2d: algorithm '{row['algorithm']}' ")
            reason = reason.removesuffix("; algorithm='auto' picks one that can")
            passes.setdefault((row["algorithm"], reason), []).append(row["pass_name"])
    every = len({row["pass_name"] for row in rows})
    lines = []
    for (algorithm, reason), some in passes.items():
        which = "" if len(some) == every else f" {', '.join(some)}"
        lines.append(f"{algorithm}{which}: {reason}")
    return lines


def _aligned(lines: list[list[str]]) -> list[str]:
    """Return rows of cells as lines, without the columns that are empty below their header."""
    columns = [column for column in zip(*lines, strict=True) if any(column[1:])]
    widths = [max(map(len, column)) for column in columns]
    return [
        "  ".join(
            cell.ljust(width) if i < 2 else cell.rjust(width)
            for i, (cell, width) in enumerate(zip(cells, widths, strict=True))
        ).rstrip()
        for cells in zip(*columns, strict=True)
    ]
