"""xpcnn predict: files and folders, the model it takes, and what it says of bad pictures."""

from __future__ import annotations

import os
import re
import shutil
from pathlib import Path

import numpy as np
import pytest

from tests.cli.conftest import Digits, Run
from xpcnn import load_model, models, nn
from xpcnn.train import predict

Image = pytest.importorskip("PIL.Image")


@pytest.fixture
def pictures(xpcnn_command: Run, digits: Digits) -> list[int]:
    """A folder of ten test digits, dark on light and larger; returns their labels."""
    os.mkdir("photos")
    for i in range(10):
        large = Image.fromarray(255 - digits[1].images[i, 0]).resize((140, 140), Image.Resampling.BICUBIC)
        large.save(f"photos/{i}.{'jpg' if i % 2 else 'PNG'}", quality=95)
    return [int(label) for label in digits[1].labels[:10]]


def test_a_folder(xpcnn_command: Run, trained: Path, pictures: list[int]) -> None:
    """Hidden files are passed over, others skipped with a note; another backend gives the same answers."""
    for name in ("notes.txt", "a.pdf", "._0.png", ".DS_Store"):
        Path("photos", name).touch()
    os.mkdir("photos/below.png")
    status, out, err = xpcnn_command("predict", "photos", "--model", trained)
    assert (status, err) == (0, "xpcnn: skipped in photos, as no pictures: a.pdf, notes.txt\n")
    pattern = r"photos/(\d)\.(?:jpg|PNG): (\d) \((\d+\.\d)%\)  inverted, .*cropped, 140x140 -> 28x28"
    lines = [re.fullmatch(pattern, line) for line in out.splitlines()]
    assert [line[1] for line in lines if line] == [str(i) for i in range(10)]
    right = sum(int(line[2]) == label for line, label in zip(lines, pictures, strict=True) if line)
    assert right >= 8
    theirs = xpcnn_command("predict", "photos", "--model", trained, "--backend", "array_api_strict").out
    percentages = [np.array(re.findall(r"\((\d+\.\d)%\)", each), dtype=float) for each in (out, theirs)]
    np.testing.assert_allclose(percentages[0], percentages[1], atol=0.11)


@pytest.mark.slow
def test_many_pictures_are_answered_as_in_the_dataset(
    xpcnn_command: Run, trained: Path, digits: Digits
) -> None:
    os.mkdir("many")
    for i in range(103):
        Image.fromarray(digits[1].images[i, 0]).save(f"many/{i:03}.png")
    expected = predict(load_model(trained), digits[1].images[:103])
    status, out, _ = xpcnn_command("predict", "many/007.png", "many", "--model", trained)
    assert status == 0
    assert out.splitlines() == [
        f"many/{i:03}.png: {expected[i].argmax()} ({expected[i].max():.1%})  as it is"
        for i in (7, *range(103))
    ]


def test_a_bad_picture_does_not_stop_the_others(
    xpcnn_command: Run, trained: Path, pictures: list[int]
) -> None:
    Path("photos/3b.png").write_text("no picture")
    Image.new("L", (50, 50), 255).save("photos/blank.png")
    Path("photos/loop.png").symlink_to("loop.png")
    Path("photos/lost.png").symlink_to("nowhere")
    Path(".hidden.png").touch()
    words = ("absent.png", "photos", ".hidden.png")  # what is named is read
    status, out, err = xpcnn_command("predict", *words, "--model", trained)
    assert status == 1
    assert err.splitlines() == [
        "xpcnn: error: absent.png: No such file or directory",
        "xpcnn: error: photos/3b.png: no readable image",
        "xpcnn: error: photos/blank.png: nothing to see on it",
        "xpcnn: error: photos/loop.png: Too many levels of symbolic links",
        "xpcnn: error: photos/lost.png: No such file or directory",
        "xpcnn: error: .hidden.png: no readable image",
    ]
    assert len(out.splitlines()) == 10
    os.mkdir("empty")
    assert xpcnn_command("predict", "empty", "--model", trained) == (1, "", "xpcnn: no pictures in empty\n")


def test_the_newest_run_is_taken_and_named(xpcnn_command: Run, trained: Path, pictures: list[int]) -> None:
    for age, name in enumerate(("b", "c", "a")):
        shutil.copytree(trained, f"runs/{name}")
        os.utime(f"runs/{name}/model.safetensors", (1000 + age, 1000 + age))
    os.mkdir("runs/unfinished")
    status, out, err = xpcnn_command("predict", "photos/0.PNG")
    assert (status, err) == (0, "xpcnn: with runs/a, the newest run\n")
    assert len(out.splitlines()) == 1


@pytest.mark.parametrize("vote", ["mean", "geometric"])
def test_an_ensemble(xpcnn_command: Run, pictures: list[int], digits: Digits, vote: str) -> None:
    Image.fromarray(digits[1].images[7, 0]).save("7.png")
    members = [models.simple_convnet(seed=0), models.deep_convnet(seed=1)]  # not trained: made for 28x28
    for i, model in enumerate(members):
        model.save(f"{i}.npz")
    together = nn.Ensemble(*members, vote=vote)
    together.save("both.npz")
    (row,) = predict(together, digits[1].images[7:8])
    expected = f"7.png: {row.argmax()} ({row.max():.1%})  as it is\n"
    given = ("--model", "0.npz", "--model", "1.npz", "--vote", vote)
    assert xpcnn_command("predict", "7.png", *given) == (0, expected, "")
    assert xpcnn_command("predict", "7.png", "--model", "both.npz") == (0, expected, "")


def test_prepare_overrides_the_model(xpcnn_command: Run) -> None:
    canvas = np.zeros((60, 90), np.uint8)
    canvas[10:30, 10:20] = 255
    Image.fromarray(canvas).save("p.png")
    digit, scaled = "cropped, 90x60 -> 28x28", "90x60 -> 28x28"
    for noted, override, wanted in (
        ("mnist-digit", None, digit),
        ("mnist-digit", "pad", scaled),
        ("squash", None, scaled),
        ("squash", "mnist-digit", digit),
        (None, None, digit),  # a file of an earlier version
    ):
        model = models.tiny_convnet(seed=0)
        model.spec = model.spec._replace(input_shape=(1, 28, 28), preparation=noted)
        model.save("m.npz")
        options = [] if override is None else ["--prepare", override]
        status, out, _ = xpcnn_command("predict", "p.png", "--model", "m.npz", *options)
        assert (status, out.split("%)  ")[1].strip()) == (0, wanted)
