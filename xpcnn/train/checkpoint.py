"""Checkpoints: everything a run needs to go on, bit for bit, as if it had not stopped."""

from __future__ import annotations

import json
from os import PathLike
from typing import Any

import numpy as np

from xpcnn.backend import to_numpy
from xpcnn.errors import CheckpointError
from xpcnn.io import load_arrays, save_arrays
from xpcnn.train.history import History
from xpcnn.train.trainer import Trainer

__all__ = ["restore_checkpoint", "save_checkpoint"]

_KIND = "xpcnn checkpoint"


def save_checkpoint(path: str | PathLike[str], trainer: Trainer) -> None:
    """Write a trainer's model, optimiser, seed, step, place in the epoch and history to one file.

    Raises
    ------
    CheckpointError
        When the file cannot be written. An existing file is replaced whole or not at all.
    """
    optimizer = trainer.optimizer.state_dict()
    arrays = {f"model/{name}": to_numpy(array) for name, array in trainer.model.state_dict().items()}
    for parameter, state in optimizer.pop("state").items():
        arrays |= {f"optimizer/{parameter}/{name}": to_numpy(array) for name, array in state.items()}
    history = trainer.history.to_json()
    arrays["history/losses"] = np.array(trainer.history.losses, dtype=np.float64)
    del history["losses"]
    progress = {
        "seed": trainer.seed,
        "steps": trainer.steps,
        "epoch": trainer.epoch,
        "position": trainer.position,
        "epoch_seconds": trainer.epoch_seconds,
    }
    metadata = {"progress": progress, "optimizer": optimizer, "history": history}
    described = {name: json.dumps(value) for name, value in metadata.items()}
    save_arrays(path, arrays, {"kind": _KIND, **described})


def restore_checkpoint(path: str | PathLike[str], trainer: Trainer) -> None:
    """Put a trainer, built as the saved one was, where the saved one stood.

    Raises
    ------
    CheckpointError
        When the file is missing, damaged or no checkpoint. The trainer is left as it was.
    StateDictError
        When model or optimiser are built differently from the saved ones.
    """
    arrays, metadata = load_arrays(path)
    if metadata.get("kind") != _KIND:
        raise CheckpointError(f"{path}: not a checkpoint, but a file of weights; model.load reads those")
    try:
        progress, optimizer, described = (
            json.loads(metadata[name]) for name in ("progress", "optimizer", "history")
        )
        history = History.from_json({**described, "losses": arrays.pop("history/losses").tolist()})
        parts: dict[str, dict[str, Any]] = {"model": {}, "optimizer": {}}
        for name, array in arrays.items():
            part, _, rest = name.partition("/")
            parts[part][rest] = array
        steps, epoch, position, seed = (
            int(progress[name]) for name in ("steps", "epoch", "position", "seed")
        )
        seconds = float(progress["epoch_seconds"])
    except (KeyError, ValueError, TypeError) as error:
        raise CheckpointError(f"{path}: damaged checkpoint: {error!r}") from error
    if seed != trainer.seed:
        raise CheckpointError(
            f"{path}: was trained with seed {seed}, but this trainer has seed {trainer.seed}"
        )
    state: dict[str, dict[str, Any]] = {}
    for name, array in parts["optimizer"].items():
        parameter, _, slot = name.rpartition("/")
        state.setdefault(parameter, {})[slot] = array
    saved_model = trainer.model.state_dict()
    trainer.model.load_state_dict(parts["model"])
    try:
        trainer.optimizer.load_state_dict({**optimizer, "state": state})
    except Exception:
        trainer.model.load_state_dict(saved_model)
        raise
    trainer.steps, trainer.epoch, trainer.position = steps, epoch, position
    trainer.epoch_seconds, trainer.history = seconds, history
