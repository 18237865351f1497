"""A request whose answer takes longer than one call of its handler."""

from __future__ import annotations

import inspect
import logging
import time
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Iterator
from typing import TYPE_CHECKING, Any, Final

from .body import AsyncBody, Body
from .capsules import CapsuleReader
from .datagrams import DatagramQueue, capsule_reader
from .errors import (
    CapsuleError,
    ConnectionClosed,
    DatagramError,
    H3ErrorCode,
    InvalidState,
    MalformedMessage,
    PayloadTooLarge,
    QuicheH3Error,
    RequestTimeout,
    ServiceUnavailable,
    StreamClosed,
    StreamReset,
    TimedOut,
    error_to_status,
)
from .files import FileBody
from .headers import Headers
from .request import Request
from .response import Response
from .routing import HandlerKind, Route
from .threads import ThreadStream

if TYPE_CHECKING:
    import asyncio

    from ._core.fields import FieldSection
    from ._core.http3_stream import Stream
    from .handlers import Dispatcher

log: Final = logging.getLogger("quiche_h3")
_CONTINUE: Final = [(b":status", b"100")]


async def _await(result: Any) -> Any:
    return await result


def _both(first: Callable[[], None] | None, second: Callable[[], None]) -> Callable[[], None]:
    """Two tasks may wait for the same thing."""
    if first is None:
        return second

    def call() -> None:
        first()
        second()

    return call


