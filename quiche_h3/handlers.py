"""From a request stream to a running handler, and from what the handler does to its response.

`Dispatcher` is the application of the HTTP/3 layer: it finds the route and starts the handler. A request
that is answered at once needs nothing more; for every other one an `Exchange` listens to the stream.
"""

from __future__ import annotations

import inspect
import logging
import time
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Iterator
from typing import TYPE_CHECKING, Any, Final

from .body import AsyncBody, BlockingBody, Body
from .config import ServerConfig
from .errors import (
    BadRequest,
    ConnectionClosed,
    H3ErrorCode,
    HandlerError,
    InvalidState,
    MethodNotAllowed,
    PayloadTooLarge,
    QuicheH3Error,
    ServiceUnavailable,
    StreamClosed,
    StreamReset,
    error_to_status,
)
from .headers import Headers
from .logs import log_access
from .request import Request
from .response import Response
from .routing import ErrorHandler, HandlerKind, Route, Router
from .threads import BlockingResponse, HandlerThreads, ThreadStream

if TYPE_CHECKING:
    import asyncio

    from ._core.connection import Connection
    from ._core.http3 import FieldSection, Stream

log: Final = logging.getLogger("quiche_h3")
_REASONS: Final = {
    400: "Bad Request",
    404: "Not Found",
    405: "Method Not Allowed",
    413: "Content Too Large",
    414: "URI Too Long",
    431: "Request Header Fields Too Large",
    500: "Internal Server Error",
    503: "Service Unavailable",
}


NO_BODY: Final = Body()
NO_ASYNC_BODY: Final = AsyncBody()
# As plain numbers: they are compared for every request.
GENERATOR: Final = int(HandlerKind.GENERATOR)
COROUTINE: Final = int(HandlerKind.COROUTINE)


_PLAIN_RESULTS: Final = (str, bytes, dict, list, tuple)


async def _await(result: Any) -> Any:
    return await result


