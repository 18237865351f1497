"""Requests and responses for asyncio programs: the loop is the program's own, so nothing is posted.

A task that is cancelled while it waits cancels its request (H3_REQUEST_CANCELLED).
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterable, AsyncIterator, Awaitable, Callable, Iterable
from concurrent.futures import Future
from types import TracebackType
from typing import TYPE_CHECKING, Any

from .body import CHUNK
from .client_exchange import (
    QUEUE_BYTES,
    Chunk,
    ClientExchange,
    HeaderItems,
    Interim,
    Prepared,
    Readable,
    encode_headers,
    text_of,
    to_bytes,
)
from .datagrams import AsyncDatagrams
from .errors import H3ErrorCode, PayloadTooLarge, StatusError, StreamingError, TimedOut
from .headers import Headers
from .priorities import Priority
from .threads import T
from .timeouts import Timeout, Timeouts, timeouts_of

if TYPE_CHECKING:
    from ._core.fields import FieldSection


async def result_of(future: Future[T]) -> T:
    """The result of a future of the client's core, which its loop sets; that is this one."""
    if not future.done():
        waiter = asyncio.get_running_loop().create_future()
        future.add_done_callback(lambda f: None if waiter.done() else waiter.set_result(None))
        await waiter
    return future.result()


class AsyncStream:
    """A request's stream, and how a task waits for it: as long as the phase may take."""

    def __init__(self, exchange: ClientExchange, timeouts: Timeouts, who: str) -> None:
        self.exchange = exchange
        self.timeouts = timeouts
        self.loop = asyncio.get_running_loop()
        self._who = who

    async def until(self, register: Callable[[Callable[[], None]], object], phase: str, limit: float) -> None:
        """Waits for a callback. A wait that is too long, or is cancelled, is the end of the request."""
        loop = self.loop
        waiter = loop.create_future()

        def wake() -> None:
            if not waiter.done():
                waiter.set_result(True)

        register(wake)
        timer = None
        if limit != float("inf"):
            timer = loop.call_later(limit, lambda: None if waiter.done() else waiter.set_result(False))
        try:
            in_time = await waiter
        except asyncio.CancelledError:
            self.exchange.cancel(H3ErrorCode.H3_REQUEST_CANCELLED)
            raise
        finally:
            if timer is not None:
                timer.cancel()
        if not in_time:
            error = TimedOut(f"{self._who} did not answer within {limit:g} s", phase)
            self.exchange.cancel(H3ErrorCode.H3_REQUEST_CANCELLED, error)
            raise error

    async def head(self, timeouts: Timeouts) -> FieldSection:
        """The response's field section."""
        future = self.exchange.head
        if not future.done():
            await self.until(
                lambda wake: future.add_done_callback(lambda f: wake()), "read", timeouts.seconds("read")
            )
        return future.result()

    async def enqueue(self, data: bytes, fin: bool = False) -> None:
        """Queues `data` and waits until there is room for more."""
        self.check()
        stream = self.exchange.stream
        stream.enqueue(data, fin)
        if not fin and stream.pending >= QUEUE_BYTES:
            await self.until(self.exchange.when_drained, "write", self.timeouts.seconds("write"))
            self.check()

    async def take(self, size: int) -> bytes:
        """Up to `size` bytes of the body; empty at its end."""
        while not (data := self.exchange.take(size)):
            if size == 0 or self.exchange.ended:
                break
            await self.until(self.exchange.when_readable, "read", self.timeouts.seconds("read"))
        return data

    def check(self) -> None:
        """Raises what has broken the request."""
        if self.exchange.error is not None:
            raise self.exchange.error


