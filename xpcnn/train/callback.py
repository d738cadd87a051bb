"""What watches a training run: a base to derive from, and the progress display."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any, TextIO

from xpcnn.train.history import EpochRecord

if TYPE_CHECKING:
    from xpcnn.train.trainer import Trainer

__all__ = ["Callback", "ProgressBar", "ProgressLines", "describe", "progress_for"]


class Callback:
    """Called by `Trainer.fit`; each method does nothing unless overridden."""

    def on_start(self, trainer: Trainer, steps: int) -> None:
        """Before the first step; `steps` is how many this call of fit will take."""

    def on_losses(self, trainer: Trainer, losses: list[float]) -> None:
        """After the losses of some steps were read from the device."""

    def on_epoch(self, trainer: Trainer, record: EpochRecord) -> None:
        """After an epoch and its evaluation."""

    def on_stop(self, trainer: Trainer) -> None:
        """After the last epoch, an interrupt or an error; `trainer.history` tells which."""


def describe(record: EpochRecord) -> str:
    """Return an epoch's figures as one line."""
    test = "" if record.test_accuracy is None else f"  test {record.test_accuracy:7.2%}"
    return (
        f"epoch {record.epoch:3d}  loss {record.loss:.4f}  train {record.train_accuracy:7.2%}{test}  "
        f"{record.seconds:.1f} s  {record.images_per_second:,.0f} images/s"
    )


class ProgressLines(Callback):
    """One plain line an epoch, for logs."""

    def __init__(self, stream: TextIO | None = None) -> None:
        self._stream = stream

    def on_epoch(self, trainer: Trainer, record: EpochRecord) -> None:
        print(describe(record), file=self._stream or sys.stderr, flush=True)


class ProgressBar(Callback):
    """A bar over all steps, with a line above it for each finished epoch."""

    def __init__(self, stream: TextIO | None = None) -> None:
        self._stream = stream
        self._bar: Any = None

    def on_start(self, trainer: Trainer, steps: int) -> None:
        from tqdm import tqdm

        self._bar = tqdm(total=steps, unit="step", file=self._stream or sys.stderr, dynamic_ncols=True)

    def on_losses(self, trainer: Trainer, losses: list[float]) -> None:
        self._bar.set_postfix_str(f"loss {losses[-1]:.4f}", refresh=False)
        self._bar.update(len(losses))

    def on_epoch(self, trainer: Trainer, record: EpochRecord) -> None:
        self._bar.write(describe(record), file=self._stream or sys.stderr)

    def on_stop(self, trainer: Trainer) -> None:
        if self._bar is not None:
            self._bar.close()


def progress_for(stream: TextIO) -> Callback:
    """Return a bar for a terminal, lines for anything else."""
    return ProgressBar(stream) if stream.isatty() else ProgressLines(stream)
