"""Train an ensemble of augmented deep_convnets on MNIST from scratch, and test it.

    python -m benchmarks.ensemble runs/ensemble                  # five members, 30 epochs each
    python -m benchmarks.ensemble runs/ensemble --processes 1    # one after the other

Each member has a seed, 0, 1, 2 and so on, which decides initial weights, order, augmentation and masks. How
far its images are changed is its own too, so that members err on different images: `OWN` says how. Each is a
run as `xpcnn train` keeps it, trained by a process of its own. The weights after the last step are taken,
averaged over the steps as the recipe says; no epoch is chosen by the test set.

Killed at any moment, or stopped by Ctrl-C, the same command goes on where it was, and ends with the same bits
as if it had not stopped. In the end OUT_DIR holds results.json and results.md, ensemble.safetensors, which
`xpcnn evaluate` and `xpcnn predict` read, and log.txt with all that was told on the way.
"""

from __future__ import annotations

import argparse
import heapq
import statistics
import sys
import time
from collections.abc import Sequence
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any

from benchmarks.ensemble_folder import EnsembleFolder
from benchmarks.ensemble_processes import Report, train_members
from xpcnn import get_num_threads, nn
from xpcnn.cli import datasets
from xpcnn.cli.machine import machine
from xpcnn.cli.options import add_device_options, choose_backend, count
from xpcnn.cli.parser import Parser, UsageError
from xpcnn.cli.settings import Settings
from xpcnn.data import Dataset
from xpcnn.errors import XpcnnError
from xpcnn.train import Evaluation, evaluate, load_model

# How these were chosen is told in docs/results.md.
RECIPE = Settings(
    backend="numpy",
    dataset="mnist",
    evaluate_samples=1000,
    model="deep_convnet",
    model_options={"filters": [16, 48, 96], "hidden": 200, "dropout": 0.0, "batch_norm": True},
    optimizer="adam",
    lr=4e-3,
    epochs=30,
    batch_size=100,
    schedule="one-cycle",
    augment="shift=2,rotate=10,scale=0.1,shear=5,elastic=12:4",
    average=0.999,
)
STRONGER = "shift=2,rotate=15,scale=0.15,shear=10,elastic=30:5"
OWN: tuple[dict[str, Any], ...] = ({}, {"augment": STRONGER})
"""The settings in which each member differs from the recipe; a third has those of the first again."""
VOTE = "geometric"
"""How they answer together."""


class Forecast:
    """How long the rest will take, by what epochs have taken; `left` are the epochs left of each member."""

    def __init__(self, left: dict[int, int], processes: int) -> None:
        self.left = left
        self._processes = processes
        self._whole: list[float] = []
        self._guess: float | None = None

    def saw(self, number: int, report: Report) -> None:
        """Learn from what a member reports: of some steps, until there are whole epochs."""
        if "epoch" in report:
            self.left[number] -= 1
            self._whole.append(report["epoch_seconds"])
        elif "epoch_seconds" in report:
            self._guess = report["epoch_seconds"]

    @property
    def epoch_seconds(self) -> float | None:
        """What an epoch takes now; None before anything is known."""
        return statistics.fmean(self._whole[-10:]) if self._whole else self._guess

    @property
    def seconds(self) -> float:
        """How many seconds are left, if each process takes up the next member as soon as it is free."""
        ends = [0.0] * self._processes
        for epochs in self.left.values():
            heapq.heapreplace(ends, ends[0] + epochs)
        return max(ends) * (self.epoch_seconds or 0.0)

    def __str__(self) -> str:
        epochs = sum(self.left.values())
        return f"about {duration(self.seconds)} for {epochs} epochs of {self.epoch_seconds:.1f} s"


def train(folder: EnsembleFolder, epochs: int, processes: int, keep: Sequence[int]) -> None:
    """Train all members to their end, from where they stand, and tell how it goes."""
    left = {number: folder.epochs_left(number) for number in range(len(folder.members))}
    forecast = Forecast({number: more for number, more in left.items() if more}, processes)
    before, begun, estimated = folder.seconds, time.monotonic(), False
    try:
        with closing(train_members(folder.members, list(forecast.left), processes, keep)) as reports:
            for number, report in reports:
                forecast.saw(number, report)
                folder.seconds = before + time.monotonic() - begun
                if not estimated and forecast.epoch_seconds is not None:
                    folder.tell(f"estimate: {forecast}, {processes} at a time")
                    estimated = True
                if "step" in report:
                    where = f"goes on after step {report['step']}" if report["step"] else "begins"
                    folder.tell(f"member {number}  {where}, {report['epochs']} of {epochs} epochs done")
                elif "epoch" in report:
                    folder.tell(
                        f"member {number}  epoch {report['epoch']:3d}  loss {report['loss']:.4f}  "
                        f"train {report['train_accuracy']:7.2%}  test {report['test_accuracy']:7.2%}  "
                        f"{report['epoch_seconds']:.1f} s  {duration(folder.seconds)} so far, "
                        f"about {duration(forecast.seconds)} left"
                    )
    except BaseException as error:
        folder.note(f"ended by {error!r}")
        raise
    finally:
        folder.seconds = before + time.monotonic() - begun


