"""One request and its response in the client's loop, and what a program's call becomes before."""

from __future__ import annotations

import io
import json as _json
import os
import stat
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import Future
from typing import TYPE_CHECKING, Any, Final, NamedTuple, Protocol, runtime_checkable

from .body import CHUNK
from .capsules import CapsuleReader
from .datagrams import DatagramQueue, capsule_reader
from .errors import (
    CapsuleError,
    ConnectionClosed,
    H3ErrorCode,
    InvalidState,
    MalformedMessage,
    QuicheH3Error,
    StreamReset,
    TimedOut,
)
from .headers import Headers, Pair, encode_header
from .request import Priority
from .urls import Origin, check_method, parse_url, request_target

if TYPE_CHECKING:
    from collections.abc import AsyncIterable

    from ._core.fields import FieldSection
    from ._core.http3_stream import Stream

QUEUE_BYTES: Final = 262_144
"""What a request's body may hold beside QUIC's own buffers before whoever writes it waits."""
DATAGRAMS: Final = 1024
"""Datagrams that a request holds for whoever takes them; then the oldest is dropped."""
MAX_INTERIM: Final = 100
SAFE_METHODS: Final = frozenset({"GET", "HEAD", "OPTIONS", "TRACE"})  # RFC 9110 9.2.1
IDEMPOTENT_METHODS: Final = SAFE_METHODS | {"PUT", "DELETE"}  # RFC 9110 9.2.2
_MAX_FIELDS: Final = 250
_NOT_SENT: Final = (1 << 64) - 1

HeaderItems = Mapping[str, str] | Iterable[tuple[str | bytes, str | bytes | int]]
Chunk = bytes | bytearray | memoryview | str


@runtime_checkable
class Readable(Protocol):
    """A file, as far as a request body needs it."""

    def read(self, size: int, /) -> bytes: ...


Data = Chunk | Readable | Iterable[Chunk]


class Interim(NamedTuple):
    """An interim response: 100 Continue, 103 Early Hints."""

    status: int
    headers: Headers


class Prepared(NamedTuple):
    """A request that was checked and can be sent."""

    method: str
    origin: Origin
    target: str
    pairs: list[Pair]
    body: bytes | None
    """The whole body; None where it comes piece by piece."""

    @property
    def url(self) -> str:
        """The absolute URL."""
        return self.origin.url + self.target

    @property
    def safe(self) -> bool:
        """It may be sent twice without harm, and so in 0-RTT (RFC 8470 4)."""
        return self.method in SAFE_METHODS and not self.body


def prepare(
    method: str,
    url: str,
    base: Origin | None,
    headers: HeaderItems | None,
    body: bytes | None,
    extra: Iterable[Pair] = (),
    priority: Priority | None = None,
) -> Prepared:
    """The request that a program's call means; `extra` fields give way to the program's own.

    Raises ValueError for a method or URL that is none, HeaderInvalid, and InvalidState for too many fields.
    """
    check_method(method)
    if url.startswith("/") and base is not None:
        origin, path = base, url
    else:
        origin, path = parse_url(url)
    target = request_target(path)
    fields = [] if headers is None else encode_headers(headers)
    if priority is not None:
        extra = (*extra, (b"priority", format_priority(priority)))
    names = {name for name, _ in fields}
    fields += [pair for pair in extra if pair[0] not in names]
    if len(fields) > _MAX_FIELDS:
        raise InvalidState(f"a request has at most {_MAX_FIELDS} fields")
    # RFC 9114 4.3.1: no host field beside :authority, which takes its place; a program may set another one.
    authority = next((value for name, value in fields if name == b"host"), origin.authority.encode("ascii"))
    pairs = [
        (b":method", method.encode("ascii")),
        (b":scheme", b"https"),
        (b":authority", authority),
        (b":path", target.encode("ascii")),
        *(pair for pair in fields if pair[0] != b"host"),
    ]
    return Prepared(method, origin, target, pairs, body)


def format_priority(priority: Priority) -> bytes:
    """The value of the Priority field (RFC 9218 5). Raises ValueError for an urgency that is none."""
    if not 0 <= priority.urgency <= 7:
        raise ValueError(f"urgency: {priority.urgency} is not 0 to 7")
    return b"u=%d" % priority.urgency + (b", i" if priority.incremental else b"")


