"""Read pictures of any size and of every kind that Pillow reads.

Each is prepared as the model's training data was, which the model says; each line says what was done. For a
model of digits like MNIST's, a picture should show one digit on plain ground: it is inverted if its ground is
light, cut out and centred. For others the middle of the picture is cut out. Several models answer together,
as an ensemble.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from xpcnn.cli.images import is_picture, prepare
from xpcnn.cli.models import input_shape_of, load_models, preparation_of
from xpcnn.cli.options import add_shared, choose_backend, path
from xpcnn.cli.output import printable
from xpcnn.data.prepare import PREPARATIONS, Prepared
from xpcnn.errors import ArgumentError, CheckpointError, DatasetError
from xpcnn.nn import Layer
from xpcnn.train import predict

_AT_A_TIME = 100


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    what = "of a folder, each picture in it"
    parser.add_argument("images", type=path, nargs="+", metavar="IMAGE_OR_FOLDER", help=what)
    what = "a run or a weight file; given again, models answer together (default: the newest run in ./runs)"
    parser.add_argument("--model", type=path, action="append", metavar="RUN_OR_WEIGHTS", help=what)
    what = "how a picture becomes the model's image (default: as the model's training data)"
    parser.add_argument("--prepare", choices=PREPARATIONS, help=what)
    add_shared(parser, "--vote", "--backend", "--device")


def run(args: argparse.Namespace) -> int:
    """Print a line for each picture; the status is 1 if one could not be read, or there is none."""
    choose_backend(args.backend, args.device)
    paths = args.model or [_newest_run()]
    model = load_models(paths, args.vote)
    shape = input_shape_of(model)
    if shape is None:
        raise ArgumentError(f"{paths[0]}: the model does not say what size of images it takes")
    preparation = args.prepare or preparation_of(model, shape)
    if args.model is None:
        _note(f"with {paths[0]}, the newest run")
    failed = found = False
    batch: list[tuple[Path, Prepared]] = []
    for image in _files(args.images):
        found = True
        try:
            batch.append((image, prepare(image, shape, preparation)))
        except DatasetError as error:
            _note(f"error: {error}")
            failed = True
        if len(batch) == _AT_A_TIME:
            _print_answers(model, batch)
    _print_answers(model, batch)
    return int(failed or not found)


def _print_answers(model: Layer, batch: list[tuple[Path, Prepared]]) -> None:
    """Print the answers for a batch, and empty it."""
    if batch:
        probabilities = predict(model, np.stack([prepared.pixels for _, prepared in batch]))
        for (file, prepared), row in zip(batch, probabilities, strict=True):
            print(f"{printable(file)}: {row.argmax()} ({row.max():.1%})  {prepared.done}")
        batch.clear()


def _files(paths: list[Path]) -> Iterator[Path]:
    """Yield the named files, and the pictures in the named folders in order, without hidden files."""
    for named in paths:
        if not named.is_dir():
            yield named
            continue
        # A link that leads nowhere is an error then.
        files = [entry for entry in sorted(named.iterdir()) if entry.is_file() or not entry.exists()]
        visible = [file for file in files if file.name[0] != "."]
        pictures = [file for file in visible if is_picture(file)]
        others = [file.name for file in visible if not is_picture(file)]
        if others:
            _note(f"skipped in {named}, as no pictures: {', '.join(others)}")
        if not pictures:
            _note(f"no pictures in {named}")
        yield from pictures


def _newest_run() -> Path:
    files = list(Path("runs").glob("*/model.safetensors"))
    if not files:
        raise CheckpointError("no trained run in ./runs: `xpcnn train` makes one, or --model names one")
    return max(files, key=lambda file: file.stat().st_mtime).parent


def _note(text: str) -> None:
    print(end="", flush=True)  # what went before on stdout
    print(f"xpcnn: {printable(text)}", file=sys.stderr, flush=True)
