"""Everything that decides how a run goes, declared once: as options, and as what ``run.json`` holds."""

# ruff: noqa: RUF009  (a call of `_option` makes a field)

from __future__ import annotations

import argparse
import functools
import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict, dataclass, field, fields, replace
from types import MappingProxyType, UnionType
from typing import Annotated, Any, Literal, Union, get_args, get_origin, get_type_hints

from xpcnn import __version__, models, ops, optim
from xpcnn.cli.models import checked_options, for_images
from xpcnn.cli.options import Options, add_model_option, augmentation, number
from xpcnn.data import Dataset, augment
from xpcnn.data.augment import Compose, parse
from xpcnn.data.catalog import DATASETS
from xpcnn.errors import CheckpointError, XpcnnError
from xpcnn.io import Range, checked
from xpcnn.models.catalog import MODELS, parameters_of
from xpcnn.models.googlenet import googlenet_loss
from xpcnn.nn import Layer
from xpcnn.train import Trainer

__all__ = ["GROUPS", "HALF_DTYPES", "OF_FIXED_LENGTH", "OPTIMIZERS", "SCHEDULES", "Settings", "add_settings"]

OPTIMIZERS: dict[str, type[optim.Optimizer]] = {
    "sgd": optim.SGD,
    "momentum": optim.SGD,
    "nesterov": optim.SGD,
    "adagrad": optim.AdaGrad,
    "rmsprop": optim.RMSprop,
    "adam": optim.Adam,
    "adamw": optim.AdamW,
}
SCHEDULES = ("constant", "step", "exponential", "cosine", "one-cycle")
HALF_DTYPES = ("float16", "bfloat16")
"""What a float32 model can be trained in."""
OF_FIXED_LENGTH = ("cosine", "one-cycle")
"""The schedules that are stretched over all epochs of a run."""
GROUPS = DATA, TRAINING, TECHNIQUES, COMPUTING = "data and model", "training", "techniques", "computing"
"""Of options, in the help."""

_TRANSFORMS = [getattr(augment, name).name for name in augment.__all__ if name not in ("Compose", "parse")]

_Count = Annotated[int, Range(1)]
_Natural = Annotated[int, Range(0)]
_Rate = Annotated[float, Range(0)]
_Positive = Annotated[float, Range(0, above=True)]
_Fraction = Annotated[float, Range(0, 1)]
_Decay = Annotated[float, Range(0, math.nextafter(1, 0))]


def _option(group: str, text: str = "", default: Any = None, **options: Any) -> Any:
    """Return a field that is an option of the command line; its annotation says which values it takes."""
    return field(default=default, metadata={**options, "group": group, "help": text})


def _augmentation(text: str) -> str:
    """Return the text as it is kept in the run's settings, once it is known to be right."""
    augmentation(text)
    return text


