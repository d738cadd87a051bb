"""What prepares a picture is noted with the model: the same answers for a picture's file as for its array."""

from __future__ import annotations

import tracemalloc
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.cli.conftest import Run
from xpcnn import Trainer, load_model, models, optim
from xpcnn.cli.images import prepare
from xpcnn.data import Dataset, synthetic_digits
from xpcnn.errors import ArgumentError, CheckpointError, DatasetError
from xpcnn.io import load_arrays, save_arrays
from xpcnn.nn.spec import PREPARATIONS

Image = pytest.importorskip("PIL.Image")

Pixels = np.ndarray[Any, Any]
SCALED = [name for name in PREPARATIONS if name != "mnist-digit"]


def saved(path: Path, image: Any, **options: Any) -> Path:
    (Image.fromarray(image) if isinstance(image, np.ndarray) else image).save(path, **options)
    return path


def shown(image: Pixels) -> Pixels:
    """(C, H, W) as Pillow has it."""
    return np.ascontiguousarray(image[0] if len(image) == 1 else image.transpose(1, 2, 0))


# -- as trained, so predicted ------------------------------------------------------------


def off_centre(rng: np.random.Generator, n: int) -> tuple[Pixels, Pixels]:
    """28×28 grey: the class is the corner that a square is in."""
    t = np.arange(n) % 4
    x = np.zeros((n, 1, 28, 28), np.uint8)
    for i, k in enumerate(t):
        row, column = rng.integers(0, 5, 2) + np.array([k // 2 * 14, k % 2 * 14])
        x[i, 0, row : row + 9, column : column + 9] = rng.integers(120, 256)
    return x, t


def in_colour(rng: np.random.Generator, n: int) -> tuple[Pixels, Pixels]:
    """20×24 in colour: the class is the channel that is brightest, but in noise."""
    t = np.arange(n) % 3
    x = rng.integers(0, 160, (n, 3, 20, 24))
    x[np.arange(n), t] += 60
    return x.astype(np.uint8), t


@pytest.mark.slow
@pytest.mark.parametrize(
    ("kind", "preparation"),
    [(off_centre, None), (off_centre, "squash"), (in_colour, None), (in_colour, "pad")],
)
def test_pictures_are_answered_as_their_arrays(
    tmp_path: Path, xpcnn_command: Run, kind: Any, preparation: str | None
) -> None:
    rng = np.random.default_rng(1)
    (x, t), (x_test, t_test) = kind(rng, 240), kind(rng, 60)
    model = models.tiny_convnet(input_shape=x.shape[1:], classes=int(t.max()) + 1, seed=0)
    trainer = Trainer(model, optim.Adam(model, lr=0.02))
    trainer.fit(Dataset(x, t, preparation=preparation), epochs=8, batch_size=20, progress=None)
    right = trainer.evaluate(Dataset(x_test, t_test)).correct
    assert right >= 48  # else the test says little
    model.save(tmp_path / "m.safetensors")
    assert load_model(tmp_path / "m.safetensors").spec.preparation == (preparation or "crop")
    for times in (1, 2):
        folder = tmp_path / str(times)
        folder.mkdir()
        for i, image in enumerate(x_test):
            saved(folder / f"{i:03}.png", shown(image.repeat(times, axis=1).repeat(times, axis=2)))
        status, out, err = xpcnn_command("predict", "--model", tmp_path / "m.safetensors", folder)
        assert (status, err) == (0, "")
        answers = np.array([int(line.split(": ")[1].split()[0]) for line in out.splitlines()])
        assert (answers == t_test).sum() == right


@pytest.mark.slow
@pytest.mark.parametrize("name", ["synthetic", "mnist"])
def test_digits_come_through_unchanged(tmp_path: Path, name: str) -> None:
    """At their size and with pixels repeated, white on black and black on white: so is each answer."""
    if name == "synthetic":
        digits = synthetic_digits(60, seed=7)
    else:
        from xpcnn.data import mnist

        try:
            digits = mnist()[1][:60]
        except DatasetError as error:
            pytest.skip(f"no MNIST here: {error}")
    for number, image in enumerate(digits.images[:, 0]):
        times = (1, 2, 11)[number % 3]
        for picture in (image, 255 - image):
            path = saved(tmp_path / "digit.png", picture.repeat(times, axis=0).repeat(times, axis=1))
            np.testing.assert_array_equal(prepare(path, (1, 28, 28), "mnist-digit").pixels[0], image)


def test_what_a_model_notes(tmp_path: Path) -> None:
    model = models.tiny_convnet(seed=0)
    Trainer(model, optim.SGD(model, lr=0.1)).fit(synthetic_digits(10), epochs=1, progress=None)
    file = tmp_path / "m.npz"
    model.save(file)
    assert load_model(file).spec.preparation == "mnist-digit"
    arrays, metadata = load_arrays(file)
    save_arrays(file, arrays, {**metadata, "spec": metadata["spec"].replace('"mnist-digit"', '"stretch"')})
    with pytest.raises(CheckpointError, match="description is unreadable"):
        load_model(file)
    with pytest.raises(ArgumentError, match=r"Dataset: preparation must be None or one of .*'stretch'"):
        Dataset(np.zeros((1, 1, 4, 4), np.uint8), np.zeros(1, int), preparation="stretch")
    for shape, preparation, message in (
        ((1, 28, 28), "stretch", r"'stretch'.*mnist-digit, crop, pad, squash"),
        ((3, 32, 32), "mnist-digit", r"mnist-digit prepares images \(1, 28, 28\), and the mod"),
    ):
        with pytest.raises(ArgumentError, match=message):
            prepare(tmp_path / "p.png", shape, preparation)


# -- scaling -----------------------------------------------------------------------------


@pytest.mark.parametrize("preparation", SCALED)
@pytest.mark.parametrize("shape", [(1, 28, 28), (3, 20, 25), (1, 7, 3)])
def test_means_of_blocks(tmp_path: Path, preparation: str, shape: tuple[int, int, int]) -> None:
    """Pictures of k times the size are exact means of k×k pixels; k = 1 is the picture itself."""
    channels, height, width = shape
    rng = np.random.default_rng(0)
    for times in (1, 2, 3):
        image = rng.integers(0, 256, (channels, height * times, width * times)).astype(np.uint8)
        result = prepare(saved(tmp_path / "p.png", shown(image)), shape, preparation)
        blocks = image.reshape(channels, height, times, width, times).astype(float)
        error = np.abs(result.pixels - blocks.mean(axis=(2, 4))).max()
        assert error <= (0.5 if times < 3 else 0.56)  # as Pillow rounds ninths
        size = f"{width * times}x{height * times}"
        assert result.done == ("as it is" if times == 1 else f"{size} -> {width}x{height}")


@pytest.mark.parametrize("size", [(240, 480), (480, 240), (90, 331), (40, 50), (64, 200)])
def test_a_circle(tmp_path: Path, size: tuple[int, int]) -> None:
    """The middle and the aspect, measured on a circle in it of half the shorter side's width."""
    height, width = size
    yy, xx = np.mgrid[:height, :width]
    inside = (yy - height / 2 + 0.5) ** 2 + (xx - width / 2 + 0.5) ** 2 < (min(size) / 4) ** 2
    picture = np.where(inside[..., None], [255, 255, 255], [90, 90, 90]).astype(np.uint8)
    path = saved(tmp_path / "p.png", picture)
    short, long = min(size), max(size)
    for preparation, diameters in {
        "crop": (32, 32),
        "pad": (32 * short / long, 32 * short / long),
        "squash": (32 * short / height, 32 * short / width),
    }.items():
        pixels = prepare(path, (3, 64, 64), preparation).pixels[0]
        white = pixels > 170
        extent = white.any(axis=1).sum(), white.any(axis=0).sum()
        np.testing.assert_allclose(extent, diameters, atol=1.5)
        middle = [np.flatnonzero(white.any(axis=axis)).mean() for axis in (0, 1)]
        np.testing.assert_allclose(middle, 31.5, atol=0.6)
        black = (pixels == 0).mean()
        assert abs(black - (1 - short / long if preparation == "pad" else 0)) < 0.03


def test_the_middle_of_repeated_pixels(tmp_path: Path) -> None:
    """Of a wide picture, the same middle at twice the size, also where an odd number of columns is left."""
    wide = np.random.default_rng(0).integers(0, 256, (28, 51)).astype(np.uint8)
    small = prepare(saved(tmp_path / "1.png", wide), (1, 28, 28), "crop").pixels
    np.testing.assert_array_equal(small[0], wide[:, 11:39])
    twice = saved(tmp_path / "2.png", wide.repeat(2, axis=0).repeat(2, axis=1))
    np.testing.assert_array_equal(prepare(twice, (1, 28, 28), "crop").pixels, small)
    colours = np.zeros((100, 200, 3), np.uint8)
    colours[:, 100:] = (255, 128, 0)  # what is cut off, too
    path = saved(tmp_path / "3.png", colours)
    for shape, right in (((1, 32, 32), [151]), ((3, 20, 40), [255, 128, 0])):
        pixels = prepare(path, shape).pixels  # of a model that does not say how
        assert pixels[:, 10, -1].tolist() == right
        assert pixels[:, 10, 0].tolist() == [0] * shape[0]


# -- kinds of files ----------------------------------------------------------------------


def colours() -> Any:
    yy, xx = np.mgrid[:40, :40]
    return Image.fromarray(np.stack([yy * 6, xx * 6, 255 - yy * 3], axis=-1).astype(np.uint8))


@pytest.mark.parametrize(
    "ending", ["png", "bmp", "tiff", "tif", "webp", "gif", "jfif", "jpg", "ppm", "tga", "ico"]
)
def test_whatever_pillow_reads(tmp_path: Path, ending: str) -> None:
    options: dict[str, Any] = {"webp": {"lossless": True}, "ico": {"sizes": [(40, 40)]}}.get(ending, {})
    options |= {"format": "JPEG", "quality": 98} if ending[0] == "j" else {}
    path = saved(tmp_path / f"p.{ending.upper()}", colours(), **options)
    pixels = prepare(path, (3, 40, 40), "crop").pixels
    assert np.abs(pixels - np.asarray(colours()).transpose(2, 0, 1).astype(float)).mean() < 4


def test_the_first_frame(tmp_path: Path) -> None:
    first, second = Image.new("L", (30, 30), 200), Image.new("L", (30, 30), 10)
    for ending in ("gif", "tiff", "webp"):
        path = saved(tmp_path / f"p.{ending}", first, save_all=True, append_images=[second])
        assert np.abs(prepare(path, (1, 30, 30), "crop").pixels - 200.0).max() <= 1


DEEP = np.linspace(0, 1, 400).reshape(20, 20)


SIXTEEN, TWELVE = (DEEP * 65535).astype(np.uint16), (DEEP * 4095).astype(np.uint16)
VALUES = [
    (SIXTEEN, np.rint(SIXTEEN / 257)),
    (TWELVE, np.rint(TWELVE / 257)),
    (SIXTEEN.astype(np.int32), np.rint(SIXTEEN / 257)),
    ((DEEP * 4e6 - 1e6).astype(np.int32), DEEP * 255),
    *((values.astype(np.float32), DEEP * 255) for values in (DEEP, DEEP * 255, DEEP * 65535, DEEP * 2 - 1)),
]


@pytest.mark.parametrize(("values", "wanted"), VALUES)
def test_more_than_eight_bits(tmp_path: Path, values: Pixels, wanted: Pixels) -> None:
    path = saved(tmp_path / "p.tiff", values)
    for preparation in SCALED:
        pixels = prepare(path, (1, 20, 20), preparation).pixels[0]
        assert np.abs(pixels - wanted).max() <= (0 if values.dtype == np.uint16 else 0.51)


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_values_that_are_no_numbers(tmp_path: Path, value: float) -> None:
    values = DEEP.astype(np.float32)
    values[3, 3] = value
    with pytest.raises(DatasetError, match=r"p\.tiff: some of its values are NaN or infinite"):
        prepare(saved(tmp_path / "p.tiff", values), (1, 20, 20), "crop")


def test_modes(tmp_path: Path) -> None:
    image = colours()
    grey = np.asarray(image.convert("L")).astype(">u2") * 257
    pictures = [image.convert(mode) for mode in ("1", "L", "LA", "P", "RGB", "RGBA", "CMYK", "YCbCr")]
    pictures += [
        Image.new("LAB", (40, 40), (128, 128, 128)),
        Image.frombytes("I;16B", (40, 40), grey.tobytes()),
    ]
    for picture in pictures:
        path = saved(tmp_path / "p.tiff", picture)
        assert prepare(path, (3, 20, 20), "squash").pixels.shape == (3, 20, 20)
        assert prepare(path, (1, 28, 28), "crop").pixels.shape == (1, 28, 28)


def test_transparent_photographs_are_on_white(tmp_path: Path) -> None:
    half = np.zeros((20, 20, 4), np.uint8)
    half[:, :10, 3] = 255
    for preparation in SCALED:
        pixels = prepare(saved(tmp_path / "p.png", half), (3, 20, 20), preparation).pixels
        assert (pixels[:, :, :10] == 0).all()
        assert (pixels[:, :, 10:] == 255).all()
    deep = np.full((20, 20), 700, np.uint16)
    deep[:, 10:] = 9
    path = saved(tmp_path / "d.png", deep, transparency=9)
    assert (prepare(path, (1, 20, 20), "crop").pixels[0, :, 10:] == 255).all()


def test_upright(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6  # to be turned by 90 degrees clockwise
    image = colours().resize((40, 20))
    for ending in ("jpg", "png", "webp", "tiff"):
        turned = image.transpose(Image.Transpose.ROTATE_90)
        path = saved(tmp_path / f"p.{ending}", turned, exif=exif, quality=98)
        pixels = prepare(path, (3, 20, 40), "crop").pixels
        assert np.abs(pixels - np.asarray(image).transpose(2, 0, 1).astype(float)).mean() < 5


@pytest.mark.slow
def test_large_palettes_take_little_memory(tmp_path: Path) -> None:
    """A palette of 25 million pixels that are mostly one colour: 25 kB of file, and 100 MB as RGBA."""
    image = Image.new("P", (5000, 5000), 1)
    image.putpalette([0, 0, 0, 250, 240, 230])
    image.paste(0, (2000, 2000, 3000, 3000))
    path = saved(tmp_path / "p.png", image, transparency=b"\xff\xff")
    pixels = prepare(path, (3, 50, 50), "crop").pixels
    assert pixels[:, 0, 0].tolist() == [250, 240, 230]
    assert pixels[:, 25, 25].tolist() == [0, 0, 0]
    tracemalloc.start()
    try:
        prepare(path, (1, 28, 28), "mnist-digit")
        assert tracemalloc.get_traced_memory()[1] < 30e6  # NumPy's; Pillow's bands are smaller still
    finally:
        tracemalloc.stop()
