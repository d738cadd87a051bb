"""Records in files: written whole, read back the same, compared; and drawn."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from xpcnn.bench import plots, report
from xpcnn.bench.geometries import BATCHES, CONVOLUTIONS, SIZES
from xpcnn.bench.measure import FLOOR, Result
from xpcnn.bench.record import Record, changes, load, save
from xpcnn.errors import CheckpointError


def result(geometry: str, algorithm: str, ms: float | None, **more: Any) -> Result:
    known: dict[str, Any] = {}
    if ms is not None:
        known = {
            "ms": ms,
            "low_ms": 0.9 * ms,
            "high_ms": 1.1 * ms,
            "rounds": 7,
            "gflops": 1 / ms,
            "error": 1e-7,
        }
    return Result(geometry, "d", algorithm, more.pop("pass_name", "forward"), 1e6, 2e5, **known, **more)


def record(*results: Result, kind: str = "conv") -> Record:
    machine = {"processor": "P", "cores": 2, "device": "cpu", "gemm_gflops": 50.0, "copy_gbytes": 10.0}
    settings = {"benchmark": kind, "backend": "numpy", "dtype": "float32", "threads": 1, "tf32": False}
    return Record(machine, {"numpy": "2"}, settings, list(results))


SOME = record(
    result("tiny", FLOOR, 1.0, workspace_bytes=0),
    result("tiny", "im2col", 2.0, workspace_bytes=3 << 20, floor_ratio=2.0),
    result("tiny", "fft", None, reason="is for larger kernels"),
    result("tiny", "mec", None, reason="WRONG", wrong=True),
)


def test_round_trip(tmp_path: Path) -> None:
    save(SOME, tmp_path / "a.json")
    assert load(tmp_path / "a.json") == SOME
    kept = json.loads((tmp_path / "a.json").read_text())
    assert list(kept) == ["machine", "versions", "settings", "results"]
    assert [path.name for path in tmp_path.iterdir()] == ["a.json"]


def test_a_failure_leaves_the_old_file(tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    save(SOME, path)
    before = path.read_bytes()
    with pytest.raises(TypeError):
        save(replace(SOME, machine={"x": object()}), path)
    assert path.read_bytes() == before
    assert len(list(tmp_path.iterdir())) == 1


def test_a_folder_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="cannot write"):
        save(SOME, tmp_path / "absent" / "a.json")


FOREIGN = {
    "": "a.json: unreadable: ",
    "truncated": "a.json: unreadable: ",
    "\xff\xfe": "a.json: unreadable: ",
    "[]": "is no file of `xpcnn bench`",
    '{"benchmarks": []}': "is no file of `xpcnn bench`",
    '{"machine": {}, "versions": {}, "settings": {}, "results": []}': "not written by this version",
    '{"machine": {}, "versions": {}, "settings": {"benchmark": "conv"}, "results": 5}': "not written by",
    '{"machine": {}, "versions": {}, "settings": {"benchmark": "conv"}, "results": [{}]}': "not written by",
    '{"machine": {}, "versions": {}, "settings": {"benchmark": "conv"}, "results": ["x"]}': "not written by",
    '{"machine": {}, "versions": {}, "settings": 1, "results": []}': "not written by this version",
}


@pytest.mark.parametrize("content", FOREIGN)
def test_damaged_and_foreign_files(tmp_path: Path, content: str) -> None:
    path = tmp_path / "a.json"
    if content == "truncated":
        save(SOME, path)
        path.write_bytes(path.read_bytes()[:-40])
    else:
        path.write_bytes(content.encode("latin-1"))
    with pytest.raises(CheckpointError, match=FOREIGN[content]) as caught:
        load(path)
    assert str(caught.value).startswith(f"{path}: ")
    assert "\n" not in str(caught.value)


def test_a_file_that_cannot_be_read(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"a\.json: no such file"):
        load(tmp_path / "a.json")


def test_changes() -> None:
    before = record(*(result("tiny", name, 1.0) for name in ("same", "noisy", "faster", "slower", "gone")))
    after = record(
        result("tiny", "same", 1.0),
        result("tiny", "noisy", 1.15),
        result("tiny", "faster", 0.5),
        result("tiny", "slower", 2.0),
        result("tiny", "new", 1.0),
        result("tiny", "gone", None, reason="no"),
    )
    found, only_before, only_after = changes(before, after)
    assert {change.algorithm: change.verdict for change in found} == {
        "same": "",
        "noisy": "",
        "faster": "faster",
        "slower": "slower",
    }
    assert [change.ratio for change in found] == [1, 1.15, 0.5, 2]
    assert (only_before, only_after) == (1, 1)
    lines = report.comparison(before, replace(after, versions={"numpy": "3"})).splitlines()
    assert lines[0] == "versions differ: numpy 2 and 3"
    assert lines[4].split() == ["tiny", "faster", "forward", "1.000", "0.500", "0.50", "faster"]
    assert lines[-1] == (
        "4 compared: 1 faster, 1 slower, 2 within the spread; 1 only in the first, 1 only in the second"
    )


def test_a_record_compared_with_itself() -> None:
    assert (
        report.comparison(SOME, SOME).splitlines()[-1]
        == "2 compared: 0 faster, 0 slower, 2 within the spread"
    )


def test_table() -> None:
    assert report.table(SOME.results).splitlines() == [
        "tiny: d; 1 MFLOP",
        "  algorithm   pass        ms  spread  GFLOP/s  x floor  workspace",
        "  gemm floor  forward  1.000     10%      1.0                 0 B",
        "  im2col      forward  2.000     10%      0.5     2.00    3.0 MiB",
        "  fft: is for larger kernels",
        "  mec: WRONG",
    ]


def test_reasons_of_some_passes() -> None:
    said = "conv2d: algorithm 'x' needs stride 1; algorithm='auto' picks one that can"
    results = [
        result("tiny", "x", None, reason=said),
        result("tiny", "y", 1.0),
        result("tiny", "y", None, reason="no", pass_name="grad_input"),
        result("tiny", "x", None, reason=said, pass_name="grad_input"),
    ]
    assert report.table(results).splitlines()[-2:] == ["  x: needs stride 1", "  y grad_input: no"]


# Pictures.


def many() -> Record:
    results = []
    for i, name in enumerate((*CONVOLUTIONS, *BATCHES, *SIZES), start=1):
        for factor, algorithm in (
            (1, FLOOR),
            (1.5, "im2col"),
            (900, "loop"),
            (0.8, "torch"),
            (2, "unheard of"),
        ):
            results.append(result(name, algorithm, factor * i))
    return record(*results)


def test_pictures_of_convolutions(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    found = plots.draw(many(), tmp_path / "c.png")
    assert [path.name for path in found] == ["c.png", "c-roofline.png", "c-series.png"]
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted(path.name for path in found)
    assert all(path.read_bytes().startswith(b"\x89PNG") for path in found)


@pytest.mark.parametrize(("ending", "start"), [("svg", b"<?xml"), ("pdf", b"%PDF")])
def test_endings(tmp_path: Path, ending: str, start: bytes) -> None:
    pytest.importorskip("matplotlib")
    (path,) = plots.draw(record(result("relu", "xpcnn", 1.0), kind="pool"), tmp_path / f"p.{ending}")
    assert path.read_bytes().startswith(start)


def test_pictures_of_what_there_is(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    pool = record(result("relu", "xpcnn", 1.0), result("relu", "torch", 30.0), kind="pool")
    assert plots.draw(pool, tmp_path / "p.png") == [tmp_path / "p.png"]
    nothing = record(result("relu", "xpcnn", None, reason="no"))
    assert plots.draw(nothing, tmp_path / "n.png") == []
    floor = record(result("tiny", FLOOR, 1.0))
    assert plots.draw(floor, tmp_path / "f.png")[0] == tmp_path / "f.png"
    series = record(*(result(name, "im2col", 1.0) for name in SIZES))
    assert plots.draw(series, tmp_path / "s.png") == [tmp_path / "s-series.png"]


def test_long_bars_are_cut_and_say_their_time() -> None:
    pytest.importorskip("matplotlib")
    figure = plots._bars(SOME, [*SOME.results[:2], result("tiny", "loop", 5000.0)])
    (axes,) = [axes for axes in figure.axes if axes.get_visible()]
    assert [text.get_text() for text in axes.texts] == ["5 s"]
    assert axes.get_ylim()[1] < 5000


def test_axes_say_what_they_are() -> None:
    pytest.importorskip("matplotlib")
    whole = many()
    axes = plots.roofline(whole, [one for one in whole.results if one.geometry in CONVOLUTIONS]).axes[0]
    assert (axes.get_xscale(), axes.get_yscale()) == ("log", "log")
    assert "FLOP/B" in axes.get_xlabel()
    assert "GFLOP/s" in axes.get_ylabel()
    labels = axes.get_legend_handles_labels()[1]
    assert labels[1:] == [FLOOR, "im2col", "torch", "unheard of"]
    assert "50 GFLOP/s" in labels[0]
    series = plots.series_of(whole, [one for one in whole.results if one.geometry in {*BATCHES, *SIZES}])
    for axes in series.axes:
        assert (axes.get_xscale(), axes.get_yscale()) == ("log", "log")
        assert axes.get_xlabel()
    drawn = series.axes[0].get_lines()[1]
    assert list(drawn.get_xdata()) == [1, 2, 4, 8, 16, 32, 64]
