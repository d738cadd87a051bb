"""What a training run tells before it begins: where, on what, and how it trains."""

from __future__ import annotations

import math
from collections.abc import Iterator

from xpcnn.backend import get_backend
from xpcnn.cli.output import shown
from xpcnn.cli.settings import Settings
from xpcnn.data import Dataset
from xpcnn.train import RunDirectory, Trainer

__all__ = ["introduce"]

_OTHERS = {
    "label_smoothing": "label smoothing {:g}",
    "clip_norm": "gradients clipped to norm {:g}",
    "average": "weights averaged with decay {:g}",
}


def introduce(
    settings: Settings, trainer: Trainer, train: Dataset, test: Dataset, directory: RunDirectory
) -> None:
    """Print a run's settings, one line for each kind."""
    parameters = sum(math.prod(parameter.shape) for parameter in trainer.model.parameters().values())
    size = "x".join(map(str, train.images.shape[1:]))
    options = "".join(shown(f", {name} {value}") for name, value in settings.model_options.items())
    lr = trainer.optimizer.lr if trainer.schedule is None else trainer.schedule.base_lr
    print(f"backend    {get_backend()}, {settings.dtype}")
    print(f"data       {settings.dataset}: {len(train):,} training and {len(test):,} test images of {size}")
    print(f"model      {settings.model}{options}: {parameters:,} parameters")
    print(
        f"optimizer  {settings.optimizer}, lr {lr:g}; {settings.epochs} epochs "
        f"in batches of {settings.batch_size}, seed {settings.seed}"
    )
    schedule = ", ".join(_schedule(settings))
    if schedule:
        print(f"schedule   {schedule}")
    if settings.augment is not None:
        print(f"augment    {settings.augment}")
    others = ", ".join(_others(settings))
    if others:
        print(f"with       {others}")
    print(f"run        {shown(directory.path)} (Ctrl-C saves it)", flush=True)


def _schedule(settings: Settings) -> Iterator[str]:
    if settings.warmup is not None:
        yield f"warm-up over {_epochs(settings.warmup)}"
    if settings.schedule == "cosine":
        yield f"cosine down to lr 0 at the end of {_epochs(settings.epochs)}"
    elif settings.schedule == "one-cycle":
        yield f"one-cycle up to this lr and down, in {_epochs(settings.epochs)}"
    elif settings.schedule != "constant":
        how = "at once" if settings.schedule == "step" else "bit by bit"
        yield f"{settings.schedule}: lr times {settings.lr_gamma:g} {how} every {_epochs(settings.lr_step)}"


def _others(settings: Settings) -> Iterator[str]:
    for name, text in _OTHERS.items():
        if getattr(settings, name) is not None:
            yield text.format(getattr(settings, name))
    if settings.patience is not None:
        yield f"early stopping after {_epochs(settings.patience)} without a better test accuracy"
    if settings.autotune:
        yield "the convolution algorithms measured to be the fastest"


def _epochs(count: float | None) -> str:
    return "1 epoch" if count == 1 else f"{count:g} epochs"
