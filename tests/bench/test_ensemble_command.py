"""The command that trains an ensemble: stopped by Ctrl-C, it goes on to the same bits."""

import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from benchmarks import ensemble
from xpcnn import io
from xpcnn.cli import main, train
from xpcnn.data import load_dataset
from xpcnn.errors import CheckpointError
from xpcnn.train import RunDirectory, load_model, predict

pytestmark = [
    pytest.mark.process,
    pytest.mark.slow,
    pytest.mark.skipif(os.name != "posix", reason="sends signals"),
]

ROOT = Path(ensemble.__file__).parent.parent
TINY = """--dataset synthetic-digits --train-samples 400 --test-samples 150 --model tiny_convnet
    --model-option filters=4 --batch-size 10 --epochs 10 --average 0.9"""
# As a shell leaves a job in the foreground: Ctrl-C is not ignored.
PROGRAM = f"""
import signal
signal.signal(signal.SIGINT, signal.default_int_handler)
import sys
from benchmarks.ensemble import main
sys.exit(main(["run", "--members", "2", "--processes", "2"], {TINY!r}))
"""


@pytest.fixture(autouse=True)
def no_settings(monkeypatch):
    for name in [name for name in os.environ if name.startswith("XPCNN_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("PYTHONPATH", str(ROOT))


def trained(run):
    """The epochs of a run that are saved."""
    return len(run.history().epochs) if run.history_file.exists() else 0


def is_free(run):
    """Whether no other process writes there."""
    try:
        with run.writing():
            return True
    except CheckpointError:
        return False


def wait_for(condition, runs):
    until = time.monotonic() + 120
    while not all(map(condition, runs)):
        assert time.monotonic() < until
        time.sleep(0.05)


def test_it_goes_on_to_the_same_bits(tmp_path, capsys):
    runs = [RunDirectory(tmp_path / "run" / f"member-{number}") for number in range(2)]
    command = [sys.executable, "-c", PROGRAM]
    with subprocess.Popen(command, cwd=tmp_path, text=True, stderr=subprocess.PIPE) as process:
        wait_for(trained, runs)
        process.send_signal(signal.SIGINT)
        _, err = process.communicate(timeout=60)
    assert (process.returncode, err) == (130, "interrupted; the same command goes on\n")
    wait_for(is_free, runs)  # no member outlives the command for long
    assert any(run.history().interrupted for run in runs)
    assert ensemble.main([str(tmp_path / "run"), "--members", "2"], TINY) == 0
    assert any("going on after step" in run.path.with_suffix(".log").read_text() for run in runs)
    out = capsys.readouterr().out
    assert out == (tmp_path / "run" / "results.md").read_text()
    assert re.search(r"^\| seed 1, shift=2,rotate=15\S+ \| ", out, re.M)
    results = json.loads((tmp_path / "run" / "results.json").read_text())
    test = load_dataset("synthetic-digits")[1][:150]
    each = [predict(load_model(run.path), test.images) for run in runs]
    assert not np.array_equal(*each)
    for member, probabilities in zip(results["members"], each, strict=True):
        assert member["correct"] == np.sum(probabilities.argmax(1) == test.labels)
    for name, mean in {
        "ensemble": np.prod(each, axis=0, dtype="float64"),
        "mean": np.mean(each, axis=0),
    }.items():
        correct = np.sum(mean.argmax(1) == test.labels)
        assert results[name] == {"test_accuracy": correct / 150, "correct": correct, "samples": 150}
    assert load_model(tmp_path / "run" / "ensemble.safetensors").vote == "geometric"
    (tmp_path / "whole").mkdir()
    ensemble.train([tmp_path / "whole" / "member-0"], 1, TINY)
    files = (tmp_path / name / "member-0" / "model.safetensors" for name in ("run", "whole"))
    ours, theirs = (io.load_weights(file).arrays for file in files)
    assert {name: array.tobytes() for name, array in ours.items()} == {
        name: array.tobytes() for name, array in theirs.items()
    }


def test_a_member_that_fails(tmp_path, capsys):
    assert ensemble.main([str(tmp_path), "--members", "1"], f"{TINY} --model no-such") == 1
    assert "error: member 0 failed; see " in capsys.readouterr().err
    assert "no-such" in (tmp_path / "member-0.log").read_text()


def test_the_recipe_is_that_of_the_kept_results(monkeypatch):
    """What `xpcnn train` makes of it is what docs/results/ensemble.json was trained by."""
    kept = json.loads((ROOT / "docs" / "results" / "ensemble.json").read_text())["settings"]
    made = []
    monkeypatch.setattr(train, "_train", lambda settings, *others: made.append(settings) or 0)
    for seed in range(5):
        options = ["--seed", str(seed), "--augment", ensemble.AUGMENT[seed % 2], *ensemble.RECIPE.split()]
        assert main(["train", *options]) == 0
    for seed, settings in enumerate(made):
        own = {**kept, **kept["own"][seed], "seed": seed}
        for name, value in vars(settings).items():
            if name in own:
                expected = tuple(value) if isinstance(value, list) else value
                assert json.loads(json.dumps(expected)) == own[name], name
