"""Checkpoints: everything a run needs to go on, bit for bit, as if it had not stopped."""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from os import PathLike
from typing import Annotated, Any, NamedTuple

import numpy as np

from xpcnn.arguments import plain
from xpcnn.backend import to_numpy
from xpcnn.errors import CheckpointError, XpcnnError
from xpcnn.io import Range, checked, load_arrays, parse_json, save_arrays
from xpcnn.train.amp import LARGEST_SCALE, SMALLEST_SCALE
from xpcnn.train.history import History
from xpcnn.train.trainer import Trainer

__all__ = ["Checkpoint", "restore_checkpoint", "save_checkpoint"]

_KIND = "xpcnn checkpoint"
_OPTIONAL = {"schedule": "a schedule", "average": "an average of the weights"}
_Count = Annotated[int, Range(0)]


def save_checkpoint(path: str | PathLike[str], trainer: Trainer) -> None:
    """Write a trainer's model, optimiser, seed, step, place in the epoch and history to one file.

    Its schedule, averaged weights and loss scale go with them, where it has any.

    Raises
    ------
    CheckpointError
        When the file cannot be written. An existing file is replaced whole or not at all.
    """
    optimizer, history = trainer.optimizer.state_dict(), trainer.history.to_json()
    arrays = {f"model/{name}": to_numpy(array) for name, array in trainer.model.state_dict().items()}
    for parameter, state in optimizer.pop("state").items():
        arrays |= {f"optimizer/{parameter}/{name}": to_numpy(array) for name, array in state.items()}
    arrays["history/losses"] = np.array(trainer.history.losses, dtype=np.float64)
    del history["losses"]
    progress = {name: getattr(trainer, _attribute(name)) for name in _Progress._fields if name != "position"}
    metadata = {"progress": progress, "optimizer": optimizer, "history": history}
    if trainer.dtype is not None:
        scale = {} if trainer.loss_scale is None else trainer.loss_scale.state_dict()
        metadata["precision"] = {"dtype": trainer.dtype, **scale}
    if trainer.schedule is not None:
        metadata["schedule"] = trainer.schedule.state_dict()
    if trainer.average is not None:
        metadata["average"] = trainer.average.state_dict()
        averages = metadata["average"].pop("averages")
        arrays |= {f"average/{name}": to_numpy(array) for name, array in averages.items()}
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
    position: Annotated[int, Range(0, 0)] = 0  # in batches, by an earlier version: 0 between epochs


class _Precision(NamedTuple):
    dtype: str | None
    scale: Annotated[float, Range(SMALLEST_SCALE, LARGEST_SCALE)] | None = None
    good_steps: _Count | None = None


class _Described(NamedTuple):
    """What is in a checkpoint beside arrays."""

    progress: _Progress
    optimizer: dict[str, Any]
    history: dict[str, Any]
    precision: _Precision = _Precision(None)
    schedule: dict[str, Any] | None = None
    average: dict[str, Any] | None = None


@dataclass(frozen=True)
class Checkpoint:
    """What a file holds, read whole: `restore` finds no damage any more."""

    path: str | PathLike[str]
    described: _Described
    arrays: dict[str, dict[str, Any]]
    """Those of the trainer's parts, by the names of its attributes."""
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
        parsed = {name: parse_json(metadata[name], where) for name in _Described._fields if name in metadata}
        described: _Described = checked(_Described, parsed, where)
        losses = arrays.pop("history/losses", None)
        if losses is None or losses.dtype.kind != "f" or losses.ndim != 1:
            raise CheckpointError(f"{where}: history/losses is no list of numbers")
        history = History.from_json({**described.history, "losses": []}, f"{where}: history")
        parts: dict[str, dict[str, Any]] = {"model": {}, "optimizer": {}, "average": {}}
        for name, array in arrays.items():
            part, _, rest = name.partition("/")
            if part not in parts:
                raise CheckpointError(f"{where}: has the unknown entry {name!r:.60}")
            parts[part][rest] = array
        return cls(path, described, parts, replace(history, losses=losses.tolist()))

    def restore(self, trainer: Trainer) -> None:
        """Put a trainer where the saved one stood; see `restore_checkpoint`."""
        saved, precision = self.described, self.described.precision
        for name, value in (("seed", saved.progress.seed), ("dtype", precision.dtype)):
            if value != getattr(trainer, name):
                raise CheckpointError(
                    f"{self.path}: was trained with {name}={value!r}, "
                    f"but this trainer has {name}={getattr(trainer, name)!r}"
                )
        for name, what in _OPTIONAL.items():
            was, has = getattr(saved, name) is not None, getattr(trainer, name) is not None
            if was != has:
                own = "has one" if has else f"has none; give it {name}="
                how = "with" if was else "without"
                raise CheckpointError(f"{self.path}: was trained {how} {what}, but this trainer {own}")
        slots: dict[str, dict[str, Any]] = {}
        for name, array in self.arrays["optimizer"].items():
            parameter, _, slot = name.rpartition("/")
            slots.setdefault(parameter, {})[slot] = array
        states = [
            (trainer.model, self.arrays["model"]),
            (trainer.optimizer, {**saved.optimizer, "state": slots}),
            (trainer.loss_scale, precision._asdict()),
            (trainer.schedule, saved.schedule),
            (trainer.average, {**(saved.average or {}), "averages": self.arrays["average"]}),
        ]
        try:
            _load_all([(part, state) for part, state in states if part is not None])
        except XpcnnError:
            raise
        except (ArithmeticError, AttributeError, LookupError, TypeError, ValueError) as error:
            raise CheckpointError(f"{self.path}: damaged checkpoint: {error!r}") from error
        for name, value in saved.progress._asdict().items():
            if name not in ("seed", "position"):
                setattr(trainer, _attribute(name), value)
        trainer.history, trainer.resumed = self.history, True


def _attribute(name: str) -> str:
    """Return what an entry of `_Progress` is called in a trainer."""
    return "epoch_samples" if name == "samples" else name


def _load_all(states: list[tuple[Any, Any]]) -> None:
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
