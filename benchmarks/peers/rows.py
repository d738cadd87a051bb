"""The rows of the table: what is measured, on which shapes, and what it is meant to reach."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from typing import NamedTuple

from benchmarks.peers import convolutions, networks
from benchmarks.peers.contest import Calls
from benchmarks.peers.process import PeerProcess
from xpcnn.bench.geometries import CONVOLUTIONS, NETWORKS, NetworkCase
from xpcnn.ops import ConvGeometry

__all__ = [
    "CONTESTS",
    "CONVOLUTION",
    "CONVOLUTION_WANTED",
    "EVALUATION",
    "MEMORY",
    "MOST_EVALUATION_MB",
    "MOST_MEMORY",
    "NAMES",
    "SCALING",
    "STRAIGHTFORWARD",
    "ContestRow",
    "chosen",
]


class ContestRow(NamedTuple):
    """One contest.

    Attributes
    ----------
    work : str
    prepare : callable
        Takes PyTorch's process; returns the calls, verified, and how far their results are apart.
    wanted : mapping of int to float
        The ratio that is to be reached, by the number of threads.
    """

    work: str
    prepare: Callable[[PeerProcess], tuple[Calls, float]]
    wanted: Mapping[int, float]


_SIMPLE, _DEEP, _RESNET = (NETWORKS[name] for name in ("simple_convnet", "deep_convnet", "resnet18-cifar"))
_THOUSAND = _DEEP._replace(shape=(1000, *_DEEP.shape[1:]))

CONVOLUTION = "conv"
CONVOLUTION_WANTED: Mapping[int, float] = {1: 0.85, 2: 0.90}
"""Of the geometric mean of the ratios."""

_SHAPES: Mapping[str, ConvGeometry] = {
    **{name: CONVOLUTIONS[name] for name in ("56x56", "28x28", "14x14")},
    "32x32": ConvGeometry.of((32, 64, 32, 32), (64, 64, 3, 3), 1, 1),
}


STRAIGHTFORWARD = networks.STRAIGHTFORWARD

CONTESTS: Mapping[str, ContestRow] = {
    "simple": ContestRow(
        "simple_convnet, training step, batch 100", partial(networks.training, _SIMPLE), {1: 0.90, 2: 1.0}
    ),
    "deep": ContestRow(
        "deep_convnet, training step, batch 100", partial(networks.training, _DEEP), {1: 1.30, 2: 1.30}
    ),
    "inference": ContestRow(
        "deep_convnet, inference, 1,000 images", partial(networks.inference, _THOUSAND), {1: 1.25, 2: 1.25}
    ),
    "resnet": ContestRow(
        "resnet18 (CIFAR stem), training step, batch 32",
        partial(networks.training, _RESNET),
        {1: 1.0, 2: 1.0},
    ),
    **{
        f"{CONVOLUTION}-{name}": ContestRow(
            f"3×3 convolution, forward and backward, {'×'.join(map(str, geometry.input_shape))}",
            partial(convolutions.forward_backward, geometry),
            {},
        )
        for name, geometry in _SHAPES.items()
    },
    STRAIGHTFORWARD: ContestRow(
        "deep_convnet, training step, beside straightforward float64 NumPy",
        partial(networks.beside_straightforward, _DEEP),
        {1: 1 / 7, 2: 1 / 7},
    ),
}

SCALING: Mapping[str, tuple[str, NetworkCase]] = {"linear": ("deep_convnet, inference", _DEEP)}

MEMORY: Mapping[str, tuple[str, NetworkCase]] = {
    "memory-deep": ("deep_convnet, training step, batch 100", _DEEP),
    "memory-resnet": ("resnet18 (CIFAR stem), training step, batch 32", _RESNET),
}
MOST_MEMORY = 1.5
"""The peak of a step by its contexts."""

EVALUATION = "evaluation"
MOST_EVALUATION_MB = 150

NAMES = (*CONTESTS, *SCALING, *MEMORY, EVALUATION)


def chosen(text: str) -> tuple[str, ...]:
    """Return the rows that are named, with commas between them; ``conv`` and ``memory`` name several.

    Raises
    ------
    ValueError
        For a name that is none.

    Examples
    --------
    >>> chosen("memory,simple")
    ('simple', 'memory-deep', 'memory-resnet')
    """
    found = set()
    for name in text.split(","):
        several = {row for row in NAMES if row == name or row.startswith(f"{name}-")}
        if not several:
            raise ValueError(f"{name!r} is no row; there are conv, memory, {', '.join(NAMES)}")
        found |= several
    return tuple(row for row in NAMES if row in found)
