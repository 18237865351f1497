"""The client for programs that wait: a pool of connections, or one connection; from any number of threads."""

from __future__ import annotations

import math
import threading
import weakref
from collections.abc import Callable
from types import TracebackType
from typing import TYPE_CHECKING, Any, Final, TypeVar

from .client_engine import prepare_config
from .client_exchange import (
    ClientExchange,
    HeaderItems,
    Prepared,
    chunks_of,
    content_of,
    prepare,
)
from .client_link import ConnectionInfo, Link
from .client_messages import ClientRequest, ClientResponse, ClientStream, send_chunks
from .client_thread import ClientThread
from .client_verbs import Verbs, may_send_again, next_request
from .config import ClientConfig
from .errors import ConnectionClosed
from .pool import Pool
from .request import Priority
from .tickets import TicketStore
from .timeouts import Timeout, Timeouts, timeouts_of
from .urls import Origin, parse_url

if TYPE_CHECKING:
    from typing_extensions import Self, Unpack

    from .client_verbs import RequestOptions

_JOIN_SECONDS: Final = 1.0

D = TypeVar("D", bound=Callable[[bytes], object])


def connect(
    url: str,
    *,
    verify: bool = True,
    cafile: str | None = None,
    config: ClientConfig | None = None,
    timeout: Timeout | None = 30.0,
    keep_alive_s: float | None = None,
    tickets: TicketStore | None = None,
) -> ClientConnection:
    """Connects to the server of an https URL, and returns once the handshake is complete.

    The server's certificate is verified: by the system's authorities, and those of `cafile` (PEM).
    `verify=False` takes any certificate, which is for development alone. For an address in place of a name
    the certificate must hold that address.

    `timeout`: the most seconds that any one wait may take, here and in requests, or `Timeouts` for each
    phase; None for no limit. Connecting is limited by `config.connect_timeout_ms` besides. `keep_alive_s`:
    seconds between PINGs that keep an idle connection from being dropped; None sends none. `tickets` resumes
    earlier sessions, None takes the store that `config.ticket_path` names. `config` holds everything else;
    None takes it from the environment.

    Raises ValueError for a URL that is none, ConfigError, and ConnectError, whose text names what failed.
    """
    origin, path = parse_url(url)
    settings = prepare_config(config, verify, cafile)
    limits = Timeouts.all(None) if timeout is None else timeouts_of(timeout, Timeouts())
    thread = ClientThread(settings, tickets, keep_alive_s)
    try:
        seconds = min(limits.seconds("connect"), settings.connect_timeout_ms / 1000)
        link = thread.call(thread.engine.link, origin, seconds)
        info = thread.wait(link.connected, math.inf, origin.authority)
    except BaseException:
        thread.close()
        raise
    return ClientConnection(origin, path, thread, link, info, limits)


class _Sender(Verbs[ClientResponse]):
    """What `Client` and `ClientConnection` have in common: requests, and an end."""

    _base: Origin | None = None

    def __init__(self, thread: ClientThread, timeouts: Timeouts) -> None:
        self._thread = thread
        self._timeouts = timeouts
        self._pumps: weakref.WeakSet[threading.Thread] = weakref.WeakSet()
        self._finalizer = weakref.finalize(self, thread.close)

    def request(self, method: str, url: str, **options: Unpack[RequestOptions]) -> ClientResponse:
        """Sends a request and waits for its response: for status and fields, not for the body.

        `url` is absolute, or on a connection a path with its query. `data` is the body: bytes, text, a file
        open in binary mode, or an iterable of pieces; files and iterables are read in a thread of their own,
        no faster than the server takes them, and the response may come before they end. `json` is a body to
        be sent as JSON. `timeout` in seconds, or `Timeouts` for each phase; None for the client's own.
        `priority` ranks the response among others (RFC 9218). `follow_redirects` is for `Client` alone.

        Raises ValueError or HeaderInvalid for what cannot be sent, ConnectError, TimedOut, StreamReset,
        ConnectionClosed (on a connection also after the server's GOAWAY), RedirectError, and whatever the
        source of the body raises.
        """
        if options.pop("follow_redirects", False):
            raise ValueError("one connection follows no redirects: use a Client")
        return self.send(method, url, **options).response()

    def send(self, method: str, url: str, **options: Unpack[RequestOptions]) -> ClientRequest:
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
        request = self._begin(prepared, options.get("timeout"))
        if content.source is not None:
            self._pump(request, content.source)
        return request

    def open(
        self,
        method: str,
        url: str,
        *,
        headers: HeaderItems | None = None,
        timeout: Timeout | None = None,
        priority: Priority | None = None,
    ) -> ClientRequest:
        """Sends a request whose body follows: `write()`, then `end()` or `send_trailers()`, of the result."""
        prepared = prepare(method, url, self._base, headers, None, priority=priority)
        return self._begin(prepared, timeout)

    def _begin(self, prepared: Prepared, timeout: Timeout | None) -> ClientRequest:
        raise NotImplementedError

    def _pump(self, request: ClientRequest, source: Any) -> None:
        pump = threading.Thread(
            target=send_chunks, args=(request, chunks_of(source)), name="quiche_h3-upload", daemon=True
        )
        self._pumps.add(pump)
        pump.start()

    def close(self) -> None:
        """Closes all connections with H3_NO_ERROR; what is still under way fails with ConnectionClosed.

        The client's threads have ended when it returns, but for one that reads a request body from a source
        that does not return: that ends with the source.
        """
        self._finalizer()
        for pump in list(self._pumps):
            if pump is not threading.current_thread():
                pump.join(_JOIN_SECONDS)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, exc: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


