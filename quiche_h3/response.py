"""The response as a handler makes it: status and fields, then a body, then perhaps trailers.

Each step has its order; what is out of order raises the typed error and sends nothing.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping
from typing import TYPE_CHECKING, Any, Final

from ._core.streams import RequestStream
from .datagrams import AsyncDatagrams
from .errors import (
    HeaderInvalid,
    HeadersAlreadySent,
    InvalidRedirectStatus,
    InvalidState,
    ResponseEnded,
    ServiceUnavailable,
    StreamBlocked,
)
from .files import FileResponse, plan_file
from .headers import Pair, encode_header

if TYPE_CHECKING:
    from ._core.http3_stream import Stream
    from .exchange import Exchange
    from .request import Request

Data = str | bytes | bytearray | memoryview
HeaderItems = Mapping[str, str] | Iterable[tuple[str | bytes, str | bytes | int]]

_STATUS: Final = {code: (b":status", b"%d" % code) for code in range(100, 600)}
_OK: Final = _STATUS[200]
_REDIRECTS: Final = frozenset({300, 301, 302, 303, 305, 307, 308})
_BODILESS: Final = frozenset({204, 205, 304})
_NO_TRAILERS: Final = frozenset({b"content-length", b"host", b"te", b"trailer"})  # RFC 9110 6.5.1
_TEXT: Final = (b"content-type", b"text/plain; charset=utf-8")
_BYTES: Final = (b"content-type", b"application/octet-stream")
_JSON: Final = (b"content-type", b"application/json")
_LENGTHS: Final = tuple(
    (b"content-length", b"%d" % n) for n in range(4096)
)  # made once: most bodies are small


class _Ready:
    """What there is to await when nothing needs waiting for."""

    __slots__ = ()

    def __await__(self) -> Generator[Any, None, None]:
        return
        yield


class Drain:
    """Awaitable: the response may be written to again. Outside of async handlers it may be ignored."""

    __slots__ = ("_response",)

    def __init__(self, response: Response) -> None:
        self._response = response

    def __await__(self) -> Generator[Any, None, None]:
        import asyncio

        while self._response.queue_full:
            future = asyncio.get_running_loop().create_future()
            self._response.when_drained(lambda f=future: None if f.done() else f.set_result(None))  # type: ignore[misc]
            yield from future


READY: Final = _Ready()


class Response:
    """One response. Nothing is sent before the first write, `end()` or the handler's return."""

    __slots__ = (
        "_deferred",
        "_direct",
        "_exchange",
        "_head_only",
        "_headers",
        "_limit",
        "_status",
        "_stream",
        "ended",
        "headers_sent",
        "hold_fin",
        "request",
    )

    def __init__(
        self,
        request: Request,
        stream: Stream,
        exchange: Callable[[Response], Exchange],
        limit: int,
        head_only: bool,
    ) -> None:
        self.request = request
        """The request this answers."""
        self._stream: Stream
        self._direct: RequestStream | None
        self.use(stream)
        self._exchange = exchange
        self._limit = limit
        self._head_only = head_only
        self._status = 200
        self._headers: list[Pair] = [_OK]  # the status line first
        self._deferred = False
        self.headers_sent = False
        """The field section is out: status and fields are fixed."""
        self.ended = False
        """Nothing may be sent any more."""
        self.hold_fin = False

    # What it is

    @property
    def status_code(self) -> int:
        """The status that was set, 200 at first."""
        return self._status

    @property
    def bytes_sent(self) -> int:
        """Bytes of the body that were handed to QUIC."""
        return self._stream.bytes_sent

    @property
    def queue_full(self) -> bool:
        """`max_response_queue_bytes` or more wait to be sent: a producer should wait."""
        return self._stream.pending >= self._limit

    # Before the body

    def status(self, code: int) -> Response:
        """Sets the status, 200 to 599. Raises HeadersAlreadySent when it is too late."""
        self._check_initial()
        if code not in _STATUS or code < 200:
            raise InvalidState(f"{code} is no final status code: use 200 to 599 (`inform()` sends a 1xx)")
        self._set_status(code)
        return self

    def header(self, name: str | bytes, value: str | bytes | int) -> Response:
        """Adds a field; the same name again adds another line. Raises HeaderInvalid, HeadersAlreadySent."""
        self._check_initial()
        self._headers.append(encode_header(name, value))
        return self

    def has_header(self, name: str) -> bool:
        """A field of this name was added."""
        return self._has(name.lower().encode("latin-1", "replace"))

    def inform(self, code: int, headers: HeaderItems = ()) -> None:
        """Sends an interim response, e.g. 103 Early Hints (RFC 8297), before the final one."""
        self._check_initial()
        if not 100 <= code < 200 or code == 101:
            raise InvalidState(f"{code} is no interim status code for HTTP/3")
        self._stream.send_headers([_STATUS[code], *_pairs(headers)])

    # The body

    def write(self, data: Data) -> int:
        """Gives QUIC what it takes of `data` now and returns how many bytes that were.

        Raises StreamBlocked when it takes none: write again after `when_drained` has called back. Nothing is
        queued here. Raises ResponseEnded, StreamReset or ConnectionClosed when it cannot be sent at all.
        """
        chunk = _as_bytes(data)
        self._start_body(chunk)
        if self._head_only or not chunk:
            return len(chunk)
        taken = self._stream.write(chunk)
        if taken == 0:
            raise StreamBlocked("nothing can be taken now")
        return taken

    def write_all(self, data: Data) -> _Ready | Drain:
        """Takes all of `data`: sends what can be sent now, keeps the rest (`bytes` by reference, no copy).

        In an async handler await the result, in a blocking one the call waits by itself. Elsewhere nothing
        can wait: StreamBlocked is raised, and nothing taken, while `max_response_queue_bytes` or more wait.
        """
        chunk = _as_bytes(data)
        self._start_body(chunk)
        if self._head_only or not chunk:
            return READY
        if self._stream.pending >= self._limit:
            raise StreamBlocked(
                f"{self._stream.pending} bytes wait to be sent: await write_all(), or yield the chunks"
            )
        self._enqueue(chunk, False)
        return READY if self._stream.pending < self._limit else Drain(self)

    def when_drained(self, callback: Callable[[], None]) -> None:
        """Calls `callback` once when everything queued was taken, or when the response has failed."""
        self._exchange(self).when_drained(callback)

    def end(self, final: Data | None = None) -> None:
        """Ends the response, with a last piece of body if given. The length of a whole body is announced."""
        if self.ended:
            raise ResponseEnded
        chunk = b"" if final is None else _as_bytes(final)
        if not self.headers_sent:
            if self._status in _BODILESS:
                self._check_bodiless(chunk)
            elif not self._has(b"content-length"):
                if not self.hold_fin:
                    size = len(chunk)
                    self._headers.append(_LENGTHS[size] if size < 4096 else (b"content-length", b"%d" % size))
            elif chunk:
                self._check_length(len(chunk))
            if self._head_only:
                chunk = b""
            self._send_head(not chunk and not self.hold_fin)
            if chunk:
                self._enqueue(chunk, not self.hold_fin)
        elif self._head_only or not chunk:
            if not self.hold_fin:
                self._stream.finish()
        else:
            self._enqueue(chunk, not self.hold_fin)
        self.ended = True

    def send_trailers(self, trailers: HeaderItems) -> None:
        """Sends fields after the body (RFC 9114 4.1), which ends the response."""
        pairs = _pairs(trailers)
        if any(name in _NO_TRAILERS for name, _ in pairs):
            raise HeaderInvalid(f"trailers cannot hold {sorted(n.decode() for n in _NO_TRAILERS)}")
        self._start_body(b"")
        if self._head_only or not pairs:
            self._stream.finish()
        else:
            self._stream.finish(pairs)
        self.ended = True

    # Ready-made answers

    def redirect(self, location: str, status: int = 302) -> None:
        """Sends the client elsewhere. Raises InvalidRedirectStatus for a status that is no redirect."""
        if status not in _REDIRECTS:
            raise InvalidRedirectStatus(f"{status} is not a redirect: use one of {sorted(_REDIRECTS)}")
        self.status(status)
        self.header("location", location)
        self.end()

    def json(self, value: Any, status: int | None = None) -> None:
        """Ends the response with `value` as JSON."""
        if status is not None:
            self.status(status)
        self._end_with(_JSON, json.dumps(value, separators=(",", ":")).encode())

    def send_file(
        self,
        path: str | os.PathLike[str],
        *,
        content_type: str | None = None,
        precompressed: bool = False,
    ) -> None:
        """Sends a file, read piece by piece as the client takes it. Knows Range, ETag and If-Modified-Since.

        With `precompressed` a sibling `path.br`, `path.zst` or `path.gz` goes instead, if the client takes
        it. The path is the program's own: for names that come from requests use `Server.static()`. Raises
        NotFound, Forbidden, and ServiceUnavailable beyond `max_active_downloads_per_conn`.
        """
        self._check_initial()
        request = self.request
        self.send_plan(
            plan_file(
                path,
                request.method,
                request.headers,
                content_type=content_type,
                precompressed=precompressed,
            )
        )

    def send_plan(self, plan: FileResponse) -> None:
        """Sends what `files` has planned: status, fields, and the file's parts under flow control."""
        self._check_initial()
        if not self._exchange(self).take_download_slot():
            plan.close()
            raise ServiceUnavailable("too many downloads on this connection")
        self._set_status(plan.status)
        self._headers.extend(plan.headers)
        if self._head_only or plan.fd < 0:
            plan.close()
            self._send_head(True)
            self.ended = True
        else:
            self.produce(plan.body)

    def produce(self, chunks: Iterator[Any]) -> None:
        """Sends what the iterator yields, pulled only while the client takes it; then ends the response."""
        self._check_initial()
        self._deferred = True
        self._exchange(self).produce(chunks)

    def send_h3_datagram(self, payload: bytes) -> None:
        """Sends an HTTP datagram of this request (RFC 9297), unreliable and unordered.

        To a client that takes no datagrams it goes as a capsule on the stream, if the request speaks the
        capsule protocol (`req.capsule_protocol`). Raises WouldBlock, DatagramTooLarge, DatagramNotEnabled,
        ConnectionClosed, or StreamClosed once the response has ended.
        """
        self._stream.send_datagram(bytes(payload), self._open_capsules())

    def h3_datagrams(self) -> AsyncDatagrams:
        """The request's HTTP datagrams (RFC 9297) as they come: `async for payload in res.h3_datagrams()`.

        The newest `h3_datagram_queue_len` wait to be taken. It ends when the client has ended the request and
        its body was read (capsules are read here), and raises StreamReset or ConnectionClosed when it broke
        off. In a blocking handler it is a plain iterator.
        """
        self._open_capsules()
        return AsyncDatagrams(self._exchange(self).open_datagrams())

    # Its rank

    def set_priority(self, urgency: int, incremental: bool = False) -> None:
        """Ranks this response among those of its connection, whatever the client asks for (RFC 9218 8).

        Urgency 0 goes first, 7 last; of equals the earlier request goes first, or their parts alternate when
        they are `incremental`. Raises ValueError for another urgency.
        """
        self._stream.set_priority(urgency, incremental)

    # Other endings

    def defer(self) -> None:
        """The handler's return does not end the response: the program does, later, from the loop's thread."""
        self._deferred = True

    def reset(self, code: int = 0x102) -> None:
        """Breaks the response off with an HTTP/3 error code (default H3_INTERNAL_ERROR)."""
        self.ended = True
        self._stream.reset(code)

    # Below this line: for the request path, not for handlers

    @property
    def stream(self) -> Stream:
        """The request stream."""
        return self._stream

    def use(self, stream: Any) -> None:
        """Sends on that from here on: the request stream, or what stands in for it."""
        self._stream = stream
        self._direct = stream if isinstance(stream, RequestStream) else None

    def announce_capsules(self) -> None:
        """The body will be capsules: a successful response says so (RFC 9297 3.4)."""
        if not self.headers_sent and self._status < 300 and not self._has(b"capsule-protocol"):
            self._headers.append((b"capsule-protocol", b"?1"))

    def release_fin(self) -> None:
        """The client sends no more datagrams: a response that has ended ends on the wire too."""
        held, self.hold_fin = self.hold_fin and self.ended, False
        if held and self._stream.sending:
            self._stream.finish()

    @property
    def head_only(self) -> bool:
        """The request was HEAD: the body is left out."""
        return self._head_only

    def add_pairs(self, pairs: list[Pair]) -> None:
        """Adds fields that were checked before."""
        self._headers.extend(pairs)

    def replace_headers(self, pairs: list[Pair]) -> None:
        """Forgets what a failed handler has set."""
        self._headers = [self._headers[0], *pairs]
        self._deferred = self.hold_fin = False

    def moved_to(self, stream: Stream, exchange: Callable[[Response], Exchange]) -> Response:
        """A plain response in the same state, on `stream`."""
        other = Response(self.request, stream, exchange, self._limit, self._head_only)
        other._status, other._headers = self._status, self._headers
        other.headers_sent, other.ended = self.headers_sent, self.ended
        return other

    def finish_with(self, result: Any) -> None:
        """Does what a handler's return value says. Raises TypeError for one that says nothing."""
        if result is None:
            if not self.ended and not self._deferred:
                self.end()
        elif isinstance(result, str):
            self._end_with(_TEXT, result.encode())
        elif isinstance(result, bytes):
            self._end_with(_BYTES, result)
        elif isinstance(result, (dict, list)):
            self.json(result)
        elif isinstance(result, tuple):
            self._finish_with_tuple(result)
        elif isinstance(result, Iterator):
            self.produce(result)
        elif result is not self:
            raise TypeError(f"a handler cannot return {type(result).__name__}")

    def _finish_with_tuple(self, result: tuple[Any, ...]) -> None:
        if not 2 <= len(result) <= 3 or not isinstance(result[0], int):
            raise TypeError("a handler returns (status, body) or (status, headers, body)")
        self.status(result[0])
        if len(result) == 3:
            self._headers.extend(_pairs(result[1]))
        body = result[-1]
        if body is None:
            self.end()
        else:
            self.finish_with(body)

    def _end_with(self, content_type: Pair, body: bytes) -> None:
        if body and not self.headers_sent and not self._has(b"content-type"):
            self._headers.append(content_type)
        self.end(body)

    def _has(self, name: bytes) -> bool:
        for pair in self._headers:  # noqa: SIM110 - in C, any() would cost a generator
            if pair[0] == name:
                return True
        return False

    def _open_capsules(self) -> bool:
        """Whether bodies are capsules; those of the response may begin then."""
        capsules = bool(self.request.capsule_protocol)
        if capsules and not self.headers_sent:
            self.announce_capsules()
            self._start_body(b"")
        return capsules

    def _set_status(self, code: int) -> None:
        self._status = code
        self._headers[0] = _STATUS[code]

    def _check_initial(self) -> None:
        if self.ended:
            raise ResponseEnded
        if self.headers_sent:
            raise HeadersAlreadySent

    def _check_bodiless(self, chunk: bytes) -> None:
        if chunk:
            raise InvalidState(f"a response with status {self._status} has no body (RFC 9110 15)")
        if self._status == 204:  # RFC 9110 8.6
            self._headers = [pair for pair in self._headers if pair[0] != b"content-length"]

    def _check_length(self, size: int) -> None:
        """Before anything is sent: a body as long as the program has announced (RFC 9114 4.1.2)."""
        announced = b"".join(value for name, value in self._headers if name == b"content-length")
        if announced != b"%d" % size and not self._head_only:
            raise InvalidState(
                f"the body has {size} bytes, its content-length is {announced.decode('latin-1')}"
            )

    def _start_body(self, chunk: bytes) -> None:
        if self.ended:
            raise ResponseEnded
        if self.headers_sent:
            return
        if self._status in _BODILESS:
            self._check_bodiless(chunk)
        self._send_head(False)

    def _send_head(self, fin: bool) -> None:
        if self._direct is not None:
            self._direct.send_headers(self._headers, fin)
        else:
            self._stream.send_headers(self._headers, fin)
        self.headers_sent = True

    def _enqueue(self, data: bytes, fin: bool) -> None:
        if self._direct is not None:
            self._direct.enqueue(data, fin)
        else:
            self._stream.enqueue(data, fin)


def _as_bytes(data: Data) -> bytes:
    if isinstance(data, bytes):
        return data
    if isinstance(data, str):
        return data.encode()
    if isinstance(data, (bytearray, memoryview)):
        return bytes(data)
    raise TypeError(f"a body is made of str or bytes, not {type(data).__name__}")


def _pairs(items: HeaderItems) -> list[Pair]:
    if isinstance(items, Mapping):
        return [encode_header(name, value) for name, value in items.items()]
    return [encode_header(name, value) for name, value in items]
