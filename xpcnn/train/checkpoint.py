"""Checkpoints: everything a run needs to go on, bit for bit, as if it had not stopped."""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from os import PathLike
from typing import Annotated, Any, NamedTuple

import numpy as np

from xpcnn.backend import to_numpy
from xpcnn.backend.numbers import plain
from xpcnn.errors import CheckpointError, XpcnnError
from xpcnn.io import Range, checked, load_arrays, parse_json, save_arrays
from xpcnn.train.history import History
from xpcnn.train.trainer import Trainer

__all__ = ["Checkpoint", "restore_checkpoint", "save_checkpoint"]

_KIND = "xpcnn checkpoint"
_OPTIONAL = {"schedule": "a schedule", "average": "an average of the weights"}
_Count = Annotated[int, Range(0)]
_DESCRIBED = ("progress", "optimizer", "history", "precision", *_OPTIONAL)


def save_checkpoint(path: str | PathLike[str], trainer: Trainer) -> None:
    """Write a trainer's model, optimiser, seed, step, place in the epoch and history to one file.

    Its schedule, averaged weights and loss scale go with them, where it has any.

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
        "samples": trainer.epoch_samples,
        "epoch_steps": trainer.epoch_steps,
        "epoch_seconds": trainer.epoch_seconds,
        "data": trainer.data,
        "batch_size": trainer.batch_size,
    }
    metadata = {"progress": progress, "optimizer": optimizer, "history": history}
    if trainer.dtype is not None:
        scale = {} if trainer.loss_scale is None else trainer.loss_scale.state_dict()
        metadata["precision"] = {"dtype": trainer.dtype, **scale}
    if trainer.schedule is not None:
        metadata["schedule"] = trainer.schedule.state_dict()
    if trainer.average is not None:
        average = trainer.average.state_dict()
        arrays |= {f"average/{name}": to_numpy(array) for name, array in average.pop("averages").items()}
        metadata["average"] = average
    described = {name: json.dumps(plain(value)) for name, value in metadata.items()}
    save_arrays(path, arrays, {"kind": _KIND, **described})


def restore_checkpoint(path: str | PathLike[str], trainer: Trainer) -> None:
    """Put a trainer, built as the saved one was, where the saved one stood.

    Raises
    ------
    CheckpointError
        When the file is missing, damaged or no checkpoint, when only one of the two has a schedule, or an
        average of the weights, or when they compute in different dtypes. The trainer is left as it was.
    StateDictError
        When model, optimiser, schedule or average are built differently from the saved ones; likewise.
    """
    Checkpoint.load(path).restore(trainer)


class _Progress(NamedTuple):
    """Where a trainer stood. What has a default is unknown of runs of an earlier version."""

    seed: _Count
    steps: _Count
    epoch: _Count
    epoch_seconds: float
    samples: _Count = 0
    epoch_steps: _Count = 0
    data: str | None = None
    batch_size: Annotated[int, Range(1)] | None = None
    position: _Count = 0


@dataclass(frozen=True)
class Checkpoint:
    """What a file holds, read whole: `restore` finds no damage any more."""

    path: str | PathLike[str]
    progress: dict[str, Any]
    states: dict[str, Any]
    """The states of the trainer's parts, by the names of its attributes."""
    history: History

    @classmethod
    def load(cls, path: str | PathLike[str]) -> Checkpoint:
        """Read a checkpoint.

        Raises
        ------
        CheckpointError
            When the file is missing, damaged or no checkpoint.
        """
        arrays, metadata = load_arrays(path)
        if metadata.get("kind") != _KIND:
            raise CheckpointError(f"{path}: not a checkpoint, but a file of weights; model.load reads those")
        where = f"{path}: damaged checkpoint"
        described: dict[str, Any] = {}
        for name in _DESCRIBED:
            if name in metadata:
                described[name] = checked(dict[str, Any], parse_json(metadata[name], where), where, name)
        saved: _Progress = checked(_Progress, described.pop("progress", None), where, "progress")
        if saved.position:
            raise CheckpointError(
                f"{path}: an earlier version wrote it in the middle of an epoch, whose place it counted "
                f"in batches; finish the epoch with that version"
            )
        losses = arrays.pop("history/losses", None)
        if losses is None or losses.dtype.kind != "f" or losses.ndim != 1:
            raise CheckpointError(f"{where}: history/losses is no list of numbers")
        without_losses = {**described.pop("history", {}), "losses": []}
        history = replace(History.from_json(without_losses, f"{where}: history"), losses=losses.tolist())
        parts: dict[str, dict[str, Any]] = {name: {} for name in ("model", "optimizer", "average")}
        for name, array in arrays.items():
            part, _, rest = name.partition("/")
            if part not in parts:
                raise CheckpointError(f"{where}: has the unknown entry {name!r:.60}")
            parts[part][rest] = array
        precision = described.pop("precision", {"dtype": None})
        states: dict[str, Any] = {"model": parts["model"], "loss_scale": precision, **described}
        states["optimizer"] = {**states.get("optimizer", {}), "state": _by_parameter(parts["optimizer"])}
        if "average" in states:
            states["average"] = {**states["average"], "averages": parts["average"]}
        if "dtype" not in precision:
            raise CheckpointError(f"{where}: precision: lacks dtype")
        checked(str | None, precision["dtype"], where, "precision.dtype")
        progress = {**saved._asdict(), "epoch_samples": saved.samples}
        del progress["samples"], progress["position"]
        return cls(path, progress, states, history)

    def restore(self, trainer: Trainer) -> None:
        """Put a trainer where the saved one stood; see `restore_checkpoint`."""
        seed, dtype = self.progress["seed"], self.states["loss_scale"]["dtype"]
        if seed != trainer.seed:
            raise CheckpointError(
                f"{self.path}: was trained with seed {seed}, but this trainer has seed {trainer.seed}"
            )
        if dtype != trainer.dtype:
            raise CheckpointError(
                f"{self.path}: was trained with dtype={dtype!r}, but this trainer has dtype={trainer.dtype!r}"
            )
        for name, what in _OPTIONAL.items():
            if name in self.states and getattr(trainer, name) is None:
                raise CheckpointError(
                    f"{self.path}: was trained with {what}, but this trainer has none; give it {name}="
                )
            if name not in self.states and getattr(trainer, name) is not None:
                raise CheckpointError(f"{self.path}: was trained without {what}, but this trainer has one")
        try:
            parts = {name: getattr(trainer, name) for name in self.states}
            _load_all([(parts[name], self.states[name]) for name in parts if parts[name] is not None])
        except XpcnnError:
            raise
        except (ArithmeticError, AttributeError, LookupError, TypeError, ValueError) as error:
            raise CheckpointError(f"{self.path}: damaged checkpoint: {error!r}") from error
        for name in self.progress.keys() - {"seed"}:
            setattr(trainer, name, self.progress[name])
        trainer.history, trainer.resumed = self.history, True


def _by_parameter(slots: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """Return an optimiser's arrays by path and name, from a dict by the two in one."""
    state: dict[str, dict[str, Any]] = {}
    for name, array in slots.items():
        parameter, _, slot = name.rpartition("/")
        state.setdefault(parameter, {})[slot] = array
    return state


def _load_all(states: list[tuple[Any, dict[str, Any]]]) -> None:
    """Load each object's state; if one does not fit, put those before it back as they were."""
    before: list[tuple[Any, dict[str, Any]]] = []
    try:
        for target, state in states:
            saved = target.state_dict()
            target.load_state_dict(state)
            before.append((target, saved))
    except Exception:
        for target, saved in reversed(before):
            target.load_state_dict(saved)
        raise
