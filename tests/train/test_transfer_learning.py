"""The transfer-learning page as it stands, and its measurement in miniature."""

from __future__ import annotations

import importlib
import json
import re
import sys
from pathlib import Path
from typing import Any

import pytest

from xpcnn import Trainer, data
from xpcnn.data import Dataset

ROOT = Path(__file__).parents[2]
PAGE = ROOT / "docs" / "transfer-learning.md"

sys.path.append(str(ROOT))  # the benchmarks are not installed with the package
transfer: Any = importlib.import_module("benchmarks.transfer")
WAYS = transfer.WAYS


@pytest.fixture(scope="module")
def small() -> tuple[Dataset, Dataset]:
    digits = data.synthetic_digits(220)
    return digits[:160], digits[160:]


# -- the page -----------------------------------------------------------------------------


def test_what_the_page_shows_runs(
    small: tuple[Dataset, Dataset], tmp_path: Path, monkeypatch: Any, capsys: Any
) -> None:
    fit = Trainer.fit
    trained: list[tuple[list[str], int]] = []

    def fit_briefly(self: Trainer, images: Any, *, epochs: int, batch_size: int) -> Any:
        free = [path for path, parameter in self.model.parameters().items() if parameter.trainable]
        trained.append((free, images.classes))
        return fit(self, images, epochs=1, batch_size=batch_size, progress=None)

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(Trainer, "fit", fit_briefly)
    monkeypatch.setattr(data, "mnist", lambda: small)
    names: dict[str, Any] = {}
    blocks = re.findall(r"```python\n(.*?)```", PAGE.read_text(encoding="utf-8"), re.DOTALL)
    for block in blocks:
        exec(compile(block, PAGE.name, "exec"), names)
    said = capsys.readouterr().out.splitlines()
    shown = re.findall(r"^print\(report\.\w+\) +# (\[.*?\])", "\n".join(blocks), re.MULTILINE)
    assert len(shown) == 2
    assert [line for line in said if line.startswith("[")] == shown
    dense = ["f6.weight", "f6.bias", "output.weight", "output.bias"]
    assert [free for free, _ in trained][1] == dense
    assert [len(free) for free, _ in trained] == [14, 4, 14, 2]
    assert {classes for _, classes in trained} == {5}
    assert sum("%" in line for line in said) == 2
    assert names["source"].fc is names["head"].fc


# -- the measurement ----------------------------------------------------------------------

TINY = transfer.Plan(each=6, validation=20, epochs=(1, 3), frozen_epochs=2, batch=10, lrs=(1e-3, 3e-3))


def test_one_seed_in_miniature(small: tuple[Dataset, Dataset]) -> None:
    found = transfer.measure(0, TINY, *small)
    assert list(found["ways"]) == list(WAYS)
    for way in found["ways"].values():
        assert list(way) == ["1", "3"]
        assert all(list(rates) == ["0.001", "0.003"] for rates in way.values())
    kept = {"plan": {"epochs": [1, 3], "frozen_epochs": 2}, "seeds": {"0": json.loads(json.dumps(found))}}
    assert transfer.table(kept).count("\n") == 1 + 3 + 4
