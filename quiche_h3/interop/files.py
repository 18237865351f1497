"""Files over HTTP/0.9 and HTTP/3: the server of a directory, and the client that fetches into one."""

from __future__ import annotations

import logging
import socket
from collections import deque
from collections.abc import Sequence
from pathlib import Path
from typing import Any, BinaryIO, Final, NamedTuple
from urllib.parse import urlsplit

from .._core.connection import Connection
from .._core.endpoint import Endpoint
from .._core.fields import FieldSection, Http3Limits
from .._core.hq import HQ_ALPN, Hq, HqFields
from .._core.http3 import Http3
from .._core.http3_state import Http3Counters
from .._core.settings import EngineSettings
from .._core.sockets import open_socket
from ..config import ClientConfig, EventBackend, ServerConfig
from ..drivers import LibevDriver
from ..errors import ConnectionClosed, H3ErrorCode
from ..server import Server
from .cases import Plan

log: Final = logging.getLogger("quiche_h3.interop")

_LIMITS: Final = {"count": 100, "name": 256, "value": 8192, "total": 65_536, "path": 8192}
_PING_SECONDS: Final = 1.0


def make_server(config: ServerConfig, www: Path) -> Server:
    """A server of the files in `www`, byte for byte as they are."""
    server = Server(config)
    server.static("/", www, precompressed=False, dotfiles=True)
    return server


class Url(NamedTuple):
    """Where a file is."""

    host: str
    port: int
    path: str

    @classmethod
    def parse(cls, text: str) -> Url:
        """Raises ValueError for what is no https URL."""
        parts = urlsplit(text)
        if parts.scheme != "https" or not parts.hostname:
            raise ValueError(f"{text!r} is not an https URL")
        return cls(parts.hostname, parts.port or 443, parts.path or "/")


class Download:
    """One file on its way. The calls are those of the HTTP/3 layer to a handler."""

    def __init__(self, client: Client, url: Url, target: Path) -> None:
        self.url = url
        self.stream: Any = None
        self._client = client
        self._target = target
        self._file: BinaryIO | None = None

    def on_headers(self, fields: FieldSection | HqFields, interim: bool) -> None:
        if interim:
            return
        if fields.status != 200:
            self._client.fail(f"{self.url.path}: status {fields.status}")
        self._file = self._target.open("wb")

    def on_readable(self) -> None:
        while chunk := self.stream.recv():
            if self._file is not None:
                self._file.write(chunk)

    def on_finished(self) -> None:
        if self._file is not None:
            self._file.close()
        self._client.finished(self)

    def on_reset(self, code: int) -> None:
        self._client.fail(f"{self.url.path}: reset with {code:#x}")

    def on_closed(self, error: ConnectionClosed) -> None:
        self._client.fail(f"{self.url.path}: {error}")

    def on_stopped(self, code: int) -> None:
        """The request is out: what counts is the answer."""

    def on_trailers(self, fields: FieldSection) -> None:
        """Nothing in them is of interest."""

    def on_sent(self) -> None:
        """The request is out."""

    def on_drained(self) -> None:
        """A request is never larger than the first window."""


class Round(NamedTuple):
    """The URLs of one connection."""

    urls: Sequence[Url]
    resumed: bool = False
    early: bool = False
    keep_ticket: bool = False


def rounds(plan: Plan, urls: Sequence[Url]) -> list[Round]:
    """What goes over which connection."""
    if plan is Plan.ONE:
        return [Round(urls)]
    if plan is Plan.EACH:
        return [Round([url]) for url in urls]
    return [Round(urls[:1], keep_ticket=True), Round(urls[1:], resumed=True, early=plan is Plan.EARLY)]


