"""The client's loop: one thread, one endpoint, and the race of attempts that ends in one connection."""

from __future__ import annotations

import ipaddress
import logging
import math
import socket
import threading
import time
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future
from concurrent.futures import TimeoutError as FutureTimeout
from pathlib import Path
from typing import Any, Final, NamedTuple
from weakref import WeakSet

from cryptography import x509

from . import ev
from ._core import quiche_log
from ._core.connection import Connection
from ._core.endpoint import Endpoint
from ._core.fields import Http3Limits
from ._core.http3 import Http3, Http3Counters, Stream
from ._core.settings import EngineSettings
from ._core.sockets import open_socket
from .client_messages import ClientExchange
from .config import ClientConfig
from .drivers import LibevDriver
from .errors import (
    ConfigError,
    ConnectError,
    ConnectionClosed,
    H3ErrorCode,
    InvalidState,
    StreamReset,
    TimedOut,
    crypto_alert,
    describe_code,
)
from .headers import Pair
from .threads import T

log: Final = logging.getLogger("quiche_h3")

MAX_ADDRESSES: Final = 8
# RFC 8305 5: how long one address is waited for before the next is tried beside it. Loopback is never slow.
_ATTEMPT_DELAY: Final = 0.25
_LOOPBACK_DELAY: Final = 0.02
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
_MAX_PATH: Final = 65_535
_CLOSE_SECONDS: Final = 0.5


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


class Candidate(NamedTuple):
    """An address to try, by the socket that reaches it."""

    address: tuple[str, int]
    socket: int


