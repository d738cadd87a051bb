"""Whether a model may be run on parts of a batch, one after the other or side by side."""

from __future__ import annotations

from xpcnn.nn.layer import Layer

__all__ = ["is_per_sample"]


def is_per_sample(layer: Layer, *, train: bool) -> bool:
    """Return whether each sample's result depends on that sample alone, in `layer` and all its children.

    A layer must say so (`Layer.per_sample`), in the class that defines its `forward` (of a `Stateless`, its
    `op`) or in one derived from that: a subclass with another one may do something else.

    Examples
    --------
    >>> from xpcnn import nn
    >>> model = nn.Sequential(nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4))
    >>> nn.is_per_sample(model, train=False), nn.is_per_sample(model, train=True)
    (True, False)
    """
    lineage = type(layer).__mro__
    says = next(i for i, kind in enumerate(lineage) if "per_sample" in vars(kind))
    does = next(i for i, kind in enumerate(lineage) if not vars(kind).keys().isdisjoint(("forward", "op")))
    if not layer.per_sample or says > does or (train and layer.batch_statistics):
        return False
    return all(is_per_sample(child, train=train) for child in layer.children().values())
