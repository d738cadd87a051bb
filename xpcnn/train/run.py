"""A run's folder: its settings, history, weights and checkpoint, always in a readable state."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from os import PathLike
from pathlib import Path
from typing import Any

from xpcnn.errors import CheckpointError, DivergenceError
from xpcnn.io import checked, keeping, locked_file, make_folder, read_json, sweep, write_json
from xpcnn.train.callback import Callback
from xpcnn.train.checkpoint import Checkpoint, save_checkpoint
from xpcnn.train.finite import require_finite
from xpcnn.train.history import EpochRecord, History, HistoryFile
from xpcnn.train.trainer import Trainer

__all__ = ["RunDirectory"]

_log = logging.getLogger(__name__)


class RunDirectory(Callback):
    """Saves a run after every epoch and when it stops, by Ctrl-C or another signal included.

    Beside the last weights it keeps those of the first epoch with the best test accuracy, in
    ``best.safetensors``; where targets have no classes, with the lowest test loss. Of a trainer that averages
    its weights, both are the averages.

    A run whose loss or weights became NaN or infinite keeps the weights and the checkpoint of its last good
    epoch, and its whole history. The checkpoint before the last is kept, and taken where the last is damaged.

    One process at a time writes here: it holds a lock, where the platform and the file system have such.

    Parameters
    ----------
    path : path
        Made if it does not exist.
    config : dict, optional
        The settings of a new run, for ``run.json``.

    Raises
    ------
    CheckpointError
        When the folder cannot be made, or holds a run already and `config` is given; from ``fit`` when
        another process writes in it.
    """

    saves = True

    def __init__(self, path: str | PathLike[str], config: dict[str, Any] | None = None) -> None:
        self.path = Path(path)
        self.weights_file = self.path / "model.safetensors"
        self.best_file = self.path / "best.safetensors"
        self.checkpoint_file = self.path / "checkpoint.safetensors"
        self.previous_checkpoint_file = self.path / "checkpoint-previous.safetensors"
        self._history = HistoryFile(self.path / "history.jsonl")
        self._is_locked = False
        self._trainer: Trainer | None = None  # whose `fit` is running
        self._fit = ExitStack()
        if config is not None:
            make_folder(self.path)
            with self.writing():
                if self.config_file.exists():
                    raise CheckpointError(
                        f"{self.path} holds a run already; resume it, or name another folder"
                    )
                self.save_config(config)

    @property
    def config_file(self) -> Path:
        return self._own_or_older("run.json", "config.json")

    @property
    def history_file(self) -> Path:
        return self._own_or_older("history.jsonl", "history.json")

    def config(self) -> dict[str, Any]:
        """Return the settings the run was begun with."""
        path = _existing(self.config_file)
        config: dict[str, Any] = checked(dict[str, Any], read_json(path), f"{path}: unreadable")
        return config

    def save_config(self, config: dict[str, Any]) -> None:
        """Write the settings, in place of those the run was begun with."""
        with self.writing():
            write_json(self.path / "run.json", config)

    def history(self) -> History:
        """Return the history as it was last saved."""
        path = _existing(self.history_file)
        if path == self._history.path:
            return self._history.read()
        return History.from_json(read_json(path), f"{path}: unreadable")

    def restore(self, trainer: Trainer) -> None:
        """Put a trainer where the run stopped; a run that has no checkpoint yet starts at the beginning.

        Where the last checkpoint is damaged, the one before is taken, with a note.

        Raises
        ------
        CheckpointError
            When no checkpoint is whole, or the trainer is built otherwise; it is left as it was.
        """
        paths = (self.checkpoint_file, self.previous_checkpoint_file)
        if not any(path.exists() for path in paths):
            return
        problems: list[str] = []
        for path in paths:
            try:
                checkpoint = Checkpoint.load(path)
            except CheckpointError as error:
                problems.append(str(error))
                continue
            if problems:
                _log.warning("%s; going on from %s instead", problems[0], path)
            checkpoint.restore(trainer)
            return
        raise CheckpointError(f"no checkpoint is whole: {'; '.join(problems)}")

    @contextmanager
    def writing(self) -> Iterator[None]:
        """Let no other process write here, inside a ``with`` block; such blocks may be nested.

        Raises
        ------
        CheckpointError
            When another one does, or the folder cannot be written to.
        """
        if self._is_locked:
            yield
            return
        path = self.path / "lock"
        with ExitStack() as stack:
            try:
                stack.enter_context(locked_file(path))
                for file in (self.path / "run.json", self.weights_file, self.best_file, self.checkpoint_file):
                    sweep(file)
            except BlockingIOError:
                number = path.read_bytes()[:20].decode("ascii", "replace").strip() if path.exists() else ""
                holder = f"process {number}" if number.isdecimal() else "another process"
                raise CheckpointError(
                    f"{self.path}: {holder} is writing in this folder; "
                    f"wait for its end, or name another folder"
                ) from None
            except OSError as error:
                raise CheckpointError(f"cannot write {path}: {error.strerror or error}") from error
            self._is_locked = True
            stack.callback(setattr, self, "_is_locked", False)
            yield

    def on_start(self, trainer: Trainer, steps: int) -> None:
        if self._trainer is not None:
            raise CheckpointError(f"{self.path}: another training of this process writes in this folder")
        with ExitStack() as stack:
            stack.enter_context(self.writing())
            self._history.begin(trainer.history)
            self._trainer, self._fit = trainer, stack.pop_all()

    def on_epoch(self, trainer: Trainer, record: EpochRecord) -> None:
        *before, now = (epoch.score for epoch in trainer.history.epochs)
        self._save(trainer, best=now is not None and all(score is None or now > score for score in before))

    def on_stop(self, trainer: Trainer) -> None:
        if self._trainer is not trainer:  # `on_start` has failed
            return
        self._trainer = None
        with self._fit:
            if trainer.history.interrupted and trainer.consistent:
                self._save(trainer)
            else:
                self._history.append(trainer.history)

    def _save(self, trainer: Trainer, best: bool = False) -> None:
        with self.writing():
            try:
                require_finite(trainer)
            except DivergenceError:
                self._history.append(trainer.history)
                raise
            if best:
                trainer.eval_model.save(self.best_file)
            # The checkpoint comes after the weights: a run that is killed in between does this epoch again.
            trainer.eval_model.save(self.weights_file)
            with keeping(self.checkpoint_file, self.previous_checkpoint_file):
                save_checkpoint(self.checkpoint_file, trainer)
            self._history.append(trainer.history)

    def _own_or_older(self, name: str, older: str) -> Path:
        """Return the file of that name; of a run of an earlier version, the one it had in its place."""
        own, before = self.path / name, self.path / older
        return before if before.exists() and not own.exists() else own


def _existing(path: Path) -> Path:
    if not path.exists():
        raise CheckpointError(f"{path}: no such file; is {path.parent} the folder of a run?")
    return path
