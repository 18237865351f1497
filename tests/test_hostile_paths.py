"""Paths that try to leave a static directory, as they stand in a request (attack row 36)."""

from __future__ import annotations

import itertools
import os
from pathlib import Path

import pytest
from conformance import wire
from conformance.peer import MemoryServer, Peer

UPWARDS = (
    b"..", b"%2e%2e", b"%2E.", b".%2e", b"%252e%252e", b"..%00", b"..%20", b"%20..", b"..;", b"....",
    b"%c0%ae%c0%ae", b"%e0%80%ae%e0%80%ae", b"%ef%bc%8e%ef%bc%8e", b"%u002e%u002e", b"..%0a", b".%00.",
)  # fmt: skip
SLASHES = (
    b"/", b"//", b"/./", b"%2f", b"%2F", b"%252f", b"\\", b"%5c", b"%c0%af", b"%e0%80%af", b"%ef%bc%8f",
    b"%u2215",
)  # fmt: skip
OTHERS = (
    b"/etc/passwd", b"//etc/passwd", b"%2fetc/passwd", b"%2Fetc%2Fpasswd", b"file:///etc/passwd",
    b"~/.bashrc",
    b"c:/secret", b"c:%5csecret", b"%5c%5chost%5cshare", b"\\\\host\\share", b"a.txt%00", b"a.txt%00.html",
    b"%00", b"a.txt/", b"a.txt/x", b"a.txt/..", b"a.txt/../../secret", b"docs", b"docs/", b"docs/.",
    b"docs/..",
    b".", b"..", b"./", b"../", b"/", b"//", b"", b"%2e", b"%2e/", b"%", b"%2", b"%zz", b"%ff%fe",
    b"\xff\xfe",
    b".env", b"%2eenv", b".git/config", b"docs/.hidden", b"a.txt::$DATA", b"a.txt:stream", b"CON", b"nul.txt",
    b"outside", b"outside-dir", b"outside-dir/secret", b"docs/outside", b"absolute", b"loop", b"dangling",
    b"device", b"proc", b"proc/environ", b"fifo", b"socket", b"A.TXT", b"a.txt%20", b"a.txt.", b"a%2etxt%2f",
    b"x" * 300, b"docs/" * 400 + b"a.txt", b"../" * 600 + b"secret", b"%2e%2e%2f" * 200 + b"secret",
    b"*", b"?", b"..?", b"#", b"docs/%2e%2e/%2e%2e/secret", b"docs//..//..//secret", b"docs/./../../secret",
    b"\n", b"a.txt\r\nx: y", b"a.txt ", b" a.txt", b"\t", b"a\x7f.txt", b"\xef\xbc\x8e\xef\xbc\x8e/secret",
)  # fmt: skip
PATHS = [up + slash + b"secret" for up, slash in itertools.product(UPWARDS, SLASHES)]
PATHS += [b"docs/" + up + slash + up + slash + b"secret" for up in UPWARDS for slash in (b"/", b"%2f")]
PATHS += OTHERS


@pytest.fixture
def site(tmp_path: Path) -> Path:
    """A directory with a file, and with what a careless one may hold; a secret beside it."""
    (tmp_path / "secret").write_bytes(b"SECRET")
    root = tmp_path / "root"
    (root / "docs").mkdir(parents=True)
    (root / ".git").mkdir()
    for name in ("a.txt", "docs/b.txt"):
        (root / name).write_bytes(b"served")
    for name in (".env", ".git/config", "docs/.hidden"):
        (root / name).write_bytes(b"SECRET")
    for name, target in {
        "outside": "../secret", "outside-dir": "..", "docs/outside": "../../secret", "loop": "loop",
        "absolute": str(tmp_path / "secret"), "dangling": "nowhere", "device": "/dev/zero",
        "proc": "/proc/self",
    }.items():  # fmt: skip
        (root / name).symlink_to(target)
    os.mkfifo(root / "fifo")
    return root


def test_no_path_leaves_the_directory(site: Path) -> None:
    """Whatever a path is made of: 400, 403, 404 or 414, at once, and no descriptor stays open."""
    assert len(set(PATHS)) >= 300
    with MemoryServer() as server:
        server.static("/files", site)
        server.compile()
        peer = Peer(server).open()
        good = peer.fetch(wire.get(b"/files/a.txt"))
        assert (good.status, good.body) == (200, b"served")
        open_before = os.listdir("/proc/self/fd")  # noqa: PTH208 - names are enough
        for number, path in enumerate(PATHS, 1):
            answer = peer.fetch(wire.get(b"/files/" + path), stream_id=number * 4)
            assert answer.status in (400, 403, 404, 414), path
            assert b"SECRET" not in answer.body, path
        assert peer.closed is None
        assert len(os.listdir("/proc/self/fd")) == len(open_before)  # noqa: PTH208
        assert peer.fetch(wire.get(b"/files/docs/b.txt"), stream_id=number * 4 + 4).body == b"served"


@pytest.mark.parametrize(
    ("value", "status"),
    [
        ("bytes=0-18446744073709551616", 206),
        ("bytes=99999999999999999999999999999999-", 416),
        ("bytes=-99999999999999999999999999999999", 206),
        ("bytes=" + "9" * 5000 + "-", 200),
        ("bytes=" + ",".join(["0-0"] * 1000), 200),
        ("bytes=0-5,0-5", 200),
        ("bytes=5-0", 200),
        ("bytes=-0", 416),
        ("octets=0-1", 200),
        ("bytes=0-1-2", 200),
        ("bytes=--1", 200),
        ("bytes=\xb2-", 200),
    ],
)
def test_hostile_ranges(site: Path, value: str, status: int) -> None:
    """Huge, many, overlapping and meaningless ranges: 416, or no range (RFC 9110 14.2 and 17.15)."""
    with MemoryServer() as server:
        server.static("/files", site)
        server.compile()
        fields = wire.request(b"/files/a.txt", b"GET", (b"range", value.encode("latin-1")))
        answer = Peer(server).open().fetch(wire.headers(fields))
        assert (answer.status, len(answer.body)) == (status, 0 if status == 416 else 6)
