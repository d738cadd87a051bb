"""Search for a learning rate and a weight decay at random: many short trainings, the best told.

Each trial draws both from log-uniform ranges and trains a new model on a part of the training samples; the
accuracy on the other part, the validation set, ranks them. Trials are kept in a file as they end; the same
command with --out goes on with it.
"""

from __future__ import annotations

import argparse
import shlex
import sys
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

from xpcnn.cli import datasets
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
from xpcnn.data import Dataset
from xpcnn.errors import ArgumentError, CheckpointError
from xpcnn.models import model_names
from xpcnn.nn import summary
from xpcnn.train import LogUniform, SearchResults, Trainer, random_search, split
from xpcnn.viz import plot_search

__all__ = ["add_arguments", "run"]

_SHOWN = 20
_share = number("between 0 and 1", lambda value: 0 < value < 1)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options. The defaults are the book's, but for the model and its optimiser."""
    parser.usage = "%(prog)s [OPTION ...]"
    what = parser.add_argument_group("data and model")
    what.add_argument(
        "--dataset", choices=datasets.DATASETS, default=Settings.dataset, help="(default: %(default)s)"
    )
    what.add_argument(
        "--train-samples",
        type=count,
        default=500,
        metavar="N",
        help="use the first N only, validation included (default: %(default)s)",
    )
    what.add_argument(
        "--validation",
        type=_share,
        default=0.2,
        metavar="SHARE",
        help="the share of them that is held out for validation (default: %(default)s)",
    )
    what.add_argument(
        "--model",
        choices=model_names(),
        metavar="MODEL",
        default=Settings.model,
        help=f"one of {', '.join(model_names())} (default: %(default)s)",
    )
    add_model_option(what)

    how = parser.add_argument_group("search")
    how.add_argument(
        "--lr",
        type=_range,
        default=LogUniform(1e-6, 1e-2),
        metavar="LOW,HIGH",
        help="learning rates (default: 1e-6,1e-2)",
    )
    how.add_argument(
        "--weight-decay",
        type=_range,
        default=LogUniform(1e-8, 1e-4),
        metavar="LOW,HIGH",
        help="weight decays (default: 1e-8,1e-4)",
    )
    how.add_argument("--trials", type=count, default=100, metavar="N", help="(default: %(default)s)")

    training = parser.add_argument_group("training, of each trial")
    training.add_argument(
        "--optimizer",
        choices=OPTIMIZERS,
        default=Settings.optimizer,
        help="momentum and nesterov have a momentum of 0.9 (default: %(default)s)",
    )
    training.add_argument("--epochs", type=count, default=50, metavar="N", help="(default: %(default)s)")
    training.add_argument(
        "--batch-size", type=count, default=Settings.batch_size, metavar="N", help="(default: %(default)s)"
    )
    training.add_argument(
        "--seed",
        type=natural,
        default=0,
        metavar="N",
        help="of what is drawn, of the validation set, and of each trial's training (default: %(default)s)",
    )

    where = parser.add_argument_group("computing and saving")
    add_device_options(where)
    where.add_argument("--dtype", choices=DTYPES, default=Settings.dtype, help="(default: %(default)s)")
    where.add_argument(
        "--out",
        type=Path,
        metavar="FILE",
        help="the trials, a line of JSON for each; a search that is in it is gone on with "
        "(default: runs/search-DATASET-MODEL-TIME.jsonl)",
    )
    where.add_argument(
        "--plot", type=Path, metavar="FILE", help="the picture, .png or .svg (default: beside --out, as .png)"
    )


def _range(text: str) -> LogUniform:
    try:
        low, high = (float(bound) for bound in text.split(","))
        return LogUniform(low, high)
    except (ValueError, ArgumentError):
        raise argparse.ArgumentTypeError(f"{text!r} is not LOW,HIGH with 0 < LOW <= HIGH") from None


