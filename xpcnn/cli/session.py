"""A session of training: from settings to a folder with a trained model, telling what goes on."""

from __future__ import annotations

import math
import shlex
import sys
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

from xpcnn.backend import get_backend
from xpcnn.cli import datasets
from xpcnn.cli.options import UsageError
from xpcnn.cli.settings import Settings
from xpcnn.data import Dataset
from xpcnn.nn import summary
from xpcnn.train import (
    EpochRecord,
    History,
    ProgressBar,
    ProgressLines,
    RunDirectory,
    Trainer,
    describe,
)
from xpcnn.viz import plot_curves

__all__ = ["begin", "resume"]


def begin(settings: Settings, out: Path | None) -> int:
    """Train from the beginning, in a new folder, and return the exit status."""
    train, test = _data(settings)
    trainer = _trainer(settings, train)
    settings = replace(settings, lr=trainer.optimizer.lr)
    directory = RunDirectory(out or _new_folder(settings), settings.to_config())
    _introduce(settings, trainer, train, test, directory)
    return _train(trainer, train, test, settings, directory)


def resume(settings: Settings, directory: RunDirectory) -> int:
    """Train on from where a run stopped, and return the exit status."""
    train, test = _data(settings)
    trainer = _trainer(settings, train)
    directory.restore(trainer)
    if settings.epochs < trainer.epoch:
        raise UsageError(f"--epochs {settings.epochs}: the run has trained for {trainer.epoch} already")
    directory.save_config(settings.to_config())
    _introduce(settings, trainer, train, test, directory)
    done = f"{trainer.epoch} of {settings.epochs} epochs done"
    if trainer.epoch == settings.epochs:
        print(f"nothing left to train: {done}; --epochs N sets a higher total")
    else:
        print(f"going on after step {trainer.steps}, {done}", flush=True)
    return _train(trainer, train, test, settings, directory)


def _data(settings: Settings) -> tuple[Dataset, Dataset]:
    train, test = datasets.load(settings.dataset)
    return (
        datasets.first(train, settings.train_samples, "--train-samples"),
        datasets.first(test, settings.test_samples, "--test-samples"),
    )


def _trainer(settings: Settings, train: Dataset) -> Trainer:
    model = settings.build_model()
    summary(model, train.images.shape[1:])  # a model that does not fit the images fails now, not in a run
    return Trainer(model, settings.build_optimizer(model), seed=settings.seed)


def _new_folder(settings: Settings) -> Path:
    now = datetime.now(UTC).strftime("%Y%m%d-%H%M%S")
    name = f"{settings.dataset}-{settings.model}-{now}"
    folder, number = Path("runs", name), 2
    while True:
        try:
            folder.mkdir(parents=True)
            return folder
        except FileExistsError:  # of a run begun in the same second
            folder, number = folder.with_name(f"{name}-{number}"), number + 1


def _introduce(
    settings: Settings, trainer: Trainer, train: Dataset, test: Dataset, directory: RunDirectory
) -> None:
    parameters = sum(math.prod(parameter.shape) for parameter in trainer.model.parameters().values())
    size = "x".join(map(str, train.images.shape[1:]))
    options = "".join(f", {name} {value}" for name, value in settings.model_options.items())
    print(f"backend    {get_backend()}, {settings.dtype}")
    print(f"data       {settings.dataset}: {len(train):,} training and {len(test):,} test images of {size}")
    print(f"model      {settings.model}{options}: {parameters:,} parameters")
    print(
        f"optimizer  {settings.optimizer}, lr {trainer.optimizer.lr:g}; {settings.epochs} epochs "
        f"in batches of {settings.batch_size}, seed {settings.seed}"
    )
    print(f"run        {directory.path} (Ctrl-C saves it)", flush=True)


def _train(
    trainer: Trainer, train: Dataset, test: Dataset, settings: Settings, directory: RunDirectory
) -> int:
    run = shlex.quote(str(directory.path))
    try:
        history = trainer.fit(
            train,
            test,
            settings.epochs - trainer.epoch,
            settings.batch_size,
            settings.evaluate_samples,
            progress=_Bar() if sys.stderr.isatty() else ProgressLines(sys.stdout),
            callbacks=[directory],
        )
    except KeyboardInterrupt:
        if trainer.whole:
            told = f"interrupted and saved after step {trainer.steps}"
        else:  # by a second Ctrl-C
            told = "interrupted in the middle of a step; the checkpoint of the last epoch stands"
        print(f"{told}; go on with: xpcnn train --resume {run}", flush=True)
        _draw_curves(trainer.history, directory)
        return 1
    result = trainer.evaluate(test)
    print(
        f"test accuracy {result.accuracy:.2%} (loss {result.loss:.4f}) on {result.samples:,} images "
        f"after {history.seconds:.0f} s of training"
    )
    _draw_curves(history, directory)
    print("next:")
    print(f"  xpcnn evaluate {run}")
    print(f"  xpcnn predict --model {run} IMAGE_OR_FOLDER")
    return 0


class _Bar(ProgressBar):
    """A bar on stderr, with the epochs' lines on stdout, where they can be kept."""

    def on_epoch(self, trainer: Trainer, record: EpochRecord) -> None:
        self._bar.write(describe(record), file=sys.stdout)
        print(end="", flush=True)


def _draw_curves(history: History, directory: RunDirectory) -> None:
    path = directory.path / "curves.png"
    try:
        plot_curves(history, path)
        print(f"curves     {path}")
    except ImportError:
        print("no curves drawn: pip install 'xpcnn[plot]' brings matplotlib, which draws them")
