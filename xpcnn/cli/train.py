"""Train a model, on digits the program draws itself if no dataset is named.

The run's folder holds its settings, history, checkpoint, and the weights of the last and of the best epoch.
Ctrl-C saves the run; --resume goes on with it to the same bits as if it had not stopped.
"""

from __future__ import annotations

import argparse
from dataclasses import replace
from pathlib import Path
from typing import Any

from xpcnn.cli import datasets, session
from xpcnn.cli.options import (
    DTYPES,
    add_device_options,
    add_model_option,
    augmentation,
    choose_backend,
    count,
    model_options,
    natural,
    number,
)
from xpcnn.cli.parser import UsageError
from xpcnn.cli.settings import HALF_DTYPES, OF_FIXED_LENGTH, OPTIMIZERS, SCHEDULES, Settings
from xpcnn.data import augment
from xpcnn.models.catalog import MODELS
from xpcnn.train import RunDirectory

__all__ = ["add_arguments", "run"]

_BESIDE_RESUME = {"resume", "epochs", "patience", "backend", "device"}

_TRANSFORMS = [getattr(augment, name).name for name in augment.__all__ if name not in ("Compose", "parse")]

_rate = number("of at least 0", lambda value: value >= 0)
_positive = number("above 0", lambda value: value > 0)
_share = number("from 0 to 1", lambda value: 0 <= value <= 1)
_decay = number("of at least 0 and below 1", lambda value: 0 <= value < 1)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options. One that is not given is absent after parsing, so that --resume can tell."""
    parser.argument_default = argparse.SUPPRESS
    parser.usage = "%(prog)s [OPTION ...]"
    what = parser.add_argument_group("data and model")
    what.add_argument(
        "--dataset",
        choices=datasets.DATASETS,
        metavar="NAME",
        help=f"one of %(choices)s (default: {Settings.dataset})",
    )
    what.add_argument("--train-samples", type=count, metavar="N", help="use the first N only (default: all)")
    what.add_argument("--test-samples", type=count, metavar="N", help="use the first N only (default: all)")
    what.add_argument(
        "--model", choices=MODELS, metavar="MODEL", help=f"one of %(choices)s (default: {Settings.model})"
    )
    add_model_option(what)

    how = parser.add_argument_group("training")
    how.add_argument("--optimizer", choices=OPTIMIZERS, help=f"(default: {Settings.optimizer})")
    how.add_argument("--lr", type=_rate, help="learning rate (default: 0.001 for adam and adamw, else 0.01)")
    how.add_argument("--momentum", type=_rate, help="of momentum and nesterov (default: 0.9)")
    how.add_argument("--weight-decay", type=_rate, help="(default: 0.01 for adamw, else 0)")
    how.add_argument(
        "--epochs",
        type=count,
        metavar="N",
        help=f"in all, those of a resumed run included (default: {Settings.epochs})",
    )
    how.add_argument("--batch-size", type=count, metavar="N", help=f"(default: {Settings.batch_size})")
    how.add_argument(
        "--drop-last",
        action="store_true",
        help="leave out a last batch of an epoch that is smaller (default: train on it)",
    )
    how.add_argument(
        "--evaluate-samples",
        type=count,
        metavar="N",
        help="take accuracies after an epoch on the first N of each set (default: all)",
    )
    how.add_argument(
        "--seed", type=natural, metavar="N", help="of initial weights, order and masks (default: 0)"
    )

    _add_techniques(parser)

    where = parser.add_argument_group("computing and saving")
    add_device_options(where)
    where.add_argument(
        "--dtype",
        choices=(*DTYPES, *HALF_DTYPES),
        help="float16 and bfloat16 compute in half precision and keep float32 weights; torch has both, numpy "
        f"and cupy have float16 (default: {Settings.dtype})",
    )
    where.add_argument(
        "--autotune",
        action="store_true",
        help="measure which convolution algorithm is the fastest for each layer, and keep the choices for "
        "later runs on this machine (default: choose by a fixed rule)",
    )
    where.add_argument(
        "--out", type=Path, metavar="DIR", help="the run's folder (default: runs/DATASET-MODEL-TIME)"
    )
    where.add_argument(
        "--resume",
        type=Path,
        metavar="RUN",
        help="go on with the run in this folder; --epochs, --patience, --backend and --device may be given "
        "with it (default: the run's own)",
    )


def _add_techniques(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("techniques")
    group.add_argument(
        "--schedule",
        choices=SCHEDULES,
        help="how the learning rate goes on from --lr: down along a cosine over all epochs; in one cycle "
        "over them all, which rises to --lr and falls; or times --lr-gamma every --lr-step epochs, at once "
        f"(step) or bit by bit (exponential) (default: {Settings.schedule})",
    )
    group.add_argument(
        "--lr-step", type=count, metavar="EPOCHS", help="of step and exponential (default: a third of all)"
    )
    group.add_argument(
        "--lr-gamma", type=_positive, metavar="FACTOR", help="of step and exponential (default: 0.1)"
    )
    group.add_argument(
        "--warmup",
        type=_positive,
        metavar="EPOCHS",
        help="rise to the learning rate from a third of it first; not for one-cycle (default: none)",
    )
    group.add_argument(
        "--augment",
        type=_augmentation,
        metavar="SPEC",
        help="change the training images at random, such as shift=2,rotate=10; "
        f"there are {', '.join(_TRANSFORMS)} (default: none)",
    )
    group.add_argument(
        "--label-smoothing",
        type=_share,
        metavar="SHARE",
        help="the share of each target that is spread over all classes (default: none)",
    )
    group.add_argument(
        "--clip-norm", type=_positive, metavar="NORM", help="bound the gradients' norm (default: no bound)"
    )
    group.add_argument(
        "--average",
        type=_decay,
        metavar="DECAY",
        help="measure and save an exponential moving average of the weights, such as 0.999 (default: none)",
    )
    group.add_argument(
        "--patience",
        type=count,
        metavar="EPOCHS",
        help="stop after so many without a better test accuracy (default: never)",
    )


def _augmentation(text: str) -> str:
    """Return the text as it is kept in the run's settings, once it is known to be right."""
    augmentation(text)
    return text


