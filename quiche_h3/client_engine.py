"""The client's engine: one endpoint, its sockets and connections, on whatever loop drives it.

It knows no thread and waits for nothing: `client_thread` runs it in a thread of its own for programs that
block, `client_async` inside of asyncio. All its methods are called in the loop's thread.
"""

from __future__ import annotations

import dataclasses
import ipaddress
import logging
import threading
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Final

from ._core import quiche_log
from ._core.connection import Connection
from ._core.endpoint import Endpoint
from ._core.fields import Http3Limits
from ._core.http3 import Http3
from ._core.http3_state import Http3Counters
from ._core.http3_stream import Stream
from ._core.settings import EngineSettings
from ._core.sockets import open_socket
from ._core.webtransport import WebTransport
from ._core.webtransport_streams import WebTransportCounters
from .client_link import Link
from .config import ClientConfig
from .drivers import Driver
from .errors import ConfigError, H3ErrorCode
from .happy_eyeballs import Address, resolve
from .tickets import FileTickets, MemoryTickets, TicketStore
from .urls import Origin

log: Final = logging.getLogger("quiche_h3")

_MAX_PATH: Final = 65_535
_CLOSE_SECONDS: Final = 0.5


def prepare_config(config: ClientConfig | None, verify: bool, cafile: str | None) -> ClientConfig:
    """The configuration that a client runs with, checked. Raises ConfigError."""
    settings = dataclasses.replace(ClientConfig.load() if config is None else config)
    settings.verify = settings.verify and verify
    settings.cafile = settings.cafile if cafile is None else cafile
    settings.validate()
    if settings.alpn_protocols != ["h3"]:
        raise ConfigError("alpn_protocols", "only HTTP/3 is spoken", 'use ["h3"]')
    if settings.qlog_dir is not None:
        Path(settings.qlog_dir).mkdir(parents=True, exist_ok=True)
    if settings.enable_debug_logging:
        quiche_log.enable(settings.debug_log_throttle)
    return settings


