"""Files as responses: which file a path names, what to answer, and the body in chunks. No network here.

`plan_file()` is for a file that the program names, `StaticDirectory` for names that come from a request. Both
give a `FileResponse`: status, header fields, and a body that is read piece by piece from an open descriptor,
so that the file may be replaced or removed while it is sent.
"""

from __future__ import annotations

import errno
import mimetypes
import os
import secrets
import stat
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final
from urllib.parse import quote

from .conditional import Validators, acceptable_codings, parse_range, precondition_status, range_applies
from .errors import (
    ConfigError,
    Forbidden,
    InvalidRange,
    Malformed,
    MethodNotAllowed,
    MultiRange,
    NonBytesUnit,
    NotFound,
    ReadError,
    ServiceUnavailable,
    Unsatisfiable,
)
from .headers import Headers, Pair, encode_header

Part = tuple[int, int, bytes]  # offset and length in the file, and bytes that go before

CHUNK: Final = 65_536  # bytes of one read
_MAX_LINKS: Final = 40  # as Linux has it, path_resolution(7)
_SIBLINGS: Final = {"br": ".br", "zstd": ".zst", "gzip": ".gz"}  # the best first

_OPEN: Final = os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK | os.O_NOCTTY
_OPEN_DIRECTORY: Final = os.O_DIRECTORY | os.O_CLOEXEC | getattr(os, "O_PATH", os.O_RDONLY)

# Python's own table without the system's, so that every machine says the same; and what it lacks or has old.
_TYPES: Final = mimetypes.MimeTypes()
for _suffix, _type in {
    ".avif": "image/avif",
    ".flac": "audio/flac",
    ".js": "text/javascript",
    ".md": "text/markdown",
    ".mjs": "text/javascript",
    ".map": "application/json",
    ".wasm": "application/wasm",
    ".webmanifest": "application/manifest+json",
    ".webp": "image/webp",
    ".woff": "font/woff",
    ".woff2": "font/woff2",
}.items():
    _TYPES.add_type(_type, _suffix)
_PACKED_TYPES: Final = {"gzip": "application/gzip", "bzip2": "application/x-bzip2", "xz": "application/x-xz"}


class FileBody:
    """The parts of a file as an iterator of chunks of at most 64 KiB, read when asked for.

    With a `sink`, as `Stream.write_file()`, the file's bytes go there as far as they are taken, and the chunk
    is empty. It owns the descriptor and closes it at the end, on an error, on `close()` and when collected.
    Raises ReadError when the file cannot be read or has become shorter than it was.
    """

    def __init__(self, fd: int, parts: Sequence[Part]) -> None:
        self.fd = fd
        self.parts = tuple(parts)
        self.sink: Callable[[int, int, int], int] | None = None
        self._todo = iter(self.parts)
        self._offset = self._left = 0
        self._prefix = b""

    def __iter__(self) -> Iterator[bytes]:
        return self

    def __next__(self) -> bytes:
        while self.fd >= 0:
            if self._prefix:
                prefix, self._prefix = self._prefix, b""
                return prefix
            if self._left:
                return self._read()
            part = next(self._todo, None)
            if part is None:
                break
            self._offset, self._left, self._prefix = part
        self.close()
        raise StopIteration

    def _read(self) -> bytes:
        data = b""
        try:
            if self.sink is not None:
                size = self.sink(self.fd, self._offset, self._left)
            elif data := os.pread(self.fd, min(self._left, CHUNK), self._offset):
                size = len(data)
            else:
                raise EOFError
        except OSError as exc:
            self.close()
            raise ReadError(f"reading a file failed: {exc}") from exc
        except EOFError:
            self.close()
            raise ReadError("a file has become shorter while it was sent") from None
        self._offset += size
        self._left -= size
        return data

    def close(self) -> None:
        """Close the descriptor now; no chunk comes after that."""
        fd, self.fd = self.fd, -1
        if fd >= 0:
            os.close(fd)

    def __del__(self) -> None:
        self.close()


