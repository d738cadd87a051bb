"""What the README shows is run as it stands."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

README = Path(__file__).parent.parent / "README.md"


def test_the_ten_lines_run_and_learn(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys) -> None:
    monkeypatch.chdir(tmp_path)
    (code,) = re.findall(r"```python\n(.*?)```", README.read_text(encoding="utf-8"), re.DOTALL)
    assert len(code.strip().splitlines()) <= 12
    exec(compile(code, "README.md", "exec"), {})
    accuracy = float(capsys.readouterr().out.split("%")[0])
    assert accuracy > 90
    assert (tmp_path / "simple_convnet.safetensors").stat().st_size > 1_000_000


def test_the_techniques_page_runs() -> None:
    page = README.parent / "docs" / "techniques.md"
    names: dict[str, object] = {}
    for code in re.findall(r"```python\n(.*?)```", page.read_text(encoding="utf-8"), re.DOTALL):
        exec(compile(code, page.name, "exec"), names)
    history = names["trainer"].history  # type: ignore[attr-defined]
    assert len(history.epochs) == 2
    assert history.losses[-1] < history.losses[0]


def test_links_lead_to_files() -> None:
    for document in [README, *README.parent.glob("docs/*.md")]:
        for target in re.findall(r"\]\(([^)#:]+)\)", document.read_text(encoding="utf-8")):
            assert (document.parent / target).exists(), f"{document.name} links to {target}"
