"""A run of ``xpcnn bench``: problem after problem is told, kept and, in the end, drawn."""

from __future__ import annotations

import argparse
import importlib.util
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from xpcnn.backend import Backend
from xpcnn.backend.facts import device_facts
from xpcnn.bench.machine import hardware, versions
from xpcnn.bench.measure import Problem, Result, measure
from xpcnn.bench.plots import draw
from xpcnn.bench.record import Record, save
from xpcnn.bench.report import table
from xpcnn.bench.roofs import roofs
from xpcnn.bench.timing import held_to
from xpcnn.cli.output import shown
from xpcnn.cli.parser import UsageError
from xpcnn.errors import CheckpointError
from xpcnn.ops import get_workspace_limit
from xpcnn.train.interrupt import status_of

__all__ = ["Plan", "measure_all"]

_ENDINGS = (".png", ".svg", ".pdf")


@dataclass
class Plan:
    """What is measured how, and where it is kept."""

    backend: Backend
    settings: dict[str, Any]
    rounds: int
    threads: int
    json: Path | None
    plot: Path | None
    machine: dict[str, Any] = field(default_factory=dict)

    @classmethod
    def of(cls, args: argparse.Namespace, kind: str, backend: Backend, peers: tuple[str, ...]) -> Plan:
        """Return the plan that the arguments make; what would only fail after the measurement fails now."""
        if args.plot is not None:
            if args.plot.suffix.lower() not in _ENDINGS:
                raise UsageError(f"--plot {args.plot}: must end in one of {', '.join(_ENDINGS)}")
            if importlib.util.find_spec("matplotlib") is None:
                raise UsageError(f"--plot {args.plot}: needs matplotlib: pip install 'xpcnn[plot]'")
        for path in (args.json, args.plot):
            if path is not None:
                _make_folder(path.parent)
        facts = device_facts(backend)
        settings = {
            "benchmark": kind,
            "backend": backend.name,
            "dtype": args.dtype,
            "threads": args.threads,
            "tf32": facts.pop("tf32"),
            "workspace_limit": get_workspace_limit() or backend.default_workspace,
            "rounds": args.repeat,
            "peers": list(peers),
        }
        return cls(
            backend, settings, args.repeat, args.threads, args.json, args.plot, {**hardware(), **facts}
        )


def _make_folder(folder: Path) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise CheckpointError(f"cannot make the folder {folder}: {error.strerror}") from error


def measure_all(plan: Plan, names: Iterable[str], problem: Callable[[str], Problem]) -> int:
    """Measure the problems of these names, and return the exit status.

    After each problem its table is printed and the record written anew, so that an interrupted run has kept
    what it measured.
    """
    begun, results = time.perf_counter(), list[Result]()
    interrupted: KeyboardInterrupt | None = None
    _introduce(plan)
    try:
        with held_to(plan.backend, plan.threads):
            plan.machine |= roofs(plan.backend, plan.settings["dtype"])
            for name in names:
                found, interrupted = measure(problem(name), plan.rounds)
                results += found
                if found:
                    print(f"\n{table(found)}", flush=True)
                _keep(plan, results, begun)
                if interrupted:
                    break
    except KeyboardInterrupt as error:
        interrupted = error
    print()
    if interrupted:
        print("interrupted; what is above was measured")
    return _conclude(plan, _keep(plan, results, begun), interrupted)


def _introduce(plan: Plan) -> None:
    settings, machine = plan.settings, plan.machine
    on = "" if plan.backend.name == "numpy" else f", {machine['device']}"
    print(f"machine    {machine['processor']}, {machine['cores']} cores{on}")
    print(f"versions   {', '.join(f'{name} {found}' for name, found in versions().items() if found)}")
    print(
        f"settings   {settings['backend']}, {settings['dtype']}, {_counted(plan.threads, 'thread')}, "
        f"TF32 {'on' if settings['tf32'] else 'off'}, {_counted(plan.rounds, 'round')}",
        flush=True,
    )


def _counted(number: int, what: str) -> str:
    return f"{number} {what}{'' if number == 1 else 's'}"


def _keep(plan: Plan, results: list[Result], begun: float) -> Record:
    now = {
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "seconds": round(time.perf_counter() - begun, 1),
    }
    record = Record(plan.machine, versions(), {**plan.settings, **now}, results)
    if plan.json is not None and results:
        save(record, plan.json)
    return record


def _conclude(plan: Plan, record: Record, interrupted: KeyboardInterrupt | None) -> int:
    if not record.results:
        return 1 if interrupted is None else status_of(interrupted)
    if plan.json is not None:
        print(f"json       {shown(plan.json)}")
    if plan.plot is not None:
        for path in draw(record, plan.plot):
            print(f"plot       {shown(path)}")
    wrong = [result for result in record.results if result.wrong]
    for result in wrong:
        print(f"WRONG      {result.algorithm} {result.pass_name} of {result.geometry}")
    if interrupted is not None:
        return status_of(interrupted)
    return 1 if wrong else 0
