"""xpcnn train --resume: the same bits as never interrupted, whatever came between; and --autotune over it."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import xpcnn
from tests.cli.conftest import TINY, Run, same_weights, weights
from xpcnn import io
from xpcnn.ops.conv import autotune, tuning_cache
from xpcnn.train import RunDirectory

Press = Callable[[int | None], None]
ALL = (
    *("--schedule", "cosine", "--warmup", 0.5, "--augment", "shift=2,rotate=10", "--label-smoothing", 0.1),
    *("--clip-norm", 0.5, "--average", 0.9, "--patience", 9),
)


@pytest.mark.parametrize("step", [1, 5, 8, 10])
def test_interrupted_and_resumed_is_as_never_interrupted(
    xpcnn_command: Run, press_at: Press, step: int
) -> None:
    assert xpcnn_command(*TINY, "--out", "whole").status == 0
    press_at(step)
    status, out, err = xpcnn_command(*TINY, "--out", "broken run")
    assert (status, err) == (130, "")
    told = f"interrupted and saved after step {step}; go on with: xpcnn train --resume 'broken run'"
    assert out.splitlines()[-2:] == [told, "curves     broken run/curves.png"]
    assert Path("broken run/best.safetensors").exists() is (step > 5)
    assert same_weights("whole", "broken run") is (step == 10)
    press_at(None)
    status, out, _ = xpcnn_command("train", "--resume", "broken run")
    assert status == 0
    assert f"going on after step {step}, {(step - 1) // 5} of 2 epochs done" in out
    assert same_weights("whole", "broken run")
    ours, theirs = RunDirectory("broken run").history(), RunDirectory("whole").history()
    assert ours.losses == theirs.losses
    assert ours.test_accuracy == theirs.test_accuracy
    assert not ours.interrupted


@pytest.mark.slow
@pytest.mark.parametrize("model", ["tiny_convnet", "deep_convnet"])
def test_twice_and_with_every_technique(xpcnn_command: Run, press_at: Press, model: str) -> None:
    given = (*TINY, "--model", model, *ALL)
    assert xpcnn_command(*given, "--out", "whole").status == 0
    for step in (3, 7):
        press_at(step)
        arguments = (*given, "--out", "broken") if step == 3 else ("train", "--resume", "broken")
        assert xpcnn_command(*arguments).status == 130
    press_at(None)
    status, out, _ = xpcnn_command("train", "--resume", "broken")
    assert status == 0
    assert ", augment shift=2,rotate=10, " in out
    for file in ("weights_file", "best_file"):
        ours, theirs = (io.load_weights(getattr(RunDirectory(run), file)) for run in ("broken", "whole"))
        np.testing.assert_equal(ours.arrays, theirs.arrays)
        assert ours.metadata == theirs.metadata
    histories = [RunDirectory(run).history() for run in ("broken", "whole")]
    assert histories[0].losses == histories[1].losses
    ours, theirs = (io.load_arrays(RunDirectory(run).checkpoint_file)[1] for run in ("broken", "whole"))
    assert (ours["schedule"], ours["average"]) == (theirs["schedule"], theirs["average"])


def test_another_number_of_epochs(xpcnn_command: Run) -> None:
    assert xpcnn_command(*TINY, "--epochs", 4, "--out", "whole").status == 0
    assert xpcnn_command(*TINY, "--out", "run").status == 0
    before = weights("run")
    result = xpcnn_command("train", "--resume", "run")
    assert result.status == 0
    assert "nothing left to train: 2 of 2 epochs done; --epochs N sets a higher total" in result.out
    np.testing.assert_equal(weights("run"), before)
    result = xpcnn_command("train", "--resume", "run", "--epochs", 1)
    assert result.status == 2
    assert "--epochs 1: the run has trained for 2 already" in result.err
    assert RunDirectory("run").config()["epochs"] == 2
    result = xpcnn_command("train", "--resume", "run", "--epochs", 4)
    assert result.status == 0
    assert "going on after step 10, 2 of 4 epochs done" in result.out
    assert same_weights("whole", "run")
    assert RunDirectory("run").config()["epochs"] == 4


@pytest.mark.slow
def test_more_epochs_than_the_schedule_was_made_for(xpcnn_command: Run) -> None:
    assert xpcnn_command(*TINY, "--schedule", "cosine", "--out", "cosine").status == 0
    config = RunDirectory("cosine").config()
    status, out, err = xpcnn_command("train", "--resume", "cosine", "--epochs", 3)
    assert (status, out, err.count("\n")) == (2, "", 1)
    assert "--epochs 3: the run's schedule cosine ends with its 2 epochs; begin another" in err
    assert RunDirectory("cosine").config() == config
    result = xpcnn_command("train", "--resume", "cosine", "--epochs", 2)
    assert "nothing left to train: 2 of 2 epochs done\n" in result.out
    steps = ("--schedule", "step", "--lr-step", 1, "--warmup", 0.5)
    assert xpcnn_command(*TINY, *steps, "--out", "steps").status == 0
    assert xpcnn_command("train", "--resume", "steps", "--epochs", 3).status == 0
    assert xpcnn_command(*TINY, *steps, "--epochs", 3, "--out", "whole").status == 0
    assert same_weights("steps", "whole")


def test_on_another_backend(xpcnn_command: Run) -> None:
    """On which the run's device may not be."""
    assert xpcnn_command(*TINY, "--out", "run").status == 0
    RunDirectory("run").save_config({**RunDirectory("run").config(), "device": "cuda:7"})
    result = xpcnn_command("train", "--resume", "run", "--epochs", 3, "--backend", "array_api_strict")
    assert result.status == 0
    assert result.out.startswith("backend    array_api_strict")
    assert RunDirectory("run").config()["backend"] == "array_api_strict"


