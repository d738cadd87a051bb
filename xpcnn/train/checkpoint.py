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
_Count = Annotated[int, Range(0)]


_ATTRIBUTES = {"samples": "epoch_samples"}
"""What is called otherwise in a trainer than in a file."""


class _Progress(NamedTuple):
    """Where a trainer stood."""

    seed: _Count
    steps: _Count
    epoch: _Count
    epoch_seconds: float
    samples: _Count = 0
    epoch_steps: _Count = 0
    data: str | None = None
    batch_size: Annotated[int, Range(1)] | None = None


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
    progress = {name: getattr(trainer, _ATTRIBUTES.get(name, name)) for name in _Progress._fields}
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
        was = {"seed": repr(saved.progress.seed), "dtype": repr(precision.dtype)}
        now = {"seed": repr(trainer.seed), "dtype": repr(trainer.dtype)}
        for name in ("schedule", "average"):
            was[name], now[name] = ("None" if getattr(one, name) is None else "…" for one in (saved, trainer))
        for name, value in was.items():
            if value != now[name]:
                raise CheckpointError(
                    f"{self.path}: was trained with {name}={value}, but this trainer has {name}={now[name]}"
                )
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
            setattr(trainer, _ATTRIBUTES.get(name, name), value)
        trainer.history, trainer.resumed = self.history, True


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
