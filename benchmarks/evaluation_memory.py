"""Measure what evaluating 10,000 images in one call adds to the resting process.

    python -m benchmarks.evaluation_memory

The resting process holds the images and the model, and has evaluated one image, so the libraries are loaded.
"""

from __future__ import annotations

import argparse
import resource

from xpcnn import data, models
from xpcnn.train import evaluate

MEGABYTE = 1 << 20


def peak_bytes() -> int:
    """Return the most memory this process has ever held (the kernel counts in KiB)."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def resting_bytes() -> int:
    """Return what this process holds now."""
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * resource.getpagesize()


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model", default="simple_convnet", choices=models.model_names())
    parser.add_argument("--samples", type=int, default=10_000)
    options = parser.parse_args()
    model = models.build(options.model)
    digits = data.synthetic_digits(options.samples)
    evaluate(model, digits[:1])
    rest = resting_bytes()
    result = evaluate(model, digits)
    added = (peak_bytes() - rest) / MEGABYTE
    print(f"{options.model}: {result.samples:,} images evaluated, {added:.0f} MB above the resting process")


if __name__ == "__main__":
    main()
