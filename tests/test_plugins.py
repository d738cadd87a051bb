"""Entry points of other distributions: found by name, imported when asked for, and named when broken."""

import sys

import pytest

from xpcnn import plugins
from xpcnn.errors import PluginError


def install(folder, name, group, points):
    """Install a distribution without code into a folder of `sys.path`."""
    metadata = folder / f"{name}-1.0.dist-info"
    metadata.mkdir(parents=True)
    (metadata / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n")
    lines = [f"[{group}]", *(f"{point} = {value}" for point, value in points.items())]
    (metadata / "entry_points.txt").write_text("\n".join(lines) + "\n")


@pytest.fixture
def site(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(str(tmp_path))
    plugins._found.cache_clear()
    yield tmp_path
    plugins._found.cache_clear()


def test_objects_by_name(site):
    install(site, "acme", "xpcnn.things", {"two": "acme_code:b", "one": "acme_code:a"})
    install(site, "other", "xpcnn.else", {"three": "acme_code:c"})
    assert plugins.names("xpcnn.things") == ("one", "two")
    (site / "acme_code.py").write_text("a, b = 'first', 'second'\n")
    assert "acme_code" not in sys.modules
    assert plugins.load("xpcnn.things", "one") == "first"
    assert plugins.load("xpcnn.things", "two") == "second"
    del sys.modules["acme_code"]


@pytest.mark.parametrize(
    "code", ["1 / 0", "raise OSError('of its own')", "import nowhere_to_be_found", "x ="]
)
def test_a_broken_one_is_named_and_others_are_not_affected(site, code):
    install(site, "broken-code", "xpcnn.things", {"bad": "broken_code:a"})
    install(site, "missing", "xpcnn.things", {"worse": "json:no_such_name"})
    install(site, "fine", "xpcnn.things", {"good": "json:loads"})
    (site / "broken_code.py").write_text(f"{code}\n")
    with pytest.raises(PluginError, match=r"'bad' of the distribution broken-code 1\.0 .* 'broken_code:a'"):
        plugins.load("xpcnn.things", "bad")
    with pytest.raises(PluginError, match=r"'worse' of the distribution missing 1\.0 .*no_such_name"):
        plugins.load("xpcnn.things", "worse")
    assert plugins.load("xpcnn.things", "good").__name__ == "loads"


def test_a_name_of_two_distributions(site):
    install(site, "a", "xpcnn.things", {"x": "json:loads"})
    install(site, "b", "xpcnn.things", {"x": "json:dumps"})
    assert plugins.names("xpcnn.things") == ("x",)
    with pytest.raises(PluginError, match=r"'x': (a|b) 1\.0 and (a|b) 1\.0 declare it"):
        plugins.load("xpcnn.things", "x")


def test_a_name_of_none(site):
    with pytest.raises(PluginError, match=r"xpcnn\.things: 'x': no distribution declares it"):
        plugins.load("xpcnn.things", "x")
