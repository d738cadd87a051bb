"""The examples of README.md and docs/ run as they stand, and their links lead to files."""

import doctest
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

import xpcnn

README = Path(__file__).parents[1] / "README.md"
DOCS = README.parent / "docs"


def code_of(page):
    """The Python blocks of a page."""
    return re.findall(r"```python\n(.*?)```", page.read_text("utf-8"), flags=re.S)


def run(page):
    """What is defined once all blocks of a page have run."""
    names = {"__name__": page.stem}
    for code in code_of(page):
        exec(compile(code, page.name, "exec"), names)
    return names


@pytest.fixture(autouse=True)
def _in_a_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


@pytest.mark.slow
def test_the_ten_lines_run_and_learn(capsys):
    run(README)
    assert float(capsys.readouterr().out.split("%")[0]) > 90
    assert Path("simple_convnet.safetensors").stat().st_size > 1_000_000


@pytest.mark.slow
def test_techniques():
    history = run(DOCS / "techniques.md")["trainer"].history
    assert len(history.epochs) == 2
    assert history.losses[-1] < history.losses[0]


def test_transfer_learning(monkeypatch, capsys):
    digits, fit = xpcnn.data.synthetic_digits(220), xpcnn.Trainer.fit

    def fit_briefly(self, images, *, epochs, batch_size):
        return fit(self, images, epochs=1, batch_size=batch_size, progress=None)

    monkeypatch.setattr(xpcnn.Trainer, "fit", fit_briefly)
    monkeypatch.setattr(xpcnn.data, "mnist", lambda: (digits[:160], digits[160:]))
    page = DOCS / "transfer-learning.md"
    names = run(page)
    shown = re.findall(r"^print\(report\.\w+\) +# (\[.*?\])", "\n".join(code_of(page)), re.M)
    assert [line for line in capsys.readouterr().out.splitlines() if line.startswith("[")] == shown
    assert len(shown) == 2
    assert names["source"].fc is names["head"].fc


def test_hyperparameter_search(capsys):
    block, _ = code_of(DOCS / "hyperparameter-search.md")  # the other needs Optuna
    names = {}
    exec(compile(block, "hyperparameter-search.md", "exec"), names)
    assert f"{names['trials'][0].accuracy:.1%}" in capsys.readouterr().out


USES = """
import numpy as np
from xpcnn import load_model, nn

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


@pytest.mark.process
def test_own_layer():
    """In a process of its own, as it registers a layer, a model and a dataset."""
    code = "\n".join([*code_of(DOCS / "own.md"), USES])
    path = str(Path(xpcnn.__file__).parents[1])
    done = subprocess.run([sys.executable, "-c", code], env={**os.environ, "PYTHONPATH": path}, check=False)
    assert done.returncode == 0


def test_weight_files():
    (block,) = code_of(DOCS / "weight-files.md")
    test = doctest.DocTestParser().get_doctest(block, {}, "weight-files.md", None, 0)
    assert doctest.DocTestRunner().run(test) == (0, 2)


def test_links_lead_to_files():
    for document in [README, *DOCS.glob("*.md")]:
        for target in re.findall(r"\]\(([^)#:]+)\)", document.read_text("utf-8")):
            assert (document.parent / target).exists(), f"{document.name} links to {target}"
