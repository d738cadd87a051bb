"""``--import FILE.py``: own models and datasets on the command line, and files that cannot be imported."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import xpcnn
from tests.cli.conftest import Run
from xpcnn import data, models, nn, plugins
from xpcnn.cli.imports import import_file, without_imports
from xpcnn.errors import ArgumentError, DatasetError, PluginError
from xpcnn.train import load_model

OWN = """
from xpcnn import data, models, nn

@nn.registered("{name}.Double")
class Double(nn.Layer):
    per_sample = True

    def __init__(self, factor: float = 2.0):
        self.factor = factor

    def forward(self, x, *, train=False, key=None):
        return x * self.factor, None

    def backward(self, ctx, dy, grads=None, *, need_dx=True):
        return dy * self.factor if need_dx else None

@models.register_model("{name}")
def net(classes: int = 10, in_channels: int = 1, width=4, seed=0):
    return nn.Sequential(
        conv=nn.Conv2d(in_channels, width, 3, seed=seed),
        double=Double(0.5),
        pool=nn.AdaptiveAvgPool2d(2),
        flatten=nn.Flatten(),
        fc=nn.Linear(4 * width, classes, seed=seed),
    )

@data.register_dataset("{name}-data")
def digits():
    digits = data.synthetic_digits(60, seed=3)
    return digits[:40], digits[40:]
"""


def own_file(folder: Path, name: str) -> Path:
    path = folder / f"{name}_file.py"
    path.write_text(OWN.replace("{name}", name))
    return path


def test_an_own_model_on_an_own_dataset(xpcnn_command: Run, tmp_path: Path) -> None:
    file = own_file(tmp_path, "import_a")
    options = ("--model", "import_a", "--dataset", "import_a-data", "--model-option", "width=3")
    result = xpcnn_command("train", "--import", file, *options, "--epochs", 1, "--out", "run")
    assert result.status == 0, result.err
    assert f"xpcnn evaluate --import {file} run" in result.out
    assert load_model("run").double.factor == 0.5  # type: ignore[attr-defined]
    assert load_model("run").conv.weight.shape == (3, 1, 3, 3)  # type: ignore[attr-defined]
    again = xpcnn_command("train", f"--import={file}", "--resume", "run", "--epochs", 2)
    assert again.status == 0, again.err
    for command in (
        ("evaluate", "run"),
        ("summary", "run"),
        ("summary", "import_a"),
        ("plot", "run", "curves"),
    ):
        result = xpcnn_command(*command, "--import", file)
        assert result.status == 0, result.err


def test_in_a_process_of_its_own(tmp_path: Path) -> None:
    """What other tests register is not there."""
    file = own_file(tmp_path, "import_b")
    (tmp_path / "beside.py").write_text("WIDTH = 5\n")
    file.write_text(file.read_text().replace("from xpcnn import", "import beside\nfrom xpcnn import", 1))

    def command(*words: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-m", "xpcnn", *words], cwd=tmp_path, capture_output=True, text=True, check=False
        )

    train = ("train", "--model", "import_b", "--dataset", "import_b-data", "--epochs", "1", "--out", "run")
    done = command(*train, "--import", str(file))
    assert done.returncode == 0, done.stderr
    assert command("evaluate", "run", "--import", str(file)).returncode == 0
    without = command(*train)
    assert without.returncode == 2
    assert "invalid choice: 'import_b'" in without.stderr
    resumed = command("train", "--resume", "run")
    assert resumed.returncode == 1
    assert "unknown dataset 'import_b-data'; --import FILE.py brings one of your own" in resumed.stderr
    evaluated = command("evaluate", "run", "--dataset", "synthetic-digits")
    assert evaluated.returncode == 1
    assert "model 'import_b'" in evaluated.stderr
    assert "--import FILE.py" in evaluated.stderr
    assert len(evaluated.stderr.splitlines()) == 1


BROKEN = {
    "an error": ("x = 1\n\n1 / 0\n", "line 3: ZeroDivisionError: division by zero"),
    "an error in a library": ("import json\njson.loads('x')\n", "line 2: JSONDecodeError: Expecting value"),
    "no Python": ("x = 1\ndef (:\n", "line 2: SyntaxError: "),
    "an exit": ("import sys\nsys.exit(0)\n", "line 2: SystemExit: 0"),
    "an import": ("\nimport no_such_module\n", "line 2: ModuleNotFoundError: No module named"),
    "a bare error": ("raise RuntimeError\n", "line 1: RuntimeError"),
    "null bytes": ("x = '\0'\n", "SyntaxError: "),
    "an own error": (
        "from xpcnn import nn\nnn.registered('Linear')(type('L', (nn.Layer,), {}))\n",
        "line 2: ArgumentError: registered: the name 'Linear' is that of xpcnn.nn.linear.Linear",
    ),
}


@pytest.mark.parametrize(("code", "message"), BROKEN.values(), ids=BROKEN.keys())
def test_a_broken_file_is_one_line(xpcnn_command: Run, tmp_path: Path, code: str, message: str) -> None:
    (tmp_path / "broken.py").write_text(code)
    result = xpcnn_command("info", "--import", "broken.py")
    assert result.status == 1
    assert result.err.startswith("xpcnn: error: --import broken.py: ")
    assert message in result.err
    assert len(result.err.splitlines()) == 1
    assert "broken" not in sys.modules


def test_files_that_are_none(xpcnn_command: Run, tmp_path: Path) -> None:
    assert "--import absent.py: no such file" in xpcnn_command("info", "--import", "absent.py").err
    assert "is a folder" in xpcnn_command("info", "--import", tmp_path).err
    missing = xpcnn_command("train", "--import")
    assert missing.status == 2
    assert "--import: expected one argument" in missing.err
    assert "--import FILE.py" in xpcnn_command("predict", "--help").out


def test_which_words_are_files() -> None:
    words = ["train", "--import", "a.py", "--lr", "1", "--import=b.py", "--", "--import", "c"]
    assert without_imports(words) == (["train", "--lr", "1", "--", "--import", "c"], ["a.py", "b.py"])
    assert without_imports(["info", "--import", "--help"]) == (["info", "--import", "--help"], [])


def test_names_of_modules(tmp_path: Path) -> None:
    """A file named as a module of Python's is not that module."""
    for name in ("json", "no identifier", "statistics_of_mine"):
        (tmp_path / f"{name}.py").write_text("from xpcnn.data import catalog\ncatalog.seen = __name__\n")
    import json

    names = []
    for name in ("json", "no identifier", "statistics_of_mine"):
        import_file(str(tmp_path / f"{name}.py"))
        names.append(data.catalog.__dict__.pop("seen"))
    assert names == ["xpcnn_import_json", "xpcnn_import_no_identifier", "statistics_of_mine"]
    assert sys.modules["json"] is json
    import_file(str(tmp_path / "statistics_of_mine.py"))
    assert "seen" not in vars(data.catalog)  # it is run once


