"""A WebTransport client on aioquic: an independent peer, which also does what no well-behaved one would."""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any, ClassVar, TypeVar
from urllib.parse import urlsplit

from aioquic.asyncio.client import connect
from aioquic.asyncio.protocol import QuicConnectionProtocol
from aioquic.h3.connection import H3Connection
from aioquic.h3.events import DatagramReceived, DataReceived, HeadersReceived, WebTransportStreamDataReceived
from aioquic.quic.configuration import QuicConfiguration
from aioquic.quic.connection import QuicConnection
from aioquic.quic.events import (
    ConnectionTerminated,
    QuicEvent,
    StopSendingReceived,
    StreamDataReceived,
    StreamReset,
)

from quiche_h3 import Server
from quiche_h3.capsules import Capsule, CapsuleReader, encode_capsule

T = TypeVar("T")
SECONDS = 10.0


async def soon(awaitable: Awaitable[T]) -> T:
    """The result, which must not take long."""
    return await asyncio.wait_for(awaitable, SECONDS)


class PeerStream:
    """A stream of a session as the peer sees it."""

    def __init__(self, client: WebTransportClient, stream_id: int) -> None:
        loop = asyncio.get_running_loop()
        self.client = client
        self.id = stream_id
        self.data = bytearray()
        self.ended: asyncio.Future[bytes] = loop.create_future()
        self.reset_code: asyncio.Future[int] = loop.create_future()
        self.stop_code: asyncio.Future[int] = loop.create_future()

    def write(self, data: bytes, fin: bool = False) -> None:
        self.client._quic.send_stream_data(self.id, data, fin)
        self.client.transmit()

    def reset(self, code: int) -> None:
        self.client._quic.reset_stream(self.id, code)
        self.client.transmit()

    def stop(self, code: int) -> None:
        self.client._quic.stop_stream(self.id, code)
        self.client.transmit()

    def receive(self, data: bytes, fin: bool) -> None:
        self.data += data
        if fin and not self.ended.done():
            self.ended.set_result(bytes(self.data))

    async def read(self) -> bytes:
        return await soon(self.ended)


class PeerSession:
    """A session as the peer sees it."""

    def __init__(self, client: WebTransportClient, session_id: int) -> None:
        loop = asyncio.get_running_loop()
        self.client = client
        self.id = session_id
        self.answer: asyncio.Future[dict[bytes, bytes]] = loop.create_future()
        self.ended: asyncio.Future[None] = loop.create_future()
        self.reset_code: asyncio.Future[int] = loop.create_future()
        self.stop_code: asyncio.Future[int] = loop.create_future()
        self.capsules: list[Capsule] = []
        self.datagrams: asyncio.Queue[bytes] = asyncio.Queue()
        self.streams: asyncio.Queue[PeerStream] = asyncio.Queue()
        self._reader = CapsuleReader({0x2843: 2000, 0x78AE: 10})

    async def status(self) -> int:
        return int((await soon(self.answer))[b":status"])

    def datagram(self, payload: bytes) -> None:
        self.client.http.send_datagram(self.id, payload)
        self.client.transmit()

    def open(self, data: bytes = b"", fin: bool = False, *, uni: bool = False) -> PeerStream:
        stream_id = self.client.http.create_webtransport_stream(self.id, uni)
        stream = self.client.streams[stream_id] = PeerStream(self.client, stream_id)
        stream.write(data, fin)
        return stream

    def capsule(self, kind: int, value: bytes, fin: bool = False) -> None:
        self.client.http.send_data(self.id, encode_capsule(kind, value), fin)
        self.client.transmit()

    def close(self, code: int, reason: str) -> None:
        self.capsule(0x2843, code.to_bytes(4, "big") + reason.encode(), True)

    async def closed(self) -> tuple[int, str]:
        """Code and reason of the server's capsule, once its FIN has come."""
        await soon(self.ended)
        value = next((c.value for c in self.capsules if c.kind == 0x2843), bytes(4))
        return int.from_bytes(value[:4], "big"), value[4:].decode()

    def receive(self, data: bytes, fin: bool) -> None:
        self.capsules += self._reader.feed(data)
        if fin and not self.ended.done():
            self.ended.set_result(None)


class _Http(H3Connection):
    """With further SETTINGS."""

    def __init__(self, quic: QuicConnection, settings: dict[int, int]) -> None:
        self._further = settings
        super().__init__(quic, enable_webtransport=True)

    def _get_local_settings(self) -> dict[int, int]:
        return {**super()._get_local_settings(), **self._further}


