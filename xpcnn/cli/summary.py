"""Show a model's layers: output shapes, parameters, multiply-accumulates, receptive fields."""

from __future__ import annotations

import argparse
from pathlib import Path

from xpcnn import models
from xpcnn.cli.models import for_images, input_shape_of, model_options
from xpcnn.cli.options import UsageError, add_shared, count, word
from xpcnn.models.catalog import MODELS
from xpcnn.nn import summary
from xpcnn.train import load_model


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    what = f"one of {', '.join(MODELS)}; or a run's folder, or a weight file"
    parser.add_argument("model", type=word, metavar="MODEL", help=what)
    what = "channels, height and width of an image (default: the model's own)"
    parser.add_argument("--input-shape", type=_shape, metavar="C,H,W", help=what)
    add_shared(parser, "--model-option")


def _shape(text: str) -> tuple[int, int, int]:
    try:
        channels, height, width = map(count, text.split(","))
    except (ValueError, argparse.ArgumentTypeError):
        raise argparse.ArgumentTypeError(f"{text!r} is not channels,height,width, such as 1,28,28") from None
    return channels, height, width


def run(args: argparse.Namespace) -> int:
    """Print the table."""
    if args.model in MODELS:
        options = model_options(args.model, args.model_options or ())
        if args.input_shape is not None:
            options = for_images(args.model, options, args.input_shape)
        model = models.build(args.model, **options)
    elif args.model_options:
        raise UsageError("--model-option is for models by name; a trained one keeps its own")
    elif Path(args.model).exists():
        model = load_model(args.model)
    else:
        known = ", ".join(MODELS)
        raise UsageError(f"{args.model!r} is no model ({known}), and no run or weight file either")
    shape = args.input_shape or input_shape_of(model)
    if shape is None:
        raise UsageError(f"{args.model} does not say what images it takes, so --input-shape must")
    print(summary(model, shape))
    return 0
