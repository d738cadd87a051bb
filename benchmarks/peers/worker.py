"""One process of the benchmark: measures rows with so many threads, and prints a line of JSON for each.

    python -m benchmarks.peers.worker --threads 1 --rounds 3 --rows simple,conv

PyTorch has processes beside it, one after the other, where a row needs it. Progress goes to stderr. Ctrl-C
ends them; what was measured until then is printed.
"""

from __future__ import annotations

import argparse
import json
import signal
import sys
from collections.abc import Iterator, Sequence
from functools import partial
from typing import Any

from benchmarks.peers import rows
from benchmarks.peers.contest import Calls, DifferentError, contest
from benchmarks.peers.memory import step_memory
from benchmarks.peers.process import PeerProcess
from benchmarks.peers.scaling import scaling
from xpcnn.backend.torch_peer import TorchPeer

__all__ = ["INTERRUPTED", "ROUNDS_OF_A_PROCESS", "main", "measure"]

INTERRUPTED = 130
"""The exit status after Ctrl-C, as shells have it."""

ROUNDS_OF_A_PROCESS = 3
"""PyTorch's time depends on where its process finds its memory: after so many rounds it gets another one."""


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--threads", type=int, required=True)
    parser.add_argument("--rounds", type=int, required=True)
    parser.add_argument("--rows", type=rows.chosen, required=True)
    options = parser.parse_args(arguments)
    try:
        with PeerProcess(partial(TorchPeer, threads=options.threads)) as torch:
            return _measured(options.rows, options.threads, options.rounds, torch)
    except KeyboardInterrupt:
        return INTERRUPTED


def _measured(names: Sequence[str], threads: int, rounds: int, torch: PeerProcess) -> int:
    """Measure rows and print what was found; return the exit status."""
    status = 0
    for name in names:
        try:
            found, interrupted = measure(name, threads, rounds, torch)
        except DifferentError as error:
            _tell(f"  DIFFERENT, not timed: {error}")
            status = 1
            continue
        if found is not None:
            print(json.dumps(found), flush=True)
        if interrupted:
            return INTERRUPTED
    return status


def measure(name: str, threads: int, rounds: int, torch: PeerProcess) -> tuple[dict[str, Any] | None, bool]:
    """Measure a row; return what was found, and whether Ctrl-C ended it.

    Raises
    ------
    DifferentError
        When the contenders do not compute the same.
    PeerError
        When something goes wrong in PyTorch's process.
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
    off: list[float] = []
    found, interrupted = contest(name, row.work, threads, _sessions(row, torch, rounds, off))
    if found is None:
        return None, interrupted
    times = ", ".join(f"{contender} {ms:.1f} ms" for contender, ms in found.ms.items())
    _tell(f"  equal to {max(off):.0e}; {times}; ratio {found.ratio:.2f}")
    return {**found.to_json(), "off": max(off)}, interrupted


def _sessions(
    row: rows.ContestRow, torch: PeerProcess, rounds: int, off: list[float]
) -> Iterator[tuple[Calls, int]]:
    """Yield calls that give the same, and in how many rounds they meet; after some PyTorch's process is new.

    How far the results of each are apart is added to `off`.
    """
    for begun in range(0, rounds, ROUNDS_OF_A_PROCESS):
        torch.close()
        calls, apart = row.prepare(torch)
        off.append(apart)
        if not torch.running:  # PyTorch has no part in this
            yield calls, rounds
            return
        yield calls, min(ROUNDS_OF_A_PROCESS, rounds - begun)


def _tell(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


if __name__ == "__main__":
    # Not ignored, as shells make it for what they start in the background: this is how Ctrl-C is passed on.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    sys.exit(main())
