"""Requests and responses for programs whose threads wait.

They post to the client's loop, as blocking handlers do on the server, and each wait has its limit.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from functools import cached_property
from types import TracebackType
from typing import TYPE_CHECKING, Any

from .body import CHUNK, BlockingBody
from .client_exchange import (
    QUEUE_BYTES,
    Chunk,
    ClientExchange,
    HeaderItems,
    Interim,
    Prepared,
    encode_headers,
    text_of,
    to_bytes,
)
from .client_thread import ClientThread
from .datagrams import BlockingDatagrams, DatagramQueue
from .errors import ConnectionClosed, H3ErrorCode, StatusError, StreamingError, TimedOut
from .headers import Headers
from .priorities import Priority
from .threads import T, ThreadStream
from .timeouts import Timeout, Timeouts, timeouts_of

if TYPE_CHECKING:
    from ._core.fields import FieldSection


class ClientStream(ThreadStream):
    """A stream that is waited for from the program's threads, each time as long as its phase may take."""

    def __init__(self, exchange: ClientExchange, thread: ClientThread, timeouts: Timeouts, who: str) -> None:
        super().__init__(exchange, thread.post, QUEUE_BYTES)
        self.exchange = exchange
        self.timeouts = timeouts
        self._thread = thread
        self._who = who

    def _post_and_wait(self, function: Callable[..., None], *args: Any) -> Any:
        future: Future[Any] = Future()
        self._post(function, future, *args)
        return self.wait(future, "read" if function == self._fill else "write", self.timeouts)

    def wait(self, future: Future[T], phase: str, timeouts: Timeouts) -> T:
        """The future's result. A wait that is too long is the end of the request."""
        try:
            return self._thread.wait(future, timeouts.seconds(phase), self._who, phase)
        except TimedOut as exc:
            self.cancel(H3ErrorCode.H3_REQUEST_CANCELLED, exc)
            raise
        except KeyboardInterrupt:
            self.cancel(H3ErrorCode.H3_REQUEST_CANCELLED)
            raise

    def send_datagram(self, payload: bytes, capsules: bool = False) -> None:
        self._run(self.exchange.send_datagram, payload)

    def ask_priority(self, priority: Priority) -> None:
        """See `ClientExchange.set_priority()`."""
        self._run(self.exchange.set_priority, priority)

    def datagram_waiter(self, seconds: float) -> Callable[[], bytes | None]:
        """A function that waits for the request's next datagram; it returns None after the last."""
        queue: DatagramQueue = self._run(self.exchange.open_datagrams)

        def wait() -> bytes | None:
            future: Future[bytes | None] = Future()
            self._thread.post(queue.give, future)
            try:
                return self._thread.wait(future, seconds, self._who)
            except TimedOut:
                if future.cancel():
                    raise
                return future.result()  # there is one after all

        return wait

    def cancel(self, code: int, error: Exception | None = None) -> None:
        """Gives the request up."""
        try:
            self._thread.post(self.exchange.cancel, code, error)
        except ConnectionClosed:
            pass  # then there is nothing left to give up

    def drop(self) -> None:
        """Nobody holds the request any more: garbage is collected between any two steps of the loop."""
        if not self.exchange.over:
            self._thread.defer(self.exchange.cancel, H3ErrorCode.H3_REQUEST_CANCELLED)