class AsyncClientRequest:
    """A request that is on its way: its body may be written, its response awaited, by one task each.

    A request that is dropped before its response was read is cancelled.
    """

    def __init__(
        self,
        prepared: Prepared,
        stream: AsyncStream,
        again: Callable[[ClientExchange, int], Awaitable[AsyncStream | None]] | None = None,
    ) -> None:
        self.method = prepared.method
        """The method, e.g. ``"GET"``."""
        self.target = prepared.target
        """Path and query."""
        self.url = prepared.url
        """The absolute URL."""
        self._stream = stream
        self._again = again  # sends the request once more, where that does no harm
        self._tries = 1
        self._pump: asyncio.Task[None] | None = None

    @property
    def stream_id(self) -> int:
        """QUIC stream ID, or -1 while the server's limit of streams keeps the request waiting."""
        exchange = self._stream.exchange
        return exchange.stream.id if exchange.sent else -1

    async def write(self, data: Chunk) -> None:
        """Sends a piece of the body, waiting until there is room for more.

        Raises StreamClosed when the body has ended or the server wants no more of it (the response may come
        all the same), StreamReset or ConnectionClosed when the request has failed, and TimedOut.
        """
        if chunk := to_bytes(data):
            await self._stream.enqueue(chunk)

    async def end(self, data: Chunk = b"") -> None:
        """Ends the body, with a last piece if given. Raises as `write()` does."""
        await self._stream.enqueue(to_bytes(data), True)

    async def send_trailers(self, trailers: HeaderItems) -> None:
        """Ends the body with fields after it (RFC 9114 4.1). Raises HeaderInvalid, and as `write()` does."""
        self._stream.check()
        self._stream.exchange.stream.finish(encode_headers(trailers))

    def send_datagram(self, payload: bytes) -> None:
        """Sends an HTTP datagram of this request (RFC 9297), without waiting; as `ClientRequest` does."""
        self._stream.check()
        self._stream.exchange.send_datagram(bytes(payload))

    def set_priority(self, priority: Priority) -> None:
        """Asks the server to rank the response so, by a PRIORITY_UPDATE (RFC 9218 7).

        Raises ValueError for an urgency beyond 0 to 7, and InvalidState before the request was sent.
        """
        self._stream.exchange.set_priority(priority)

    def datagrams(self) -> AsyncDatagrams:
        """The HTTP datagrams that the server sends for this request, as they come."""
        return AsyncDatagrams(self._stream.exchange.open_datagrams())

    def on_datagram(self, callback: Callable[[bytes], object]) -> None:
        """Registers `callback(payload)` for HTTP datagrams of this request."""
        self._stream.exchange.on_datagram = callback

    async def response(self, timeout: Timeout | None = None) -> AsyncClientResponse:
        """Waits for the response's status and fields; its body is read from what is returned.

        `timeout` in seconds, None for the request's own. Raises TimedOut, StreamReset or ConnectionClosed, or
        what the source of the request's body has raised.
        """
        while True:
            stream = self._stream
            try:
                fields = await stream.head(timeouts_of(timeout, stream.timeouts))
            except TimedOut:
                raise  # the exchange has not failed: may_send_again() would take it for a 425
            except StreamingError:
                if not await self._send_again():
                    raise
                continue
            if fields.status == 425 and stream.exchange.early and await self._send_again():  # RFC 8470 5.2
                continue
            return AsyncClientResponse(self, stream, fields)

    async def _send_again(self) -> bool:
        stream = None if self._again is None else await self._again(self._stream.exchange, self._tries)
        if stream is None:
            return False
        self.cancel()
        self._stream = stream
        self._tries += 1
        return True

    def cancel(self, code: int = H3ErrorCode.H3_REQUEST_CANCELLED) -> None:
        """Gives the request up in both directions. Does nothing when both have ended."""
        self._stream.exchange.cancel(code)

    def pump(self, source: Readable | Iterable[Chunk] | AsyncIterable[Chunk]) -> None:
        """Sends a body as fast as the server takes it, in a task of its own."""
        self._pump = asyncio.get_running_loop().create_task(self._send(_pieces(source)))

    async def _send(self, pieces: AsyncIterator[Chunk]) -> None:
        try:
            async for piece in pieces:
                await self.write(piece)
            await self.end()
        except StreamingError:
            pass  # the server wants no more of it, or the request has failed: its response tells
        except Exception as exc:
            self._stream.exchange.cancel(H3ErrorCode.H3_REQUEST_CANCELLED, exc)

    async def __aenter__(self) -> AsyncClientRequest:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, exc: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.cancel()

    def __del__(self) -> None:
        # Collected between any two steps of the loop, maybe inside of a turn, or in another thread.
        loop = self._stream.loop
        if not self._stream.exchange.over and not loop.is_closed():
            loop.call_soon_threadsafe(self._stream.exchange.cancel, H3ErrorCode.H3_REQUEST_CANCELLED)

    def __repr__(self) -> str:
        return f"<AsyncClientRequest {self.method} {self.target} stream {self.stream_id}>"