class Client:
    """Fetches URLs, one connection after the other. `run()` is called once."""

    def __init__(self, config: ClientConfig, downloads: Path, update_key: bool = False) -> None:
        self._downloads = downloads
        self._limits = Http3Limits(**_LIMITS)
        self._counters = Http3Counters()
        self._settings = EngineSettings(config)
        self._config = config
        self._endpoint = Endpoint(self._settings, self, server=False)
        self._driver = LibevDriver(self._endpoint, None, EventBackend.AUTO)
        self._driver.after_turn = self._look
        self._sockets: dict[str, int] = {}
        self._todo: deque[Round] = deque()
        self._round = Round([])
        self._connection: Connection | None = None
        self._waiting: set[Download] = set()
        self._ticket: bytes | None = None
        self._update_key = update_key
        self._problem: str | None = None

    def run(self, plan: Plan, urls: Sequence[Url]) -> str | None:
        """Fetches everything. Returns what went wrong, if anything did."""
        self._todo.extend(rounds(plan, urls))
        for address in dict.fromkeys(_address(url) for url in urls):
            source = _source(address)
            if source not in self._sockets:
                self._sockets[source] = self._endpoint.add_socket(open_socket(self._config, source, 0))
        try:
            self._next_round()
            self._driver.start()
            self._driver.call_later(_PING_SECONDS, self._ping)
            self._driver.run()
        finally:
            self._driver.close()
            self._endpoint.drop_all()
            for sock in self._endpoint.sockets:
                sock.close()
            self._settings.close()
        return self._problem

    def _next_round(self) -> None:
        self._round = self._todo.popleft()
        url = self._round.urls[0]
        address = _address(url)
        ticket = self._ticket if self._round.resumed else None
        connection = self._endpoint.connect(self._sockets[_source(address)], address, url.host, ticket)
        self._connection = connection
        self._waiting = {
            Download(self, url, self._downloads / Path(url.path).name) for url in self._round.urls
        }

    def _look(self) -> None:
        """After each turn: is the round over?"""
        connection = self._connection
        if connection is None:
            if all(connection.draining for connection in self._endpoint.connections.values()):
                self._driver.stop()  # the close is out
            return
        if self._problem is None and self._waiting and not connection.closed:
            if connection.in_early_data and connection.context is None:
                self._endpoint.mark_dirty(connection)  # 0-RTT keys came with the first flight: use them
            if self._update_key and connection.update_key():
                self._update_key = False
            return
        if self._problem is None and self._round.keep_ticket:
            self._ticket = connection.session
            if self._ticket is None and not connection.closed:
                return  # a packet brings it
        self._connection = None
        connection.close(H3ErrorCode.H3_NO_ERROR if connection.alpn == "h3" else 0)
        if self._problem is None and self._todo:
            self._next_round()

    def _ping(self) -> None:
        """A NAT may have given us another address: nobody knows it while we only wait (RFC 9000 10.1.2)."""
        connection = self._connection
        if connection is not None and connection.established and not connection.closed:
            connection.send_ping()
        self._driver.call_later(_PING_SECONDS, self._ping)

    def finished(self, download: Download) -> None:
        """A file is complete."""
        self._waiting.discard(download)
        self._driver.soon()

    def fail(self, problem: str) -> None:
        """Nothing more is fetched."""
        self._problem = self._problem or problem
        self._driver.soon()

    # Calls of the endpoint and of HTTP/3

    def protocol(self, connection: Connection) -> Http3 | Hq | None:
        """A connection may carry data: everything is asked for at once."""
        if not connection.established and not self._round.early:
            return None
        protocol: Http3 | Hq
        if connection.alpn in HQ_ALPN:
            protocol = Hq(connection, self, server=False)
        else:
            protocol = Http3(connection, self, self._limits, self._counters, server=False)
        connection.context = protocol
        for download in sorted(self._waiting, key=lambda waiting: waiting.url.path):
            pairs = [
                (b":method", b"GET"),
                (b":scheme", b"https"),
                (b":authority", download.url.host.encode()),
                (b":path", download.url.path.encode()),
            ]
            download.stream = protocol.open_request(pairs, True, download)
        return protocol

    def connection_opened(self, connection: Connection) -> None:
        """The handshake is complete."""
        log.info("connected to %s, %s", connection.peer_address[0], connection.alpn)

    def connection_closed(self, connection: Connection) -> None:
        """A connection is gone, when its time has come or before."""
        if connection is self._connection and self._waiting:
            self.fail(str(connection.close_reason))  # nobody else asks for the turn that sees it

    def goaway(self, connection: Connection, stream_id: int) -> None:
        """The server takes no more requests; those that it does not serve are reset."""

    def datagram(self, connection: Connection, payload: bytes) -> None:
        """There are none in these tests."""

    def request(self, stream: Any) -> None:
        """Servers send no requests."""

    def refused(self, stream: Any, status: int) -> None:
        """As `request()`."""


def _address(url: Url) -> tuple[str, int]:
    """The first address that the name has. Raises OSError."""
    found = socket.getaddrinfo(url.host, url.port, type=socket.SOCK_DGRAM)
    return str(found[0][4][0]), url.port


def _source(address: tuple[str, int]) -> str:
    """The local address that packets to `address` leave from. Raises OSError when there is no way there."""
    family = socket.AF_INET6 if ":" in address[0] else socket.AF_INET
    with socket.socket(family, socket.SOCK_DGRAM) as probe:
        probe.connect(address)
        return str(probe.getsockname()[0])
