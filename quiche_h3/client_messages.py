"""Requests and responses as a client's program sees them, and the loop's side of each.

The program's threads post to the loop and wait, as blocking handlers do on the server; the waits have a
limit.
"""

from __future__ import annotations

import io
import json
import os
import stat
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import Future
from functools import cached_property
from types import TracebackType
from typing import TYPE_CHECKING, Any, Final, NamedTuple, Protocol, runtime_checkable

from .body import CHUNK, BlockingBody
from .errors import (
    ConnectionClosed,
    H3ErrorCode,
    QuicheH3Error,
    StatusError,
    StreamingError,
    StreamReset,
    TimedOut,
)
from .headers import Headers, Pair, encode_header
from .threads import T, ThreadStream

if TYPE_CHECKING:
    from ._core.fields import FieldSection
    from ._core.http3 import Stream

QUEUE_BYTES: Final = 262_144
"""What a request's body may hold beside QUIC's own buffers before whoever writes it waits."""

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


class Engine(Protocol):
    """What a request needs of the client's loop."""

    def post(self, function: Callable[..., object], *args: Any) -> None:
        """Calls the function in the loop's thread. Raises ConnectionClosed when the loop has ended."""
        ...

    def defer(self, function: Callable[..., object], *args: Any) -> bool:
        """As `post()`, but never at once, not even in the loop itself; False when it has ended."""
        ...

    def wait(self, future: Future[T], timeout: float) -> T:
        """The future's result. Raises TimedOut after `timeout` seconds."""
        ...


class ClientExchange:
    """One request in the loop's thread: what came of its response, and who waits for more."""

    __slots__ = (
        "__weakref__",
        "_after_drain",
        "_after_read",
        "_finished",
        "_head_only",
        "error",
        "head",
        "interim",
        "stream",
        "trailers",
    )

    stream: Stream

    def __init__(self, head_only: bool) -> None:
        self.error: QuicheH3Error | None = None
        self.head: Future[FieldSection] = Future()
        self.interim: list[Interim] = []
        self.trailers: Headers | None = None
        self._head_only = head_only
        self._finished = False
        self._after_read: Callable[[], None] | None = None
        self._after_drain: Callable[[], None] | None = None

    # For the waiting thread, by way of the loop

    @property
    def ended(self) -> bool:
        return not self.stream.receiving

    def take(self, size: int) -> bytes:
        if self.error is not None and not self._finished:
            raise self.error
        return self.stream.recv(size)

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

    def cancel(self, code: int, error: Exception | None = None) -> None:
        """Gives up what is left of the request and its response."""
        if self.stream.sending or self.stream.receiving:
            self.stream.reset(code)
            self.fail(error or StreamReset(code, False))

    def fail(self, error: Exception) -> None:
        """Nothing more comes: whoever waits is told."""
        if self.error is None:
            self.error = (
                error
                if isinstance(error, QuicheH3Error)
                else StreamReset(H3ErrorCode.H3_REQUEST_CANCELLED, False)
            )
        if not self.head.done():
            self.head.set_exception(error)
        self._wake_reader()
        self._wake_writer()

    def _wake_reader(self) -> None:
        callback, self._after_read = self._after_read, None
        if callback is not None:
            callback()

    def _wake_writer(self) -> None:
        callback, self._after_drain = self._after_drain, None
        if callback is not None:
            callback()

    # Calls of the HTTP/3 layer

    def on_headers(self, fields: FieldSection, interim: bool) -> None:
        if interim:
            self.interim.append(Interim(fields.status, Headers(fields.pairs())))
        elif not self.head.done():
            self.head.set_result(fields)

    def on_trailers(self, fields: FieldSection) -> None:
        self.trailers = Headers(fields.pairs())

    def on_readable(self) -> None:
        self._wake_reader()

    def on_finished(self) -> None:
        fields = self.stream.fields
        if fields is None or not self._is_complete(fields):
            # RFC 9114 4.1.2: no final response, or another length than announced: the message is malformed.
            self.stream.reset(H3ErrorCode.H3_MESSAGE_ERROR)
            self.fail(StreamReset(H3ErrorCode.H3_MESSAGE_ERROR, False))
            return
        self._finished = True
        self._wake_reader()

    def _is_complete(self, fields: FieldSection) -> bool:
        expected = fields.content_length
        return (
            expected < 0
            or expected == self.stream.bytes_received
            or self._head_only  # RFC 9110 8.6: the length that the body would have
            or fields.status == 304
        )

    def on_drained(self) -> None:
        self._wake_writer()

    def on_sent(self) -> None:
        """The request is out; the response is what is waited for."""

    def on_stopped(self, code: int) -> None:
        # The server needs no more of the request; its response may still come (RFC 9114 4.1).
        self._wake_writer()

    def on_reset(self, code: int) -> None:
        self.fail(StreamReset(code, True))

    def on_closed(self, error: ConnectionClosed) -> None:
        self.fail(error)


