"""Pictures of digits made ready: every mode, size, frame and lighting gives a digit as MNIST has it."""

from __future__ import annotations

import io
import re
import sys
from collections.abc import Callable
from functools import cache
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from xpcnn.cli.images import Prepared, prepare
from xpcnn.data import synthetic_digits
from xpcnn.errors import DatasetError, XpcnnError

Image = pytest.importorskip("PIL.Image")
ImageDraw = pytest.importorskip("PIL.ImageDraw")

MNIST = (1, 28, 28)
Pixels = np.ndarray[Any, Any]


@cache
def digit() -> Pixels:
    """A five, white on black, (28, 28) uint8, without grain."""
    five = synthetic_digits(10)
    pixels = five.images[five.labels == 5][0, 0]
    return np.where(pixels > 60, pixels, 0).astype(np.uint8)


def large(width: int = 200, height: int = 200) -> Any:
    return Image.fromarray(digit()).resize((width, height), Image.Resampling.BICUBIC)


def sized(size: int) -> Pixels:
    """The digit on a picture of that size, with ground around it where it is larger."""
    return digit() if size == 28 else np.pad(np.asarray(large(size * 3 // 4, size * 3 // 4)), size // 8)


def prepared(folder: Path, image: Any, ending: str = "png", **options: Any) -> Prepared:
    path = folder / f"picture.{ending}"
    (Image.fromarray(image) if isinstance(image, np.ndarray) else image).save(path, **options)
    result = prepare(path, MNIST)
    assert (result.pixels.shape, result.pixels.dtype) == (MNIST, np.uint8)
    return result


def assert_alike(folder: Path, image: Any, other: Any, least: float, **options: Any) -> Prepared:
    """The two are prepared to pictures of at least that correlation."""
    wanted = prepared(folder, other).pixels
    result = prepared(folder, image, **options)
    assert np.corrcoef(result.pixels.ravel(), wanted.ravel())[0, 1] > least
    return result


def assert_blank(folder: Path, image: Any, **options: Any) -> None:
    with pytest.raises(DatasetError, match=r"picture\.\w+: nothing to see on it"):
        prepared(folder, image, **options)


# -- size and place ----------------------------------------------------------------------


@pytest.mark.parametrize("inverted", [False, True])
def test_of_the_models_size_already(tmp_path: Path, inverted: bool) -> None:
    result = prepared(tmp_path, 255 - digit() if inverted else digit())
    assert result.done == ("inverted" if inverted else "as it is")
    np.testing.assert_array_equal(result.pixels[0], digit())


def test_in_a_box_of_20_with_its_mass_in_the_middle(tmp_path: Path) -> None:
    result = prepared(tmp_path, large(300, 210))
    pixels = result.pixels[0].astype(float)
    assert result.done == "cropped, 300x210 -> 28x28"
    assert max(np.ptp(np.flatnonzero(pixels.any(axis=axis))) for axis in (0, 1)) == 19
    for axis in (0, 1):
        assert abs(pixels.sum(axis=1 - axis) @ np.arange(28) / pixels.sum() - 13.5) <= 0.5
    assert pixels.max() == 255
    bar = np.zeros((300, 400), np.uint8)
    bar[50:250, 180:220] = 255  # 5 times as high as wide, which is kept
    expected = np.zeros((28, 28), np.uint8)
    expected[4:24, 12:16] = 255
    np.testing.assert_array_equal(prepared(tmp_path, bar).pixels[0], expected)
    bold = np.full((100, 60), 255, np.uint8)
    bold[2:98, 20:40] = 0  # fills the picture
    np.testing.assert_array_equal(prepared(tmp_path, bold).pixels[0], expected)


def test_strokes_that_are_no_frame(tmp_path: Path) -> None:
    seven = np.zeros((200, 120), np.uint8)
    seven[:20] = seven[:, 80:100] = 255
    assert (prepared(tmp_path, seven).pixels[0].max(axis=0) > 80).sum() >= 10  # the stem alone is 2 wide
    radius = np.hypot(*(np.mgrid[:100, :100] - 49.5))
    zero = np.where((radius < 50) & (radius > 25), 255, 0).astype(np.uint8)
    small = np.asarray(Image.fromarray(zero).resize((20, 20), Image.Resampling.BILINEAR))
    found = prepared(tmp_path, zero).pixels[0, 4:24, 4:24]
    assert np.corrcoef(found.ravel(), small.ravel())[0, 1] > 0.98


@pytest.mark.parametrize("size", [(1, 1), (1, 50), (50, 1), (2, 2), (3, 1000)])
def test_odd_sizes_are_read_or_refused(tmp_path: Path, size: tuple[int, int]) -> None:
    noise = np.random.default_rng(1).integers(0, 256, size[::-1]).astype(np.uint8)
    try:
        prepared(tmp_path, noise)
    except DatasetError as error:
        assert "nothing to see" in str(error)  # noqa: PT017


# -- kinds of pictures -------------------------------------------------------------------


def in_colours(ink: tuple[int, ...], ground: tuple[int, ...]) -> Pixels:
    part = np.asarray(large())[..., None] / 255
    return np.rint(np.array(ground) * (1 - part) + np.array(ink) * part).astype(np.uint8)


def stencil() -> Pixels:
    """A hole in paper."""
    picture = np.full((200, 200, 4), 255, np.uint8)
    picture[..., 3] = 255 - np.asarray(large())
    return picture


MODES: dict[str, tuple[Callable[[], Any], float]] = {
    "RGB": (lambda: large().convert("RGB"), 0.9),
    "1 bit": (lambda: large().convert("1", dither=Image.Dither.NONE), 0.9),
    "palette": (lambda: large().convert("P"), 0.9),
    "grey and alpha": (lambda: large().convert("LA"), 0.9),
    "RGBA, opaque": (lambda: large().convert("RGBA"), 0.9),
    "16 bits": (lambda: np.asarray(large()).astype(np.uint16) * 257, 0.9),
    "inverted": (lambda: 255 - np.asarray(large()), 0.9),
    "small": (lambda: large(60, 60), 0.9),
    "huge": (lambda: large(1500, 1500), 0.9),
    "a hole in paper": (stencil, 0.99),
    "yellow on white": (lambda: in_colours((255, 255, 0), (255, 255, 255)), 0.97),
    "red on green": (lambda: in_colours((255, 0, 0), (0, 120, 0)), 0.97),
    "blue on grey": (lambda: in_colours((0, 90, 255), (76, 76, 76)), 0.97),
    "jpg": (large, 0.95),
    "jpeg": (lambda: large().convert("CMYK"), 0.9),
}


@pytest.mark.parametrize("mode", MODES)
def test_modes(tmp_path: Path, mode: str) -> None:
    make, least = MODES[mode]
    result = assert_alike(tmp_path, make(), large(), least, ending=mode if mode[:2] == "jp" else "png")
    if mode in ("RGB", "inverted"):
        assert ("inverted" in result.done) is (mode == "inverted")


@pytest.mark.parametrize("ink", [(0, 0, 0), (255, 255, 255), (250, 250, 250), (200, 30, 20), "many"])
@pytest.mark.parametrize("size", [28, 200])
def test_ink_on_nothing(tmp_path: Path, size: int, ink: Any) -> None:
    """Whatever its colour, and what programs write where nothing is drawn."""
    shown = digit() if size == 28 else np.asarray(large())
    for under, strength in product((None, 0, 255), (1.0, 0.3)):
        drawn = np.zeros((size, size, 4), np.uint8)
        drawn[..., :3] = np.random.default_rng(0).integers(0, 256, (size, size, 3)) if ink == "many" else ink
        drawn[..., 3] = shown * strength
        if under is not None:
            drawn[shown == 0, :3] = under
        assert_alike(tmp_path, drawn, shown, 0.99)


def test_a_bar_on_nothing(tmp_path: Path) -> None:
    """It fills its box, as paper does."""
    bar = np.full((200, 200, 4), 255, np.uint8)
    bar[..., 3] = 0
    bar[20:180, 90:115, 3] = 255
    assert_alike(tmp_path, bar, bar[..., 3], 0.99)


@pytest.mark.parametrize("ground", [255, 20])
def test_paper_with_clear_corners(tmp_path: Path, ground: int) -> None:
    """There the transparency shows the paper, and the colours the digit."""
    grey = np.abs(ground - np.asarray(large()) * 0.9).clip(0, 255)
    picture = np.repeat(grey[..., None], 4, axis=2).astype(np.uint8)
    picture[..., 3] = np.where(np.hypot(*(np.mgrid[:200, :200] - 99.5)) < 130, 255, 0)
    assert_alike(tmp_path, picture, large(), 0.9)
    picture[..., :3] = ground
    assert_blank(tmp_path, picture)


@pytest.mark.parametrize("inverted", [False, True])
def test_one_transparent_value(tmp_path: Path, inverted: bool) -> None:
    """It is the ground of a grey PNG; the values around it are the edges of strokes."""
    shown = 255 - digit() if inverted else digit()
    for deep in (shown, shown.astype(np.uint16) * 257):
        result = prepared(tmp_path, deep, transparency=int(deep[0, 0]))
        np.testing.assert_array_equal(result.pixels[0], digit())
    shown = np.asarray(large(300, 260))  # of a size that is shrunk first
    picture = Image.fromarray(255 - shown if inverted else shown)
    for image in (picture, picture.convert("RGB")):
        value = 255 * inverted if image.mode == "L" else (255 * inverted,) * 3
        assert_alike(tmp_path, image, picture, 0.99, transparency=value)


@pytest.mark.parametrize("size", [28, 200])
@pytest.mark.parametrize("kind", ["<u2", ">u2", "<i4"])
def test_depths_of_cameras(tmp_path: Path, kind: str, size: int) -> None:
    """Microscopes and cameras write 0 … 4095 in 16 bits: not shades of near-black, but all of them."""
    shown = digit() if size == 28 else np.asarray(large())
    mode = {"<u2": "I;16", ">u2": "I;16B", "<i4": "I"}[kind]
    wanted = prepared(tmp_path, shown).pixels[0]
    for bits, inverted in product((8, 10, 12, 14, 16), (False, True)):
        deep = np.rint(shown * ((2**bits - 1) / 255)).astype(kind)
        deep = 2**bits - 1 - deep if inverted else deep
        image = Image.frombytes(mode, (size, size), deep.astype(kind).tobytes())
        np.testing.assert_allclose(prepared(tmp_path, image, "tiff").pixels[0], wanted, atol=2)
    ramp = np.linspace(0, 65535, 784).reshape(28, 28).astype(np.uint16)  # is scaled, not cut off
    np.testing.assert_array_equal(prepared(tmp_path, ramp).pixels[0], np.rint(ramp / 257).astype(np.uint8))


# -- frames, grounds and light -----------------------------------------------------------


def framed(picture: Pixels, widths: tuple[int, ...], value: int, gap: int = 0) -> Pixels:
    """With a frame of four widths (top, bottom, left, right), so many pixels from the edge."""
    result, (top, bottom, left, right) = picture.copy(), widths
    end = len(picture) - gap
    result[gap:end, gap:end] = value
    inner = slice(gap + top, end - bottom), slice(gap + left, end - right)
    result[inner] = picture[inner]
    return result


def on_ground(shown: Pixels, ground: int, contrast: int | None = None) -> Pixels:
    """Ink on an even ground, of the strongest contrast there is or this one."""
    contrast = (255 if ground < 128 else 0) - ground if contrast is None else contrast
    return np.rint(ground + contrast * (shown / 255)).astype(np.uint8)


FRAMES = [(28, (1, 1, 1, 1), 0), (28, (2, 1, 1, 2), 0), (100, (6, 6, 6, 6), 0), (200, (1, 4, 12, 7), 0),
          (200, (3, 3, 3, 3), 4), (200, (8, 8, 8, 0), 0), (480, (1, 1, 1, 1), 3)]  # fmt: skip


@pytest.mark.parametrize(("size", "widths", "gap"), FRAMES)
def test_frames(tmp_path: Path, size: int, widths: tuple[int, ...], gap: int) -> None:
    for ground, edge in product((0, 30, 128, 255), (0, 255)):
        picture = framed(on_ground(sized(size), ground), widths, edge, gap)
        assert_alike(tmp_path, picture, sized(size), 0.9)


@pytest.mark.parametrize("size", [28, 64, 200])
@pytest.mark.parametrize("sides", ["t", "b", "l", "r", "tb", "lr", "tl", "br", "rounded"])
def test_edges_of_scans(tmp_path: Path, sides: str, size: int) -> None:
    """On one side or two, and frames with paper around their round corners; with a digit, and blank."""
    width = max(1, size // 50)
    for ground, edge in ((0, 255), (0, 40), (128, 0), (210, 255), (255, 0), (255, 40)):
        for drawn in (sized(size), np.zeros_like(sized(size))):
            image = Image.fromarray(on_ground(drawn, ground))
            if sides == "rounded":
                box = [0, 0, size - 1, size - 1]
                ImageDraw.Draw(image).rounded_rectangle(box, size // 10, outline=edge, width=width)
            else:
                image = framed(np.asarray(image), tuple(width * (side in sides) for side in "tblr"), edge)
            if drawn.any():
                assert_alike(tmp_path, image, on_ground(drawn, ground), 0.9)
            else:
                assert_blank(tmp_path, image)


@pytest.mark.parametrize("edge", [0, 255])
def test_a_slanted_frame(tmp_path: Path, edge: int) -> None:
    """As of a sheet laid askew on a scanner: wider at one end of each side than at the other."""
    yy, xx = np.mgrid[:300, :300]
    outside = (yy < 2 + xx / 30) | (xx < 2 + (299 - yy) / 30) | (yy > 297 - xx / 40) | (xx > 297 - yy / 40)
    shown = np.pad(np.asarray(large()), 50)
    assert_alike(tmp_path, np.where(outside, np.uint8(edge), on_ground(shown, 255 - edge)), shown, 0.9)


@pytest.mark.parametrize("ground", [60, 128, 200])
@pytest.mark.parametrize("contrast", [-40, 12, 55])
def test_faint_ink_and_grey_ground_at_28(tmp_path: Path, ground: int, contrast: int) -> None:
    pixels = assert_alike(tmp_path, on_ground(digit(), ground, contrast), digit(), 0.99).pixels
    assert (pixels.max(), np.median(pixels)) == (255, 0)


def test_hairlines_of_five_levels(tmp_path: Path) -> None:
    """On ground as even as only a program draws it, what is hardly seen is seen."""
    for size, (ground, ink) in product((20, 28, 60), ((0, 5), (100, 95), (200, 205), (250, 245))):
        image = Image.new("L", (size, size), ground)
        ImageDraw.Draw(image).line([size // 2, size // 4, size // 2, size * 3 // 4], fill=ink)
        assert prepared(tmp_path, image).pixels.max() == 255


@pytest.mark.parametrize("low", [1.0, 0.8, 0.6, 0.45])
def test_photographs(tmp_path: Path, low: float) -> None:
    """Dark ink on paper that is lit from `low` of the light on one side to all of it on the other."""
    ink = np.zeros((480, 640))
    ink[90:290, 150:350] = np.asarray(large()) / 255
    noise = np.random.default_rng(0).normal(0, 4, ink.shape)
    picture = np.clip((235 - 180 * ink) * np.linspace(low, 1, 640) + noise, 0, 255).astype(np.uint8)
    shading = "" if low == 1 else "shading removed, "
    result = assert_alike(tmp_path, picture, large(), 0.9, ending="jpg")
    assert result.done == f"inverted, {shading}cropped, 640x480 -> 28x28"
    if low == 1:
        dim = assert_alike(tmp_path, (picture * 0.4).astype(np.uint8), large(), 0.9)
        assert "inverted" in dim.done


# -- nothing to see ----------------------------------------------------------------------


def grainy(size: int, level: int, spread: float) -> Any:
    grain = np.random.default_rng(0).normal(level, spread, (size, size))
    return Image.fromarray(grain.clip(0, 255).astype(np.uint8))


BLANK: dict[str, Callable[[int], Any]] = {
    "white": lambda size: Image.new("L", (size, size), 255),
    "black": lambda size: Image.new("L", (size, size), 0),
    "grey": lambda size: Image.new("L", (size, size), 100),
    "blue": lambda size: Image.new("RGB", (size, size), (20, 40, 200)),
    "clear": lambda size: Image.new("RGBA", (size, size), (0, 0, 0, 0)),
    "clear noise": lambda size: Image.merge("LA", (grainy(size, 128, 60), Image.new("L", (size, size), 0))),
    "half clear": lambda size: Image.new("RGBA", (size, size), (255, 255, 255, 90)),
    "12 bits": lambda size: Image.new("I;16", (size, size), 3000),
    "32 bits": lambda size: Image.new("I", (size, size), -7),
    "floats": lambda size: Image.new("F", (size, size), 1e6),
    "faint grain": lambda size: grainy(size, 200, 1),
    "grain": lambda size: grainy(size, 90, 10),
    "framed": lambda size: framed(np.asarray(grainy(size, 200, 3)), (1, 1, 1, 1), 0),
    "lit from one side": lambda size: np.tile(np.linspace(140, 250, size), (size, 1)).astype(np.uint8),
}


@pytest.mark.parametrize("kind", BLANK)
def test_blank_pictures(tmp_path: Path, kind: str) -> None:
    for size in (20, 28, 50, 56, 300):
        ending = "tiff" if kind in ("32 bits", "floats") else "png"
        assert_blank(tmp_path, BLANK[kind](size), ending=ending)


@pytest.mark.parametrize("size", [28, 64, 200])
def test_blank_pages_that_lossy_formats_altered(tmp_path: Path, size: int) -> None:
    for colour in ((200, 30, 40), (20, 60, 250), (250, 240, 200)):
        for ending, quality in (("webp", 20), ("webp", 80), ("jpg", 30)):
            assert_blank(tmp_path, Image.new("RGB", (size, size), colour), ending=ending, quality=quality)
    for quality, edge in product((50, 75, 90), (0, 255)):
        paper = framed(np.full((size, size), 255 - edge, np.uint8), (2, 2, 2, 2), edge)
        assert_blank(tmp_path, paper, ending="jpg", quality=quality)
        assert_blank(tmp_path, grainy(300, 220, 4), ending="jpg", quality=quality)


# -- what is no picture ------------------------------------------------------------------


NOT_READABLE = {"text.png": "no readable image", "empty.jpg": "no readable image",
                "absent.png": "No such file or directory", "folder.png": "Is a directory"}  # fmt: skip


def test_unreadable_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "text.png").write_text("no picture")
    (tmp_path / "empty.jpg").touch()
    (tmp_path / "folder.png").mkdir()
    for name, message in NOT_READABLE.items():
        with pytest.raises(DatasetError, match=f"{re.escape(name)}: {message}"):
            prepare(tmp_path / name, MNIST)
    with pytest.raises(XpcnnError, match="takes images of 2 channels"):
        prepare(tmp_path / "any.png", (2, 28, 28))
    monkeypatch.setitem(sys.modules, "PIL", None)
    with pytest.raises(XpcnnError, match=re.escape("needs Pillow: pip install 'xpcnn[plot]'")):
        prepare(tmp_path / "any.png", MNIST)


def test_too_large(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 40_000)
    prepared(tmp_path, large())
    for size in (201, 400):  # Pillow only warns up to twice as large
        with pytest.raises(DatasetError, match=rf"picture\.png: too large: .*{size * size} pixels"):
            prepared(tmp_path, large(size, size))

    def fail(*arguments: object, **options: object) -> None:
        raise MemoryError

    for place in ("xpcnn.cli.images.prepare_picture", "PIL.Image.open"):
        monkeypatch.setattr(place, fail)
        with pytest.raises(DatasetError, match=r"picture\.png: too large for the memory there is"):
            prepared(tmp_path, large())


@cache
def encoded(kind: str) -> bytes:
    buffer = io.BytesIO()
    large(40, 40).save(buffer, kind)
    return buffer.getvalue()


@pytest.mark.fuzz
@pytest.mark.parametrize("kind", ["PNG", "JPEG"])
@settings(max_examples=120, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_damaged_files(tmp_path: Path, kind: str, data: st.DataObject) -> None:
    damaged = bytearray(encoded(kind))
    for at in data.draw(st.lists(st.integers(0, len(damaged) - 1), max_size=4)):
        damaged[at] = data.draw(st.integers(0, 255))
    del damaged[data.draw(st.integers(0, len(damaged))) :]
    (tmp_path / "damaged.png").write_bytes(damaged)
    try:
        result = prepare(tmp_path / "damaged.png", MNIST)
    except DatasetError:
        return
    assert result.pixels.shape == MNIST
