"""The downloader against a server on this machine that breaks off, lies, refuses, redirects and stalls."""

import hashlib
import http.server
import io
import re
import resource
import socket
import tarfile
import threading
import time

import pytest

import fetch_oxford_iiit_pets as pets
from common.settings import UserError
from dataset import download

BODY = download.GZIP + bytes(range(256)) * 4000  # 1,024,002 bytes
MD5 = hashlib.md5(BODY).hexdigest()


class Handler(http.server.BaseHTTPRequestHandler):
    """Its server's `answer(handler, start)` sends what a test wants; `asked` lists the requests."""

    def do_GET(self):
        start = re.match(r"bytes=(\d+)-", self.headers.get("Range", ""))
        self.server.asked.append(int(start[1]) if start else 0)
        self.server.answer(self, int(start[1]) if start else 0)

    def send(self, body, status=200, length=None, **headers):
        self.send_response(status)
        self.send_header("Content-Length", str(len(body) if length is None else length))
        for name, value in headers.items():
            self.send_header(name.replace("_", "-"), value)
        self.end_headers()
        self.wfile.write(body)
        self.close_connection = True

    def send_range(self, start, end=None):
        headers = {"Content_Range": f"bytes {start}-{len(BODY) - 1}/{len(BODY)}"} if start else {}
        self.send(BODY[start:end], 206 if start else 200, len(BODY) - start, **headers)

    def log_message(self, *_):
        pass


@pytest.fixture
def server(monkeypatch):
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.asked, server.url = [], f"http://127.0.0.1:{server.server_port}/file.tar.gz"
    threading.Thread(target=server.serve_forever, daemon=True).start()
    monkeypatch.setattr(download, "BACK_OFF", 0.01)
    yield server
    server.shutdown()
    server.server_close()


def fetch(tmp_path, *urls):
    download.download(list(urls), tmp_path / "file.tar.gz", len(BODY), MD5)
    assert (tmp_path / "file.tar.gz").read_bytes() == BODY
    assert [p.name for p in tmp_path.iterdir()] == ["file.tar.gz"]


def refused(tmp_path, *urls):
    with pytest.raises(UserError) as error:
        fetch(tmp_path, *urls)
    assert not (tmp_path / "file.tar.gz").exists()
    assert "DATASET=toy" in str(error.value)
    return str(error.value)


@pytest.mark.parametrize("tenths", range(10))
def test_broken_off_at_every_tenth_it_goes_on_from_there(server, tmp_path, tenths):
    cut = len(BODY) * tenths // 10
    server.answer = lambda h, start: h.send_range(start, cut if len(server.asked) == 1 else len(BODY))
    fetch(tmp_path, server.url)
    assert server.asked[0] == 0
    assert cut - download.CHUNK <= server.asked[1] <= cut  # at most a chunk is lost


def test_a_later_run_goes_on_and_a_server_without_range_begins_anew(server, tmp_path):
    (tmp_path / "file.tar.gz.part").write_bytes(BODY[:300_000])
    server.answer = lambda h, start: h.send(BODY)  # ignores Range
    fetch(tmp_path, server.url)
    assert server.asked == [300_000]


def test_a_wrong_part_is_thrown_away_and_a_right_one_is_enough(server, tmp_path):
    server.answer = lambda h, start: h.send_range(start)
    (tmp_path / "file.tar.gz.part").write_bytes(b"x" * 1000)  # from elsewhere: found out by the MD5 of the whole
    fetch(tmp_path, server.url)
    assert server.asked == [1000, 0]
    (tmp_path / "file.tar.gz").unlink()
    (tmp_path / "file.tar.gz.part").write_bytes(BODY)
    fetch(tmp_path, server.url)
    (tmp_path / "file.tar.gz").unlink()
    (tmp_path / "file.tar.gz.part").write_bytes(BODY + b"more")
    fetch(tmp_path, server.url)


