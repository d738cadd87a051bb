"""LayerNorm, GroupNorm and LocalResponseNorm: initial values, what they show, and their errors."""

from __future__ import annotations

from xpcnn import nn, summary


def test_summary() -> None:
    """Statistics over all pixels let every output see all of them; LRN looks at other channels only."""
    model = nn.Sequential(
        conv=nn.Conv2d(1, 4, 3),
        lrn=nn.LocalResponseNorm(3),
        norm=nn.GroupNorm(2, 4),
        layer=nn.LayerNorm((4, 4, 4)),
    )
    rows = {row.path: row for row in summary(model, (1, 6, 6)).rows}
    assert rows["lrn"][3:] == (0, 0, (3, 3))
    assert rows["norm"][3:] == (8, 0, None)
    assert rows["layer"][3:] == (128, 0, None)