class WebTransportClient(QuicConnectionProtocol):
    """One connection."""

    settings: ClassVar[dict[int, int]] = {}

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.http = _Http(self._quic, self.settings)
        self.sessions: dict[int, PeerSession] = {}
        self.streams: dict[int, PeerStream] = {}
        self.closed_with: asyncio.Future[int] = asyncio.get_running_loop().create_future()

    def connect_session(
        self,
        path: str,
        *,
        protocol: bytes = b"webtransport",
        fields: list[tuple[bytes, bytes]] | None = None,
        head: dict[bytes, bytes | None] | None = None,
        fin: bool = False,
    ) -> PeerSession:
        """Sends the CONNECT, or whatever `head` makes of it."""
        session_id = self._quic.get_next_available_stream_id()
        session = self.sessions[session_id] = PeerSession(self, session_id)
        pseudo = {
            b":method": b"CONNECT",
            b":scheme": b"https",
            b":authority": b"localhost",
            b":path": path.encode(),
            b":protocol": protocol,
            **(head or {}),
        }
        pairs = [(name, value) for name, value in pseudo.items() if value is not None]
        self.http.send_headers(session_id, pairs + (fields or []), fin or pseudo[b":method"] != b"CONNECT")
        self.transmit()
        return session

    async def session(self, path: str, **options: Any) -> PeerSession:
        """A session that the server accepts."""
        session = self.connect_session(path, **options)
        assert await session.status() == 200
        return session

    def raw_stream(self, data: bytes, *, uni: bool = False, fin: bool = False) -> PeerStream:
        """A stream with whatever bytes."""
        stream_id = self._quic.get_next_available_stream_id(is_unidirectional=uni)
        stream = self.streams[stream_id] = PeerStream(self, stream_id)
        stream.write(data, fin)
        return stream

    def quic_event_received(self, event: QuicEvent) -> None:
        if isinstance(event, ConnectionTerminated):
            self.closed_with.set_result(event.error_code)
            return
        stream_id = getattr(event, "stream_id", None)
        owner: Any = self.streams.get(stream_id) or self.sessions.get(stream_id)  # type: ignore[arg-type]
        if isinstance(event, StreamReset) and owner is not None:
            if not owner.reset_code.done():
                owner.reset_code.set_result(event.error_code)
        elif isinstance(event, StopSendingReceived) and owner is not None:
            owner.stop_code.set_result(event.error_code)
        elif isinstance(event, StreamDataReceived) and stream_id in self.streams and stream_id % 4 == 0:
            self.streams[stream_id].receive(event.data, event.end_stream)  # aioquic leaves these to us
        else:
            for found in self.http.handle_event(event):
                self.http_event(found)

    def http_event(self, event: Any) -> None:
        if isinstance(event, HeadersReceived):
            self.sessions[event.stream_id].answer.set_result(dict(event.headers))
        if isinstance(event, HeadersReceived | DataReceived):
            data = event.data if isinstance(event, DataReceived) else b""
            self.sessions[event.stream_id].receive(data, event.stream_ended)
        elif isinstance(event, DatagramReceived):
            self.sessions[event.stream_id].datagrams.put_nowait(event.data)
        elif isinstance(event, WebTransportStreamDataReceived):
            stream = self.streams.get(event.stream_id)
            if stream is None:
                stream = self.streams[event.stream_id] = PeerStream(self, event.stream_id)
                self.sessions[event.session_id].streams.put_nowait(stream)
            stream.receive(event.data, event.stream_ended)


@asynccontextmanager
async def client_of(url: str, **options: Any) -> AsyncIterator[WebTransportClient]:
    """One connection, which takes any certificate."""
    configuration = QuicConfiguration(
        is_client=True,
        alpn_protocols=["h3"],
        verify_mode=ssl.CERT_NONE,
        max_datagram_frame_size=65_536,
        **options,
    )
    parts = urlsplit(url)
    async with connect(
        str(parts.hostname),
        int(parts.port or 443),
        configuration=configuration,
        create_protocol=WebTransportClient,
    ) as client:
        assert isinstance(client, WebTransportClient)
        yield client


def talk(server: Server, scenario: Callable[[WebTransportClient], Awaitable[T]], **options: Any) -> T:
    """Serve in a background thread, run the scenario on one connection, stop; return what it returned."""

    async def connected(url: str) -> T:
        async with client_of(url, **options) as client:
            return await scenario(client)

    with server.running() as address:
        return asyncio.run(connected(address.url))
