"""Everything that decides how a run goes: what ``config.json`` holds."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field, fields
from typing import Any

from xpcnn import __version__, models, optim
from xpcnn.cli.datasets import DATASETS
from xpcnn.errors import CheckpointError
from xpcnn.nn import Layer

__all__ = ["OPTIMIZERS", "Settings"]

OPTIMIZERS: dict[str, type[optim.Optimizer]] = {
    "sgd": optim.SGD,
    "momentum": optim.SGD,
    "nesterov": optim.SGD,
    "adagrad": optim.AdaGrad,
    "rmsprop": optim.RMSprop,
    "adam": optim.Adam,
    "adamw": optim.AdamW,
}


@dataclass(frozen=True)
class Settings:
    """A run's settings. None stands for the default of the optimiser, or for all samples."""

    backend: str
    device: str | None = None
    dataset: str = "synthetic-digits"
    train_samples: int | None = None
    test_samples: int | None = None
    evaluate_samples: int | None = None
    model: str = "simple_convnet"
    model_options: dict[str, Any] = field(default_factory=dict)
    optimizer: str = "adam"
    lr: float | None = None
    momentum: float | None = None
    weight_decay: float | None = None
    epochs: int = 7
    batch_size: int = 100
    seed: int = 0
    dtype: str = "float32"

    @classmethod
    def of_run(cls, config: dict[str, Any], source: object) -> Settings:
        """Return the settings in the configuration of a run; `source` is its file, for messages.

        Raises
        ------
        CheckpointError
            When they are not those of a run that `xpcnn train` began.
        """
        names = {item.name for item in fields(cls)}
        missing = sorted(names - config.keys())
        if missing:
            raise CheckpointError(
                f"{source}: lacks {', '.join(missing)}; was this run begun by `xpcnn train`?"
            )
        settings = cls(**{name: config[name] for name in names})
        for name, known in (("dataset", DATASETS), ("optimizer", OPTIMIZERS)):
            if getattr(settings, name) not in known:
                raise CheckpointError(f"{source}: unknown {name} {getattr(settings, name)!r}")
        return settings

    def to_config(self) -> dict[str, Any]:
        """Return what ``config.json`` holds."""
        return {"xpcnn": __version__, **asdict(self)}

    def build_model(self) -> Layer:
        """Return the model, newly initialised."""
        return models.build(self.model, **self.model_options, seed=self.seed, dtype=self.dtype)

    def build_optimizer(self, model: Layer) -> optim.Optimizer:
        """Return the optimiser of that model."""
        options: dict[str, Any] = {"lr": self.lr, "weight_decay": self.weight_decay}
        if self.optimizer in ("momentum", "nesterov"):
            options |= {"momentum": self.momentum, "nesterov": self.optimizer == "nesterov"}
        given = {name: value for name, value in options.items() if value is not None}
        return OPTIMIZERS[self.optimizer](model, **given)
