"""Finding and fetching files: folders, mirrors, hashes, interruption; with a server on this machine."""

import gzip
import hashlib
import http.server
import re
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import pytest

from tests.support.files import at_most_mib
from xpcnn.data import fetch
from xpcnn.data.fetch import Source, load_file
from xpcnn.errors import DatasetError

FILE = "toy-idx1-ubyte"
CONTENT = bytes((0, 0, 8, 1, 0, 0, 0, 5)) + b"hello"
GOOD = gzip.compress(CONTENT, mtime=0)
OTHER = gzip.compress(CONTENT.replace(b"hello", b"howdy"), mtime=0)
SHA256, OTHER_SHA256 = (hashlib.sha256(gzip.decompress(content)).hexdigest() for content in (GOOD, OTHER))
SOURCE = Source("toy", (), {FILE: SHA256}, ("toy",), {FILE: len(CONTENT)})
WRONG = f"wrong content: SHA-256 (decompressed) is {OTHER_SHA256}, expected {SHA256}"


class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        mirror, file = self.path.strip("/").split("/")
        assert file == f"{FILE}.gz"
        self.server.asked.append(mirror)
        self.server.answers[mirror](self)

    def log_message(self, *arguments):
        pass


class Server(http.server.ThreadingHTTPServer):
    """Answers ``/<mirror>/<file>`` as `answers[mirror]` says, and notes what was asked."""

    def source(self, **answers):
        self.answers.update(answers)
        urls = tuple(f"http://127.0.0.1:{self.server_port}/{mirror}/" for mirror in answers)
        return replace(SOURCE, mirrors=urls)


def sends(content, headers=(), length=None):
    def answer(handler):
        handler.send_response(200)
        handler.send_header("Content-Length", str(len(content) if length is None else length))
        for header in headers:
            handler.send_header(*header)
        handler.end_headers()
        handler.wfile.write(content)

    return answer


def refuses(handler):
    handler.send_error(403)


def sleeps(handler):
    time.sleep(3)


@pytest.fixture
def server():
    with Server(("127.0.0.1", 0), Handler) as server:
        server.answers, server.asked = {}, []
        threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
        yield server
        server.shutdown()


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    """A user cache of the test's own, and no user folder; gives the dataset's folder in it."""
    monkeypatch.delenv("XPCNN_DATA_DIR", raising=False)
    for name in ("NO_PROXY", "no_proxy"):
        monkeypatch.setenv(name, "*")
    monkeypatch.setattr(fetch, "cache_dir", lambda: tmp_path / "cache")
    return tmp_path / "cache" / "toy"


@pytest.fixture(params=["variable", "root"])
def mine(request, tmp_path, monkeypatch):
    """A user's own folder, and the `root` argument that names it unless $XPCNN_DATA_DIR does."""
    folder = tmp_path / "mine"
    if request.param == "root":
        return folder, folder
    monkeypatch.setenv("XPCNN_DATA_DIR", str(folder))
    return folder, None


def files(folder):
    return sorted(path.name for path in folder.iterdir())


def write(path, content):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)
    return path


# -- mirrors and the cache -------------------------------------------------------------


def test_a_fetched_file_is_cached_under_its_name(server, cache):
    again = gzip.compress(CONTENT, compresslevel=1, mtime=12345)  # the content counts
    source = server.source(a=sends(again))
    assert load_file(source, FILE) == load_file(source, FILE) == CONTENT
    assert server.asked == ["a"]
    assert files(cache) == [f"{FILE}.gz"]
    assert (cache / f"{FILE}.gz").read_bytes() == again != GOOD


BAD = {
    "forbids": (refuses, "403 Client Error: Forbidden"),  # as the one address that the book knows
    "sleeps": (sleeps, "timed out"),
    "wrong": (sends(OTHER), re.escape(WRONG)),
    "page": (sends(b"<html>Sorry</html>"), "wrong content"),
    "half": (sends(GOOD[:-9]), "truncated: the gzip stream breaks off"),
    "breaks": (sends(GOOD[:-9], length=len(GOOD)), "IncompleteRead"),
    "length": (sends(GOOD, length="many"), "invalid literal"),
}
"""Mirrors that fail, with what is told of each."""


