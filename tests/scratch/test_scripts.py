"""Scripts in the manner of the book's chapters 5 to 8, run as they stand on several backends.

In ``scripts/``, import lines alone tell them from scripts for the book's own modules.
"""

import runpy
import sys
from pathlib import Path

import numpy as np
import pytest

import xpcnn
from xpcnn.scratch import np as scratch_np

pytestmark = pytest.mark.slow
SCRIPTS = Path(__file__).parent / "scripts"


@pytest.fixture(params=["numpy", "torch", "array_api_strict"])
def run(request, tmp_path, monkeypatch, small_mnist):
    """Runs a script on one backend, in an empty folder, and gives its variables."""
    name = request.param
    if reason := xpcnn.available_backends()[name]:
        pytest.skip(reason)
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(SCRIPTS))
    with xpcnn.use_backend(name):
        scratch_np.random.seed(0)
        yield lambda script: runpy.run_path(str(SCRIPTS / f"{script}.py"))
    sys.modules.pop("two_layer_net", None)


numpy_and_torch = pytest.mark.parametrize("run", ["numpy", "torch"], indirect=True)
"""For scripts that index by arrays or sum booleans, which the bare standard does not have."""


@numpy_and_torch
def test_chapter_5_training(run):
    script = run("chapter5_train")
    assert len(script["train_acc_list"]) == len(script["test_acc_list"]) == 31
    assert float(script["train_loss_list"][-1]) < 0.5 * float(script["train_loss_list"][0])
    assert float(script["test_acc_list"][-1]) > 0.7


@numpy_and_torch
def test_chapter_6_optimizers(run):
    script = run("chapter6_optimizers")
    for key, curve in script["curves"].items():
        assert isinstance(curve, np.ndarray)
        assert len(curve) == 40
        assert curve[-1] < curve[0], key
    assert script["curves"]["Adam"][-1] < script["curves"]["SGD"][-1]


@numpy_and_torch
def test_chapter_6_batch_normalisation_dropout_and_weight_decay(run):
    script = run("chapter6_regularised")
    trainer = script["trainer"]
    assert len(trainer.train_acc_list) == len(script["x"]) == 10
    assert trainer.train_acc_list[-1] > 0.9
    assert trainer.test_acc_list[-1] > 0.6


def test_chapter_7_training(run, capsys):
    script = run("chapter7_train_convnet")
    trainer, (accuracy, of_loaded) = script["trainer"], script["accuracies"]
    assert len(trainer.train_loss_list) == 60
    assert len(trainer.test_acc_list) == 6
    assert accuracy == of_loaded == trainer.test_acc_list[-1]
    assert accuracy > 0.7
    assert Path("params.pkl").is_file()
    assert [tuple(feature_map.shape) for feature_map in script["maps"]] == [(1, 1, 24, 24)] * 3
    assert capsys.readouterr().out.count("=== epoch:") == 6


@numpy_and_torch
def test_chapter_8_deep_network(run):
    script = run("chapter8_deep_convnet")
    assert len(script["trainer"].train_loss_list) == 2
    assert float(script["acc"]) == pytest.approx(1 - len(script["mistakes"]) / 20)
    assert Path("deep_convnet_params.pkl").is_file()


def test_the_scripts_differ_from_the_books_manner_by_import_lines_alone():
    """xpcnn is named nowhere else in them."""
    for path in SCRIPTS.glob("*.py"):
        for line in path.read_text(encoding="utf-8").splitlines():
            assert "xpcnn" not in line or line.startswith("from xpcnn.scratch"), f"{path.name}: {line}"