@dataclass(frozen=True)
class Settings:
    """A run's settings. None stands for the default of the optimiser, for all samples, or for doing without.

    `lr_step` and `warmup` count epochs.
    """

    backend: str
    device: str | None = None
    dataset: str = _option(DATA, "one of %(choices)s", "synthetic-digits", choices=DATASETS, metavar="NAME")
    train_samples: _Count | None = _option(DATA, "use the first N only (default: all)")
    test_samples: _Count | None = _option(DATA, "use the first N only (default: all)")
    evaluate_samples: _Count | None = _option(TRAINING, "of each set, for accuracies (default: all)")
    model: str = _option(DATA, "one of %(choices)s", "simple_convnet", choices=MODELS, metavar="MODEL")
    model_options: dict[str, Any] = field(default_factory=dict, metadata={"group": DATA})
    optimizer: str = _option(TRAINING, default="adam", choices=OPTIMIZERS)
    lr: _Rate | None = _option(TRAINING, "learning rate (default: 0.001 for adam and adamw, else 0.01)")
    momentum: _Rate | None = _option(TRAINING, "of momentum and nesterov (default: 0.9)")
    weight_decay: _Rate | None = _option(TRAINING, "(default: 0.01 for adamw, else 0)")
    epochs: _Count = _option(TRAINING, "passes over the training data, in all", 7)
    batch_size: _Count = _option(TRAINING, default=100)
    seed: _Natural = _option(TRAINING, "of initial weights, order and masks", 0)
    dtype: Literal["float32", "float64", "float16", "bfloat16"] = _option(
        COMPUTING, "float16 and bfloat16 compute in half precision and keep float32 weights", "float32"
    )
    # What follows is not in the files of runs that were begun by earlier versions: they do without.
    schedule: str = _option(
        TECHNIQUES,
        "how the learning rate goes on from --lr: down along a cosine over all epochs; up to --lr and down "
        "in one cycle; or times --lr-gamma every --lr-step epochs, at once or bit by bit (exponential)",
        "constant",
        choices=SCHEDULES,
    )
    lr_step: _Count | None = _option(TECHNIQUES, "epochs, of step and exponential (default: a third of all)")
    lr_gamma: _Positive | None = _option(TECHNIQUES, "of step and exponential (default: 0.1)")
    warmup: _Positive | None = _option(TECHNIQUES, "epochs from a third of the rate to it (default: none)")
    clip_norm: _Positive | None = _option(TECHNIQUES, "bound the norm of the gradients (default: no bound)")
    average: _Decay | None = _option(
        TECHNIQUES, "save a moving average of the weights that decays by this, such as 0.999 (default: none)"
    )
    label_smoothing: _Fraction | None = _option(
        TECHNIQUES, "the fraction of each target that is spread over all classes (default: none)"
    )
    augment: str | None = _option(
        TECHNIQUES,
        f"random changes of images, such as shift=2,rotate=10, of {', '.join(_TRANSFORMS)} (default: none)",
        type=_augmentation,
        metavar="SPEC",
    )
    patience: _Count | None = _option(
        TECHNIQUES, "stop after so many epochs without a better test accuracy (default: never)"
    )
    autotune: bool = _option(
        COMPUTING, "measure which convolution algorithms are the fastest (default: by a fixed rule)", False
    )
    drop_last: bool = _option(TRAINING, "leave out a smaller last batch (default: train on it)", False)

    @classmethod
    def of_run(cls, config: dict[str, Any], source: object) -> Settings:
        """Return the settings in the configuration of a run; `source` is its file, for messages.

        Raises
        ------
        CheckpointError
            When they are not those of a run that `xpcnn train` began.
        """
        names = [item.name for item in fields(cls)]
        missing = sorted(set(names[: names.index("schedule")]) - config.keys())
        if missing:
            raise CheckpointError(
                f"{source}: lacks {', '.join(missing)}; was this run begun by `xpcnn train`?"
            )
        settings: Settings = checked(cls, config, str(source), more=True)
        for one in fields(cls):
            value = getattr(settings, one.name)
            if "choices" in one.metadata and value not in one.metadata["choices"]:
                own = "; --import FILE.py brings one of your own" if one.name in ("dataset", "model") else ""
                raise CheckpointError(f"{source}: unknown {one.name} {value!r:.60}{own}")
        stepwise = settings.schedule in ("step", "exponential")
        if stepwise and (settings.lr_step is None or settings.lr_gamma is None):
            raise CheckpointError(f"{source}: the schedule {settings.schedule} needs lr_step and lr_gamma")
        try:
            settings.build_augmentation()
        except XpcnnError as error:
            raise CheckpointError(f"{source}: {error}") from error
        options = checked_options(settings.model, settings.model_options, f"{source}: model_options")
        return replace(settings, model_options=options)

    def to_config(self) -> dict[str, Any]:
        """Return what ``run.json`` holds."""
        return {"xpcnn": __version__, **asdict(self)}

    def batches(self, samples: int) -> int:
        """Return the number of batches in an epoch over so many samples."""
        return (samples if self.drop_last else samples + self.batch_size - 1) // self.batch_size

    def build_model(self, train: Dataset) -> Layer:
        """Return the model, newly initialised, for the images and classes of a training set."""
        options = for_images(self.model, self.model_options, train.images.shape[1:], train.classes)
        own = {"seed": self.seed, "dtype": "float32" if self.dtype in HALF_DTYPES else self.dtype}
        known = parameters_of(self.model)
        return models.build(
            self.model, **options, **{name: value for name, value in own.items() if name in known}
        )

    def build_optimizer(self, model: Layer) -> optim.Optimizer:
        """Return the optimiser of that model."""
        given: dict[str, Any] = {"lr": self.lr, "weight_decay": self.weight_decay}
        given = {name: value for name, value in given.items() if value is not None}
        if self.optimizer in ("momentum", "nesterov"):
            given["momentum"] = 0.9 if self.momentum is None else self.momentum
            given["nesterov"] = self.optimizer == "nesterov"
        return OPTIMIZERS[self.optimizer](model, **given)

    def build_schedule(self, optimizer: optim.Optimizer, batches: int) -> optim.Schedule | None:
        """Return the schedule of that optimiser, for so many batches an epoch; None for a constant rate."""
        warmup = 0 if self.warmup is None else max(1, round(self.warmup * batches))
        steps = max(1, self.epochs * batches - warmup)
        schedule: optim.Schedule | None = None
        if self.schedule == "cosine":
            schedule = optim.CosineAnnealingLR(optimizer, steps)
        elif self.schedule == "one-cycle":
            schedule = optim.OneCycleLR(optimizer, optimizer.lr, steps)
        elif self.schedule != "constant":
            assert self.lr_step is not None
            assert self.lr_gamma is not None
            if self.schedule == "step":
                schedule = optim.StepLR(optimizer, self.lr_step * batches, self.lr_gamma)
            else:
                schedule = optim.ExponentialLR(optimizer, self.lr_gamma ** (1 / (self.lr_step * batches)))
        return optim.LinearWarmup(optimizer, warmup, schedule) if warmup else schedule

    def build_augmentation(self) -> Compose | None:
        """Return what changes the training images, or None."""
        return None if self.augment is None else parse(self.augment)

    def build_loss(self) -> Any:
        """Return what is minimised: cross-entropy; for GoogLeNet with auxiliary heads, theirs with it."""
        if self.model == "googlenet" and self.model_options.get("aux"):
            return googlenet_loss
        loss: Callable[..., Any] = ops.softmax_cross_entropy
        if self.label_smoothing is not None:
            loss = functools.partial(loss, label_smoothing=self.label_smoothing)
        return loss, ops.softmax_cross_entropy.backward

    def build_trainer(self, train: Dataset) -> Trainer:
        """Return the trainer of a new model, for that training set."""
        model = self.build_model(train)
        optimizer = self.build_optimizer(model)
        return Trainer(
            model,
            optimizer,
            loss=self.build_loss(),
            seed=self.seed,
            schedule=self.build_schedule(optimizer, self.batches(len(train))),
            clip_norm=self.clip_norm,
            average=None if self.average is None else optim.WeightAverage(model, self.average),
            dtype=self.dtype if self.dtype in HALF_DTYPES else None,
        )


