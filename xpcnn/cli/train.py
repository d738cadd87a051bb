"""Train a model, on digits the program draws itself if no dataset is named.

The run's folder holds its settings, history, checkpoint, and the weights of the last and of the best epoch.
Ctrl-C saves the run; --resume goes on with it to the same bits as if it had not stopped.
"""

from __future__ import annotations

import argparse
import shlex
import sys
from contextlib import nullcontext
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from xpcnn import ops
from xpcnn.backend import get_backend
from xpcnn.cli import settings as known
from xpcnn.cli.imports import import_options
from xpcnn.cli.models import first, model_options
from xpcnn.cli.options import UsageError, add_shared, choose_backend, path, time_stamp
from xpcnn.cli.output import plain_output, printable
from xpcnn.cli.settings import Settings, flag
from xpcnn.data import Dataset, augment, load_dataset
from xpcnn.nn import summary
from xpcnn.train import EarlyStopping, History, ProgressBar, ProgressLines, RunDirectory, Trainer, evaluate
from xpcnn.train.interrupt import status_of
from xpcnn.viz import plot_curves

_BESIDE_RESUME = {"resume", "epochs", "patience", "backend", "device"}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options. One that is not given is absent after parsing, so that --resume can tell."""
    parser.usage = "%(prog)s [OPTION ...]"
    where = known.add_settings(parser)[known.COMPUTING]
    add_shared(where, "--backend", "--device")
    what = "the run's folder (default: runs/DATASET-MODEL-TIME)"
    where.add_argument("--out", type=path, metavar="DIR", help=what)
    what = "go on with this run; --epochs, --patience, --backend and --device may be other than its own"
    where.add_argument("--resume", type=path, metavar="RUN", help=f"{what} (default: begin one)")


def run(args: argparse.Namespace) -> int:
    """Train, from the beginning or from where a run stopped, and return the exit status."""
    given = {name: value for name, value in vars(args).items() if name not in ("command", "parser", "run")}
    if "resume" in given:
        directory = RunDirectory(given.pop("resume"))
        return _train(_resumed(directory, given), directory)
    out = given.pop("out", None)
    return _train(_new(given), None, out)


def _new(given: dict[str, Any]) -> Settings:
    """Return the settings of a new run; those that do not go together are refused."""
    given["backend"] = choose_backend(given.get("backend"), given.get("device")).name
    given["model_options"] = model_options(given.get("model", Settings.model), given.get("model_options", []))
    settings = Settings(**given)
    schedule, optimizer, warmup = settings.schedule, settings.optimizer, settings.warmup
    if "momentum" in given and optimizer not in known.WITH_MOMENTUM:
        raise UsageError(f"--momentum is for the optimizers momentum and nesterov, not for {optimizer}")
    if "label_smoothing" in given and settings.model_options.get("aux"):
        raise UsageError("--label-smoothing is not for auxiliary heads, which have a loss of their own")
    stepwise = {"lr_step", "lr_gamma"} & given.keys()
    if stepwise and schedule not in known.STEPWISE:
        name = flag(min(stepwise))
        raise UsageError(f"{name} is for the schedules step and exponential, not for {schedule}")
    if warmup is not None and schedule == "one-cycle":
        raise UsageError("--warmup is not for the schedule one-cycle, which begins with one of its own")
    if warmup is not None and warmup >= settings.epochs:
        raise UsageError(f"--warmup {warmup:g}: must be shorter than the {settings.epochs} epochs of the run")
    if schedule in known.STEPWISE:
        return Settings(**{"lr_step": -(-settings.epochs // 3), "lr_gamma": 0.1, **given})
    return settings


def _resumed(directory: RunDirectory, given: dict[str, Any]) -> Settings:
    """Return the settings of a run, with those that may be given again."""
    for name in sorted(given.keys() - _BESIDE_RESUME):
        raise UsageError(f"--resume takes its settings from the run, so {flag(name)} cannot be given with it")
    settings = Settings.of_run(directory.config(), directory.config_file)
    epochs = settings.epochs
    if settings.schedule in known.OF_FIXED_LENGTH and given.get("epochs", epochs) != epochs:
        reason = f"the run's schedule {settings.schedule} ends with its {epochs} epochs"
        raise UsageError(f"--epochs {given['epochs']}: {reason}; begin another run for more")
    own_device = {} if "backend" not in given else {"device": None}
    settings = replace(settings, **{**own_device, **given})
    choose_backend(settings.backend, settings.device)
    return settings


def _train(settings: Settings, directory: RunDirectory | None, out: Path | None = None) -> int:
    """Resume the run of that directory, or begin one in the folder `out`, and return the exit status.

    Nobody else writes the run meanwhile; it outlives its output, which a note names then.
    """
    train, test = load_dataset(settings.dataset)
    train = first(train, settings.train_samples, "--train-samples")
    test = first(test, settings.test_samples, "--test-samples")
    if not settings.batches(len(train)):
        size = settings.batch_size
        raise UsageError(f"--drop-last: no batch of --batch-size {size} is left of {len(train)} images")
    trainer = settings.build_trainer(train)
    # A model that does not fit the images fails now, not in a run.
    parameters = summary(trainer.model, train.images.shape[1:]).parameters
    schedule, is_new = trainer.schedule, directory is None
    settings = replace(settings, lr=trainer.optimizer.lr if schedule is None else schedule.base_lr)
    if directory is None:
        out = out or Path("runs", f"{settings.dataset}-{settings.model}-{time_stamp()}")
        directory = RunDirectory(out, settings.to_config())
    failures: list[OSError] = []
    tuning = ops.autotune() if settings.autotune else nullcontext()
    with directory.writing(), plain_output(failures), tuning:
        state = "" if is_new else _restored(trainer, settings, directory)
        _print_banner(settings, train, test, parameters, directory)
        print(end=state, flush=True)
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
        return f"going on after step {trainer.steps}, {done}\n"
    more = "" if settings.schedule in known.OF_FIXED_LENGTH else "; --epochs N sets a higher total"
    return f"nothing left to train: {done}{more}\n"


_IN_BANNER = ("backend", "device", "dtype", "dataset", "train_samples", "test_samples", "model",
              "model_options", "optimizer", "lr", "epochs", "batch_size", "seed")  # fmt: skip
_USUAL = (None, False, "constant")


def _print_banner(
    settings: Settings, train: Dataset, test: Dataset, parameters: int, directory: RunDirectory
) -> None:
    """Print where, on what and how a run trains: all settings that are not the usual ones."""
    size = "x".join(map(str, train.images.shape[1:]))
    options = "".join(f", {name} {value}" for name, value in settings.model_options.items())
    others = [(name, value) for name, value in asdict(settings).items() if name not in _IN_BANNER]
    unusual = [f"{name.replace('_', ' ')} {value}" for name, value in others if value not in _USUAL]
    lines = {
        "backend": f"{get_backend()}, {settings.dtype}",
        "data": f"{settings.dataset}: {len(train):,} training and {len(test):,} test images of {size}",
        "model": f"{settings.model}{options}: {parameters:,} parameters",
        "optimizer": f"{settings.optimizer}, lr {settings.lr:g}; {settings.epochs} epochs "
        f"in batches of {settings.batch_size}, seed {settings.seed}",
        "with": ", ".join(unusual),
        "run": f"{directory.path} (Ctrl-C saves it)",
    }
    for name, text in lines.items():
        if text:
            print(f"{name:<10} {printable(text)}", flush=True)


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
            augment=None if settings.augment is None else augment.parse(settings.augment),
            callbacks=[directory, *stopping],
        )
    except KeyboardInterrupt as error:
        state = f"interrupted and saved after step {trainer.steps}"
        if not trainer.consistent:  # by a second signal
            state = "interrupted in the middle of a step; the checkpoint of the last epoch stands"
        print(f"{state}; go on with: xpcnn train{import_options()} --resume {folder}", flush=True)
        _draw_curves(trainer.history, directory)
        return status_of(error)
    result = evaluate(trainer.eval_model, test)  # by cross-entropy without label smoothing
    figures = f"{result.accuracy:.2%} (loss {result.loss:.4f}) on {result.samples:,} images"
    print(f"test accuracy {figures} after {history.seconds:.0f} s of training")
    best = max(history.epochs, key=lambda epoch: epoch.test_accuracy or 0.0, default=None)
    if best is not None and best is not history.epochs[-1] and directory.best_file.exists():
        accuracy, file = best.test_accuracy or 0.0, printable(directory.best_file)
        print(f"best       {accuracy:.2%} after epoch {best.epoch}, in {file}")
    _draw_curves(history, directory)
    print(f"next:\n  xpcnn evaluate{import_options()} {folder}")
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