class ClientStream(ThreadStream):
    """A stream that is waited for from the program's threads, each time at most `timeout` seconds."""

    def __init__(self, exchange: ClientExchange, engine: Engine, timeout: float) -> None:
        super().__init__(exchange, engine.post, QUEUE_BYTES)
        self.exchange = exchange
        self.timeout = timeout
        self._engine = engine

    @property
    def over(self) -> bool:
        """Both directions have ended."""
        return not (self._stream.sending or self._stream.receiving)

    def _wait(self, future: Future[T]) -> T:
        return self.wait(future, self.timeout)

    def wait(self, future: Future[T], timeout: float) -> T:
        """The future's result. A wait that is too long is the end of the request."""
        try:
            return self._engine.wait(future, timeout)
        except TimedOut as exc:
            self.cancel(H3ErrorCode.H3_REQUEST_CANCELLED, exc)
            raise

    def cancel(self, code: int, error: Exception | None = None) -> None:
        try:
            self._engine.post(self.exchange.cancel, code, error)
        except ConnectionClosed:
            pass  # then there is nothing left to give up

    def drop(self) -> None:
        """Nobody holds the request any more: garbage is collected between any two steps of the loop."""
        if not self.over:
            self._engine.defer(self.exchange.cancel, H3ErrorCode.H3_REQUEST_CANCELLED)


class ClientRequest:
    """A request that is on its way: its body may be written, its response waited for.

    To be used by one thread at a time; one may write while another reads the response. A request that is
    dropped before its response was read is cancelled.
    """

    def __init__(self, method: str, target: str, stream: ClientStream, owner: object) -> None:
        self.method = method
        """The method, e.g. ``"GET"``."""
        self.target = target
        """Path and query."""
        self._stream = stream
        self._owner = owner  # the client lives as long as its requests
        self._body = BlockingBody(stream)

    @property
    def stream_id(self) -> int:
        """QUIC stream ID, or -1 while the server's limit of streams keeps the request waiting."""
        number = self._stream.exchange.stream.id
        return -1 if number >= 1 << 62 else number

    def write(self, data: Chunk) -> None:
        """Sends a piece of the body, waiting until there is room for more.

        Raises StreamClosed when the body has ended or the server wants no more of it (the response may come
        all the same), StreamReset or ConnectionClosed when the request has failed, and TimedOut.
        """
        if chunk := to_bytes(data):
            self._stream.enqueue(chunk)

    def end(self, data: Chunk = b"") -> None:
        """Ends the body, with a last piece if given. Raises as `write()` does."""
        self._stream.enqueue(to_bytes(data), True)

    def send_trailers(self, trailers: HeaderItems) -> None:
        """Ends the body with fields after it (RFC 9114 4.1). Raises HeaderInvalid, and as `write()` does."""
        self._stream.finish(encode_headers(trailers))

    def response(self, timeout: float | None = None) -> ClientResponse:
        """Waits for the response's status and fields; its body is read from what is returned.

        `timeout` in seconds, None for the request's own. Raises TimedOut, StreamReset or ConnectionClosed, or
        what the source of the request's body has raised.
        """
        limit = self._stream.timeout if timeout is None else timeout
        return ClientResponse(
            self, self._stream, self._body, self._stream.wait(self._stream.exchange.head, limit)
        )

    def cancel(self, code: int = H3ErrorCode.H3_REQUEST_CANCELLED) -> None:
        """Gives the request up in both directions. Does nothing when both have ended."""
        self._stream.cancel(code)

    def fail(self, error: Exception) -> None:
        """Cancels the request because its body cannot be had; `response()` raises `error`."""
        self._stream.cancel(H3ErrorCode.H3_REQUEST_CANCELLED, error)

    def __enter__(self) -> ClientRequest:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, exc: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.cancel()

    def __del__(self) -> None:
        self._stream.drop()

    def __repr__(self) -> str:
        return f"<ClientRequest {self.method} {self.target} stream {self.stream_id}>"


