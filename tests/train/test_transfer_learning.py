"""The measurement behind the transfer-learning page, in miniature."""

from __future__ import annotations

import json

import pytest

from benchmarks import transfer
from xpcnn import data

TINY = transfer.Plan(each=6, validation=20, epochs=(1, 3), frozen_epochs=2, batch=10, lrs=(1e-3, 3e-3))


@pytest.mark.slow
def test_one_seed_in_miniature() -> None:
    digits = data.synthetic_digits(220)
    found = transfer.measure(0, TINY, digits[:160], digits[160:])
    assert list(found["ways"]) == list(transfer.WAYS)
    for way in found["ways"].values():
        assert list(way) == ["1", "3"]
        assert all(list(rates) == ["0.001", "0.003"] for rates in way.values())
    kept = {"plan": {"epochs": [1, 3], "frozen_epochs": 2}, "seeds": {"0": json.loads(json.dumps(found))}}
    assert transfer.table(kept).count("\n") == 1 + 3 + 4