def run(args: argparse.Namespace) -> int:
    """Search, and print the best trials."""
    backend = choose_backend(args.backend, args.device)
    settings = Settings(
        backend=backend.name,
        device=args.device,
        dataset=args.dataset,
        model=args.model,
        model_options=model_options(args.model, args.model_option or ()),
        optimizer=args.optimizer,
        momentum=0.9 if args.optimizer in ("momentum", "nesterov") else None,
        epochs=args.epochs,
        batch_size=args.batch_size,
        seed=args.seed,
        dtype=args.dtype,
    )
    whole, _ = datasets.load(args.dataset)
    samples = datasets.first(whole, args.train_samples, "--train-samples")
    if not 0 < round(args.validation * len(samples)) < len(samples):
        raise UsageError(f"--validation {args.validation:g}: of {len(samples)} samples leaves a part empty")
    train, validation = split(samples, args.validation, args.seed)
    # A model that does not fit the images fails now.
    summary(settings.build_model(train), train.images.shape[1:])
    out = args.out or _new_file(settings)
    _introduce(args, settings, train, validation, out)

    def build(lr: float, weight_decay: float, seed: int) -> Trainer:
        return replace(settings, lr=lr, weight_decay=weight_decay, seed=seed).build_trainer(train)

    decisive = ("model", "model_options", "optimizer", "momentum", "dtype")
    results = random_search(
        build,
        {"lr": args.lr, "weight_decay": args.weight_decay},
        train,
        validation,
        trials=args.trials,
        epochs=args.epochs,
        batch_size=args.batch_size,
        seed=args.seed,
        path=out,
        settings={name: getattr(settings, name) for name in decisive},
        progress=sys.stdout,
    )
    _conclude(args, results, settings, out)
    return 1 if results.interrupted else 0


def _new_file(settings: Settings) -> Path:
    now = datetime.now(UTC).strftime("%Y%m%d-%H%M%S-%f")
    return Path("runs", f"search-{settings.dataset}-{settings.model}-{now}.jsonl")


def _introduce(
    args: argparse.Namespace, settings: Settings, train: Dataset, validation: Dataset, out: Path
) -> None:
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise CheckpointError(f"cannot make the folder {out.parent}: {error.strerror}") from error
    options = "".join(f", {name} {value}" for name, value in settings.model_options.items())
    print(
        f"data       {settings.dataset}: {len(train):,} images to train on, {len(validation):,} to validate"
    )
    print(
        f"model      {settings.model}{options}; {settings.optimizer}, {settings.epochs} epochs in batches of "
        f"{settings.batch_size}"
    )
    print(
        f"search     {args.trials} trials with lr {_told(args.lr)}, weight decay {_told(args.weight_decay)}, "
        f"seed {settings.seed}"
    )
    print(f"file       {out} (Ctrl-C keeps it)", flush=True)


def _told(kind: LogUniform) -> str:
    return f"{kind.low:g} to {kind.high:g}"


def _conclude(args: argparse.Namespace, results: SearchResults, settings: Settings, out: Path) -> None:
    if results.interrupted:
        print(
            f"interrupted after {len(results.trials)} trials; the same command goes on with --out "
            f"{shlex.quote(str(out))}"
        )
    if not results.trials:
        return
    print(results.table(_SHOWN))
    if len(results.trials) > _SHOWN:
        print(f"and {len(results.trials) - _SHOWN} more in {out}")
    plot = args.plot or out.with_suffix(".png")
    try:
        plot_search(results, plot)
        print(f"plot       {plot}")
    except ImportError:
        print("nothing drawn: pip install 'xpcnn[plot]' brings matplotlib, which draws it")
    best = results.best
    if best is not None and not results.interrupted:
        drawn = " ".join(f"--{name.replace('_', '-')} {value:.3g}" for name, value in best.sample.items())
        pairs = "".join(f" --model-option {name}={value}" for name, value in settings.model_options.items())
        print("next:")
        print(
            f"  xpcnn train --dataset {settings.dataset} --model {settings.model}{pairs} "
            f"--optimizer {settings.optimizer} {drawn}"
        )
