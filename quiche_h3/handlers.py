"""From a request stream to a running handler, and from what the handler does to its response.

`Dispatcher` is the application of the HTTP/3 layer: it finds the route and starts the handler. A request
that is answered at once needs nothing more; for every other one an `Exchange` listens to the stream.
"""

from __future__ import annotations

import inspect
import logging
import time
from collections.abc import Callable
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
    NotFound,
    PayloadTooLarge,
    ProtocolNotImplemented,
    QuicheH3Error,
    ServiceUnavailable,
    StreamClosed,
    StreamReset,
    TooEarly,
    error_to_status,
)
from .exchange import Exchange
from .logs import log_access
from .request import Request
from .response import Response
from .routing import ErrorHandler, HandlerKind, Match, Route, Router
from .threads import BlockingResponse, HandlerThreads, ThreadStream
from .webtransport_server import PROTOCOLS, Sessions

if TYPE_CHECKING:
    import asyncio

    from ._core.connection import Connection
    from ._core.http3_stream import Stream

log: Final = logging.getLogger("quiche_h3")
_REASONS: Final = {
    400: "Bad Request",
    404: "Not Found",
    405: "Method Not Allowed",
    408: "Request Timeout",
    413: "Content Too Large",
    414: "URI Too Long",
    425: "Too Early",
    431: "Request Header Fields Too Large",
    500: "Internal Server Error",
    501: "Not Implemented",
    503: "Service Unavailable",
}


NO_BODY: Final = Body()
NO_ASYNC_BODY: Final = AsyncBody()
# As plain numbers: they are compared for every request.
GENERATOR: Final = int(HandlerKind.GENERATOR)
COROUTINE: Final = int(HandlerKind.COROUTINE)
SESSION: Final = int(HandlerKind.SESSION)
_QUESTION_MARK: Final = ord("?")


# May run twice, when an attacker repeats 0-RTT data (RFC 8470 3): the rest waits for the handshake.
_REPEATABLE: Final = frozenset((b"GET", b"HEAD", b"OPTIONS"))
_PLAIN_RESULTS: Final = (str, bytes, dict, list, tuple)


class Dispatcher:
    """The server's application: routes requests, runs handlers, answers errors, counts both."""

    def __init__(self, config: ServerConfig, router: Router) -> None:
        self.config = config
        self.router = router
        self.started = self.finished = self.failed = self.cancelled = self.rejected = self.blocking = 0
        self.post: Callable[..., None] = self._no_loop  # runs a function in the loop's thread
        self.spawn: Callable[[Any], asyncio.Task[None]] = self._no_asyncio
        self._pool: HandlerThreads | None = None
        self._sessions = Sessions(self)
        self._exchange_of = self.exchange_for
        self._own_fields = [(b"server", config.server_header.encode())] if config.server_header else []
        self._exact = router.exact
        self._queue_limit = config.max_response_queue_bytes
        self._active_limit = config.max_active_requests_per_conn
        self._body_limit = config.max_request_body_size
        self._log_all = config.access_log
        self.raw_datagrams = False  # the program takes raw ones: what no handler asked for is raw

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
        # A number: bytes would first be tried as one, at the price of an exception.
        path = target.partition(b"?")[0] if _QUESTION_MARK in target else target
        request = Request(stream, {}, NO_BODY)
        response = Response(request, stream, self._exchange_of, self._queue_limit, method == b"HEAD")
        if self._own_fields:
            response.add_pairs(self._own_fields)
        table = self._exact.get(path)
        route = None if table is None else table.get(method)
        try:
            if route is None:
                match = self._resolve(method, path, fields.protocol)
                route = match.route
                request.params = match.params
                if route is None:
                    exchange = self.exchange_for(response)
                    self._answer_options(response, match.allowed)
                    exchange.done()
                    return
            self.admit(stream)
            if method not in _REPEATABLE and request.early_data:
                raise TooEarly  # RFC 8470 3 and 5.1
            kind = route.kind
            if stream.receiving or kind > COROUTINE or kind == GENERATOR:
                if kind == SESSION:
                    self._sessions.request(stream, request, route)
                    return
                # A tunnel (CONNECT) has no end to wait for, nor has an exchange of datagrams: the handler is
                # called at once.
                at_once = method == b"CONNECT" or route.on_datagram is not None
                Exchange(self, stream, request, response).begin(route, at_once)
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

    def _resolve(self, method: bytes, path: bytes, protocol: bytes | None) -> Match:
        try:
            return self.router.resolve(method, path)
        except (NotFound, MethodNotAllowed):
            if protocol is None or protocol in PROTOCOLS:
                raise
            # RFC 9220 3: extended CONNECT for a protocol that no route may speak
            raise ProtocolNotImplemented(f"nobody speaks {protocol.decode('latin-1')} here") from None

    def refused(self, stream: Stream, status: int) -> None:
        """A request that is malformed or over a limit: it gets its status and nothing else."""
        malformed = status == 400
        stream.send_headers([(b":status", b"%d" % status), (b"content-length", b"0")], not malformed)
        if malformed:  # a stream error, before which it may be told so (RFC 9114 4.1.2)
            stream.reset_after_turn(H3ErrorCode.H3_MESSAGE_ERROR)
        else:
            stream.stop_receiving(H3ErrorCode.H3_NO_ERROR)
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
        limit = self._active_limit
        if limit and len(stream.protocol().streams) >= limit:
            self.rejected += 1
            log.warning("connection %d has %d requests in flight: answering 503", stream.connection.id, limit)
            raise ServiceUnavailable("too many requests in flight on this connection")
        length = stream.fields.content_length
        if length > 0:
            if not stream.receiving:
                raise BadRequest("there is no body, but a content-length")  # RFC 9114 4.1.2
            if length > self._body_limit:
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
            if exchange.error is None:  # else it was given up before its turn came
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
        self._sessions.close()
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
