"""Pictures made ready: every mode, size and lighting gives the digit as MNIST would have it."""

from __future__ import annotations

import io
import re
import sys
from functools import cache
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


def prepared(tmp_path: Path, image: Any, shape: tuple[int, int, int] = MNIST, **options: Any) -> Prepared:
    path = tmp_path / f"picture.{options.pop('ending', 'png')}"
    image.save(path, **options)
    result = prepare(path, shape)
    assert result.pixels.shape == shape
    assert result.pixels.dtype == np.uint8
    return result


def alike(a: Pixels, b: Pixels) -> float:
    """The correlation of two pictures."""
    return float(np.corrcoef(a.ravel().astype(float), b.ravel().astype(float))[0, 1])


def expected(tmp_path: Path) -> Pixels:
    return prepared(tmp_path, large()).pixels


# -- of the model's size already ----------------------------------------------------------


def test_as_it_is(tmp_path: Path) -> None:
    result = prepared(tmp_path, Image.fromarray(digit()))
    assert result.done == "as it is"
    np.testing.assert_array_equal(result.pixels[0], digit())


def test_inverted_only(tmp_path: Path) -> None:
    result = prepared(tmp_path, Image.fromarray(255 - digit()))
    assert result.done == "inverted"
    np.testing.assert_array_equal(result.pixels[0], digit())


# -- larger ones --------------------------------------------------------------------------


def test_in_a_box_of_20_with_its_mass_in_the_middle(tmp_path: Path) -> None:
    result = prepared(tmp_path, large(300, 210))
    pixels = result.pixels[0].astype(float)
    assert result.done == "cropped, 300x210 -> 28x28"
    rows, columns = np.flatnonzero(pixels.any(axis=1)), np.flatnonzero(pixels.any(axis=0))
    extent = (rows[-1] - rows[0] + 1, columns[-1] - columns[0] + 1)
    assert max(extent) == 20
    at = [float((pixels.sum(axis=1 - axis) @ np.arange(28)) / pixels.sum()) for axis in (0, 1)]
    assert max(abs(place - 13.5) for place in at) <= 0.5
    assert pixels.max() == 255


def test_the_aspect_is_kept(tmp_path: Path) -> None:
    canvas = np.zeros((300, 400), np.uint8)
    canvas[50:250, 180:220] = 255  # a bar, 5 times as high as wide
    pixels = prepared(tmp_path, Image.fromarray(canvas)).pixels[0]
    rows, columns = np.flatnonzero(pixels.any(axis=1)), np.flatnonzero(pixels.any(axis=0))
    assert (len(rows), len(columns)) == (20, 4)
    assert (rows[0], columns[0]) == (4, 12)


MODES = {
    "RGB": lambda: large().convert("RGB"),
    "1 bit": lambda: large().convert("1", dither=Image.Dither.NONE),
    "palette": lambda: large().convert("P"),
    "grey and alpha": lambda: large().convert("LA"),
    "RGBA, opaque": lambda: large().convert("RGBA"),
    "16 bits": lambda: Image.fromarray(np.asarray(large()).astype(np.uint16) * 257),
    "inverted": lambda: Image.fromarray(255 - np.asarray(large())),
    "small": lambda: large(60, 60),
    "huge": lambda: large(1500, 1500),
}


@pytest.mark.parametrize("mode", MODES)
def test_modes_and_sizes(tmp_path: Path, mode: str) -> None:
    result = prepared(tmp_path, MODES[mode]())
    assert alike(result.pixels, expected(tmp_path)) > 0.9
    assert ("inverted" in result.done) is (mode == "inverted")


def test_jpeg(tmp_path: Path) -> None:
    assert alike(prepared(tmp_path, large(), ending="jpg").pixels, expected(tmp_path)) > 0.95
    assert alike(prepared(tmp_path, large().convert("CMYK"), ending="jpeg").pixels, expected(tmp_path)) > 0.9


def test_sixteen_bits_are_scaled_not_cut_off(tmp_path: Path) -> None:
    """What Pillow's own conversion does to them is why `prepare` does not use it."""
    ramp = np.linspace(0, 65535, 784).reshape(28, 28).astype(np.uint16)
    pixels = prepared(tmp_path, Image.fromarray(ramp)).pixels[0]
    np.testing.assert_array_equal(pixels, np.rint(ramp / 257).astype(np.uint8))