class ClientExchange:
    """One request in the loop's thread: what came of its response, and who waits for more."""

    __slots__ = (
        "__weakref__",
        "_after_drain",
        "_after_read",
        "_capsules",
        "_datagrams",
        "_finished",
        "_head_only",
        "early",
        "error",
        "given_up",
        "head",
        "interim",
        "on_datagram",
        "on_end",
        "reused",
        "stream",
        "trailers",
        "unprocessed",
    )

    stream: Stream

    def __init__(self, head_only: bool) -> None:
        self.error: QuicheH3Error | None = None
        self.head: Future[FieldSection] = Future()
        self.interim: list[Interim] = []
        self.trailers: Headers | None = None
        self.early = False  # it went out in 0-RTT
        self.reused = False  # its connection has carried other requests before
        self.given_up = False  # by us, while nothing came
        self.unprocessed = False  # it failed, and the server has said that it did nothing with it
        self.on_datagram: Callable[[bytes], object] | None = None
        self.on_end: Callable[[ClientExchange], None] | None = None
        self._capsules: CapsuleReader | None = None
        self._datagrams: DatagramQueue | None = None
        self._head_only = head_only
        self._finished = False
        self._after_read: Callable[[], None] | None = None
        self._after_drain: Callable[[], None] | None = None

    # For whoever waits, by way of the loop

    @property
    def sent(self) -> bool:
        """It has a stream: the server's limit keeps it waiting no more."""
        return self.stream.id != _NOT_SENT

    @property
    def over(self) -> bool:
        """Both directions have ended."""
        return not (self.stream.sending or self.stream.receiving)

    @property
    def ended(self) -> bool:
        return not self.stream.receiving

    def take(self, size: int) -> bytes:
        if self.error is not None and not self._finished:
            raise self.error
        chunk = self.stream.recv(size)
        fields = self.stream.fields
        if fields is not None and 0 <= fields.content_length < self.stream.bytes_received:
            self._refuse("the body is longer than its content-length")
            raise self.error or StreamReset(H3ErrorCode.H3_MESSAGE_ERROR, False)
        return chunk

    def _refuse(self, problem: str) -> None:
        """The response is malformed (RFC 9114 4.1.2)."""
        self.stream.reset(H3ErrorCode.H3_MESSAGE_ERROR)
        self.fail(MalformedMessage(problem))

    def when_readable(self, callback: Callable[[], None]) -> None:
        if self.error is not None or not self.stream.receiving:
            callback()
        else:
            self._after_read = callback

    def when_drained(self, callback: Callable[[], None]) -> None:
        if self.error is not None or not self.stream.sending or not self.stream.pending:
            callback()
        else:
            self._after_drain = callback

    def speak_capsules(self) -> None:
        """The bodies are capsules (RFC 9297 3.4): datagrams may come and go in them."""
        self._capsules = capsule_reader()

    def open_datagrams(self) -> DatagramQueue:
        """The queue that this request's datagrams go to from now on."""
        if self._datagrams is None:
            self._datagrams = DatagramQueue(DATAGRAMS, self.stream.drop_datagram)
            if self.ended:
                self._datagrams.close(self.error)
            self.on_datagram = self._datagrams.push
            self._read_capsules()
        return self._datagrams

    def send_datagram(self, payload: bytes) -> None:
        """Sends an HTTP datagram of this request; the answers are kept from now on."""
        if self.on_datagram is None:
            self.open_datagrams()
        self.stream.send_datagram(payload, self._capsules is not None)

    def set_priority(self, priority: Priority) -> None:
        """Asks the server to rank the response so (RFC 9218 7)."""
        self.stream.send_priority_update(priority.urgency, priority.incremental)

    def _read_capsules(self) -> bool:
        """Takes what is there of a body of capsules; False when somebody else reads it."""
        if self._capsules is None or self.on_datagram is None:
            return False
        try:
            while self.error is None and (chunk := self.stream.recv()):
                for capsule in self._capsules.feed(chunk):
                    self.on_datagram(capsule.value)
        except CapsuleError:
            self.stream.reset(H3ErrorCode.H3_DATAGRAM_ERROR)
            self.fail(StreamReset(H3ErrorCode.H3_DATAGRAM_ERROR, False))
        return True

    def cancel(self, code: int, error: Exception | None = None, unprocessed: bool = False) -> None:
        """Gives up what is left of the request and its response."""
        if not self.over:
            self.given_up = not unprocessed and (not self.head.done() or isinstance(error, TimedOut))
            self.stream.reset(code)
            self.fail(error or StreamReset(code, False), unprocessed)

    def fail(self, error: Exception, unprocessed: bool = False) -> None:
        """Nothing more comes: whoever waits is told."""
        if self.error is None:
            self.unprocessed = unprocessed
            self.error = (
                error
                if isinstance(error, QuicheH3Error)
                else StreamReset(H3ErrorCode.H3_REQUEST_CANCELLED, False)
            )
        if not self.head.done():
            self.head.set_exception(error)
        if self._datagrams is not None:
            self._datagrams.close(self.error)
        self._wake_reader()
        self._wake_writer()
        self._look_whether_over()

    def _wake_reader(self) -> None:
        callback, self._after_read = self._after_read, None
        if callback is not None:
            callback()

    def _wake_writer(self) -> None:
        callback, self._after_drain = self._after_drain, None
        if callback is not None:
            callback()

    def _look_whether_over(self) -> None:
        if self.on_end is not None and self.over:
            on_end, self.on_end = self.on_end, None
            on_end(self)

    # Calls of the HTTP/3 layer

    def on_headers(self, fields: FieldSection, interim: bool) -> None:
        if interim:
            if fields.status == 101:
                self._refuse("101 does not exist in HTTP/3 (RFC 9114 4.5)")
            elif len(self.interim) >= MAX_INTERIM:
                self.cancel(H3ErrorCode.H3_EXCESSIVE_LOAD)
            else:
                self.interim.append(Interim(fields.status, Headers(fields.pairs())))
        elif not self.head.done():
            self.head.set_result(fields)

    def on_trailers(self, fields: FieldSection) -> None:
        self.trailers = Headers(fields.pairs())

    def on_readable(self) -> None:
        if not self._read_capsules():
            self._wake_reader()

    def on_finished(self) -> None:
        fields = self.stream.fields
        if fields is None:
            self._refuse("it has no final response")
            return
        if self._capsules is not None and self._capsules.partial:
            self._refuse("a capsule is cut off")  # RFC 9297 3.3
            return
        if problem := self._length_problem(fields):
            self._refuse(problem)
            return
        self._finished = True
        if self._datagrams is not None:
            self._datagrams.close(None)
        self._wake_reader()
        self._look_whether_over()

    def _length_problem(self, fields: FieldSection) -> str | None:
        """What is wrong with the length of the body, if anything."""
        expected, received = fields.content_length, self.stream.bytes_received
        if self._head_only or fields.status in (
            204,
            304,
        ):  # RFC 9110 8.6: the length that the body would have
            return "it has a body that its status or method does not allow" if received else None
        if expected < 0 or expected == received:
            return None
        return f"the body has {received} bytes, its content-length is {expected}"

    def on_drained(self) -> None:
        self._wake_writer()

    def on_sent(self) -> None:
        self._wake_writer()
        self._look_whether_over()

    def on_stopped(self, code: int) -> None:
        # The server needs no more of the request; its response may still come (RFC 9114 4.1).
        self._wake_writer()
        self._look_whether_over()

    def on_reset(self, code: int) -> None:
        malformed = self.stream.malformed
        if malformed is not None:
            self.fail(MalformedMessage(malformed))
        else:
            self.fail(StreamReset(code, True), code == H3ErrorCode.H3_REQUEST_REJECTED)

    def on_closed(self, error: ConnectionClosed) -> None:
        self.fail(error, not self.sent)


