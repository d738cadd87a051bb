"""Pictures of how convolutions scale: a roofline, and time against batch and image size."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from xpcnn.bench.geometries import BATCHES, CONVOLUTIONS, SIZES
from xpcnn.bench.looks import in_order, look_of, subject
from xpcnn.bench.measure import FLOOR, PLAIN_LOOP, Result
from xpcnn.bench.record import Record
from xpcnn.viz.canvas import new_figure

__all__ = ["roofline", "series_of"]

_FAR_BELOW = ("loop", PLAIN_LOOP)
"""Too slow to share a roofline with the others."""


def roofline(record: Record, results: Sequence[Result]) -> Any:
    """Return the figure of rates against operations per byte, forward; None where nothing is known."""
    forward = [
        result
        for result in results
        if result.pass_name == "forward"
        and result.geometry in CONVOLUTIONS
        and result.algorithm not in _FAR_BELOW
    ]
    roofs = [record.machine.get(name) for name in ("gemm_gflops", "copy_gbytes")]
    if not forward or None in roofs:
        return None
    gemm, copy = (float(roof or 0) for roof in roofs)
    figure = new_figure(10, 6.5)
    axes = figure.subplots()
    at = {result.geometry: result.operations / result.traffic for result in forward}
    low, high = min(*at.values(), gemm / copy) / 2, max(*at.values(), gemm / copy) * 2
    edge = gemm / copy
    roof = f"large product, {gemm:,.0f} GFLOP/s,\nand copy, {copy:,.0f} GB/s"
    axes.plot([low, edge, high], [low * copy, gemm, gemm], color="black", linewidth=1.5, label=roof)
    for algorithm in in_order(forward):
        points = [result for result in forward if result.algorithm == algorithm]
        heights = [result.gflops or 0 for result in points]
        places = [at[result.geometry] for result in points]
        if algorithm == FLOOR:
            axes.scatter(places, heights, marker="_", s=260, color="black", label=FLOOR, zorder=3)
        else:
            look = look_of(algorithm)
            options: dict[str, Any] = {"edgecolors": "white", "linewidths": 0.5, "zorder": 4}
            axes.scatter(
                places, heights, marker=look.marker, s=48, color=look.color, label=algorithm, **options
            )
    axes.set_xscale("log")
    axes.set_yscale("log")
    axes.set_xlim(low, high)
    bottom = min(result.gflops or math.inf for result in forward)
    axes.set_ylim(bottom / 6, 3 * max(gemm, *(result.gflops or 0 for result in forward)))
    _name_places(axes, at)
    axes.set_xlabel("operations for each byte that must move (x, weight and y once), FLOP/B")
    axes.set_ylabel("GFLOP/s of the direct method")
    axes.grid(which="major", color="0.9")
    axes.set_axisbelow(True)
    axes.legend(loc="center left", bbox_to_anchor=(1.01, 0.5), fontsize=9)
    axes.set_title(f"Roofline, forward: {subject(record)}", fontsize=11)
    return figure


def _name_places(axes: Any, at: Mapping[str, float]) -> None:
    """Write the geometries' names upright along the bottom, those that would overlap side by side."""
    low, high = (math.log(bound) for bound in axes.get_xlim())
    least = 0.022 * (high - low)
    last = -math.inf
    for name, place in sorted(at.items(), key=lambda item: item[1]):
        axes.axvline(place, color="0.85", linewidth=0.7, zorder=1)
        last = max(math.log(place), last + least)
        axes.text(
            math.exp(last),
            0.015,
            name,
            transform=axes.get_xaxis_transform(),
            rotation=90,
            ha="center",
            va="bottom",
            fontsize=8,
            color="0.25",
        )


def series_of(record: Record, results: Sequence[Result]) -> Any:
    """Return the figure of time against the batch, and against the size of the images."""
    figure = new_figure(12, 5.2, gap=0.05)
    measured = {result.geometry for result in results}
    halves = {"images in the batch": BATCHES, "height and width of an image, pixels": SIZES}
    halves = {label: cases for label, cases in halves.items() if measured & cases.keys()}
    grid = figure.subplots(1, len(halves), squeeze=False)[0]
    first = results[0].pass_name
    for axes, (label, cases) in zip(grid, halves.items(), strict=True):
        own = [result for result in results if result.geometry in cases and result.pass_name == first]
        sizes = sorted({_size(result) for result in own})
        for algorithm in in_order(own):
            points = sorted((_size(one), one.ms) for one in own if one.algorithm == algorithm)
            look = look_of(algorithm)
            style: dict[str, Any] = {"color": look.color, "marker": look.marker, "linewidth": 1.3}
            if algorithm == FLOOR:
                style = {"color": "black", "linestyle": "--"}
            axes.plot(*zip(*points, strict=True), label=algorithm, markersize=6, **style)
        axes.set_xscale("log", base=2)
        axes.set_yscale("log")
        axes.set_xticks(sizes, sizes)
        axes.set_xlabel(label)
        geometry = next(iter(cases.values()))
        kernel = "x".join(map(str, geometry.kernel))
        what = f"{geometry.h}x{geometry.w} pixels" if cases is BATCHES else f"batch {geometry.n}"
        axes.set_title(f"{geometry.c} to {geometry.k} channels, kernel {kernel}, {what}", fontsize=10)
        axes.grid(color="0.9")
    grid[0].set_ylabel(f"time of {first}, ms")
    handles, labels = grid[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside right center", fontsize=9)
    figure.suptitle(subject(record), fontsize=11)
    return figure


def _size(result: Result) -> int:
    """Return the number in the name of a series' geometry."""
    return int(result.geometry.rpartition("-")[2])
