"""The client: one connection to one server, any number of requests on it, from any number of threads."""

from __future__ import annotations

import dataclasses
import json as _json
import math
import re
import socket
import threading
import weakref
from collections.abc import Callable
from types import TracebackType
from typing import Any, Final, NamedTuple, TypeVar
from urllib.parse import quote, urlsplit

from .client_engine import ClientEngine, ConnectionInfo, prepare_diagnostics
from .client_messages import (
    Chunk,
    ClientExchange,
    ClientRequest,
    ClientResponse,
    ClientStream,
    Data,
    HeaderItems,
    chunks_of,
    encode_headers,
    send_chunks,
    size_of,
    to_bytes,
)
from .config import ClientConfig
from .errors import ConfigError, ConnectError, ConnectionClosed, InvalidState
from .headers import Pair

_DEFAULT_PORT: Final = 443
_TOKEN: Final = re.compile(r"[!#$%&'*+\-.^_`|~0-9A-Za-z]+")  # RFC 9110 5.6.2
_PATH_SAFE: Final = "/?:@!$&'()*+,;=-._~%[]"  # RFC 3986 3.3 and 3.4; % so that what is encoded stays so
_MAX_FIELDS: Final = 250
_JOIN_SECONDS: Final = 1.0

D = TypeVar("D", bound=Callable[[bytes], object])


