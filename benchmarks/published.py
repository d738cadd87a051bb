"""Train the published recipes on real MNIST, one seed after the other, and keep what came out.

    python -m benchmarks.published                        # every recipe, seeds 0 to 4
    python -m benchmarks.published --recipe tiny-1000 --seeds 0 1
    python -m benchmarks.published --table                # the Markdown table of what is kept
    python -m benchmarks.published --draw                 # docs/results/mnist-curves.png, of the first seeds

Each finished run leaves ``docs/results/<recipe>-seed<n>.json``; runs in progress stay in ``runs/published``.
The same command resumes them.
"""

from __future__ import annotations

import argparse
import functools
import itertools
import json
import math
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from xpcnn import Trainer, data, models, optim
from xpcnn.cli.machine import machine
from xpcnn.data import augment
from xpcnn.errors import DivergenceError
from xpcnn.io import replacing
from xpcnn.nn import Layer
from xpcnn.optim import Optimizer, Schedule
from xpcnn.train import ProgressLines, RunDirectory

RESULTS = Path(__file__).parent.parent / "docs" / "results"


@dataclass(frozen=True)
class Recipe:
    """One published training: the figure to reach, and everything needed to try."""

    target: float
    model: Callable[..., Layer]
    optimizer: Callable[[Layer], Optimizer]
    epochs: int
    batch_size: int
    train_samples: int = 60_000
    test_samples: int = 10_000
    evaluate_samples: int | None = None
    schedule: Callable[[Optimizer, int], Schedule] | None = None  # of the optimiser and the number of steps
    augment: str | None = None
    average: float | None = None


RECIPES = {
    "simple-adagrad": Recipe(0.9860, models.simple_convnet, lambda m: optim.AdaGrad(m, lr=0.06), 10, 100),
    "simple-adam-5000": Recipe(
        0.956, models.simple_convnet, lambda m: optim.Adam(m, lr=1e-3), 20, 100, 5_000, 1_000
    ),
    "tiny-1000": Recipe(0.78, models.tiny_convnet, lambda m: optim.SGD(m, lr=0.005), 3, 1, 1_000, 1_000),
    "tiny-60000": Recipe(0.974, models.tiny_convnet, lambda m: optim.SGD(m, lr=0.005), 3, 1),
    "deep-adam": Recipe(
        0.9938, models.deep_convnet, lambda m: optim.Adam(m, lr=1e-3), 20, 100, evaluate_samples=10_000
    ),
    "deep-augmented": Recipe(
        0.9960,
        models.deep_convnet,
        lambda m: optim.Adam(m, lr=2e-3),
        30,
        100,
        evaluate_samples=10_000,
        schedule=lambda optimizer, steps: optim.OneCycleLR(optimizer, 2e-3, steps),
        augment="shift=2,rotate=10,scale=0.1,shear=5,elastic=20:4",
        average=0.999,
    ),
    "deep-augmented-dropout": Recipe(
        0.9960,
        functools.partial(models.deep_convnet, dropout=0.1),
        lambda m: optim.Adam(m, lr=2e-3),
        25,
        100,
        evaluate_samples=10_000,
        schedule=lambda optimizer, steps: optim.OneCycleLR(optimizer, 2e-3, steps),
        augment="shift=2,rotate=10,scale=0.1,shear=5,elastic=20:4",
        average=0.999,
    ),
    "lenet5": Recipe(
        0.990,
        models.lenet5,
        lambda m: optim.Adam(m, lr=2e-3),
        20,
        100,
        evaluate_samples=10_000,
        schedule=lambda optimizer, steps: optim.CosineAnnealingLR(optimizer, steps),
    ),
    "resnet20": Recipe(
        0.992,
        functools.partial(models.resnet20, in_channels=1),
        lambda m: optim.Adam(m, lr=3e-3),
        5,
        100,
        evaluate_samples=10_000,
        schedule=lambda optimizer, steps: optim.OneCycleLR(optimizer, 3e-3, steps),
    ),
}


