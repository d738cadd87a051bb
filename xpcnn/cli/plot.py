"""Draw pictures of a trained run; or of Sobel's edges, augmented images and initial values.

Of a run: curves, filters, features (feature maps), activations, confusion, mistakes; all of them if none is
named. Several runs are compared by their curves. Without a run: sobel, augmentations, initial-values. Each
file's path is printed.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterator
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from xpcnn import models, viz
from xpcnn.cli.images import open_picture, prepare
from xpcnn.cli.models import dataset_of, first, input_shape_of, preparation_of
from xpcnn.cli.options import (
    UsageError,
    add_dataset_option,
    add_device_options,
    augmentation,
    choose_backend,
    natural,
    path,
    word,
)
from xpcnn.cli.output import printable
from xpcnn.data import Dataset, augment
from xpcnn.data.prepare import flatten
from xpcnn.errors import XpcnnError
from xpcnn.io import make_folder
from xpcnn.nn import Layer
from xpcnn.train import RunDirectory, load_model
from xpcnn.viz.canvas import write

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["add_arguments", "run"]

_TAKES = {
    "dataset": ("features", "activations", "confusion", "mistakes", "sobel", "augmentations"),
    "test_samples": ("activations", "confusion", "mistakes"),
    "image": ("features", "sobel"),
    "layers": ("filters", "features", "activations"),
    "augment": ("augmentations",),
    "seed": ("augmentations", "initial-values"),
}
"""Which pictures each option is for."""

_ACTIVATION_SAMPLES, _AUGMENTED = 200, 6
_LARGEST = 512  # pixels on the longer side of a picture for sobel


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options. None stands for one that is not given."""
    parser.usage = "%(prog)s [RUN ...] [WHAT ...] [OPTION ...]"
    what = f"a run's folder or a weight file; what to draw: {', '.join(_PICTURES)}"
    parser.add_argument("words", type=word, nargs="+", metavar="RUN_OR_WHAT", help=what)
    what = "where to write (default: the folder plots, in the run's if there is one run)"
    parser.add_argument("--out", type=path, metavar="DIR", help=what)
    parser.add_argument("--format", choices=("png", "svg"), default="png", help="(default: %(default)s)")
    group = parser.add_argument_group("what is shown")
    add_dataset_option(group, "the run's own, without one synthetic-digits")
    what = "for features and sobel: a file, or which image of the test set (default: 0)"
    group.add_argument("--image", metavar="FILE_OR_NUMBER", help=what)
    what = "for filters (the first that fits), features, activations: such as 'conv*' (default: all)"
    group.add_argument("--layers", metavar="PATTERN", help=what)
    what = "for augmentations: such as shift=2,rotate=10 (default: what the run was trained with)"
    group.add_argument("--augment", type=augmentation, metavar="LIST", help=what)
    what = "for augmentations and initial-values (default: 0)"
    group.add_argument("--seed", type=natural, metavar="N", help=what)
    add_device_options(parser)


def run(args: argparse.Namespace) -> int:
    """Draw, and print the path of each file."""
    runs, wanted = _runs_and_pictures(args.words)
    for option, takers in _TAKES.items():
        if getattr(args, option) is not None and not set(takers).intersection(wanted):
            raise UsageError(f"--{option.replace('_', '-')} is only for {', '.join(takers)}")
    try:
        import matplotlib.figure  # noqa: F401  (before a dataset is loaded in vain)
    except ImportError:
        raise XpcnnError("drawing needs matplotlib: pip install 'xpcnn[plot]'") from None
    choose_backend(args.backend, args.device)
    subject = _Subject(args, runs)
    folder = args.out or (Path("plots") if len(runs) != 1 else subject.directory.path / "plots")
    for what in wanted:
        for name, figure in _PICTURES[what](subject):
            file = folder / f"{name}.{args.format}"
            make_folder(folder)
            write(figure, file, "plot")
            print(printable(file), flush=True)
    return 0


def _runs_and_pictures(words: list[str]) -> tuple[list[Path], list[str]]:
    """Return the runs among the words, and the pictures to draw."""
    wanted = [word for word in dict.fromkeys(words) if word in _PICTURES]
    runs = [Path(word) for word in dict.fromkeys(words) if word not in _PICTURES]
    for missing in (file for file in runs if not file.exists()):
        raise UsageError(
            f"{missing}: no such run's folder or weight file, and not one of {', '.join(_PICTURES)}"
        )
    if len(runs) > 1:
        if set(wanted) - {"curves"}:
            raise UsageError("several runs can only be compared by their curves")
        return runs, ["curves"]
    needy = [what for what in wanted if what in _OF_A_RUN]
    if needy and not runs:
        raise UsageError(f"{needy[0]} is drawn of a run: xpcnn plot RUN {' '.join(wanted)}")
    return runs, wanted or [what for what in _OF_A_RUN if what != "curves" or runs[0].is_dir()]


