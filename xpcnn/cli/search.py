"""Search for a learning rate and a weight decay at random: many short trainings, ranked.

Each trial draws both from log-uniform ranges and trains a new model on a part of the training samples. The
accuracy on the other part, the validation set, ranks the trials; the test set is not touched.
"""

from __future__ import annotations

import argparse
import csv
import math
from collections.abc import Sequence
from dataclasses import asdict, fields, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from xpcnn.cli import datasets
from xpcnn.cli.imports import import_options
from xpcnn.cli.options import (
    DTYPES,
    add_device_options,
    add_model_option,
    choose_backend,
    count,
    model_options,
    natural,
    number,
)
from xpcnn.cli.parser import UsageError
from xpcnn.cli.settings import OPTIMIZERS, Settings
from xpcnn.io import make_folder, replacing
from xpcnn.models.catalog import MODELS
from xpcnn.nn import summary
from xpcnn.train import Trainer, Trial, random_search, ranked, split
from xpcnn.train.interrupt import status_of

__all__ = ["add_arguments", "run"]

_fraction = number("between 0 and 1", lambda value: 0 < value < 1)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options. The defaults are the book's, but for the model and its optimiser."""
    parser.usage = "%(prog)s [OPTION ...]"
    shown = "(default: %(default)s)"
    what = parser.add_argument_group("data and model")
    what.add_argument(
        "--dataset",
        choices=datasets.DATASETS,
        default=Settings.dataset,
        metavar="NAME",
        help=f"one of %(choices)s {shown}",
    )
    samples = f"use the first N only, validation included {shown}"
    what.add_argument("--train-samples", type=count, default=500, metavar="N", help=samples)
    share = f"the share of them that is held out for validation {shown}"
    what.add_argument("--validation", type=_fraction, default=0.2, metavar="SHARE", help=share)
    one_of = f"one of %(choices)s {shown}"
    what.add_argument("--model", choices=MODELS, metavar="MODEL", default=Settings.model, help=one_of)
    add_model_option(what)

    how = parser.add_argument_group("search")
    interval: dict[str, Any] = {"type": _range, "metavar": "LOW,HIGH"}
    how.add_argument("--lr", default="1e-6,1e-2", help=f"learning rates {shown}", **interval)
    how.add_argument("--weight-decay", default="1e-8,1e-4", help=f"weight decays {shown}", **interval)
    how.add_argument("--trials", type=count, default=100, metavar="N", help=shown)

    training = parser.add_argument_group("training, of each trial")
    momentum = f"momentum and nesterov have a momentum of 0.9 {shown}"
    training.add_argument("--optimizer", choices=OPTIMIZERS, default=Settings.optimizer, help=momentum)
    training.add_argument("--epochs", type=count, default=50, metavar="N", help=shown)
    training.add_argument("--batch-size", type=count, default=Settings.batch_size, metavar="N", help=shown)
    seed = f"of what is drawn, of the validation set, and of each trial's training {shown}"
    training.add_argument("--seed", type=natural, default=0, metavar="N", help=seed)

    where = parser.add_argument_group("computing and saving")
    add_device_options(where)
    where.add_argument("--dtype", choices=DTYPES, default=Settings.dtype, help=shown)
    table = "the trials, best first (default: runs/search-DATASET-MODEL-TIME.csv)"
    where.add_argument("--out", type=Path, metavar="FILE.csv", help=table)


def _range(text: str) -> tuple[float, float]:
    try:
        low, high = (float(bound) for bound in text.split(","))
    except ValueError:
        low, high = math.nan, math.nan
    if not 0 < low <= high < math.inf:
        raise argparse.ArgumentTypeError(f"{text!r} is not LOW,HIGH with 0 < LOW <= HIGH")
    return low, high


def run(args: argparse.Namespace) -> int:
    """Search, and print the best trials."""
    backend = choose_backend(args.backend, args.device)
    same = ("device", "dataset", "model", "optimizer", "epochs", "batch_size", "seed", "dtype")
    settings = Settings(
        **{name: getattr(args, name) for name in same},
        backend=backend.name,
        model_options=model_options(args.model, args.model_option or ()),
        momentum=0.9 if args.optimizer in ("momentum", "nesterov") else None,
    )
    whole, _ = datasets.load(args.dataset)
    samples = datasets.first(whole, args.train_samples, "--train-samples")
    train, validation = split(samples, args.validation, args.seed)
    # A model that does not fit the images fails now.
    summary(settings.build_model(train), train.images.shape[1:])
    now = datetime.now(UTC).strftime("%Y%m%d-%H%M%S-%f")
    out = args.out or Path("runs", f"search-{settings.dataset}-{settings.model}-{now}.csv")
    if out.exists():
        raise UsageError(f"--out {out}: is there already; name another file")
    _write([], out)  # a file that cannot be written fails now
    print(
        f"{args.trials} trials of {settings.model} with {settings.optimizer}, {settings.epochs} epochs: "
        f"{len(train):,} images of {settings.dataset} to train on, {len(validation):,} to validate"
    )

    def build(lr: float, weight_decay: float, seed: int) -> Trainer:
        return replace(settings, lr=lr, weight_decay=weight_decay, seed=seed).build_trainer(train)

    trials: list[Trial] = []
    status = 0
    ranges = {"lr": args.lr, "weight_decay": args.weight_decay}
    counts = {"trials": args.trials, "epochs": args.epochs, "batch_size": args.batch_size}
    try:
        for trial in random_search(build, train, validation, **ranges, **counts, seed=args.seed):
            trials.append(trial)
            _write(trials, out)
            print(f"trial {trial.number} of {args.trials}  {_row(trial)}", flush=True)
    except KeyboardInterrupt as error:
        _write(trials, out)
        print(f"interrupted after {len(trials)} trials")
        status = status_of(error)
    print(f"all {len(trials)}, best first, in {out}")
    best = next(iter(ranked(trials)), None)
    if best is not None and best.accuracy is not None:
        pairs = "".join(f" --model-option {name}={value}" for name, value in settings.model_options.items())
        print(
            f"best: trial {best.number}  {_row(best)}\n"
            f"next: xpcnn train{import_options()} --dataset {settings.dataset} --model {settings.model}"
            f"{pairs} --optimizer {settings.optimizer} --lr {best.lr:.3g} "
            f"--weight-decay {best.weight_decay:.3g}"
        )
    return status


def _row(trial: Trial) -> str:
    result = "diverged" if trial.accuracy is None else f"{trial.accuracy:8.2%}"
    values = f"lr {trial.lr:.2e}  weight decay {trial.weight_decay:.2e}  {trial.seconds:.1f} s"
    return f"{result}  {values}  {trial.failure}".rstrip()


def _write(trials: Sequence[Trial], out: Path) -> None:
    """Write the trials, best first."""
    make_folder(out.parent)
    with replacing(out) as temporary, open(temporary, "w", encoding="utf-8", newline="") as file:
        rows = csv.DictWriter(file, [field.name for field in fields(Trial)])
        rows.writeheader()
        rows.writerows(map(asdict, ranked(trials)))