def test_before_the_first_checkpoint(xpcnn_command: Run) -> None:
    assert xpcnn_command(*TINY, "--out", "whole").status == 0
    os.mkdir("killed")
    shutil.copy("whole/run.json", "killed")
    assert xpcnn_command("train", "--resume", "killed").status == 0
    assert same_weights("whole", "killed")


def test_a_run_of_a_version_without_techniques(xpcnn_command: Run) -> None:
    assert xpcnn_command(*TINY, "--out", "whole", "--epochs", 3).status == 0
    assert xpcnn_command(*TINY, "--out", "run").status == 0
    run = RunDirectory("run")
    config = list(run.config().items())
    run.save_config(dict(config[: config.index(("schedule", "constant"))]) | {"lr": None})  # the optimiser's
    assert xpcnn_command("train", "--resume", "run", "--epochs", 3).status == 0
    assert same_weights("run", "whole")
    assert run.config()["schedule"] == "constant"
    assert run.config()["autotune"] is False


def test_a_second_ctrl_c_in_mid_update(xpcnn_command: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    step = xpcnn.optim.Adam.step

    def cut_short(self: Any, grads: Any) -> None:
        if self.state_dict()["step"] == 7:
            raise KeyboardInterrupt
        step(self, grads)

    monkeypatch.setattr(xpcnn.optim.Adam, "step", cut_short)
    result = xpcnn_command(*TINY, "--out", "run")
    assert result.status == 130
    assert "in the middle of a step; the checkpoint of the last epoch stands; go on with: " in result.out
    monkeypatch.setattr(xpcnn.optim.Adam, "step", step)
    assert "going on after step 5, 1 of 2" in xpcnn_command("train", "--resume", "run").out


@pytest.mark.slow
def test_measured_choices_are_kept_and_taken_again(
    xpcnn_command: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A run keeps what it was begun with; its choices come from the file, so its bits are the same."""

    def forget() -> None:
        """Be as a new process: only the file remains."""
        monkeypatch.setattr(autotune, "_chosen", {})
        monkeypatch.setattr(tuning_cache, "_caches", {})

    file = tmp_path / "cache" / "autotune.json"
    monkeypatch.setenv("XPCNN_CACHE_DIR", str(file.parent))
    forget()
    result = xpcnn_command(*TINY, "--out", "fixed")
    assert not file.exists()
    result = xpcnn_command(*TINY, "--out", "whole", "--autotune")
    assert (result.status, result.err) == (0, "")
    assert "\nwith       autotune True\n" in result.out
    kept = list(json.loads(file.read_text()))
    # The first layer's gradient for its input is never needed.
    assert {task.split()[0] for task in kept} == {"forward", "grad_weight"}
    assert f"{len(kept)} in {file}" in xpcnn_command("info").out
    measured: list[Any] = []
    real = autotune._fastest
    monkeypatch.setattr(autotune, "_fastest", lambda *task: measured.append(task) or real(*task))
    forget()
    assert xpcnn_command(*TINY, "--epochs", 1, "--out", "parts", "--autotune").status == 0
    forget()
    result = xpcnn_command("train", "--resume", "parts", "--epochs", 2)
    assert "autotune True" in result.out
    assert measured == []
    assert same_weights("whole", "parts")