@dataclass(slots=True, eq=False)
class FileResponse:
    """What to answer. `body` has no parts, and no descriptor, where the response has no content."""

    status: int
    headers: list[Pair]
    body: FileBody

    @property
    def parts(self) -> tuple[Part, ...]:
        """(offset, length, bytes that go before) of each piece of the body."""
        return self.body.parts

    @property
    def fd(self) -> int:
        """The open descriptor, -1 when there is none."""
        return self.body.fd

    def close(self) -> None:
        """Give the descriptor back without sending the body."""
        self.body.close()


def plan_file(
    source: str | os.PathLike[str] | int,
    method: str,
    request_headers: Headers,
    *,
    content_type: str | None = None,
    precompressed: bool = False,
) -> FileResponse:
    """How to answer a request with a file: `source` is its path, or a descriptor that becomes the response's.

    GET and HEAD heed preconditions (RFC 9110 13), GET also Range (RFC 9110 14); other methods get all of it.
    A Range that is malformed, of another unit, or of too many or overlapping ranges is ignored, as RFC 9110
    14.2 allows; one beyond the end is a 416. With `precompressed` the file `path.br`, `.zst` or `.gz` is sent
    instead when it is there and the client takes it. Links are followed: no path may come from a request.

    Raises NotFound (also for what is no regular file), Forbidden or ServiceUnavailable (no descriptors left).
    """
    if isinstance(source, int):
        return _plan(source, "", method, request_headers, content_type, None)
    path = os.fspath(source)

    def open_file(suffix: str = "") -> int:
        with _http_errors():
            fd = _open_entry(path + suffix, None, follow=True)
        if fd is None:
            raise NotFound
        return fd

    return _plan(
        open_file(), path, method, request_headers, content_type, open_file if precompressed else None
    )


class StaticDirectory:
    """A directory whose files are served under the names that requests give.

    Only what is under `root` is served: no `..`, no backslash or NUL, no device, FIFO or socket. A symbolic
    link is followed while it stays inside; with `follow_symlinks` it may lead anywhere. Names that begin with
    a dot are hidden, other than `.well-known` (RFC 8615), unless `dotfiles` is set. A directory is answered
    with its file called `index`, if a name is given, and is never listed.
    """

    def __init__(
        self,
        root: str | os.PathLike[str],
        *,
        index: str | None = None,
        follow_symlinks: bool = False,
        dotfiles: bool = False,
        precompressed: bool = True,
    ) -> None:
        self.root = Path(root).absolute()
        self.index = index
        self.follow_symlinks = follow_symlinks
        self.dotfiles = dotfiles
        self.precompressed = precompressed
        if not self.root.is_dir():
            raise ConfigError(
                "root", f"{str(self.root)!r} is not a directory", "name a directory that exists"
            )

    def plan(self, path: str, method: str, request_headers: Headers) -> FileResponse:
        """The answer for a decoded path below the directory, without a slash at its beginning.

        Raises MethodNotAllowed for other methods than GET and HEAD, and what `plan_file()` raises.
        """
        if method not in ("GET", "HEAD"):
            raise MethodNotAllowed(("GET", "HEAD", "OPTIONS"))
        wants_directory = path == "" or path.endswith("/")
        names = [] if path == "" else path.removesuffix("/").split("/")
        if not all(map(self._allowed, names)):
            raise NotFound
        fd = self._open(names)
        if stat.S_ISDIR(os.fstat(fd).st_mode):
            os.close(fd)
            if self.index is None:
                raise NotFound
            names.append(self.index)
            fd = self._open(names)
            if not wants_directory:
                os.close(fd)
                return _redirect_to_directory(names[-2])
        elif wants_directory:
            os.close(fd)
            raise NotFound

        def open_sibling(suffix: str) -> int:
            return self._open([*names[:-1], names[-1] + suffix])

        siblings = open_sibling if self.precompressed else None
        return _plan(fd, names[-1], method, request_headers, None, siblings)

    def _allowed(self, name: str) -> bool:
        if name in ("", ".", "..") or "\0" in name or "\\" in name:
            return False
        return self.dotfiles or not name.startswith(".") or name == ".well-known"

    def _open(self, names: Sequence[str]) -> int:
        return open_beneath(self.root, names, follow_symlinks=self.follow_symlinks)


