"""Draw pictures of a trained run; or of Sobel's edges, augmented images and initial values.

Of a run: curves, filters, features (feature maps), activations, confusion, mistakes; all of them if none is
named. Several runs are compared by their curves. Without a run: sobel, augmentations, initial-values. Each
file's path is printed.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from xpcnn import models, viz
from xpcnn.cli import datasets
from xpcnn.cli.images import open_picture, prepare
from xpcnn.cli.options import add_device_options, augmentation, choose_backend, count, input_shape_of, natural
from xpcnn.cli.output import shown
from xpcnn.cli.parser import UsageError
from xpcnn.cli.predict import preparation_of
from xpcnn.data import Dataset, augment
from xpcnn.data.prepare import flatten
from xpcnn.errors import XpcnnError
from xpcnn.io import make_folder
from xpcnn.nn import Layer
from xpcnn.train import History, RunDirectory, load_model
from xpcnn.viz.canvas import write

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["add_arguments", "run"]

OF_A_RUN = ("curves", "filters", "features", "activations", "confusion", "mistakes")
OF_NO_RUN = ("sobel", "augmentations", "initial-values")
FORMATS = ("png", "svg")

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
    parser.add_argument(
        "words",
        nargs="+",
        metavar="RUN_OR_WHAT",
        help=f"a run's folder or a weight file; what to draw: {', '.join(OF_A_RUN + OF_NO_RUN)}",
    )
    parser.add_argument(
        "--out",
        type=Path,
        metavar="DIR",
        help="where to write (default: the folder plots, in the run's if there is one run)",
    )
    parser.add_argument("--format", choices=FORMATS, default="png", help="(default: %(default)s)")
    what = parser.add_argument_group("what is shown")
    what.add_argument(
        "--dataset",
        choices=datasets.DATASETS,
        metavar="NAME",
        help="one of %(choices)s (default: the run's own, without one synthetic-digits)",
    )
    what.add_argument(
        "--test-samples",
        type=count,
        metavar="N",
        help=f"use the first N only (default: all, and {_ACTIVATION_SAMPLES} for activations)",
    )
    what.add_argument(
        "--image",
        metavar="FILE_OR_NUMBER",
        help="for features and sobel: a PNG or JPEG file, or which image of the test set (default: 0)",
    )
    what.add_argument(
        "--layers",
        metavar="PATTERN",
        help="for filters (the first convolution that fits), features and activations: layers by their path, "
        "such as 'conv*' (default: all)",
    )
    what.add_argument(
        "--augment",
        metavar="LIST",
        type=augmentation,
        help="for augmentations: such as shift=2,rotate=10 (default: what the run was trained with)",
    )
    what.add_argument(
        "--seed", type=natural, metavar="N", help="for augmentations and initial-values (default: 0)"
    )
    add_device_options(parser)


def run(args: argparse.Namespace) -> int:
    """Draw, and print the path of each file."""
    runs, wanted = _sorted(args.words)
    for option, takers in _TAKES.items():
        if getattr(args, option) is not None and not set(takers).intersection(wanted):
            raise UsageError(f"--{option.replace('_', '-')} is only for {', '.join(takers)}")
    try:
        import matplotlib.figure  # noqa: F401  (before a dataset is loaded in vain)
    except ImportError:
        raise XpcnnError("drawing needs matplotlib: pip install 'xpcnn[plot]'") from None
    choose_backend(args.backend, args.device)
    artist = _Artist(args, runs)
    if args.out is not None:
        folder = args.out
    else:
        folder = artist.directory.path / "plots" if artist.directory is not None else Path("plots")
    for what in wanted:
        for name, figure in artist.pictures(what):
            path = folder / f"{name}.{args.format}"
            make_folder(folder)
            write(figure, path, "plot")
            print(shown(path), flush=True)
    return 0


def _sorted(words: list[str]) -> tuple[list[Path], list[str]]:
    """Return the runs among the words, and the pictures to draw."""
    known = (*OF_A_RUN, *OF_NO_RUN)
    wanted = [word for word in dict.fromkeys(words) if word in known]
    runs = [Path(word) for word in dict.fromkeys(words) if word not in known]
    for path in runs:
        if not path.exists():
            raise UsageError(
                f"{path}: no such run's folder or weight file, and not one of {', '.join(known)}"
            )
    if len(runs) > 1:
        if set(wanted) - {"curves"}:
            raise UsageError("several runs can only be compared by their curves")
        return runs, ["curves"]
    needy = [what for what in wanted if what in OF_A_RUN]
    if needy and not runs:
        raise UsageError(f"{needy[0]} is drawn of a run: xpcnn plot RUN {' '.join(wanted)}")
    if runs and not wanted:
        wanted = [what for what in OF_A_RUN if what != "curves" or runs[0].is_dir()]
    return runs, wanted


class _Artist:
    """Draws what is asked for; what several pictures need is loaded once."""

    def __init__(self, args: argparse.Namespace, runs: list[Path]) -> None:
        self._args, self._runs = args, runs
        self._run = runs[0] if len(runs) == 1 else None

    def pictures(self, what: str) -> Iterator[tuple[str, Figure]]:
        """Yield the name of each file, and what is on it."""
        if what == "initial-values":
            for kind in ("sigmoid", "relu"):
                figure = viz.plot_initial_values(nonlinearity=kind, seed=self._args.seed or 0)
                yield f"{what}-{kind}", figure
        else:
            yield what, getattr(self, f"_{what}")()

    # -- each picture -----------------------------------------------------------------

    def _curves(self) -> Figure:
        histories = {str(run): _history(run) for run in self._runs}
        return viz.plot_curves(histories if len(histories) > 1 else next(iter(histories.values())))

    def _filters(self) -> Figure:
        before = self._untrained()
        shown = self._model if before is None else (before, self._model)
        return viz.plot_filters(shown, layer=self._args.layers)

    def _features(self) -> Figure:
        return viz.plot_feature_maps(self._model, self._image(), layers=self._args.layers)

    def _activations(self) -> Figure:
        samples = self._args.test_samples or min(_ACTIVATION_SAMPLES, len(self._test))
        images = datasets.first(self._test, samples, "--test-samples").images
        return viz.plot_activations(self._model, images, layers=self._args.layers)

    def _confusion(self) -> Figure:
        return viz.plot_confusion(viz.confusion_matrix(self._model, self._tested()))

    def _mistakes(self) -> Figure:
        return viz.plot_mistakes(self._model, self._tested())

    def _sobel(self) -> Figure:
        which = self._args.image or "0"
        if which.isdecimal():
            return viz.plot_sobel(self._test_image(int(which)))
        picture = flatten(open_picture(Path(which))).convert("L")
        picture.thumbnail((_LARGEST, _LARGEST))
        return viz.plot_sobel(np.asarray(picture))

    def _augmentations(self) -> Figure:
        transform = self._args.augment
        if transform is None and self.directory is not None:
            described = self.directory.config().get("augment")
            transform = augment.parse(described if isinstance(described, str) else "")
        if transform is None or not transform.transforms:
            raise UsageError("augmentations needs --augment, such as --augment shift=2,rotate=10")
        images = self._datasets[0][:_AUGMENTED].images
        return viz.plot_augmentations(transform, images, seed=self._args.seed or 0)

    # -- what they are drawn of -------------------------------------------------------

    @cached_property
    def directory(self) -> RunDirectory | None:
        """The folder of the run, if there is one run."""
        if self._run is None:
            return None
        return RunDirectory(self._run if self._run.is_dir() else self._run.parent)

    @cached_property
    def _model(self) -> Layer:
        assert self._run is not None
        return load_model(self._run)

    def _untrained(self) -> Layer | None:
        """Return the model as it was before training; None if it was not drawn from a seed."""
        spec = self._model.spec
        if spec is None or spec.builder is None or spec.arguments.get("seed") is None:
            return None
        return models.build(spec.builder, **spec.arguments)

    @cached_property
    def _datasets(self) -> tuple[Dataset, Dataset]:
        return datasets.load(self._args.dataset or self._dataset_of_run())

    @property
    def _test(self) -> Dataset:
        return self._datasets[1]

    def _dataset_of_run(self) -> str:
        if self.directory is None:
            return "synthetic-digits"
        file = self.directory.config_file
        name = self.directory.config().get("dataset") if file.exists() else None
        if not isinstance(name, str) or name not in datasets.DATASETS:
            raise UsageError(f"{self._run}: no dataset is named in {file}, so --dataset must name one")
        return name

    def _tested(self) -> Dataset:
        return datasets.first(self._test, self._args.test_samples, "--test-samples")

    def _image(self) -> np.ndarray:
        """Return the one image to show, as the model takes it."""
        which = self._args.image or "0"
        if which.isdecimal():
            return self._test_image(int(which))
        channels, height, width = input_shape_of(self._model) or self._test.images.shape[1:]
        shape = channels, height, width
        return prepare(Path(which), shape, preparation_of(self._model, shape)).pixels

    def _test_image(self, which: int) -> np.ndarray:
        if which >= len(self._test):
            raise UsageError(f"--image {which}: {self._test.name} has {len(self._test)} test images")
        return np.asarray(self._test.images[which])


def _history(run: Path) -> History:
    if not run.is_dir():
        raise UsageError(f"curves are drawn of a run's folder, and {run} is a file")
    return RunDirectory(run).history()
