"""What docs/own.md shows runs, in a process that knows nothing of it but ``--import``."""

from __future__ import annotations

import doctest
import re
import subprocess
import sys
from pathlib import Path

import pytest

DOCS = Path(__file__).parents[1] / "docs"
BLOCKS = re.findall(r"```python\n(.*?)```", (DOCS / "own.md").read_text("utf-8"), flags=re.S)

USES = """
import numpy as np
from acme import Scale
from xpcnn import load_model, nn, testing

layer = Scale(3, start=2.0)
x = np.random.default_rng(0).standard_normal((2, 3, 2, 2)).astype("float32")
model = nn.Sequential(conv=nn.Conv2d(3, 3, 1, seed=0), scale=layer)
model.save("scale.npz")
assert (load_model("scale.npz")(x) == model(x)).all()
assert load_model("scale.npz").scale.start == 2.0
y, ctx = layer.forward(x)
grads = nn.Gradients()
layer.backward(ctx, np.ones_like(y), grads)
np.testing.assert_allclose(grads[layer.weight], x.sum(axis=(0, 2, 3)), rtol=1e-5)
"""


def run(folder: Path, *words: str) -> str:
    command = [sys.executable, *words]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    assert len(BLOCKS) == 3
    (tmp_path / "acme.py").write_text("\n".join(BLOCKS))
    return tmp_path


def test_the_layer(folder: Path) -> None:
    run(folder, "-c", USES)


def test_the_commands(folder: Path) -> None:
    imported = ("--import", "acme.py")
    train = ("train", *imported, "--model", "acme_net", "--dataset", "acme-digits", "--out", "runs/acme")
    quick = ("--epochs", "1", "--model-option", "width=4", "--train-samples", "100", "--test-samples", "50")
    run(folder, "-m", "xpcnn", *train, *quick)
    run(folder, "-m", "xpcnn", "evaluate", *imported, "runs/acme")
    run(folder, "-m", "xpcnn", "train", *imported, "--resume", "runs/acme", "--epochs", "2")


def test_the_page_on_weight_files() -> None:
    (block,) = re.findall(r"```python\n(.*?)```", (DOCS / "weight-files.md").read_text("utf-8"), flags=re.S)
    test = doctest.DocTestParser().get_doctest(block, {}, "weight-files.md", None, 0)
    assert doctest.DocTestRunner().run(test) == (0, 2)
