"""What is gained by starting from a network that was trained on other digits, measured on real MNIST.

    python -m benchmarks.transfer              # seeds 0 to 2, three minutes on one core
    python -m benchmarks.transfer --seeds 0
    python -m benchmarks.transfer --table      # the Markdown table of what is kept

LeNet-5 is trained on the digits 0 to 4. Then the digits 5 to 9 are to be learnt from 100 images of each: from
scratch; with the first layers of the old network, frozen, below new ones; and with these frozen for 3 epochs,
and then everything tuned at a third of the learning rate. Each way sees the same images for as many steps of
the same optimiser, and is measured after 3, 10 and 30 epochs of 10 steps each, on all 4,861 test images of 5
to 9.

Each way and number of epochs has a learning rate of its own: of those tried, the one that is best on 1,000
other training images, in the mean over the seeds.

Each finished seed is kept in ``docs/results/transfer.json`` at once; the same command goes on after it.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from xpcnn import Trainer, data, models, nn, optim
from xpcnn.cli.machine import machine
from xpcnn.data import Dataset
from xpcnn.io import replacing
from xpcnn.train import evaluate

KEPT = Path(__file__).parent.parent / "docs" / "results" / "transfer.json"
OLD, NEW = range(5), range(5, 10)
SCRATCH = "from scratch"


class Way(NamedTuple):
    """Which layers come from the old network, frozen, and whether all are tuned in the end."""

    layers: tuple[str, ...] = ()
    tuned: bool = False


WAYS = {
    SCRATCH: Way(),
    "C1 to S4 frozen": Way(("c1", "s2", "c3", "s4")),
    "C1 to C5 frozen": Way(("c1", "s2", "c3", "s4", "c5")),
    "C1 to C5, then all tuned": Way(("c1", "s2", "c3", "s4", "c5"), tuned=True),
}


@dataclass(frozen=True)
class Plan:
    """How much is trained on what; `epochs` are those after which the accuracies are taken."""

    old_epochs: int = 2
    old_batch: int = 100
    old_lr: float = 1e-3
    each: int = 100
    validation: int = 1_000
    epochs: tuple[int, ...] = (3, 10, 30)
    frozen_epochs: int = 3
    batch: int = 50
    lrs: tuple[float, ...] = (1e-3, 2e-3, 4e-3)


def digits(dataset: Dataset, kinds: range) -> Dataset:
    """Return the images of some digits, labelled from 0."""
    chosen = dataset[np.isin(dataset.labels, kinds)]
    return Dataset(chosen.images, chosen.labels - kinds.start, classes=len(kinds), name=dataset.name)


def accuracy_of(model: nn.Layer, dataset: Dataset) -> float:
    """Return the accuracy on a dataset, to six digits."""
    return round(evaluate(model, dataset).accuracy or 0.0, 6)


def a_few(dataset: Dataset, plan: Plan, seed: int) -> tuple[Dataset, Dataset]:
    """Return as many images of each class, drawn at random, and others to validate on."""
    order = np.random.default_rng(seed).permutation(len(dataset))
    ranks = np.zeros(len(dataset), int)  # of each image, among those of its class
    for label in range(dataset.classes or 0):
        own = dataset.labels[order] == label
        ranks[order[own]] = np.arange(own.sum())
    few = order[ranks[order] < plan.each]
    rest = order[ranks[order] >= plan.each]
    return dataset[few], dataset[rest[: plan.validation]]


def network(seed: int) -> nn.Sequential:
    """Return a new network for five classes."""
    return models.lenet5(classes=5, seed=seed)


def learn(
    way: Way, old: nn.Layer, few: Dataset, plan: Plan, lr: float, seed: int
) -> Iterator[tuple[int, nn.Layer]]:
    """Train a network on the new digits in one of the ways, and yield it after each number of epochs."""
    model = network(seed + 1_000)  # other initial weights than the old network began with
    if way.layers:
        taken = {path: array for path, array in old.state_dict().items() if path.startswith(way.layers)}
        model.load_state_dict(taken, strict=False)
        model.freeze(*(f"{layer}.*" for layer in way.layers))
    trainer, done = Trainer(model, optim.Adam(model, lr=lr), seed=seed), 0
    release = plan.frozen_epochs if way.tuned else 0
    for epochs in sorted({*plan.epochs, *filter(None, [release])}):
        # Of the accuracies that `fit` takes, none is asked for.
        trainer.fit(few, epochs=epochs - done, batch_size=plan.batch, evaluate_samples=1, progress=None)
        done = epochs
        if epochs in plan.epochs:
            yield epochs, model
        if epochs == release:
            model.unfreeze()
            trainer = Trainer(model, optim.Adam(model, lr=lr / 3), seed=seed)


def measure(seed: int, plan: Plan, train_set: Dataset, test_set: Dataset) -> dict[str, Any]:
    """Return what to keep of one seed."""
    begun = time.perf_counter()
    old = network(seed)
    trainer = Trainer(old, optim.Adam(old, lr=plan.old_lr), seed=seed)
    trainer.fit(digits(train_set, OLD), None, plan.old_epochs, plan.old_batch, evaluate_samples=1)
    few, validation = a_few(digits(train_set, NEW), plan, seed)
    test = digits(test_set, NEW)
    found: dict[str, dict[str, dict[str, Any]]] = {}
    for name, way in WAYS.items():
        for lr in plan.lrs:
            for epochs, model in learn(way, old, few, plan, lr, seed):
                accuracies = {"validation": accuracy_of(model, validation), "test": accuracy_of(model, test)}
                found.setdefault(name, {}).setdefault(str(epochs), {})[str(lr)] = accuracies
                print(
                    f"seed {seed}  {name:25s} lr {lr:g}  epoch {epochs:2d}  {accuracies['test']:.2%}",
                    flush=True,
                )
    return {
        "accuracy on the old digits": accuracy_of(old, digits(test_set, OLD)),
        "ways": found,
        "seconds": round(time.perf_counter() - begun),
    }


def load(path: Path, plan: Plan) -> dict[str, Any]:
    """Return what is kept already, if it is of the same plan."""
    fresh = {"plan": json.loads(json.dumps(asdict(plan))), "machine": machine(), "seeds": {}}
    if not path.exists():
        return fresh
    kept: dict[str, Any] = json.loads(path.read_text())
    if kept["plan"] != fresh["plan"]:
        raise SystemExit(f"{path} was measured by another plan; move it away to begin again")
    return kept


def chosen(kept: dict[str, Any], name: str, epochs: int) -> tuple[str, list[float]]:
    """Return the learning rate that validates best in the mean, and each seed's test accuracy with it."""
    found = [kept["seeds"][seed]["ways"][name][str(epochs)] for seed in sorted(kept["seeds"], key=int)]
    lr = max(found[0], key=lambda lr: statistics.fmean(one[lr]["validation"] for one in found))
    return lr, [one[lr]["test"] for one in found]