def train(name: str, seed: int) -> dict[str, Any]:
    """Run one recipe with one seed, from where it stopped if it did, and return what to keep."""
    recipe = RECIPES[name]
    train_set, test_set = data.mnist()
    model = recipe.model(seed=seed)
    optimizer = recipe.optimizer(model)
    steps = recipe.epochs * math.ceil(recipe.train_samples / recipe.batch_size)
    trainer = Trainer(
        model,
        optimizer,
        seed=seed,
        schedule=None if recipe.schedule is None else recipe.schedule(optimizer, steps),
        average=None if recipe.average is None else optim.WeightAverage(model, recipe.average),
    )
    folder = Path("runs", "published", f"{name}-seed{seed}")
    begun = (folder / "run.json").exists()
    run = RunDirectory(folder, None if begun else {"recipe": name, "seed": seed})
    run.restore(trainer)
    started, outcome = time.perf_counter(), "finished"
    try:
        trainer.fit(
            train_set[: recipe.train_samples],
            test_set[: recipe.test_samples],
            epochs=recipe.epochs - trainer.epoch,
            batch_size=recipe.batch_size,
            evaluate_samples=recipe.evaluate_samples,
            augment=None if recipe.augment is None else augment.parse(recipe.augment),
            progress=ProgressLines(),
            callbacks=[run],
        )
    except DivergenceError as error:
        outcome = str(error)
    history, block = trainer.history, max(1, trainer.steps // 500)
    return {
        "recipe": name,
        "seed": seed,
        "target": recipe.target,
        "outcome": outcome,
        "test_accuracy": history.test_accuracy,
        "train_accuracy": history.train_accuracy,
        "best": max((one for one in history.test_accuracy if one is not None), default=None),
        "final": history.test_accuracy[-1] if history.epochs else None,
        "training_seconds": round(history.seconds, 1),
        "wall_seconds": round(time.perf_counter() - started, 1),
        "steps_per_loss": block,
        "losses": [
            round(statistics.fmean(history.losses[i : i + block]), 4)
            for i in range(0, len(history.losses), block)
        ],
        "machine": machine(),
    }


def table() -> str:
    """Return the kept results as a Markdown table."""
    lines = [
        "| recipe | seed | test accuracy after each epoch | best | last | training |",
        "|---|---|---|---|---|---|",
    ]
    for name in RECIPES:
        for file in sorted(RESULTS.glob(f"{name}-seed*.json")):
            kept = json.loads(file.read_text())
            epochs = " ".join(f"{100 * accuracy:.2f}" for accuracy in kept["test_accuracy"])
            figures = "–" if kept["best"] is None else f"{kept['best']:.2%} | {kept['final']:.2%}"
            lines.append(
                f"| {name} | {kept['seed']} | {epochs} | {figures} | {kept['training_seconds']:.0f} s |"
            )
    return "\n".join(lines)


def draw() -> Path:
    """Draw the test accuracies of each recipe on the whole training set, of the first seed that is kept."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8, 5), layout="constrained")
    axes = figure.add_subplot(xlabel="epoch", ylabel="accuracy on the test images, %", ylim=(96, 100))
    strokes = itertools.cycle(itertools.product(("-", "--", ":"), "os^vD"))
    for (name, recipe), (line, mark) in zip(RECIPES.items(), strokes, strict=False):
        files = sorted(RESULTS.glob(f"{name}-seed*.json"))
        if files and recipe.train_samples == 60_000:
            kept = json.loads(files[0].read_text())
            percent = [100 * accuracy for accuracy in kept["test_accuracy"]]
            label = f"{name}: {max(percent):.2f} at best"
            axes.plot(range(1, len(percent) + 1), percent, line, marker=mark, markersize=4, label=label)
    axes.legend(loc="lower right")
    axes.grid(alpha=0.3)
    path = RESULTS / "mnist-curves.png"
    with replacing(path) as temporary:
        figure.savefig(temporary, format="png", dpi=90)
    return path


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--recipe", nargs="+", choices=RECIPES, default=list(RECIPES))
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2, 3, 4])
    parser.add_argument("--table", action="store_true", help="print the table of kept results and stop")
    parser.add_argument("--draw", action="store_true", help="draw the curves of kept results and stop")
    options = parser.parse_args()
    if options.table:
        print(table())
        return
    if options.draw:
        print(draw())
        return
    RESULTS.mkdir(parents=True, exist_ok=True)
    for name in options.recipe:
        for seed in options.seeds:
            file = RESULTS / f"{name}-seed{seed}.json"
            if not file.exists():
                print(f"{name}, seed {seed}", flush=True)
                kept = json.dumps(train(name, seed), indent=1) + "\n"
                with replacing(file) as temporary:  # a file that is there counts as finished
                    temporary.write_text(kept)


if __name__ == "__main__":
    main()
