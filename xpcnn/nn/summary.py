"""A table of a model's layers: output shapes, parameters, multiply-accumulates, receptive fields."""

from __future__ import annotations

import math
from typing import NamedTuple

from xpcnn.errors import ArgumentError
from xpcnn.nn.layer import Layer, ReceptiveField
from xpcnn.ops.op import sizes

__all__ = ["Summary", "SummaryRow", "summary"]


class SummaryRow(NamedTuple):
    """One layer. `receptive_field` is (height, width) in input pixels, None where it is the whole input."""

    path: str
    kind: str
    output_shape: tuple[int, ...]
    parameters: int
    macs: int
    receptive_field: tuple[int, int] | None


class Summary(NamedTuple):
    """The rows and totals of `summary`; printing it draws the table."""

    rows: tuple[SummaryRow, ...]
    parameters: int
    trainable_parameters: int
    macs: int

    def __str__(self) -> str:
        lines = [("layer", "kind", "output shape", "parameters", "MACs", "sees")]
        for path, kind, shape, parameters, macs, field in self.rows:
            seen = "all" if field is None else "x".join(map(str, field))
            lines.append((path or "(model)", kind, str(shape), f"{parameters:,}", f"{macs:,}", seen))
        widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
        layout = "  ".join(f"{{:{'<' if i < 3 else '>'}{width}}}" for i, width in enumerate(widths))
        table = [layout.format(*line).rstrip() for line in lines]
        table.insert(1, "-" * max(map(len, table)))
        total = (
            f"{self.parameters:,} parameters ({self.trainable_parameters:,} trainable), "
            f"{self.macs:,} MACs for each input"
        )
        return "\n".join([*table, total])


def summary(model: Layer, input_shape: tuple[int, ...]) -> Summary:
    """Return a table of what a model's layers do to one input.

    Parameters
    ----------
    model : Layer
    input_shape : (C, H, W)
        Of one input, without the batch axis.

    Returns
    -------
    Summary
        ``print(summary(...))`` shows it.

    Examples
    --------
    >>> from xpcnn import nn
    >>> model = nn.Sequential(conv1=nn.Conv2d(1, 4, 3), pool1=nn.MaxPool2d(2))
    >>> print(summary(model, (1, 8, 8)))
    layer  kind       output shape  parameters   MACs  sees
    -------------------------------------------------------
    conv1  Conv2d     (4, 6, 6)             40  1,296   3x3
    pool1  MaxPool2d  (4, 3, 3)              0      0   4x4
    40 parameters (40 trainable), 1,296 MACs for each input
    """
    if not isinstance(model, Layer):
        raise ArgumentError(f"summary: model must be a Layer, got {type(model).__name__}")
    shape = sizes("summary", "input_shape", input_shape)
    backend = model.backend
    dtypes = [parameter.dtype for parameter in model.parameters().values()]
    dtype = dtypes[0] if dtypes else backend.xp.float32
    x = backend.xp.zeros((1, *shape), dtype=dtype, device=backend.device)
    _, _, trace = model.trace(x, "", ReceptiveField())
    rows: list[SummaryRow] = []
    counted: set[int] = set()
    for step in trace:
        own = {id(p): p for p in step.layer.parameters().values() if id(p) not in counted}
        counted.update(own)
        rows.append(
            SummaryRow(
                step.path,
                type(step.layer).__name__,
                step.output_shape[1:],
                sum(math.prod(p.shape) for p in own.values()),
                step.macs,
                None if step.field is None else step.field.size,
            )
        )
    everything = {id(p): p for p in model.parameters().values()}.values()
    return Summary(
        tuple(rows),
        sum(math.prod(p.shape) for p in everything),
        sum(math.prod(p.shape) for p in everything if p.trainable),
        sum(row.macs for row in rows),
    )