def open_beneath(root: str | os.PathLike[str], names: Sequence[str], *, follow_symlinks: bool = False) -> int:
    """A descriptor of the file or directory that `names` lead to, one step for each, starting at `root`.

    Every step is taken from the descriptor of the one before, so that nobody can swap a directory for a link
    meanwhile. Links are resolved here, not by the system: one that is absolute or climbs above `root` is not
    found. Raises NotFound, Forbidden, ServiceUnavailable.
    """
    todo = list(reversed(names))
    links = 0
    opened: list[int] = []
    try:
        with _http_errors():
            opened.append(os.open(root, _OPEN_DIRECTORY))
            while todo:
                name = todo.pop()
                if name in ("", "."):
                    continue
                if name == "..":
                    if len(opened) == 1:
                        raise NotFound
                    os.close(opened.pop())
                    continue
                fd = _open_entry(name, opened[-1], follow=follow_symlinks)
                if fd is not None:
                    opened.append(fd)
                    continue
                links += 1
                target = os.readlink(name, dir_fd=opened[-1])
                if links > _MAX_LINKS or target.startswith("/"):
                    raise NotFound
                todo.extend(reversed(target.split("/")))
        return opened.pop()
    finally:
        for fd in opened:
            os.close(fd)


def _open_entry(name: str, dir_fd: int | None, follow: bool) -> int | None:
    """Open a regular file or a directory; None for a link that is not to be followed.

    Others are not even opened: that may wait (a FIFO) or do something (a device). Whoever reads checks again
    what was opened, since the name may have changed hands after the first look.
    """
    mode = os.stat(name, dir_fd=dir_fd, follow_symlinks=follow).st_mode
    if stat.S_ISLNK(mode):
        return None
    if not (stat.S_ISREG(mode) or stat.S_ISDIR(mode)):
        raise NotFound
    flags = _OPEN_DIRECTORY if stat.S_ISDIR(mode) else _OPEN
    return os.open(name, flags if follow else flags | os.O_NOFOLLOW, dir_fd=dir_fd)


@contextmanager
def _http_errors() -> Iterator[None]:
    """What the system says of a path, as what to tell the client."""
    try:
        yield
    except PermissionError:
        raise Forbidden from None
    except ValueError:  # a NUL, or text that no file name can have
        raise NotFound from None
    except OSError as exc:
        if exc.errno in (errno.EMFILE, errno.ENFILE):
            raise ServiceUnavailable("no file descriptors left") from exc
        if exc.errno in (errno.ENOENT, errno.ENOTDIR, errno.ELOOP, errno.ENAMETOOLONG, errno.ENXIO):
            raise NotFound from None
        raise


def guess_type(name: str) -> str:
    """The media type that a file name tells, with the charset for text: everything is taken for UTF-8."""
    _, *suffixes = name.rpartition("/")[2].split(".")
    media_type, packed = _TYPES.guess_type("./x." + ".".join(suffixes[-2:]), strict=False)  # it wants a URL
    if packed is not None:
        return _PACKED_TYPES.get(packed, "application/octet-stream")
    if media_type is None:
        return "application/octet-stream"
    return f"{media_type}; charset=utf-8" if media_type.startswith("text/") else media_type


def _redirect_to_directory(name: str) -> FileResponse:
    # Relative, and with "./" so that no name is taken for a scheme or an authority (RFC 3986 4.2).
    return FileResponse(301, [(b"location", f"./{quote(name, safe='')}/".encode())], FileBody(-1, ()))