class Exchange:
    """A request whose answer takes longer than one call: what its handler waits for, and who is waiting."""

    __slots__ = (
        "_after_drain",
        "_after_read",
        "_buffer",
        "_started",
        "_task",
        "dispatcher",
        "downloading",
        "error",
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
        return self.stream.recv(size)

    def when_readable(self, callback: Callable[[], None]) -> None:
        """Calls back once when there is more to take, or nothing more to wait for."""
        if self.error is not None or not self.stream.receiving:
            callback()
        else:
            self._after_read = callback

    def when_drained(self, callback: Callable[[], None]) -> None:
        """Calls back once when all that was queued is taken, or the stream is over."""
        if self.error is not None or not (self.stream.pending or self.stream.blocked):
            callback()
        else:
            self._after_drain = callback

    def take_download_slot(self) -> bool:
        """Counts this response among the connection's downloads; False when there are too many."""
        limit = self.dispatcher.config.max_active_downloads_per_conn
        if limit:
            streams = self.stream.http3.streams.values()
            if sum(1 for s in streams if s.handler is not None and s.handler.downloading) >= limit:
                return False
            self.downloading = True
        return True

    # Running

    def begin(self, route: Route, tunnel: bool) -> None:
        """Starts the handler in the manner of its kind."""
        self.route = route
        kind = route.kind
        limit = self.dispatcher.config.max_request_body_size
        if kind is HandlerKind.PLAIN and not tunnel:
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
        """Pulls chunks while the stream takes them."""
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
                if stream.pending:
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
        callback, self._after_read = self._after_read, None
        if callback is not None:
            callback()

    def _fill_buffer(self) -> None:
        buffer = self._buffer
        if buffer is None:
            return
        while chunk := self.stream.recv():
            buffer.append(chunk)
        if self.stream.bytes_received > self.dispatcher.config.max_non_streaming_body_bytes:
            self._buffer = None
            self.fail(PayloadTooLarge("the body is larger than max_non_streaming_body_bytes"))

    def on_trailers(self, fields: FieldSection) -> None:
        self.request.trailers = Headers(fields.pairs())

    def on_finished(self) -> None:
        if not self.length_is_right():
            return
        if self._buffer is not None:
            self.request.body = Body(buffer=b"".join(self._buffer))
            self._buffer = None
            self.running = True
            self._attempt(self._answer)
            return
        self.on_readable()

    def length_is_right(self) -> bool:
        """A body of another length than announced makes the message malformed (RFC 9114 4.1.2)."""
        expected = self.request.content_length
        if expected is None or expected == self.stream.bytes_received or self.error is not None:
            return True
        self.stream.reset(H3ErrorCode.H3_MESSAGE_ERROR)
        self._broken(StreamReset(H3ErrorCode.H3_MESSAGE_ERROR, False))
        return False

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
        self._broken(StreamReset(code, True))

    def on_stopped(self, code: int) -> None:
        self._broken(StreamReset(code, True))

    def on_closed(self, error: ConnectionClosed) -> None:
        self._broken(error)

    def _broken(self, error: QuicheH3Error) -> None:
        """The stream is over: whoever waits is told, once."""
        if self.error is not None:
            return
        self.error = error
        self.downloading = False
        self._buffer = None
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


class Dispatcher:
    """The server's application: routes requests, runs handlers, answers errors, counts both."""

    def __init__(self, config: ServerConfig, router: Router) -> None:
        self.config = config
        self.router = router
        self.started = self.finished = self.failed = self.cancelled = self.rejected = self.blocking = 0
        self.post: Callable[..., None] = self._no_loop  # runs a function in the loop's thread
        self.spawn: Callable[[Any], asyncio.Task[None]] = self._no_asyncio
        self._pool: HandlerThreads | None = None
        self._exchange_of = self.exchange_for
        self._own_fields = [(b"server", config.server_header.encode())] if config.server_header else []
        self._exact = router.exact
        self._queue_limit = config.max_response_queue_bytes
        self._log_all = config.access_log

    @staticmethod
    def _no_loop(*_: Any) -> None:
        raise InvalidState("the server does not run")

    @staticmethod
    def _no_asyncio(coroutine: Any) -> asyncio.Task[None]:
        coroutine.close()
        raise RuntimeError("async handlers need an asyncio loop: register them before run(), or use serve()")

    def request(self, stream: Stream) -> None:
        """A request is complete up to its body."""
        self.started += 1
        arrived = time.monotonic() if self._log_all else 0.0
        fields = stream.fields
        method = fields.method or b""
        target = fields.path or b""
        path = target.partition(b"?")[0] if b"?" in target else target
        request = Request(stream, {}, NO_BODY)
        response = Response(request, stream, self._exchange_of, self._queue_limit, method == b"HEAD")
        if self._own_fields:
            response.add_pairs(self._own_fields)
        table = self._exact.get(path)
        route = None if table is None else table.get(method)
        try:
            if route is None:
                match = self.router.resolve(method, path)
                route = match.route
                request.params = match.params
                if route is None:
                    exchange = self.exchange_for(response)
                    self._answer_options(response, match.allowed)
                    exchange.done()
                    return
            self.admit(stream)
            kind = route.kind
            if stream.receiving or kind > COROUTINE or kind == GENERATOR:
                # A tunnel (CONNECT) has no end to wait for: its handler is called at once.
                Exchange(self, stream, request, response).begin(route, method == b"CONNECT")
                return
            if kind == COROUTINE:
                request.body = NO_ASYNC_BODY
            arity = route.arity
            if arity == 2:
                result = route.handler(request, response)
            else:
                result = route.handler(request) if arity else route.handler()
            if kind == COROUTINE:
                task = self.spawn(result)
                if not task.done() or task.cancelled():
                    exchange = self.exchange_for(response)
                    exchange.route = route
                    exchange.follow(task)
                    return
                result = task.result()
            if result is None or isinstance(result, _PLAIN_RESULTS):
                response.finish_with(result)
            else:
                exchange = self.exchange_for(response)
                exchange.route = route
                exchange.finish(result)
                return
        except Exception as exc:
            if response.ended:
                self._log_now(request, response, arrived)
            exchange = self.exchange_for(response)
            exchange.route = route
            exchange.running = True
            exchange.fail(exc)
            return
        exchange = stream.handler
        if exchange is None:
            self.finished += 1
            if self._log_all:
                self._log_now(request, response, arrived)
        else:
            exchange.route = route
            if exchange.producer is None:
                exchange.done()

    def refused(self, stream: Stream, status: int) -> None:
        """A request that is malformed or over a limit: it gets its status and nothing else."""
        stream.send_headers([(b":status", b"%d" % status), (b"content-length", b"0")], True)
        code = H3ErrorCode.H3_MESSAGE_ERROR if status == 400 else H3ErrorCode.H3_NO_ERROR
        stream.stop_receiving(code)
        if self._log_all:
            connection = stream.connection
            log_access(connection.peer_address, "-", "-", status, 0, 0.0, connection.id, stream.id)

    def goaway(self, connection: Connection, stream_id: int) -> None:
        """A client's GOAWAY is about pushes, of which there are none (RFC 9114 5.2)."""

    def exchange_for(self, response: Response) -> Exchange:
        """The exchange of a response whose handler turned out to need one."""
        stream = response.stream
        if stream.handler is None:
            Exchange(self, stream, response.request, response).running = True
        exchange: Exchange = stream.handler
        return exchange

    def add_own_fields(self, response: Response) -> None:
        """Fields that every response has."""
        response.add_pairs(self._own_fields)

    def admit(self, stream: Stream) -> None:
        """Raises what stands in the way of a request: the limits of its connection, its content-length."""
        config = self.config
        limit = config.max_active_requests_per_conn
        if limit and len(stream.http3.streams) >= limit:
            self.rejected += 1
            log.warning("connection %d has %d requests in flight: answering 503", stream.connection.id, limit)
            raise ServiceUnavailable("too many requests in flight on this connection")
        length = stream.fields.content_length
        if length > 0:
            if not stream.receiving:
                raise BadRequest("there is no body, but a content-length")  # RFC 9114 4.1.2
            if length > config.max_request_body_size:
                raise PayloadTooLarge("the body is larger than max_request_body_size")

    @staticmethod
    def _answer_options(response: Response, allowed: tuple[str, ...]) -> None:
        response.status(204).header("allow", ", ".join(allowed))
        response.end()

    # Errors

    def answer_error(self, request: Request, response: Response, exc: Exception, route: Route | None) -> None:
        """Answers for what a handler raised, by the program's error handler or by the status map."""
        stream = response.stream
        if isinstance(exc, (StreamReset, StreamClosed, ConnectionClosed)) and not stream.sending:
            return  # the client went away
        handler = (self.router if route is None else route).error_handler(exc)
        if handler is not None and not response.headers_sent:
            try:
                self._call_error_handler(handler, request, response, exc)
                return
            except Exception as second:
                second.__context__ = exc
                exc = second
        status = error_to_status(exc)
        meant = isinstance(exc, HandlerError) and (status < 500 or isinstance(exc, ServiceUnavailable))
        if response.headers_sent or not meant:
            log.error("handler of %s failed", request.raw_path.decode("latin-1"), exc_info=exc)
        if response.headers_sent:
            if stream.sending:
                response.reset(H3ErrorCode.H3_INTERNAL_ERROR)
            return
        response.replace_headers(self._own_fields)
        response.status(status)
        if isinstance(exc, MethodNotAllowed):
            response.header("allow", ", ".join(exc.allowed))
        text = str(exc) if meant and status < 500 else _REASONS.get(status, "Error")
        try:
            response.finish_with(f"{status} {text}\n")
            stream.stop_receiving(H3ErrorCode.H3_NO_ERROR)
        except QuicheH3Error:
            log.debug("no answer could be sent for %r", exc, exc_info=True)

    def _call_error_handler(
        self, handler: ErrorHandler, request: Request, response: Response, exc: Exception
    ) -> None:
        response.replace_headers(self._own_fields)
        response.status(error_to_status(exc))
        result = handler.handler(request, response, exc)
        if not inspect.isawaitable(result):
            response.finish_with(result)
            return

        async def answer() -> None:
            try:
                response.finish_with(await result)
            except Exception as second:
                self.answer_error(request, response, second, None)

        self.spawn(answer())

    # Threads

    def run_blocking(self, exchange: Exchange) -> None:
        """Runs a blocking handler in the pool, or refuses it when too many wait for a thread."""
        config = self.config
        if self.blocking >= config.handler_threads + config.blocking_queue_limit:
            self.rejected += 1
            exchange.fail(ServiceUnavailable("too many requests wait for a thread"))
            return
        self.blocking += 1
        if self._pool is None:
            self._pool = HandlerThreads(config.handler_threads)
        stream: Any = ThreadStream(exchange, self.post, config.max_response_queue_bytes)
        first = exchange.response
        exchange.thread = stream
        exchange.request.body = BlockingBody(stream, limit=config.max_request_body_size)
        exchange.response = BlockingResponse(
            exchange.request, stream, lambda _: exchange, config.max_response_queue_bytes, first.head_only
        )
        exchange.response.add_pairs(self._own_fields)
        self._pool.submit(lambda: self._blocking(exchange), self.blocking)

    def _blocking(self, exchange: Exchange) -> None:
        """In a thread: calls the handler and does what it returns."""
        error: BaseException | None = None
        try:
            exchange.response.finish_with(exchange.call())
        except BaseException as exc:  # SystemExit ends no thread of a pool
            error = exc
        try:
            self.post(self._blocking_ended, exchange, error)
        except RuntimeError:
            log.debug("a blocking handler ended after the server")

    def _blocking_ended(self, exchange: Exchange, exc: BaseException | None) -> None:
        self.blocking -= 1
        if exc is None:
            exchange.done()
            return
        # From here on the loop's thread answers, on the stream itself.
        exchange.response = exchange.response.moved_to(exchange.stream, self._exchange_of)
        exchange.fail(exc if isinstance(exc, Exception) else RuntimeError(repr(exc)))

    def handler_ended(self, failed: bool, cancelled: bool) -> None:
        """Counts."""
        if cancelled:
            self.cancelled += 1
        elif failed:
            self.failed += 1
        else:
            self.finished += 1

    def close(self) -> None:
        """Lets the threads go, each after what it is doing."""
        if self._pool is not None:
            self._pool.close()
            self._pool = None

    # Access log

    def _log_now(self, request: Request, response: Response, started: float) -> None:
        if response.ended:
            self.log_access(request, response, started)

    def log_access(self, request: Request, response: Response, started: float) -> None:
        """One line for an answered request."""
        if self.config.access_log:
            log_access(
                request.peer_address,
                request.method,
                request.raw_path.decode("latin-1"),
                response.status_code,
                response.bytes_sent,
                time.monotonic() - started,
                request.conn_id,
                request.stream_id,
            )

    def counters(self) -> dict[str, int]:
        """See `metrics.HandlerMetrics`."""
        pool = self.config.handler_threads
        return {
            "started": self.started,
            "finished": self.finished,
            "failed": self.failed,
            "cancelled": self.cancelled,
            "active": self.started - self.finished - self.failed - self.cancelled,
            "blocking_active": min(self.blocking, pool),
            "blocking_queued": max(0, self.blocking - pool),
            "rejected_503": self.rejected,
        }
