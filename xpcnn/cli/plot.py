"""Draw pictures of a trained run; or of Sobel's edges, augmented images and initial values.

Of a run: curves, filters, features (feature maps), activations, confusion, mistakes; all of them if none is
named. Several runs are compared by their curves. Without a run: sobel, augmentations, initial-values. Each
file's path is printed.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from xpcnn import models, viz
from xpcnn.cli import options
from xpcnn.cli.images import open_picture, prepare
from xpcnn.cli.models import dataset_of, first, input_shape_of, preparation_of
from xpcnn.cli.options import UsageError
from xpcnn.cli.output import printable
from xpcnn.data import Dataset, augment
from xpcnn.data.prepare import flatten
from xpcnn.errors import XpcnnError
from xpcnn.io import make_folder
from xpcnn.nn import Layer
from xpcnn.train import RunDirectory, load_model
from xpcnn.viz.canvas import Figure, write

_OF_A_RUN = ("curves", "filters", "features", "activations", "confusion", "mistakes")
_PICTURES = (*_OF_A_RUN, "sobel", "augmentations", "initial-values")
_AUGMENT = "such as shift=2,rotate=10 (default: what the run was trained with)"
_OF_DATA = ("features", "activations", "confusion", "mistakes", "sobel", "augmentations")
_OPTIONS: dict[str, tuple[tuple[str, ...], dict[str, Any]]] = {
    "--dataset": (_OF_DATA, options.SHARED["--dataset"]),
    "--test-samples": (("activations", "confusion", "mistakes"), options.SHARED["--test-samples"]),
    "--image": (("features", "sobel"), {"help": "a file, or which image of the test set (default: 0)"}),
    "--layers": (("filters", "features", "activations"), {"help": "such as 'conv*' (default: all)"}),
    "--augment": (("augmentations",), {"type": options.augmentation, "help": _AUGMENT}),
    "--seed": (("augmentations", "initial-values"), {"type": options.natural, "help": "(default: 0)"}),
}
"""Which pictures each option is for, and how it is declared."""

_ACTIVATION_SAMPLES, _AUGMENTED = 200, 6
_LARGEST = 512  # pixels on the longer side of a picture for sobel


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options. None stands for one that is not given."""
    parser.usage = "%(prog)s [RUN ...] [WHAT ...] [OPTION ...]"
    what = f"a run's folder or a weight file; what to draw: {', '.join(_PICTURES)}"
    parser.add_argument("words", type=options.word, nargs="+", metavar="RUN_OR_WHAT", help=what)
    what = "where to write (default: the folder plots, in the run's if there is one run)"
    parser.add_argument("--out", type=options.path, metavar="DIR", help=what)
    parser.add_argument("--format", choices=("png", "svg"), default="png", help="(default: %(default)s)")
    group = parser.add_argument_group("what is shown")
    for name, (takers, how) in _OPTIONS.items():
        group.add_argument(name, **{**how, "help": f"for {', '.join(takers)}: {how['help']}"})
    options.add_shared(parser, "--backend", "--device")


def run(args: argparse.Namespace) -> int:
    """Draw, and print the path of each file."""
    runs, wanted = _runs_and_pictures(args.words)
    for name, (takers, _) in _OPTIONS.items():
        if vars(args)[name[2:].replace("-", "_")] is not None and not set(takers).intersection(wanted):
            raise UsageError(f"{name} is only for {', '.join(takers)}")
    try:
        import matplotlib.figure  # noqa: F401  (before a dataset is loaded in vain)
    except ImportError:
        raise XpcnnError("drawing needs matplotlib: pip install 'xpcnn[plot]'") from None
    options.choose_backend(args.backend, args.device)
    artist = _Artist(args, runs)
    folder = args.out or (Path("plots") if len(runs) != 1 else artist.directory.path / "plots")
    for what in wanted:
        for kind in ("-sigmoid", "-relu") if what == "initial-values" else ("",):
            figure = getattr(artist, f"{what}{kind}".replace("-", "_"))()
            file = folder / f"{what}{kind}.{args.format}"
            make_folder(folder)
            write(figure, file, "plot")
            print(printable(file), flush=True)
    return 0


