"""An HTTP/3 client and server on aioquic: an independent peer, in the test's own process or as a program.

``python -m interop get|many|upload|download|trailers|serve`` speaks the same JSON as the Go program.
The client also does what no well-behaved one would: any field section, any bytes on any stream, resets, and a
receive window that stays shut.
"""

from __future__ import annotations

import asyncio
import hashlib
import ssl
from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager
from typing import Any, TypeVar, cast
from urllib.parse import urlsplit

from aioquic.asyncio.client import connect
from aioquic.asyncio.protocol import QuicConnectionProtocol
from aioquic.h3.connection import H3Connection
from aioquic.h3.events import DataReceived, H3Event, HeadersReceived
from aioquic.quic.configuration import QuicConfiguration
from aioquic.quic.connection import QuicConnection
from aioquic.quic.events import ConnectionTerminated, QuicEvent, StopSendingReceived, StreamReset

from . import pattern

Pairs = Iterable[tuple[bytes, bytes]]
Result = TypeVar("Result")

TIMEOUT = 60.0
SEND_BUFFER = 1 << 20


class PeerReset(Exception):
    """The other side sent RESET_STREAM (RFC 9000 19.4) before the message was complete."""

    def __init__(self, code: int) -> None:
        super().__init__(f"stream reset with {code:#x}")
        self.code = code


class PeerClosed(ConnectionError):
    """The connection ended: by CONNECTION_CLOSE (RFC 9000 19.19) of either side, or by timeout."""

    def __init__(self, event: ConnectionTerminated) -> None:
        super().__init__(f"connection closed with {event.error_code:#x} {event.reason_phrase!r}")
        self.code = event.error_code
        self.frame_type = event.frame_type
        """None for an application close (0x1d), else the frame that was at fault (0x1c)."""
        self.reason = event.reason_phrase


class Exchange:
    """One request of ours and what has come back on its stream."""

    def __init__(self, stream_id: int, keep_body: bool) -> None:
        loop = asyncio.get_running_loop()
        self.stream_id = stream_id
        self.keep_body = keep_body
        self.headers: list[tuple[bytes, bytes]] = []
        self.interim: list[list[tuple[bytes, bytes]]] = []
        self.trailers: list[tuple[bytes, bytes]] = []
        self._body = bytearray()
        self.size = 0
        """Body bytes received, also when the body is not kept."""
        self.sha256 = hashlib.sha256()
        self.stop_sending: int | None = None
        """The code of a STOP_SENDING of the other side (RFC 9000 19.5)."""
        self.answered: asyncio.Future[None] = loop.create_future()
        self.done: asyncio.Future[None] = loop.create_future()

    @property
    def body(self) -> bytes:
        """What was received of the body, unless it is not kept."""
        return bytes(self._body)

    @property
    def status(self) -> int:
        return int(dict(self.headers)[b":status"])

    def header(self, name: str) -> str | None:
        """Return the first value of a response header."""
        wanted = name.lower().encode()
        return next((value.decode("latin-1") for field, value in self.headers if field == wanted), None)

    def receive(self, event: H3Event) -> None:
        if self.done.done():
            return
        if isinstance(event, HeadersReceived):
            if self.headers:
                self.trailers = event.headers
            elif dict(event.headers)[b":status"].startswith(b"1"):
                self.interim.append(event.headers)
            else:
                self.headers = event.headers
                self.answered.set_result(None)
        elif isinstance(event, DataReceived):
            self.size += len(event.data)
            self.sha256.update(event.data)
            if self.keep_body:
                self._body += event.data
        if isinstance(event, HeadersReceived | DataReceived) and event.stream_ended:
            self.done.set_result(None)

    def fail(self, error: Exception) -> None:
        for future in (self.answered, self.done):
            if not future.done():
                future.set_exception(error)
                future.exception()  # whoever waits still gets it; nobody is told that nobody waited

    async def complete(self, timeout: float = TIMEOUT) -> Exchange:
        """Wait for the end of the response and return self; raise PeerReset or PeerClosed."""
        await asyncio.wait_for(asyncio.shield(self.done), timeout)
        return self

    async def response(self, timeout: float = TIMEOUT) -> Exchange:
        """Wait for the response's header section and return self; raise PeerReset or PeerClosed."""
        await asyncio.wait_for(asyncio.shield(self.answered), timeout)
        return self


