"""The client for asyncio: the same engine, pool and connections as `client`, in the program's own loop."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from types import TracebackType
from typing import TYPE_CHECKING, Any, TypeVar

from .async_messages import AsyncClientRequest, AsyncClientResponse, AsyncStream, result_of
from .asyncio_driver import AsyncioDriver
from .client_engine import ClientEngine, prepare_config
from .client_exchange import ClientExchange, HeaderItems, Prepared, content_of, prepare
from .client_link import ConnectionInfo, closed_by_us
from .client_verbs import Verbs, may_send_again, next_request
from .config import ClientConfig
from .errors import H3ErrorCode, InvalidState
from .pool import Pool
from .request import Priority
from .tickets import TicketStore
from .timeouts import Timeout, Timeouts, timeouts_of
from .urls import Origin, parse_url

if TYPE_CHECKING:
    from typing_extensions import Self, Unpack

    from .client_verbs import RequestOptions

D = TypeVar("D", bound=Callable[[bytes], object])


async def aconnect(
    url: str,
    *,
    verify: bool = True,
    cafile: str | None = None,
    config: ClientConfig | None = None,
    timeout: Timeout | None = 30.0,
    keep_alive_s: float | None = None,
    tickets: TicketStore | None = None,
) -> AsyncClientConnection:
    """`connect()` for asyncio: the same arguments and errors."""
    origin, path = parse_url(url)
    settings = prepare_config(config, verify, cafile)
    limits = Timeouts.all(None) if timeout is None else timeouts_of(timeout, Timeouts())
    connection = AsyncClientConnection(origin, path, settings, limits, keep_alive_s, tickets)
    try:
        await connection._connect()
    except BaseException:
        await connection.close()
        raise
    return connection


class _AsyncSender(Verbs[Coroutine[Any, Any, AsyncClientResponse]]):
    """What `AsyncClient` and `AsyncClientConnection` have in common: an engine, requests, and an end."""

    _base: Origin | None = None

    def __init__(
        self,
        config: ClientConfig,
        timeouts: Timeouts,
        keep_alive_s: float | None,
        tickets: TicketStore | None,
    ) -> None:
        self._config = config
        self._timeouts = timeouts
        self._keep_alive_s = keep_alive_s
        self._tickets = tickets
        self._core: ClientEngine | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._closing: asyncio.Future[None] | None = None

    def _engine(self) -> ClientEngine:
        """The engine, made in the loop where it is first needed. Raises InvalidState in any other."""
        if self._closing is not None:
            raise closed_by_us()
        if self._core is None:
            self._loop = asyncio.get_running_loop()
            self._core = ClientEngine(self._config, AsyncioDriver, self._tickets, self._keep_alive_s)
            self._core.driver.start()
        elif self._loop is not asyncio.get_running_loop():
            raise InvalidState("the client belongs to the event loop of its first request: make one for each")
        return self._core

    async def request(self, method: str, url: str, **options: Unpack[RequestOptions]) -> AsyncClientResponse:
        """Sends a request and waits for its response: for status and fields, not for the body.

        As `Client.request()`; `data` may be an asynchronous iterable too. A task that is cancelled while it
        waits cancels the request.
        """
        if options.pop("follow_redirects", False):
            raise ValueError("one connection follows no redirects: use an AsyncClient")
        return await self._response(method, url, options)

    async def _response(self, method: str, url: str, options: RequestOptions) -> AsyncClientResponse:
        return await (await self.send(method, url, **options)).response()

    async def send(self, method: str, url: str, **options: Unpack[RequestOptions]) -> AsyncClientRequest:
        """Sends a request as `request()` does; `response()` of the result waits for the response.

        It waits for a connection, where there is none yet. Redirects are not followed.
        """
        content = content_of(options.get("data"), options.get("json"))
        prepared = prepare(
            method,
            url,
            self._base,
            options.get("headers"),
            content.whole,
            content.fields,
            options.get("priority"),
        )
        request = await self._begin(prepared, options.get("timeout"))
        if content.source is not None:
            request.pump(content.source)
        return request

    async def open(
        self,
        method: str,
        url: str,
        *,
        headers: HeaderItems | None = None,
        timeout: Timeout | None = None,
        priority: Priority | None = None,
    ) -> AsyncClientRequest:
        """Sends a request whose body follows: `write()`, then `end()` or `send_trailers()`, of the result."""
        prepared = prepare(method, url, self._base, headers, None, priority=priority)
        return await self._begin(prepared, timeout)

    async def _begin(self, prepared: Prepared, timeout: Timeout | None) -> AsyncClientRequest:
        raise NotImplementedError

    async def close(self) -> None:
        """Closes all connections with H3_NO_ERROR; what is still under way fails with ConnectionClosed."""
        if self._closing is None:
            self._closing = asyncio.get_running_loop().create_future()
            if self._core is not None and self._loop is not self._closing.get_loop():
                self._told()
                self._core.release()  # the loop that could tell the servers has ended
            elif self._core is not None:
                self._core.shutdown(self._told)
                await self._closing
                self._core.release()
            else:
                self._told()
        elif not self._closing.done():
            await asyncio.shield(self._closing)

    def _told(self) -> None:
        if self._closing is not None and not self._closing.done():
            self._closing.set_result(None)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, exc: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()


class AsyncClient(_AsyncSender):
    """`Client` for asyncio: requests to any number of servers, over connections that are shared and kept.

    An async context manager. It belongs to the event loop in which its first request is made, and to the
    thread of that loop.
    """

    def __init__(
        self,
        *,
        verify: bool = True,
        cafile: str | None = None,
        config: ClientConfig | None = None,
        timeout: Timeout | None = 30.0,
        keep_alive_s: float | None = None,
        tickets: TicketStore | None = None,
    ) -> None:
        settings = prepare_config(config, verify, cafile)
        limits = Timeouts.all(None) if timeout is None else timeouts_of(timeout, Timeouts())
        super().__init__(settings, limits, keep_alive_s, tickets)
        self._pool: Pool | None = None

    async def request(self, method: str, url: str, **options: Unpack[RequestOptions]) -> AsyncClientResponse:
        # Its documentation is that of _AsyncSender.request.
        follow = options.pop("follow_redirects", False)
        history: list[AsyncClientResponse] = []
        while True:
            response = await self._response(method, url, options)
            response.history = tuple(history)
            if not follow:
                return response
            limit = self._config.max_redirects
            following = next_request(
                response.status, response.headers, method, response.url, options, len(history), limit
            )
            if following is None:
                return response
            response.close()
            history.append(response)
            method, url, options = following

    request.__doc__ = _AsyncSender.request.__doc__

    def connections(self) -> dict[str, ConnectionInfo]:
        """What the handshakes of the connections that are open now have led to, by origin."""
        links = [] if self._pool is None else self._pool.links()
        return {link.origin.url: link.connected.result() for link in links if link.usable(False)}

    async def _begin(self, prepared: Prepared, timeout: Timeout | None) -> AsyncClientRequest:
        limits = timeouts_of(timeout, self._timeouts)

        async def again(exchange: ClientExchange, tries: int) -> AsyncStream | None:
            if tries > self._config.max_retries or not may_send_again(prepared, exchange):
                return None
            return await self._send(prepared, limits, early=False)

        return AsyncClientRequest(prepared, await self._send(prepared, limits, early=True), again)

    async def _send(self, prepared: Prepared, limits: Timeouts, early: bool) -> AsyncStream:
        """The stream of a request on a connection of the pool, the second time without 0-RTT."""
        engine = self._engine()
        if self._pool is None:
            self._pool = Pool(engine)
        exchange = ClientExchange(prepared.method == "HEAD")
        future = self._pool.with_link(
            prepared.origin, early and prepared.safe, limits, lambda link: link.open(exchange, prepared)
        )
        try:
            await result_of(future)
        except asyncio.CancelledError:
            if future.done() and future.exception() is None:
                exchange.cancel(H3ErrorCode.H3_REQUEST_CANCELLED)
            self._pool.forget(future)
            raise
        return AsyncStream(exchange, limits, prepared.origin.authority)

    def __repr__(self) -> str:
        return f"<AsyncClient of {len(self.connections())} connections>"


class AsyncClientConnection(_AsyncSender):
    """One connection to one server. Made by `aconnect()`; an async context manager that closes it."""

    info: ConnectionInfo
    """What the handshake has led to: addresses, ALPN, certificate, time."""

    def __init__(
        self,
        origin: Origin,
        path: str,
        config: ClientConfig,
        timeouts: Timeouts,
        keep_alive_s: float | None,
        tickets: TicketStore | None,
    ) -> None:
        super().__init__(config, timeouts, keep_alive_s, tickets)
        self._base = origin
        self.origin = origin
        """Host and port of the server."""
        self.path = path
        """Path and query of the URL that was connected to."""
        seconds = min(timeouts.seconds("connect"), config.connect_timeout_ms / 1000)
        self._link = self._engine().link(origin, seconds)

    async def _connect(self) -> None:
        self.info = await result_of(self._link.connected)

    async def _begin(self, prepared: Prepared, timeout: Timeout | None) -> AsyncClientRequest:
        if prepared.origin != self.origin:
            raise ValueError(
                f"this client is connected to {self.origin.authority}, not to {prepared.origin.authority}"
            )
        self._engine()
        exchange = ClientExchange(prepared.method == "HEAD")
        self._link.open(exchange, prepared)
        limits = timeouts_of(timeout, self._timeouts)
        return AsyncClientRequest(prepared, AsyncStream(exchange, limits, self.origin.authority))

    def send_datagram(self, payload: bytes) -> None:
        """Sends a QUIC DATAGRAM (RFC 9221), without waiting.

        Raises WouldBlock, DatagramTooLarge, DatagramNotEnabled or ConnectionClosed.
        """
        self._link.send_datagram(bytes(payload))

    def on_datagram(self, callback: D) -> D:
        """Registers `callback(payload)` for QUIC DATAGRAMs; also a decorator.

        What comes before a callback is registered is dropped.
        """
        self._link.on_datagram = callback
        return callback

    async def migrate(self, local_address: str | None = None) -> tuple[str, int]:
        """Goes over to a new local port, of another address of this machine if given (RFC 9000 9.2).

        Returns the new (host, port) once the server has answered there; requests under way go on. Raises as
        `ClientConnection.migrate()` does.
        """
        local = await result_of(self._link.migrate(local_address))
        self.info = self.info._replace(local_address=local)
        return local

    @property
    def closed(self) -> bool:
        """No new request can be sent: the connection is closed, or the server has sent GOAWAY."""
        return self._link.error is not None

    def stats(self) -> dict[str, Any]:
        """Counters of the connection as of `Connection.stats()`, RTTs in seconds; empty once it is gone."""
        connection = self._link.connection
        return {} if connection is None or self.closed else connection.stats()

    def __repr__(self) -> str:
        return f"<AsyncClientConnection {self.origin.authority} {'closed' if self.closed else 'open'}>"
