"""Files as responses: what is found, what is answered, and that descriptors come back."""

from __future__ import annotations

import email
import gc
import os
import socket
import tracemalloc
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from quiche_h3.errors import HeaderInvalid, NotFound, ReadError
from quiche_h3.files import CHUNK, FileBody, FileResponse, guess_type, plan_file
from quiche_h3.headers import Headers

NONE = Headers()
TEXT = b"0123456789" * 10


def headers(**fields: str) -> Headers:
    """A section from keyword arguments."""
    return Headers(
        [(name.replace("_", "-").encode(), value.encode("latin-1")) for name, value in fields.items()]
    )


def field(response: FileResponse, name: bytes) -> str | None:
    """The value of the field, which comes once at most."""
    values = [value for key, value in response.headers if key == name]
    assert len(values) <= 1
    return values[0].decode() if values else None


def content(response: FileResponse) -> bytes:
    """The whole body, whose length must be what content-length says."""
    body = b"".join(response.body)
    length = field(response, b"content-length")
    assert length is None or int(length) == len(body)
    return body


def descriptors() -> int:
    """How many descriptors this process has open."""
    return len(list(Path("/dev/fd").iterdir()))


@pytest.fixture(autouse=True)
def no_leak() -> Iterator[None]:
    """No test of this file may leave a descriptor open."""
    before = descriptors()
    yield
    gc.collect()
    assert descriptors() == before


@pytest.fixture
def file(tmp_path: Path) -> Path:
    """A text file of 100 bytes."""
    path = tmp_path / "a.txt"
    path.write_bytes(TEXT)
    return path


