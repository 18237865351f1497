"""One connection of a client, from its server's name to its end. Everything here is in the loop's thread."""

from __future__ import annotations

import ipaddress
import logging
import time
from collections.abc import Callable
from concurrent.futures import Future
from typing import TYPE_CHECKING, Final, NamedTuple

from ._core.connection import Connection
from ._core.http3 import Http3
from .certificates import read_certificate
from .client_exchange import ClientExchange, Prepared
from .errors import (
    ConnectError,
    ConnectionClosed,
    ConnectTimedOut,
    H3ErrorCode,
    InvalidState,
    QuicErrorCode,
    QuicheH3Error,
    StreamReset,
    crypto_alert,
    describe_code,
)
from .happy_eyeballs import Address, Race, source_address
from .urls import Origin

if TYPE_CHECKING:
    from .client_engine import ClientEngine
    from .drivers import Timer

log: Final = logging.getLogger("quiche_h3")

# TLS alerts (RFC 8446 6.2) that we send when we do not trust the certificate.
_DISTRUST: Final = {
    42: "it is not for this name",
    43: "it is of an unsupported kind",
    44: "it was revoked",
    45: "it has expired",
    46: "it cannot be verified",
    48: "nobody who is trusted has signed it",
}
_BAD_CERTIFICATE: Final = 0x100 + 42
_UNKNOWN_CA: Final = 48
_REMEDY: Final = "; trust its authority (cafile, --cacert), or do not verify (verify=False, --insecure)"
_PING_S: Final = 1.0
_PROBES: Final = 20
_PROBE_S: Final = 0.25

_IpAddress = ipaddress.IPv4Address | ipaddress.IPv6Address


class ConnectionInfo(NamedTuple):
    """What a handshake has led to."""

    address: tuple[str, int]
    """(host, port) of the server."""
    local_address: tuple[str, int]
    """(host, port) of our socket."""
    alpn: str
    """The application protocol, ``"h3"``."""
    resumed: bool
    """The TLS session was resumed from an earlier one."""
    certificate: bytes
    """The server's own certificate in DER."""
    handshake_s: float
    """Seconds from the first packet to the end of the handshake."""
    lookup_s: float = 0.0
    """Seconds that the name's addresses took to be found."""
    quic_version: int = 1
    """The version of QUIC, 1 or 2."""


class _Migration:
    """A path that waits for the server's answer."""

    def __init__(self, index: int, local: Address) -> None:
        self.index = index
        self.local = local
        self.done: Future[Address] = Future()
        self.timer: Timer | None = None
        self.probing = False

    def probe(self, connection: Connection) -> None:
        """Asks for the path's validation, as soon as the server has given a connection ID for it."""
        try:
            connection.probe_path(self.local)
            self.probing = True
        except QuicheH3Error as exc:
            if getattr(exc, "name", "") != "OUT_OF_IDENTIFIERS":
                raise


