"""xpcnn predict: files and folders, the model it takes, and what it says of bad pictures."""

from __future__ import annotations

import os
import re
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from xpcnn import models
from xpcnn.data import Dataset

Image = pytest.importorskip("PIL.Image")


@pytest.fixture
def pictures(xpcnn_command: Any, digits: tuple[Dataset, Dataset]) -> list[int]:
    """A folder of ten test digits, dark on light and larger; returns their labels."""
    os.mkdir("photos")
    for i in range(10):
        large = Image.fromarray(255 - digits[1].images[i, 0]).resize((140, 140), Image.Resampling.BICUBIC)
        large.save(f"photos/{i}.{'jpg' if i % 2 else 'PNG'}", quality=95)
    return [int(label) for label in digits[1].labels[:10]]


def test_a_folder(xpcnn_command: Any, trained: Path, pictures: list[int]) -> None:
    status, out, err = xpcnn_command("predict", "photos", "--model", trained)
    assert (status, err) == (0, "")
    pattern = r"photos/(\d)\.(?:jpg|PNG): (\d) \((\d+\.\d)%\)  inverted, .*cropped, 140x140 -> 28x28"
    lines = [re.fullmatch(pattern, line) for line in out.splitlines()]
    assert [line[1] for line in lines if line] == [str(i) for i in range(10)]
    right = sum(int(line[2]) == label for line, label in zip(lines, pictures, strict=True) if line)
    assert right >= 8
    assert all(10 <= float(line[3]) <= 100 for line in lines if line)


def test_pictures_of_the_models_size_are_predicted_as_in_the_dataset(
    xpcnn_command: Any, trained: Path, digits: tuple[Dataset, Dataset]
) -> None:
    from xpcnn import load_model
    from xpcnn.train import predict

    for i in range(3):
        Image.fromarray(digits[1].images[i, 0]).save(f"{i}.png")
    expected = predict(load_model(trained), digits[1].images[:3])
    _, out, _ = xpcnn_command("predict", "2.png", "0.png", "1.png", "--model", trained / "model.safetensors")
    assert out.splitlines() == [
        f"{i}.png: {expected[i].argmax()} ({expected[i].max():.1%})  as it is" for i in (2, 0, 1)
    ]


def test_many_pictures_in_order(xpcnn_command: Any, trained: Path, digits: tuple[Dataset, Dataset]) -> None:
    os.mkdir("many")
    for i in range(203):
        Image.fromarray(digits[1].images[i, 0]).save(f"many/{i:03}.png")
    status, out, _ = xpcnn_command("predict", "many", "--model", trained)
    assert status == 0
    assert [line[:12] for line in out.splitlines()] == [f"many/{i:03}.png" for i in range(203)]


def test_others_in_a_folder_are_skipped_with_a_note(
    xpcnn_command: Any, trained: Path, pictures: list[int]
) -> None:
    Path("photos/notes.txt").touch()
    Path("photos/a.pdf").touch()
    os.mkdir("photos/below.png")
    status, out, err = xpcnn_command("predict", "photos", "--model", trained)
    assert status == 0
    assert err == "xpcnn: skipped in photos, as no pictures: a.pdf, notes.txt\n"
    assert len(out.splitlines()) == 10


def test_a_bad_picture_does_not_stop_the_others(
    xpcnn_command: Any, trained: Path, pictures: list[int]
) -> None:
    Path("photos/3b.png").write_text("no picture")
    Image.new("L", (50, 50), 255).save("photos/blank.png")
    status, out, err = xpcnn_command("predict", "absent.png", "photos", "--model", trained)
    assert status == 1
    assert err.splitlines() == [
        "xpcnn: error: absent.png: No such file or directory",
        "xpcnn: error: photos/3b.png: no readable image",
        "xpcnn: error: photos/blank.png: nothing to see on it",
    ]
    assert len(out.splitlines()) == 10


def test_an_empty_folder(xpcnn_command: Any, trained: Path) -> None:
    os.mkdir("empty")
    assert xpcnn_command("predict", "empty", "--model", trained) == (1, "", "xpcnn: no pictures in empty\n")


# -- the model ----------------------------------------------------------------------------


def test_the_newest_run_is_taken_and_named(xpcnn_command: Any, trained: Path, pictures: list[int]) -> None:
    for age, name in enumerate(("b", "c", "a")):
        shutil.copytree(trained, f"runs/{name}")
        os.utime(f"runs/{name}/model.safetensors", (1000 + age, 1000 + age))
    os.mkdir("runs/unfinished")
    status, out, err = xpcnn_command("predict", "photos/0.PNG")
    assert (status, err) == (0, "xpcnn: with runs/a, the newest run\n")
    assert len(out.splitlines()) == 1


def test_no_run_at_all(xpcnn_command: Any, pictures: list[int]) -> None:
    status, out, err = xpcnn_command("predict", "photos")
    assert (status, out) == (1, "")
    assert err.startswith("xpcnn: error: no trained run in ./runs: `xpcnn train` makes one, or --model")


def test_models_of_other_images(xpcnn_command: Any, pictures: list[int]) -> None:
    models.tiny_convnet(input_shape=(3, 20, 30)).save("colour.npz")
    models.tiny_convnet(input_shape=(2, 20, 30)).save("two.npz")
    status, out, _ = xpcnn_command("predict", "photos/0.PNG", "--model", "colour.npz")
    assert status == 0
    assert out.endswith("%)  140x140 -> 30x20\n")
    status, out, err = xpcnn_command("predict", "photos/0.PNG", "--model", "two.npz")
    assert (status, out) == (1, "")
    assert err == "xpcnn: error: the model takes images of 2 channels; pictures have 1 (grey) or 3\n"


def test_a_model_that_does_not_say_its_size(
    xpcnn_command: Any, trained: Path, pictures: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("xpcnn.cli.predict.input_shape_of", lambda model: None)
    status, _, err = xpcnn_command("predict", "photos/0.PNG", "--model", trained)
    assert (status, err.count("\n")) == (1, 1)
    assert err.endswith(": the model does not say what size of images it takes\n")


@pytest.mark.parametrize(
    ("content", "message"), [(None, "w.npz: no such file"), (b"garbage", "w.npz: not a readable npz file")]
)
def test_models_that_cannot_be_read(
    xpcnn_command: Any, pictures: list[int], content: bytes | None, message: str
) -> None:
    if content is not None:
        Path("w.npz").write_bytes(content)
    status, _, err = xpcnn_command("predict", "photos", "--model", "w.npz")
    assert (status, err.count("\n")) == (1, 1)
    assert message in err


def test_no_pictures_named(xpcnn_command: Any) -> None:
    status, _, err = xpcnn_command("predict")
    assert status == 2
    assert err.startswith("xpcnn predict: error: the following arguments are required: IMAGE_OR_FOLDER")


def test_on_another_backend(xpcnn_command: Any, trained: Path, pictures: list[int]) -> None:
    ours = xpcnn_command("predict", "photos", "--model", trained)
    theirs = xpcnn_command("predict", "photos", "--model", trained, "--backend", "array_api_strict")
    percentages = [
        np.array(re.findall(r"\((\d+\.\d)%\)", result.out), dtype=float) for result in (ours, theirs)
    ]
    np.testing.assert_allclose(percentages[0], percentages[1], atol=0.11)