class TestPlanFile:
    def test_whole_file(self, file: Path) -> None:
        """200 with type, length, both validators, and the note that ranges are served."""
        response = plan_file(file, "GET", NONE)
        assert response.status == 200
        assert content(response) == TEXT
        assert [name for name, _ in response.headers] == [
            b"content-type",
            b"etag",
            b"last-modified",
            b"accept-ranges",
            b"content-length",
        ]
        assert field(response, b"content-type") == "text/plain; charset=utf-8"
        assert response.parts == ((0, 100, b""),)

    def test_head_is_get_without_content(self, file: Path) -> None:
        """Same fields, no body, no descriptor, and no range (RFC 9110 9.3.2 and 14.2)."""
        get = plan_file(file, "GET", NONE)
        head = plan_file(file, "HEAD", headers(range="bytes=0-1"))
        assert (head.status, head.headers) == (get.status, get.headers)
        assert head.fd == -1
        assert head.parts == ()
        assert list(head.body) == []
        get.close()

    def test_empty_file(self, tmp_path: Path) -> None:
        """An empty file has no part to send and no range to ask for."""
        (tmp_path / "empty").touch()
        response = plan_file(tmp_path / "empty", "GET", headers(range="bytes=0-"))
        assert (response.status, field(response, b"content-length"), response.fd) == (200, "0", -1)

    def test_another_method_gets_all_of_it(self, file: Path) -> None:
        """A handler may answer POST with a file: preconditions and Range are not for it."""
        tag = field(plan_file(file, "HEAD", NONE), b"etag") or ""
        response = plan_file(file, "POST", headers(if_none_match=tag, range="bytes=0-1"))
        assert response.status == 200
        assert content(response) == TEXT

    def test_descriptor_as_source(self, file: Path) -> None:
        """A descriptor is taken over; it has no name to tell the type."""
        fd = os.open(file, os.O_RDONLY)
        response = plan_file(fd, "GET", NONE)
        assert response.fd == fd
        assert field(response, b"content-type") == "application/octet-stream"
        assert content(response) == TEXT
        with pytest.raises(OSError, match="Bad file descriptor"):
            os.fstat(fd)

    def test_own_content_type(self, file: Path) -> None:
        """The caller's type wins, and cannot split the message."""
        response = plan_file(file, "HEAD", NONE, content_type="text/x-own")
        assert field(response, b"content-type") == "text/x-own"
        with pytest.raises(HeaderInvalid):
            plan_file(file, "GET", NONE, content_type="text/plain\r\nx: y")

    def test_what_cannot_be_sent(self, tmp_path: Path) -> None:
        """Absent, a directory, a FIFO, a socket, a device, a name that cannot be: 404, and nothing waits."""
        os.mkfifo(tmp_path / "fifo")
        listener = socket.socket(socket.AF_UNIX)
        listener.bind(str(tmp_path / "socket"))
        listener.close()
        for path in ("absent", ".", "fifo", "socket", "a\0b", "\ud800", "x" * 300, "absent/x", "/dev/zero"):
            with pytest.raises(NotFound):
                plan_file(tmp_path / path, "GET", NONE)
        with pytest.raises(NotFound):
            plan_file(os.open(tmp_path, os.O_RDONLY), "GET", NONE)

    def test_etag_changes_with_the_file(self, file: Path) -> None:
        """Another size, time or inode is another tag; the tag is strong (RFC 9110 8.8.3)."""
        tags = {field(plan_file(file, "HEAD", NONE), b"etag")}
        os.utime(file, ns=(0, 123456789))
        tags.add(field(plan_file(file, "HEAD", NONE), b"etag"))
        file.write_bytes(TEXT[1:])
        os.utime(file, ns=(0, 123456789))
        tags.add(field(plan_file(file, "HEAD", NONE), b"etag"))
        copy = file.with_suffix(".new")
        copy.write_bytes(TEXT[1:])
        os.utime(copy, ns=(0, 123456789))
        copy.replace(file)
        tags.add(field(plan_file(file, "HEAD", NONE), b"etag"))
        assert len(tags) == 4
        assert all(tag and tag.startswith('"') for tag in tags)

    @pytest.mark.parametrize("mtime", [-(2**33), 2**33])
    def test_last_modified_is_never_in_the_future(self, file: Path, mtime: int) -> None:
        """A time that no clock should show is no reason to fail (RFC 9110 8.8.2.1)."""
        os.utime(file, (mtime, mtime))
        first = plan_file(file, "HEAD", NONE)
        date = field(first, b"last-modified")
        assert date is not None
        assert ("1970" in date) is (mtime < 0)
        assert "2242" not in date
        assert plan_file(file, "HEAD", headers(if_modified_since=date)).status == 304

    def test_not_modified(self, file: Path) -> None:
        """304 carries the tag and no content (RFC 9110 15.4.5)."""
        tag = field(plan_file(file, "HEAD", NONE), b"etag") or ""
        response = plan_file(file, "GET", headers(if_none_match=tag, range="bytes=0-1"), precompressed=True)
        assert response.status == 304
        assert response.fd == -1
        assert response.headers == [(b"etag", tag.encode()), (b"vary", b"accept-encoding")]

    def test_precondition_failed(self, file: Path) -> None:
        """412 when the client holds another state (RFC 9110 13.1.1)."""
        response = plan_file(file, "GET", headers(if_match='"other"'))
        assert (response.status, response.parts) == (412, ())