def _plan(
    fd: int,
    name: str,
    method: str,
    request_headers: Headers,
    content_type: str | None,
    open_sibling: Callable[[str], int] | None,
) -> FileResponse:
    """The response for an open file, whose descriptor it takes over, or closes when it raises."""
    try:
        info = os.fstat(fd)
        if not stat.S_ISREG(info.st_mode):
            raise NotFound
        fields = [encode_header("content-type", content_type or guess_type(name))]
        if open_sibling is not None:
            fields.append((b"vary", b"accept-encoding"))
            coding, packed = _open_packed(open_sibling, request_headers)
            if packed >= 0:
                plain, fd = fd, packed
                os.close(plain)
                info = os.fstat(fd)
                fields.append((b"content-encoding", coding.encode()))
        status, fields, parts = _answer(info, method, request_headers, fields)
    except BaseException:
        os.close(fd)
        raise
    if not parts:
        os.close(fd)
        fd = -1
    return FileResponse(status, fields, FileBody(fd, parts))


def _open_packed(open_sibling: Callable[[str], int], request_headers: Headers) -> tuple[str, int]:
    """The best precompressed sibling that is there and that the client takes, as (coding, descriptor)."""
    for coding in acceptable_codings(request_headers.get("accept-encoding"), _SIBLINGS):
        try:
            fd = open_sibling(_SIBLINGS[coding])
        except (NotFound, Forbidden):
            continue
        if stat.S_ISREG(os.fstat(fd).st_mode):
            return coding, fd
        os.close(fd)
    return "", -1


def _answer(
    info: os.stat_result, method: str, request_headers: Headers, fields: list[Pair]
) -> tuple[int, list[Pair], list[Part]]:
    """Status, header fields and parts for a file; `fields` are those that describe its content."""
    size = info.st_size
    # A time in the future is no Last-Modified (RFC 9110 8.8.2.1), one before 1970 no HTTP-date of use.
    modified = max(0, min(info.st_mtime_ns // 1_000_000_000, int(time.time())))
    validators = Validators(f'"{info.st_ino:x}-{info.st_mtime_ns:x}-{size:x}"', modified)
    etag = (b"etag", validators.etag.encode())
    if method in ("GET", "HEAD") and (status := precondition_status(request_headers, validators)):
        return status, [etag, *(field for field in fields if field[0] == b"vary")], []  # RFC 9110 15.4.5
    fields = [
        *fields,
        etag,
        (b"last-modified", validators.last_modified.encode()),
        (b"accept-ranges", b"bytes"),
    ]
    ranges: list[tuple[int, int]] = []
    wanted = request_headers.get("range") if method == "GET" and size else None  # RFC 9110 14.2: only for GET
    if wanted is not None and range_applies(request_headers, validators):
        try:
            ranges = parse_range(wanted, size)
        except Unsatisfiable:
            return 416, [(b"content-range", b"bytes */%d" % size), (b"accept-ranges", b"bytes")], []
        except (InvalidRange, Malformed, MultiRange, NonBytesUnit):
            pass
    if len(ranges) > 1:
        fields, parts = _byteranges(fields, ranges, size)
    else:
        start, length = ranges[0] if ranges else (0, size)
        parts = [(start, length, b"")] if length else []
        if ranges:
            fields.append((b"content-range", _content_range(start, length, size)))
    fields.append((b"content-length", b"%d" % sum(length + len(prefix) for _, length, prefix in parts)))
    return 206 if ranges else 200, fields, parts if method != "HEAD" else []


def _byteranges(
    fields: list[Pair], ranges: list[tuple[int, int]], size: int
) -> tuple[list[Pair], list[Part]]:
    """Several ranges as multipart/byteranges (RFC 9110 14.6); `fields` begin with the content type."""
    boundary = secrets.token_hex(16).encode()
    content_type = fields[0][1]
    delimiter = b"--" + boundary
    parts = []
    for start, length in ranges:
        content_range = _content_range(start, length, size)
        prefix = b"%s\r\ncontent-type: %s\r\ncontent-range: %s\r\n\r\n" % (
            delimiter,
            content_type,
            content_range,
        )
        parts.append((start, length, prefix))
        delimiter = b"\r\n--" + boundary
    parts.append((0, 0, delimiter + b"--\r\n"))
    return [(b"content-type", b"multipart/byteranges; boundary=" + boundary), *fields[1:]], parts


def _content_range(start: int, length: int, size: int) -> bytes:
    return b"bytes %d-%d/%d" % (start, start + length - 1, size)
