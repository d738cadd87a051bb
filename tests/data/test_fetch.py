"""Finding and fetching files: folders, mirrors, hashes, interruption; with a server on this machine."""

import dataclasses
import gzip
import hashlib
import http.server
import re
import threading
import time
import tracemalloc
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import numpy as np
import pytest

from xpcnn.data import fetch
from xpcnn.data.fetch import Source, load_file
from xpcnn.data.idx import write_idx
from xpcnn.errors import DatasetError

FILE = "toy-idx1-ubyte"
CONTENT = bytes((0, 0, 8, 1, 0, 0, 0, 5)) + b"hello"
GOOD = gzip.compress(CONTENT, mtime=0)
OTHER = gzip.compress(CONTENT.replace(b"hello", b"howdy"), mtime=0)
SHA256 = hashlib.sha256(CONTENT).hexdigest()
OTHER_SHA256 = hashlib.sha256(gzip.decompress(OTHER)).hexdigest()


class Server:
    """Answers ``/<mirror>/<file>`` as `answers[mirror]` says, and counts what was asked."""

    def __init__(self):
        self.answers, self.asked = {}, []
        outer = self

        class Handler(http.server.BaseHTTPRequestHandler):
            def do_GET(self):
                mirror, file = self.path.strip("/").split("/")
                assert file == f"{FILE}.gz"
                outer.asked.append(mirror)
                outer.answers[mirror](self)

            def log_message(self, *arguments):
                pass

        self.server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        threading.Thread(
            target=self.server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True
        ).start()

    def source(self, **answers):
        self.answers.update(answers)
        urls = tuple(f"http://127.0.0.1:{self.server.server_port}/{mirror}/" for mirror in answers)
        return Source("toy", urls, {FILE: SHA256})


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
    time.sleep(0.5)


@pytest.fixture
def server():
    server = Server()
    yield server
    server.server.shutdown()
    server.server.server_close()


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    """A user cache of the test's own, and no user folder; gives the dataset's folder in it."""
    monkeypatch.delenv("XPCNN_DATA_DIR", raising=False)
    for name in ("NO_PROXY", "no_proxy"):
        monkeypatch.setenv(name, "*")
    monkeypatch.setattr(fetch, "cache_dir", lambda: tmp_path / "cache")
    return tmp_path / "cache" / "toy"


def files(folder):
    return sorted(path.name for path in folder.iterdir())


def test_a_fetched_file_is_cached_under_its_name(server, cache):
    source = server.source(a=sends(GOOD))
    assert load_file(source, FILE) == CONTENT
    assert load_file(source, FILE) == CONTENT
    assert server.asked == ["a"]
    assert files(cache) == [f"{FILE}.gz"]
    assert (cache / f"{FILE}.gz").read_bytes() == GOOD


BAD = {
    "403": refuses,
    "wrong content": sends(OTHER),
    "an error page": sends(b"<html>Sorry</html>"),
    "half a gzip file": sends(GOOD[:-9]),
    "a connection that breaks off": sends(GOOD[:-9], length=len(GOOD)),
}


@pytest.mark.parametrize("bad", BAD.values(), ids=BAD.keys())
def test_a_bad_mirror_gives_way_to_the_next(server, cache, bad):
    assert load_file(server.source(a=bad, b=sends(GOOD), c=sends(OTHER)), FILE) == CONTENT
    assert server.asked == ["a", "b"]
    assert files(cache) == [f"{FILE}.gz"]


def test_a_mirror_that_does_not_answer_gives_way(server, cache, monkeypatch):
    monkeypatch.setattr(fetch, "_TIMEOUT_SECONDS", 0.1)
    assert load_file(server.source(a=sleeps, b=sends(GOOD)), FILE) == CONTENT


def test_recompressed_content_is_accepted(server, cache):
    again = gzip.compress(CONTENT, compresslevel=1, mtime=12345)
    assert again != GOOD
    assert load_file(server.source(a=sends(again)), FILE) == CONTENT
    assert (cache / f"{FILE}.gz").read_bytes() == again


