"""The transfer-learning page as it stands, and its measurement in miniature."""

from __future__ import annotations

import importlib
import json
import re
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from xpcnn import Trainer, data, models, nn
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
    small: tuple[Dataset, Dataset],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
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


def test_the_pages_features_are_those_of_the_whole_network(small: tuple[Dataset, Dataset]) -> None:
    """Without the last layer, the children of a published network are its body."""
    source = models.resnet20(in_channels=1)
    layers = source.children()
    fc = layers.pop("fc")
    images = small[0].images[:3]
    np.testing.assert_array_equal(fc(nn.Sequential(layers)(images)), source(images))


# -- the measurement ----------------------------------------------------------------------

TINY = transfer.Plan(each=6, validation=20, epochs=(1, 3), frozen_epochs=2, batch=10, lrs=(1e-3, 3e-3))


def test_the_digits_and_a_few_of_them(small: tuple[Dataset, Dataset]) -> None:
    new = transfer.digits(small[0], transfer.NEW)
    assert (new.classes, set(new.labels)) == (5, set(range(5)))
    assert len(new) == int((small[0].labels >= 5).sum())
    few, validation = transfer.a_few(new, TINY, seed=3)
    assert np.bincount(few.labels).tolist() == [6] * 5
    assert len(validation) == 20
    rows = [image.tobytes() for part in (few, validation) for image in part.images]
    assert len(set(rows)) == 50
    again, other = transfer.a_few(new, TINY, seed=3)[0], transfer.a_few(new, TINY, seed=4)[0]
    np.testing.assert_array_equal(again.images, few.images)
    assert (other.images != few.images).any()


def test_each_way(small: tuple[Dataset, Dataset], monkeypatch: pytest.MonkeyPatch) -> None:
    old = transfer.network(0)
    few, _ = transfer.a_few(transfer.digits(small[0], transfer.NEW), TINY, 0)
    begun: list[tuple[Any, ...]] = []

    def layers(paths: Any) -> str:
        return " ".join(dict.fromkeys(path.split(".")[0] for path in paths))

    def noting(trainer: Trainer, images: Dataset, *, epochs: int, batch_size: int, **options: Any) -> None:
        parameters, before = trainer.model.parameters(), old.parameters()
        free = layers(path for path, parameter in parameters.items() if parameter.trainable)
        weights = [path for path in parameters if path.endswith("weight") and path[0] != "s"]
        taken = layers(path for path in weights if (parameters[path].data == before[path].data).all())
        begun.append((epochs, round(trainer.optimizer.lr, 6), taken, free))
        assert images is few
        assert batch_size == 10

    monkeypatch.setattr(Trainer, "fit", noting)
    heads = []
    for way in WAYS.values():
        steps = list(transfer.learn(way, old, few, TINY, 3e-3, seed=0))
        assert [epochs for epochs, _ in steps] == [1, 3]
        heads.append(steps[0][1].parameters()["f6.weight"].data)
    everything = "c1 s2 c3 s4 c5 f6 output"
    assert begun == [
        (1, 3e-3, "", everything),
        (2, 3e-3, "", everything),
        (1, 3e-3, "c1 c3", "c5 f6 output"),
        (2, 3e-3, "c1 c3", "c5 f6 output"),
        (1, 3e-3, "c1 c3 c5", "f6 output"),
        (2, 3e-3, "c1 c3 c5", "f6 output"),
        (1, 3e-3, "c1 c3 c5", "f6 output"),
        (1, 3e-3, "c1 c3 c5", "f6 output"),
        (1, 1e-3, "c1 c3 c5", everything),
    ]
    for head in heads[1:]:  # all begin alike
        np.testing.assert_array_equal(head, heads[0])


def test_one_seed_in_miniature(small: tuple[Dataset, Dataset]) -> None:
    found = transfer.measure(0, TINY, *small)
    assert list(found["ways"]) == list(WAYS)
    for way in found["ways"].values():
        assert list(way) == ["1", "3"]
        assert all(list(rates) == ["0.001", "0.003"] for rates in way.values())
    kept = {"plan": {"epochs": [1, 3], "frozen_epochs": 2}, "seeds": {"0": json.loads(json.dumps(found))}}
    assert transfer.table(kept).count("\n") == 1 + 3 + 4
