"""Train tiny_convnet's network by SGD, one image at a time, in plain PyTorch operations without autograd.

    python -m benchmarks.tiny_in_torch --seed 0

A second opinion on what the recipe ``tiny-60000`` of `benchmarks.published` can reach: the same initial
weights and the same gradients (the first maximum of a window takes its own), written independently. With
``--same-order`` the samples come in the same order too, so that the two should agree but for rounding.
"""

from __future__ import annotations

import argparse

import numpy as np
import torch
from torch.nn import functional

from xpcnn import data


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--epochs", type=int, default=3)
    parser.add_argument("--lr", type=float, default=0.005)
    parser.add_argument("--same-order", action="store_true")
    options = parser.parse_args()
    torch.set_num_threads(1)
    rng = np.random.default_rng(options.seed)
    train, test = data.mnist()
    loader = data.Loader(train, batch_size=1, seed=options.seed)
    filters = torch.tensor(rng.standard_normal((8, 1, 3, 3)) / 9, dtype=torch.float32)
    weight = torch.tensor(rng.standard_normal((10, 1352)) / 1352, dtype=torch.float32)
    bias = torch.zeros(10)

    def scaled(images: np.ndarray) -> torch.Tensor:
        return torch.from_numpy(images).float() / 255 - 0.5

    images, labels = scaled(train.images), torch.from_numpy(train.labels)
    for epoch in range(1, options.epochs + 1):
        for i in loader.order(epoch - 1) if options.same_order else rng.permutation(len(train)):
            x = images[i : i + 1]
            windows = (
                functional.conv2d(x, filters)
                .view(8, 13, 2, 13, 2)
                .permute(0, 1, 3, 2, 4)
                .reshape(8, 13, 13, 4)
            )
            place = windows.argmax(-1)
            pooled = windows.gather(-1, place[..., None]).reshape(-1)
            dlogits = torch.softmax(weight @ pooled + bias, 0)
            dlogits[labels[i]] -= 1
            dwindows = functional.one_hot(place, 4) * (weight.T @ dlogits).view(8, 13, 13, 1)
            dy = dwindows.view(8, 13, 13, 2, 2).permute(0, 1, 3, 2, 4).reshape(8, 676)
            weight -= options.lr * torch.outer(dlogits, pooled)
            bias -= options.lr * dlogits
            filters -= options.lr * (dy @ functional.unfold(x, 3)[0].T).view(8, 1, 3, 3)
        pooled = functional.max_pool2d(functional.conv2d(scaled(test.images), filters), 2).flatten(1)
        right = (pooled @ weight.T + bias).argmax(1) == torch.from_numpy(test.labels)
        print(f"seed {options.seed}, epoch {epoch}: test {right.float().mean().item():.2%}", flush=True)


if __name__ == "__main__":
    main()
