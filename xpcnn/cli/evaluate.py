"""Measure a trained model's accuracy and loss on a test set.

Several models are an ensemble: each one's accuracy is told, and that of all together. The dataset is the one
the runs were trained on, unless another is named.
"""

from __future__ import annotations

import argparse
import warnings
from collections.abc import Sequence
from pathlib import Path

from xpcnn.cli import datasets
from xpcnn.cli.options import DTYPES, add_device_options, choose_backend, count
from xpcnn.cli.output import shown
from xpcnn.cli.parser import UsageError
from xpcnn.errors import CheckpointError, NonFiniteWarning
from xpcnn.nn import Ensemble, Layer
from xpcnn.nn.ensemble import VOTES
from xpcnn.train import Evaluation, RunDirectory, evaluate, load_model

__all__ = ["add_arguments", "add_vote_option", "load_models", "run"]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    parser.add_argument(
        "paths",
        type=Path,
        nargs="+",
        metavar="RUN_OR_WEIGHTS",
        help="a run's folder or a weight file; several are asked together",
    )
    add_vote_option(parser)
    parser.add_argument(
        "--dataset",
        choices=datasets.DATASETS,
        metavar="NAME",
        help="one of %(choices)s (default: the run's own)",
    )
    parser.add_argument("--test-samples", type=count, metavar="N", help="use the first N only (default: all)")
    parser.add_argument(
        "--batch-size", type=count, metavar="N", help="images at a time (default: 50 to 1000, by their size)"
    )
    add_device_options(parser)
    parser.add_argument("--dtype", choices=DTYPES, help="(default: the model's own)")


def add_vote_option(parser: argparse.ArgumentParser) -> None:
    """Add ``--vote``."""
    parser.add_argument(
        "--vote",
        choices=VOTES,
        help="how several models answer: by the mean of their probabilities, or their geometric mean "
        "(default: mean, or a saved ensemble's own)",
    )


def load_models(paths: Sequence[Path], vote: str | None) -> Layer:
    """Return the model of a run or a weight file, or the ensemble of several; None is the default vote.

    Raises
    ------
    CheckpointError
        When a file cannot be read, or holds NaN or infinite weights: what they answer is worth nothing.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("error", NonFiniteWarning)
        try:
            loaded = [load_model(path) for path in paths]
        except NonFiniteWarning as ruined:
            raise CheckpointError(str(ruined)) from None
    if len(loaded) > 1:
        return Ensemble(*loaded, vote=vote or "mean")
    (model,) = loaded
    if vote is None:
        return model
    if not isinstance(model, Ensemble):
        raise UsageError(f"--vote {vote}: is for several models, and {paths[0]} is one")
    return Ensemble(*model.members, vote=vote)


def run(args: argparse.Namespace) -> int:
    """Print the accuracy and the loss; of an ensemble, each member's first."""
    backend = choose_backend(args.backend, args.device)
    model = load_models(args.paths, args.vote)
    if args.dtype is not None:
        model.to(dtype=args.dtype)
    name = args.dataset or _dataset_of(args.paths)
    _, test = datasets.load(name)
    test = datasets.first(test, args.test_samples, "--test-samples")
    told = ""
    if isinstance(model, Ensemble):
        several = len(args.paths) > 1
        names = [shown(path) for path in args.paths] if several else [f"member {i}" for i in model.children()]
        for told, member in zip(names, model.members, strict=True):
            print(f"{told}: {_figures(evaluate(member, test, batch_size=args.batch_size), name)}", flush=True)
        told = f"ensemble of {len(model)}, {model.vote}: "
    print(f"{told}{_figures(evaluate(model, test, batch_size=args.batch_size), name)}, on {backend}")
    return 0


def _figures(result: Evaluation, dataset: str) -> str:
    return (
        f"accuracy {result.accuracy:.2%} "
        f"({result.correct:,} of {result.samples:,} test images of {dataset}), loss {result.loss:.4f}"
    )


def _dataset_of(paths: Sequence[Path]) -> str:
    """Return the dataset that all the runs were trained on."""
    names = {path: _dataset_of_one(path) for path in paths}
    if len(set(names.values())) > 1:
        told = ", ".join(f"{path} on {name}" for path, name in names.items())
        raise UsageError(f"the runs were trained on several datasets ({told}), so --dataset must name one")
    return names[paths[0]]


def _dataset_of_one(path: Path) -> str:
    directory = RunDirectory(path if path.is_dir() else path.parent)
    if not directory.config_file.exists():
        raise UsageError(f"{path} is not in the folder of a run, so --dataset must say what to measure it on")
    name = directory.config().get("dataset")
    if not isinstance(name, str) or name not in datasets.DATASETS:
        raise UsageError(f"{directory.config_file} names no known dataset, so --dataset must")
    return name
