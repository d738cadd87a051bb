"""Train a model, on digits the program draws itself if no dataset is named.

The run's folder holds its settings, history, checkpoint, and the weights of the last and of the best epoch.
Ctrl-C saves the run; --resume goes on with it to the same bits as if it had not stopped.
"""

from __future__ import annotations

import argparse
import shlex
import sys
from contextlib import nullcontext
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from xpcnn.cli.banner import print_banner
from xpcnn.cli.imports import import_options
from xpcnn.cli.models import first, model_options
from xpcnn.cli.options import UsageError, add_device_options, choose_backend, path
from xpcnn.cli.output import lasting_output, printable
from xpcnn.cli.settings import COMPUTING, GROUPS, OF_FIXED_LENGTH, Settings, add_settings
from xpcnn.data import Dataset, load_dataset
from xpcnn.nn import summary
from xpcnn.ops import autotune
from xpcnn.train import EarlyStopping, History, ProgressBar, ProgressLines, RunDirectory, Trainer, evaluate
from xpcnn.train.interrupt import status_of
from xpcnn.viz import plot_curves

__all__ = ["add_arguments", "run"]

_BESIDE_RESUME = {"resume", "epochs", "patience", "backend", "device"}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options. One that is not given is absent after parsing, so that --resume can tell."""
    parser.argument_default = argparse.SUPPRESS
    parser.usage = "%(prog)s [OPTION ...]"
    groups = {name: parser.add_argument_group(name) for name in GROUPS}
    add_settings(groups)
    where = groups[COMPUTING]
    add_device_options(where)
    what = "the run's folder (default: runs/DATASET-MODEL-TIME)"
    where.add_argument("--out", type=path, metavar="DIR", help=what)
    what = (
        "go on with the run in this folder; --epochs (in all), --patience, --backend and --device may be "
        "given too (default: the run's own)"
    )
    where.add_argument("--resume", type=path, metavar="RUN", help=what)


def run(args: argparse.Namespace) -> int:
    """Train, from the beginning or from where a run stopped."""
    given = {name: value for name, value in vars(args).items() if name not in ("command", "parser", "run")}
    return _resume(given) if "resume" in given else begin(*_settings(given))


def _settings(given: dict[str, Any]) -> tuple[Settings, Path | None]:
    """Return the settings of a new run, and its folder; those that do not go together are refused."""
    out = given.pop("out", None)
    given["backend"] = choose_backend(given.get("backend"), given.get("device")).name
    given["model_options"] = model_options(given.get("model", Settings.model), given.get("model_options", []))
    settings = Settings(**given)
    schedule, optimizer, warmup = settings.schedule, settings.optimizer, settings.warmup
    stepwise = schedule in ("step", "exponential")
    if "momentum" in given and optimizer not in ("momentum", "nesterov"):
        raise UsageError(f"--momentum is for the optimizers momentum and nesterov, not for {optimizer}")
    if "label_smoothing" in given and settings.model_options.get("aux"):
        raise UsageError("--label-smoothing is not for auxiliary heads, which have a loss of their own")
    for option in ("lr-step", "lr-gamma"):
        if option.replace("-", "_") in given and not stepwise:
            raise UsageError(f"--{option} is for the schedules step and exponential, not for {schedule}")
    if warmup is not None and schedule == "one-cycle":
        raise UsageError("--warmup is not for the schedule one-cycle, which begins with one of its own")
    if warmup is not None and warmup >= settings.epochs:
        raise UsageError(f"--warmup {warmup:g}: must be shorter than the {settings.epochs} epochs of the run")
    usual = {"lr_step": -(-settings.epochs // 3), "lr_gamma": 0.1} if stepwise else {}
    return Settings(**{**usual, **given}), out


def begin(settings: Settings, out: Path | None) -> int:
    """Train from the beginning, in a new folder, and return the exit status."""
    trainer, train, test = _trainer(settings)
    schedule = trainer.schedule
    settings = replace(settings, lr=trainer.optimizer.lr if schedule is None else schedule.base_lr)
    directory = RunDirectory(out or _new_folder(settings), settings.to_config())
    return _train(trainer, train, test, settings, directory)


def _resume(given: dict[str, Any]) -> int:
    """Train on from where a run stopped, and return the exit status."""
    others = sorted(given.keys() - _BESIDE_RESUME)
    if others:
        option = others[0].replace("model_options", "model_option").replace("_", "-")
        raise UsageError(f"--resume takes its settings from the run, so --{option} cannot be given with it")
    directory = RunDirectory(given.pop("resume"))
    settings = Settings.of_run(directory.config(), directory.config_file)
    if settings.schedule in OF_FIXED_LENGTH and given.get("epochs", settings.epochs) != settings.epochs:
        raise UsageError(
            f"--epochs {given['epochs']}: the run's schedule {settings.schedule} ends with its "
            f"{settings.epochs} epochs; begin another run for more"
        )
    if "backend" in given:
        given.setdefault("device", None)
    settings = replace(settings, **given)
    choose_backend(settings.backend, settings.device)
    return _train(*_trainer(settings), settings, directory, resumed=True)


def _train(
    trainer: Trainer,
    train: Dataset,
    test: Dataset,
    settings: Settings,
    directory: RunDirectory,
    resumed: bool = False,
) -> int:
    """Train while nobody else writes the run; it outlives its output, which a note names then."""
    tuning = autotune() if settings.autotune else nullcontext()
    with directory.writing(), lasting_output() as failures, tuning:
        state = _restored(trainer, settings, directory) if resumed else None
        print_banner(settings, trainer, train, test, directory)
        if state is not None:
            print(state, flush=True)
        status = _fit(trainer, train, test, settings, directory)
    return status or int(bool(failures))


def _restored(trainer: Trainer, settings: Settings, directory: RunDirectory) -> str:
    """Put a trainer where the run stopped, and return where that is."""
    directory.restore(trainer)
    if settings.epochs < trainer.epoch:
        raise UsageError(f"--epochs {settings.epochs}: the run has trained for {trainer.epoch} already")
    directory.save_config(settings.to_config())
    done = f"{trainer.epoch} of {settings.epochs} epochs done"
    if trainer.epoch < settings.epochs:
        return f"going on after step {trainer.steps}, {done}"
    more = "" if settings.schedule in OF_FIXED_LENGTH else "; --epochs N sets a higher total"
    return f"nothing left to train: {done}{more}"


def _trainer(settings: Settings) -> tuple[Trainer, Dataset, Dataset]:
    train, test = load_dataset(settings.dataset)
    train = first(train, settings.train_samples, "--train-samples")
    test = first(test, settings.test_samples, "--test-samples")
    if not settings.batches(len(train)):
        raise UsageError(
            f"--drop-last: no batch of --batch-size {settings.batch_size} is left of {len(train)} images"
        )
    trainer = settings.build_trainer(train)
    # A model that does not fit the images fails now, not in a run.
    summary(trainer.model, train.images.shape[1:])
    return trainer, train, test


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


def _fit(trainer: Trainer, train: Dataset, test: Dataset, settings: Settings, directory: RunDirectory) -> int:
    folder = printable(shlex.quote(str(directory.path)))
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
            state = f"interrupted and saved after step {trainer.steps}"
        else:  # by a second signal
            state = "interrupted in the middle of a step; the checkpoint of the last epoch stands"
        print(f"{state}; go on with: xpcnn train{import_options()} --resume {folder}", flush=True)
        _draw_curves(trainer.history, directory)
        return status_of(error)
    result = evaluate(trainer.eval_model, test)  # by cross-entropy without label smoothing
    print(
        f"test accuracy {result.accuracy:.2%} (loss {result.loss:.4f}) on {result.samples:,} images "
        f"after {history.seconds:.0f} s of training"
    )
    accuracies = [accuracy or 0.0 for accuracy in history.test_accuracy]
    best = max(accuracies, default=0.0)
    if accuracies and best > accuracies[-1] and directory.best_file.exists():
        epoch = history.epochs[accuracies.index(best)].epoch
        print(f"best       {best:.2%} after epoch {epoch}, in {printable(directory.best_file)}")
    _draw_curves(history, directory)
    print("next:")
    print(f"  xpcnn evaluate{import_options()} {folder}")
    print(f"  xpcnn predict{import_options()} --model {folder} IMAGE_OR_FOLDER")
    return 0


class _Bar(ProgressBar):
    """A bar on stderr, with the lines on stdout, where they can be kept."""

    def write(self, line: str) -> None:
        self._bar.write(line, file=sys.stdout)
        print(end="", flush=True)


def _draw_curves(history: History, directory: RunDirectory) -> None:
    file = directory.path / "curves.png"
    try:
        plot_curves(history, file)
        print(f"curves     {printable(file)}")
    except ImportError:
        print("no curves drawn: pip install 'xpcnn[plot]' brings matplotlib, which draws them")
