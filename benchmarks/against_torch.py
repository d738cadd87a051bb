"""Time training steps, inference and convolutions on NumPy beside PyTorch eager, on the same threads.

    python -m benchmarks.against_torch --json cpu.json
    XPCNN_NATIVE=0 python -m benchmarks.against_torch --json portable.json   # without compiled kernels
    python -m benchmarks.against_torch --rows simple,conv --threads 2 --rounds 5
    python -m benchmarks.against_torch --show cpu.json --markdown

Results are compared before anything is timed. Contenders take turns, round by round, so clock drift affects
all of them equally. Ratios are of medians, to the better of PyTorch's two memory layouts; the spread is the
quartiles of the ratios of the rounds. Each contender has a process of its own, with the allocator as its
library sets it up; PyTorch gets new ones every three rounds. Ctrl-C ends a run early, and keeps the rows that
were measured.
"""

from __future__ import annotations

import argparse
import json
import math
import sys
import time
from collections.abc import Iterable, Mapping, Sequence
from contextlib import ExitStack
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.alternate import DifferentError, Seconds, Worker, in_turns, start
from benchmarks.compare_commits import counts
from benchmarks.peak_memory import MEGABYTE
from benchmarks.worker import WORKS
from xpcnn.cli.bench import quartiles
from xpcnn.cli.machine import hardware, versions
from xpcnn.io import write_json

OURS, LAYOUTS, STRAIGHTFORWARD, LINEAR = "xpcnn", ("NCHW", "channels-last"), "straightforward", "linear"
CONVOLUTIONS = [name for name in WORKS if name.startswith("conv-")]
MEMORY = {"memory-deep": "deep_convnet", "memory-resnet": "resnet18-cifar"}
"""The rows of memory of a training step, and their names in `MODELS`."""
EVALUATION, EVALUATED, IMAGES = "evaluation", "deep_convnet", 10_000
CONTESTS = ["simple", "deep", "inference", "resnet", "resnet20", *CONVOLUTIONS, STRAIGHTFORWARD]
ROWS = [*CONTESTS, LINEAR, *MEMORY, EVALUATION]
WANTED: Mapping[str, tuple[float, float]] = {
    "simple": (0.85, 0.90),
    "deep": (0.90, 0.95),
    "inference": (0.90, 0.95),
    "resnet": (0.90, 0.95),
    "resnet20": (0.90, 0.95),
    "conv": (0.75, 0.75),
}
"""The ratios to reach, by row, on one thread and on two; of convolutions their geometric mean."""
WANTED_MEMORY, WANTED_EVALUATION = "≤ 1.3", "≤ 50 MB"

TURN_SECONDS, PAUSE_SECONDS = 0.5, 0.05
ROUNDS_OF_A_PROCESS = 3
"""PyTorch's time depends on where its process finds its memory: after so many rounds it gets another one."""

Results = list[dict[str, Any]]


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--rows", type=chosen, default=ROWS, help=f"of conv, {', '.join(ROWS)} (default: all)"
    )
    parser.add_argument("--threads", type=counts, default=[1, 2], metavar="1,2", help="(default: 1,2)")
    parser.add_argument("--rounds", type=int, default=15, help="(default: %(default)s)")
    parser.add_argument("--json", type=Path, metavar="FILE", help="keep the results here")
    parser.add_argument("--markdown", action="store_true", help="print the tables in Markdown")
    parser.add_argument("--show", type=Path, metavar="FILE", help="measure nothing: print what was kept")
    options = parser.parse_args(arguments)
    if options.show is not None:
        record, status = json.loads(options.show.read_text("utf-8")), 0
    else:
        record = new_record(options.threads, options.rounds)
        status = measure(options.rows, options.json, record)
    print(made_on(record), end="\n\n")
    for table in filter(None, (beside_torch(record["results"]), by_itself(record["results"]))):
        print(markdown(table) if options.markdown else text(table), end="\n\n")
    return status