class AsyncClientResponse:
    """A response: status and fields are there, the body is read as it is asked for.

    What is not read stays with the server: the flow-control window closes. Read the body, or `close()`; as an
    async context manager it does so by itself.
    """

    def __init__(self, request: AsyncClientRequest, stream: AsyncStream, fields: FieldSection) -> None:
        self.request = request
        """The request it answers."""
        self.status: int = fields.status
        """The status code, 200 to 599."""
        self.headers = Headers(fields.pairs())
        """The header fields."""
        self.interim: tuple[Interim, ...] = tuple(stream.exchange.interim)
        """The interim responses (1xx) that came before."""
        self.history: tuple[AsyncClientResponse, ...] = ()
        """The redirects that led here, first to last."""
        self.early_data = stream.exchange.early
        """The request went out in 0-RTT."""
        self._stream = stream
        self._content: bytes | None = None

    @property
    def url(self) -> str:
        """The absolute URL that was asked for."""
        return self.request.url

    @property
    def trailers(self) -> Headers | None:
        """The fields after the body, once it was read to its end; None when there were none."""
        return self._stream.exchange.trailers

    async def read(self, size: int = CHUNK) -> bytes:
        """Up to `size` bytes of the body (-1: all that is left), as soon as there are any; empty at its end.

        Raises StreamReset or ConnectionClosed when the body broke off, and TimedOut.
        """
        return await (self.read_all() if size < 0 else self._stream.take(size))

    async def __aiter__(self) -> AsyncIterator[bytes]:
        """The body's chunks as they come."""
        while chunk := await self.read():
            yield chunk

    async def read_all(self, limit: int | None = None) -> bytes:
        """The rest of the body. Raises PayloadTooLarge beyond `limit` bytes, and as `read()` does."""
        parts: list[bytes] = []
        total = 0
        while chunk := await self.read():
            parts.append(chunk)
            total += len(chunk)
            if limit is not None and total > limit:
                raise PayloadTooLarge(f"the body is larger than {limit} bytes")
        return b"".join(parts)

    async def content(self) -> bytes:
        """The whole body, read when first asked for."""
        if self._content is None:
            self._content = await self.read_all()
        return self._content

    async def text(self) -> str:
        """The whole body as text, in the charset that content-type names, else UTF-8."""
        return text_of(await self.content(), self.headers)

    async def json(self) -> Any:
        """The whole body, parsed as JSON. Raises ValueError when it is none."""
        return json.loads(await self.content())

    def raise_for_status(self) -> AsyncClientResponse:
        """Raises StatusError for a status of 400 or more; returns the response otherwise."""
        if self.status >= 400:
            raise StatusError(self.status)
        return self

    def close(self) -> None:
        """Gives up what was not read. Does nothing when all was."""
        self.request.cancel()

    async def __aenter__(self) -> AsyncClientResponse:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, exc: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"<AsyncClientResponse {self.status} to {self.request.method} {self.request.target}>"


async def _pieces(source: Readable | Iterable[Chunk] | AsyncIterable[Chunk]) -> AsyncIterator[Chunk]:
    """The pieces of a body that is produced little by little; files are read in a thread."""
    if isinstance(source, AsyncIterable):
        async for piece in source:
            yield piece
    elif isinstance(source, Readable):
        while piece := await asyncio.to_thread(source.read, CHUNK):
            yield piece
    else:
        for piece in source:
            yield piece
