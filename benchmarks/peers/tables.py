"""Results as tables, plain or in Markdown."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from benchmarks.peers import rows
from xpcnn.backend.torch_peer import LAYOUTS
from xpcnn.bench.measure import OURS

__all__ = ["beside_pytorch", "by_itself", "markdown", "text"]

Table = list[list[str]]
"""Rows of cells, the header first; empty where there is nothing to tell."""

MEGABYTE = 1 << 20


def beside_pytorch(results: Iterable[Mapping[str, Any]]) -> Table:
    """Return the contests with PyTorch, and the geometric mean of the convolutions' ratios."""
    every = list(results)
    contests = [one for one in every if one["kind"] == "contest" and one["row"] != rows.STRAIGHTFORWARD]
    lines = []
    for one in _in_order(contests):
        wanted = rows.CONTESTS[one["row"]].wanted.get(one["threads"])
        cells = [one["work"], str(one["threads"])]
        cells += [_ms(one["ms"][name]) for name in (OURS, *LAYOUTS)]
        cells += [f"{one['ratio']:.2f}", f"{one['low_ratio']:.2f} – {one['high_ratio']:.2f}"]
        lines.append([*cells, "" if wanted is None else f"≤ {wanted:.2f}"])
    for threads, mean in _means(contests).items():
        wanted = rows.CONVOLUTION_WANTED.get(threads)
        name = "3×3 convolutions, geometric mean"
        limit = "" if wanted is None else f"≤ {wanted:.2f}"
        lines.append([name, str(threads), "", "", "", f"{mean:.2f}", "", limit])
    header = ["work", "threads", "xpcnn, ms", "PyTorch NCHW, ms", "channels-last, ms", "ratio", "spread"]
    return [[*header, "wanted"], *lines] if lines else []


def _means(contests: Sequence[Mapping[str, Any]]) -> dict[int, float]:
    """Return the geometric mean of the ratios by threads, where all of them are known."""
    needed = [name for name in rows.CONTESTS if name.startswith(f"{rows.CONVOLUTION}-")]
    known: dict[int, dict[str, float]] = {}
    for one in contests:
        if one["row"] in needed:
            known.setdefault(one["threads"], {})[one["row"]] = one["ratio"]
    return {
        threads: math.prod(ratios.values()) ** (1 / len(ratios))
        for threads, ratios in known.items()
        if len(ratios) == len(needed)
    }


def by_itself(results: Iterable[Mapping[str, Any]]) -> Table:
    """Return what is not measured beside PyTorch: the straightforward network, scaling and memory."""
    lines = []
    for one in _in_order(results):
        measured, wanted = "", ""
        match one:
            case {"kind": "contest", "row": rows.STRAIGHTFORWARD}:
                ours, theirs = one["ms"][OURS], one["ms"][rows.STRAIGHTFORWARD]
                low, high = 1 / one["high_ratio"], 1 / one["low_ratio"]
                measured = f"{_ms(theirs)} ms and {_ms(ours)} ms: {theirs / ours:.1f} times faster"
                measured += f" ({low:.1f} – {high:.1f})"
                wanted = f"≥ {1 / rows.CONTESTS[rows.STRAIGHTFORWARD].wanted[1]:.0f}"
            case {"kind": "scaling"}:
                times = ", ".join(_ms(ms) for ms in one["ms"].values())
                measured = (
                    f"{times} ms for {', '.join(one['ms'])} images: {one['ms_per_image']:.3g} ms an image, "
                )
                measured += f"within {one['off']:.0%} of a line; as n to the power of {one['exponent']:.2f}"
                wanted = "linear"
            case {"kind": "memory"}:
                peak, contexts = one["peak"] / MEGABYTE, one["contexts"] / MEGABYTE
                measured = f"peak {peak:.0f} MB, contexts {contexts:.0f} MB: {one['ratio']:.2f}"
                wanted = f"≤ {rows.MOST_MEMORY}"
            case {"kind": "evaluation"}:
                measured, wanted = f"{one['megabytes']:.0f} MB above rest", f"≤ {rows.MOST_EVALUATION_MB} MB"
            case _:
                continue
        lines.append([one["work"], str(one["threads"]), measured, wanted])
    return [["work", "threads", "measured", "wanted"], *lines] if lines else []


def _in_order(results: Iterable[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    return sorted(results, key=lambda one: (rows.NAMES.index(one["row"]), one["threads"]))


def _ms(value: float) -> str:
    """Return three digits.

    Examples
    --------
    >>> _ms(1234.5), _ms(123.4), _ms(12.34), _ms(1.234)
    ('1,234', '123', '12.3', '1.23')
    """
    return f"{value:,.{max(0, min(3, 2 - math.floor(math.log10(value))))}f}"


def markdown(table: Table) -> str:
    """Return a table in Markdown.

    Examples
    --------
    >>> print(markdown([["a", "b"], ["1", ""]]))
    | a | b |
    |---|---|
    | 1 |  |
    """
    lines = [f"| {' | '.join(cells)} |" for cells in table]
    return "\n".join([lines[0], f"|{'---|' * len(table[0])}", *lines[1:]])


def text(table: Table) -> str:
    """Return a table in columns; those of numbers end at the same place.

    Examples
    --------
    >>> print(text([["what", "ms"], ["a", "10.5"], ["b", "9.5"]]))
    what    ms
    a     10.5
    b      9.5
    """
    columns = []
    for column in zip(*table, strict=True):
        width = max(map(len, column))
        numbers = all(cell[:1].isdigit() for cell in column[1:] if cell)
        columns.append([cell.rjust(width) if numbers else cell.ljust(width) for cell in column])
    return "\n".join("  ".join(cells).rstrip() for cells in zip(*columns, strict=True))
