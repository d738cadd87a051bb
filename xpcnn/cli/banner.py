"""What a training run prints before it begins: where, on what, and how it trains."""

from __future__ import annotations

import math

from xpcnn.backend import get_backend
from xpcnn.cli.output import printable
from xpcnn.cli.settings import Settings
from xpcnn.data import Dataset
from xpcnn.train import RunDirectory, Trainer

__all__ = ["print_banner"]

_SCHEDULES = {
    "cosine": "cosine down to lr 0 at the end of {epochs}",
    "one-cycle": "one-cycle up to this lr and down, in {epochs}",
    "step": "step: lr times {gamma:g} at once every {step}",
    "exponential": "exponential: lr times {gamma:g} bit by bit every {step}",
}
_OTHERS = {
    "label_smoothing": "label smoothing {:g}",
    "clip_norm": "gradients clipped to norm {:g}",
    "average": "weights averaged with decay {:g}",
    "patience": "early stopping after {:g} epochs without a better test accuracy",
    "autotune": "the convolution algorithms measured to be the fastest",
}


def print_banner(
    settings: Settings, trainer: Trainer, train: Dataset, test: Dataset, directory: RunDirectory
) -> None:
    """Print a run's settings, one line for each kind."""
    parameters = sum(math.prod(parameter.shape) for parameter in trainer.model.parameters().values())
    size = "x".join(map(str, train.images.shape[1:]))
    options = "".join(printable(f", {name} {value}") for name, value in settings.model_options.items())
    lr = trainer.optimizer.lr if trainer.schedule is None else trainer.schedule.base_lr
    schedule = [] if settings.warmup is None else [f"warm-up over {_epochs(settings.warmup)}"]
    if settings.schedule in _SCHEDULES:
        values = {"gamma": settings.lr_gamma, "step": _epochs(settings.lr_step)}
        schedule.append(_SCHEDULES[settings.schedule].format(epochs=_epochs(settings.epochs), **values))
    others = {name: getattr(settings, name) for name in _OTHERS}
    lines = {
        "backend": f"{get_backend()}, {settings.dtype}",
        "data": f"{settings.dataset}: {len(train):,} training and {len(test):,} test images of {size}",
        "model": f"{settings.model}{options}: {parameters:,} parameters",
        "optimizer": f"{settings.optimizer}, lr {lr:g}; {settings.epochs} epochs "
        f"in batches of {settings.batch_size}, seed {settings.seed}",
        "schedule": ", ".join(schedule),
        "augment": settings.augment or "",
        "with": ", ".join(
            _OTHERS[name].format(value) for name, value in others.items() if value not in (None, False)
        ),
        "run": f"{printable(directory.path)} (Ctrl-C saves it)",
    }
    for name, text in lines.items():
        if text:
            print(f"{name:<10} {text}", flush=True)


def _epochs(count: float | None) -> str:
    return "1 epoch" if count == 1 else f"{count or 0:g} epochs"
