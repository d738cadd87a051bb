"""Train an ensemble of augmented deep_convnets on MNIST from scratch, and test it.

    python -m benchmarks.ensemble runs/ensemble                  # five members, 30 epochs each
    python -m benchmarks.ensemble runs/ensemble --processes 1    # one after the other

Each member is a run of ``xpcnn train`` in a process of its own. Its seed, 0, 1, 2 and so on, decides initial
weights, order, augmentation and masks; every second one sees images that are changed more, so that they err
on different images. The weights after the last step are taken, averaged over the steps; no epoch is chosen by
the test set.

Killed at any moment, or stopped by Ctrl-C, the same command goes on where it was, and ends with the same bits
as if it had not stopped. In the end OUT_DIR holds results.json and results.md, ensemble.safetensors, which
`xpcnn evaluate` and `xpcnn predict` read, and a log of each member.
"""

from __future__ import annotations

import argparse
import os
import shlex
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from xpcnn import get_num_threads, nn
from xpcnn.backend.threads import THREADS_VARIABLE
from xpcnn.cli.machine import machine
from xpcnn.cli.models import first
from xpcnn.cli.options import count
from xpcnn.cli.settings import Settings
from xpcnn.data import load_dataset
from xpcnn.io import replacing, write_json
from xpcnn.train import Evaluation, RunDirectory, evaluate, load_model

ROOT = Path(__file__).parent.parent

# docs/results.md says how these were chosen.
RECIPE = """--dataset mnist --model deep_convnet --model-option filters=16,48,96 --model-option hidden=200
    --model-option dropout=0 --model-option batch_norm=true --optimizer adam --lr 4e-3 --epochs 30
    --batch-size 100 --schedule one-cycle --average 0.999 --evaluate-samples 1000"""
AUGMENT = (
    "shift=2,rotate=10,scale=0.1,shear=5,elastic=12:4",
    "shift=2,rotate=15,scale=0.15,shear=10,elastic=30:5",
)
"""Of the members in turns."""
VOTE = "geometric"
"""How they answer together."""


class MemberError(Exception):
    """A member whose training failed."""


def train(folders: Sequence[Path], processes: int, recipe: str = RECIPE) -> None:
    """Train all members to their end, some at a time, from where they stand.

    Raises
    ------
    MemberError
        When one of them fails. The others are stopped; so they are by Ctrl-C, once they have saved.
    """
    waiting, running = list(enumerate(folders)), dict[int, subprocess.Popen[bytes]]()
    alone = len(folders) % processes  # in the end, which have the threads of all
    try:
        while waiting or running:
            while waiting and len(running) < processes:
                seed, folder = waiting.pop(0)
                at_a_time = alone if seed >= len(folders) - alone else processes
                running[seed] = start(folder, seed, max(1, get_num_threads() // at_a_time), recipe)
            for seed, process in list(running.items()):
                if process.poll() is not None:
                    process.communicate()
                    del running[seed]
                    if process.returncode:
                        raise MemberError(f"member {seed} failed; see {log_of(folders[seed])}")
                    print(f"member {seed} is trained", file=sys.stderr, flush=True)
            time.sleep(0.1)
    finally:
        for process in running.values():
            assert process.stdin is not None
            process.stdin.close()  # it saves
        for process in running.values():
            process.wait()


def start(folder: Path, seed: int, threads: int, recipe: str) -> subprocess.Popen[bytes]:
    """Start a member, or go on with it."""
    new = f"train --out {shlex.quote(str(folder))} --seed {seed} --augment {AUGMENT[seed % 2]} {recipe}"
    goes_on = ["train", "--resume", str(folder)]
    arguments = goes_on if RunDirectory(folder).config_file.exists() else shlex.split(new)
    one_thread = {f"{library}_NUM_THREADS": "1" for library in ("OPENBLAS", "MKL", "OMP")}
    path = os.pathsep.join([str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])])
    with log_of(folder).open("ab") as log:
        return subprocess.Popen(
            [sys.executable, "-m", "benchmarks.ensemble_member", *arguments],
            env={**os.environ, **one_thread, THREADS_VARIABLE: str(threads), "PYTHONPATH": path},
            stdin=subprocess.PIPE,
            stdout=log,
            stderr=log,
            start_new_session=True,  # a terminal's Ctrl-C is for the command alone, which ends its members
        )


