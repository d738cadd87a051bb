"""Time training steps, inference and convolutions on NumPy beside PyTorch eager, on the same threads.

    python -m benchmarks.against_torch --json docs/benchmarks/results/cpu.json
    python -m benchmarks.against_torch --rows simple,conv --threads 2 --rounds 5
    python -m benchmarks.against_torch --show docs/benchmarks/results/cpu.json --markdown
    python -m benchmarks.against_torch --profile deep_convnet

Results are compared before anything is timed. The contenders take turns, round by round, so that a machine
whose speed drifts slows them alike. Ratios are of medians, to the better of PyTorch's two memory layouts; the
spread is the quartiles of the ratios of the rounds. For each number of threads, xpcnn has a process of its
own, and PyTorch one after the other, a new one every three rounds; each library with the allocator as it sets
it up. Ctrl-C ends a run early, and keeps what was measured.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from benchmarks.peers import profile, rows, tables
from benchmarks.peers.worker import INTERRUPTED
from xpcnn.bench.machine import hardware, versions
from xpcnn.io import replacing

ROUNDS = 15

Results = list[dict[str, Any]]


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--rows", type=_rows, default=rows.NAMES, help=f"of {', '.join(rows.NAMES)} (default: all)"
    )
    parser.add_argument("--threads", type=_counts, default=(1, 2), metavar="1,2", help="(default: 1,2)")
    parser.add_argument("--rounds", type=int, default=ROUNDS, help="(default: %(default)s)")
    parser.add_argument("--json", type=Path, metavar="FILE", help="keep the results here")
    parser.add_argument("--markdown", action="store_true", help="print the tables in Markdown")
    parser.add_argument("--show", type=Path, metavar="FILE", help="measure nothing: print what was kept")
    parser.add_argument(
        "--profile", metavar="MODEL", choices=profile.MODELS, help="tell where a training step's time goes"
    )
    options = parser.parse_args(arguments)
    if options.profile is not None:
        print(profile.table_of(options.profile))
        return 0
    if options.show is not None:
        _print_tables(json.loads(options.show.read_text("utf-8"))["results"], options.markdown)
        return 0
    results, status = measured(options.rows, options.threads, options.rounds, options.json)
    _print_tables(results, options.markdown)
    return status


def _rows(text: str) -> tuple[str, ...]:
    try:
        return rows.chosen(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from error


def _counts(text: str) -> tuple[int, ...]:
    counts = tuple(int(part) for part in text.split(","))
    if min(counts) < 1:
        raise argparse.ArgumentTypeError(f"{text}: there is at least one thread")
    return counts


def measured(
    names: Sequence[str], threads: Sequence[int], rounds: int, path: Path | None = None
) -> tuple[Results, int]:
    """Measure rows with each number of threads.

    After each row the file at `path` is written anew, so that a run that is ended has kept its results.

    Returns
    -------
    results : list of dict
    status : int
        What the process should exit with.
    """
    begun, results, status = time.perf_counter(), Results(), 0
    settings = {
        "benchmark": "against PyTorch",
        "dtype": "float32",
        "rounds": rounds,
        "threads": list(threads),
    }
    for count in threads:
        for part in _processes(names):
            print(
                f"-- {count} thread{'s' if count > 1 else ''}: {', '.join(part)}", file=sys.stderr, flush=True
            )
            child = _Child(part, count, rounds)
            for result in child.results():
                results.append(result)
                if path is not None:
                    _keep(path, settings, results, begun)
            status = status or child.status
            if child.status == INTERRUPTED:
                print("interrupted; what was measured is kept", file=sys.stderr)
                return results, status
    return results, status


def _processes(names: Sequence[str]) -> list[list[str]]:
    """Return the rows by process: each that measures memory has one of its own."""
    timed = [name for name in names if name in rows.CONTESTS or name in rows.SCALING]
    return [part for part in (timed, *([name] for name in names if name not in timed)) if part]


class _Child:
    """A process that measures rows, with its libraries held to so many threads from the beginning."""

    def __init__(self, names: Sequence[str], threads: int, rounds: int) -> None:
        self.names, self.threads = names, threads
        module = ["benchmarks.peers.worker", f"--threads={threads}", f"--rounds={rounds}"]
        module.append(f"--rows={','.join(names)}")
        if list(names) == [rows.EVALUATION]:
            module = ["benchmarks.evaluation_memory", "--model", "deep_convnet"]
        self.command = [sys.executable, "-m", *module]
        self.status = 0

    def results(self) -> Iterator[dict[str, Any]]:
        """Start it, and yield its results as they come."""
        counts = {f"{name}_NUM_THREADS": str(self.threads) for name in ("OPENBLAS", "MKL", "OMP", "XPCNN")}
        with (
            subprocess.Popen(
                self.command,
                stdout=subprocess.PIPE,
                text=True,
                env={**os.environ, **counts},
                process_group=0,  # a terminal's Ctrl-C reaches this process alone
            ) as process,
            _passed_on(process),
        ):
            assert process.stdout is not None
            for line in process.stdout:
                yield self._result(line)
        self.status = INTERRUPTED if process.returncode == -signal.SIGINT else process.returncode

    def _result(self, line: str) -> dict[str, Any]:
        if self.names != [rows.EVALUATION]:
            found: dict[str, Any] = json.loads(line)
            return found
        told = re.search(r"([\d,]+) images evaluated, (-?\d+) MB above", line)
        assert told is not None, line
        work = f"deep_convnet, evaluating {told[1]} images: memory"
        megabytes = float(told[2])
        return {
            "kind": "evaluation",
            "row": rows.EVALUATION,
            "work": work,
            "threads": self.threads,
            "megabytes": megabytes,
        }


@contextmanager
def _passed_on(process: subprocess.Popen[str]) -> Iterator[None]:
    """Let Ctrl-C end a process, which then tells what it measured, and not this one."""

    def pass_on(*_: object) -> None:
        process.send_signal(signal.SIGINT)

    before = signal.signal(signal.SIGINT, pass_on)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)


def _keep(path: Path, settings: dict[str, Any], results: Results, begun: float) -> None:
    now = {
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "seconds": round(time.perf_counter() - begun),
    }
    record = {
        "machine": hardware(),
        "versions": versions(),
        "settings": {**settings, **now},
        "results": results,
    }
    with replacing(path) as temporary:
        temporary.write_text(json.dumps(record, indent=1, ensure_ascii=False) + "\n", "utf-8")


def _print_tables(results: Results, in_markdown: bool) -> None:
    shown = [table for table in (tables.beside_pytorch(results), tables.by_itself(results)) if table]
    print("\n\n".join(tables.markdown(table) if in_markdown else tables.text(table) for table in shown))


if __name__ == "__main__":
    sys.exit(main())