def table(kept: dict[str, Any]) -> str:
    """Return what is kept as a Markdown table; the spread is the standard deviation over the seeds."""
    seeds = sorted(kept["seeds"], key=int)
    lines = [
        f"| epochs | way | {' | '.join(f'seed {seed}' for seed in seeds)} | mean | spread | gain | lr |",
        "|---" * (len(seeds) + 6) + "|",
    ]
    for epochs in kept["plan"]["epochs"]:
        _, scratch = chosen(kept, SCRATCH, epochs)
        for name, way in WAYS.items():
            if way.tuned and epochs <= kept["plan"]["frozen_epochs"]:
                continue  # it is frozen as yet
            lr, tests = chosen(kept, name, epochs)
            mean = statistics.fmean(tests)
            spread = statistics.stdev(tests) if len(tests) > 1 else 0.0
            points = 100 * (mean - statistics.fmean(scratch))
            gain = "" if name == SCRATCH else f"{points:+.2f}".replace("-", "−")
            cells = [*(f"{test:.2%}" for test in tests), f"**{mean:.2%}**", f"{100 * spread:.2f}", gain, lr]
            lines.append(f"| {epochs} | {name} | {' | '.join(cells)} |")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    parser.add_argument("--table", action="store_true", help="print the table of what is kept and stop")
    options = parser.parse_args()
    plan = Plan()
    kept = load(KEPT, plan)
    if not options.table:
        train_set, test_set = data.mnist()
        for seed in options.seeds:
            if str(seed) not in kept["seeds"]:
                kept["seeds"][str(seed)] = measure(seed, plan, train_set, test_set)
                with replacing(KEPT) as temporary:
                    temporary.write_text(json.dumps(kept, indent=1) + "\n")
    if kept["seeds"]:
        print(table(kept))


if __name__ == "__main__":
    main()