class _Subject:
    """What pictures are drawn of: loaded when the first one needs it."""

    def __init__(self, args: argparse.Namespace, runs: list[Path]) -> None:
        self.args, self.runs = args, runs
        self.seed: int = args.seed or 0

    @cached_property
    def directory(self) -> RunDirectory:
        """The folder of the one run."""
        return RunDirectory(self.runs[0] if self.runs[0].is_dir() else self.runs[0].parent)

    @cached_property
    def model(self) -> Layer:
        return load_model(self.runs[0])

    @cached_property
    def data(self) -> tuple[Dataset, Dataset]:
        """The training and the test set."""
        _, train, test = dataset_of(self.runs, self.args.dataset)
        return train, test

    def tested(self, most: int | None = None) -> Dataset:
        """Return the images of the test set that were asked for; of all, the first `most`."""
        test = self.data[1]
        samples = self.args.test_samples or (most and min(most, len(test)))
        return first(test, samples, "--test-samples")

    def image(self, read: Callable[[Path], np.ndarray]) -> np.ndarray:
        """Return the image of --image: that file as `read` reads it, or one of the test set."""
        which = self.args.image or "0"
        if not which.isdecimal():
            return read(Path(which))
        test = self.data[1]
        if int(which) >= len(test):
            raise UsageError(f"--image {which}: {test.name} has {len(test)} test images")
        return np.asarray(test.images[int(which)])


Pictures = Iterator[tuple[str, "Figure"]]


def _curves(subject: _Subject) -> Pictures:
    histories = {}
    for file in subject.runs:
        if not file.is_dir():
            raise UsageError(f"curves are drawn of a run's folder, and {file} is a file")
        histories[str(file)] = RunDirectory(file).history()
    yield "curves", viz.plot_curves(histories if len(histories) > 1 else histories[str(subject.runs[0])])


def _filters(subject: _Subject) -> Pictures:
    spec = subject.model.spec
    shown: Layer | tuple[Layer, Layer] = subject.model
    if spec is not None and spec.builder is not None and spec.arguments.get("seed") is not None:
        shown = models.build(spec.builder, **spec.arguments), subject.model  # before and after training
    yield "filters", viz.plot_filters(shown, layer=subject.args.layers)


def _features(subject: _Subject) -> Pictures:
    def read(file: Path) -> np.ndarray:
        channels, height, width = input_shape_of(subject.model) or subject.data[1].images.shape[1:]
        shape = channels, height, width
        return prepare(file, shape, preparation_of(subject.model, shape)).pixels

    image = subject.image(read)
    yield "features", viz.plot_feature_maps(subject.model, image, layers=subject.args.layers)


def _activations(subject: _Subject) -> Pictures:
    images = subject.tested(_ACTIVATION_SAMPLES).images
    yield "activations", viz.plot_activations(subject.model, images, layers=subject.args.layers)


def _confusion(subject: _Subject) -> Pictures:
    yield "confusion", viz.plot_confusion(viz.confusion_matrix(subject.model, subject.tested()))


def _mistakes(subject: _Subject) -> Pictures:
    yield "mistakes", viz.plot_mistakes(subject.model, subject.tested())


def _sobel(subject: _Subject) -> Pictures:
    def read(file: Path) -> np.ndarray:
        picture = flatten(open_picture(file)).convert("L")
        picture.thumbnail((_LARGEST, _LARGEST))
        return np.asarray(picture)

    yield "sobel", viz.plot_sobel(subject.image(read))


def _augmentations(subject: _Subject) -> Pictures:
    transform = subject.args.augment
    if transform is None and subject.runs:
        described = subject.directory.config().get("augment")
        transform = augment.parse(described if isinstance(described, str) else "")
    if transform is None or not transform.transforms:
        raise UsageError("augmentations needs --augment, such as --augment shift=2,rotate=10")
    images = subject.data[0][:_AUGMENTED].images
    yield "augmentations", viz.plot_augmentations(transform, images, seed=subject.seed)


def _initial_values(subject: _Subject) -> Pictures:
    for kind in ("sigmoid", "relu"):
        yield f"initial-values-{kind}", viz.plot_initial_values(nonlinearity=kind, seed=subject.seed)


_OF_A_RUN: dict[str, Callable[[_Subject], Pictures]] = {
    "curves": _curves,
    "filters": _filters,
    "features": _features,
    "activations": _activations,
    "confusion": _confusion,
    "mistakes": _mistakes,
}
_PICTURES = _OF_A_RUN | {"sobel": _sobel, "augmentations": _augmentations, "initial-values": _initial_values}
