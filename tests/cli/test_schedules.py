"""xpcnn train with schedules: what their options mean in steps, and resuming them."""

from __future__ import annotations

import json
import re
from typing import Any

import numpy as np
import pytest

from xpcnn import io, optim
from xpcnn.cli.settings import Settings
from xpcnn.data import Dataset
from xpcnn.train import RunDirectory

QUICK = ("--train-samples", 100, "--test-samples", 20, "--epochs", 2, "--batch-size", 20)
TINY = ("train", "--model", "tiny_convnet", *QUICK)


def scheduled(run: str) -> dict[str, Any] | None:
    """The schedule's state in a run's checkpoint."""
    _, metadata = io.load_arrays(RunDirectory(run).checkpoint_file)
    return json.loads(metadata["schedule"]) if "schedule" in metadata else None


def settings(**given: Any) -> Settings:
    return Settings(backend="numpy", model="tiny_convnet", **given)


def rates(epochs: int, batches: int, **given: Any) -> list[float]:
    """The learning rate of each step of a run, and of the step after it."""
    chosen = settings(epochs=epochs, **given)
    train = Dataset(np.zeros((batches, 1, 28, 28), np.uint8), np.zeros(batches, int), name="none")
    schedule = chosen.build_schedule(chosen.build_optimizer(chosen.build_model(train)), batches)
    assert schedule is not None
    return [schedule.lr_at(step) for step in range(epochs * batches + 1)]


def test_steps() -> None:
    lrs = rates(4, 5, lr=0.5, schedule="step", lr_step=2, lr_gamma=0.1)
    np.testing.assert_allclose(lrs, [0.5] * 10 + [0.05] * 10 + [0.005])


def test_exponential() -> None:
    lrs = rates(4, 5, lr=0.5, schedule="exponential", lr_step=2, lr_gamma=0.1)
    np.testing.assert_allclose(lrs, [0.5 * 0.1 ** (step / 10) for step in range(21)])


def test_cosine_ends_with_the_run() -> None:
    lrs = rates(4, 5, lr=0.5, schedule="cosine")
    np.testing.assert_allclose(
        lrs, [0.25 * (1 + np.cos(np.pi * step / 20)) for step in range(21)], atol=1e-15
    )


def test_one_cycle_has_its_highest_rate_within_the_run() -> None:
    lrs = rates(4, 5, lr=0.5, schedule="one-cycle")
    assert max(lrs) == pytest.approx(0.5)
    assert lrs.index(max(lrs)) == 0.3 * 20 - 1
    assert lrs[19] < 1e-5 * 0.5


def test_warmup_comes_first_and_belongs_to_the_epochs() -> None:
    lrs = rates(4, 5, lr=0.6, schedule="cosine", warmup=0.8)
    np.testing.assert_allclose(lrs[:5], [0.2, 0.3, 0.4, 0.5, 0.6])
    assert lrs[20] == pytest.approx(0, abs=1e-15)
    assert rates(4, 5, lr=0.6, warmup=0.8)[4:] == [0.6] * 17
    assert rates(4, 5, lr=0.6, warmup=0.01)[:2] == [pytest.approx(0.2), 0.6]  # one step at least


def test_without_a_schedule() -> None:
    model = settings().build_model(Dataset(np.zeros((1, 1, 28, 28), np.uint8), np.zeros(1, int), name="none"))
    assert settings().build_schedule(optim.SGD(model), 5) is None


@pytest.mark.parametrize(
    ("given", "kind", "told"),
    [
        (("--schedule", "cosine"), "CosineAnnealingLR", "cosine down to lr 0 at the end of 2 epochs"),
        (("--schedule", "one-cycle"), "OneCycleLR", "one-cycle up to this lr and down, in 2 epochs"),
        (("--schedule", "step"), "StepLR", "step: lr times 0.1 at once every 1 epoch"),
        (
            ("--schedule", "exponential", "--lr-gamma", 0.5, "--lr-step", 2),
            "ExponentialLR",
            "exponential: lr times 0.5 bit by bit every 2 epochs",
        ),
        (("--warmup", 1), "LinearWarmup", "warm-up over 1 epoch"),
        (
            ("--warmup", 0.5, "--schedule", "cosine"),
            "LinearWarmup",
            "warm-up over 0.5 epochs, cosine down to lr 0 at the end of 2 epochs",
        ),
    ],
)
def test_a_run_with_a_schedule(xpcnn_command: Any, given: tuple[Any, ...], kind: str, told: str) -> None:
    result = xpcnn_command(*TINY, *given, "--lr", 0.005, "--out", "run")
    assert (result.status, result.err) == (0, "")
    assert (
        f"\noptimizer  adam, lr 0.005; 2 epochs in batches of 20, seed 0\nschedule   {told}\n" in result.out
    )
    assert re.search(r"^epoch   1 .*  lr \d\.\d\de-\d\d  ", result.out, re.MULTILINE)
    saved = scheduled("run")
    assert saved is not None
    assert (saved["kind"], saved["step"]) == (kind, 10)
    assert RunDirectory("run").config()["lr"] == 0.005  # not what the schedule made of it
    assert xpcnn_command("train", "--resume", "run").status == 0


def test_a_constant_rate_is_not_told(xpcnn_command: Any) -> None:
    out = xpcnn_command(*TINY, "--out", "run").out
    assert "schedule" not in out
    assert "lr 1" not in out
    assert scheduled("run") is None


def test_more_epochs_than_the_schedule_was_made_for(xpcnn_command: Any) -> None:
    assert xpcnn_command(*TINY, "--schedule", "cosine", "--out", "cosine").status == 0
    config = RunDirectory("cosine").config()
    for epochs in (1, 3):
        status, out, err = xpcnn_command("train", "--resume", "cosine", "--epochs", epochs)
        assert (status, out, err.count("\n")) == (2, "", 1)
        assert f"--epochs {epochs}: the run's schedule cosine ends with its 2 epochs; begin another" in err
    assert RunDirectory("cosine").config() == config
    result = xpcnn_command("train", "--resume", "cosine", "--epochs", 2)
    assert result.status == 0
    assert "nothing left to train: 2 of 2 epochs done\n" in result.out
    steps = ("--schedule", "step", "--lr-step", 1, "--warmup", 0.5)
    assert xpcnn_command(*TINY, *steps, "--out", "steps").status == 0
    assert xpcnn_command("train", "--resume", "steps", "--epochs", 3).status == 0
    assert xpcnn_command(*TINY, *steps, "--epochs", 3, "--out", "whole").status == 0
    weights = [io.load_weights(RunDirectory(run).weights_file).arrays for run in ("steps", "whole")]
    np.testing.assert_equal(weights[0], weights[1])