def chosen(text: str) -> list[str]:
    """Return the rows that are named, with commas between them; ``conv`` names several."""
    found = set()
    for part in text.split(","):
        several = {row for row in ROWS if row == part or row.startswith(f"{part}-")}
        if not several:
            raise argparse.ArgumentTypeError(f"{part!r} is no row; there are conv, {', '.join(ROWS)}")
        found |= several
    return [row for row in ROWS if row in found]


# -- measuring -----------------------------------------------------------------------------


def new_record(threads: Sequence[int], rounds: int) -> dict[str, Any]:
    """Return what a file keeps, without results."""
    settings = {"benchmark": "against PyTorch", "dtype": "float32", "rounds": rounds}
    settings["threads"] = list(threads)
    return {"machine": hardware(), "versions": versions(), "settings": settings, "results": Results()}


def measure(rows: Sequence[str], path: Path | None, record: dict[str, Any]) -> int:
    """Add the results of rows to a record, and return the exit status.

    After each row the file at `path` is written, so that a run that is ended has kept its results.
    """
    begun, status, settings = time.perf_counter(), 0, record["settings"]
    for threads in settings["threads"]:
        for row in rows:
            log(f"{row}, {threads} thread{'s' if threads > 1 else ''}")
            try:
                record["results"].append(measured(row, threads, settings["rounds"]))
            except DifferentError as error:
                log(f"  DIFFERENT, not timed: {error}")
                status = 1
            except KeyboardInterrupt:
                log("interrupted; what was measured is kept")
                return 130
            if path is not None:
                settings["date"] = datetime.now(UTC).isoformat(timespec="seconds")
                settings["seconds"] = round(time.perf_counter() - begun)
                write_json(path, record)
    return status


def measured(row: str, threads: int, rounds: int) -> dict[str, Any]:
    """Return what is kept of a row."""
    if row == LINEAR:
        return scaling(threads, rounds)
    return contest(row, threads, rounds) if row in CONTESTS else memory(row, threads)


def contest(row: str, threads: int, rounds: int) -> dict[str, Any]:
    """Return what is kept of a row: milliseconds of each contender, and the ratio to the best rival."""
    work = WORKS["deep" if row == STRAIGHTFORWARD else row]
    rivals = (STRAIGHTFORWARD,) if row == STRAIGHTFORWARD else LAYOUTS
    seconds: Seconds = {}
    off = []
    with Worker(OURS, threads) as ours:
        for done in range(0, rounds, ROUNDS_OF_A_PROCESS):
            with ExitStack() as processes:
                workers = {OURS: ours}
                workers |= {name: processes.enter_context(Worker(name, threads)) for name in rivals}
                off.append(start(work, workers, ours))
                some = min(ROUNDS_OF_A_PROCESS, rounds - done)
                in_turns(workers, some, TURN_SECONDS, PAUSE_SECONDS, into=seconds)
    title = f"{work.title.rpartition(', batch')[0]}, beside straightforward float64 NumPy"
    found = result(row, title if row == STRAIGHTFORWARD else work.title, threads, seconds)
    times = ", ".join(f"{name} {ms:.1f} ms" for name, ms in found["ms"].items())
    log(f"  equal to {max(off):.0e}; {times}; ratio {found['ratio']:.2f}")
    return {**found, "off": max(off)}


def result(row: str, title: str, threads: int, seconds: Seconds) -> dict[str, Any]:
    """Return medians, quartiles, and the ratio of ours to the best of the others."""
    known = {name: [1e3 * value for value in quartiles(values)] for name, values in seconds.items()}
    rival = min((name for name in seconds if name != OURS), key=lambda name: known[name][1])
    pairs = zip(seconds[OURS], seconds[rival], strict=True)
    low, _, high = quartiles([ours / theirs for ours, theirs in pairs])
    return {
        "kind": "contest",
        "row": row,
        "work": title,
        "threads": threads,
        "rounds": len(seconds[OURS]),
        "ms": {name: known[name][1] for name in seconds},
        "low_ms": {name: known[name][0] for name in seconds},
        "high_ms": {name: known[name][2] for name in seconds},
        "rival": rival,
        "ratio": known[OURS][1] / known[rival][1],
        "low_ratio": low,
        "high_ratio": high,
    }