# -- what is registered -----------------------------------------------------------------------


def test_models_that_cannot_be_registered() -> None:
    def stars(*sizes: int) -> nn.Layer: ...  # type: ignore[empty-body]

    for function, message in (
        (3, "must be a function that returns a model, got 3"),
        (nn.ReLU, "must be a function"),
        (stars, r"stars takes \*sizes"),
    ):
        with pytest.raises(ArgumentError, match=message):
            models.register_model("import_bad")(function)  # type: ignore[arg-type]
    with pytest.raises(ArgumentError, match="register_model: the name 'lenet5' is taken"):
        models.register_model("lenet5")(lambda: nn.ReLU())
    with pytest.raises(ArgumentError, match=r'its name is missing; write @register_model\("my_name"\)'):
        models.register_model(lambda: nn.ReLU())  # type: ignore[arg-type]
    with pytest.raises(ArgumentError, match="a name must be a letter followed by"):
        models.register_model("a b")(lambda: nn.ReLU())

    @models.register_model("import_none")
    def returns_none() -> Any: ...

    with pytest.raises(ArgumentError, match="import_none: its function must return a layer, got NoneType"):
        models.build("import_none")


def test_datasets_that_cannot_be_registered() -> None:
    with pytest.raises(ArgumentError, match="the name 'mnist' is taken"):
        data.register_dataset("mnist")(lambda: None)  # type: ignore[arg-type, return-value]
    with pytest.raises(ArgumentError, match="must be a function that returns a training and a test set"):
        data.register_dataset("import-three")(3)  # type: ignore[type-var]
    with pytest.raises(ArgumentError, match="its name is missing"):
        data.register_dataset(lambda: None)  # type: ignore[arg-type]
    with pytest.raises(ArgumentError, match=r"is called without arguments, but it lacks some: .*'path'"):
        data.register_dataset("import-four")(lambda path: None)  # type: ignore[arg-type, misc]
    with pytest.raises(ArgumentError, match=r"unknown dataset \['mnist'\]; known: "):
        data.load_dataset(["mnist"])  # type: ignore[arg-type]
    data.register_dataset("import-odd")(lambda: [1, 2])  # type: ignore[arg-type, return-value]
    with pytest.raises(DatasetError, match=r"'import-odd' must be two, .* its function returned list"):
        data.load_dataset("import-odd")
    with pytest.raises(ArgumentError, match="unknown dataset 'nowhere'; known: synthetic-digits, mnist"):
        data.load_dataset("nowhere")