INKS = {"black": (0, 0, 0), "white": (255, 255, 255), "light": (250, 250, 250), "red": (200, 30, 20)}


@pytest.mark.parametrize("strength", [1.0, 0.3])
@pytest.mark.parametrize("under", [None, (0, 0, 0), (255, 255, 255)])
@pytest.mark.parametrize("ink", INKS)
@pytest.mark.parametrize("size", [28, 200])
def test_ink_on_nothing(tmp_path: Path, size: int, ink: str, under: Any, strength: float) -> None:
    """Whatever its colour, and what programs write where nothing is drawn."""
    shown = digit() if size == 28 else np.asarray(large())
    drawn = np.zeros((size, size, 4), np.uint8)
    drawn[..., :3] = INKS[ink]
    drawn[..., 3] = shown * strength
    if under is not None:
        drawn[shown == 0, :3] = under
    result = prepared(tmp_path, Image.fromarray(drawn))
    assert alike(result.pixels, prepared(tmp_path, Image.fromarray(shown)).pixels) > 0.99


def test_ink_of_many_colours_on_nothing(tmp_path: Path) -> None:
    one = np.zeros((200, 200), np.uint8)
    one[20:180, 90:115] = 255  # a bar fills its box, as paper does
    for shown in (np.asarray(large()), one):
        drawn = np.random.default_rng(0).integers(0, 256, (200, 200, 4)).astype(np.uint8)
        drawn[..., 3] = shown
        result = prepared(tmp_path, Image.fromarray(drawn))
        assert alike(result.pixels, prepared(tmp_path, Image.fromarray(shown)).pixels) > 0.99


def test_a_hole_in_paper(tmp_path: Path) -> None:
    stencil = np.full((200, 200, 4), 255, np.uint8)
    stencil[..., 3] = 255 - np.asarray(large())
    assert alike(prepared(tmp_path, Image.fromarray(stencil)).pixels, expected(tmp_path)) > 0.99


@pytest.mark.parametrize("ground", [255, 20])
def test_paper_with_clear_corners(tmp_path: Path, ground: int) -> None:
    """There the transparency shows the paper, and the colours the digit."""
    grey = np.abs(ground - np.asarray(large()) * 0.9).clip(0, 255)
    picture = np.repeat(grey[..., None], 4, axis=2).astype(np.uint8)
    yy, xx = np.mgrid[:200, :200] - 99.5
    picture[..., 3] = np.where(yy**2 + xx**2 < 130**2, 255, 0)
    assert alike(prepared(tmp_path, Image.fromarray(picture)).pixels, expected(tmp_path)) > 0.9
    picture[..., :3] = ground
    with pytest.raises(DatasetError, match="nothing to see"):
        prepared(tmp_path, Image.fromarray(picture))


@pytest.mark.parametrize("mode", ["L", "I;16"])
@pytest.mark.parametrize("inverted", [False, True])
def test_one_transparent_value(tmp_path: Path, mode: str, inverted: bool) -> None:
    """It is the ground of a grey PNG; the values around it are the edges of strokes."""
    shown = 255 - digit() if inverted else digit()
    deep = shown.astype(np.uint16) * 257 if mode == "I;16" else shown
    clear = int(deep[0, 0])
    result = prepared(tmp_path, Image.fromarray(deep), transparency=clear)
    np.testing.assert_array_equal(result.pixels[0], digit())
    shown = np.asarray(large(300, 260))  # of a size that is shrunk first
    picture = Image.fromarray(255 - shown if inverted else shown)
    for image in (picture, picture.convert("RGB")):
        value = 255 * inverted if image.mode == "L" else (255 * inverted,) * 3
        result = prepared(tmp_path, image, transparency=value)
        assert alike(result.pixels, prepared(tmp_path, picture).pixels) > 0.99


# -- frames and grounds -------------------------------------------------------------------


def framed(picture: Pixels, widths: tuple[int, int, int, int], value: int, gap: int = 0) -> Pixels:
    """With a frame of four widths (top, bottom, left, right), so many pixels from the edge."""
    size = len(picture)
    inner = np.zeros((size, size), bool)
    top, bottom, left, right = widths
    inner[gap + top : size - gap - bottom, gap + left : size - gap - right] = True
    outer = np.zeros((size, size), bool)
    outer[gap : size - gap, gap : size - gap] = True
    return np.where(outer & ~inner, np.uint8(value), picture)