class ClientResponse:
    """A response: status and fields are there, the body is read as it is asked for.

    What is not read stays with the server: the flow-control window closes. Read the body, or `close()`; as a
    context manager it does so by itself.
    """

    def __init__(
        self, request: ClientRequest, stream: ClientStream, body: BlockingBody, fields: FieldSection
    ) -> None:
        self.request = request
        """The request it answers."""
        self.status: int = fields.status
        """The status code, 200 to 599."""
        self.headers = Headers(fields.pairs())
        """The header fields."""
        self.interim: tuple[Interim, ...] = tuple(stream.exchange.interim)
        """The interim responses (1xx) that came before."""
        self._stream = stream
        self._body = body

    @property
    def trailers(self) -> Headers | None:
        """The fields after the body, once it was read to its end; None when there were none."""
        return self._stream.exchange.trailers

    def read(self, size: int = CHUNK) -> bytes:
        """Up to `size` bytes of the body (-1: all that is left), waiting for the first; empty at its end.

        Raises StreamReset or ConnectionClosed when the body broke off, and TimedOut.
        """
        return self._body.read(size)

    def __iter__(self) -> Iterator[bytes]:
        """The body's chunks as they come."""
        return iter(self._body.read, b"")

    def read_all(self, limit: int | None = None) -> bytes:
        """The rest of the body. Raises PayloadTooLarge beyond `limit` bytes, and as `read()` does."""
        return self._body.read_all(limit)

    @cached_property
    def content(self) -> bytes:
        """The whole body, read when first asked for."""
        return self.read_all()

    @property
    def text(self) -> str:
        """The whole body as text, in the charset that content-type names, else UTF-8."""
        _, _, charset = self.headers.get("content-type", "").lower().partition("charset=")
        name = charset.partition(";")[0].strip(' "') or "utf-8"
        try:
            return self.content.decode(name, "replace")
        except LookupError:
            return self.content.decode("utf-8", "replace")

    def json(self) -> Any:
        """The whole body, parsed as JSON. Raises ValueError when it is none."""
        return json.loads(self.content)

    def raise_for_status(self) -> ClientResponse:
        """Raises StatusError for a status of 400 or more; returns the response otherwise."""
        if self.status >= 400:
            raise StatusError(self.status)
        return self

    def close(self) -> None:
        """Gives up what was not read. Does nothing when all was."""
        self.request.cancel()

    def __enter__(self) -> ClientResponse:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, exc: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"<ClientResponse {self.status} to {self.request.method} {self.request.target}>"


def to_bytes(data: Chunk) -> bytes:
    """A piece of a body as bytes. Raises TypeError for what is none."""
    if isinstance(data, bytes):
        return data
    return data.encode() if isinstance(data, str) else memoryview(data).tobytes()


def encode_headers(items: HeaderItems) -> list[Pair]:
    """Checked fields. Raises HeaderInvalid."""
    pairs = items.items() if isinstance(items, Mapping) else items
    return [encode_header(name, value) for name, value in pairs]


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


def send_chunks(request: ClientRequest, chunks: Iterator[Chunk]) -> None:
    """Sends a body as fast as the server takes it, and no faster is it produced."""
    while True:
        try:
            chunk = next(chunks, None)
            data = b"" if chunk is None else to_bytes(chunk)
        except Exception as exc:
            request.fail(exc)
            return
        try:
            if chunk is None:
                request.end()
                return
            request.write(data)
        except StreamingError:
            return  # the server wants no more of it, or the request has failed: its response tells
