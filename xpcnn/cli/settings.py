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
from xpcnn.cli.options import DTYPES, SHARED, Options, augmentation, number
from xpcnn.data import Dataset, augment
from xpcnn.data.catalog import DATASETS
from xpcnn.errors import CheckpointError, XpcnnError
from xpcnn.io import Range, checked
from xpcnn.models.catalog import MODELS, parameters_of
from xpcnn.train import Trainer

OPTIMIZERS: dict[str, Callable[..., optim.Optimizer]] = {
    "sgd": optim.SGD,
    "momentum": functools.partial(optim.SGD, momentum=0.9),
    "nesterov": functools.partial(optim.SGD, momentum=0.9, nesterov=True),
    "adagrad": optim.AdaGrad,
    "rmsprop": optim.RMSprop,
    "adam": optim.Adam,
    "adamw": optim.AdamW,
}
WITH_MOMENTUM = ("momentum", "nesterov")
STEPWISE = ("step", "exponential")
OF_FIXED_LENGTH = ("cosine", "one-cycle")
"""The schedules that are stretched over all epochs of a run."""
GROUPS = DATA, TRAINING, TECHNIQUES, COMPUTING = "data and model", "training", "techniques", "computing"
"""Of options, in the help."""

_TRANSFORMS = [getattr(augment, name).name for name in augment.__all__ if name not in ("Compose", "parse")]
_MODEL_OPTION = {"group": DATA, **SHARED["--model-option"]}
_AUGMENT = f"random changes, such as shift=2,rotate=10, of {', '.join(_TRANSFORMS)} (default: none)"

_Schedule = Literal["constant", "step", "exponential", "cosine", "one-cycle"]
_Dtype = Literal["float32", "float64", "float16", "bfloat16"]
_Count = Annotated[int, Range(1)]
_Natural = Annotated[int, Range(0)]
_Rate = Annotated[float, Range(0)]
_Positive = Annotated[float, Range(0, above=True)]
_Fraction = Annotated[float, Range(0, 1)]
_Decay = Annotated[float, Range(0, math.nextafter(1, 0))]