def to_bytes(data: Chunk) -> bytes:
    """A piece of a body as bytes. Raises TypeError for what is none."""
    if isinstance(data, bytes):
        return data
    return data.encode() if isinstance(data, str) else memoryview(data).tobytes()


def encode_headers(items: HeaderItems) -> list[Pair]:
    """Checked fields. Raises HeaderInvalid."""
    pairs = items.items() if isinstance(items, Mapping) else items
    return [encode_header(name, value) for name, value in pairs]


class Content(NamedTuple):
    """A request's body, whole or in pieces made as they are wanted, and the fields it brings along."""

    whole: bytes | None
    source: Readable | Iterable[Chunk] | AsyncIterable[Chunk] | None
    fields: tuple[Pair, ...]


def content_of(data: Data | AsyncIterable[Chunk] | None, json: Any) -> Content:
    """The body that a program gives. Raises ValueError for two of them, TypeError for what is none."""
    if json is not None:
        if data is not None:
            raise ValueError("a request has data or json, not both")
        body = _json.dumps(json, separators=(",", ":")).encode()
        return Content(body, None, ((b"content-type", b"application/json"), _length(len(body))))
    if data is None:
        return Content(b"", None, ())
    if isinstance(data, Chunk):
        body = to_bytes(data)
        return Content(body, None, (_length(len(body)),))
    size = size_of(data)
    return Content(None, data, () if size is None else (_length(size),))


def _length(size: int) -> Pair:
    return b"content-length", b"%d" % size


def chunks_of(data: Readable | Iterable[Chunk]) -> Iterator[Chunk]:
    """The pieces of a body that is produced little by little."""
    if not isinstance(data, Readable):
        yield from data
        return
    while chunk := data.read(CHUNK):
        yield chunk


def size_of(data: object) -> int | None:
    """The bytes left in a regular file that is open in binary mode; None for anything else."""
    if not isinstance(data, (io.BufferedIOBase, io.RawIOBase)):
        return None
    try:
        info = os.fstat(data.fileno())
        return max(0, info.st_size - data.tell()) if stat.S_ISREG(info.st_mode) else None
    except OSError:
        return None


def text_of(content: bytes, headers: Headers) -> str:
    """A body as text, in the charset that content-type names, else UTF-8."""
    _, _, charset = headers.get("content-type", "").lower().partition("charset=")
    name = charset.partition(";")[0].strip(' "') or "utf-8"
    try:
        return content.decode(name, "replace")
    except LookupError:
        return content.decode("utf-8", "replace")
