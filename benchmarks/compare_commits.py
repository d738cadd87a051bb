"""Compare the speed of this checkout with that of another commit: training steps and 3×3 convolutions.

    python -m benchmarks.compare_commits HEAD~1
    python -m benchmarks.compare_commits main --works simple,conv --threads 1 --rounds 31 --runs 3

Each runs in a process of its own, and they take turns. Before that, their results must be equal to rounding.
A ratio is the median over the rounds of this checkout's time by that of the commit: 1.03 is 3 % slower. Of
several runs, each with new processes, the middle one is shown, and their range.
"""

from __future__ import annotations

import argparse
import io
import statistics
import subprocess
import sys
import tarfile
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from tempfile import TemporaryDirectory

from benchmarks.alternate import ROOT, DifferentError, Worker, in_turns, start
from benchmarks.worker import WORKS
from xpcnn.cli.machine import hardware, versions

NAMES = [name for name in WORKS if WORKS[name].kind != "inference"]
TURN_SECONDS = 0.1


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("commit", metavar="REV", help="what git knows it by")
    parser.add_argument("--works", type=chosen, default=NAMES, help=f"of conv, {', '.join(WORKS)}")
    parser.add_argument("--threads", type=counts, default=[1, 2], metavar="1,2", help="(default: 1,2)")
    parser.add_argument("--rounds", type=int, default=31, help="(default: %(default)s)")
    parser.add_argument("--runs", type=int, default=3, help="(default: %(default)s)")
    options = parser.parse_args(arguments)
    print(f"machine   {', '.join(f'{name} {value}' for name, value in hardware().items())}")
    print(f"versions  {', '.join(f'{name} {value}' for name, value in versions().items())}")
    with TemporaryDirectory() as folder:
        checkout(options.commit, Path(folder))
        print(f"\n| work | threads | {options.commit}, ms | now, ms | ratio | {options.runs} runs |")
        print("|---|---|---|---|---|---|")
        different = False
        for threads in options.threads:
            for name in options.works:
                try:
                    print(compared(name, Path(folder), threads, options.rounds, options.runs), flush=True)
                except DifferentError as error:
                    different = True
                    print(f"| {WORKS[name].title} | {threads} | DIFFERENT, not timed: {error} |", flush=True)
    return int(different)


def chosen(text: str) -> list[str]:
    """Return the works that are named, with commas between them; ``conv`` names several."""
    found = []
    for part in text.split(","):
        several = [name for name in WORKS if name == part or name.startswith(f"{part}-")]
        if not several:
            raise argparse.ArgumentTypeError(f"{part!r} is none of conv, {', '.join(WORKS)}")
        found += several
    return found


def counts(text: str) -> list[int]:
    """Return whole numbers of at least 1, with commas between them."""
    found = [int(part) for part in text.split(",")]
    if min(found) < 1:
        raise argparse.ArgumentTypeError(f"{text}: there is at least one thread")
    return found


def checkout(commit: str, folder: Path) -> None:
    """Write the package as it is in a commit to a folder."""
    archive = subprocess.run(["git", "archive", commit, "xpcnn"], cwd=ROOT, capture_output=True, check=False)
    if archive.returncode:
        raise SystemExit(f"{commit}: {archive.stderr.decode().strip()}")
    with tarfile.open(fileobj=io.BytesIO(archive.stdout)) as files:
        files.extractall(folder, filter="data")


def compared(name: str, before: Path, threads: int, rounds: int, runs: int) -> str:
    """Return a line of the table."""
    found = [run(name, before, threads, rounds) for _ in range(runs)]
    ratios = sorted(ratio for _, _, ratio in found)
    ms = [1e3 * statistics.median(one[i] for one in found) for i in range(2)]
    middle = statistics.median_low(ratios)
    cells = [WORKS[name].title, str(threads), f"{ms[0]:.4g}", f"{ms[1]:.4g}", f"{middle:.3f}"]
    return f"| {' | '.join([*cells, f'{ratios[0]:.3f} – {ratios[-1]:.3f}'])} |"


def run(name: str, before: Path, threads: int, rounds: int) -> tuple[float, float, float]:
    """Return the median seconds of both in one run with new processes, and the median of their ratios."""
    with ExitStack() as processes:
        workers = {
            which: processes.enter_context(Worker("xpcnn", threads, path))
            for which, path in (("before", before), ("now", ROOT))
        }
        for which, path in (("before", before), ("now", ROOT)):
            origin = Path(workers[which].ask("origin"))
            if not origin.is_relative_to(path.resolve()):
                raise SystemExit(f"{which}: {origin} was imported, which is not in {path}")
        start(WORKS[name], workers, workers["now"])
        seconds = in_turns(workers, rounds, TURN_SECONDS)
    return ratio_of(seconds["before"], seconds["now"])


def ratio_of(before: Sequence[float], now: Sequence[float]) -> tuple[float, float, float]:
    """Return both medians, and the median of the ratios round by round."""
    ratios = [new / old for old, new in zip(before, now, strict=True)]
    return statistics.median(before), statistics.median(now), statistics.median(ratios)


if __name__ == "__main__":
    sys.exit(main())
