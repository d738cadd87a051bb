"""A run's folder: its settings, history, weights and checkpoint, always in a readable state."""

from __future__ import annotations

import json
from os import PathLike
from pathlib import Path
from typing import Any

from xpcnn.backend.numbers import plain
from xpcnn.errors import CheckpointError
from xpcnn.io import load_weights, replacing
from xpcnn.models import build
from xpcnn.nn import Layer
from xpcnn.train.callback import Callback
from xpcnn.train.checkpoint import restore_checkpoint, save_checkpoint
from xpcnn.train.history import EpochRecord, History
from xpcnn.train.trainer import Trainer

__all__ = ["RunDirectory", "load_model"]


class RunDirectory(Callback):
    """Saves a run after every epoch and when it stops, Ctrl-C included.

    Beside the last weights it keeps those of the first epoch with the best test accuracy, in
    ``best.safetensors``; where targets have no classes, with the lowest test loss. Of a trainer that averages
    its weights, both are the averages.

    A run whose loss became no number keeps the checkpoint of its last good epoch, and its whole history.

    Parameters
    ----------
    path : path
        Made if it does not exist.
    config : dict, optional
        The settings of a new run, for ``config.json``.

    Raises
    ------
    CheckpointError
        When the folder cannot be made, or holds a run already and `config` is given.
    """

    def __init__(self, path: str | PathLike[str], config: dict[str, Any] | None = None) -> None:
        self.path = Path(path)
        if config is not None:
            if self.config_file.exists():
                raise CheckpointError(f"{self.path} holds a run already; resume it, or name another folder")
            try:
                self.path.mkdir(parents=True, exist_ok=True)
            except OSError as error:
                raise CheckpointError(f"cannot make the folder {self.path}: {error.strerror}") from error
            self.save_config(config)

    @property
    def config_file(self) -> Path:
        return self.path / "config.json"

    @property
    def history_file(self) -> Path:
        return self.path / "history.json"

    @property
    def weights_file(self) -> Path:
        return self.path / "model.safetensors"

    @property
    def best_file(self) -> Path:
        return self.path / "best.safetensors"

    @property
    def checkpoint_file(self) -> Path:
        return self.path / "checkpoint.safetensors"

    def config(self) -> dict[str, Any]:
        """Return the settings the run was begun with."""
        return _read_json(self.config_file)

    def save_config(self, config: dict[str, Any]) -> None:
        """Write the settings, in place of those the run was begun with."""
        _write_json(self.config_file, config)

    def history(self) -> History:
        """Return the history as it was last saved."""
        try:
            return History.from_json(_read_json(self.history_file))
        except (KeyError, TypeError, ValueError) as error:
            raise CheckpointError(f"{self.history_file}: unreadable: {error!r}") from error

    def restore(self, trainer: Trainer) -> None:
        """Put a trainer where the run stopped; a run that has no checkpoint yet starts at the beginning."""
        if self.checkpoint_file.exists():
            restore_checkpoint(self.checkpoint_file, trainer)

    def on_epoch(self, trainer: Trainer, record: EpochRecord) -> None:
        *before, now = (epoch.score for epoch in trainer.history.epochs)
        if now is not None and all(score is None or now > score for score in before):
            trainer.evaluated.save(self.best_file)
        self._save(trainer)

    def on_stop(self, trainer: Trainer) -> None:
        if trainer.history.interrupted and trainer.whole:
            self._save(trainer)
        else:
            _write_json(self.history_file, trainer.history.to_json())

    def _save(self, trainer: Trainer) -> None:
        # The checkpoint comes after the weights: a run that is killed in between does this epoch again.
        trainer.evaluated.save(self.weights_file)
        save_checkpoint(self.checkpoint_file, trainer)
        _write_json(self.history_file, trainer.history.to_json())


def load_model(path: str | PathLike[str]) -> Layer:
    """Return the published model a weight file (or a run's folder) was saved from, with its weights.

    Raises
    ------
    CheckpointError
        When the file is missing, damaged, or does not say which model it belongs to.

    Examples
    --------
    >>> import tempfile
    >>> from xpcnn import models
    >>> path = tempfile.mkdtemp() + "/tiny.safetensors"
    >>> models.tiny_convnet(filters=4).save(path)
    >>> load_model(path).conv1.weight.shape
    (4, 1, 3, 3)
    """
    path = Path(path)
    if path.is_dir():
        path = RunDirectory(path).weights_file
    arrays, recipe = load_weights(path)
    if recipe is None:
        raise CheckpointError(
            f"{path}: does not say which model it belongs to, as that is no published one or was changed "
            f"since; build the model, replace the same children, and call model.load(path)"
        )
    try:
        model = build(recipe.name, **recipe.arguments)
    except (ValueError, TypeError) as error:  # of a newer xpcnn, or damaged
        raise CheckpointError(f"{path}: {error}") from error
    model.load_state_dict(arrays)
    model.recipe = recipe  # the file knows what the weights were trained on
    return model


def _write_json(path: Path, value: dict[str, Any]) -> None:
    with replacing(path) as temporary:
        temporary.write_text(json.dumps(plain(value), indent=1, allow_nan=False) + "\n", encoding="utf-8")


def _read_json(path: Path) -> dict[str, Any]:
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise CheckpointError(f"{path}: no such file; is {path.parent} the folder of a run?") from None
    except (OSError, ValueError) as error:
        raise CheckpointError(f"{path}: unreadable: {error}") from error
    if not isinstance(value, dict):
        raise CheckpointError(f"{path}: unreadable: expected an object")
    return value
