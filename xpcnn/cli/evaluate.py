"""Measure a trained model's accuracy and loss on a test set.

The dataset is the one the run was trained on, unless another is named.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from xpcnn.cli import datasets
from xpcnn.cli.options import DTYPES, UsageError, add_device_options, choose_backend, count
from xpcnn.train import RunDirectory, evaluate, load_model

__all__ = ["add_arguments", "run"]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    parser.add_argument("path", type=Path, metavar="RUN_OR_WEIGHTS", help="a run's folder or a weight file")
    parser.add_argument("--dataset", choices=datasets.DATASETS, help="(default: the run's own)")
    parser.add_argument("--test-samples", type=count, metavar="N", help="use the first N only (default: all)")
    parser.add_argument(
        "--batch-size", type=count, default=200, metavar="N", help="images at a time (default: %(default)s)"
    )
    add_device_options(parser)
    parser.add_argument("--dtype", choices=DTYPES, help="(default: the model's own)")


def run(args: argparse.Namespace) -> int:
    """Print the accuracy and the loss."""
    backend = choose_backend(args.backend, args.device)
    model = load_model(args.path)
    if args.dtype is not None:
        model.to(dtype=args.dtype)
    name = args.dataset or _dataset_of(args.path)
    _, test = datasets.load(name)
    test = datasets.first(test, args.test_samples, "--test-samples")
    result = evaluate(model, test, batch_size=args.batch_size)
    print(
        f"accuracy {result.accuracy:.2%} ({result.correct:,} of {result.samples:,} test images of {name}), "
        f"loss {result.loss:.4f}, on {backend}"
    )
    return 0


def _dataset_of(path: Path) -> str:
    directory = RunDirectory(path if path.is_dir() else path.parent)
    if not directory.config_file.exists():
        raise UsageError(f"{path} is not in the folder of a run, so --dataset must say what to measure it on")
    name = directory.config().get("dataset")
    if name not in datasets.DATASETS:
        raise UsageError(f"{directory.config_file} names no known dataset, so --dataset must")
    return str(name)
