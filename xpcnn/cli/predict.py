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

from xpcnn.cli.evaluate import add_vote_option, load_models
from xpcnn.cli.images import Prepared, is_picture, prepare, resolved
from xpcnn.cli.options import add_device_options, choose_backend, input_shape_of
from xpcnn.cli.output import shown
from xpcnn.data.prepare import PREPARATIONS
from xpcnn.errors import ArgumentError, CheckpointError, DatasetError
from xpcnn.nn import Ensemble, Layer
from xpcnn.train import RunDirectory, predict

__all__ = ["add_arguments", "run"]

_AT_A_TIME = 100


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    parser.add_argument(
        "images", type=Path, nargs="+", metavar="IMAGE_OR_FOLDER", help="of a folder, each picture in it"
    )
    parser.add_argument(
        "--model",
        type=Path,
        action="append",
        metavar="RUN_OR_WEIGHTS",
        help="a run's folder or a weight file; may be given again, for models that answer together (default: "
        "the newest run in ./runs)",
    )
    parser.add_argument(
        "--prepare",
        choices=PREPARATIONS,
        help="how a picture becomes the model's image: as a digit of MNIST; or scaled, and cut out of the "
        "middle, filled up with black, or changed in aspect (default: as the model's training data)",
    )
    add_vote_option(parser)
    add_device_options(parser)


def run(args: argparse.Namespace) -> int:
    """Print a line for each picture; the status is 1 if one could not be read, or there is none."""
    choose_backend(args.backend, args.device)
    paths = args.model or [_newest_run()]
    model = load_models(paths, args.vote)
    shape = _images_of(model)
    if shape is None:
        raise ArgumentError(f"{paths[0]}: the model does not say what size of images it takes")
    preparation = args.prepare or preparation_of(model, shape)
    if args.model is None:
        _note(f"with {paths[0]}, the newest run")
    failed, found = False, 0
    batch: list[tuple[Path, Prepared]] = []
    for image in _files(args.images):
        found += 1
        try:
            batch.append((image, prepare(image, shape, preparation)))
        except DatasetError as error:
            _note(f"error: {error}")
            failed = True
        if len(batch) == _AT_A_TIME:
            _tell(model, batch)
            batch = []
    _tell(model, batch)
    return 1 if failed or not found else 0


def _images_of(model: Layer) -> tuple[int, int, int] | None:
    """Return (C, H, W) of a model's images; of an ensemble, those of its members."""
    shape = input_shape_of(model)
    if shape is None and isinstance(model, Ensemble):
        shapes = {_images_of(member) for member in model.members}
        if len(shapes) > 1:
            told = ", ".join(sorted(map(str, shapes)))
            raise ArgumentError(f"the models were made for images of different sizes: {told}")
        shape = shapes.pop()
    return shape


def preparation_of(model: Layer, shape: tuple[int, int, int]) -> str:
    """Return how a model's training images were prepared; of an ensemble, those of its members.

    Raises
    ------
    ArgumentError
        When the members' differ.
    """
    noted = None if model.spec is None else model.spec.preparation
    if noted is None and isinstance(model, Ensemble):
        names = {preparation_of(member, shape) for member in model.members}
        if len(names) > 1:
            raise ArgumentError(
                f"the models were made for pictures prepared differently ({', '.join(sorted(names))}): "
                f"--prepare must name one"
            )
        return names.pop()
    return resolved(noted, shape)


def _tell(model: Layer, batch: list[tuple[Path, Prepared]]) -> None:
    if not batch:
        return
    probabilities = predict(model, np.stack([prepared.pixels for _, prepared in batch]))
    for (path, prepared), row in zip(batch, probabilities, strict=True):
        print(f"{shown(path)}: {row.argmax()} ({row.max():.1%})  {prepared.done}")


def _files(paths: list[Path]) -> Iterator[Path]:
    """Yield the named files, and the pictures in the named folders in order, without hidden files."""
    for path in paths:
        if not path.is_dir():
            yield path
            continue
        files = sorted(entry for entry in path.iterdir() if entry.name[0] != "." and _is_file(entry))
        pictures = [file for file in files if is_picture(file)]
        skipped = [file.name for file in files if not is_picture(file)]
        if skipped:
            _note(f"skipped in {path}, as no pictures: {', '.join(skipped)}")
        if not pictures:
            _note(f"no pictures in {path}")
        yield from pictures


def _is_file(entry: Path) -> bool:
    """Return whether an entry of a folder is a file, or a link that leads nowhere, which is an error then."""
    return entry.is_file() or (entry.is_symlink() and not entry.exists())


def _newest_run() -> Path:
    runs = [path.parent for path in Path("runs").glob("*/model.safetensors")]
    if not runs:
        raise CheckpointError(
            "no trained run in ./runs: `xpcnn train` makes one, or --model names a run or a weight file"
        )
    return max(runs, key=lambda folder: RunDirectory(folder).weights_file.stat().st_mtime)


def _note(text: str) -> None:
    print(end="", flush=True)  # what went before on stdout
    print(f"xpcnn: {shown(text)}", file=sys.stderr, flush=True)
