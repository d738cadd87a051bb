"""How initial values and batch normalisation decide whether a deep network learns: the book's chapter 6.

    python -m benchmarks.convergence            # both comparisons, a few minutes
    python -m benchmarks.convergence --draw     # the pictures of what is kept

Two comparisons on fully connected networks of five hidden layers with 100 relu units each, trained by plain
SGD with a learning rate of 0.01 on real MNIST:

- initial values: standard deviation 0.01, Xavier and He; all images, batches of 128, 2,000 steps;
- batch normalisation: with and without it, for sixteen initial standard deviations from 1 to 0.0001;
  1,000 images, batches of 100, 20 epochs.

The numbers are kept in ``docs/results/convergence.json``, the curves in ``docs/results/convergence-*.png``.

Source of the set-up: Saito, "Deep Learning from Scratch", 2016, sections 6.2 and 6.3.
"""

from __future__ import annotations

import argparse
import itertools
import json
import statistics
import time
from pathlib import Path
from typing import Any

from xpcnn import Trainer, data, nn, optim
from xpcnn.backend import host_generator
from xpcnn.cli.machine import machine
from xpcnn.errors import DivergenceError
from xpcnn.io import replacing

KEPT = Path(__file__).parent.parent / "docs" / "results" / "convergence.json"
UNITS, HIDDEN = 100, 5
INITS: dict[str, float | str] = {"std 0.01": 0.01, "Xavier": "xavier", "He": "he"}
STDS = [10 ** (-4 * i / 15) for i in range(16)]


def network(weight_init: float | str, batch_norm: bool, seed: int) -> nn.Sequential:
    """Return five hidden layers of 100 relu units, with batch normalisation before each relu or without."""
    rng = host_generator(seed)
    layers: dict[str, nn.Layer] = {"flatten": nn.Flatten()}
    for i, inputs in enumerate([28 * 28] + [UNITS] * (HIDDEN - 1), start=1):
        layers[f"fc{i}"] = nn.Linear(inputs, UNITS, weight_init=weight_init, seed=rng)
        if batch_norm:
            layers[f"bn{i}"] = nn.BatchNorm1d(UNITS)
        layers[f"relu{i}"] = nn.ReLU()
    layers[f"fc{HIDDEN + 1}"] = nn.Linear(UNITS, 10, weight_init=weight_init, seed=rng)
    return nn.Sequential(layers)


def compare_inits(train: data.Dataset, steps: int = 2_000) -> dict[str, list[float]]:
    """Return the loss of every step for each kind of initial values."""
    kept = {}
    for name, init in INITS.items():
        model = network(init, batch_norm=False, seed=0)
        trainer = Trainer(model, optim.SGD(model, lr=0.01))
        loader = data.Loader(train, 128, drop_last=True)
        batches = itertools.chain.from_iterable(map(loader.epoch, itertools.count()))
        losses = [float(trainer.step(*batch)) for batch in itertools.islice(batches, steps)]
        kept[name] = [round(loss, 4) for loss in losses]
        print(f"{name:8s}  mean loss of the last 100 steps {statistics.fmean(losses[-100:]):.3f}", flush=True)
    return kept


def compare_batch_norm(train: data.Dataset, epochs: int = 20) -> list[dict[str, Any]]:
    """Return the training accuracy after each epoch, with and without, for every standard deviation."""
    kept = []
    for std in STDS:
        row: dict[str, Any] = {"std": std}
        for batch_norm in (True, False):
            model = network(std, batch_norm, seed=0)
            trainer = Trainer(model, optim.SGD(model, lr=0.01))
            try:
                trainer.fit(train, epochs=epochs, batch_size=100, progress=None)
            except DivergenceError as error:
                print(f"std {std:.4g}: {error}", flush=True)
            row["with" if batch_norm else "without"] = trainer.history.train_accuracy
        kept.append(row)
        last = [f"{row[which][-1]:.1%}" if row[which] else "–" for which in ("with", "without")]
        print(f"std {std:8.4g}  with {last[0]:>6s}  without {last[1]:>6s}", flush=True)
    return kept


def draw(kept: dict[str, Any]) -> None:
    """Draw the curves; lines differ in their strokes, so that they can be told apart in grey."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7, 4.5), layout="constrained")
    axes = figure.add_subplot(xlabel="step", ylabel="training loss, mean of 20 steps", ylim=(0, 2.5))
    for (name, losses), stroke in zip(kept["inits"].items(), ("-", "--", ":"), strict=True):
        smooth = [statistics.fmean(losses[i : i + 20]) for i in range(0, len(losses), 20)]
        axes.plot([20 * i + 10 for i in range(len(smooth))], smooth, stroke, label=name)
    axes.legend()
    axes.grid(alpha=0.3)
    _write(figure, "convergence-init.png")

    figure = Figure(figsize=(10, 9), layout="constrained")
    for i, (row, axes) in enumerate(
        zip(kept["batch_norm"], figure.subplots(4, 4, sharex=True, sharey=True).flat, strict=True)
    ):
        for which, stroke in (("with", "-"), ("without", "--")):
            axes.plot(range(1, len(row[which]) + 1), row[which], stroke, label=f"{which} BatchNorm")
        axes.set(title=f"initial std {row['std']:.2g}", ylim=(0, 1.02), xlim=(1, 20))
        axes.grid(alpha=0.3)
        if i == 0:
            axes.legend(fontsize="small")
    figure.supxlabel("epoch")
    figure.supylabel("accuracy on the 1,000 training images")
    _write(figure, "convergence-batchnorm.png")


def _write(figure: Any, name: str) -> None:
    with replacing(KEPT.with_name(name)) as temporary:
        figure.savefig(temporary, format="png", dpi=90)
    print(KEPT.with_name(name).name)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--draw", action="store_true", help="draw what is kept, without training")
    if not parser.parse_args().draw:
        train, _ = data.mnist()
        begun = time.perf_counter()
        measured: dict[str, Any] = {
            "inits": compare_inits(train),
            "batch_norm": compare_batch_norm(train[:1_000]),
        }
        measured |= {"seconds": round(time.perf_counter() - begun), "machine": machine()}
        with replacing(KEPT) as temporary:
            temporary.write_text(json.dumps(measured) + "\n")
    draw(json.loads(KEPT.read_text()))


if __name__ == "__main__":
    main()