class Client(_Sender):
    """Requests to any number of servers, over connections that are shared and kept. A context manager.

    There is at most one connection to an origin, whose requests share it; `config.max_connections` bounds
    how many there are, beyond which the one that was idle for longest makes way, or requests wait. An idle
    connection ends after `config.idle_timeout_ms`. A request that the server has left unprocessed (GOAWAY,
    H3_REQUEST_REJECTED) is sent again, `config.max_retries` times at most, unless its body was a file or an
    iterable.

    All methods may be called from any thread. What a request returns belongs to one thread at a time. A
    client that is dropped without `close()` is closed when it is collected, at the latest when the
    interpreter exits. The arguments are those of `connect()`; cookies are left to the program.
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
        super().__init__(ClientThread(settings, tickets, keep_alive_s), limits)
        self._config = settings
        self._pool = Pool(self._thread.engine)

    def request(self, method: str, url: str, **options: Unpack[RequestOptions]) -> ClientResponse:
        # Its documentation is that of _Sender.request.
        follow = options.pop("follow_redirects", False)
        history: list[ClientResponse] = []
        while True:
            response = self.send(method, url, **options).response()
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

    request.__doc__ = _Sender.request.__doc__

    def connections(self) -> dict[str, ConnectionInfo]:
        """What the handshakes of the connections that are open now have led to, by origin."""

        def infos() -> dict[str, ConnectionInfo]:
            open_links = [link for link in self._pool.links() if link.usable(False)]
            return {link.origin.url: link.connected.result() for link in open_links if link.connected.done()}

        try:
            return self._thread.call(infos)
        except ConnectionClosed:
            return {}

    def _begin(self, prepared: Prepared, timeout: Timeout | None) -> ClientRequest:
        limits = timeouts_of(timeout, self._timeouts)

        def again(exchange: ClientExchange, tries: int) -> ClientStream | None:
            if tries > self._config.max_retries or not may_send_again(prepared, exchange):
                return None
            return self._send(prepared, limits, early=False)

        stream = self._send(prepared, limits, early=True)
        return ClientRequest(prepared, stream, self, again)

    def _send(self, prepared: Prepared, limits: Timeouts, early: bool) -> ClientStream:
        """The stream of a request on a connection of the pool, the second time without 0-RTT."""
        exchange = ClientExchange(prepared.method == "HEAD")
        future = self._thread.call(
            self._pool.with_link,
            prepared.origin,
            early and prepared.safe,
            limits,
            lambda link: link.open(exchange, prepared),
        )
        try:
            self._thread.wait(future, math.inf, prepared.origin.authority)
        except KeyboardInterrupt:
            self._thread.defer(self._pool.forget, future)
            raise
        return ClientStream(exchange, self._thread, limits, prepared.origin.authority)

    def __repr__(self) -> str:
        return f"<Client of {len(self.connections())} connections>"


class ClientConnection(_Sender):
    """One connection to one server. Made by `connect()`; a context manager that closes it.

    Threads may use it as they may a `Client`.
    """

    def __init__(
        self,
        origin: Origin,
        path: str,
        thread: ClientThread,
        link: Link,
        info: ConnectionInfo,
        timeouts: Timeouts,
    ) -> None:
        super().__init__(thread, timeouts)
        self._base = origin
        self.origin = origin
        """Host and port of the server."""
        self.path = path
        """Path and query of the URL that was connected to."""
        self.info = info
        """What the handshake has led to: addresses, ALPN, certificate, time."""
        self._link = link

    def _begin(self, prepared: Prepared, timeout: Timeout | None) -> ClientRequest:
        if prepared.origin != self.origin:
            raise ValueError(
                f"this client is connected to {self.origin.authority}, not to {prepared.origin.authority}"
            )
        if self._link.error is not None:
            raise self._link.error
        exchange = ClientExchange(prepared.method == "HEAD")
        self._thread.call(self._link.open, exchange, prepared)
        limits = timeouts_of(timeout, self._timeouts)
        return ClientRequest(
            prepared, ClientStream(exchange, self._thread, limits, self.origin.authority), self
        )

    def send_datagram(self, payload: bytes) -> None:
        """Sends a QUIC DATAGRAM (RFC 9221).

        Raises WouldBlock, DatagramTooLarge, DatagramNotEnabled or ConnectionClosed.
        """
        self._thread.call(self._link.send_datagram, bytes(payload))

    def on_datagram(self, callback: D) -> D:
        """Registers `callback(payload)` for QUIC DATAGRAMs; also a decorator.

        It is called in the client's own thread: it must not wait, so hand the payload to a queue. What comes
        before a callback is registered is dropped.
        """
        self._link.on_datagram = callback
        return callback

    def migrate(self, local_address: str | None = None) -> tuple[str, int]:
        """Goes over to a new local port, of another address of this machine if given (RFC 9000 9.2).

        Returns the new (host, port) once the server has answered there; requests under way go on. Raises
        InvalidState where the server wants no migration, OSError for an address that is not ours, TimedOut
        when there is no answer, after which the connection stays where it was, and ConnectionClosed.
        """
        local = self._thread.wait(
            self._thread.call(self._link.migrate, local_address), math.inf, self.origin.authority
        )
        self.info = self.info._replace(local_address=local)
        return local

    @property
    def closed(self) -> bool:
        """No new request can be sent: the connection is closed, or the server has sent GOAWAY."""
        return self._link.error is not None or self._thread.ended

    def stats(self) -> dict[str, Any]:
        """Counters of the connection as of `Connection.stats()`, RTTs in seconds; empty once it is gone."""
        connection = self._link.connection
        if connection is None or self.closed:
            return {}
        try:
            return self._thread.call(connection.stats)
        except ConnectionClosed:
            return {}

    def __repr__(self) -> str:
        return f"<ClientConnection {self.origin.authority} {'closed' if self.closed else 'open'}>"
