"""The kernel of ``images.cu``: the bits of the portable function."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import xpcnn
from tests.support.cuda import Array, Target
from xpcnn import Trainer, data, models, optim
from xpcnn.backend.cuda import images as kernels
from xpcnn.data.augment import parse
from xpcnn.nn.preprocess import scaled_images

ONE = ((1 / 255,), (0.0,))
SHIFTED = ((1 / (255 * 0.3081),), (0.1307 / 0.3081,))
EACH = (
    tuple(1 / (255 * std) for std in (0.247, 0.243, 0.262)),
    tuple(mean / 0.25 for mean in (0.491, 0.482, 0.447)),
)


def draw_bytes(*shape: int) -> Array:
    return np.random.default_rng([*shape]).integers(0, 256, shape, dtype=np.uint8)


def same_bits(target: Target, got: Any, expected: Any) -> None:
    assert xpcnn.backend_of(got).name == target.backend
    assert str(got.dtype) == str(expected.dtype) == target.dtype
    assert got.shape == expected.shape
    np.testing.assert_array_equal(target.wide(got), target.wide(expected))


def dtype_of(target: Target) -> Any:
    return target.array([0.0]).dtype


@pytest.mark.parametrize("constants", [ONE, SHIFTED], ids=["0 to 1", "shifted"])
@pytest.mark.parametrize("shape", [(2, 1, 28, 28), (3, 3, 5, 7), (5, 6), (4,), (0, 1, 3, 3)], ids=str)
def test_bytes_become_numbers(target: Target, shape: tuple[int, ...], constants: Any) -> None:
    x = target.array(draw_bytes(*shape), "uint8")
    got = target.kernel("scaled_images")(x, *constants, dtype_of(target))
    same_bits(target, got, scaled_images.portable(x, *constants, dtype_of(target)))


def test_every_byte(target: Target) -> None:
    """Against the formula in float64."""
    x = target.array(np.arange(256, dtype=np.uint8), "uint8")
    got = target.wide(target.kernel("scaled_images")(x, *SHIFTED, dtype_of(target)))
    expected = (np.arange(256) / 255 - 0.1307) / 0.3081
    steps = {"float64": 52, "float32": 23, "float16": 10, "bfloat16": 7}[target.dtype]
    np.testing.assert_allclose(got, expected, rtol=0, atol=4 * 2.0**-steps)


def test_each_channel_its_own(target: Target) -> None:
    x = target.array(draw_bytes(2, 3, 5, 4), "uint8")
    got = target.kernel("scaled_images")(x, *EACH, dtype_of(target))
    same_bits(target, got, scaled_images.portable(x, *EACH, dtype_of(target)))


def test_images_with_gaps(target: Target) -> None:
    x = target.array(draw_bytes(4, 6, 8, 10), "uint8")[:2, ::2, ::-1, ::2]
    got = target.kernel("scaled_images")(x, *EACH, dtype_of(target))
    same_bits(target, got, scaled_images.portable(x, *EACH, dtype_of(target)))


def test_64_bit_places(target: Target, monkeypatch: pytest.MonkeyPatch) -> None:
    arguments = target.array(draw_bytes(3, 3, 6, 5), "uint8"), *EACH, dtype_of(target)
    expected = target.kernel("scaled_images")(*arguments)
    monkeypatch.setattr(kernels, "index_type", lambda count: "long long")
    same_bits(target, target.kernel("scaled_images")(*arguments), expected)


def test_what_the_kernel_leaves_to_the_portable_function(target: Target) -> None:
    x = target.array(draw_bytes(2, 1, 3, 3), "uint8")
    assert target.kernel("scaled_images")(target.array([1.0]), *ONE, dtype_of(target)) is NotImplemented
    assert target.kernel("scaled_images")(x, *ONE, x.dtype) is NotImplemented


@pytest.mark.parametrize("chain", ["crop=2,hflip", "crop=1,shift=0.5"])
def test_training_with_augmentation(target: Target, chain: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Images are changed on the host, and the run is the same with and without the kernel, to the bit."""
    digits, weights = data.synthetic_digits(60), []
    for found in (kernels.KERNELS, {}):
        with xpcnn.use_backend(target.backend) as backend, monkeypatch.context() as patch:
            patch.setattr(backend, "kernels", found)
            model = models.tiny_convnet().to(dtype=target.dtype)
            trainer = Trainer(model, optim.SGD(model, lr=0.1), seed=3)
            trainer.fit(digits, epochs=2, batch_size=25, augment=parse(chain), progress=None)
        weights.append({path: xpcnn.to_numpy(array) for path, array in model.state_dict().items()})
    for path, array in weights[0].items():
        np.testing.assert_array_equal(array, weights[1][path])