@pytest.fixture
def site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A folder of installed distributions."""
    folder = tmp_path / "site"
    folder.mkdir()
    monkeypatch.syspath_prepend(str(folder))
    plugins._found.cache_clear()
    yield folder
    plugins._found.cache_clear()


def install(site: Path, name: str, **points: str) -> None:
    info = site / f"{name}-2.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 2.0\n")
    lines = [f"[xpcnn.{group}]\n{point.replace(' = ', ' = ')}\n" for group, point in points.items()]
    (info / "entry_points.txt").write_text("\n".join(lines))


def test_entry_points(xpcnn_command: Run, site: Path) -> None:
    own_file(site, "import_c")
    install(
        site, "acme", models="import_c = import_c_file:net", datasets="import_c-data = import_c_file:digits"
    )
    install(site, "broken", models="import_d = nowhere_at_all:net")
    assert {"import_c", "import_d"} <= set(models.model_names())
    assert "import_c_file" not in sys.modules
    options = ("--model", "import_c", "--dataset", "import_c-data", "--epochs", 1, "--out", "run")
    result = xpcnn_command("train", *options)
    assert result.status == 0, result.err
    assert "import_d" in xpcnn_command("train", "--help").out
    with pytest.raises(PluginError, match=r"'import_d' of the distribution broken 2\.0 cannot be imported"):
        models.build("import_d")
    failed = xpcnn_command("train", "--model", "import_d")
    assert failed.status == 1
    assert "xpcnn: error: xpcnn.models: 'import_d' of the distribution broken 2.0" in failed.err


def test_a_plain_function_and_another_name(site: Path) -> None:
    (site / "import_e_file.py").write_text(
        "from xpcnn import models, nn\ndef plain(width=2):\n    return nn.Linear(width, 1)\n"
        "@models.register_model('import_f')\ndef other():\n    return nn.ReLU()\nnumber = 3\n"
    )
    install(
        site,
        "acme",
        models="import_e = import_e_file:plain\n"
        "import_g = import_e_file:other\nimport_h = import_e_file:number",
    )
    assert models.build("import_e", width=3).weight.shape == (1, 3)  # type: ignore[attr-defined]
    with pytest.raises(PluginError, match="'import_g': the model is registered as 'import_f'"):
        models.build("import_g")
    with pytest.raises(PluginError, match=r"'import_h': .*must be a function"):
        models.build("import_h")


def test_layers_of_distributions_are_found(site: Path) -> None:
    """By `load_model` alone, in a process that has not heard of them; a broken one is only told of."""
    own_file(site, "import_i")
    install(site, "acme", models="import_i = import_i_file:net")
    install(site, "broken", models="import_j = nowhere_at_all:net")
    make = (
        "from xpcnn import models, nn; model = models.build('import_i'); "
        "model['more'] = nn.ReLU(); model.save('m.npz')"
    )
    read = "import logging; logging.basicConfig(); import xpcnn; print(xpcnn.load_model('m.npz'))"
    path = os.pathsep.join([str(site), str(Path(xpcnn.__file__).parents[1])])
    for code in (make, read):
        done = subprocess.run(
            [sys.executable, "-c", code],
            cwd=site,
            env={**os.environ, "PYTHONPATH": path},
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, done.stderr
    assert "(double): Double()" in done.stdout
    assert "(more): ReLU()" in done.stdout
    assert "'import_j' of the distribution broken 2.0 cannot be imported" in done.stderr
