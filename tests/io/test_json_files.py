"""JSON within bounds, and values held field by field against annotated classes."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, Literal, NamedTuple

import pytest

from xpcnn import io
from xpcnn.errors import CheckpointError
from xpcnn.io import json_files

REFUSED = {
    "nothing": ("", "Expecting value"),
    "half": ('{"a": [1, 2', "Expecting"),
    "no UTF-8": (b'"\xff\xfe"', "codec can't decode"),
    "NaN": ('{"a": NaN}', "NaN is no finite number"),
    "infinity": ("[Infinity]", "Infinity is no finite number"),
    "minus infinity": ("[-Infinity]", "-Infinity is no finite number"),
    "infinite in effect": ("[1e999]", "1e999 is no finite number"),
    "many digits": ("9" * 5000, "a number of 5,000 digits"),
    "many digits, negative": ("-" + "9" * 5000, "a number of 5,001 digits"),
    "many digits before a point": ("9" * 5000 + ".5", "is no finite number"),
    "a name twice": ('{"a": 1, "b": {"c": 2, "c": 3}}', "'c' stands there twice"),
    "51 deep": ("[" * 51 + "]" * 51, "nested more than 50 deep"),
    "51 deep, in objects": ('{"a":' * 51 + "1" + "}" * 51, "nested more than 50 deep"),
    "100,000 deep": ("[" * 100_000 + "]" * 100_000, "nested too deep"),
    "100,000 deep, without an end": ("[" * 100_000, "nested too deep"),
}


@pytest.mark.parametrize(("content", "told"), REFUSED.values(), ids=REFUSED.keys())
def test_what_is_refused(tmp_path: Path, content: str | bytes, told: str) -> None:
    (tmp_path / "a.json").write_bytes(content.encode() if isinstance(content, str) else content)
    with pytest.raises(CheckpointError) as caught:
        io.read_json(tmp_path / "a.json")
    assert str(caught.value).startswith(f"{tmp_path / 'a.json'}: unreadable: ")
    assert told in str(caught.value)
    assert len(str(caught.value)) < 400
    assert "\n" not in str(caught.value)


def test_what_is_read_as_it_was_written(tmp_path: Path) -> None:
    values: list[Any] = [
        "[[]]" * 60,
        '"\\',
        {"[": "]{"},
        [["["] * 3] * 100,
        10**38,
        -0.5,
        None,
        True,
        [1e308],
    ]
    for value in (*values, {"é": "\x1b"}):
        io.write_json(tmp_path / "a.json", value)
        assert io.read_json(tmp_path / "a.json") == value
    with pytest.raises(ValueError, match="JSON"):
        io.write_json(tmp_path / "a.json", [float("nan")])
    assert [path.name for path in tmp_path.iterdir()] == ["a.json"]
    assert io.parse_json("[" * 50 + "]" * 50, "x") is not None


def test_files_that_are_not_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for path, told in {
        tmp_path / "absent": "no such file",
        tmp_path: "cannot be read: Is a directory",
    }.items():
        with pytest.raises(CheckpointError, match=f"{path}: {told}"):
            io.read_json(path)
    (tmp_path / "a.json").write_text("[" + "1," * 600 + "1]")
    assert len(io.read_json(tmp_path / "a.json")) == 601
    monkeypatch.setattr(json_files, "MOST_BYTES", 1000)
    with pytest.raises(CheckpointError, match="larger than 1,000 bytes"):
        io.read_json(tmp_path / "a.json")


class Point(NamedTuple):
    x: int
    y: int = 0


class Told(NamedTuple):
    kind: Literal["a", "b"]


@dataclass
class Settings:
    name: str
    rate: Annotated[float, io.Range(0, above=True)]
    count: Annotated[int, io.Range(1, 10)] | None = None
    size: tuple[int, int] = (1, 1)
    losses: list[float | None] = field(default_factory=list)
    points: tuple[Point, ...] = ()
    more: Mapping[str, Any] = field(default_factory=dict)
    told: Told | None = None
    exact: bool = False


WHOLE = {
    "name": "n",
    "rate": 1,
    "count": 3,
    "size": [2, 3],
    "losses": [1.5, None, 2],
    "points": [{"x": 1}, {"x": 2, "y": 3}],
    "more": {"any": [{}]},
    "told": {"kind": "b"},
    "exact": True,
}


def test_a_record() -> None:
    found, points = io.checked(Settings, WHOLE, "run.json"), (Point(1), Point(2, 3))
    assert found == Settings("n", 1.0, 3, (2, 3), [1.5, None, 2], points, {"any": [{}]}, Told("b"), True)
    assert type(found.rate) is float
    assert io.checked(Settings, {"name": "n", "rate": 0.5}, "run.json") == Settings("n", 0.5)


WRONG: dict[str, tuple[Any, str]] = {
    "name": (3, "name: expected text, got 3"),
    "rate": (0, "rate: expected a number above 0, got 0"),
    "count": (11, "count: expected a whole number of at least 1 and of at most 10, got 11"),
    "size": ([1, 2, 3], "size: expected a list of 2, got a list of 3"),
    "losses": ([1.0, [], None], "losses[1]: expected a number, got a list of 0"),
    "points": ([{"x": 1}, {"x": None}], "points[1].x: expected a whole number, got None"),
    "more": ([], "more: expected a mapping, got a list of 0"),
    "told": ({"kind": "c"}, "told.kind: expected one of 'a', 'b', got 'c'"),
    "exact": (1, "exact: expected true or false, got 1"),
}


def test_the_field_that_is_wrong_is_named() -> None:
    for name, (value, told) in WRONG.items():
        with pytest.raises(CheckpointError) as caught:
            io.checked(Settings, {**WHOLE, name: value}, "run.json")
        assert str(caught.value) == f"run.json: {told}"


@pytest.mark.parametrize(
    ("kind", "value"),
    [
        (int, True), (int, 1.0), (int, "1"), (float, True), (float, "1"), (float, 10**400),
        (str, None), (bool, 0),
        (list[int], {}), (tuple[int, ...], [1.5]), (dict[str, int], [1]), (int | None, "x"), (None, 0),
        (Settings, []), (Settings, None), (Point, [1, 2]), (Told, {}), (Literal["a"], ["a"]),
        (Literal[1], True), (Annotated[int, io.Range(1)], 0), (Annotated[int, io.Range(1)] | None, 0),
        (list[Annotated[int, io.Range(1)]], [0]),
    ],
    ids=str,
)  # fmt: skip
def test_values_of_another_kind(kind: Any, value: Any) -> None:
    with pytest.raises(CheckpointError, match=r"^a\.json: "):
        io.checked(kind, value, "a.json")


def test_missing_and_unknown_entries() -> None:
    with pytest.raises(CheckpointError, match=r"^run\.json: lacks name, rate$"):
        io.checked(Settings, {}, "run.json")
    with pytest.raises(CheckpointError, match=r"^run.json: has the unknown entry 'new\\x1b'$"):
        io.checked(Settings, {**WHOLE, "new\x1b": 1}, "run.json")
    assert io.checked(Settings, {**WHOLE, "new": 1}, "run.json", more=True).name == "n"
    with pytest.raises(CheckpointError, match=r"points\[0\]: has the unknown entry 'z'"):
        io.checked(Settings, {**WHOLE, "points": [{"x": 1, "z": 1}]}, "run.json", more=True)


def test_messages_are_short_and_on_one_line() -> None:
    for value in ("x\n" * 5000, 10**79, ["x"] * 5000, {"x" * 5000: 1}):
        with pytest.raises(CheckpointError) as caught:
            io.checked(dict[str, list[bool]], {"a\n" * 5000: value}, "run.json")
        assert len(str(caught.value)) < 200
        assert "\n" not in str(caught.value)


def test_a_list_of_many_losses_is_quick() -> None:
    """A million steps are an ordinary run; one by one they would take ten seconds."""
    begun = time.process_time()
    assert io.checked(list[float | None], [0.5, None] * 150_000, "history.jsonl") == [0.5, None] * 150_000
    assert time.process_time() - begun < 0.5
    with pytest.raises(CheckpointError, match=r"\[1\]: expected a whole number of at least 1, got 0"):
        io.checked(list[Annotated[int, io.Range(1)]], [1, 0], "run.json")
