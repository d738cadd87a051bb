"""Every published model's file: as it was built, and with its structure."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from tests.support.model_cases import ALL, drawn_state, images, narrow, tiny, tiny_shape
from xpcnn import load_model
from xpcnn.nn.spec import spec_of


@pytest.mark.parametrize("how", ["as it was built", "with its structure"])
@pytest.mark.parametrize("name", ALL)
def test_a_file_gives_the_same_bits(tmp_path: Path, name: str, how: str) -> None:
    model = tiny(name, seed=3)
    model.load_state_dict(drawn_state(model))
    if how == "with its structure":
        model.spec = None
    assert (spec_of(model).builder, spec_of(model).missing) == (name if model.spec else None, None)
    model.save(tmp_path / "m.safetensors")
    with narrow():  # for builders; a structure says how wide it is
        again = load_model(tmp_path / "m.safetensors")
    assert repr(again) == repr(model)
    saved = again.state_dict()
    assert {path: array.dtype for path, array in model.state_dict().items()} == {
        path: array.dtype for path, array in saved.items()
    }
    for path, array in model.state_dict().items():
        np.testing.assert_array_equal(saved[path], array)
    x = images(2, *tiny_shape(name))
    np.testing.assert_array_equal(again(x), model(x))
    pixels = np.random.default_rng(0).integers(0, 256, x.shape, dtype=np.uint8)
    np.testing.assert_array_equal(again(pixels), model(pixels))
