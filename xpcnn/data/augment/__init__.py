"""Random changes of images that keep their labels: more training data from the same.

Each transform is called with a batch of images and a random generator or a seed, and returns a changed copy;
`Compose` chains them, and ``parse("shift=2,rotate=10")`` builds a chain from a text. The background is 0, so
augment raw pixels, before subtracting a mean.
"""

from xpcnn.data.augment.compose import Compose, parse
from xpcnn.data.augment.geometric import (
    Elastic,
    HorizontalFlip,
    RandomCrop,
    Rotate,
    Scale,
    Shear,
    Shift,
    VerticalFlip,
)
from xpcnn.data.augment.pixel import Brightness, Cutout

__all__ = [
    "Brightness",
    "Compose",
    "Cutout",
    "Elastic",
    "HorizontalFlip",
    "RandomCrop",
    "Rotate",
    "Scale",
    "Shear",
    "Shift",
    "VerticalFlip",
    "parse",
]