def test_a_server_that_always_begins_anew_is_given_up(server, tmp_path):
    cuts = (300_000, 600_000, 100_000, 500_000, 200_000)  # ever more again, but never more than the second

    def answer(handler, start):
        tried = len(server.asked)
        handler.send(BODY[: cuts[(tried - 1) % 5]], 200 if tried < 30 else 404, len(BODY))

    server.answer = answer
    assert "broke off, 4 times" in refused(tmp_path, server.url)
    assert len(server.asked) == 5


def test_a_wrong_part_is_no_progress_that_is_lost(server, tmp_path):
    """From a host that breaks off after every twelfth, once the part of another file has been thrown away."""
    (tmp_path / "file.tar.gz.part").write_bytes(download.GZIP + bytes(999_998))
    server.answer = lambda h, start: h.send_range(start, start + 80_000 if len(server.asked) > 1 else len(BODY))
    fetch(tmp_path, server.url)
    assert len(server.asked) > 12


LIES = {
    "404": (lambda h, start: h.send(b"", 404), "HTTP 404", 1),
    "500": (lambda h, start: h.send(b"", 500), "HTTP 500, 4 times", 4),
    "503": (lambda h, start: h.send(b"", 503, Retry_After="0"), "HTTP 503, 4 times", 4),
    "chunked page": (lambda h, start: h.send(b"<html>log in</html>", length=""), "no gzip archive", 1),
    "page": (lambda h, start: h.send(b"<html>moved</html>"), "18 bytes instead of 1,024,002", 1),
    "length": (lambda h, start: h.send(BODY, length=len(BODY) + 5), "1,024,007 bytes instead of", 1),
    "md5": (lambda h, start: h.send(BODY[:-1] + b"x"), "MD5", 1),
    "redirects": (lambda h, start: h.send(b"", 302, Location="/file.tar.gz"), "redirects without end", 31),
}


@pytest.mark.parametrize("lie", LIES)
def test_a_lying_host_is_named_and_the_next_one_asked(server, tmp_path, lie):
    answer, named, requests = LIES[lie]
    server.answer = answer
    assert named in refused(tmp_path, server.url)
    assert len(server.asked) == requests
    good = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    good.asked, good.answer = [], lambda h, start: h.send_range(start)
    threading.Thread(target=good.serve_forever, daemon=True).start()
    fetch(tmp_path, server.url, f"http://127.0.0.1:{good.server_port}/file.tar.gz")
    good.shutdown()
    good.server_close()


def test_more_than_announced_is_not_taken(server, tmp_path):
    def endless(handler, start):
        handler.send_response(200)
        handler.end_headers()  # no length at all
        try:
            while True:
                handler.wfile.write(BODY)
        except OSError:
            pass

    server.answer = endless
    assert "more than 1,024,002 bytes" in refused(tmp_path, server.url)


def test_a_stalled_connection_is_given_up(server, tmp_path, monkeypatch):
    monkeypatch.setattr(download, "TIMEOUT", 0.2)
    monkeypatch.setattr(download, "TRIES", 2)
    server.answer = lambda h, start: (h.send_response(200), h.end_headers(), h.wfile.flush(), time.sleep(1))
    begin = time.monotonic()
    assert "2 times" in refused(tmp_path, server.url)
    assert time.monotonic() - begin < 5


def test_a_full_disk_is_told_and_what_came_is_kept(server, tmp_path):
    server.answer = lambda h, start: h.send_range(start)
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (500_000, hard))
    try:
        with pytest.raises(UserError, match="could not be written"):
            fetch(tmp_path, server.url)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert [path.name for path in tmp_path.iterdir()] == ["file.tar.gz.part"]
    fetch(tmp_path, server.url)
    assert server.asked[1] > 400_000


def test_why_no_host_answered_is_told_in_words(tmp_path, monkeypatch):
    monkeypatch.setattr(download, "BACK_OFF", 0.0)
    monkeypatch.setattr(download, "TIMEOUT", 0.2)
    silent = socket.create_server(("127.0.0.1", 0))  # takes connections, and never answers
    port = silent.getsockname()[1]
    said = refused(tmp_path, "http://127.0.0.1:9/a", "http://no.such.host.invalid/a", f"http://127.0.0.1:{port}/a")
    silent.close()
    assert "from 127.0.0.1:9: connection refused, 4 times" in said
    assert "from no.such.host.invalid: its name is not known" in said
    assert f"from 127.0.0.1:{port}: no answer for 0.2 s, 4 times" in said
    assert len(said) < 450
    assert "Pool" not in said


