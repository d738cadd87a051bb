"""Arrays put in order."""

from __future__ import annotations

import numpy as np
import pytest

from tests.support.cpu import draw, readonly
from xpcnn.backend.cpu.parallel import dense


@pytest.mark.parametrize(
    "shape", [(), (0, 3), (7,), (3, 2), (2, 3, 4, 5), (300, 200, 3, 3), (65, 9000)], ids=str
)
def test_dense(shape: tuple[int, ...], dtype: str) -> None:
    x = draw(*shape, dtype=dtype)
    x = np.asarray(x)
    assert dense(x) is x
    turned = readonly(np.array(x.transpose(), order="C")).transpose()
    found = dense(turned)
    assert found.flags.c_contiguous
    assert found.dtype == x.dtype
    assert np.array_equal(found, x)
    if x.ndim > 1 and x.size:
        assert not np.shares_memory(found, turned)
