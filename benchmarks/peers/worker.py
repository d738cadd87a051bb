"""One process of the benchmark: measures rows with so many threads, and prints a line of JSON for each.

    python -m benchmarks.peers.worker --threads 1 --rounds 3 --rows simple,conv

Progress goes to stderr. Ctrl-C ends it; what was measured until then is printed.
"""

from __future__ import annotations

import argparse
import json
import sys
from typing import Any

from benchmarks.peers import rows
from benchmarks.peers.contest import DifferentError, contest
from benchmarks.peers.memory import step_memory
from benchmarks.peers.scaling import scaling
from xpcnn.backend.torch_peer import TorchPeer

__all__ = ["INTERRUPTED", "main", "measure"]

INTERRUPTED = 130
"""The exit status after Ctrl-C, as shells have it."""


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--threads", type=int, required=True)
    parser.add_argument("--rounds", type=int, required=True)
    parser.add_argument("--rows", type=rows.chosen, required=True)
    options = parser.parse_args(arguments)
    status, peer = 0, TorchPeer(threads=options.threads)
    try:
        for name in options.rows:
            try:
                found, interrupted = measure(name, options.threads, options.rounds, peer)
            except DifferentError as error:
                print(f"  DIFFERENT, not timed: {error}", file=sys.stderr, flush=True)
                status = 1
                continue
            if found is not None:
                print(json.dumps(found), flush=True)
            if interrupted:
                return INTERRUPTED
    except KeyboardInterrupt:
        return INTERRUPTED
    return status


def measure(name: str, threads: int, rounds: int, peer: TorchPeer) -> tuple[dict[str, Any] | None, bool]:
    """Measure a row; return what was found, and whether Ctrl-C ended it.

    Raises
    ------
    DifferentError
        When the contenders do not compute the same.
    """
    if name in rows.MEMORY:
        work, case = rows.MEMORY[name]
        _tell(f"{work}: memory")
        return step_memory(name, work, threads, case).to_json(), False
    if name in rows.SCALING:
        work, case = rows.SCALING[name]
        _tell(f"{work}: time by the number of images")
        scaled, interrupted = scaling(name, work, threads, case, rounds)
        return None if scaled is None else scaled.to_json(), interrupted
    row = rows.CONTESTS[name]
    _tell(row.work)
    calls, off = row.prepare(peer)
    _tell(f"  equal to {off:.0e}; {rounds} rounds of {', '.join(calls)}")
    found, interrupted = contest(name, row.work, threads, calls, rounds)
    if found is None:
        return None, interrupted
    times = ", ".join(f"{contender} {ms:.1f} ms" for contender, ms in found.ms.items())
    _tell(f"  {times}; ratio {found.ratio:.2f}")
    return {**found.to_json(), "off": off}, interrupted


def _tell(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


if __name__ == "__main__":
    sys.exit(main())