def _option(group: str, text: str = "", default: Any = None, **options: Any) -> Any:
    """Return a field that is an option of the command line; its annotation says which values it takes."""
    return field(default=default, metadata={**options, "group": group, "help": text})


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
    model_options: dict[str, Any] = field(default_factory=dict, metadata=_MODEL_OPTION)
    optimizer: str = _option(TRAINING, default="adam", choices=tuple(OPTIMIZERS))
    lr: _Rate | None = _option(TRAINING, "learning rate (default: 0.001 for adam and adamw, else 0.01)")
    momentum: _Rate | None = _option(TRAINING, "of momentum and nesterov (default: 0.9)")
    weight_decay: _Rate | None = _option(TRAINING, "(default: 0.01 for adamw, else 0)")
    epochs: _Count = _option(TRAINING, "passes over the training data, in all", 7)
    batch_size: _Count = _option(TRAINING, default=100)
    seed: _Natural = _option(TRAINING, "of initial weights, order and masks", 0)
    dtype: _Dtype = _option(COMPUTING, "float16 and bfloat16 keep float32 weights", "float32")
    # What follows is not in the files of runs that were begun by earlier versions: they do without.
    schedule: _Schedule = _option(TECHNIQUES, "how the learning rate changes from --lr", "constant")
    lr_step: _Count | None = _option(TECHNIQUES, "epochs, of step and exponential (default: a third of all)")
    lr_gamma: _Positive | None = _option(TECHNIQUES, "of step and exponential (default: 0.1)")
    warmup: _Positive | None = _option(TECHNIQUES, "epochs from a third of the rate to it (default: none)")
    clip_norm: _Positive | None = _option(TECHNIQUES, "bound the norm of the gradients (default: no bound)")
    average: _Decay | None = _option(TECHNIQUES, "decay of the average of weights to save (default: none)")
    label_smoothing: _Fraction | None = _option(TECHNIQUES, "spread over all classes (default: none)")
    augment: str | None = _option(TECHNIQUES, _AUGMENT, type=augmentation, metavar="SPEC")
    patience: _Count | None = _option(TECHNIQUES, "epochs without a better test, then stop (default: never)")
    autotune: bool = _option(COMPUTING, "time convolution algorithms first (default: a fixed rule)", False)
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
            raise CheckpointError(f"{source}: lacks {', '.join(missing)}; is this a run of `xpcnn train`?")
        settings: Settings = checked(cls, config, str(source), more=True)
        for one in fields(cls):
            value, known = getattr(settings, one.name), one.metadata.get("choices", ())
            if known and value not in known:
                own = "" if one.name == "optimizer" else "; --import FILE.py brings one of your own"
                raise CheckpointError(f"{source}: unknown {one.name} {value!r:.60}{own}")
        if settings.schedule in STEPWISE and None in (settings.lr_step, settings.lr_gamma):
            raise CheckpointError(f"{source}: the schedule {settings.schedule} needs lr_step and lr_gamma")
        try:
            augment.parse(settings.augment or "")
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

    def build_trainer(self, train: Dataset) -> Trainer:
        """Return the trainer of a new model, for the images and classes of a training set."""
        half = None if self.dtype in DTYPES else self.dtype
        options = for_images(self.model, self.model_options, train.images.shape[1:], train.classes)
        for name, value in {"seed": self.seed, "dtype": "float32" if half else self.dtype}.items():
            if name in parameters_of(self.model):
                options[name] = value
        model = models.build(self.model, **options)
        taken = ("lr", "weight_decay", *(["momentum"] if self.optimizer in WITH_MOMENTUM else []))
        given = {name: value for name in taken if (value := getattr(self, name)) is not None}
        optimizer = OPTIMIZERS[self.optimizer](model, **given)
        entropy, smoothing = ops.softmax_cross_entropy, self.label_smoothing or 0.0
        loss: Any = functools.partial(entropy, label_smoothing=smoothing), entropy.backward
        if self.model == "googlenet" and self.model_options.get("aux"):
            loss = models.googlenet_loss
        return Trainer(
            model,
            optimizer,
            loss=loss,
            seed=self.seed,
            schedule=self._schedule(optimizer, self.batches(len(train))),
            clip_norm=self.clip_norm,
            average=None if self.average is None else optim.WeightAverage(model, self.average),
            dtype=half,
        )

    def _schedule(self, optimizer: optim.Optimizer, batches: int) -> optim.Schedule | None:
        """Return the schedule, for so many batches an epoch; None for a constant rate."""
        warmup = 0 if self.warmup is None else max(1, round(self.warmup * batches))
        steps = max(1, self.epochs * batches - warmup)
        every, gamma = (self.lr_step or 0) * batches, self.lr_gamma or 0.0
        schedule: optim.Schedule | None = None
        match self.schedule:
            case "cosine":
                schedule = optim.CosineAnnealingLR(optimizer, steps)
            case "one-cycle":
                schedule = optim.OneCycleLR(optimizer, optimizer.lr, steps)
            case "step":
                schedule = optim.StepLR(optimizer, every, gamma)
            case "exponential":
                schedule = optim.ExponentialLR(optimizer, gamma ** (1 / every))
        return optim.LinearWarmup(optimizer, warmup, schedule) if warmup else schedule


def flag(name: str) -> str:
    """Return a setting as it is written on the command line."""
    return f"--{name}".replace("model_options", "model_option").replace("_", "-")


def add_settings(
    parser: argparse.ArgumentParser,
    names: Iterable[str] | None = None,
    defaults: Mapping[str, Any] = MappingProxyType({}),
) -> dict[str, Options]:
    """Add the options of some settings, or of all, and return their groups.

    One that is not given is absent after parsing. The help shows `defaults` in place of the settings' own.
    """
    parser.argument_default = argparse.SUPPRESS
    groups: dict[str, Options] = {name: parser.add_argument_group(name) for name in GROUPS}
    kinds = get_type_hints(Settings, include_extras=True)
    for one in fields(Settings):
        if one.metadata and (names is None or one.name in names):
            options = dict(one.metadata)
            group = groups[options.pop("group")]
            if "(default: " not in options["help"]:
                default = defaults.get(one.name, one.default)
                options["help"] = f"{options['help']} (default: {default})".lstrip()
            group.add_argument(flag(one.name), **_kind(kinds[one.name]), **options)
    return groups


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