class Exchange:
    """A request whose answer takes longer than one call: what its handler waits for, and who is waiting."""

    __slots__ = (
        "_after_drain",
        "_after_read",
        "_buffer",
        "_capsules",
        "_datagrams",
        "_expects_continue",
        "_started",
        "_task",
        "dispatcher",
        "downloading",
        "error",
        "on_datagram",
        "producer",
        "request",
        "response",
        "route",
        "running",
        "stream",
        "thread",
    )

    def __init__(self, dispatcher: Dispatcher, stream: Stream, request: Request, response: Response) -> None:
        self.dispatcher = dispatcher
        self.stream = stream
        self.request = request
        self.response = response
        self.route: Route | None = None
        self.error: QuicheH3Error | None = None
        self.thread: ThreadStream | None = None
        self.producer: Iterator[Any] | None = None
        self.downloading = False
        self._after_drain: Callable[[], None] | None = None
        self._after_read: Callable[[], None] | None = None
        self._buffer: list[bytes] | None = None
        self._task: asyncio.Task[None] | None = None
        self.running = False
        # Looked at by the HTTP/3 layer. An async handler has not asked for them when the first ones come.
        self.on_datagram: Callable[[bytes], None] | None = (
            None if dispatcher.raw_datagrams and not request.capsule_protocol else self._keep_datagram
        )
        self._capsules: CapsuleReader | None = None
        self._datagrams: DatagramQueue | None = None
        self._expects_continue = stream.fields.expect_continue
        self._started = time.monotonic()
        stream.handler = self

    # The body's source

    @property
    def ended(self) -> bool:
        """The whole body was read, or will never be."""
        return not self.stream.receiving

    def take(self, size: int) -> bytes:
        """Body bytes that are there now. Raises what broke the stream."""
        if self.error is not None:
            raise self.error
        if self._expects_continue:
            self._say_continue()
        chunk = self.stream.recv(size)
        if not self.length_is_right(ended=False) and self.error is not None:
            raise self.error
        return chunk

    def when_readable(self, callback: Callable[[], None]) -> None:
        """Calls back once when there is more to take, or nothing more to wait for."""
        if self.error is not None or not self.stream.receiving:
            callback()
        else:
            self._after_read = _both(self._after_read, callback)

    def when_drained(self, callback: Callable[[], None]) -> None:
        """Calls back once when all that was queued is taken, or the stream is over."""
        if self.error is not None or not (self.stream.pending or self.stream.blocked):
            callback()
        else:
            self._after_drain = _both(self._after_drain, callback)

    def take_download_slot(self) -> bool:
        """Counts this response among the connection's downloads; False when there are too many."""
        limit = self.dispatcher.config.max_active_downloads_per_conn
        if limit:
            streams = self.stream.http3.streams.values()
            if sum(1 for s in streams if s.handler is not None and s.handler.downloading) >= limit:
                return False
            self.downloading = True
        return True

    # Datagrams

    def open_datagrams(self) -> DatagramQueue:
        """The queue that this request's datagrams go to."""
        queue = self._queue()
        self._take_datagrams(queue.push)
        return queue

    def _keep_datagram(self, payload: bytes) -> None:
        self._queue().push(payload)

    def _queue(self) -> DatagramQueue:
        if self._datagrams is None:
            limit = self.dispatcher.config.h3_datagram_queue_len
            self._datagrams = DatagramQueue(limit, self.stream.drop_datagram)
            if self.ended or self.error is not None:
                self._datagrams.close(self.error)
        return self._datagrams

    def _take_datagrams(self, taker: Callable[[bytes], None]) -> None:
        self.on_datagram = taker
        if self.request.capsule_protocol and self._capsules is None:
            self._capsules = capsule_reader()
            self.response.announce_capsules()
            self._read_capsules()

    def _call_back(self, payload: bytes) -> None:
        """Calls the route's callback, which may do as it likes: a datagram is worth no reset."""
        route = self.route
        if route is None or route.on_datagram is None:
            return
        try:
            route.on_datagram(self.request, self.response, payload)
        except (DatagramError, StreamClosed):
            log.debug("an answer to a datagram was dropped", exc_info=True)
        except Exception:
            log.exception("the datagram callback of %s failed", self.request.raw_path.decode("latin-1"))

    def _read_capsules(self) -> None:
        reader = self._capsules
        try:
            while reader is not None and self.error is None and (chunk := self.stream.recv()):
                for capsule in reader.feed(chunk):
                    if self.on_datagram is not None:
                        self.on_datagram(capsule.value)
        except CapsuleError:
            self._refuse_body(H3ErrorCode.H3_DATAGRAM_ERROR)

    # Running

    def begin(self, route: Route, at_once: bool) -> None:
        """Starts the handler as its kind wants it; a plain one when the body is complete, or `at_once`."""
        self.route = route
        kind = route.kind
        limit = self.dispatcher.config.max_request_body_size
        if route.on_datagram is not None:
            self.response.hold_fin = self.stream.receiving
            self._take_datagrams(self._call_back)
        if kind is HandlerKind.PLAIN and not at_once:
            if self._expects_continue:
                self._say_continue()
            self._buffer = []  # called when the body is complete
            return
        self.running = True
        if kind is HandlerKind.PLAIN:
            self.request.body = Body(self)
            self._attempt(self._answer)
            return
        if kind is HandlerKind.GENERATOR:
            self.request.body = Body(self, limit=limit)
            self._attempt(lambda: self.produce(self.call()))
        elif kind is HandlerKind.BLOCKING:
            self.dispatcher.run_blocking(self)
        else:
            self.request.body = AsyncBody(self, limit=limit)
            self._attempt(lambda: self.finish(self.call()))

    def _say_continue(self) -> None:
        """The body is wanted: a client that waits to be told so sends it now (RFC 9110 10.1.1)."""
        self._expects_continue = False
        if not self.response.headers_sent and self.stream.sending and self.stream.bytes_received == 0:
            self.stream.send_headers(_CONTINUE)

    def call(self) -> Any:
        """Calls the handler with as many arguments as it takes."""
        route = self.route
        if route is None:
            raise InvalidState("the request has no handler")
        return route.handler(*(self.request, self.response)[: route.arity])

    def _attempt(self, step: Callable[[], None]) -> None:
        try:
            step()
        except Exception as exc:
            self.fail(exc)

    def finish(self, result: Any) -> None:
        """Does what the handler's result says; a result that must be awaited comes back here."""
        if inspect.iscoroutine(result):
            self.follow(self.dispatcher.spawn(result))
        elif isinstance(result, AsyncIterator):
            self.follow(self.dispatcher.spawn(self._send_all(result)))
        elif inspect.isawaitable(result):
            self.follow(self.dispatcher.spawn(_await(result)))
        else:
            self.response.finish_with(result)
            if self.producer is None:
                self.done()

    def follow(self, task: asyncio.Task[Any]) -> None:
        """The handler runs in a task."""
        self.running = True
        self._task = task
        if task.done():
            self._task_done(task)
        else:
            task.add_done_callback(self._task_done)

    def _task_done(self, task: asyncio.Task[Any]) -> None:
        self._task = None
        if task.cancelled():
            if self.error is None:
                self.response.reset(H3ErrorCode.H3_REQUEST_CANCELLED)
            self.done(failed=True)
        elif (exc := task.exception()) is None:
            self._attempt(lambda: self.finish(task.result()))
        elif isinstance(exc, Exception):
            self.fail(exc)
        else:
            self.done(failed=True)  # SystemExit, KeyboardInterrupt: asyncio has already raised it

    async def _send_all(self, chunks: AsyncIterator[Any]) -> None:
        try:
            async for chunk in chunks:
                await self.response.write_all(chunk)
                if self.response.head_only:
                    break
        finally:
            if isinstance(chunks, AsyncGenerator):
                await chunks.aclose()
        if not self.response.ended:
            self.response.end()

    def produce(self, chunks: Iterator[Any]) -> None:
        """Pulls chunks while the stream takes them; a file writes itself."""
        if isinstance(chunks, FileBody):
            self.response.write_all(b"")  # the head goes before
            chunks.sink = self.stream.write_file
        self.producer = chunks
        self._pull()

    def _pull(self) -> None:
        producer, stream, body = self.producer, self.stream, self.request.body
        if producer is None:
            return
        try:
            while stream.sending and self.error is None:
                if self.response.head_only and self.response.headers_sent:
                    self._close_producer()
                    self._produced(None)
                    return
                if stream.pending or stream.blocked:
                    self._after_drain = self._pull
                    return
                try:
                    item = next(producer)
                except StopIteration as stop:
                    self.producer = None
                    self._produced(stop.value)
                    return
                if item is body:
                    if stream.receiving and not body.ready():
                        self._after_read = self._pull
                        return
                elif item:
                    self.response.write_all(item)
        except Exception as exc:
            self.fail(exc)

    def _produced(self, value: Any) -> None:
        """A generator's own return value ends the response as a plain handler's would."""
        if not self.response.ended:
            self.response.finish_with(value) if value is not None else self.response.end()
        self.done()

    def done(self, failed: bool = False) -> None:
        """The handler is through. What is left of the request body is not wanted."""
        if self.running:
            self.running = False
            self.dispatcher.handler_ended(failed, cancelled=self.error is not None)
        if not self.stream.sending:
            self.stream.stop_receiving(H3ErrorCode.H3_NO_ERROR)
        elif self.response.hold_fin:
            self.on_readable()  # nobody else reads what comes until the client ends the request

    def fail(self, exc: Exception) -> None:
        """The handler raised."""
        self._close_producer()
        if self.error is None:
            self.dispatcher.answer_error(self.request, self.response, exc, self.route)
        self.done(failed=error_to_status(exc) >= 500)

    def _close_producer(self) -> None:
        producer, self.producer = self.producer, None
        close = getattr(producer, "close", None)
        if close is not None:
            try:
                close()
            except Exception:
                log.exception("a generator handler failed while it was closed")

    # Calls of the HTTP/3 layer

    def on_readable(self) -> None:
        if self._buffer is not None:
            self._fill_buffer()
            return
        if self._capsules is not None:
            self._read_capsules()
            return
        if self.response.hold_fin and not self.running:
            while self.stream.recv():
                pass
            return
        callback, self._after_read = self._after_read, None
        if callback is not None:
            callback()

    def _fill_buffer(self) -> None:
        buffer = self._buffer
        if buffer is None:
            return
        while chunk := self.stream.recv():
            buffer.append(chunk)
        if not self.length_is_right(ended=False):
            return
        if self.stream.bytes_received > self.dispatcher.config.max_non_streaming_body_bytes:
            self._buffer = None
            self.fail(PayloadTooLarge("the body is larger than max_non_streaming_body_bytes"))

    def on_trailers(self, fields: FieldSection) -> None:
        self.request.trailers = Headers(fields.pairs())

    def on_finished(self) -> None:
        if not self.length_is_right():
            return
        if self._capsules is not None and self._capsules.partial:
            self._refuse_body(H3ErrorCode.H3_MESSAGE_ERROR)  # RFC 9297 3.3
            return
        if self._datagrams is not None:
            self._datagrams.close(None)
        self.response.release_fin()
        if self._buffer is not None:
            self.request.body = Body(buffer=b"".join(self._buffer))
            self._buffer = None
            self.running = True
            self._attempt(self._answer)
            return
        self.on_readable()

    def length_is_right(self, ended: bool = True) -> bool:
        """A body of another length than announced makes the message malformed (RFC 9114 4.1.2)."""
        expected, received = self.request.content_length, self.stream.bytes_received
        if expected is None or self.error is not None:
            return True
        if received == expected or (received < expected and not ended):
            return True
        self._refuse_body(H3ErrorCode.H3_MESSAGE_ERROR)
        return False

    def _refuse_body(self, code: H3ErrorCode) -> None:
        self.stream.reset(code)
        self._broken(StreamReset(code, False))

    def _answer(self) -> None:
        self.finish(self.call())

    def on_drained(self) -> None:
        callback, self._after_drain = self._after_drain, None
        if callback is not None:
            callback()

    def on_sent(self) -> None:
        self.downloading = False
        if not self.running and self.stream.receiving and self._buffer is None:
            self.stream.stop_receiving(H3ErrorCode.H3_NO_ERROR)
        self.dispatcher.log_access(self.request, self.response, self._started)

    def on_reset(self, code: int) -> None:
        malformed = self.stream.malformed
        self._broken(StreamReset(code, True) if malformed is None else MalformedMessage(malformed))

    def on_stopped(self, code: int) -> None:
        self._broken(StreamReset(code, True))

    def on_too_slow(self) -> None:
        """The body comes too slowly: 408, or a reset where the response has begun."""
        self._give_up(RequestTimeout("the body came too slowly"), H3ErrorCode.H3_REQUEST_CANCELLED)

    @property
    def unanswered(self) -> bool:
        """The handler is at work and has not begun its response."""
        return self.running and not self.response.headers_sent

    def on_overdue(self) -> None:
        """The handler hangs: 503. It is cancelled, or in a thread finds its request gone."""
        log.error("the handler of %s has not answered in time", self.request.raw_path.decode("latin-1"))
        self._give_up(
            ServiceUnavailable("the handler took longer than handler_timeout_ms"),
            H3ErrorCode.H3_INTERNAL_ERROR,
        )

    def _give_up(self, error: QuicheH3Error, code: H3ErrorCode) -> None:
        """Answers in the handler's place, or resets with `code` where the response has begun."""
        response = self.response
        if response.headers_sent or (self.thread is not None and self.stream.head_sent):
            self.stream.reset(code)
        else:
            if self.thread is not None:  # its own response would wait for the loop, which is here
                response = response.moved_to(self.stream, self.dispatcher.exchange_for)
            self.dispatcher.answer_error(self.request, response, error, self.route)
        self._broken(error)

    def on_stalled(self) -> None:
        """Nobody takes the response."""
        self.stream.reset(H3ErrorCode.H3_REQUEST_CANCELLED)
        self._broken(TimedOut("the client took nothing of the response"))

    def on_closed(self, error: ConnectionClosed) -> None:
        self._broken(error)

    def _broken(self, error: QuicheH3Error) -> None:
        """The stream is over: whoever waits is told, once."""
        if self.error is not None:
            return
        self.error = error
        self.downloading = False
        self._buffer = None
        if self._datagrams is not None:
            self._datagrams.close(error)
        if self.thread is not None:
            self.thread.abandon(error)
        waiting = (self._after_read, self._after_drain)
        self._after_read = self._after_drain = None
        if self.producer is not None:
            self._close_producer()
            self.done(failed=True)
        if self._task is not None:
            self._task.cancel()
        for callback in waiting:
            if callback is not None and callback != self._pull:
                callback()
