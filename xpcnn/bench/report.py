"""Results as text: the table of a problem, and the comparison of two records."""

from __future__ import annotations

from collections.abc import Sequence

from xpcnn.bench.measure import Result
from xpcnn.bench.record import Change, Record, changes

__all__ = ["comparison", "size", "table"]

_PREFIX, _SUFFIX = "conv2d: algorithm '{}' ", "; algorithm='auto' picks one that can"


def table(results: Sequence[Result]) -> str:
    """Return the results of one problem as a table, with the reasons of those that were not timed below.

    Columns that nothing is known for are left out. The spread is half the distance of the quartiles, relative
    to the median; the workspace is the most memory at one time, without the result.

    Examples
    --------
    >>> floor = Result("tiny", "one image", "gemm floor", "forward", 2e6, 1e3, ms=1.0, gflops=2.0, rounds=3)
    >>> other = Result("tiny", "one image", "fft", "forward", 2e6, 1e3, reason="is for larger kernels")
    >>> print(table([floor, other]))
    tiny: one image; 2 MFLOP
      algorithm   pass        ms  spread  GFLOP/s
      gemm floor  forward  1.000      0%      2.0
      fft: is for larger kernels
    """
    timed = [result for result in results if result.ms is not None]
    torch = {result.pass_name: result.ms for result in timed if result.algorithm == "torch"}
    rows = [
        {
            "algorithm": _named(result),
            "pass": result.pass_name,
            "ms": _number(result.ms),
            "spread": _spread(result),
            "GFLOP/s": _rate(result.gflops),
            "GB/s": "" if result.floor_ratio is not None else _rate(result.gbytes),
            "x floor": "" if result.floor_ratio is None else f"{result.floor_ratio:.2f}",
            "x torch": _ratio(result.ms, torch.get(result.pass_name)),
            "workspace": "" if result.workspace_bytes is None else size(result.workspace_bytes),
        }
        for result in timed
    ]
    lines = [_title(results)]
    lines += [f"  {line}" for line in _aligned(rows, left=("algorithm", "pass"))]
    lines += [f"  {line}" for line in _reasons(results)]
    return "\n".join(lines)


def _title(results: Sequence[Result]) -> str:
    first = results[0]
    most = max(result.operations for result in results)
    work = f"{most / 1e9:.3g} GFLOP" if most >= 1e8 else f"{most / 1e6:.3g} MFLOP"
    return f"{first.geometry}: {first.description}; {work}"


def _named(result: Result) -> str:
    return f"{result.algorithm} ({result.variant})" if result.variant else result.algorithm


def _number(value: float | None) -> str:
    if value is None:
        return ""
    return f"{value:.3f}" if value < 10 else f"{value:.1f}"


def _rate(value: float | None) -> str:
    if value is None:
        return ""
    return f"{value:.1f}" if value >= 1 else f"{value:.2g}"


def _spread(result: Result) -> str:
    if not result.ms:
        return ""
    low, high = result.low_ms or result.ms, result.high_ms or result.ms
    return f"{(high - low) / 2 / result.ms:.0%}"


def _ratio(value: float | None, other: float | None) -> str:
    return "" if value is None or not other else f"{value / other:.2f}"


def size(count: float) -> str:
    """Return bytes as people read them.

    Examples
    --------
    >>> size(3 << 20), size(1536), size(0)
    ('3.0 MiB', '1.5 KiB', '0 B')
    """
    for unit, factor in (("GiB", 1 << 30), ("MiB", 1 << 20), ("KiB", 1 << 10)):
        if count >= factor:
            return f"{count / factor:.1f} {unit}"
    return f"{count:.0f} B"


def _reasons(results: Sequence[Result]) -> list[str]:
    """Return why some were not timed: once, where the reason is that of all their passes."""
    passes: dict[tuple[str, str], list[str]] = {}
    for result in results:
        if result.reason is not None:
            said = result.reason.removeprefix(_PREFIX.format(result.algorithm)).removesuffix(_SUFFIX)
            passes.setdefault((result.algorithm, said), []).append(result.pass_name)
    every = list(dict.fromkeys(result.pass_name for result in results))
    lines = []
    for (algorithm, said), some in passes.items():
        which = "" if len(some) == len(every) else f" {', '.join(some)}"
        lines.append(f"{algorithm}{which}: {said}")
    return lines


def _aligned(rows: Sequence[dict[str, str]], left: Sequence[str]) -> list[str]:
    """Return rows as lines under a header, without the columns that are empty in all of them."""
    names = [name for name in (rows[0] if rows else ()) if any(row[name] for row in rows)]
    lines = [{name: name for name in names}, *rows]
    widths = {name: max(len(line[name]) for line in lines) for name in names}
    return [
        "  ".join(
            line[name].ljust(widths[name]) if name in left else line[name].rjust(widths[name])
            for name in names
        ).rstrip()
        for line in lines
    ]


def comparison(before: Record, after: Record) -> str:
    """Return what changed between two records, as a table with its sum below."""
    found, only_before, only_after = changes(before, after)
    lines = [
        f"{part} differ: {', '.join(differences)}"
        for part in ("machine", "versions", "settings")
        if (differences := _differences(before, after, part))
    ]
    lines += _aligned([_row(change) for change in found], left=("geometry", "algorithm", "pass", "verdict"))
    counts = {word: sum(change.verdict == word for change in found) for word in ("faster", "slower")}
    said = f"{len(found)} compared: {counts['faster']} faster, {counts['slower']} slower, "
    said += f"{len(found) - sum(counts.values())} within the spread"
    if only_before or only_after:
        said += f"; {only_before} only in the first, {only_after} only in the second"
    return "\n".join([*lines, said])


def _row(change: Change) -> dict[str, str]:
    return {
        "geometry": change.geometry,
        "algorithm": change.algorithm,
        "pass": change.pass_name,
        "before, ms": _number(change.before),
        "after, ms": _number(change.after),
        "ratio": f"{change.ratio:.2f}",
        "verdict": change.verdict,
    }


_MEASURED = ("gemm_gflops", "copy_gbytes", "date", "seconds")
"""Entries of a record that are no two times the same."""


def _differences(before: Record, after: Record, part: str) -> list[str]:
    ones, others = getattr(before, part), getattr(after, part)
    return [
        f"{name} {ones.get(name)} and {others.get(name)}"
        for name in dict.fromkeys([*ones, *others])
        if name not in _MEASURED and ones.get(name) != others.get(name)
    ]
