"""Kept measurements as Markdown tables: of ``pytest benchmarks --benchmark-json`` and of ``xpcnn bench``.

    python -m benchmarks.report docs/benchmarks/results/conv-cpu.json
    python -m benchmarks.report one-machine.json another.json
    python -m benchmarks.report docs/benchmarks/results/conv-cpu.json --plot series.png

Of convolutions a row has the floor, the plain matrix product of the pass, in milliseconds, and all others as
multiples of it; the best of xpcnn's algorithms is bold, and what `auto` took is in brackets. Of layers and
models it has milliseconds. --plot draws the two series: time by the batch, and by the size of the images.
"""

from __future__ import annotations

import argparse
import itertools
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from xpcnn.io import replacing

FLOOR, TORCH, AUTO = "gemm floor", "torch", "auto"
LOOPS = ("loop", "plain loop")
ORDER = (FLOOR, "native", "im2col", "as_strided", "kn2row", "mec", "winograd", "fft")

Row = Mapping[str, Any]


def read(path: Path) -> tuple[str, list[Row]]:
    """Return what a file was measured on, and a row for each candidate: the better of PyTorch's layouts."""
    kept = json.loads(path.read_text("utf-8"))
    if "benchmarks" in kept:
        rows = [{**one["extra_info"], "ms": 1e3 * one["stats"]["median"]} for one in kept["benchmarks"]]
        rows = [row for row in rows if "geometry" in row]
        settings, machine = (rows[0], rows[0]["machine"]) if rows else ({}, {})
    else:
        rows = [row for row in kept["results"] if "ms" in row]
        settings, machine = kept["settings"], kept["machine"]
    what = [machine.get("processor"), machine.get("device"), settings.get("backend")]
    threads = f"threads {settings.get('threads')}, TF32 {'on' if settings.get('tf32') else 'off'}"
    best: dict[tuple[str, str, str], Row] = {}
    for row in rows:
        key = row["geometry"], row["pass_name"], row["algorithm"]
        if key not in best or row["ms"] < best[key]["ms"]:
            best[key] = row
    return ", ".join([*map(str, what), threads]), list(best.values())


def table(rows: Sequence[Row]) -> str:
    """Return rows as a table, a line for each geometry and pass; the series and the loops are left out."""
    lines: dict[tuple[str, str], dict[str, Row]] = {}
    for row in rows:
        if row["algorithm"] not in LOOPS and not series_of(row):
            lines.setdefault((row["geometry"], row["pass_name"]), {})[row["algorithm"]] = row
    names = sorted({name for line in lines.values() for name in line}, key=in_order)
    ours = [name for name in names if name not in (FLOOR, TORCH, AUTO)]
    shown = [*ours, *(name for name in (TORCH, AUTO) if name in names)]
    titles = [{TORCH: "PyTorch"}.get(name, f"`{name}`") for name in shown]
    floors = FLOOR in names
    first = ["geometry", "pass", "floor, ms"] if floors else ["what, ms", "pass"]
    text = [f"| {' | '.join([*first, *titles])} |", f"|{'---|' * (len(first) + len(titles))}"]
    for (geometry, pass_name), line in lines.items():
        floor = line[FLOOR]["ms"] if FLOOR in line else 1.0
        ratios = {name: row["ms"] / floor for name, row in line.items()}
        best = min((ratios[name] for name in ours if name in ratios), default=None)
        cells = [f"`{geometry}`", pass_name, *([f"{floor:.3g}"] if floors else [])]
        for name in shown:
            cell = f"{ratios[name]:.2f}" if name in ratios else "–"
            if floors and name in ours and ratios.get(name) == best:
                cell = f"**{cell}**"
            variant = line[name].get("variant") if name == AUTO and name in line else None
            cells.append(f"{cell} ({variant})" if variant else cell)
        text.append(f"| {' | '.join(cells)} |")
    return "\n".join(text)


def series_of(row: Row) -> tuple[str, int] | None:
    """Return which series a geometry such as "batch-4" belongs to, and where."""
    name, _, number = row["geometry"].partition("-")
    return (name, int(number)) if name in ("batch", "size") and number.isdigit() else None


def in_order(name: str) -> tuple[int, str]:
    """Return where a candidate stands in tables and plots."""
    return ORDER.index(name) if name in ORDER else len(ORDER), name


def draw(title: str, rows: Sequence[Row], path: Path) -> None:
    """Draw time against the batch and the size of images."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(12, 5.2), layout="constrained")
    labels = {"batch": "images in the batch (28×28)", "size": "height and width of the 4 images"}
    for axes, (name, label) in zip(figure.subplots(1, 2), labels.items(), strict=True):
        own = [(where[1], row) for row in rows if (where := series_of(row)) and where[0] == name]
        strokes = itertools.cycle(itertools.product(("-", "--"), "os^vDPX<"))
        for algorithm in sorted({row["algorithm"] for _, row in own}, key=in_order):
            points = sorted((size, row["ms"]) for size, row in own if row["algorithm"] == algorithm)
            line, mark = next(strokes)
            style: Any = {"color": "black"} if algorithm == FLOOR else {}
            axes.plot(*zip(*points, strict=True), line, marker=mark, markersize=5, label=algorithm, **style)
        sizes = sorted({size for size, _ in own})
        axes.set(xscale="log", yscale="log", xlabel=label, title="32 to 32 channels, kernel 3×3, forward")
        axes.set_xticks(sizes, sizes, minor=False)
        axes.minorticks_off()
        axes.grid(color="0.9")
    figure.axes[0].set_ylabel("median time of a call, ms")
    handles, names = figure.axes[0].get_legend_handles_labels()
    figure.legend(handles, names, loc="outside right center", fontsize=9)
    figure.suptitle(title, fontsize=11)
    with replacing(path) as temporary:
        figure.savefig(temporary, format="png", dpi=90)


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("files", nargs="+", type=Path, metavar="FILE")
    parser.add_argument("--plot", type=Path, metavar="PNG", help="draw the series of the first file here")
    options = parser.parse_args(arguments)
    for path in options.files:
        title, rows = read(path)
        print(f"{title}\n\n{table(rows)}\n")
    if options.plot is not None:
        draw(*read(options.files[0]), options.plot)


if __name__ == "__main__":
    main()