class Origin(NamedTuple):
    """What an https URL says about the server."""

    host: str
    port: int

    @property
    def authority(self) -> str:
        """Host and port as `:authority` has them, without the default port."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return host if self.port == _DEFAULT_PORT else f"{host}:{self.port}"


def parse_url(url: str) -> tuple[Origin, str]:
    """The origin of an absolute https URL and its path and query. Raises ValueError."""
    try:
        parts = urlsplit(url)
        host, port = parts.hostname, parts.port
    except ValueError as exc:
        raise ValueError(f"{url!r} is not a URL: {exc}") from None
    if parts.scheme != "https" or not host:
        raise ValueError(f"{url!r} is not a URL that starts with https:// and names a host")
    if not host.isascii():
        try:
            host = host.encode("idna").decode("ascii")
        except UnicodeError:
            raise ValueError(f"{url!r}: {host!r} is not a host name") from None
    if not host.replace("%", "").isprintable() or " " in host:
        raise ValueError(f"{url!r}: {host!r} is not a host name")
    query = f"?{parts.query}" if parts.query else ""
    return Origin(host, _DEFAULT_PORT if port is None else port), (parts.path or "/") + query


def connect(
    url: str,
    *,
    verify: bool = True,
    cafile: str | None = None,
    config: ClientConfig | None = None,
    timeout: float | None = 30.0,
    keep_alive_s: float | None = None,
) -> Client:
    """Connects to the server of an https URL, and returns once the handshake is complete.

    The server's certificate is verified: by the system's authorities, and those of `cafile` (PEM).
    `verify=False` takes any certificate, which is for development alone. For an address in place of a name
    the certificate must hold that address.

    `timeout`: the most seconds that any one wait may take, here and in requests; None for no limit.
    Connecting is limited by `config.connect_timeout_ms` besides. `keep_alive_s`: seconds between PINGs that
    keep an idle connection from being dropped; None sends none. `config` holds everything else; None takes it
    from the environment.

    Raises ValueError for a URL that is none, ConfigError, and ConnectError, whose text names what failed.
    """
    origin, path = parse_url(url)
    settings = dataclasses.replace(ClientConfig.load() if config is None else config)
    settings.verify = settings.verify and verify
    settings.cafile = settings.cafile if cafile is None else cafile
    if keep_alive_s is not None and not (0 < keep_alive_s < math.inf):
        raise ConfigError("keep_alive_s", f"{keep_alive_s!r} is no interval", "use seconds above 0, or None")
    settings.validate()
    if settings.alpn_protocols != ["h3"]:
        raise ConfigError("alpn_protocols", "only HTTP/3 is spoken", 'use ["h3"]')
    limit = math.inf if timeout is None else timeout
    if not limit > 0:
        raise ValueError(f"timeout: {timeout!r} is not above 0; use seconds, or None for no limit")
    prepare_diagnostics(settings)
    engine = ClientEngine(_with_system_trust(settings), origin.host, origin.authority, keep_alive_s)
    try:
        engine.start(_resolve(origin))
        info = engine.wait_connected(min(limit, settings.connect_timeout_ms / 1000))
    except BaseException:
        engine.close()
        raise
    return Client(origin, path, engine, info, limit)


def _with_system_trust(config: ClientConfig) -> ClientConfig:
    """The TLS library knows where authorities usually are; Python knows where they are here."""
    if not config.verify:
        return config
    import ssl  # 4 MiB that a server need not have

    paths = ssl.get_default_verify_paths()
    return dataclasses.replace(
        config, cafile=config.cafile or paths.cafile, ca_path=config.ca_path or paths.capath
    )


def _resolve(origin: Origin) -> list[tuple[str, int]]:
    try:
        found = socket.getaddrinfo(origin.host, origin.port, type=socket.SOCK_DGRAM)
    except (OSError, UnicodeError) as exc:
        reason = exc.strerror if isinstance(exc, OSError) else str(exc)
        raise ConnectError(
            f"no connection to {origin.authority}: the name {origin.host} has no address: {reason}"
        ) from exc
    return list(dict.fromkeys((str(sockaddr[0]), origin.port) for *_, sockaddr in found))


class Client:
    """A connection to one server. Made by `connect()`; a context manager that closes it.

    All methods may be called from any thread, any number of requests may be under way. What a request returns
    belongs to one thread at a time. A client that is dropped without `close()` is closed when it is
    collected, at the latest when the interpreter exits.
    """

    def __init__(
        self, origin: Origin, path: str, engine: ClientEngine, info: ConnectionInfo, timeout: float
    ) -> None:
        self.origin = origin
        """Host and port of the server."""
        self.path = path
        """Path and query of the URL that was connected to."""
        self.info = info
        """What the handshake has led to: addresses, ALPN, certificate, time."""
        self._engine = engine
        self._timeout = timeout
        self._authority = origin.authority.encode("ascii")
        self._pumps: weakref.WeakSet[threading.Thread] = weakref.WeakSet()
        self._finalizer = weakref.finalize(self, engine.close)

    # Requests

    def request(
        self,
        method: str,
        url: str,
        *,
        headers: HeaderItems | None = None,
        data: Data | None = None,
        json: Any = None,
        timeout: float | None = None,
    ) -> ClientResponse:
        """Sends a request and waits for its response: for status and fields, not for the body.

        `url` is a path with its query, or a URL of this server. `data` is the body: bytes, text, a file open
        in binary mode, or an iterable of pieces; files and iterables are read in a thread of their own, no
        faster than the server takes them, and the response may come before they end. `json` is a body to be
        sent as JSON. `timeout` in seconds, None for the client's own.

        Raises ValueError or HeaderInvalid for what cannot be sent, TimedOut, StreamReset, ConnectionClosed
        (also after the server's GOAWAY), and whatever the source of the body raises.
        """
        return self.send(method, url, headers=headers, data=data, json=json, timeout=timeout).response()

    def send(
        self,
        method: str,
        url: str,
        *,
        headers: HeaderItems | None = None,
        data: Data | None = None,
        json: Any = None,
        timeout: float | None = None,
    ) -> ClientRequest:
        """Sends a request as `request()` does, and returns at once: `response()` of the result waits."""
        fields = [] if headers is None else encode_headers(headers)
        if json is not None:
            if data is not None:
                raise ValueError("a request has data or json, not both")
            data = _json.dumps(json, separators=(",", ":")).encode()
            _add_field(fields, b"content-type", b"application/json")
        if data is None or isinstance(data, Chunk):
            body = b"" if data is None else to_bytes(data)
            if data is not None:
                _add_field(fields, b"content-length", b"%d" % len(body))
            return self._open(method, url, fields, timeout, True, body)
        size = size_of(data)
        if size is not None:
            _add_field(fields, b"content-length", b"%d" % size)
        request = self._open(method, url, fields, timeout, False, b"")
        chunks = chunks_of(data)
        pump = threading.Thread(
            target=send_chunks, args=(request, chunks), name="quiche_h3-upload", daemon=True
        )
        self._pumps.add(pump)
        pump.start()
        return request

    def open(
        self, method: str, url: str, *, headers: HeaderItems | None = None, timeout: float | None = None
    ) -> ClientRequest:
        """Sends a request whose body follows: `write()`, then `end()` or `send_trailers()`, of the result."""
        fields = [] if headers is None else encode_headers(headers)
        return self._open(method, url, fields, timeout, False, b"")

    def get(
        self, url: str, *, headers: HeaderItems | None = None, timeout: float | None = None
    ) -> ClientResponse:
        """`request("GET", ...)`."""
        return self.request("GET", url, headers=headers, timeout=timeout)

    def head(
        self, url: str, *, headers: HeaderItems | None = None, timeout: float | None = None
    ) -> ClientResponse:
        """`request("HEAD", ...)`: status and fields as of GET, no body."""
        return self.request("HEAD", url, headers=headers, timeout=timeout)

    def post(
        self,
        url: str,
        *,
        headers: HeaderItems | None = None,
        data: Data | None = None,
        json: Any = None,
        timeout: float | None = None,
    ) -> ClientResponse:
        """`request("POST", ...)`."""
        return self.request("POST", url, headers=headers, data=data, json=json, timeout=timeout)

    def put(
        self,
        url: str,
        *,
        headers: HeaderItems | None = None,
        data: Data | None = None,
        json: Any = None,
        timeout: float | None = None,
    ) -> ClientResponse:
        """`request("PUT", ...)`."""
        return self.request("PUT", url, headers=headers, data=data, json=json, timeout=timeout)

    def delete(
        self, url: str, *, headers: HeaderItems | None = None, timeout: float | None = None
    ) -> ClientResponse:
        """`request("DELETE", ...)`."""
        return self.request("DELETE", url, headers=headers, timeout=timeout)

    def _open(
        self, method: str, url: str, fields: list[Pair], timeout: float | None, fin: bool, body: bytes
    ) -> ClientRequest:
        if not _TOKEN.fullmatch(method):
            raise ValueError(f"{method!r} is not a method: it must be a token (RFC 9110 9.1)")
        if method == "CONNECT":
            raise ValueError("CONNECT opens a tunnel, which this client has not got")
        if len(fields) > _MAX_FIELDS:
            raise InvalidState(f"a request has at most {_MAX_FIELDS} fields")
        target = self._target(url)
        pairs = [
            (b":method", method.encode("ascii")),
            (b":scheme", b"https"),
            (b":authority", self._authority),
            (b":path", target.encode("ascii")),
            *fields,
        ]
        limit = self._timeout if timeout is None else timeout
        exchange = ClientExchange(method == "HEAD")
        self._engine.call(self._engine.open, exchange, pairs, fin, body)
        return ClientRequest(method, target, ClientStream(exchange, self._engine, limit), self)

    def _target(self, url: str) -> str:
        """Path and query as they go into `:path`, percent-encoded where they must be."""
        if not url.startswith("/"):
            origin, url = parse_url(url)
            if origin != self.origin:
                raise ValueError(
                    f"this client is connected to {self.origin.authority}, not to {origin.authority}"
                )
        return quote(url.partition("#")[0], safe=_PATH_SAFE)

    # Datagrams

    def send_datagram(self, payload: bytes) -> None:
        """Sends a QUIC DATAGRAM (RFC 9221).

        Raises WouldBlock, DatagramTooLarge, DatagramNotEnabled or ConnectionClosed.
        """
        self._engine.call(self._engine.send_datagram, bytes(payload))

    def on_datagram(self, callback: D) -> D:
        """Registers `callback(payload)` for QUIC DATAGRAMs; also a decorator.

        It is called in the client's own thread: it must not wait, so hand the payload to a queue. What comes
        before a callback is registered is dropped.
        """
        self._engine.on_datagram = callback
        return callback

    # The connection

    @property
    def closed(self) -> bool:
        """No new request can be sent: the connection is closed, or the server has sent GOAWAY."""
        return self._engine.closed

    def stats(self) -> dict[str, Any]:
        """Counters of the connection as of `Connection.stats()`, RTTs in seconds; empty once it is gone."""
        try:
            return {} if self.closed else self._engine.call(self._engine.stats)
        except ConnectionClosed:
            return {}

    def close(self) -> None:
        """Closes the connection with H3_NO_ERROR; what is still under way fails with ConnectionClosed.

        The client's threads have ended when it returns, but for one that reads a request body from a source
        that does not return: that ends with the source.
        """
        self._finalizer()
        for pump in list(self._pumps):
            if pump is not threading.current_thread():
                pump.join(_JOIN_SECONDS)

    def __enter__(self) -> Client:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, exc: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"<Client {self.origin.authority} {'closed' if self.closed else 'open'}>"


def _add_field(fields: list[Pair], name: bytes, value: bytes) -> None:
    """Adds a field unless the program gave its own."""
    if not any(own == name for own, _ in fields):
        fields.append((name, value))