def test_retry_after_is_heeded_within_bounds():
    class Error(download.requests.RequestException):
        def __init__(self, seconds):
            super().__init__()
            self.response = type("Response", (), {"headers": {"Retry-After": seconds}})

    assert download.wait_for(Error("7"), 0) == 7
    assert download.wait_for(Error("99999"), 0) == download.LONGEST_WAIT
    for no_number in ("Wed, 21 Oct 2026", "\xb2"):
        assert download.wait_for(Error(no_number), 2) == 4 * download.BACK_OFF


def archive_of(path, *members):
    """A tar file; a member is (name, bytes) or (name, type, link target)."""
    with tarfile.open(path, "w:gz") as tar:
        for name, *content in members:
            info = tarfile.TarInfo(name)
            if len(content) == 1:
                info.size = len(content[0])
                tar.addfile(info, io.BytesIO(content[0]))
            else:
                info.type, info.linkname = content
                tar.addfile(info)


EVIL = {
    "parent": ("../evil", b"x"),
    "absolute link": ("images/evil", tarfile.SYMTYPE, "/etc/passwd"),
    "outside link": ("images/evil", tarfile.SYMTYPE, "../../../evil"),
    "hard link": ("images/evil", tarfile.LNKTYPE, "../../evil"),
    "device": ("images/evil", tarfile.CHRTYPE, ""),
    "bomb": ("images/evil", bytes(2_000_000)),
}


@pytest.mark.parametrize("kind", EVIL)
def test_an_archive_that_reaches_out_is_refused_whole(tmp_path, kind):
    folder = tmp_path / "data"
    folder.mkdir()
    archive_of(folder / "images.tar.gz", ("images/a.jpg", b"a"), EVIL[kind])
    with pytest.raises(UserError, match="could not be unpacked"):
        download.unpack(folder / "images.tar.gz", "images", 1_000_000)
    assert [p.name for p in folder.iterdir()] == ["images.tar.gz"]
    assert [p.name for p in tmp_path.iterdir()] == ["data"]


def test_absolute_names_stay_inside_and_damage_is_told(tmp_path):
    archive_of(tmp_path / "images.tar.gz", ("/images/a.jpg", b"a"))
    download.unpack(tmp_path / "images.tar.gz", "images", 1_000_000)
    assert (tmp_path / "images" / "a.jpg").read_bytes() == b"a"
    whole = (tmp_path / "images.tar.gz").read_bytes()
    (tmp_path / "cut.tar.gz").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(UserError, match="could not be unpacked"):
        download.unpack(tmp_path / "cut.tar.gz", "other", 1_000_000)


def test_the_whole_data_set_comes_from_the_second_host(server, tmp_path, monkeypatch, toy_root):
    """Both archives, fetched, checked, unpacked and read; the first host is down."""
    bodies, archives = {}, []
    for folder in ("images", "annotations"):
        path = tmp_path / f"{folder}.tar.gz"
        with tarfile.open(path, "w:gz") as tar:
            tar.add(toy_root / "oxford-iiit-pet" / folder, folder)
        body = path.read_bytes()
        bodies[f"/{path.name}"] = body
        archives.append(pets.Archive(folder, len(body), hashlib.md5(body).hexdigest()))
    server.answer = lambda h, start: h.send(bodies[h.path][start:])
    monkeypatch.setattr(pets, "ARCHIVES", archives)
    monkeypatch.setattr(pets, "HOSTS", ("http://127.0.0.1:9/", server.url.removesuffix("file.tar.gz")))
    monkeypatch.setattr(pets, "DATA_ROOT", str(tmp_path / "root"))
    monkeypatch.setattr(pets, "OUTPUTS", str(tmp_path / "outputs"))
    assert len(pets.load("trainval").images) == 48
    before = len(server.asked)
    assert len(pets.load("test").images) == 24
    assert len(server.asked) == before  # what is there is used as it is
