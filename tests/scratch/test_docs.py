"""The examples of docs/from-scratch.md, run in the order in which they stand."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

PAGE = Path(__file__).parents[2] / "docs" / "from-scratch.md"
TEXT = PAGE.read_text(encoding="utf-8")


def test_the_examples_run_and_print_what_they_should(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    blocks = re.findall(r"```python\n(.*?)```", TEXT, re.DOTALL)
    names: dict[str, object] = {"__name__": "page"}
    for block in blocks:
        exec(compile(block, PAGE.name, "exec"), names)
    out, err = capsys.readouterr()
    assert err == ""
    lines = out.splitlines()
    assert lines[0] == "6 steps, 2 epochs"
    assert lines[1].startswith("{'W1': (4, 1, 3, 3), 'b1': (4,), 'W2': (100, 20)")
    assert lines[2:8] == [
        "True True True True",
        "(4, 1, 3, 3) (4, 1, 3, 3)",
        "True",
        "float32 float32",
        "(4,)",
        "True True",
    ]
    assert "array_api_strict" in lines[8]


@pytest.mark.parametrize("line", sorted(set(re.findall(r"`(from xpcnn\.scratch\S* import [^`]+)`", TEXT))))
def test_the_import_lines_are_right(line: str) -> None:
    exec(line, {})
