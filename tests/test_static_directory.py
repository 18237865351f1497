"""The static directory: nothing outside it is ever served, and descriptors come back."""

from __future__ import annotations

import contextlib
import gc
import itertools
import os
import resource
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from quiche_h3.errors import ConfigError, Forbidden, MethodNotAllowed, NotFound, ServiceUnavailable
from quiche_h3.files import FileResponse, StaticDirectory, open_beneath
from quiche_h3.headers import Headers

NONE = Headers()


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
def site(tmp_path: Path) -> Path:
    """A directory with what a careless one may hold, and a secret beside it."""
    (tmp_path / "secret").write_bytes(b"secret")
    root = tmp_path / "site"
    (root / "docs" / "deep").mkdir(parents=True)
    (root / ".well-known").mkdir()
    (root / "bare").mkdir()
    for name in (
        "index.html",
        "a.txt",
        "docs/index.html",
        "docs/deep/b.txt",
        ".env",
        ".well-known/x",
        "%2e",
        "é",
    ):
        (root / name).write_bytes(name.encode())
    (root / "a.txt.gz").write_bytes(b"packed")
    (root / "back\\slash").touch()
    for name, target in {
        "inside": "docs/deep/b.txt",
        "inside-dir": "docs",
        "docs/up": "../a.txt",
        "docs/deep/round": "../../docs/deep/b.txt",
        "chain": "docs/up",
        "outside": "../secret",
        "docs/outside": "../../secret",
        "outside-dir": "..",
        "there-and-back": "../site/a.txt",
        "absolute": str(root / "a.txt"),
        "absolute-inside": "/a.txt",
        "loop": "loop",
        "dangling": "nowhere",
        "device": "/dev/zero",
    }.items():
        (root / name).symlink_to(target)
    os.mkfifo(root / "fifo")
    return root