def test_bad_mirrors_give_way_to_the_next_and_are_listed_if_all_fail(server, cache, monkeypatch):
    monkeypatch.setattr(fetch, "_TIMEOUT_SECONDS", 1.5)
    bad = {name: answer for name, (answer, _) in BAD.items()}
    assert load_file(server.source(**bad, good=sends(GOOD), other=sends(OTHER)), FILE) == CONTENT
    assert server.asked == [*BAD, "good"]
    assert files(cache) == [f"{FILE}.gz"]
    (cache / f"{FILE}.gz").unlink()
    server.answers.clear()
    source = server.source(**bad)
    with pytest.raises(DatasetError) as caught:
        load_file(replace(source, mirrors=(*source.mirrors, "http://127.0.0.1:1/")), FILE)
    told = [
        f"{url}{FILE}.gz: .*{text}.*" for url, (_, text) in zip(source.mirrors, BAD.values(), strict=True)
    ]
    told.append("http://127.0.0.1:1/.*refused.*")
    by_hand = rf"put {FILE}\.gz into {cache} or into a folder toy under \$XPCNN_DATA_DIR"
    assert re.fullmatch(
        rf"toy: cannot get {FILE}: {'; '.join(told)}; to provide .*{by_hand}", str(caught.value)
    )
    assert files(cache) == []


def test_content_decompressed_on_the_way_is_kept_without_gz(server, cache):
    source = server.source(a=sends(GOOD, headers=[("Content-Encoding", "gzip")]))
    assert load_file(source, FILE) == CONTENT
    assert files(cache) == [FILE]


def test_an_interrupted_download_leaves_nothing_behind(server, cache, monkeypatch):
    download = fetch._download

    def interrupted(url, path, most):
        download(url, path, most)
        assert files(cache) == [path.name]
        raise KeyboardInterrupt

    monkeypatch.setattr(fetch, "_download", interrupted)
    with pytest.raises(KeyboardInterrupt):
        load_file(server.source(a=sends(GOOD)), FILE)
    assert files(cache) == []


def test_a_damaged_cached_file_is_fetched_again(server, cache):
    write(cache / f"{FILE}.gz", GOOD[:-9])
    write(cache / FILE, b"junk")
    with pytest.raises(DatasetError, match=rf"{cache / FILE}: wrong content: .*; http.*403"):
        load_file(server.source(a=refuses), FILE)
    assert files(cache) == [FILE, f"{FILE}.gz"]  # kept as long as there is nothing better
    assert load_file(server.source(a=sends(GOOD)), FILE) == CONTENT
    assert files(cache) == [f"{FILE}.gz"]


def test_a_cache_folder_that_cannot_be_used_is_named(server, cache):
    write(cache.parent, b"a file where the folder should be")
    with pytest.raises(DatasetError, match=rf"http\S*: .*'{cache}'; to provide the files by hand"):
        load_file(server.source(a=sends(GOOD)), FILE)


def test_fetching_at_the_same_time_is_safe(server, cache):
    together = threading.Barrier(4)

    def answer(handler):
        together.wait(5)
        sends(GOOD)(handler)

    source = server.source(a=answer)
    with ThreadPoolExecutor(4) as pool:
        assert list(pool.map(lambda _: load_file(source, FILE), range(4))) == [CONTENT] * 4
    assert server.asked == ["a"] * 4
    assert files(cache) == [f"{FILE}.gz"]


def test_the_cache_is_the_users(monkeypatch):
    monkeypatch.undo()
    assert fetch.cache_dir().parts[-1] == "xpcnn"


def test_a_terminal_gets_a_progress_bar(server, cache, monkeypatch, capsys):
    load_file(server.source(a=sends(GOOD)), FILE)
    assert capsys.readouterr().err == ""
    (cache / f"{FILE}.gz").unlink()
    monkeypatch.setattr("sys.stderr.isatty", lambda: True, raising=False)
    load_file(server.source(a=sends(GOOD)), FILE)
    assert "100%" in capsys.readouterr().err


# -- the user's own folders ------------------------------------------------------------

PLACES = [
    *(f"toy/{FILE}", "toy/toy.idx1-ubyte.gz", FILE, f"{FILE}.gz", f"raw/{FILE}", f"Toy/raw/{FILE}"),
    *(f"toy/{FILE}/{FILE}", "toy.idx1-ubyte/toy.idx1-ubyte"),
]


@pytest.mark.parametrize("place", PLACES)
def test_the_usual_names_and_places_come_first(server, cache, mine, place):
    folder, root = mine
    write(folder / place, GOOD if place.endswith(".gz") else CONTENT)
    source = replace(server.source(a=refuses), folders=("toy", "Toy/raw"))
    assert load_file(source, FILE, root) == CONTENT
    assert server.asked == []
    assert not cache.exists()