class TestRanges:
    @pytest.mark.parametrize(
        ("value", "start", "end"), [("bytes=0-9", 0, 10), ("bytes=90-500", 90, 100), ("bytes=-7", 93, 100)]
    )
    def test_one(self, file: Path, value: str, start: int, end: int) -> None:
        """206 with Content-Range (RFC 9110 15.3.7.1)."""
        response = plan_file(file, "GET", headers(range=value))
        assert response.status == 206
        assert field(response, b"content-range") == f"bytes {start}-{end - 1}/100"
        assert field(response, b"content-type") == "text/plain; charset=utf-8"
        assert content(response) == TEXT[start:end]

    def test_several(self, file: Path) -> None:
        """multipart/byteranges, in the order asked for, that a MIME parser reads (RFC 9110 14.6)."""
        response = plan_file(file, "GET", headers(range="bytes=50-51,0-2,-1"))
        assert response.status == 206
        assert field(response, b"content-range") is None
        content_type = field(response, b"content-type")
        message = email.message_from_bytes(
            f"content-type: {content_type}\r\n\r\n".encode() + content(response)
        )
        parts: list[Any] = [message.get_payload(at) for at in range(3)]
        assert message.get_content_type() == "multipart/byteranges"
        assert not message.defects
        assert [part["content-range"] for part in parts] == [
            "bytes 50-51/100",
            "bytes 0-2/100",
            "bytes 99-99/100",
        ]
        assert [part.get_payload(decode=True) for part in parts] == [b"01", b"012", b"9"]
        assert {part["content-type"] for part in parts} == {"text/plain; charset=utf-8"}

    def test_several_of_which_one_is_there(self, file: Path) -> None:
        """One range that is left is answered as one (RFC 9110 15.3.7.2)."""
        response = plan_file(file, "GET", headers(range="bytes=200-,5-6"))
        assert field(response, b"content-range") == "bytes 5-6/100"
        assert content(response) == b"56"

    def test_beyond_the_end(self, file: Path) -> None:
        """416 says how long the file is (RFC 9110 15.5.17)."""
        response = plan_file(file, "GET", headers(range="bytes=100-"))
        assert (response.status, field(response, b"content-range"), response.fd) == (416, "bytes */100", -1)

    @pytest.mark.parametrize(
        "value", ["lines=1-2", "bytes=x", "bytes=5-4", "bytes=0-,0-", "bytes=" + "0-0," * 99]
    )
    def test_ignored(self, file: Path, value: str) -> None:
        """What is no good range is as none, also when it would multiply the work (RFC 9110 14.2, 17.15)."""
        response = plan_file(file, "GET", headers(range=value))
        assert response.status == 200
        assert content(response) == TEXT

    def test_if_range(self, file: Path) -> None:
        """A part of the same file, or all of the new one (RFC 9110 13.1.5)."""
        tag = field(plan_file(file, "HEAD", NONE), b"etag") or ""
        for value, status in ((tag, 206), ('"old"', 200)):
            response = plan_file(file, "GET", headers(range="bytes=0-1", if_range=value))
            assert response.status == status
            response.close()


class TestPrecompressed:
    @pytest.fixture
    def packed(self, file: Path) -> Path:
        """The text file with two siblings."""
        for suffix in (".br", ".gz"):
            Path(f"{file}{suffix}").write_bytes(suffix.encode())
        return file

    @pytest.mark.parametrize(
        ("accept", "coding", "body"),
        [
            ("gzip, br", "br", b".br"),
            ("gzip", "gzip", b".gz"),
            ("zstd, gzip;q=0.1", "gzip", b".gz"),
            ("zstd", None, TEXT),
            ("br;q=0", None, TEXT),
        ],
    )
    def test_choice(self, packed: Path, accept: str, coding: str | None, body: bytes) -> None:
        """The best that is there and wanted, with the type of the file itself, and Vary always."""
        response = plan_file(packed, "GET", headers(accept_encoding=accept), precompressed=True)
        assert field(response, b"content-encoding") == coding
        assert field(response, b"content-type") == "text/plain; charset=utf-8"
        assert field(response, b"vary") == "accept-encoding"
        assert content(response) == body

    def test_off(self, packed: Path) -> None:
        """Without the option siblings are not looked for, and nothing varies."""
        response = plan_file(packed, "GET", headers(accept_encoding="br"))
        assert content(response) == TEXT
        assert field(response, b"vary") is None

    def test_each_has_its_tag_and_its_ranges(self, packed: Path) -> None:
        """A coding is another representation (RFC 9110 8.8.3.3): its tag and length are its own."""
        tags = {
            field(plan_file(packed, "HEAD", headers(accept_encoding=coding), precompressed=True), b"etag")
            for coding in ("br", "gzip", "identity")
        }
        assert len(tags) == 3
        response = plan_file(
            packed, "GET", headers(accept_encoding="br", range="bytes=1-"), precompressed=True
        )
        assert field(response, b"content-range") == "bytes 1-2/3"
        assert content(response) == b"br"

    def test_a_directory_is_no_sibling(self, packed: Path) -> None:
        """What is called like a sibling and is no file is passed over."""
        Path(f"{packed}.zst").mkdir()
        response = plan_file(packed, "GET", headers(accept_encoding="zstd, gzip"), precompressed=True)
        assert content(response) == b".gz"


