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
from pathlib import Path

from xpcnn.cli import options
from xpcnn.cli.imports import import_options
from xpcnn.cli.models import first, model_options
from xpcnn.cli.settings import COMPUTING, Settings, add_settings
from xpcnn.data import load_dataset
from xpcnn.io import Range, make_folder, replacing
from xpcnn.nn import summary
from xpcnn.train import Trainer, Trial, random_search, ranked, split
from xpcnn.train.interrupt import status_of

_OF_A_TRIAL = ("dataset", "train_samples", "model", "model_options", "optimizer", "epochs", "batch_size",
               "seed", "dtype")  # fmt: skip
_BOOK = {"train_samples": 500, "epochs": 50}
"""The book's defaults, where they differ from those of a training."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options. The defaults are the book's, but for the model and its optimiser."""
    parser.usage = "%(prog)s [OPTION ...]"
    shown = "(default: %(default)s)"
    how = parser.add_argument_group("search")
    how.add_argument("--lr", default="1e-6,1e-2", type=_range, metavar="LOW,HIGH", help=shown)
    how.add_argument("--weight-decay", default="1e-8,1e-4", type=_range, metavar="LOW,HIGH", help=shown)
    how.add_argument("--trials", type=options.count, default=100, metavar="N", help=shown)
    part = options.number(float, Range(0, 1, above=True))
    what = f"the fraction of the samples that is held out for validation {shown}"
    how.add_argument("--validation", type=part, default=0.2, metavar="X", help=what)
    where = add_settings(parser, _OF_A_TRIAL, _BOOK)[COMPUTING]
    options.add_shared(where, "--backend", "--device")
    what = "the trials, best first (default: runs/search-DATASET-MODEL-TIME.csv)"
    where.add_argument("--out", type=options.path, metavar="FILE.csv", help=what)


def _range(text: str) -> tuple[float, float]:
    try:
        low, high = map(float, text.split(","))
    except ValueError:
        low = high = math.nan
    if not 0 < low <= high < math.inf:
        raise argparse.ArgumentTypeError(f"{text!r} is not LOW,HIGH with 0 < LOW <= HIGH")
    return low, high


def run(args: argparse.Namespace) -> int:
    """Search, and print the best trials."""
    given = vars(args)
    device = given.get("device")
    chosen = {**_BOOK, **{name: given[name] for name in _OF_A_TRIAL if name in given}}
    chosen["backend"] = options.choose_backend(given.get("backend"), device).name
    model = chosen.get("model", Settings.model)
    chosen["model_options"] = model_options(model, chosen.get("model_options", ()))
    settings = Settings(device=device, **chosen)
    samples = first(load_dataset(settings.dataset)[0], settings.train_samples, "--train-samples")
    train, validation = split(samples, args.validation, settings.seed)

    def build(lr: float, weight_decay: float, seed: int) -> Trainer:
        return replace(settings, lr=lr, weight_decay=weight_decay, seed=seed).build_trainer(train)

    # A model that does not fit the images fails now, and so does a file that cannot be written.
    summary(settings.build_trainer(train).model, train.images.shape[1:])
    name = f"search-{settings.dataset}-{settings.model}-{options.time_stamp()}.csv"
    out = given.get("out", Path("runs", name))
    if out.exists():
        raise options.UsageError(f"--out {out}: is there already; name another file")
    _write([], out)
    print(
        f"{args.trials} trials of {settings.model} with {settings.optimizer}, {settings.epochs} epochs: "
        f"{len(train):,} images of {settings.dataset} to train on, {len(validation):,} to validate"
    )
    trials: list[Trial] = []
    status = 0
    ranges = {"lr": args.lr, "weight_decay": args.weight_decay}
    counts = {"trials": args.trials, "epochs": settings.epochs, "batch_size": settings.batch_size}
    try:
        for trial in random_search(build, train, validation, **ranges, **counts, seed=settings.seed):
            trials.append(trial)
            _write(trials, out)
            print(f"trial {trial.number} of {args.trials}  {_row(trial)}", flush=True)
    except KeyboardInterrupt as error:
        print(f"interrupted after {len(trials)} trials")
        status = status_of(error)
    print(f"all {len(trials)}, best first, in {out}")
    best = next(iter(ranked(trials)), None)
    if best is not None and best.accuracy is not None:
        pairs = "".join(f" --model-option {name}={value}" for name, value in settings.model_options.items())
        what = f"--dataset {settings.dataset} --model {settings.model}{pairs}"
        how = f"--optimizer {settings.optimizer} --lr {best.lr:.3g} --weight-decay {best.weight_decay:.3g}"
        print(f"best: trial {best.number}  {_row(best)}")
        print(f"next: xpcnn train{import_options()} {what} {how}")
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