def scaling(threads: int, rounds: int) -> dict[str, Any]:
    """Return what is kept of inference of 50, 100, 200 and 400 images, each in one batch."""
    works = {name.partition("-")[2]: work for name, work in WORKS.items() if name.startswith(f"{LINEAR}-")}
    with ExitStack() as processes:
        workers = {count: processes.enter_context(Worker(OURS, threads)) for count in works}
        for count, worker in workers.items():
            worker.ask("prepare", OURS, works[count], None)
        seconds = in_turns(workers, rounds, TURN_SECONDS, PAUSE_SECONDS)
    ms = {count: 1e3 * quartiles(values)[1] for count, values in seconds.items()}
    line = fit(list(map(int, ms)), list(ms.values()))
    what = {"kind": "scaling", "row": LINEAR, "work": "deep_convnet, inference", "threads": threads}
    return {**what, "rounds": rounds, "ms": ms, **line}


def memory(row: str, threads: int) -> dict[str, Any]:
    """Return what is kept of a row of memory, measured in a process of its own."""
    what: dict[str, Any] = {"row": row, "threads": threads}
    with Worker(OURS, threads) as process:
        if row == EVALUATION:
            megabytes = process.ask("evaluation_memory", EVALUATED, IMAGES) / MEGABYTE
            title = f"{EVALUATED}, evaluating {IMAGES:,} images: memory"
            return {"kind": "evaluation", **what, "work": title, "megabytes": megabytes}
        peak, contexts = process.ask("step_memory", MEMORY[row])
    title = WORKS[row.removeprefix("memory-")].title
    what |= {"work": title, "peak": peak, "contexts": contexts, "ratio": peak / contexts}
    return {"kind": "memory", **what}


def fit(images: Sequence[int], ms: Sequence[float]) -> dict[str, float]:
    """Return a line through times, the largest relative distance from it, and the exponent of a power law.

    Examples
    --------
    >>> {name: round(value, 6) for name, value in fit((50, 100, 200), (6.0, 11.0, 21.0)).items()}
    {'ms_per_image': 0.1, 'ms_at_0': 1.0, 'off': 0.0, 'exponent': 0.903677}
    """
    counted, times = np.array(images, float), np.array(ms)
    slope, begin = np.polyfit(counted, times, 1, w=1 / times)  # so that relative distances are made small
    off = np.abs((slope * counted + begin) / times - 1).max()
    exponent = np.polyfit(np.log(counted), np.log(times), 1)[0]
    found = {"ms_per_image": slope, "ms_at_0": begin, "off": off, "exponent": exponent}
    return {name: float(value) for name, value in found.items()}


def log(line: str) -> None:
    """Print progress on stderr."""
    print(line, file=sys.stderr, flush=True)


# -- tables --------------------------------------------------------------------------------


def made_on(record: Mapping[str, Any]) -> str:
    """Return the processor, BLAS and kernels of a record in a line; its file may be of an earlier version."""
    machine, known, rounds = record["machine"], record["versions"], record["settings"]["rounds"]
    cpu = f"{machine['processor']}, {machine['cores']} cores"
    libraries = f"NumPy {known['numpy']} with {known['blas']}, PyTorch {known.get('torch', 'absent')}"
    return f"{cpu}; {libraries}; compiled kernels: {machine.get('kernels', 'none')}; {rounds} rounds"