def test_content_decompressed_on_the_way_is_kept_without_gz(server, cache):
    source = server.source(a=sends(GOOD, headers=[("Content-Encoding", "gzip")]))
    assert load_file(source, FILE) == CONTENT
    assert files(cache) == [FILE]


def test_when_all_mirrors_fail_each_is_listed_with_its_reason(server, cache, monkeypatch):
    monkeypatch.setattr(fetch, "_TIMEOUT_SECONDS", 0.1)
    source = server.source(a=refuses, b=sleeps, c=sends(OTHER), d=sends(GOOD[:-9]))
    dead = "http://127.0.0.1:1/"
    with pytest.raises(DatasetError) as caught:
        load_file(Source("toy", (*source.mirrors, dead), source.sha256), FILE)
    message = str(caught.value)
    a, b, c, d = (f"{mirror}{FILE}.gz" for mirror in source.mirrors)
    assert message.startswith(f"toy: cannot get {FILE}: ")
    assert f"{a}: HTTP 403 Forbidden;" in message
    assert f"{b}: no answer within 0.1 seconds;" in message
    assert f"{c}: wrong content: SHA-256 (decompressed) is {OTHER_SHA256}, expected {SHA256};" in message
    assert f"{d}: truncated: the gzip stream breaks off after {len(GOOD) - 9} bytes;" in message
    assert re.search(rf"{dead}{FILE}\.gz: .*refused", message)
    assert f"put {FILE}.gz into {cache} or into a folder toy under $XPCNN_DATA_DIR" in message
    assert "\n" not in message
    assert files(cache) == []


@pytest.mark.parametrize("interruption", [KeyboardInterrupt, SystemExit])
def test_an_interrupted_download_leaves_nothing_behind(server, cache, monkeypatch, interruption):
    source = server.source(a=sends(GOOD))
    download = fetch._download

    def interrupted(url, path, most):
        download(url, path, most)
        assert files(cache) == [path.name]
        path.write_bytes(GOOD[:10])
        raise interruption

    monkeypatch.setattr(fetch, "_download", interrupted)
    with pytest.raises(interruption):
        load_file(source, FILE)
    assert files(cache) == []


def test_a_damaged_cached_file_is_fetched_again(server, cache, caplog):
    cache.mkdir(parents=True)
    (cache / f"{FILE}.gz").write_bytes(GOOD[:-9])
    (cache / FILE).write_bytes(b"junk")
    assert load_file(server.source(a=sends(GOOD)), FILE) == CONTENT
    assert files(cache) == [f"{FILE}.gz"]
    assert "truncated: the gzip stream breaks off" in caplog.text
    assert "fetching it again" in caplog.text


def test_a_damaged_cached_file_is_mentioned_and_kept_if_fetching_fails(server, cache):
    cache.mkdir(parents=True)
    (cache / FILE).write_bytes(b"junk")
    with pytest.raises(DatasetError, match=rf"{cache / FILE}: wrong content: .*; http.*HTTP 403"):
        load_file(server.source(a=refuses), FILE)
    assert files(cache) == [FILE]


@pytest.mark.parametrize("name", [FILE, f"{FILE}.gz"])
@pytest.mark.parametrize("how", ["variable", "root"])
def test_the_users_folder_comes_first(server, cache, tmp_path, monkeypatch, name, how):
    folder = tmp_path / "mine" / "toy"
    folder.mkdir(parents=True)
    write_idx(folder / name, np.frombuffer(b"hello", np.uint8))
    if how == "variable":
        monkeypatch.setenv("XPCNN_DATA_DIR", str(folder.parent))
    root = folder.parent if how == "root" else None
    assert load_file(server.source(a=refuses), FILE, root) == CONTENT
    assert server.asked == []
    assert not cache.exists()


