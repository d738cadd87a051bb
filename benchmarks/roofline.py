"""Draw the rates of convolution algorithms under the machine's roofs: arithmetic, and memory.

    xpcnn bench conv --json bench.json          # or pytest benchmarks --benchmark-json bench.json
    python -m benchmarks.roofline bench.json --plot roofline.png

The roofs are measured when a file is drawn for the first time, on the machine that it was made on, and kept
in it. Arithmetic: the faster of a large matrix product and of the compiled kernels on a convolution whose
arrays stay in a cache. Memory: the faster of a large copy and a large sum.

The rate is that of the direct method's operations, so an algorithm that saves some can pass the roof. The
intensity is operations by bytes of the three arrays, each moved once: one number for all passes.
"""

from __future__ import annotations

import argparse
import itertools
import json
import timeit
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.report import AUTO, FLOOR, LOOPS, Row, in_order, read
from xpcnn import ops
from xpcnn.backend import use_backend
from xpcnn.backend.cpu.native.library import why_absent
from xpcnn.cli.bench import held_to
from xpcnn.cli.bench_cases import CONVOLUTIONS, PASSES, channels_last, conv_arrays, conv_geometry
from xpcnn.cli.machine import hardware
from xpcnn.io import replacing, write_json
from xpcnn.ops import ConvGeometry

PRODUCT, MEMORY, ROUNDS = 1536, 1 << 26, 20
"""Rows of the large matrices, numbers in the large arrays, and how often each is timed."""

ITEMSIZE = {"float32": 4, "float64": 8}
ARITHMETIC, TRANSFER = "_gflops", "_gbytes"
"""How names of roofs end."""

Roofs = Mapping[str, float]


def intensity(geometry: ConvGeometry, itemsize: int) -> float:
    """Return operations by byte, where each array is moved once.

    Examples
    --------
    >>> intensity(conv_geometry((1, 1, 4, 4), 1, 1), 4) == 2 * 16 / (4 * (16 + 1 + 16))
    True
    """
    shapes = geometry.input_shape, geometry.weight_shape, geometry.output_shape
    return 2 * geometry.macs / (itemsize * sum(int(np.prod(shape)) for shape in shapes))


def best(roofs: Roofs, unit: str) -> float:
    """Return the highest roof of a unit."""
    return max(value for name, value in roofs.items() if name.endswith(unit))


def measured_roofs(threads: int, dtype: str) -> dict[str, float]:
    """Return GFLOP/s and GB/s that this machine reaches with so many threads: the best of some rounds."""
    a, b, product = (np.ones((PRODUCT, PRODUCT), dtype) for _ in range(3))
    x, y, z = (np.ones(MEMORY, dtype) for _ in range(3))
    calls: dict[str, Callable[[], Any]] = {
        "gemm_gflops": lambda: np.matmul(a, b, out=product),
        "copy_gbytes": lambda: np.copyto(y, x),
        "add_gbytes": lambda: np.add(x, y, out=z),
    }
    work = {"gemm_gflops": 2 * PRODUCT**3, "copy_gbytes": 2 * x.nbytes, "add_gbytes": 3 * x.nbytes}
    with use_backend("numpy") as backend, held_to(backend, threads):
        if why_absent() is None:  # dilated, so that Winograd's method cannot be what runs
            geometry = conv_geometry((threads, 64, 32, 32), 64, 3, padding=2, dilation=2)
            image, weight, _ = conv_arrays(geometry, dtype)
            image = channels_last(backend, image)
            options: dict[str, Any] = {"padding": 2, "dilation": 2}
            calls["native_gflops"] = lambda: ops.conv2d(image, weight, **options, algorithm="native")
            work["native_gflops"] = 2 * geometry.macs
        seconds = {name: min(timeit.repeat(call, number=1, repeat=ROUNDS)) for name, call in calls.items()}
    return {name: work[name] / least / 1e9 for name, least in seconds.items()}


