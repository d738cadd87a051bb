"""Everything that decides how a run goes: what ``run.json`` holds."""

from __future__ import annotations

import functools
from collections.abc import Callable, Container
from dataclasses import asdict, dataclass, field, fields, replace
from typing import Annotated, Any, Literal

from xpcnn import __version__, models, ops, optim
from xpcnn.cli.datasets import DATASETS
from xpcnn.cli.options import checked_options, for_images
from xpcnn.data import Dataset
from xpcnn.data.augment import Compose, parse
from xpcnn.errors import CheckpointError, XpcnnError
from xpcnn.io import Range, checked
from xpcnn.models.catalog import MODELS, parameters_of
from xpcnn.models.googlenet import googlenet_loss
from xpcnn.nn import Layer
from xpcnn.train import Trainer

__all__ = ["HALF_DTYPES", "OF_FIXED_LENGTH", "OPTIMIZERS", "SCHEDULES", "Settings"]

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

_Count = Annotated[int, Range(1)]
_Rate = Annotated[float, Range(0)]


@dataclass(frozen=True)
class Settings:
    """A run's settings. None stands for the default of the optimiser, for all samples, or for doing without.

    `lr_step` and `warmup` count epochs.
    """

    backend: str
    device: str | None = None
    dataset: str = "synthetic-digits"
    train_samples: _Count | None = None
    test_samples: _Count | None = None
    evaluate_samples: _Count | None = None
    model: str = "simple_convnet"
    model_options: dict[str, Any] = field(default_factory=dict)
    optimizer: str = "adam"
    lr: _Rate | None = None
    momentum: _Rate | None = None
    weight_decay: _Rate | None = None
    epochs: _Count = 7
    batch_size: _Count = 100
    seed: Annotated[int, Range(0)] = 0
    dtype: Literal["float16", "bfloat16", "float32", "float64"] = "float32"
    # What follows is not in the files of runs that were begun by earlier versions: they do without.
    schedule: str = "constant"
    lr_step: _Count | None = None
    lr_gamma: _Rate | None = None
    warmup: _Rate | None = None
    clip_norm: Annotated[float, Range(0, above=True)] | None = None
    average: Annotated[float, Range(0, 1)] | None = None
    label_smoothing: Annotated[float, Range(0, 1)] | None = None
    augment: str | None = None
    patience: Annotated[int, Range(0)] | None = None
    autotune: bool = False
    drop_last: bool = False

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
        choices: dict[str, Container[str]] = {
            "dataset": DATASETS,
            "model": MODELS,
            "optimizer": OPTIMIZERS,
            "schedule": SCHEDULES,
        }
        for name, known in choices.items():
            if getattr(settings, name) not in known:
                own = "; --import FILE.py brings one of your own" if name in ("dataset", "model") else ""
                raise CheckpointError(f"{source}: unknown {name} {getattr(settings, name)!r:.60}{own}")
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
        dtype = "float32" if self.dtype in HALF_DTYPES else self.dtype
        own = {"seed": self.seed, "dtype": dtype}
        taken = parameters_of(self.model)
        return models.build(self.model, **options, **{name: own[name] for name in own if name in taken})

    def build_optimizer(self, model: Layer) -> optim.Optimizer:
        """Return the optimiser of that model."""
        options: dict[str, Any] = {"lr": self.lr, "weight_decay": self.weight_decay}
        if self.optimizer in ("momentum", "nesterov"):
            options |= {"momentum": self.momentum, "nesterov": self.optimizer == "nesterov"}
        given = {name: value for name, value in options.items() if value is not None}
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