@pytest.mark.parametrize("how", ["variable", "root"])
def test_a_wrong_file_in_the_users_folder_is_an_error_and_left_alone(
    server, cache, tmp_path, monkeypatch, how
):
    path = tmp_path / "mine" / "toy" / f"{FILE}.gz"
    path.parent.mkdir(parents=True)
    path.write_bytes(OTHER)
    if how == "variable":
        monkeypatch.setenv("XPCNN_DATA_DIR", str(tmp_path / "mine"))
    root = tmp_path / "mine" if how == "root" else None
    with pytest.raises(DatasetError) as caught:
        load_file(server.source(a=sends(GOOD)), FILE, root)
    assert str(caught.value) == (
        f"{path}: wrong content: SHA-256 (decompressed) is {OTHER_SHA256}, expected {SHA256}; "
        f"replace or remove it (xpcnn leaves it alone)"
    )
    assert path.read_bytes() == OTHER
    assert server.asked == []


def test_a_good_copy_beside_a_damaged_one_will_do(server, tmp_path):
    folder = tmp_path / "mine" / "toy"
    folder.mkdir(parents=True)
    (folder / FILE).write_bytes(b"junk")
    (folder / f"{FILE}.gz").write_bytes(GOOD)
    assert load_file(server.source(a=refuses), FILE, tmp_path / "mine") == CONTENT


def test_a_file_missing_from_the_variables_folder_is_fetched_into_the_cache(
    server, cache, tmp_path, monkeypatch
):
    monkeypatch.setenv("XPCNN_DATA_DIR", str(tmp_path / "nowhere"))
    assert load_file(server.source(a=sends(GOOD)), FILE) == CONTENT
    assert files(cache) == [f"{FILE}.gz"]
    assert not (tmp_path / "nowhere").exists()


def test_a_file_missing_from_the_root_is_not_fetched(server, tmp_path):
    (tmp_path / "toy").mkdir()
    (tmp_path / "toy" / "toy.csv").touch()
    (tmp_path / "raw").mkdir()
    with pytest.raises(DatasetError) as caught:
        load_file(server.source(a=sends(GOOD)), FILE, tmp_path)
    assert server.asked == []
    assert str(caught.value) == (
        f"toy: no {FILE} or toy.idx1-ubyte, with or without .gz, in toy/, raw/ or directly under {tmp_path}; "
        f"toy/ holds toy.csv; raw/ holds nothing; the latter holds raw, toy"
    )
    with pytest.raises(DatasetError, match=f"directly under {tmp_path / 'none'}, which is no folder"):
        load_file(server.source(a=sends(GOOD)), FILE, tmp_path / "none")


def test_what_a_crowded_folder_holds_is_cut_short(server, tmp_path):
    for number in range(30):
        (tmp_path / f"{number:02d}.png").touch()
    with pytest.raises(DatasetError, match=r"holds 00\.png, .*, 07\.png and 22 more$"):
        load_file(server.source(a=refuses), FILE, tmp_path)


PLACES = {
    "dotted": "toy/toy.idx1-ubyte",
    "dotted and zipped": "toy/toy.idx1-ubyte.gz",
    "directly": FILE,
    "directly, zipped": f"{FILE}.gz",
    "raw": f"raw/{FILE}",
    "in a folder of its name": f"toy/{FILE}/{FILE}",
    "in a dotted folder of its name": "toy.idx1-ubyte/toy.idx1-ubyte",
    "another folder of the dataset": f"Toy/raw/{FILE}",
}


@pytest.mark.parametrize("how", ["variable", "root"])
@pytest.mark.parametrize("place", PLACES.values(), ids=PLACES.keys())
def test_the_usual_names_and_places(server, cache, tmp_path, monkeypatch, place, how):
    path = tmp_path / "mine" / place
    path.parent.mkdir(parents=True)
    path.write_bytes(GOOD if place.endswith(".gz") else CONTENT)
    if how == "variable":
        monkeypatch.setenv("XPCNN_DATA_DIR", str(tmp_path / "mine"))
    source = replace(server.source(a=refuses), folders=("toy", "Toy/raw"))
    assert load_file(source, FILE, tmp_path / "mine" if how == "root" else None) == CONTENT
    assert server.asked == []