def beside_torch(results: Results) -> list[list[str]]:
    """Return the contests with PyTorch, and the geometric mean of the convolutions' ratios; header first."""
    contests = [one for one in results if one["kind"] == "contest" and one["row"] != STRAIGHTFORWARD]
    header = [
        "work",
        "threads",
        "xpcnn, ms",
        "PyTorch NCHW, ms",
        "channels-last, ms",
        "ratio",
        "spread",
        "wanted",
    ]
    lines = [header]
    for one in in_order(contests):
        cells = [one["work"], str(one["threads"]), *(digits(one["ms"][name]) for name in (OURS, *LAYOUTS))]
        cells += [f"{one['ratio']:.2f}", f"{one['low_ratio']:.2f} – {one['high_ratio']:.2f}"]
        lines.append([*cells, limit(one["row"], one["threads"])])
    for threads in sorted({one["threads"] for one in contests}):
        own = [one["ratio"] for one in contests if one["row"] in CONVOLUTIONS and one["threads"] == threads]
        if len(own) == len(CONVOLUTIONS):
            mean = f"{math.prod(own) ** (1 / len(own)):.2f}"
            name = "3×3 convolutions, geometric mean"
            lines.append([name, str(threads), "", "", "", mean, "", limit("conv", threads)])
    return lines if lines[1:] else []


def by_itself(results: Results) -> list[list[str]]:
    """Return what is not measured beside PyTorch."""
    lines = [["work", "threads", "measured", "wanted"]]
    for one in in_order(results):
        match one:
            case {"kind": "contest", "row": "straightforward", "ms": ms}:
                faster = f"{ms[STRAIGHTFORWARD] / ms[OURS]:.1f} times faster"
                spread = f"{1 / one['high_ratio']:.1f} – {1 / one['low_ratio']:.1f}"
                said = (
                    f"{digits(ms[STRAIGHTFORWARD])} ms and {digits(ms[OURS])} ms: {faster} ({spread})",
                    "≥ 7",
                )
            case {"kind": "scaling", "ms": ms}:
                times = f"{', '.join(map(digits, ms.values()))} ms for {', '.join(ms)} images"
                line = f"{one['ms_per_image']:.3g} ms an image, within {one['off']:.0%} of a line"
                said = f"{times}: {line}; as n to the power of {one['exponent']:.2f}", "linear"
            case {"kind": "memory"}:
                peak, contexts = one["peak"] / MEGABYTE, one["contexts"] / MEGABYTE
                said = f"peak {peak:.0f} MB, contexts {contexts:.0f} MB: {one['ratio']:.2f}", WANTED_MEMORY
            case {"kind": "evaluation"}:
                said = f"{one['megabytes']:.0f} MB above rest", WANTED_EVALUATION
            case _:
                continue
        lines.append([one["work"], str(one["threads"]), *said])
    return lines if lines[1:] else []


def in_order(results: Iterable[dict[str, Any]]) -> Results:
    return sorted(results, key=lambda one: (ROWS.index(one["row"]), one["threads"]))


def limit(row: str, threads: int) -> str:
    return f"≤ {WANTED[row][threads - 1]:.2f}" if row in WANTED and threads <= 2 else ""


def digits(value: float) -> str:
    """Return three digits.

    Examples
    --------
    >>> digits(1234.5), digits(123.4), digits(12.34), digits(1.234)
    ('1,234', '123', '12.3', '1.23')
    """
    return f"{value:,.{max(0, min(3, 2 - math.floor(math.log10(value))))}f}"


def markdown(table: list[list[str]]) -> str:
    """Return a table in Markdown."""
    lines = [f"| {' | '.join(cells)} |" for cells in table]
    return "\n".join([lines[0], f"|{'---|' * len(table[0])}", *lines[1:]])


def text(table: list[list[str]]) -> str:
    """Return a table in columns."""
    columns = [[cell.ljust(max(map(len, column))) for cell in column] for column in zip(*table, strict=True)]
    return "\n".join("  ".join(cells).rstrip() for cells in zip(*columns, strict=True))


if __name__ == "__main__":
    sys.exit(main())