class ClientEngine:
    """Runs one connection in a thread of its own: `start()`, calls by way of `post()`, `close()`."""

    def __init__(self, config: ClientConfig, host: str, authority: str, keep_alive_s: float | None) -> None:
        self.connected: Future[ConnectionInfo] = Future()
        self.on_datagram: Callable[[bytes], object] | None = None
        self._config = config
        self._authority = authority
        # RFC 6066 3: an address is no server name; the certificate is held against it when it is there.
        self._ip = None if config.server_name else _ip_address(host)
        self._name = config.server_name or (None if self._ip else host.rstrip("."))
        self._keep_alive_s = keep_alive_s
        self._counters = Http3Counters()
        self._limits = Http3Limits(
            count=config.max_header_count,
            name=config.max_header_name_length,
            value=config.max_header_value_length,
            total=config.max_field_section_size,
            path=_MAX_PATH,
        )
        self._settings = EngineSettings(config)
        self._endpoint = Endpoint(self._settings, self, server=False)
        self._driver = LibevDriver(self._endpoint, None, config.event_backend)
        self._driver.after_turn = self._look_at_attempts
        self._delay = ev.Timer(self._driver.loop, 0.0, 0.0, lambda w, e: self._try_next())
        self._pinger = ev.Timer(self._driver.loop, 0.0, 0.0, lambda w, e: self._ping())
        self._todo: deque[Candidate] = deque()
        self._attempts: dict[Connection, Candidate] = {}
        self._failures: list[str] = []
        self._connection: Connection | None = None
        self._http3: Http3 | None = None
        self._exchanges: WeakSet[ClientExchange] = WeakSet()
        self._started = time.monotonic()
        # Reentrant: a request that is garbage collected posts from wherever the thread happens to be.
        self._lock = threading.RLock()
        self._calls: deque[tuple[Callable[..., object], tuple[Any, ...]]] = deque()
        self._error: ConnectionClosed | None = None
        self._ended = False
        self._thread = threading.Thread(target=self._run, name="quiche_h3-client", daemon=True)

    # From any thread

    def start(self, addresses: list[tuple[str, int]]) -> None:
        """Opens sockets and begins to connect. Raises ConnectError when no address can even be tried."""
        sockets: dict[str, int] = {}
        for address in addresses[:MAX_ADDRESSES]:
            try:
                source = _source_address(address)
                if source not in sockets:
                    sockets[source] = self._endpoint.add_socket(open_socket(self._config, source, 0))
            except (OSError, ConfigError) as exc:
                reason = exc.strerror if isinstance(exc, OSError) else exc.problem
                self._failures.append(f"{address[0]}: {reason}")
                continue
            self._todo.append(Candidate(address, sockets[source]))
        if not self._todo:
            self._release()
            raise self._failure()
        self._thread.start()

    def post(self, function: Callable[..., object], *args: Any) -> None:
        """Calls the function in the loop's thread. Raises ConnectionClosed when the loop has ended."""
        if self._in_loop():
            function(*args)
        elif not self.defer(function, *args):
            raise self._closed()

    def defer(self, function: Callable[..., object], *args: Any) -> bool:
        """Calls the function later, never at once; returns False when the loop has ended."""
        with self._lock:
            if not self._ended:
                self._calls.append((function, args))
                self._driver.post(self._make_calls)
            return not self._ended

    def call(self, function: Callable[..., T], *args: Any) -> T:
        """The function's result, from the loop's thread."""
        future: Future[T] = Future()

        def call() -> None:
            try:
                future.set_result(function(*args))
            except Exception as exc:
                future.set_exception(exc)

        self.post(call)
        return future.result()

    def wait(self, future: Future[T], timeout: float) -> T:
        """The future's result. Raises TimedOut after `timeout` seconds."""
        if self._in_loop() and not future.done():
            raise InvalidState(
                "a callback of the client cannot wait: it runs in the thread it would wait for"
            )
        try:
            return future.result(None if math.isinf(timeout) else timeout)
        except FutureTimeout:
            if future.done():
                return future.result()
            raise TimedOut(f"{self._authority} did not answer within {timeout:g} s") from None

    def wait_connected(self, timeout: float) -> ConnectionInfo:
        """Waits for the handshake. Raises ConnectError, with everything closed."""
        try:
            return self.wait(self.connected, timeout)
        except TimedOut:
            tried = ", ".join(dict.fromkeys(candidate.address[0] for candidate in self._attempts.values()))
            self._failures.append(f"no answer from {tried} within {timeout:g} s")
            failure = self._failure()
            self.close()
            raise failure from None
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        """Closes the connection with H3_NO_ERROR and ends the thread. May be called more than once."""
        try:
            self.post(self._stop)
        except ConnectionClosed:
            pass
        if self._thread.ident is not None and not self._in_loop():
            self._thread.join()

    def stats(self) -> dict[str, Any]:
        """Counters of the connection, or nothing once it is gone."""
        return {} if self._connection is None else self._connection.stats()

    @property
    def closed(self) -> bool:
        """No new request can be sent."""
        return self._error is not None or self._ended

    def _in_loop(self) -> bool:
        return threading.current_thread() is self._thread

    def _closed(self) -> ConnectionClosed:
        return self._error or ConnectionClosed(True, H3ErrorCode.H3_NO_ERROR, b"", False)

    # From here on in the loop's thread

    def open(self, exchange: ClientExchange, pairs: list[Pair], fin: bool, body: bytes) -> Stream:
        """Sends a request, or holds it until the server's limit of streams lets it go."""
        if self._error is not None:
            raise self._error
        if self._http3 is None:
            raise self._closed()
        exchange.stream = self._http3.open_request(pairs, fin and not body, exchange)
        self._exchanges.add(exchange)
        if body:
            exchange.stream.enqueue(body, fin)
        return exchange.stream

    def send_datagram(self, payload: bytes) -> None:
        """Queues a QUIC DATAGRAM."""
        if self._http3 is None:
            raise self._closed()
        self._http3.send_datagram(payload)

    def _run(self) -> None:
        try:
            self._driver.start()
            self._try_next()
            self._driver.run()
        except BaseException as exc:
            log.exception("the client's thread failed")
            if not self.connected.done():
                self.connected.set_exception(exc)
        finally:
            self._release()

    def _make_calls(self) -> None:
        while self._calls:
            function, args = self._calls.popleft()
            function(*args)

    def _stop(self) -> None:
        """Closes the connection, and ends the loop once the peer was told."""
        sent = self._packets_sent()
        self._endpoint.close_all(H3ErrorCode.H3_NO_ERROR)
        if not self._endpoint.turning:
            self._endpoint.turn()
        if sent is None:
            self._driver.stop()
            return

        def look() -> None:
            if self._packets_sent() != sent and not self._endpoint.blocked:
                self._driver.stop()

        # With a full congestion window quiche holds the close back until there is an acknowledgement.
        self._driver.after_turn = look
        self._driver.call_later(_CLOSE_SECONDS, self._driver.stop)
        look()

    def _packets_sent(self) -> int | None:
        """None when there is nobody to send to."""
        return None if self._connection is None else self._connection.stats().get("packets_sent")

    def _release(self) -> None:
        """Frees everything, and fails whoever still waits."""
        with self._lock:
            self._ended = True
        self._delay.stop()
        self._pinger.stop()
        self._driver.close()
        self._endpoint.drop_all()
        self._make_calls()  # they find everything closed, and say so
        for sock in self._endpoint.sockets:
            sock.close()
        self._settings.close()
        if not self.connected.done():
            self.connected.set_exception(self._failure())

    # Connecting

    def _try_next(self) -> None:
        if self._connection is not None or not self._todo:
            return
        candidate = self._todo.popleft()
        connection = self._endpoint.connect(candidate.socket, candidate.address, self._name)
        self._attempts[connection] = candidate
        if self._todo:
            loopback = ipaddress.ip_address(candidate.address[0].partition("%")[0]).is_loopback
            self._delay.set(_LOOPBACK_DELAY if loopback else _ATTEMPT_DELAY)
            self._delay.start()

    def _look_at_attempts(self) -> None:
        """After each turn: a handshake that failed makes way for the next address at once."""
        for connection in list(self._attempts):
            reason = connection.close_reason
            if reason is not None and connection is not self._connection:
                self._attempt_failed(connection, reason)

    def _attempt_failed(self, connection: Connection, reason: ConnectionClosed) -> None:
        candidate = self._attempts.pop(connection)
        which = "" if self._ip else f"{candidate.address[0]}: "
        self._failures.append(which + self._why(reason))
        if self._todo:
            self._delay.stop()
            self._try_next()
        elif not self._attempts and not self.connected.done():
            failure = self._failure()
            failure.__cause__ = reason
            self.connected.set_exception(failure)

    def _why(self, reason: ConnectionClosed) -> str:
        if reason.reason == b"handshake timeout":
            return f"no answer within {self._config.connect_timeout_ms / 1000:g} s"
        alert = None if reason.app or reason.remote else crypto_alert(reason.code)
        if alert in _DISTRUST:
            remedy = _REMEDY if alert == _UNKNOWN_CA else ""
            return (
                f"the server's certificate is not accepted for {self._name or self._ip}: {_DISTRUST[alert]} "
                f"({describe_code(False, reason.code)}){remedy}"
            )
        return str(reason)

    def _failure(self) -> ConnectError:
        reasons = "; ".join(dict.fromkeys(self._failures)) or "the client was closed"
        return ConnectError(f"no connection to {self._authority}: {reasons}")

    def _ping(self) -> None:
        if self._connection is not None:
            self._connection.send_ping()

    # Calls of the endpoint and the HTTP/3 layer

    def connection_opened(self, connection: Connection) -> None:
        """A handshake is complete: the first one wins."""
        if self._connection is not None:
            connection.close(H3ErrorCode.H3_NO_ERROR)
            return
        if self._config.verify and self._ip and not _names_address(connection.peer_certificate, self._ip):
            # RFC 9110 4.3.5: a certificate for an address names it; TLS itself was asked for the chain only.
            connection.close(_BAD_CERTIFICATE, f"it does not name the address {self._ip}".encode(), app=False)
            return
        self._connection = connection
        self._todo.clear()
        self._delay.stop()
        for other in self._attempts:
            if other is not connection:
                other.close(H3ErrorCode.H3_NO_ERROR)
        self._attempts = {}
        if self._keep_alive_s is not None:
            self._pinger.set(self._keep_alive_s, self._keep_alive_s)
            self._pinger.start()

    def protocol(self, connection: Connection) -> Http3 | None:
        """HTTP/3 starts on the connection that won."""
        if connection is not self._connection:
            return None
        self._http3 = Http3(connection, self, self._limits, self._counters, server=False)
        connection.context = self._http3
        if not self.connected.done():
            self.connected.set_result(
                ConnectionInfo(
                    connection.peer_address,
                    connection.local_address,
                    connection.alpn,
                    connection.resumed,
                    connection.peer_certificate or b"",
                    time.monotonic() - self._started,
                )
            )
        return self._http3

    def connection_closed(self, connection: Connection) -> None:
        """A connection is gone."""
        reason = connection.close_reason or ConnectionClosed(True, H3ErrorCode.H3_NO_ERROR, b"", False)
        if connection is self._connection:
            self._error = self._error or reason
            self._http3 = None
            self._pinger.stop()
        elif connection in self._attempts:
            self._attempt_failed(connection, reason)

    def request(self, stream: Stream) -> None:
        """Servers send no requests: quiche closes a connection on which one tries (RFC 9114 6.1)."""

    def refused(self, stream: Stream, status: int) -> None:
        """As `request()`."""

    def goaway(self, connection: Connection, stream_id: int) -> None:
        """The server takes no more requests, and none from `stream_id` on was processed (RFC 9114 5.2)."""
        self._error = ConnectionClosed(
            True, H3ErrorCode.H3_NO_ERROR, b"the server is shutting down (GOAWAY)", True
        )
        for exchange in list(self._exchanges):
            if exchange.stream.id >= stream_id:
                exchange.cancel(
                    H3ErrorCode.H3_REQUEST_CANCELLED, StreamReset(H3ErrorCode.H3_REQUEST_REJECTED, True)
                )

    def datagram(self, connection: Connection, payload: bytes) -> bool:
        """A QUIC DATAGRAM came in that is no request's. False: nobody wants it."""
        if self.on_datagram is None:
            return False
        try:
            self.on_datagram(payload)
        except Exception:
            log.exception("the on_datagram callback failed")
        return True