class Link:
    """A connection to an origin. `changed(link)` is called whenever it can do more or less than before."""

    def __init__(
        self, engine: ClientEngine, origin: Origin, timeout: float, changed: Callable[[Link], None]
    ) -> None:
        self.origin = origin
        self.connected: Future[ConnectionInfo] = Future()
        """The end of the handshake, or a ConnectError."""
        self.error: ConnectionClosed | None = None
        """Why no new request can be opened."""
        self.exchanges: set[ClientExchange] = set()
        self.http3: Http3 | None = None
        self.connection: Connection | None = None
        """The attempt that won."""
        self.gone = False
        """The connection was, and is no more."""
        self.on_datagram: Callable[[bytes], object] | None = None
        self._engine = engine
        self._changed = changed
        name = engine.config.server_name
        # RFC 6066 3: an address is no server name; the certificate is held against it when it is there.
        self._ip = None if name else _ip_address(origin.host)
        self._name = name or (None if self._ip else origin.host.rstrip("."))
        self._race: Race | None = None
        self._early: Connection | None = None
        self._last_reason: ConnectionClosed | None = None
        self._ticket_kept = False
        self._migration: _Migration | None = None
        self._began = self._resolved = time.monotonic()
        self._used = False  # a request has ended
        self._pinger: Timer | None = None
        self._check: Timer | None = None
        self._doubted = False
        self._limit: Timer | None = None
        if timeout < float("inf"):
            self._limit = engine.driver.call_later(timeout, lambda: self._too_late(timeout))

    # For the pool and the program

    def usable(self, safe: bool) -> bool:
        """A request can be opened now; one that is not safe only once the handshake is complete."""
        if self.error is not None or self.http3 is None:
            return False
        return self.connection is not None or safe or self._engine.config.early_data == "all"

    @property
    def ended(self) -> bool:
        """It cannot be, or become, usable."""
        return self.error is not None or (self.connected.done() and self.connected.exception() is not None)

    @property
    def ticket_patience(self) -> float:
        """Seconds for which it pays to wait for a ticket: a session that was resumed has used up the last."""
        connection = self.connection or self._early
        if connection is None or connection.closed or self._ticket_kept or not connection.resumed:
            return 0.0
        return 4 * float(connection.stats().get("rtt", 0.0))

    def open(self, exchange: ClientExchange, request: Prepared) -> None:
        """Sends a request, or holds it until the server's limit of streams lets it go.

        What it has of a body goes along, and is the whole of it; else the body follows.
        """
        if self.error is not None:
            raise self.error
        if self.http3 is None:
            raise closed_by_us()
        exchange.stream = self.http3.open_request(request.pairs, request.body == b"", exchange)
        if (b"capsule-protocol", b"?1") in request.pairs:
            exchange.speak_capsules()
        exchange.early = self.connection is None
        exchange.reused = self._used
        exchange.on_end = self._exchange_ended
        self.exchanges.add(exchange)
        if request.body:
            exchange.stream.enqueue(request.body, True)

    def send_datagram(self, payload: bytes) -> None:
        """Queues a QUIC DATAGRAM."""
        if self.http3 is None:
            raise self.error or closed_by_us()
        self.http3.send_datagram(payload)

    def migrate(self, host: str | None = None) -> Future[Address]:
        """Goes over to a new local port, of another local address if given (RFC 9000 9.2).

        The future has the new local (host, port) once the server has answered there and everything goes that
        way. It fails with ConnectTimedOut when it does not, and the connection stays where it is. Raises
        InvalidState where the server wants no migration, and OSError for an address that is not ours.
        """
        if self.connection is None or self.connection.closed:
            raise self.error or closed_by_us()
        if self._migration is not None:
            raise InvalidState("the connection is about to migrate already")
        if self.connection.migration_disabled:
            raise InvalidState("the server wants no migration (RFC 9000 18.2, disable_active_migration)")
        index = self._engine.open_socket(host or self.connection.local_address[0], shared=False)
        local = self._engine.endpoint.sockets[index].address
        self._migration = migration = _Migration(index, local)
        try:
            migration.probe(self.connection)
        except QuicheH3Error as exc:
            self._end_migration(exc)
            return migration.done
        self._wait_for_path(migration, _PROBES)
        return migration.done

    def _wait_for_path(self, migration: _Migration, probes: int) -> None:
        """RFC 9000 8.2.1: the answer may have been lost, so there is more than one challenge."""
        if migration is not self._migration or self.connection is None:
            return
        if probes == 0:
            why = f"no answer from {self.origin.authority} by way of {migration.local[0]}"
            self._end_migration(ConnectTimedOut(why))
            return
        if probes < _PROBES:
            migration.probing = False
            self._look_at_migration(self.connection, migration)
        migration.timer = self._engine.driver.call_later(
            _PROBE_S, lambda: self._wait_for_path(migration, probes - 1)
        )

    def close(self) -> None:
        """Closes the connection with H3_NO_ERROR, or gives up the attempts to make one."""
        if not self.connected.done():
            self._fail(self._failure("the client was closed"))
        for connection in (self.connection, self._early):
            if connection is not None and not self.gone:
                connection.close(H3ErrorCode.H3_NO_ERROR)
        if self.error is None:
            self.error = closed_by_us()
        self._changed(self)

    # Connecting

    def begin(self, addresses: list[Address]) -> None:
        """The name was resolved: the race begins."""
        if self.connected.done():
            return
        self._resolved = time.monotonic()
        self._race = Race(addresses, self._attempt, self._engine.driver.call_later, self._lost)
        self._race.start()

    def unresolved(self, error: Exception) -> None:
        """The name has no address."""
        reason = error.strerror if isinstance(error, OSError) else str(error)
        failure = self._failure(f"the name {self.origin.host} has no address: {reason}")
        failure.__cause__ = error
        self._fail(failure)

    def _attempt(self, address: Address) -> Connection:
        index = self._engine.open_socket(source_address(address), shared=True)
        ticket = None
        if self._race is not None and not self._race.running and self._early is None:
            ticket = self._engine.take_ticket(self.origin)
        connection = self._engine.connect(self, index, address, self._name, ticket)
        if ticket is not None and self._engine.config.early_data != "never":
            self._early = connection
        return connection

    def _lost(self) -> None:
        failure = self._failure()
        failure.__cause__ = self._last_reason
        self._fail(failure)

    def _too_late(self, seconds: float) -> None:
        if self.connected.done():
            return
        failure = self._failure(f"no answer from {self.tried()} within {seconds:g} s")
        self._fail(ConnectTimedOut(str(failure), "connect"))

    def tried(self) -> str:
        """The addresses that an answer is waited for from."""
        running = {} if self._race is None else self._race.running
        addresses = dict.fromkeys(address[0] for address in running.values())
        return ", ".join(addresses) or f"the resolver for {self.origin.host}"

    def _failure(self, *reasons: str) -> ConnectError:
        failures = [] if self._race is None else self._race.failures
        told = [why if self._ip else f"{address[0]}: {why}" for address, why in failures]
        return ConnectError(
            f"no connection to {self.origin.authority}: {'; '.join(dict.fromkeys([*told, *reasons]))}"
        )

    def _fail(self, error: ConnectError) -> None:
        if self.connected.done():
            return
        self._stop_limit()
        self.connected.set_exception(error)
        for connection in [] if self._race is None else self._race.end():
            connection.close(H3ErrorCode.H3_NO_ERROR)
        self._changed(self)

    def _stop_limit(self) -> None:
        if self._limit is not None:
            self._limit.cancel()

    def _why(self, connection: Connection, reason: ConnectionClosed) -> str:
        if not reason.remote and reason.reason == b"handshake timeout":
            return f"no answer within {self._engine.config.connect_timeout_ms / 1000:g} s"
        if not reason.remote and reason.reason == b"refused":
            return "nobody listens there (ICMP port unreachable)"
        if (
            reason.code == QuicErrorCode.PROTOCOL_VIOLATION
            and connection.stats().get("packets_received") == 0
        ):
            # Nothing has come that was encrypted. quiche says no more of it, and no more can be wrong.
            return "the server speaks no version of QUIC that we speak (RFC 9000 6.2)"
        alert = None if reason.app or reason.remote else crypto_alert(reason.code)
        if alert in _DISTRUST:
            remedy = _REMEDY if alert == _UNKNOWN_CA else ""
            return (
                f"the server's certificate is not accepted for {self._name or self._ip}: {_DISTRUST[alert]} "
                f"({describe_code(False, reason.code)}){remedy}"
            )
        return str(reason)

    # Calls of the engine

    def opened(self, connection: Connection) -> None:
        """A handshake is complete: the first one wins."""
        if self.connection is not None or self.connected.done():
            connection.close(H3ErrorCode.H3_NO_ERROR)
            return
        if self._engine.config.verify and self._ip and not _names(connection.peer_certificate, self._ip):
            # RFC 9110 4.3.5: a certificate for an address names it; TLS itself was asked for the chain only.
            connection.close(_BAD_CERTIFICATE, f"it does not name the address {self._ip}".encode(), app=False)
            return
        self.connection = connection
        for other in [] if self._race is None else self._race.end(connection):
            other.close(H3ErrorCode.H3_NO_ERROR)
        if connection is self._early:
            self._established(connection)
        elif self._early is not None:
            self.http3 = None  # what went out in 0-RTT goes down with its attempt
        self._keep_alive()

    def protocol(self, connection: Connection) -> Http3 | None:
        """HTTP/3 starts on the connection that won, and on one that may send 0-RTT."""
        if connection is self.connection or (connection is self._early and self.connection is None):
            self.http3 = connection.context = self._engine.http3_of(connection)
            if connection is self.connection:
                self._established(connection)
            else:
                self._changed(self)
            return self.http3
        return None

    def _established(self, connection: Connection) -> None:
        if self.http3 is None or self.connected.done():
            return
        self._stop_limit()
        now = time.monotonic()
        self.connected.set_result(
            ConnectionInfo(
                connection.peer_address,
                connection.local_address,
                connection.alpn,
                connection.resumed,
                connection.peer_certificate or b"",
                now - self._resolved,
                self._resolved - self._began,
                connection.quic_version,
            )
        )
        self._changed(self)

    def look(self, connection: Connection) -> None:
        """After each turn: what quiche has no event for."""
        if self._race is not None and connection in self._race.running:
            reason = connection.close_reason
            if reason is not None and connection is not self.connection:
                self._attempt_failed(connection, reason)
                return
        if connection is self._early and connection.context is None and connection.in_early_data:
            self._engine.endpoint.mark_dirty(connection)  # its first flight is out: requests may follow it
        if connection is not self.connection:
            return
        if not self.connected.done() and (reason := connection.close_reason) is not None:
            # TLS was content, QUIC was not: the transport parameters are looked at last.
            failure = self._failure(self._why(connection, reason))
            failure.__cause__ = reason
            self._fail(failure)
            return
        if not self._ticket_kept and (ticket := connection.session) is not None:
            self._ticket_kept = True
            self._engine.keep_ticket(self.origin, ticket)
        if self._migration is not None:
            self._look_at_migration(connection, self._migration)

    def closed(self, connection: Connection) -> None:
        """A connection is gone."""
        reason = connection.close_reason or closed_by_us()
        if connection is self.connection:
            self.gone = True
            self.error = self.error or reason
            self.http3 = None
            for timer in (self._pinger, self._check):
                if timer is not None:
                    timer.cancel()
            self._end_migration(reason)
            self._changed(self)
        elif self._race is not None and connection in self._race.running:
            self._attempt_failed(connection, reason)
        if connection is self._early:
            self._early = None

    def _attempt_failed(self, connection: Connection, reason: ConnectionClosed) -> None:
        if connection is self._early:
            self._early = None
            self.http3 = None
        if self._race is None:
            return
        self._last_reason = reason
        self._race.failed(connection, self._why(connection, reason))

    def goaway(self, stream_id: int) -> None:
        """The server takes no more requests, and none from `stream_id` on was processed (RFC 9114 5.2)."""
        self.error = self.error or ConnectionClosed(
            True, H3ErrorCode.H3_NO_ERROR, b"the server is shutting down (GOAWAY)", True
        )
        for exchange in list(self.exchanges):
            if exchange.stream.id >= stream_id:
                exchange.cancel(
                    H3ErrorCode.H3_REQUEST_CANCELLED,
                    StreamReset(H3ErrorCode.H3_REQUEST_REJECTED, True),
                    unprocessed=True,
                )
        self._changed(self)

    def datagram(self, payload: bytes) -> bool:
        """A QUIC DATAGRAM came in that is no request's. False: nobody wants it."""
        if self.on_datagram is None:
            return False
        try:
            self.on_datagram(payload)
        except Exception:
            log.exception("the on_datagram callback failed")
        return True

    def _exchange_ended(self, exchange: ClientExchange) -> None:
        self.exchanges.discard(exchange)
        self._used = True
        if exchange.given_up:
            self._ask_whether_alive()
        self._changed(self)

    def _ask_whether_alive(self) -> None:
        """A server that has kept a request waiting may be gone: then nobody else shall wait for it."""
        connection = self.connection
        if connection is None or connection.closed:
            return
        self._doubted = self._check is not None
        if self._doubted:
            return  # the answer that is waited for may be an older one
        connection.send_ping()
        before = connection.stats()
        patience = _PING_S + 4 * before.get("rtt", 0.0)
        self._check = self._engine.driver.call_later(
            patience, lambda: self._look_whether_alive(connection, before["packets_received"], patience)
        )

    def _look_whether_alive(self, connection: Connection, received: int, seconds: float) -> None:
        self._check = None
        if connection.closed:
            return
        if connection.stats()["packets_received"] != received:
            if self._doubted:
                self._ask_whether_alive()
            return
        why = f"no answer to a PING within {seconds:.3g} s".encode()
        self.error = self.error or ConnectionClosed(True, H3ErrorCode.H3_NO_ERROR, why, False)
        connection.close(H3ErrorCode.H3_NO_ERROR, why)
        self._changed(self)

    def _keep_alive(self) -> None:
        interval = self._engine.keep_alive_s
        if interval is None or self.connection is None or self.connection.closed:
            return
        if self._pinger is not None:
            self.connection.send_ping()
        self._pinger = self._engine.driver.call_later(interval, self._keep_alive)

    # Migration

    def _look_at_migration(self, connection: Connection, migration: _Migration) -> None:
        try:
            if not migration.probing:
                migration.probe(connection)
            elif connection.path_validated(migration.local):
                connection.migrate(migration.local)
                self._engine.move(connection, migration.index)
                self._end_migration(None)
        except QuicheH3Error as exc:
            self._end_migration(exc)

    def _end_migration(self, error: Exception | None) -> None:
        migration, self._migration = self._migration, None
        if migration is None:
            return
        if migration.timer is not None:
            migration.timer.cancel()
        if error is None:
            migration.done.set_result(migration.local)
        else:
            self._engine.give_back(migration.index)
            migration.done.set_exception(error)


def closed_by_us() -> ConnectionClosed:
    """What requests on a connection that we have closed end with."""
    return ConnectionClosed(True, H3ErrorCode.H3_NO_ERROR, b"", False)


def _ip_address(host: str) -> _IpAddress | None:
    try:
        return ipaddress.ip_address(host.partition("%")[0])
    except ValueError:
        return None


def _names(certificate: bytes | None, address: _IpAddress) -> bool:
    """Whether the certificate, whose chain was verified before, is for this address (RFC 9110 4.3.5)."""
    if certificate is None:
        return False
    try:
        return address in read_certificate(certificate).addresses
    except ValueError:
        return False