class ClientRequest:
    """A request that is on its way: its body may be written, its response waited for.

    To be used by one thread at a time; one may write while another reads the response. A request that is
    dropped before its response was read is cancelled.
    """

    def __init__(
        self,
        prepared: Prepared,
        stream: ClientStream,
        owner: object,
        again: Callable[[ClientExchange, int], ClientStream | None] | None = None,
    ) -> None:
        self.method = prepared.method
        """The method, e.g. ``"GET"``."""
        self.target = prepared.target
        """Path and query."""
        self.url = prepared.url
        """The absolute URL."""
        self._stream = stream
        self._owner = owner  # the client lives as long as its requests
        self._again = again  # sends the request once more, where that does no harm
        self._tries = 1

    @property
    def stream_id(self) -> int:
        """QUIC stream ID, or -1 while the server's limit of streams keeps the request waiting."""
        exchange = self._stream.exchange
        return exchange.stream.id if exchange.sent else -1

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

    def send_datagram(self, payload: bytes) -> None:
        """Sends an HTTP datagram of this request (RFC 9297), while its body is open.

        To a server that takes no datagrams it goes as a capsule in the body, if the request was opened with
        `capsule-protocol: ?1`, whose bodies are capsules and nothing else. Raises WouldBlock,
        DatagramTooLarge, DatagramNotEnabled, StreamClosed or ConnectionClosed.
        """
        self._stream.send_datagram(bytes(payload))

    def set_priority(self, priority: Priority) -> None:
        """Asks the server to rank the response anew (PRIORITY_UPDATE, RFC 9218 7).

        Raises ValueError, InvalidState while the request waits for a stream, StreamBlocked, ConnectionClosed.
        """
        self._stream.ask_priority(priority)

    def on_datagram(self, callback: Callable[[bytes], object]) -> None:
        """Registers `callback(payload)` for HTTP datagrams of this request, in the client's own thread."""
        self._stream.exchange.on_datagram = callback

    def datagrams(self, timeout: float | None = None) -> Iterator[bytes]:
        """The HTTP datagrams that the server sends for this request, as they come, to be waited for.

        The newest 1,024 wait to be taken; what came before the first call of this or of `send_datagram()` is
        dropped. They end when the response has ended and was read. Each is waited for `timeout` seconds at
        most (None: the request's own for reading), then TimedOut is raised, which ends nothing; StreamReset
        or ConnectionClosed when the response broke off.
        """
        seconds = self._stream.timeouts.seconds("read") if timeout is None else timeout
        return BlockingDatagrams(self._stream.datagram_waiter(seconds))

    def response(self, timeout: Timeout | None = None) -> ClientResponse:
        """Waits for the response's status and fields; its body is read from what is returned.

        `timeout` in seconds, None for the request's own. Raises TimedOut, StreamReset or ConnectionClosed, or
        what the source of the request's body has raised.
        """
        while True:
            stream = self._stream
            try:
                limits = timeouts_of(timeout, stream.timeouts)
                fields = stream.wait(stream.exchange.head, "read", limits)
            except TimedOut:
                raise  # the exchange has not failed: may_send_again() would take it for a 425
            except StreamingError:
                if not self._send_again():
                    raise
                continue
            if fields.status == 425 and stream.exchange.early and self._send_again():  # RFC 8470 5.2
                continue
            return ClientResponse(self, stream, fields)

    def _send_again(self) -> bool:
        stream = None if self._again is None else self._again(self._stream.exchange, self._tries)
        if stream is None:
            return False
        self._stream.drop()
        self._stream = stream
        self._tries += 1
        return True

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

    def __init__(self, request: ClientRequest, stream: ClientStream, fields: FieldSection) -> None:
        self.request = request
        """The request it answers."""
        self.status: int = fields.status
        """The status code, 200 to 599."""
        self.headers = Headers(fields.pairs())
        """The header fields."""
        self.interim: tuple[Interim, ...] = tuple(stream.exchange.interim)
        """The interim responses (1xx) that came before."""
        self.history: tuple[ClientResponse, ...] = ()
        """The redirects that led here, first to last."""
        self.early_data = stream.exchange.early
        """The request went out in 0-RTT."""
        self._stream = stream
        self._body = BlockingBody(stream)

    @property
    def url(self) -> str:
        """The absolute URL that was asked for."""
        return self.request.url

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
        while chunk := self._body.read():  # a generator, which keeps the response alive
            yield chunk

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
        return text_of(self.content, self.headers)

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