def test_a_wrong_file_in_the_users_folder_is_an_error_and_left_alone(server, mine):
    folder, root = mine
    path = write(folder / "toy" / f"{FILE}.gz", OTHER)
    with pytest.raises(DatasetError) as caught:
        load_file(server.source(a=sends(GOOD)), FILE, root)
    assert str(caught.value) == f"{path}: {WRONG}; replace or remove it (xpcnn leaves it alone)"
    assert path.read_bytes() == OTHER
    assert server.asked == []
    write(folder / "toy" / FILE, b"junk")
    path.write_bytes(GOOD)  # a good copy beside a damaged one will do
    assert load_file(server.source(a=refuses), FILE, root) == CONTENT
    path.rename(folder / f"{FILE}.gz")  # in the folder of all datasets, too
    assert load_file(server.source(a=refuses), FILE, root) == CONTENT


def test_another_datasets_file_of_that_name_is_passed_over(server, tmp_path, monkeypatch):
    """Files directly in $XPCNN_DATA_DIR may be Fashion-MNIST's, where MNIST is asked for."""
    root = tmp_path / "mine"
    path = write(root / f"{FILE}.gz", OTHER)
    monkeypatch.setenv("XPCNN_DATA_DIR", str(root))
    with pytest.raises(DatasetError, match=rf"{path}: wrong content.*403"):
        load_file(server.source(a=refuses), FILE)
    assert load_file(server.source(a=sends(GOOD)), FILE) == CONTENT
    assert path.read_bytes() == OTHER
    raw = write(root / "raw" / FILE, CONTENT)
    assert load_file(server.source(a=refuses), FILE, root) == CONTENT  # content decides
    raw.unlink()
    with pytest.raises(DatasetError, match=rf"{FILE}\.gz: wrong content.*leaves it alone"):
        load_file(server.source(a=refuses), FILE, root)


def test_a_missing_file_is_fetched_unless_a_root_is_named(server, cache, tmp_path, monkeypatch):
    for path in ("toy/toy.csv", *(f"crowded/{number:02d}.png" for number in range(30))):
        write(tmp_path / path, b"")
    for root, told in {
        tmp_path: rf"toy: no {FILE} or toy\.idx1-ubyte, with or without \.gz, in {tmp_path}/toy, "
        rf"{tmp_path}/raw, {tmp_path}; {tmp_path}/toy holds 'toy.csv'; {tmp_path} holds 'crowded', 'toy'$",
        tmp_path / "none": "; none of these is a folder$",
        tmp_path / "crowded": ", '06.png', '07.png' and 22 more$",
        "~nobody-of-this-name": r"\$XPCNN_DATA_DIR or root: '~nobody-of-this-name'",
    }.items():
        with pytest.raises(DatasetError, match=told):
            load_file(server.source(a=sends(GOOD)), FILE, root)
    assert server.asked == []
    monkeypatch.setenv("XPCNN_DATA_DIR", str(tmp_path / "crowded"))
    with pytest.raises(DatasetError, match=r"\$XPCNN_DATA_DIR: no toy-.* and 22 more; http.*403"):
        load_file(server.source(a=refuses), FILE)
    assert load_file(server.source(a=sends(GOOD)), FILE) == CONTENT
    assert files(cache) == [f"{FILE}.gz"]


# -- bounds ----------------------------------------------------------------------------


def test_no_more_is_fetched_than_the_file_can_have(server, cache):
    """A mirror that sends without end is left; what it sent until then are the buffers of the system."""
    sent, done = [], threading.Event()

    def endless(handler):
        handler.send_response(200)
        handler.end_headers()
        try:
            while len(sent) < 1 << 10:
                handler.wfile.write(bytes(1 << 16))
                sent.append(1 << 16)
        except OSError:
            done.set()

    source = server.source(a=endless, b=sends(bytes(5000)), c=sends(GOOD))
    assert load_file(source, FILE) == CONTENT
    assert server.asked == ["a", "b", "c"]
    assert files(cache) == [f"{FILE}.gz"]
    assert done.wait(10)


def test_no_more_is_decompressed_than_the_file_has(server, cache):
    """A few kB that become 16 MB: refused after the size that is known, and not kept."""
    bomb = gzip.compress(CONTENT[:8] + bytes(1 << 24), mtime=0)
    source = replace(server.source(a=sends(bomb)), sizes={FILE: 1 << 17})
    message = "more than the 131,072 bytes it should decompress to"
    with at_most_mib(4), pytest.raises(DatasetError, match=message):
        load_file(source, FILE)
    assert files(cache) == []


def test_a_mirror_that_leads_to_plain_http_is_left(server, monkeypatch):
    import requests

    get = requests.get
    monkeypatch.setattr(requests, "get", lambda url, **more: get(url.replace("https:", "http:"), **more))
    source = server.source(a=sends(GOOD))
    source = replace(source, mirrors=tuple(url.replace("http:", "https:") for url in source.mirrors))
    with pytest.raises(DatasetError, match=r"leads to http://.* which is not encrypted"):
        load_file(source, FILE)