def run(args: argparse.Namespace) -> int:
    """Train, from the beginning or from where a run stopped."""
    given = {name: value for name, value in vars(args).items() if name not in ("command", "parser", "run")}
    return _resume(given) if "resume" in given else _begin(given)


def _begin(given: dict[str, Any]) -> int:
    out = given.pop("out", None)
    given["backend"] = choose_backend(given.get("backend"), given.get("device")).name
    pairs = given.pop("model_option", [])
    given["model_options"] = model_options(given.get("model", Settings.model), pairs)
    optimizer = given.get("optimizer", Settings.optimizer)
    if optimizer in ("momentum", "nesterov"):
        given.setdefault("momentum", 0.9)
    elif "momentum" in given:
        raise UsageError(f"--momentum is for the optimizers momentum and nesterov, not for {optimizer}")
    if "label_smoothing" in given and given["model_options"].get("aux"):
        raise UsageError(
            "--label-smoothing cannot be used with auxiliary heads, which have a loss of their own"
        )
    _check_schedule(given)
    return session.begin(Settings(**given), out)


def _check_schedule(given: dict[str, Any]) -> None:
    """Refuse options that its schedule does not have, and add those it needs."""
    schedule, epochs = given.get("schedule", Settings.schedule), given.get("epochs", Settings.epochs)
    if schedule in ("step", "exponential"):
        given.setdefault("lr_step", -(-epochs // 3))
        given.setdefault("lr_gamma", 0.1)
    for name in ("lr_step", "lr_gamma"):
        if name in given and schedule not in ("step", "exponential"):
            option = "--" + name.replace("_", "-")
            raise UsageError(f"{option} is for the schedules step and exponential, not for {schedule}")
    if "warmup" in given and schedule == "one-cycle":
        raise UsageError("--warmup is not for the schedule one-cycle, which begins with one of its own")
    if given.get("warmup", 0) >= epochs:
        raise UsageError(f"--warmup {given['warmup']:g}: must be shorter than the {epochs} epochs of the run")


def _resume(given: dict[str, Any]) -> int:
    others = sorted(given.keys() - _BESIDE_RESUME)
    if others:
        option = "--" + others[0].replace("_", "-")
        raise UsageError(f"--resume takes its settings from the run, so {option} cannot be given with it")
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
    return session.resume(settings, directory)