def _runs_and_pictures(words: list[str]) -> tuple[list[Path], list[str]]:
    """Return the runs among the words, and the pictures to draw."""
    wanted = [word for word in dict.fromkeys(words) if word in _PICTURES]
    runs = [Path(word) for word in dict.fromkeys(words) if word not in _PICTURES]
    for missing in (file for file in runs if not file.exists()):
        names = ", ".join(_PICTURES)
        raise UsageError(f"{missing}: no such run's folder or weight file, and not one of {names}")
    if len(runs) > 1:
        if set(wanted) - {"curves"}:
            raise UsageError("several runs can only be compared by their curves")
        return runs, ["curves"]
    needy = [what for what in wanted if what in _OF_A_RUN]
    if needy and not runs:
        raise UsageError(f"{needy[0]} is drawn of a run: xpcnn plot RUN {' '.join(wanted)}")
    return runs, wanted or [what for what in _OF_A_RUN if what != "curves" or runs[0].is_dir()]


class _Artist:
    """Draws each picture, by its name; what it is drawn of is loaded when the first one needs it."""

    def __init__(self, args: argparse.Namespace, runs: list[Path]) -> None:
        self.args, self.runs, self.seed = args, runs, args.seed or 0

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
        return dataset_of(self.runs, self.args.dataset)[1:]

    def tested(self, most: int | None = None) -> Dataset:
        """Return the images of the test set that were asked for; of all, the first `most`."""
        samples = self.args.test_samples or (most and min(most, len(self.data[1])))
        return first(self.data[1], samples, "--test-samples")

    def image(self, read: Callable[[Path], np.ndarray]) -> np.ndarray:
        """Return the image of --image: that file as `read` reads it, or one of the test set."""
        which = self.args.image or "0"
        if not which.isdecimal():
            return read(Path(which))
        test = self.data[1]
        if int(which) >= len(test):
            raise UsageError(f"--image {which}: {test.name} has {len(test)} test images")
        return np.asarray(test.images[int(which)])

    def curves(self) -> Figure:
        for file in self.runs:
            if not file.is_dir():
                raise UsageError(f"curves are drawn of a run's folder, and {file} is a file")
        histories = {str(file): RunDirectory(file).history() for file in self.runs}
        return viz.plot_curves(histories if len(histories) > 1 else histories[str(self.runs[0])])

    def filters(self) -> Figure:
        spec = self.model.spec
        shown: Layer | tuple[Layer, Layer] = self.model
        if spec is not None and spec.builder is not None and spec.arguments.get("seed") is not None:
            shown = models.build(spec.builder, **spec.arguments), self.model  # before and after training
        return viz.plot_filters(shown, layer=self.args.layers)

    def features(self) -> Figure:
        def read(file: Path) -> np.ndarray:
            channels, height, width = input_shape_of(self.model) or self.data[1].images.shape[1:]
            shape = channels, height, width
            return prepare(file, shape, preparation_of(self.model, shape)).pixels

        return viz.plot_feature_maps(self.model, self.image(read), layers=self.args.layers)

    def activations(self) -> Figure:
        images = self.tested(_ACTIVATION_SAMPLES).images
        return viz.plot_activations(self.model, images, layers=self.args.layers)

    def confusion(self) -> Figure:
        return viz.plot_confusion(viz.confusion_matrix(self.model, self.tested()))

    def mistakes(self) -> Figure:
        return viz.plot_mistakes(self.model, self.tested())

    def sobel(self) -> Figure:
        def read(file: Path) -> np.ndarray:
            picture = flatten(open_picture(file)).convert("L")
            picture.thumbnail((_LARGEST, _LARGEST))
            return np.asarray(picture)

        return viz.plot_sobel(self.image(read))

    def augmentations(self) -> Figure:
        spec = self.args.augment or (self.runs and self.directory.config().get("augment"))
        if not spec or not isinstance(spec, str):
            raise UsageError("augmentations needs --augment, such as --augment shift=2,rotate=10")
        images = self.data[0][:_AUGMENTED].images
        return viz.plot_augmentations(augment.parse(spec), images, seed=self.seed)

    def initial_values_sigmoid(self) -> Figure:
        return viz.plot_initial_values(nonlinearity="sigmoid", seed=self.seed)

    def initial_values_relu(self) -> Figure:
        return viz.plot_initial_values(nonlinearity="relu", seed=self.seed)