def roofs_of(path: Path) -> tuple[Roofs, int]:
    """Return the roofs of a file, measured and kept in it where it has none, and the bytes of a number."""
    kept = json.loads(path.read_text("utf-8"))
    of_pytest = "benchmarks" in kept
    about = kept["benchmarks"][0]["extra_info"] if of_pytest else {**kept["settings"], **kept}
    dtype, machine = about.get("dtype", "float32"), about["machine"]
    known = {**machine, **kept.get("roofs", {})}
    roofs = {name: value for name, value in known.items() if name.endswith((ARITHMETIC, TRANSFER))}
    if not roofs:
        if hardware()["processor"] != machine["processor"] or machine["device"] != "cpu":
            raise SystemExit(f"{path}: its roofs can be measured only where it was made, on {machine}")
        roofs = kept["roofs"] = measured_roofs(about["threads"], dtype)
        write_json(path, kept)
    return roofs, ITEMSIZE[dtype]


def label_places(places: Mapping[str, float]) -> tuple[list[float], list[str]]:
    """Return places and labels, in order; those that would lie on each other have one together.

    Examples
    --------
    >>> label_places({"b": 10.5, "a": 10.0, "c": 20.0})
    ([10.0, 20.0], ['a, b', 'c'])
    """
    labels: dict[float, str] = {}
    for name, place in sorted(places.items(), key=lambda one: one[1]):
        last = next(reversed(labels), 0.0)
        if place < 1.1 * last:
            labels[last] += f", {name}"
        else:
            labels[place] = name
    return list(labels), list(labels.values())


def draw(title: str, rows: Sequence[Row], roofs: Roofs, itemsize: int, path: Path) -> None:
    """Draw GFLOP/s over intensity, a panel for each pass, and the roofs."""
    from matplotlib.figure import Figure

    where = {name: intensity(geometry, itemsize) for name, geometry in CONVOLUTIONS.items()}
    rows = [row for row in rows if row["geometry"] in where and row["algorithm"] not in (*LOOPS, AUTO)]
    peak, memory = best(roofs, ARITHMETIC), best(roofs, TRANSFER)
    shown = {row["geometry"]: where[row["geometry"]] for row in rows}
    xs = np.geomspace(min(shown.values()) / 1.5, max(shown.values()) * 1.5)
    figure = Figure(figsize=(14, 6), layout="constrained")
    names = sorted({row["algorithm"] for row in rows}, key=in_order)
    styles = dict(zip(names, itertools.cycle(zip("os^vDPX<*", range(9), strict=True)), strict=False))
    for axes, pass_name in zip(figure.subplots(1, 3, sharey=True), PASSES, strict=True):
        axes.plot(xs, np.minimum(peak, memory * xs), color="black", label="roof")
        for name in names:
            points = sorted(
                (where[row["geometry"]], row["gflops"])
                for row in rows
                if (row["algorithm"], row["pass_name"]) == (name, pass_name)
            )
            marker, color = styles[name]
            style = {"color": f"C{color}", "marker": marker}
            if name == FLOOR:
                style = {"color": "0.4", "marker": "_", "markersize": 12}
            if points:
                axes.plot(*zip(*points, strict=True), linestyle="none", label=name, **style)
        axes.set(xscale="log", yscale="log", title=pass_name, xlabel="arithmetic intensity, FLOP/byte")
        axes.grid(color="0.9")
        above = axes.secondary_xaxis("top")
        above.set_xticks(*label_places(shown), rotation=90, fontsize=8)
    figure.axes[0].set_ylabel("operations of the direct method, GFLOP/s")
    handles, labels = figure.axes[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside right center", fontsize=9)
    figure.suptitle(f"{title}; roofs {peak:.0f} GFLOP/s and {memory:.1f} GB/s", fontsize=11)
    with replacing(path) as temporary:
        figure.savefig(temporary, format="png", dpi=90)


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("file", type=Path, metavar="FILE")
    parser.add_argument("--plot", type=Path, metavar="PNG", required=True)
    options = parser.parse_args(arguments)
    roofs, itemsize = roofs_of(options.file)
    draw(*read(options.file), roofs, itemsize, options.plot)


if __name__ == "__main__":
    main()
