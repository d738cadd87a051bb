"""One member of an ensemble, in a process of its own; `benchmarks.ensemble` starts it.

    python -m benchmarks.ensemble_member RUN

RUN is the folder of a run as `xpcnn train` keeps it. It is trained to its end from where it stands. Each line
on stdout is a report in JSON. Each line on stdin is a number of threads to go on with; once stdin ends, the
run is saved after the step at hand, and the process ends. So no member outlives the command that started it,
however that came to its end.
"""

from __future__ import annotations

import _thread
import json
import os
import signal
import sys
import threading
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

from xpcnn import set_num_threads
from xpcnn.cli import datasets
from xpcnn.cli.options import choose_backend
from xpcnn.cli.settings import Settings
from xpcnn.errors import XpcnnError
from xpcnn.train import Callback, RunDirectory, Trainer
from xpcnn.train.history import EpochRecord

# What the first estimate is taken from: a few steps, but not the very first, which take longer.
WARM_UP_STEPS, MEASURED_STEPS = 10, 30

STDIN, STDOUT = 0, 1


def report(**what: Any) -> None:
    """Write a line to the command; if that is gone, nobody is told."""
    with suppress(BrokenPipeError):
        os.write(STDOUT, f"{json.dumps(what)}\n".encode())


class Orders:
    """What comes in on stdin."""

    def __init__(self) -> None:
        self._threads: int | None = None
        threading.Thread(target=self._listen, daemon=True).start()

    def _listen(self) -> None:
        # Not from sys.stdin, whose lock this thread would still hold when the interpreter wants to end.
        while line := os.read(STDIN, 100):
            self._threads = int(line.split()[-1])
        _thread.interrupt_main()

    def follow(self) -> None:
        """Do what was ordered since the last call."""
        threads, self._threads = self._threads, None
        if threads is not None:
            set_num_threads(threads)


class Reports(Callback):
    """Reports each epoch once it is saved, and early what one will take; follows orders between steps."""

    def __init__(self, orders: Orders, batches: int) -> None:
        self._orders = orders
        self._batches = batches
        self._steps = 0
        self._warm: tuple[int, float] | None = None
        self._told = False
        self._stepped = 0.0

    def on_start(self, trainer: Trainer, steps: int) -> None:
        self._stepped = time.perf_counter()
        report(step=trainer.steps, epochs=trainer.epoch)

    def on_losses(self, trainer: Trainer, losses: list[float]) -> None:
        self._orders.follow()
        self._stepped = time.perf_counter()
        self._steps += len(losses)
        if self._warm is None and self._steps >= WARM_UP_STEPS:
            self._warm = self._steps, self._stepped
        elif self._warm is not None and not self._told and self._steps >= self._warm[0] + MEASURED_STEPS:
            self._told = True
            step = (self._stepped - self._warm[1]) / (self._steps - self._warm[0])
            report(epoch_seconds=step * self._batches)

    def on_epoch(self, trainer: Trainer, record: EpochRecord) -> None:
        self._told = True
        report(
            epoch=record.epoch,
            loss=record.loss,
            train_accuracy=record.train_accuracy,
            test_accuracy=record.test_accuracy,
            # of training, even if that was broken off on the way, and of the evaluation after it
            epoch_seconds=record.seconds + time.perf_counter() - self._stepped,
        )


def train(folder: Path, orders: Orders) -> None:
    """Train a run to its end, from where it stands."""
    run = RunDirectory(folder)
    settings = Settings.of_run(run.config(), run.config_file)
    choose_backend(settings.backend, settings.device)
    everything = datasets.load(settings.dataset)
    train_set = datasets.first(everything[0], settings.train_samples, "train_samples")
    test_set = datasets.first(everything[1], settings.test_samples, "test_samples")
    trainer = settings.build_trainer(train_set)
    run.restore(trainer)
    trainer.fit(
        train_set,
        test_set,
        settings.epochs - trainer.epoch,
        settings.batch_size,
        settings.evaluate_samples,
        augment=settings.build_augmentation(),
        progress=None,
        callbacks=[run, Reports(orders, -(-len(train_set) // settings.batch_size))],
    )


def main() -> int:
    sys.stdout = sys.stderr  # stdout is for reports alone
    # Not ignored, as shells make it for what they start in the background: this is how orders end a step.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        train(Path(sys.argv[1]), Orders())
    except KeyboardInterrupt:
        return 1
    except XpcnnError as error:
        report(error=str(error))
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