def test_another_datasets_file_of_that_name_is_passed_over(server, tmp_path, monkeypatch, caplog):
    """Files directly in $XPCNN_DATA_DIR may be Fashion-MNIST's, where MNIST is asked for."""
    root = tmp_path / "mine"
    root.mkdir()
    (root / f"{FILE}.gz").write_bytes(OTHER)
    monkeypatch.setenv("XPCNN_DATA_DIR", str(root))
    assert load_file(server.source(a=sends(GOOD)), FILE) == CONTENT
    assert f"{root / FILE}.gz: wrong content" in caplog.text
    assert (root / f"{FILE}.gz").read_bytes() == OTHER
    (root / "raw").mkdir()
    (root / "raw" / FILE).write_bytes(CONTENT)
    assert load_file(server.source(a=refuses), FILE, root) == CONTENT  # content decides
    (root / "raw" / FILE).unlink()
    with pytest.raises(DatasetError, match=rf"{FILE}\.gz: wrong content.*leaves it alone"):
        load_file(server.source(a=refuses), FILE, root)


def test_what_was_seen_is_told_where_fetching_fails_too(server, tmp_path, monkeypatch):
    root = tmp_path / "mine"
    root.mkdir()
    (root / "archive.zip").touch()
    monkeypatch.setenv("XPCNN_DATA_DIR", str(root))
    with pytest.raises(DatasetError, match=r"\$XPCNN_DATA_DIR: no toy-.* holds archive\.zip; http.*403"):
        load_file(server.source(a=refuses), FILE)


def test_a_cache_folder_that_cannot_be_made_is_named(server, cache):
    cache.parent.write_text("a file where the folder should be")
    with pytest.raises(DatasetError, match=rf"cannot use the cache folder {cache}: .*by hand"):
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


# -- bounds ----------------------------------------------------------------------------


def sized(source):
    return dataclasses.replace(source, sizes={FILE: len(CONTENT)})


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

    source = sized(server.source(a=endless, b=sends(bytes(5000)), c=sends(GOOD)))
    assert load_file(source, FILE) == CONTENT
    assert server.asked == ["a", "b", "c"]
    assert files(cache) == [f"{FILE}.gz"]
    assert done.wait(10)


def test_no_more_is_decompressed_than_the_file_has(server, cache):
    """A few kB that become 64 MB: refused after the size that is known, and not kept."""
    bomb = gzip.compress(CONTENT[:8] + bytes(1 << 26), mtime=0)
    source = dataclasses.replace(server.source(a=sends(bomb)), sizes={FILE: 1 << 17})
    tracemalloc.start()
    try:
        with pytest.raises(DatasetError, match="more than the 131,072 bytes it should decompress to"):
            load_file(source, FILE)
        assert tracemalloc.get_traced_memory()[1] < 1 << 23
    finally:
        tracemalloc.stop()
    assert files(cache) == []


def test_a_mirror_that_leads_to_plain_http_is_left(server, cache, monkeypatch):
    import requests

    get = requests.get
    monkeypatch.setattr(
        requests, "get", lambda url, **options: get(url.replace("https:", "http:"), **options)
    )
    source = server.source(a=sends(GOOD))
    source = dataclasses.replace(source, mirrors=[url.replace("http:", "https:") for url in source.mirrors])
    with pytest.raises(DatasetError, match=r"leads to http://.* which is not encrypted"):
        load_file(source, FILE)


def test_a_terminal_gets_a_progress_bar(server, cache, monkeypatch, capsys):
    load_file(server.source(a=sends(GOOD)), FILE)
    assert capsys.readouterr().err == ""
    (cache / f"{FILE}.gz").unlink()
    monkeypatch.setattr("sys.stderr.isatty", lambda: True, raising=False)
    load_file(server.source(a=sends(GOOD)), FILE)
    assert "100%" in capsys.readouterr().err