class ClientEngine:
    """One endpoint and the connections on it. `driver_of(endpoint)` makes what runs it."""

    def __init__(
        self,
        config: ClientConfig,
        driver_of: Callable[[Endpoint], Driver],
        tickets: TicketStore | None = None,
        keep_alive_s: float | None = None,
        webtransport: bool = False,
    ) -> None:
        if keep_alive_s is not None and not (0 < keep_alive_s < float("inf")):
            raise ConfigError(
                "keep_alive_s", f"{keep_alive_s!r} is no interval", "use seconds above 0, or None"
            )
        self.config = config
        self.keep_alive_s = keep_alive_s
        path = config.ticket_path
        self._tickets = tickets or (MemoryTickets() if path is None else FileTickets(path))
        self._counters = Http3Counters()
        self._limits = Http3Limits(
            count=config.max_header_count,
            name=config.max_header_name_length,
            value=config.max_header_value_length,
            total=config.max_field_section_size,
            path=_MAX_PATH,
        )
        self._settings = EngineSettings(config, webtransport=webtransport)
        self.webtransport = WebTransportCounters()
        self.endpoint = Endpoint(self._settings, self, server=False)
        self.driver = driver_of(self.endpoint)
        self.driver.after_turn = self._after_turn
        self._links: dict[Connection, Link] = {}
        self._socket_of: dict[Connection, int] = {}
        self._sources: dict[str, int] = {}  # sockets that connections share, by local address
        self._users: Counter[int] = Counter()
        self._unused: set[int] = set()
        self._unconnected: set[Link] = set()
        self.ending = False
        """No new connection is made any more."""
        self.on_shutdown: Callable[[], None] = lambda: None

    # Connecting

    def link(
        self, origin: Origin, timeout: float, changed: Callable[[Link], None] = lambda link: None
    ) -> Link:
        """Begins to connect. `changed(link)` is called whenever it can do more or less than before."""
        link = Link(self, origin, timeout, changed)
        self._unconnected.add(link)
        link.connected.add_done_callback(lambda future: self._unconnected.discard(link))
        try:
            ipaddress.ip_address(origin.host.partition("%")[0])
        except ValueError:
            thread = threading.Thread(
                target=self._resolve, args=(link, origin), name="quiche_h3-resolver", daemon=True
            )
            thread.start()
        else:
            link.begin([(origin.host, origin.port)])
        return link

    def _resolve(self, link: Link, origin: Origin) -> None:
        """In a thread of its own, for the system's resolver blocks."""
        try:
            found = resolve(origin.host, origin.port)
        except (OSError, UnicodeError) as exc:
            self._post(link.unresolved, exc)
        else:
            self._post(link.begin, found)

    def _post(self, function: Callable[..., object], *args: object) -> None:
        try:
            self.driver.post(function, *args)
        except RuntimeError:
            pass  # the loop has ended, and the link with it

    def connect(
        self, link: Link, index: int, address: Address, name: str | None, ticket: bytes | None
    ) -> Connection:
        """One attempt of a link."""
        connection = self.endpoint.connect(index, address, name, ticket)
        self._links[connection] = link
        self._socket_of[connection] = index
        self._users[index] += 1
        self._unused.discard(index)
        return connection

    def open_socket(self, host: str, *, shared: bool) -> int:
        """A socket bound to a local address: the one that others use already, or one more.

        Raises ConfigError or OSError when it cannot be had.
        """
        if shared and host in self._sources:
            return self._sources[host]
        try:
            index = self.endpoint.add_socket(open_socket(self.config, host, 0, errors=True))
        except (ConfigError, ValueError) as exc:
            raise OSError(exc.problem if isinstance(exc, ConfigError) else str(exc)) from exc
        self.driver.watch(index)
        self._unused.add(index)
        if shared:
            self._sources[host] = index
        else:
            self._users[index] += 1
        return index

    def move(self, connection: Connection, index: int) -> None:
        """A connection has migrated to a socket, which `open_socket()` has given to it alone."""
        self.give_back(self._socket_of[connection])
        self._socket_of[connection] = index

    def give_back(self, index: int) -> None:
        """One user less of a socket; without any it is closed after the turn."""
        self._users[index] -= 1
        if self._users[index] <= 0:
            self._unused.add(index)
            self._sources = {host: other for host, other in self._sources.items() if other != index}

    def _close_unused(self) -> None:
        for index in list(self._unused):
            if self._users[index] <= 0 and index not in self._sources.values():
                self._unused.discard(index)
                self.driver.unwatch(index)
                self.endpoint.remove_socket(index)

    def http3_of(self, connection: Connection) -> Http3:
        """HTTP/3 on a connection that may carry data."""
        http3 = Http3(connection, self, self._limits, self._counters, server=False)
        if self._settings.webtransport:
            WebTransport(http3, self.webtransport)
        return http3

    # Tickets

    def take_ticket(self, origin: Origin) -> bytes | None:
        """A ticket for one connection to the origin."""
        return self._tickets.take(self._ticket_key(origin))

    def keep_ticket(self, origin: Origin, ticket: bytes) -> None:
        """A ticket for the next connection to the origin."""
        self._tickets.put(self._ticket_key(origin), ticket)

    def _ticket_key(self, origin: Origin) -> str:
        """A resumed session shows no certificate: it is trusted as the first was, for whom we were there."""
        config = self.config
        trust = f"{config.cafile} {config.ca_path}" if config.verify else "unverified"
        return " ".join((origin.authority, config.server_name or "-", trust, config.client_cert_path or "-"))

    # The end

    def shutdown(self, done: Callable[[], None]) -> None:
        """Closes every connection with H3_NO_ERROR, and calls back once the servers were told.

        The next ticket of a resumed session is waited for, if only for a few round trips: in 0-RTT a response
        may well be here before it, and the one that was used is gone.
        """
        self._end()
        patience = max((link.ticket_patience for link in self._links.values()), default=0.0)
        if not patience:
            self._close_all(done)
            return

        def close() -> None:
            timer.cancel()
            self._close_all(done)

        def look() -> None:
            self._after_turn()
            if not any(link.ticket_patience for link in self._links.values()):
                close()

        timer = self.driver.call_later(patience, close)
        self.driver.after_turn = look

    def _close_all(self, done: Callable[[], None]) -> None:
        sent = {c: c.stats().get("packets_sent") for c in self._links if not c.closed}
        for link in {*self._links.values(), *self._unconnected}:
            link.close()
        for connection in sent:
            connection.close(H3ErrorCode.H3_NO_ERROR)
        if not self.endpoint.turning:
            self.endpoint.turn()

        def look() -> None:
            waiting = [c for c, n in sent.items() if not c.closed and c.stats().get("packets_sent") == n]
            if not waiting and not self.endpoint.blocked:
                done()

        # With a full congestion window quiche holds the close back until there is an acknowledgement.
        self.driver.after_turn = look
        self.driver.call_later(_CLOSE_SECONDS, done)
        look()

    def release(self) -> None:
        """Frees everything; who still waits for a connection is told."""
        self._end()
        self.driver.after_turn = None
        self.driver.close()
        self.endpoint.drop_all()
        for link in list(self._unconnected):
            link.close()
        for sock in self.endpoint.sockets:
            sock.close()
        self._settings.close()

    def _end(self) -> None:
        if not self.ending:
            self.ending = True
            self.on_shutdown()

    def _after_turn(self) -> None:
        for connection, link in list(self._links.items()):
            link.look(connection)
        if self._unused:
            self._close_unused()

    # Calls of the endpoint and the HTTP/3 layer

    def connection_opened(self, connection: Connection) -> None:
        """A handshake is complete."""
        self._links[connection].opened(connection)

    def protocol(self, connection: Connection) -> Http3 | None:
        """What runs over the connection."""
        return self._links[connection].protocol(connection)

    def connection_closed(self, connection: Connection) -> None:
        """A connection is gone."""
        self._links.pop(connection).closed(connection)
        self.give_back(self._socket_of.pop(connection))

    def request(self, stream: Stream) -> None:
        """Servers send no requests: quiche closes a connection on which one tries (RFC 9114 6.1)."""

    def refused(self, stream: Stream, status: int) -> None:
        """As `request()`."""

    def goaway(self, connection: Connection, stream_id: int) -> None:
        """The server takes no more requests."""
        self._links[connection].goaway(stream_id)

    def datagram(self, connection: Connection, payload: bytes) -> bool:
        """A QUIC DATAGRAM came in that is no request's. False: nobody wants it."""
        return self._links[connection].datagram(payload)