class H3Protocol(QuicConnectionProtocol):
    """What both roles share: HTTP/3 on the connection, and sending no faster than the other side takes it."""

    def __init__(self, quic: QuicConnection, stream_handler: Any = None) -> None:
        super().__init__(quic, stream_handler)
        # HTTP datagrams (RFC 9297) are announced by aioquic only together with WebTransport.
        self.http = H3Connection(quic, enable_webtransport=bool(quic.configuration.max_datagram_frame_size))
        self.terminated: ConnectionTerminated | None = None
        self._progress = asyncio.Event()

    def datagram_received(self, data: bytes | str, addr: Any) -> None:
        super().datagram_received(data, addr)
        self._progress.set()

    def quic_event_received(self, event: QuicEvent) -> None:
        if isinstance(event, ConnectionTerminated):
            self.terminated = event
            self._progress.set()
        for h3_event in self.http.handle_event(event):
            self.h3_event_received(h3_event)

    def h3_event_received(self, event: H3Event) -> None:
        raise NotImplementedError

    async def send_body(self, stream_id: int, body: Iterable[bytes], end_stream: bool) -> None:
        """Send DATA frames, holding at most SEND_BUFFER bytes that are not acknowledged."""
        for chunk in body:
            self.http.send_data(stream_id, chunk, False)
            self.transmit()
            await self.drain(stream_id)
        if end_stream:
            self.http.send_data(stream_id, b"", True)
            self.transmit()

    async def drain(self, stream_id: int) -> None:
        """Wait until little is unacknowledged. aioquic has no signal for it: look after each datagram."""
        stream = self._quic._streams.get(stream_id)
        while stream and len(stream.sender._buffer) > SEND_BUFFER and not stream.sender._reset_error_code:
            if self.terminated:
                raise PeerClosed(self.terminated)
            self._progress.clear()
            await self._progress.wait()