def prepare_diagnostics(config: ClientConfig) -> None:
    """Makes what the configuration asks for to look inside."""
    if config.qlog_dir is not None:
        Path(config.qlog_dir).mkdir(parents=True, exist_ok=True)
    if config.enable_debug_logging:
        quiche_log.enable(config.debug_log_throttle)


def _ip_address(host: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address | None:
    try:
        return ipaddress.ip_address(host.partition("%")[0])
    except ValueError:
        return None


def _source_address(address: tuple[str, int]) -> str:
    """The local address that packets to `address` leave from. Raises OSError when there is no way there."""
    family = socket.AF_INET6 if ":" in address[0] else socket.AF_INET
    with socket.socket(family, socket.SOCK_DGRAM) as probe:
        probe.connect(address)
        return str(probe.getsockname()[0])


def _names_address(certificate: bytes | None, address: ipaddress.IPv4Address | ipaddress.IPv6Address) -> bool:
    """Whether the certificate, whose chain was verified before, is for this address (RFC 9110 4.3.5)."""
    if certificate is None:
        return False
    try:
        names = x509.load_der_x509_certificate(certificate).extensions.get_extension_for_class(
            x509.SubjectAlternativeName
        )
    except (ValueError, x509.ExtensionNotFound):
        return False
    return address in names.value.get_values_for_type(x509.IPAddress)
