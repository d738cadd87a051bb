"""`xpcnn train --autotune`: measured choices for one run, kept for later ones, and shown by `xpcnn info`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from xpcnn.ops.conv import autotune, tuning_cache

SHORT = ("--epochs", 2, "--train-samples", 200, "--test-samples", 100, "--model-option", "filters=4")


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where choices are kept; there are none yet."""
    monkeypatch.setenv("XPCNN_CACHE_DIR", str(tmp_path / "cache"))
    forget(monkeypatch)
    return tmp_path / "cache"


def forget(monkeypatch: pytest.MonkeyPatch) -> None:
    """Be as a new process: only the file remains."""
    monkeypatch.setattr(autotune, "_chosen", {})
    monkeypatch.setattr(tuning_cache, "_caches", {})


def kept(folder: Path) -> list[str]:
    """What was measured."""
    return list(json.loads((folder / "autotune.json").read_text()))


def config(run: str) -> Any:
    return json.loads(Path(run, "run.json").read_text())


def test_train_measures(xpcnn_command: Any, folder: Path) -> None:
    status, out, err = xpcnn_command("train", *SHORT, "--out", "run", "--autotune")
    assert (status, err) == (0, "")
    assert "convolution algorithms measured to be the fastest" in out
    assert config("run")["autotune"] is True
    tasks = kept(folder)
    # The first layer's gradient for its input is never needed.
    assert {task.split()[0] for task in tasks} == {"forward", "grad_weight"}
    assert any("(50, 1, 28, 28)" in task for task in tasks)
    count = len(tasks)
    assert f"{count} in {folder / 'autotune.json'}" in xpcnn_command("info").out


def test_train_without_it_measures_nothing(xpcnn_command: Any, folder: Path) -> None:
    status, out, _ = xpcnn_command("train", *SHORT, "--out", "run")
    assert status == 0
    assert "measured" not in out
    assert config("run")["autotune"] is False
    assert not folder.exists()
    assert f"0 in {folder / 'autotune.json'}" in xpcnn_command("info").out


def test_resumed_run_goes_on_so(xpcnn_command: Any, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A run keeps what it was begun with; its choices come from the file, so its bits are the same."""
    assert xpcnn_command("train", *SHORT, "--out", "whole", "--autotune").status == 0
    measured: list[Any] = []
    real = autotune._fastest
    monkeypatch.setattr(autotune, "_fastest", lambda *task: measured.append(task) or real(*task))
    forget(monkeypatch)
    one_epoch = ("--epochs", 1, *SHORT[2:])
    assert xpcnn_command("train", *one_epoch, "--out", "parts", "--autotune").status == 0
    forget(monkeypatch)
    status, out, _ = xpcnn_command("train", "--resume", "parts", "--epochs", 2)
    assert status == 0
    assert "convolution algorithms measured to be the fastest" in out
    assert measured == []
    whole, parts = (Path(run, "model.safetensors").read_bytes() for run in ("whole", "parts"))
    assert whole == parts


def test_runs_begun_before_do_without(xpcnn_command: Any, folder: Path) -> None:
    assert xpcnn_command("train", "--epochs", 1, *SHORT[2:], "--out", "run").status == 0
    old = config("run")
    del old["autotune"]
    Path("run", "run.json").write_text(json.dumps(old))
    assert xpcnn_command("train", "--resume", "run", "--epochs", 2).status == 0
    assert not folder.exists()


def test_beside_resume_it_is_refused(xpcnn_command: Any, folder: Path) -> None:
    status, _, err = xpcnn_command("train", "--resume", "run", "--autotune")
    assert status == 2
    assert "so --autotune cannot be given with it" in err