def on_ground(shown: Pixels, ground: int) -> Pixels:
    """Ink of the strongest contrast on an even ground."""
    ink = 255 if ground < 128 else 0
    return np.rint(ground + (ink - ground) * (shown / 255)).astype(np.uint8)


@pytest.mark.parametrize("ground", [0, 30, 128, 255])
@pytest.mark.parametrize("edge", [0, 255])
@pytest.mark.parametrize(
    ("size", "widths", "gap"),
    [
        (28, (1, 1, 1, 1), 0),
        (28, (2, 1, 1, 2), 0),
        (100, (1, 1, 1, 1), 0),
        (100, (6, 6, 6, 6), 0),
        (200, (1, 4, 12, 7), 0),
        (200, (3, 3, 3, 3), 4),
        (200, (8, 8, 8, 0), 0),
        (480, (1, 1, 1, 1), 3),
    ],
)
def test_frames(tmp_path: Path, ground: int, edge: int, size: int, widths: tuple[int, ...], gap: int) -> None:
    shown = digit() if size == 28 else np.pad(np.asarray(large(size * 3 // 4, size * 3 // 4)), size // 8)
    picture = framed(on_ground(shown, ground), widths, edge, gap)  # type: ignore[arg-type]
    result = prepared(tmp_path, Image.fromarray(picture))
    assert alike(result.pixels, prepared(tmp_path, Image.fromarray(shown)).pixels) > 0.9


@pytest.mark.parametrize("size", [28, 64, 200])
@pytest.mark.parametrize(
    ("ground", "edge"), [(g, e) for g in (0, 128, 210, 255) for e in (0, 40, 255) if g != e]
)
@pytest.mark.parametrize("sides", ["t", "b", "l", "r", "tb", "lr", "tl", "br", "rounded"])
def test_edges_of_scans(tmp_path: Path, sides: str, ground: int, edge: int, size: int) -> None:
    """On one side or two, and frames with paper around their round corners; with a digit, and blank."""
    shown = digit() if size == 28 else np.pad(np.asarray(large(size * 3 // 4, size * 3 // 4)), size // 8)
    wanted = prepared(tmp_path, Image.fromarray(on_ground(shown, ground))).pixels
    width = max(1, size // 50)
    for drawn in (shown, np.zeros_like(shown)):
        image = Image.fromarray(on_ground(drawn, ground))
        if sides == "rounded":
            box = [0, 0, size - 1, size - 1]
            ImageDraw.Draw(image).rounded_rectangle(box, size // 10, outline=edge, width=width)
        else:
            widths: Any = tuple(width * (side in sides) for side in "tblr")
            image = Image.fromarray(framed(np.asarray(image), widths, edge))
        if drawn.any():
            assert alike(prepared(tmp_path, image).pixels, wanted) > 0.9
        else:
            with pytest.raises(DatasetError, match="nothing to see"):
                prepared(tmp_path, image)


def test_the_bar_of_a_seven_is_no_edge(tmp_path: Path) -> None:
    seven = np.zeros((200, 120), np.uint8)
    seven[:20] = seven[:, 80:100] = 255
    pixels = prepared(tmp_path, Image.fromarray(seven)).pixels[0]
    assert (pixels.max(axis=0) > 80).sum() >= 10  # the stem alone is 2 wide


@pytest.mark.parametrize("quality", [50, 75, 90])
@pytest.mark.parametrize("edge", [0, 255])
@pytest.mark.parametrize("size", [28, 84, 200])
def test_what_jpeg_leaves_of_a_frame(tmp_path: Path, size: int, edge: int, quality: int) -> None:
    paper = Image.fromarray(framed(np.full((size, size), 255 - edge, np.uint8), (2, 2, 2, 2), edge))
    with pytest.raises(DatasetError, match="nothing to see"):
        prepared(tmp_path, paper, ending="jpg", quality=quality)


@pytest.mark.parametrize("edge", [0, 255])
def test_a_slanted_frame(tmp_path: Path, edge: int) -> None:
    """As of a sheet laid askew on a scanner: wider at one end of each side than at the other."""
    yy, xx = np.mgrid[:300, :300]
    outside = (yy < 2 + xx / 30) | (xx < 2 + (299 - yy) / 30) | (yy > 297 - xx / 40) | (xx > 297 - yy / 40)
    shown = np.pad(np.asarray(large()), 50)
    picture = np.where(outside, np.uint8(edge), on_ground(shown, 255 - edge))
    result = prepared(tmp_path, Image.fromarray(picture))
    assert alike(result.pixels, prepared(tmp_path, Image.fromarray(shown)).pixels) > 0.9


def test_a_tight_zero_is_no_frame(tmp_path: Path) -> None:
    yy, xx = np.mgrid[:100, :100] - 49.5
    radius = np.hypot(yy, xx)
    zero = np.where((radius < 50) & (radius > 25), 255, 0).astype(np.uint8)
    pixels = prepared(tmp_path, Image.fromarray(zero)).pixels[0]
    small = np.asarray(Image.fromarray(zero).resize((20, 20), Image.Resampling.BILINEAR))
    assert alike(pixels[4:24, 4:24], small) > 0.98


@pytest.mark.parametrize("ground", [60, 128, 200])
@pytest.mark.parametrize("contrast", [-40, 12, 55])
def test_faint_ink_and_grey_ground_at_28(tmp_path: Path, ground: int, contrast: int) -> None:
    faint = np.rint(ground + contrast * (digit() / 255)).astype(np.uint8)
    pixels = prepared(tmp_path, Image.fromarray(faint)).pixels[0]
    assert alike(pixels, digit()) > 0.99
    assert pixels.max() == 255
    assert np.median(pixels) == 0


@pytest.mark.parametrize("ground", [0, 100, 200, 250])
@pytest.mark.parametrize("contrast", [5, -5])
@pytest.mark.parametrize("size", [20, 28, 60])
def test_hairlines_of_five_levels(tmp_path: Path, size: int, contrast: int, ground: int) -> None:
    """On ground as even as only a program draws it, what is hardly seen is seen."""
    image = Image.new("L", (size, size), ground)
    line = [size // 2, size // 4, size // 2, size * 3 // 4]
    ImageDraw.Draw(image).line(
        line, fill=ground + contrast if 0 <= ground + contrast <= 255 else ground - contrast
    )
    assert prepared(tmp_path, image).pixels.max() == 255


@pytest.mark.parametrize("size", [28, 200])
def test_twelve_bits_in_sixteen(tmp_path: Path, size: int) -> None:
    """Microscopes and cameras write 0 … 4095: not 16 shades of near-black, but all of them."""
    shown = digit() if size == 28 else np.asarray(large())
    deep = np.rint(shown * (4095 / 255)).astype(np.uint16)
    pixels = prepared(tmp_path, Image.fromarray(deep)).pixels[0]
    np.testing.assert_allclose(pixels, prepared(tmp_path, Image.fromarray(shown)).pixels[0], atol=2)


@pytest.mark.parametrize("size", [28, 200])
@pytest.mark.parametrize("inverted", [False, True])
@pytest.mark.parametrize("bits", [8, 10, 12, 14, 16])
@pytest.mark.parametrize("kind", ["<u2", ">u2", "<i4"])
def test_depths_of_cameras(tmp_path: Path, kind: str, bits: int, inverted: bool, size: int) -> None:
    shown = digit() if size == 28 else np.asarray(large())
    deep = np.rint(shown * ((2**bits - 1) / 255)).astype(kind)
    deep = 2**bits - 1 - deep if inverted else deep
    mode = {"<u2": "I;16", ">u2": "I;16B", "<i4": "I"}[kind]
    image = Image.frombytes(mode, (size, size), deep.astype(kind).tobytes())
    wanted = prepared(tmp_path, Image.fromarray(shown)).pixels[0]
    np.testing.assert_allclose(prepared(tmp_path, image, ending="tiff").pixels[0], wanted, atol=2)


@pytest.mark.parametrize("value", [-7, 0, 0.5, 300, 1e6])
@pytest.mark.parametrize("mode", ["I", "F"])
def test_blank_in_32_bits(tmp_path: Path, mode: str, value: float) -> None:
    image = Image.new(mode, (40, 40), value if mode == "F" else int(value))
    with pytest.raises(DatasetError, match="nothing to see"):
        prepared(tmp_path, image, ending="tiff")
    assert np.ptp(prepare(tmp_path / "picture.tiff", (1, 20, 20)).pixels) == 0


@pytest.mark.parametrize("ink", [(255, 255, 0), (255, 0, 0), (0, 90, 255)])
@pytest.mark.parametrize("ground", [(255, 255, 255), (0, 120, 0), (76, 76, 76)])
def test_coloured_ink_on_coloured_ground(tmp_path: Path, ink: Any, ground: Any) -> None:
    part = np.asarray(large())[..., None] / 255
    picture = np.rint(np.array(ground) * (1 - part) + np.array(ink) * part).astype(np.uint8)
    assert alike(prepared(tmp_path, Image.fromarray(picture)).pixels, expected(tmp_path)) > 0.97


def test_exif_orientation(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6  # to be turned by 90 degrees clockwise
    turned = large(300, 200).transpose(Image.Transpose.ROTATE_90)
    result = prepared(tmp_path, turned, ending="jpg", exif=exif)
    assert result.done == "cropped, 300x200 -> 28x28"
    upright = prepared(tmp_path, large(300, 200), ending="jpg")
    assert alike(result.pixels, upright.pixels) > 0.98


def photograph(low: float, at: tuple[int, int] = (150, 90)) -> Any:
    """Dark ink on paper that is lit from `low` of the light on one side to all of it on the other."""
    ink = np.zeros((480, 640))
    ink[at[1] : at[1] + 200, at[0] : at[0] + 200] = np.asarray(large()) / 255
    light = np.linspace(low, 1, 640)[None, :]
    noise = np.random.default_rng(0).normal(0, 4, ink.shape)
    return Image.fromarray(np.clip((235 - 180 * ink) * light + noise, 0, 255).astype(np.uint8))


@pytest.mark.parametrize("low", [1.0, 0.8, 0.6, 0.45])
def test_photographs(tmp_path: Path, low: float) -> None:
    result = prepared(tmp_path, photograph(low), ending="jpg")
    assert alike(result.pixels, expected(tmp_path)) > 0.9
    shading = "" if low == 1 else "shading removed, "
    assert result.done == f"inverted, {shading}cropped, 640x480 -> 28x28"


def test_a_dim_photograph_is_inverted_too(tmp_path: Path) -> None:
    dim = Image.fromarray((np.asarray(photograph(1.0)) * 0.4).astype(np.uint8))
    result = prepared(tmp_path, dim)
    assert "inverted" in result.done
    assert alike(result.pixels, expected(tmp_path)) > 0.9


def test_bold_strokes_that_fill_the_picture(tmp_path: Path) -> None:
    canvas = np.full((100, 60), 255, np.uint8)
    canvas[2:98, 20:40] = 0
    pixels = prepared(tmp_path, Image.fromarray(canvas)).pixels[0]
    assert (pixels[4:24, 12:16] == 255).all()
    assert pixels.sum() == 255 * 20 * 4


def grainy(size: int, level: int, spread: float) -> Any:
    grain = np.random.default_rng(0).normal(level, spread, (size, size))
    return Image.fromarray(grain.clip(0, 255).astype(np.uint8))


BLANK: dict[str, Any] = {
    "white": lambda size: Image.new("L", (size, size), 255),
    "black": lambda size: Image.new("L", (size, size), 0),
    "grey": lambda size: Image.new("L", (size, size), 100),
    "blue": lambda size: Image.new("RGB", (size, size), (20, 40, 200)),
    "clear": lambda size: Image.new("RGBA", (size, size), (0, 0, 0, 0)),
    "clear noise": lambda size: Image.merge("LA", (grainy(size, 128, 60), Image.new("L", (size, size), 0))),
    "half clear": lambda size: Image.new("RGBA", (size, size), (255, 255, 255, 90)),
    "12 bits": lambda size: Image.new("I;16", (size, size), 3000),
    "faint grain": lambda size: grainy(size, 200, 1),
    "grain": lambda size: grainy(size, 90, 10),
    "framed": lambda size: Image.fromarray(framed(np.asarray(grainy(size, 200, 3)), (1, 1, 1, 1), 0)),
    "lit from one side": lambda size: Image.fromarray(
        np.tile(np.linspace(140, 250, size), (size, 1)).astype(np.uint8)
    ),
}


@pytest.mark.parametrize("size", [20, 28, 50, 56, 300])
@pytest.mark.parametrize("kind", BLANK)
def test_blank_pictures(tmp_path: Path, kind: str, size: int) -> None:
    with pytest.raises(DatasetError, match=r"picture\.png: nothing to see on it"):
        prepared(tmp_path, BLANK[kind](size))


@pytest.mark.parametrize("quality", [50, 80, 95])
def test_a_blank_page_as_jpeg(tmp_path: Path, quality: int) -> None:
    with pytest.raises(DatasetError, match="nothing to see"):
        prepared(tmp_path, grainy(300, 220, 4), ending="jpg", quality=quality)


@pytest.mark.parametrize("size", [(1, 1), (1, 50), (50, 1), (2, 2), (3, 1000)])
def test_odd_sizes_are_read_or_refused(tmp_path: Path, size: tuple[int, int]) -> None:
    noise = np.random.default_rng(1).integers(0, 256, size[::-1]).astype(np.uint8)
    try:
        prepared(tmp_path, Image.fromarray(noise))
    except DatasetError as error:
        assert "nothing to see" in str(error)  # noqa: PT017


# -- other models -------------------------------------------------------------------------


@pytest.mark.parametrize("shape", [(1, 32, 32), (3, 32, 32), (3, 20, 40), (3, 28, 28)])
def test_other_models_get_the_middle(tmp_path: Path, shape: tuple[int, int, int]) -> None:
    colours = np.zeros((100, 200, 3), np.uint8)
    colours[:, 100:] = (255, 128, 0)  # what is cut off, too
    result = prepared(tmp_path, Image.fromarray(colours), shape)
    _, height, width = shape
    assert result.done == f"200x100 -> {width}x{height}"
    right = result.pixels[:, height // 2, -1]
    assert right.tolist() == ([255, 128, 0] if shape[0] == 3 else [151])
    assert result.pixels[:, height // 2, 0].tolist() == [0] * shape[0]


def test_other_models_in_their_size(tmp_path: Path) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (20, 40, 3)).astype(np.uint8)
    result = prepared(tmp_path, Image.fromarray(pixels), (3, 20, 40))
    assert result.done == "as it is"
    np.testing.assert_array_equal(result.pixels, pixels.transpose(2, 0, 1))


def test_channels_that_pictures_do_not_have(tmp_path: Path) -> None:
    with pytest.raises(XpcnnError, match="takes images of 2 channels"):
        prepare(tmp_path / "any.png", (2, 28, 28))


# -- what is no picture -------------------------------------------------------------------


def test_unreadable_files(tmp_path: Path) -> None:
    (tmp_path / "text.png").write_text("no picture")
    (tmp_path / "empty.jpg").touch()
    (tmp_path / "folder.png").mkdir()
    told = {
        "text.png": "no readable image",
        "empty.jpg": "no readable image",
        "absent.png": "No such file or directory",
        "folder.png": "Is a directory",
    }
    for name, message in told.items():
        with pytest.raises(DatasetError, match=f"{re.escape(name)}: {message}"):
            prepare(tmp_path / name, MNIST)


def test_a_decompression_bomb(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 40_000)
    prepared(tmp_path, large())
    for size in (201, 400):  # Pillow only warns up to twice as large
        with pytest.raises(DatasetError, match=rf"picture\.png: too large: .*{size * size} pixels"):
            prepared(tmp_path, large(size, size))


def test_out_of_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*arguments: object) -> None:
        raise MemoryError

    large().save(tmp_path / "picture.png")
    monkeypatch.setattr("xpcnn.cli.images.prepare_picture", fail)
    with pytest.raises(
        DatasetError, match=r"picture\.png: too large for the memory there is: 200x200 pixels"
    ):
        prepare(tmp_path / "picture.png", MNIST)


@cache
def encoded(kind: str) -> bytes:
    buffer = io.BytesIO()
    large(40, 40).save(buffer, kind)
    return buffer.getvalue()


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


def test_without_pillow(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "PIL", None)
    with pytest.raises(XpcnnError, match=re.escape("needs Pillow: pip install 'xpcnn[plot]'")):
        prepare(tmp_path / "any.png", MNIST)


@pytest.mark.parametrize("colour", [(200, 30, 40), (20, 60, 250), (250, 240, 200)])
@pytest.mark.parametrize("size", [28, 64, 200])
def test_blank_pages_whose_colours_lossy_formats_altered(
    tmp_path: Path, size: int, colour: tuple[int, int, int]
) -> None:
    for name, quality in (("page.webp", 20), ("page.webp", 80), ("page.jpg", 30)):
        Image.new("RGB", (size, size), colour).save(tmp_path / name, quality=quality)
        with pytest.raises(DatasetError, match="nothing to see on it"):
            prepare(tmp_path / name, (1, 28, 28), "mnist-digit")
