"""Train a model, on digits the program draws itself if no dataset is named.

The run's folder holds its settings, history, weights and checkpoint. Ctrl-C saves the run;
--resume goes on with it to the same bits as if it had not stopped.
"""

from __future__ import annotations

import argparse
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

from xpcnn.cli import datasets, session
from xpcnn.cli.options import (
    DTYPES,
    UsageError,
    add_device_options,
    add_model_option,
    choose_backend,
    count,
    model_options,
    natural,
)
from xpcnn.cli.settings import OPTIMIZERS, Settings
from xpcnn.models import model_names
from xpcnn.train import RunDirectory

__all__ = ["add_arguments", "run"]

_BESIDE_RESUME = {"resume", "epochs", "backend", "device"}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options. One that is not given is absent after parsing, so that --resume can tell."""
    parser.argument_default = argparse.SUPPRESS
    parser.usage = "%(prog)s [OPTION ...]"
    what = parser.add_argument_group("data and model")
    what.add_argument("--dataset", choices=datasets.DATASETS, help=f"(default: {Settings.dataset})")
    what.add_argument("--train-samples", type=count, metavar="N", help="use the first N only (default: all)")
    what.add_argument("--test-samples", type=count, metavar="N", help="use the first N only (default: all)")
    what.add_argument("--model", choices=model_names(), help=f"(default: {Settings.model})")
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
        "--evaluate-samples",
        type=count,
        metavar="N",
        help="take accuracies after an epoch on the first N of each set (default: all)",
    )
    how.add_argument(
        "--seed", type=natural, metavar="N", help="of initial weights, order and masks (default: 0)"
    )

    where = parser.add_argument_group("computing and saving")
    add_device_options(where)
    where.add_argument("--dtype", choices=DTYPES, help=f"(default: {Settings.dtype})")
    where.add_argument(
        "--out", type=Path, metavar="DIR", help="the run's folder (default: runs/DATASET-MODEL-TIME)"
    )
    where.add_argument(
        "--resume",
        type=Path,
        metavar="RUN",
        help="go on with the run in this folder; --epochs, --backend and --device may be given with it "
        "(default: the run's own)",
    )


def _rate(text: str) -> float:
    try:
        number = float(text)
    except ValueError:
        number = math.nan
    if not (math.isfinite(number) and number >= 0):
        raise argparse.ArgumentTypeError(f"{text!r} is not a number of at least 0")
    return number


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
    return session.begin(Settings(**given), out)


def _resume(given: dict[str, Any]) -> int:
    others = sorted(given.keys() - _BESIDE_RESUME)
    if others:
        option = "--" + others[0].replace("_", "-")
        raise UsageError(f"--resume takes its settings from the run, so {option} cannot be given with it")
    directory = RunDirectory(given.pop("resume"))
    settings = Settings.of_run(directory.config(), directory.config_file)
    if "backend" in given:
        given.setdefault("device", None)
    settings = replace(settings, **given)
    choose_backend(settings.backend, settings.device)
    return session.resume(settings, directory)