def add_settings(
    groups: Mapping[str, Options],
    names: Iterable[str] | None = None,
    defaults: Mapping[str, Any] = MappingProxyType({}),
) -> None:
    """Add the options of some settings, or of all, to groups; one that is not given is absent after parsing.

    The help shows `defaults` in place of the settings' own.
    """
    kinds = get_type_hints(Settings, include_extras=True)
    for one in fields(Settings):
        if "group" not in one.metadata or (names is not None and one.name not in names):
            continue
        options = dict(one.metadata)
        group = groups[options.pop("group")]
        if one.name == "model_options":
            add_model_option(group, argparse.SUPPRESS)
            continue
        default = defaults.get(one.name, one.default)
        if "(default: " not in options["help"]:
            options["help"] = f"{options['help']} (default: {default})".lstrip()
        options = {"default": argparse.SUPPRESS, **_kind(kinds[one.name]), **options}
        group.add_argument(f"--{one.name.replace('_', '-')}", **options)


def _kind(annotation: Any) -> dict[str, Any]:
    """Return what a field's annotation makes of its option."""
    if get_origin(annotation) in (Union, UnionType):  # with None
        annotation = get_args(annotation)[0]
    if get_origin(annotation) is Literal:
        return {"choices": get_args(annotation)}
    if get_origin(annotation) is Annotated:
        kind, allowed = get_args(annotation)
        return {"type": number(kind, allowed), "metavar": "N" if kind is int else "X"}
    return {"action": "store_true"} if annotation is bool else {}