def measure(folder: EnsembleFolder, images: Dataset) -> dict[str, Any]:
    """Return what there is to keep of trained members, and save them as one model."""
    begun = time.monotonic()
    models = [load_model(path) for path in folder.members]
    together = nn.Ensemble(*models, vote=VOTE)
    together.save(folder.path / "ensemble.safetensors")
    members: list[dict[str, Any]] = []
    for number, model in enumerate(models):
        history = folder.run(number).history()
        members.append(
            {
                "seed": number,
                "own": folder.own[number],
                **figures(evaluate(model, images)),
                "training_seconds": round(history.seconds, 1),
            }
        )
    result = figures(evaluate(together, images))
    mean = figures(evaluate(nn.Ensemble(*models), images))
    folder.seconds += time.monotonic() - begun
    return {
        "settings": folder.settings,
        "members": members,
        "ensemble": result,
        "mean": mean,
        "training_seconds": round(sum(member["training_seconds"] for member in members), 1),
        "wall_seconds": folder.seconds,
        "machine": machine(),
    }


def figures(evaluation: Evaluation) -> dict[str, Any]:
    """Return what is kept of an evaluation."""
    return {
        "test_accuracy": evaluation.accuracy,
        "correct": evaluation.correct,
        "samples": evaluation.samples,
    }


def table(results: dict[str, Any]) -> str:
    """Return results as a Markdown table."""
    lines = ["| | test accuracy | wrong | training |", "|---|---|---|---|"]
    named = [(_title(member, results["settings"]), member) for member in results["members"]]
    together = [
        (name, {**results[key], "training_seconds": results["training_seconds"]})
        for name, key in (("**all, geometric mean of the probabilities**", "ensemble"), ("all, mean", "mean"))
    ]
    for name, row in [*named, *together]:
        wrong = f"{row['samples'] - row['correct']} of {row['samples']:,}"
        lines.append(
            f"| {name} | {row['test_accuracy']:.2%} | {wrong} | {duration(row['training_seconds'])} |"
        )
    return "\n".join([*lines, "", f"From beginning to end: {duration(results['wall_seconds'])}."])


def _title(member: dict[str, Any], settings: dict[str, Any]) -> str:
    """Return what to call a member: its seed, and in what it differs from the settings of all."""
    own = dict(member["own"])
    options = own.pop("model_options", {})
    own |= {name: value for name, value in options.items() if settings["model_options"].get(name) != value}
    return ", ".join([f"seed {member['seed']}", *(f"{name} {value}" for name, value in own.items())])


def duration(seconds: float) -> str:
    """Return a time in words.

    >>> duration(8), duration(150), duration(4980)
    ('8 s', '2 min 30 s', '1 h 23 min')
    """
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60} s"
    return f"{whole // 3600} h {whole % 3600 // 60} min"


def build(path: Path, settings: Settings, own: Sequence[dict[str, Any]], processes: int) -> dict[str, Any]:
    """Train and test an ensemble, or what is left of that, and return its results."""
    folder = EnsembleFolder(path, settings, own)
    with folder.locked() as lock:
        if folder.results is None:
            # Read here first: what is to be fetched is fetched once.
            images = datasets.first(datasets.load(settings.dataset)[1], settings.test_samples, "test_samples")
            train(folder, settings.epochs, processes, [lock])
            folder.tell("testing")
            results = measure(folder, images)
            folder.finish(results, table(results))
        assert folder.results is not None
        return folder.results


def main(
    arguments: Sequence[str] | None = None,
    recipe: Settings = RECIPE,
    own: Sequence[dict[str, Any]] = OWN,
) -> int:
    """Run the command; `recipe` is what it trains, and `own` what members have of their own, in turns."""
    parser = Parser(
        prog="python -m benchmarks.ensemble",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("out", type=Path, metavar="OUT_DIR", help="where to keep everything")
    parser.add_argument("--members", type=count, default=5, metavar="N", help="(default: 5)")
    parser.add_argument(
        "--epochs", type=count, default=recipe.epochs, metavar="N", help=f"(default: {recipe.epochs})"
    )
    parser.add_argument(
        "--processes",
        type=count,
        metavar="N",
        help="members trained at a time; they share the threads (default: one a thread, which are as many as "
        "$XPCNN_NUM_THREADS says or there are cores). The results do not depend on it",
    )
    add_device_options(parser)
    options = parser.parse_args(arguments)
    try:
        backend = choose_backend(options.backend, options.device)
        settings = replace(recipe, backend=backend.name, device=options.device, epochs=options.epochs)
        processes = min(options.processes or get_num_threads(), options.members)
        each = [own[number % len(own)] for number in range(options.members)]
        print(table(build(options.out, settings, each, processes)))
    except KeyboardInterrupt:
        print("interrupted; the same command goes on", file=sys.stderr)
        return 1
    except (XpcnnError, UsageError, OSError) as error:
        print(f"{parser.prog}: error: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
