"""What docs/receptive-fields.md shows is what its code prints."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest

from tests.support.model_cases import without_drawing
from xpcnn.cli import main

PAGE = (Path(__file__).parents[2] / "docs" / "receptive-fields.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"```(python|sh)\n(.*?)```\n\n```text\n(.*?)```", PAGE, re.DOTALL)


@pytest.mark.slow
def test_every_block_prints_what_the_page_says(capsys: pytest.CaptureFixture[str]) -> None:
    assert len(BLOCKS) == PAGE.count("```python") + PAGE.count("```sh") >= 8
    names: dict[str, object] = {}
    for language, code, printed in BLOCKS:
        if language == "sh":
            program, *arguments = shlex.split(code)
            assert (program, main(arguments)) == ("xpcnn", 0)
        elif "import models" in code or "models.build" in code:
            with without_drawing():  # a hundred million numbers, none of which is shown
                exec(code, names)
        else:
            exec(code, names)
        assert capsys.readouterr().out == printed