class TestStaticDirectory:
    @pytest.mark.parametrize(
        ("path", "body"),
        [
            ("a.txt", b"a.txt"),
            ("docs/deep/b.txt", b"docs/deep/b.txt"),
            ("%2e", b"%2e"),
            ("é", "é".encode()),
            (".well-known/x", b".well-known/x"),
            ("inside", b"docs/deep/b.txt"),
            ("inside-dir/deep/b.txt", b"docs/deep/b.txt"),
            ("docs/up", b"a.txt"),
            ("docs/deep/round", b"docs/deep/b.txt"),
            ("chain", b"a.txt"),
        ],
    )
    def test_served(self, site: Path, path: str, body: bytes) -> None:
        """Files by their names, and links that stay inside."""
        assert content(StaticDirectory(site).plan(path, "GET", NONE)) == body

    @pytest.mark.parametrize(
        "path",
        [
            "",
            "/",
            "docs",
            "docs/",
            "absent",
            "a.txt/",
            "a.txt/x",
            "..",
            "../secret",
            "docs/../a.txt",
            "docs/../../secret",
            "./a.txt",
            "docs//deep",
            "/etc/passwd",
            "//etc/passwd",
            "docs\\deep",
            "..\\secret",
            "a.txt\0",
            "\0",
            "\ud800",
            "x" * 5000,
            "docs/" * 2000 + "x",
            "..%2Fsecret",
            ".env",
            "outside",
            "docs/outside",
            "outside-dir",
            "outside-dir/secret",
            "there-and-back",
            "absolute",
            "absolute-inside",
            "back\\slash",
            "loop",
            "dangling",
            "device",
            "fifo",
            "inside-dir/../../secret",
        ],
    )
    def test_refused(self, site: Path, path: str) -> None:
        """Traversal, links that leave, devices, FIFOs, hidden names, directories: all alike 404."""
        with pytest.raises(NotFound):
            StaticDirectory(site).plan(path, "GET", NONE)

    @pytest.mark.parametrize("path", ["outside", "outside-dir/secret", "docs/outside"])
    def test_links_that_leave_when_allowed(self, site: Path, path: str) -> None:
        """follow_symlinks trusts whoever made the links, though not requests."""
        directory = StaticDirectory(site, follow_symlinks=True)
        assert content(directory.plan(path, "GET", NONE)) == b"secret"
        for bad in ("../secret", "device", "loop", "fifo"):
            with pytest.raises(NotFound):
                directory.plan(bad, "GET", NONE)

    def test_dotfiles(self, site: Path) -> None:
        """Hidden names are served on request of the program only; the special ones never."""
        directory = StaticDirectory(site, dotfiles=True)
        assert content(directory.plan(".env", "GET", NONE)) == b".env"
        with pytest.raises(NotFound):
            directory.plan("../secret", "GET", NONE)

    def test_index(self, site: Path) -> None:
        """With a name for it a directory has an index, under the path with the slash, and no listing."""
        directory = StaticDirectory(site, index="index.html")
        assert content(directory.plan("", "GET", NONE)) == b"index.html"
        response = directory.plan("docs/", "GET", NONE)
        assert field(response, b"content-type") == "text/html; charset=utf-8"
        assert content(response) == b"docs/index.html"
        for path in ("bare", "bare/", "docs/deep/", "docs//"):
            with pytest.raises(NotFound):
                directory.plan(path, "GET", NONE)

    @pytest.mark.parametrize(
        ("name", "location"), [("docs", "./docs/"), ("a:b", "./a%3Ab/"), ("é \r\n", "./%C3%A9%20%0D%0A/")]
    )
    def test_redirect_to_the_slash(self, site: Path, name: str, location: str) -> None:
        """Relative links in an index need the slash; the location is relative, and never another site."""
        (site / name).mkdir(exist_ok=True)
        (site / name / "index.html").touch()
        response = StaticDirectory(site, index="index.html").plan(name, "GET", NONE)
        assert (response.status, response.headers) == (301, [(b"location", location.encode())])

    def test_precompressed_siblings(self, site: Path) -> None:
        """On by default, and under the same rules: a sibling that leads outside is none."""
        directory = StaticDirectory(site)
        assert content(directory.plan("a.txt", "GET", headers(accept_encoding="gzip"))) == b"packed"
        (site / "a.txt.br").symlink_to("../secret")
        assert content(directory.plan("a.txt", "GET", headers(accept_encoding="br"))) == b"a.txt"
        plain = StaticDirectory(site, precompressed=False)
        assert content(plain.plan("a.txt", "GET", headers(accept_encoding="gzip"))) == b"a.txt"

    def test_methods(self, site: Path) -> None:
        """Files can be read, not changed."""
        assert StaticDirectory(site).plan("a.txt", "HEAD", NONE).status == 200
        with pytest.raises(MethodNotAllowed) as caught:
            StaticDirectory(site).plan("absent", "PUT", NONE)
        assert caught.value.allowed == ("GET", "HEAD", "OPTIONS")

    def test_no_such_directory(self, site: Path) -> None:
        """A wrong root is told at once."""
        for path in (site / "absent", site / "a.txt"):
            with pytest.raises(ConfigError, match="not a directory"):
                StaticDirectory(path)

    def test_root_replaced(self, site: Path) -> None:
        """A new release may be put in place of the root while the server runs."""
        current = site.parent / "current"
        current.symlink_to("site")
        directory = StaticDirectory(current)
        assert content(directory.plan("a.txt", "GET", NONE)) == b"a.txt"
        (site.parent / "next").mkdir()
        (site.parent / "next" / "a.txt").write_bytes(b"next")
        (site.parent / "new").symlink_to("next")
        (site.parent / "new").replace(current)
        assert content(directory.plan("a.txt", "GET", NONE)) == b"next"

    @pytest.mark.parametrize(
        ("number", "error"), [(13, Forbidden), (24, ServiceUnavailable), (23, ServiceUnavailable)]
    )
    def test_errors_of_the_system(
        self, site: Path, monkeypatch: pytest.MonkeyPatch, number: int, error: type[Exception]
    ) -> None:
        """EACCES is 403, no descriptors left is 503; what was opened before is closed."""
        real = os.open

        def failing(name: str, *args: Any, **kwargs: Any) -> int:
            if name == "b.txt":
                raise OSError(number, "made up")
            return real(name, *args, **kwargs)

        monkeypatch.setattr(os, "open", failing)
        with pytest.raises(error):
            StaticDirectory(site).plan("docs/deep/b.txt", "GET", NONE)

    def test_a_device_is_not_even_opened(self, site: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        """Opening may wait or do something: what is no file is refused by its looks."""
        opened = []
        real = os.open

        def watching(name: Any, *args: Any, **kwargs: Any) -> int:
            opened.append(name)
            return real(name, *args, **kwargs)

        monkeypatch.setattr(os, "open", watching)
        for name in ("fifo", "device"):
            with pytest.raises(NotFound):
                StaticDirectory(site, follow_symlinks=True).plan(name, "GET", NONE)
        assert opened == [site, site]

    def test_a_directory_swapped_for_a_link(self, site: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        """Between the look at a name and its opening it becomes a link that leaves: still not found."""
        real = os.stat

        def swapping(name: Any, **kwargs: Any) -> os.stat_result:
            info = real(name, **kwargs)
            if name in ("bare", "a.txt") and not (site / name).is_symlink():
                (site / name).rename(site.parent / f"old {name}")
                (site / name).symlink_to("../secret" if name == "a.txt" else "..")
            return info

        monkeypatch.setattr(os, "stat", swapping)
        for path in ("a.txt", "bare/secret"):
            with pytest.raises(NotFound):
                StaticDirectory(site).plan(path, "GET", NONE)

    def test_no_descriptors_left(self, site: Path) -> None:
        """Descriptors really running out is a 503, and the next request is served when there are some."""
        directory = StaticDirectory(site)
        soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        lowest = os.open("/dev/null", os.O_RDONLY)
        os.close(lowest)
        resource.setrlimit(resource.RLIMIT_NOFILE, (lowest + 2, hard))
        try:
            with pytest.raises(ServiceUnavailable):
                directory.plan("docs/deep/b.txt", "GET", NONE)
        finally:
            resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
        assert content(directory.plan("docs/deep/b.txt", "GET", NONE)) == b"docs/deep/b.txt"

    @pytest.mark.parametrize("index", [None, "index.html"])
    def test_nothing_outside_is_ever_read(self, site: Path, index: str | None) -> None:
        """Whatever the path, what is answered comes from inside."""
        directory = StaticDirectory(site, index=index)
        names = ("..", ".", "", "docs", "deep", "outside-dir", "inside-dir", "secret", "up", "a.txt")
        served = set()
        for path in itertools.chain.from_iterable(itertools.product(names, repeat=n) for n in range(5)):
            with contextlib.suppress(NotFound):
                response = directory.plan("/".join(path), "GET", NONE)
                served.add(content(response))
        indexes = {b"index.html", b"docs/index.html", b""} if index else set()  # b"" is a redirect
        assert served == {b"a.txt"} | indexes


class TestOpenBeneath:
    def test_directories_and_files(self, site: Path) -> None:
        """It opens either; what may be read is for the caller to say."""
        for names, directory in ((["docs"], True), (["docs", "up"], False), ([], True)):
            fd = open_beneath(site, names)
            assert (os.fstat(fd).st_mode & 0o170000 == 0o040000) is directory
            os.close(fd)

    def test_dot_dot_cannot_climb_out(self, site: Path) -> None:
        """Even for a caller that checks no names."""
        for names in (
            ["..", "secret"],
            ["docs", "..", "..", "secret"],
            ["docs", "up", "..", "..", "..", "secret"],
        ):
            with pytest.raises(NotFound):
                open_beneath(site, names)
