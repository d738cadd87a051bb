"""Measure a trained model's accuracy and loss on a test set.

Several models are an ensemble: each one's accuracy is printed, and that of all together. The dataset is the
one the runs were trained on, unless another is named.
"""

from __future__ import annotations

import argparse

from xpcnn.cli.models import dataset_of, first, load_models
from xpcnn.cli.options import DTYPES, add_shared, choose_backend, count, path
from xpcnn.cli.output import printable
from xpcnn.nn import Ensemble, Layer
from xpcnn.train import evaluate


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    what = "a run's folder or a weight file; several are asked together"
    parser.add_argument("paths", type=path, nargs="+", metavar="RUN_OR_WEIGHTS", help=what)
    add_shared(parser, "--vote", "--dataset", "--test-samples", "--backend", "--device")
    batch = "images at a time (default: 50 to 1000, by their size)"
    parser.add_argument("--batch-size", type=count, metavar="N", help=batch)
    parser.add_argument("--dtype", choices=DTYPES, help="(default: the model's own)")


def run(args: argparse.Namespace) -> int:
    """Print the accuracy and the loss; of an ensemble, each member's first."""
    backend = choose_backend(args.backend, args.device)
    model = load_models(args.paths, args.vote)
    if args.dtype is not None:
        model.to(dtype=args.dtype)
    name, _, test = dataset_of(args.paths, args.dataset)
    test = first(test, args.test_samples, "--test-samples")

    def figures(model: Layer) -> str:
        result = evaluate(model, test, batch_size=args.batch_size)
        counts = f"({result.correct:,} of {result.samples:,} test images of {name})"
        return f"accuracy {result.accuracy:.2%} {counts}, loss {result.loss:.4f}"

    if isinstance(model, Ensemble):
        names = args.paths if len(args.paths) > 1 else [f"member {i}" for i in model.children()]
        for member_name, member in zip(names, model.members, strict=True):
            print(f"{printable(member_name)}: {figures(member)}", flush=True)
        print(end=f"ensemble of {len(model)}, {model.vote}: ")
    print(f"{figures(model)}, on {backend}")
    return 0
