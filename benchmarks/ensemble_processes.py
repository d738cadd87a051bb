"""The processes that train an ensemble's members, some at a time."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
from collections import deque
from collections.abc import Generator, Iterable, Sequence
from contextlib import suppress
from pathlib import Path
from queue import SimpleQueue
from typing import Any

from xpcnn import get_num_threads
from xpcnn.backend.threads import THREADS_VARIABLE
from xpcnn.errors import XpcnnError

ROOT = Path(__file__).parent.parent

Report = dict[str, Any]


class MemberError(XpcnnError):
    """A member whose training failed."""


def train_members(
    folders: Sequence[Path], members: Iterable[int], processes: int, keep: Sequence[int] = ()
) -> Generator[tuple[int, Report], None, None]:
    """Train runs to their end, some at a time, and yield what the members report, with their number.

    The threads are shared among the processes; members that are left in the end get those that would idle.
    Closing the generator stops all processes once they have saved; Ctrl-C meanwhile kills them.

    Parameters
    ----------
    folders : sequence of paths
        Of the runs, by number.
    members : iterable of int
        Which to train, in this order.
    processes : int
        How many at a time.
    keep : sequence of int
        File descriptors that the processes hold open until they end.

    Raises
    ------
    MemberError
        When one of them fails. The others are stopped.
    """
    waiting, running = deque(members), dict[int, subprocess.Popen[str]]()
    reports: SimpleQueue[tuple[int, Report | None]] = SimpleQueue()
    try:
        while waiting or running:
            while waiting and len(running) < processes:
                number = waiting.popleft()
                running[number] = _start(folders[number], max(1, get_num_threads() // processes), keep)
                threading.Thread(target=_listen, args=(number, running[number], reports), daemon=True).start()
            number, report = reports.get()
            if report is None:
                process = running.pop(number)
                _stop([process])
                if process.returncode:
                    raise MemberError(
                        f"member {number} ended with status {process.returncode}; see {folders[number]}"
                    )
                if running and not waiting:
                    _share_threads(list(running.values()))
            elif "error" in report:
                raise MemberError(f"member {number}: {report['error']}")
            else:
                yield number, report
    finally:
        _stop(list(running.values()))


def _start(folder: Path, threads: int, keep: Sequence[int]) -> subprocess.Popen[str]:
    one_thread = {f"{library}_NUM_THREADS": "1" for library in ("OPENBLAS", "MKL", "OMP")}
    path = os.pathsep.join([str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])])
    return subprocess.Popen(
        [sys.executable, "-m", "benchmarks.ensemble_member", str(folder)],
        env={**os.environ, **one_thread, THREADS_VARIABLE: str(threads), "PYTHONPATH": path},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        start_new_session=True,  # a terminal's Ctrl-C is for the command alone, which tells its members
        pass_fds=keep,
    )


def _listen(number: int, process: subprocess.Popen[str], reports: SimpleQueue[Any]) -> None:
    assert process.stdout is not None
    with process.stdout:
        for line in process.stdout:
            reports.put((number, json.loads(line)))
    reports.put((number, None))


def _share_threads(running: Sequence[subprocess.Popen[str]]) -> None:
    """Divide the threads among the processes that are left; the results do not depend on it."""
    for process in running:
        assert process.stdin is not None
        with suppress(BrokenPipeError):  # it has just ended
            print(max(1, get_num_threads() // len(running)), file=process.stdin, flush=True)


def _stop(running: Sequence[subprocess.Popen[str]]) -> None:
    """Let processes save and end, and wait for that."""
    for process in running:
        assert process.stdin is not None
        with suppress(BrokenPipeError):
            process.stdin.close()
    try:
        for process in running:
            process.wait()
    except KeyboardInterrupt:
        for process in running:
            process.kill()
        raise
