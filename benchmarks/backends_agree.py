"""Train the same network with the same seed on two backends in float64, and compare the losses of every step.

python -m benchmarks.backends_agree --backends numpy torch --steps 100
"""

from __future__ import annotations

import argparse

import numpy as np

import xpcnn
from xpcnn import Trainer, data, models, optim


def losses(backend: str, steps: int) -> np.ndarray:
    """Return the losses of the first steps of simple_convnet on real MNIST."""
    digits, _ = data.mnist()
    loader = data.Loader(digits, 100, seed=0)
    with xpcnn.use_backend(backend):
        model = models.simple_convnet(dtype="float64")
        trainer = Trainer(model, optim.Adam(model, lr=1e-3))
        batches = (batch for epoch in range(steps) for batch in loader.epoch(epoch))
        return np.array([float(trainer.step(x, t)) for _, (x, t) in zip(range(steps), batches, strict=False)])


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--backends", nargs=2, default=["numpy", "torch"])
    parser.add_argument("--steps", type=int, default=100)
    options = parser.parse_args()
    one, other = (losses(backend, options.steps) for backend in options.backends)
    print(
        f"{' and '.join(options.backends)}, {options.steps} steps of simple_convnet in float64: losses from "
        f"{one[0]:.4f} to {one[-1]:.4f}, largest difference {np.max(np.abs(one - other)):.1e}"
    )


if __name__ == "__main__":
    main()
