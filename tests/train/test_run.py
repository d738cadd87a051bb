"""A run's folder, and models out of it."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from xpcnn import Trainer, io, load_model, models, ops, optim
from xpcnn.data import Dataset
from xpcnn.errors import CheckpointError, DivergenceError, StateDictError
from xpcnn.train import Callback, RunDirectory

NewTrainer = Callable[..., Trainer]
CONFIG = {"any": "settings", "lr": 0.001}
FILES = [
    "best.safetensors",
    "checkpoint-previous.safetensors",
    "checkpoint.safetensors",
    "history.jsonl",
    "model.safetensors",
    "run.json",
]


def fit(trainer: Trainer, digits: Dataset, run: RunDirectory, *more: Callback, epochs: int = 2) -> None:
    trainer.fit(digits[:100], digits[:20], epochs, 20, progress=None, callbacks=[*more, run])


def test_what_a_finished_run_leaves(tmp_path: Path, new_trainer: NewTrainer, digits: Dataset) -> None:
    run = RunDirectory(tmp_path / "made" / "for it", CONFIG)
    assert sorted(os.listdir(run.path)) == ["run.json"]
    trainer = new_trainer()
    fit(trainer, digits, run)
    assert sorted(os.listdir(run.path)) == FILES
    again = RunDirectory(run.path)
    assert again.config() == CONFIG
    assert again.history() == trainer.history
    weights = io.load_weights(run.weights_file).arrays
    np.testing.assert_array_equal(weights["fc.weight"], trainer.model.fc.weight.data)


def test_a_run_is_not_overwritten(tmp_path: Path) -> None:
    RunDirectory(tmp_path, CONFIG)
    with pytest.raises(CheckpointError, match="holds a run already; resume it"):
        RunDirectory(tmp_path, {})
    assert RunDirectory(tmp_path).config() == CONFIG


def test_folders_that_cannot_be_made(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    for path in ("file", "file/below"):
        with pytest.raises(CheckpointError, match=f"cannot make the folder .*{path}: "):
            RunDirectory(tmp_path / path, CONFIG)


def test_settings_can_be_changed(tmp_path: Path) -> None:
    run = RunDirectory(tmp_path, CONFIG)
    run.save_config({**CONFIG, "epochs": 9})
    assert run.config() == {**CONFIG, "epochs": 9}


class StopAt(Callback):
    def __init__(self, step: int, error: BaseException) -> None:
        self.step, self.error = step, error

    def on_losses(self, trainer: Trainer, losses: list[float]) -> None:
        if trainer.steps >= self.step:
            raise self.error


def test_an_interrupt_is_saved_where_it_came(
    tmp_path: Path, new_trainer: NewTrainer, digits: Dataset, same_bits: Any, ctrl_c: Callable[[], None]
) -> None:
    class Press(Callback):
        def on_epoch(self, trainer: Trainer, record: Any) -> None:
            ctrl_c()

    run = RunDirectory(tmp_path, CONFIG)
    broken, resumed, whole = new_trainer(), new_trainer(), new_trainer()
    with pytest.raises(KeyboardInterrupt):
        fit(broken, digits, run, Press())
    assert sorted(os.listdir(tmp_path)) == FILES
    assert run.history().interrupted
    run.restore(resumed)
    assert resumed.epoch == 1
    fit(resumed, digits, run, epochs=1)
    assert not run.history().interrupted
    fit(whole, digits, RunDirectory(tmp_path / "other", CONFIG))
    assert same_bits(whole, resumed)


def test_an_interrupt_in_mid_update_keeps_the_last_epochs_checkpoint(
    tmp_path: Path, new_trainer: NewTrainer, digits: Dataset, monkeypatch: pytest.MonkeyPatch
) -> None:
    run, trainer = RunDirectory(tmp_path, CONFIG), new_trainer()
    update = trainer.optimizer.step

    def cut_short(grads: Any) -> None:
        if trainer.steps == 7:
            raise KeyboardInterrupt
        update(grads)

    monkeypatch.setattr(trainer.optimizer, "step", cut_short)
    with pytest.raises(KeyboardInterrupt):
        fit(trainer, digits, run)
    restored = new_trainer()
    run.restore(restored)
    assert restored.steps == 5
    assert len(run.history().losses) == 7


def test_divergence_keeps_the_last_good_checkpoint_and_the_whole_history(
    tmp_path: Path, new_model: Callable[..., Any], digits: Dataset
) -> None:
    calls = iter(range(1, 1000))

    def loss(y: Any, t: Any) -> Any:
        value, ctx = ops.softmax_cross_entropy(y, t)
        return (value * float("nan") if next(calls) > 7 else value), ctx

    def evaluating(y: Any, t: Any) -> Any:
        return ops.softmax_cross_entropy(y, t) if len(y) == 100 else loss(y, t)

    run, model = RunDirectory(tmp_path, CONFIG), new_model()
    trainer = Trainer(model, optim.SGD(model), loss=(evaluating, ops.softmax_cross_entropy.backward))
    with pytest.raises(DivergenceError):
        trainer.fit(digits[:100], None, 2, 20, progress=None, callbacks=[run])
    assert len(run.history().losses) == trainer.steps == 7
    restored_model = new_model()
    restored = Trainer(restored_model, optim.SGD(restored_model))
    run.restore(restored)
    assert restored.steps == 5
    assert all(np.isfinite(p.data).all() for p in restored_model.parameters().values())


def test_a_run_without_checkpoint_starts_at_the_beginning(tmp_path: Path, new_trainer: NewTrainer) -> None:
    trainer = new_trainer()
    RunDirectory(tmp_path, CONFIG).restore(trainer)
    assert trainer.steps == 0


@pytest.mark.parametrize("content", [None, "", "{", "[]", "3", b"\xff\xfe\x00"])
def test_unreadable_json(tmp_path: Path, content: Any) -> None:
    run = RunDirectory(tmp_path)
    for name in ("config.json", "history.json"):  # of an earlier version
        if content is not None:
            (tmp_path / name).write_bytes(content if isinstance(content, bytes) else content.encode())
    for read in (run.config, run.history):
        with pytest.raises(CheckpointError, match="no such file; is" if content is None else "unreadable"):
            read()


@pytest.mark.parametrize("plain", [{}, {"losses": 3, "epochs": [], "interrupted": False}])
def test_a_history_of_another_kind(tmp_path: Path, plain: Any) -> None:
    run = RunDirectory(tmp_path)
    (tmp_path / "history.json").write_text(json.dumps(plain))
    with pytest.raises(CheckpointError, match=r"history\.json: unreadable"):
        run.history()


# -- load_model ---------------------------------------------------------------------------


def test_load_model_from_a_file_and_from_a_run(tmp_path: Path, digits: Dataset) -> None:
    model = models.tiny_convnet(filters=3, bias=True, dtype="float64", seed=8)
    run = RunDirectory(tmp_path / "run", CONFIG)
    trainer = Trainer(model, optim.SGD(model))
    fit(trainer, digits, run, epochs=1)
    model.save(tmp_path / "w.npz")
    for path in (run.path, run.weights_file, str(tmp_path / "w.npz")):
        loaded = load_model(path)
        assert loaded.spec == model.spec
        for name, parameter in model.parameters().items():
            assert loaded.parameters()[name].dtype == "float64"
            np.testing.assert_array_equal(loaded.parameters()[name].data, parameter.data)


def test_what_load_model_refuses(tmp_path: Path) -> None:
    io.save_arrays(tmp_path / "plain.npz", {"weight": np.zeros((2, 3))}, {})
    with pytest.raises(CheckpointError, match="does not say how its model is built; build the model, and"):
        load_model(tmp_path / "plain.npz")
    with pytest.raises(CheckpointError, match="no such file"):
        load_model(tmp_path / "absent")
    with pytest.raises(CheckpointError, match="no such file"):
        load_model(tmp_path)  # a folder, but of no run


def with_spec(path: Path, **changes: Any) -> Path:
    model = models.tiny_convnet()
    assert model.spec is not None
    model.spec = model.spec._replace(**changes)
    model.save(path)
    return path


def test_specs_of_another_version(tmp_path: Path) -> None:
    path = tmp_path / "w.npz"
    with pytest.raises(CheckpointError, match="unknown model 'resnet9000'"):
        load_model(with_spec(path, builder="resnet9000"))
    with pytest.raises(CheckpointError, match=r"w\.npz: tiny_convnet: .*depth"):
        load_model(with_spec(path, arguments={"depth": 9}))
    with pytest.raises(CheckpointError, match=r"w\.npz"):
        load_model(with_spec(path, arguments={"filters": "many"}))
    with pytest.raises(StateDictError, match=r"conv1\.weight"):
        load_model(with_spec(path, arguments={"filters": 3}))