def log_of(folder: Path) -> Path:
    """Return the file that has what a member printed."""
    return folder.with_suffix(".log")


def measure(out: Path, folders: Sequence[Path]) -> dict[str, Any]:
    """Return what there is to keep of trained members, and save them as one model."""
    runs = [RunDirectory(folder) for folder in folders]
    settings = [Settings.of_run(run.config(), run.config_file) for run in runs]
    images = first(load_dataset(settings[0].dataset)[1], settings[0].test_samples, "test_samples")
    models = [load_model(folder) for folder in folders]
    together = nn.Ensemble(*models, vote=VOTE)
    together.save(out / "ensemble.safetensors")
    members = [
        {
            "seed": one.seed,
            "augment": one.augment,
            **figures(evaluate(model, images)),
            "training_seconds": round(run.history().seconds, 1),
        }
        for one, run, model in zip(settings, runs, models, strict=True)
    ]
    return {
        "recipe": RECIPE.split(),
        "members": members,
        "ensemble": figures(evaluate(together, images)),
        "mean": figures(evaluate(nn.Ensemble(*models), images)),
        "training_seconds": round(sum(member["training_seconds"] for member in members), 1),
        "machine": machine(),
    }


def figures(evaluation: Evaluation) -> dict[str, Any]:
    """Return what is kept of an evaluation."""
    counts = {"correct": evaluation.correct, "samples": evaluation.samples}
    return {"test_accuracy": evaluation.accuracy, **counts}


def table(results: dict[str, Any]) -> str:
    """Return results as a Markdown table."""
    lines = ["| | test accuracy | wrong | training |", "|---|---|---|---|"]
    rows = {f"seed {one['seed']}, {one['augment']}": one for one in results["members"]}
    every = {"training_seconds": results["training_seconds"]}
    rows["**all, geometric mean of the probabilities**"] = {**results["ensemble"], **every}
    rows["all, mean of the probabilities"] = {**results["mean"], **every}
    for name, row in rows.items():
        wrong = f"{row['samples'] - row['correct']} of {row['samples']:,}"
        minutes = row["training_seconds"] / 60
        lines.append(f"| {name} | {row['test_accuracy']:.2%} | {wrong} | {minutes:.0f} min |")
    return "\n".join(lines)


def main(arguments: Sequence[str] | None = None, recipe: str = RECIPE) -> int:
    """Run the command; `recipe` is what it trains: options of ``xpcnn train``."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.ensemble",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("out", type=Path, metavar="OUT_DIR", help="where to keep everything")
    parser.add_argument("--members", type=count, default=5, metavar="N", help="(default: 5)")
    parser.add_argument(
        "--processes",
        type=count,
        metavar="N",
        help="members trained at a time; they share the threads (default: one a thread, which are as many as "
        "$XPCNN_NUM_THREADS says or there are cores). The results do not depend on it",
    )
    options = parser.parse_args(arguments)
    folders = [options.out.resolve() / f"member-{number}" for number in range(options.members)]
    options.out.mkdir(parents=True, exist_ok=True)
    try:
        train(folders, min(options.processes or get_num_threads(), options.members), recipe)
    except KeyboardInterrupt:
        print("interrupted; the same command goes on", file=sys.stderr)
        return 130
    except MemberError as error:
        print(f"{parser.prog}: error: {error}", file=sys.stderr)
        return 1
    results = measure(options.out, folders)
    with replacing(options.out / "results.md") as temporary:
        temporary.write_text(table(results) + "\n", encoding="utf-8")
    write_json(options.out / "results.json", results)
    print(table(results))
    return 0


if __name__ == "__main__":
    sys.exit(main())
