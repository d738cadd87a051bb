"""Time a training step of simple_convnet on NumPy beside PyTorch eager, in one run, on the same threads.

    python -m benchmarks.against_torch --threads 1 --out docs/benchmarks/results/simple_convnet-cpu.json

Losses and gradients are compared before anything is timed. The contenders take turns, block by block, so
that a machine whose speed drifts slows them alike; the ratio is of medians, with the spread of the blocks.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--batch", type=int, default=100)
    parser.add_argument("--blocks", type=int, default=15)
    parser.add_argument("--steps", type=int, default=20, help="steps in a block")
    parser.add_argument("--out", type=Path, help="add the result to this JSON file")
    options = parser.parse_args()
    for library in ("OPENBLAS", "MKL", "OMP"):  # read when NumPy is first imported
        os.environ[f"{library}_NUM_THREADS"] = str(options.threads)
    result = compare(options.threads, options.batch, options.blocks, options.steps)
    print(json.dumps(result, indent=1))
    if options.out is not None:
        kept = json.loads(options.out.read_text()) if options.out.exists() else []
        options.out.parent.mkdir(parents=True, exist_ok=True)
        options.out.write_text(json.dumps([*kept, result], indent=1) + "\n")


def compare(threads: int, batch: int, blocks: int, steps: int) -> dict[str, Any]:
    """Return the medians and ratios, after checking that all contenders compute the same."""
    import numpy as np
    import torch

    from xpcnn import Trainer, models, optim
    from xpcnn.bench.machine import machine

    torch.set_num_threads(threads)
    rng = np.random.default_rng(0)
    images = rng.random((batch, 1, 28, 28), dtype=np.float32)
    labels = rng.integers(0, 10, batch)
    model = models.simple_convnet()
    state = model.state_dict()

    contenders: dict[str, Callable[[], float]] = {}
    trainer = Trainer(model, optim.Adam(model, lr=1e-3))
    contenders["xpcnn on numpy"] = lambda: float(trainer.step(images, labels))
    for layout in ("contiguous_format", "channels_last"):
        for fused in (False, True):
            name = f"torch {layout}{' fused Adam' if fused else ''}"
            contenders[name] = _torch_step(state, images, labels, layout, fused)

    first = {name: [step() for _ in range(5)] for name, step in contenders.items()}
    for name, losses in first.items():
        np.testing.assert_allclose(losses, first["xpcnn on numpy"], rtol=2e-5, err_msg=name)

    seconds: dict[str, list[float]] = {name: [] for name in contenders}
    for _ in range(blocks):
        for name, step in contenders.items():
            begun = time.perf_counter()
            for _ in range(steps):
                step()
            seconds[name].append((time.perf_counter() - begun) / steps)
    medians = {name: statistics.median(times) for name, times in seconds.items()}
    ours = medians.pop("xpcnn on numpy")
    best = min(medians, key=lambda name: medians[name])
    pairs = [a / b for a, b in zip(seconds["xpcnn on numpy"], seconds[best], strict=True)]
    return {
        "what": f"simple_convnet training step, batch {batch}, float32, Adam",
        "threads": threads,
        "xpcnn_ms": round(1e3 * ours, 3),
        "torch_ms": {name: round(1e3 * median, 3) for name, median in medians.items()},
        "fastest_torch": best,
        "ratio": round(ours / medians[best], 3),
        "ratio_of_blocks": [round(min(pairs), 3), round(max(pairs), 3)],
        "machine": machine(),
    }


def _torch_step(state: Any, images: Any, labels: Any, layout: str, fused: bool) -> Callable[[], float]:
    """Return a training step of the same network, written in PyTorch."""
    import torch
    from torch import nn

    network = nn.Sequential(
        nn.Conv2d(1, 30, 5), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten(),
        nn.Linear(4320, 100), nn.ReLU(), nn.Linear(100, 10),
    )  # fmt: skip
    for target, value in zip(network.state_dict().values(), state.values(), strict=True):
        target.copy_(torch.from_numpy(value))
    memory_format = getattr(torch, layout)
    network = network.to(memory_format=memory_format)
    x = torch.from_numpy(images).to(memory_format=memory_format)
    t = torch.from_numpy(labels)
    optimizer = torch.optim.Adam(network.parameters(), lr=1e-3, fused=fused)
    criterion = nn.CrossEntropyLoss()

    def step() -> float:
        optimizer.zero_grad()
        loss = criterion(network(x), t)
        loss.backward()
        optimizer.step()
        return float(loss.detach())

    return step


if __name__ == "__main__":
    main()
