"""Pictures of a record: bars by algorithm, a roofline, and time against batch and image size."""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from xpcnn.bench.geometries import BATCHES, SIZES
from xpcnn.bench.looks import in_order, look_of, subject
from xpcnn.bench.measure import FLOOR, Result
from xpcnn.bench.record import Record
from xpcnn.bench.scaling import roofline, series_of
from xpcnn.viz.canvas import new_figure, write

__all__ = ["draw"]

_COLUMNS = 3
_CUT = 6.0, 1.5
"""Bars longer than these times the floor and the median bar are cut, and their time is written on them."""


def draw(record: Record, path: Path) -> list[Path]:
    """Draw a record, and return the files that were written.

    The bars go to `path`; of convolutions, the roofline and the series go to files beside it, whose names
    end in ``-roofline`` and ``-series``. What there are no results for is not drawn.

    Parameters
    ----------
    record : Record
    path : Path
        Of a ``.png``, ``.svg`` or ``.pdf`` file; existing ones are replaced whole or not at all.

    Raises
    ------
    CheckpointError
        When a file cannot be written.
    """
    timed = [result for result in record.results if result.ms is not None]
    series = [result for result in timed if result.geometry in BATCHES or result.geometry in SIZES]
    others = [result for result in timed if result not in series]
    figures: dict[Path, Any] = {path: _bars(record, others) if others else None}
    if record.kind == "conv":
        figures[path.with_stem(f"{path.stem}-roofline")] = roofline(record, others)
        figures[path.with_stem(f"{path.stem}-series")] = series_of(record, series) if series else None
    for file, figure in figures.items():
        if figure is not None:
            write(figure, file, "bench")
    return [file for file, figure in figures.items() if figure is not None]


def _bars(record: Record, results: Sequence[Result]) -> Any:
    names = list(dict.fromkeys(result.geometry for result in results))
    columns = min(_COLUMNS, len(names))
    rows = -(-len(names) // columns)
    figure = new_figure(4.6 * max(columns, 2), 2.9 * rows + 1, gap=0.06)
    grid = list(figure.subplots(rows, columns, squeeze=False).flat)
    for axes, name in zip(grid, names, strict=False):
        _panel(axes, [result for result in results if result.geometry == name])
    for axes in grid[len(names) :]:
        axes.set_visible(False)
    algorithms = [one for one in in_order(results) if one != FLOOR]
    floors = any(result.algorithm == FLOOR for result in results)
    _legend(figure, algorithms, floors)
    cut = "; long bars are cut" if floors else ""
    figure.suptitle(
        f"{subject(record)}\nmedian of a call; thin lines: half of the rounds lie there{cut}", fontsize=11
    )
    figure.supylabel("time, ms", fontsize=10)
    return figure


def _panel(axes: Any, results: Sequence[Result]) -> None:
    passes = list(dict.fromkeys(result.pass_name for result in results))
    algorithms = [one for one in in_order(results) if one != FLOOR]
    times = {(result.algorithm, result.pass_name): result for result in results}
    top = 1.08 * _longest_shown(results)
    width = 0.86 / max(len(algorithms), 1)
    for i, pass_name in enumerate(passes):
        for j, algorithm in enumerate(algorithms):
            result = times.get((algorithm, pass_name))
            if result is not None:
                _bar(axes, i + (j - (len(algorithms) - 1) / 2) * width, width, result, top)
        floor = times.get((FLOOR, pass_name))
        if floor is not None:
            axes.hlines(floor.ms, i - 0.46, i + 0.46, color="black", linestyle="--", linewidth=1.2, zorder=4)
    axes.set_ylim(0, top)
    axes.set_xlim(-0.55, len(passes) - 0.45)
    axes.set_xticks(range(len(passes)), passes)
    axes.set_title(f"{results[0].geometry}: {results[0].description}", fontsize=8.5)
    axes.tick_params(labelsize=8)
    axes.grid(axis="y", color="0.9")
    axes.set_axisbelow(True)


def _longest_shown(results: Sequence[Result]) -> float:
    """Return the longest time that is not cut; where there is no floor, none is."""
    floors = [result.ms for result in results if result.ms is not None and result.algorithm == FLOOR]
    bars = {result.ms: result.high_ms for result in results if result.ms and result.algorithm != FLOOR}
    limit = math.inf
    if floors and bars:
        limit = max(_CUT[0] * max(floors), _CUT[1] * statistics.median(bars))
    return max([min(high or ms, limit) for ms, high in bars.items() if ms <= limit] + floors)


def _bar(axes: Any, x: float, width: float, result: Result, top: float) -> None:
    assert result.ms is not None
    look = look_of(result.algorithm)
    axes.bar(
        x,
        min(result.ms, top),
        0.92 * width,
        color=look.color,
        hatch=look.hatch,
        edgecolor="white",
        linewidth=0,
        zorder=2,
    )
    if result.ms > top:
        said = f"{result.ms:.3g} ms" if result.ms < 1000 else f"{result.ms / 1000:.3g} s"
        box = {"facecolor": "white", "edgecolor": "none", "alpha": 0.85, "pad": 0.6}
        axes.text(x, 0.97 * top, said, rotation=90, ha="center", va="top", fontsize=6, zorder=5, bbox=box)
    elif result.low_ms is not None:
        axes.vlines(x, result.low_ms, min(result.high_ms or top, top), color="0.55", linewidth=1, zorder=3)


def _legend(figure: Any, algorithms: Sequence[str], floor: bool) -> None:
    from matplotlib.lines import Line2D
    from matplotlib.patches import Patch

    handles: list[Any] = []
    for algorithm in algorithms:
        look = look_of(algorithm)
        handles.append(Patch(facecolor=look.color, hatch=look.hatch, edgecolor="white", label=algorithm))
    if floor:
        handles.append(Line2D([], [], color="black", linestyle="--", label=FLOOR))
    figure.legend(handles=handles, loc="outside lower center", ncols=min(len(handles), 7), fontsize=9)