class TestBody:
    def test_large_file_in_chunks(self, tmp_path: Path) -> None:
        """64 MiB pass with no more than a few chunks in memory, and come out in full."""
        path = tmp_path / "large"
        path.touch()
        os.truncate(path, 64 << 20)
        response = plan_file(path, "GET", NONE)
        tracemalloc.start()
        try:
            sizes = [len(chunk) for chunk in response.body]
            peak = tracemalloc.get_traced_memory()[1]
        finally:
            tracemalloc.stop()
        assert sum(sizes) == 64 << 20
        assert set(sizes[:-1]) == {CHUNK}
        assert peak < 4 * CHUNK

    def test_a_file_replaced_meanwhile(self, file: Path) -> None:
        """What was begun is finished: the descriptor holds the old file."""
        response = plan_file(file, "GET", NONE)
        file.unlink()
        file.write_bytes(b"new")
        assert content(response) == TEXT

    def test_a_file_cut_short_meanwhile(self, file: Path) -> None:
        """Content that is not there is an error, not a short or endless body; the descriptor is closed."""
        response = plan_file(file, "GET", NONE)
        os.truncate(file, 50)
        with pytest.raises(ReadError, match="shorter"):
            list(response.body)
        assert response.fd == -1
        assert list(response.body) == []

    def test_a_read_that_fails(self, tmp_path: Path) -> None:
        """An error of the system becomes a ReadError."""
        body = FileBody(os.open(tmp_path, os.O_RDONLY), [(0, 1, b"")])
        with pytest.raises(ReadError):
            next(body)
        assert body.fd == -1

    def test_closed_in_every_case(self, file: Path) -> None:
        """At the end, in the middle, before the beginning, twice, and when it is forgotten."""
        before = descriptors()
        done, middle, unused = (plan_file(file, "GET", headers(range="bytes=0-1,5-6")) for _ in range(3))
        content(done)
        next(middle.body)
        for response in (middle, middle, unused):
            response.close()
        assert (done.fd, middle.fd, unused.fd) == (-1, -1, -1)
        assert next(middle.body, None) is None
        plan_file(file, "GET", NONE)  # forgotten
        next(plan_file(file, "GET", NONE).body)
        gc.collect()
        assert descriptors() == before


@pytest.mark.parametrize(
    ("name", "media_type"),
    [
        ("a.html", "text/html; charset=utf-8"),
        ("/x/y.z/a.CSS", "text/css; charset=utf-8"),
        ("a.js", "text/javascript; charset=utf-8"),
        ("a.mjs", "text/javascript; charset=utf-8"),
        ("a.json", "application/json"),
        ("a.wasm", "application/wasm"),
        ("a.svg", "image/svg+xml"),
        ("a.woff2", "font/woff2"),
        ("a.min.js.map", "application/json"),
        ("a.tar.gz", "application/gzip"),
        ("a.tgz", "application/gzip"),
        ("a.css.br", "application/octet-stream"),
        ("a", "application/octet-stream"),
        ("", "application/octet-stream"),
        ("a.", "application/octet-stream"),
        ("a.nonsense", "application/octet-stream"),
        ("data:text.html", "text/html; charset=utf-8"),
        ("http://x?.html", "text/html; charset=utf-8"),
        ("a.x:y.html", "text/html; charset=utf-8"),
    ],
)
def test_guess_type(name: str, media_type: str) -> None:
    """By the suffix alone, the same on every machine; packed files are not unpacked by the client."""
    assert guess_type(name) == media_type
