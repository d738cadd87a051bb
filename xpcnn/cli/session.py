"""A session of training: from settings to a folder with a trained model, with progress shown."""

from __future__ import annotations

import shlex
import sys
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

from xpcnn.cli import datasets
from xpcnn.cli.imports import import_options
from xpcnn.cli.introduction import introduce
from xpcnn.cli.output import lasting_output, shown
from xpcnn.cli.parser import UsageError
from xpcnn.cli.settings import OF_FIXED_LENGTH, Settings
from xpcnn.data import Dataset
from xpcnn.nn import summary
from xpcnn.ops import autotune
from xpcnn.train import EarlyStopping, History, ProgressBar, ProgressLines, RunDirectory, Trainer, evaluate
from xpcnn.train.interrupt import status_of
from xpcnn.viz import plot_curves

__all__ = ["begin", "resume"]


def begin(settings: Settings, out: Path | None) -> int:
    """Train from the beginning, in a new folder, and return the exit status."""
    train, test = _data(settings)
    trainer = _trainer(settings, train)
    schedule = trainer.schedule
    settings = replace(settings, lr=trainer.optimizer.lr if schedule is None else schedule.base_lr)
    directory = RunDirectory(out or _new_folder(settings), settings.to_config())
    with _writing(settings, directory) as failures:
        introduce(settings, trainer, train, test, directory)
        status = _train(trainer, train, test, settings, directory)
    return status or int(bool(failures))  # of which a note has told


def resume(settings: Settings, directory: RunDirectory) -> int:
    """Train on from where a run stopped, and return the exit status."""
    train, test = _data(settings)
    trainer = _trainer(settings, train)
    with _writing(settings, directory) as failures:
        directory.restore(trainer)
        if settings.epochs < trainer.epoch:
            raise UsageError(f"--epochs {settings.epochs}: the run has trained for {trainer.epoch} already")
        directory.save_config(settings.to_config())
        introduce(settings, trainer, train, test, directory)
        done = f"{trainer.epoch} of {settings.epochs} epochs done"
        if trainer.epoch == settings.epochs:
            more = "" if settings.schedule in OF_FIXED_LENGTH else "; --epochs N sets a higher total"
            print(f"nothing left to train: {done}{more}")
        else:
            print(f"going on after step {trainer.steps}, {done}", flush=True)
        status = _train(trainer, train, test, settings, directory)
    return status or int(bool(failures))  # of which a note has told


@contextmanager
def _writing(settings: Settings, directory: RunDirectory) -> Iterator[list[OSError]]:
    """Let nobody else write the run, and the run outlive its output; the list has what that failed with."""
    tuning = autotune() if settings.autotune else nullcontext()
    with directory.writing(), lasting_output() as failures, tuning:
        yield failures


def _data(settings: Settings) -> tuple[Dataset, Dataset]:
    train, test = datasets.load(settings.dataset)
    return (
        datasets.first(train, settings.train_samples, "--train-samples"),
        datasets.first(test, settings.test_samples, "--test-samples"),
    )


def _trainer(settings: Settings, train: Dataset) -> Trainer:
    if not settings.batches(len(train)):
        raise UsageError(
            f"--drop-last: no batch of --batch-size {settings.batch_size} is left of {len(train)} images"
        )
    trainer = settings.build_trainer(train)
    # A model that does not fit the images fails now, not in a run.
    summary(trainer.model, train.images.shape[1:])
    return trainer


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


def _train(
    trainer: Trainer, train: Dataset, test: Dataset, settings: Settings, directory: RunDirectory
) -> int:
    run = shown(shlex.quote(str(directory.path)))
    stopping = [] if settings.patience is None else [EarlyStopping(settings.patience)]
    try:
        history = trainer.fit(
            train,
            test,
            settings.epochs - trainer.epoch,
            settings.batch_size,
            settings.evaluate_samples,
            settings.drop_last,
            progress=_Bar() if sys.stderr.isatty() else ProgressLines(sys.stdout),
            augment=settings.build_augmentation(),
            callbacks=[directory, *stopping],
        )
    except KeyboardInterrupt as error:
        if trainer.consistent:
            told = f"interrupted and saved after step {trainer.steps}"
        else:  # by a second signal
            told = "interrupted in the middle of a step; the checkpoint of the last epoch stands"
        print(f"{told}; go on with: xpcnn train{import_options()} --resume {run}", flush=True)
        _draw_curves(trainer.history, directory)
        return status_of(error)
    result = evaluate(trainer.eval_model, test)  # by cross-entropy without label smoothing
    print(
        f"test accuracy {result.accuracy:.2%} (loss {result.loss:.4f}) on {result.samples:,} images "
        f"after {history.seconds:.0f} s of training"
    )
    _tell_best(history, directory)
    _draw_curves(history, directory)
    print("next:")
    print(f"  xpcnn evaluate{import_options()} {run}")
    print(f"  xpcnn predict{import_options()} --model {run} IMAGE_OR_FOLDER")
    return 0


class _Bar(ProgressBar):
    """A bar on stderr, with the lines on stdout, where they can be kept."""

    def write(self, line: str) -> None:
        self._bar.write(line, file=sys.stdout)
        print(end="", flush=True)


def _tell_best(history: History, directory: RunDirectory) -> None:
    """Tell of the best epoch's weights, where the last are not as good."""
    accuracies = [accuracy or 0.0 for accuracy in history.test_accuracy]
    best = max(accuracies, default=0.0)
    if accuracies and best > accuracies[-1] and directory.best_file.exists():
        epoch = history.epochs[accuracies.index(best)].epoch
        print(f"best       {best:.2%} after epoch {epoch}, in {shown(directory.best_file)}")


def _draw_curves(history: History, directory: RunDirectory) -> None:
    path = directory.path / "curves.png"
    try:
        plot_curves(history, path)
        print(f"curves     {shown(path)}")
    except ImportError:
        print("no curves drawn: pip install 'xpcnn[plot]' brings matplotlib, which draws them")