class AioquicClient(H3Protocol):
    """One connection of a client; made by :func:`open_client`."""

    authority = b""

    def __init__(self, quic: QuicConnection, stream_handler: Any = None) -> None:
        super().__init__(quic, stream_handler)
        self.exchanges: dict[int, Exchange] = {}
        check_length = self.http._check_content_length
        # aioquic knows not of HEAD, where content-length speaks of what is left out (RFC 9110 8.6).
        self.http._check_content_length = lambda stream: (  # type: ignore[method-assign]
            None if stream.stream_id in self.heads else check_length(stream)
        )
        self.heads: set[int] = set()

    # requests

    async def request(
        self,
        method: str,
        path: str,
        *,
        headers: Pairs = (),
        body: Iterable[bytes] = (),
        trailers: Pairs = (),
        keep_body: bool = True,
        timeout: float = TIMEOUT,
    ) -> Exchange:
        """Send one request, body and trailers included, and wait for the whole response."""
        body, trailers = list(body) if isinstance(body, bytes) else body, list(trailers)
        bare = body == () and not trailers
        exchange = self.start(self.fields(method, path, headers), end_stream=bare, keep_body=keep_body)
        if method == "HEAD":
            self.heads.add(exchange.stream_id)
        if not bare:
            sending = asyncio.ensure_future(self._send(exchange.stream_id, body, trailers))
            try:
                return await exchange.complete(timeout)
            finally:
                sending.cancel()
        return await exchange.complete(timeout)

    async def _send(self, stream_id: int, body: Iterable[bytes], trailers: list[tuple[bytes, bytes]]) -> None:
        await self.send_body(stream_id, body, not trailers)
        if trailers:
            self.http.send_headers(stream_id, trailers, end_stream=True)
            self.transmit()

    async def get(self, path: str, **options: Any) -> Exchange:
        return await self.request("GET", path, **options)

    async def many(self, path: str, count: int) -> list[Exchange]:
        """Make ``count`` GETs at the same time on this connection."""
        return await asyncio.gather(*(self.get(path) for _ in range(count)))

    async def upload(self, path: str, size: int, **options: Any) -> Exchange:
        """POST the first ``size`` bytes of the pattern with their Content-Length."""
        length = [(b"content-length", str(size).encode())]
        return await self.request("POST", path, headers=length, body=pattern.chunks(size), **options)

    async def download(self, path: str, **options: Any) -> Exchange:
        """GET a body into ``exchange.size`` and ``exchange.sha256`` without keeping it."""
        return await self.get(path, keep_body=False, **options)

    # the parts of a request, one by one and in any order

    def fields(self, method: str, path: str, headers: Pairs = ()) -> list[tuple[bytes, bytes]]:
        """Return a request's well-formed header section (RFC 9114 4.3.1)."""
        pseudo = {b":method": method.encode(), b":scheme": b"https", b":authority": self.authority}
        return [*pseudo.items(), (b":path", path.encode()), *headers]

    def start(self, fields: Pairs, *, end_stream: bool = True, keep_body: bool = True) -> Exchange:
        """Open a request stream with this very header section, which nothing checks, and wait for nothing."""
        exchange = self.expect(keep_body)
        self.http.send_headers(exchange.stream_id, list(fields), end_stream)
        self.transmit()
        return exchange

    def expect(self, keep_body: bool = True) -> Exchange:
        """Open a request stream that nothing was sent on yet: send_raw() is next."""
        if self.terminated:
            raise PeerClosed(self.terminated)
        exchange = Exchange(self._quic.get_next_available_stream_id(), keep_body)
        self.exchanges[exchange.stream_id] = exchange
        return exchange

    def send_raw(self, stream_id: int, data: bytes, end_stream: bool = False) -> None:
        """Send bytes on a stream as they are, with no HTTP/3 frame around them."""
        self._quic.send_stream_data(stream_id, data, end_stream)
        self.transmit()

    def open_unidirectional(self, data: bytes, end_stream: bool = False) -> int:
        """Open a unidirectional stream that begins with ``data``: first its type (RFC 9114 6.2)."""
        stream_id = self._quic.get_next_available_stream_id(is_unidirectional=True)
        self.send_raw(stream_id, data, end_stream)
        return stream_id

    def reset(self, stream_id: int, code: int) -> None:
        """Send RESET_STREAM: our side of the stream ends here."""
        self._quic.reset_stream(stream_id, code)
        self.transmit()

    def send_stop(self, stream_id: int, code: int) -> None:
        """Send STOP_SENDING: we want no more of the other side."""
        self._quic.stop_stream(stream_id, code)
        self.transmit()

    def stop_reading(self) -> None:
        """Grant no more credit from now on: what the other side may send ends at the limits already given."""
        for writes_limits in ("_write_connection_limits", "_write_stream_limits"):
            setattr(self._quic, writes_limits, lambda **_: None)

    def read_on(self) -> None:
        """Grant credit again."""
        for writes_limits in ("_write_connection_limits", "_write_stream_limits"):
            delattr(self._quic, writes_limits)
        self.transmit()

    def sent(self, stream_id: int) -> int:
        """Return the highest offset sent on a stream: how far its and the connection's credit let us come."""
        return self._quic._streams[stream_id].sender.highest_offset

    # events

    def quic_event_received(self, event: QuicEvent) -> None:
        if isinstance(event, ConnectionTerminated):
            for exchange in self.exchanges.values():
                exchange.fail(PeerClosed(event))
        elif isinstance(event, StreamReset) and event.stream_id in self.exchanges:
            self.exchanges[event.stream_id].fail(PeerReset(event.error_code))
        elif isinstance(event, StopSendingReceived) and event.stream_id in self.exchanges:
            self.exchanges[event.stream_id].stop_sending = event.error_code
        super().quic_event_received(event)

    def h3_event_received(self, event: H3Event) -> None:
        if isinstance(event, HeadersReceived | DataReceived) and event.stream_id in self.exchanges:
            self.exchanges[event.stream_id].receive(event)

    async def closed(self, timeout: float = TIMEOUT) -> PeerClosed:
        """Wait for the end of the connection and return why it ended."""
        await asyncio.wait_for(self.wait_closed(), timeout)
        assert self.terminated is not None
        return PeerClosed(self.terminated)


def configure(ca: str | None, window: int = 1 << 20) -> QuicConfiguration:
    """Return a client's configuration; without ``ca`` any certificate will do. ``window`` is in bytes."""
    configuration = QuicConfiguration(
        is_client=True, alpn_protocols=["h3"], max_data=window, max_stream_data=window, max_datagram_size=1350
    )
    if ca is None:
        configuration.verify_mode = ssl.CERT_NONE
    else:
        configuration.load_verify_locations(ca)
    return configuration


@asynccontextmanager
async def open_client(
    url: str, ca: str | None = None, configuration: QuicConfiguration | None = None
) -> AsyncIterator[AioquicClient]:
    """Connect to the host and port of ``url`` and close at the end. Without ``ca`` nothing is verified."""
    parts = urlsplit(url)
    host, port = parts.hostname or "", parts.port or 443
    configuration = configuration or configure(ca)
    async with connect(host, port, configuration=configuration, create_protocol=AioquicClient) as protocol:
        client = cast(AioquicClient, protocol)
        client.authority = parts.netloc.encode()
        yield client
