"""Our client's sessions with aioquic as the server: datagrams, streams of all kinds, and how it ends."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any, TypeVar

import pytest
from aioquic.asyncio.protocol import QuicConnectionProtocol
from aioquic.asyncio.server import serve
from aioquic.h3.connection import H3Connection
from aioquic.h3.events import DatagramReceived, DataReceived, HeadersReceived, WebTransportStreamDataReceived
from aioquic.quic.configuration import QuicConfiguration
from aioquic.quic.events import QuicEvent, StreamReset

from quiche_h3 import (
    ClientSession,
    CloseInfo,
    ConnectionClosed,
    H3ErrorCode,
    SessionRejected,
    WebTransportStreamReset,
    aconnect_webtransport,
)
from quiche_h3.capsules import encode_capsule
from quiche_h3.webtransport_codes import to_wire

from .certificates import Certificate

T = TypeVar("T")


class Site(QuicConnectionProtocol):
    """Answers by path.

    /echo: datagrams and bidirectional streams come back; a unidirectional one comes back on one of ours;
    /push: opens a stream of each kind; /close: ends the session by a capsule; /reset: resets streams with 12;
    /trailers: sends trailers on the CONNECT stream, which it may not; anything else is refused with 404.
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.http = H3Connection(self._quic, enable_webtransport=True)
        self.paths: dict[int, str] = {}
        self.uni: dict[int, bytearray] = {}

    def quic_event_received(self, event: QuicEvent) -> None:
        if isinstance(event, StreamReset):
            return
        for found in self.http.handle_event(event):
            if isinstance(found, HeadersReceived):
                self.begin(found.stream_id, dict(found.headers))
            elif isinstance(found, DatagramReceived):
                self.http.send_datagram(found.stream_id, found.data)
            elif isinstance(found, WebTransportStreamDataReceived):
                self.stream(found)
            elif isinstance(found, DataReceived) and found.stream_ended:
                self._quic.send_stream_data(found.stream_id, b"", True)
        self.transmit()

    def begin(self, session_id: int, fields: dict[bytes, bytes]) -> None:
        path = self.paths[session_id] = fields[b":path"].decode()
        known = path in ("/echo", "/push", "/close", "/reset", "/trailers")
        status = b"200" if known and fields[b":protocol"] == b"webtransport" else b"404"
        self.http.send_headers(session_id, [(b":status", status)], status != b"200")
        if path == "/close":
            self.http.send_data(
                session_id, encode_capsule(0x2843, (4242).to_bytes(4, "big") + b"enough"), True
            )
        elif path == "/trailers":
            self.http.send_headers(session_id, [(b"x", b"y")], True)
        elif path == "/push":
            for uni in (False, True):
                stream_id = self.http.create_webtransport_stream(session_id, uni)
                self._quic.send_stream_data(stream_id, b"from the server", True)

    def stream(self, event: WebTransportStreamDataReceived) -> None:
        if self.paths[event.session_id] == "/reset":
            self._quic.reset_stream(event.stream_id, to_wire(12))
        elif not event.stream_id & 2:
            self._quic.send_stream_data(event.stream_id, event.data, event.stream_ended)
        else:
            data = self.uni.setdefault(event.stream_id, bytearray())
            data += event.data
            if event.stream_ended:
                stream_id = self.http.create_webtransport_stream(event.session_id, True)
                self._quic.send_stream_data(stream_id, bytes(self.uni.pop(event.stream_id)), True)


def with_session(files: Certificate, path: str, scenario: Callable[[ClientSession], Awaitable[T]]) -> T:
    """Runs the scenario with a session of ours."""

    async def run() -> T:
        configuration = QuicConfiguration(
            is_client=False, alpn_protocols=["h3"], max_datagram_frame_size=65_536
        )
        configuration.load_cert_chain(*files)
        server: Any = await serve("127.0.0.1", 0, configuration=configuration, create_protocol=Site)
        try:
            port = server._transport.get_extra_info("sockname")[1]
            url = f"https://127.0.0.1:{port}{path}"
            async with await aconnect_webtransport(url, verify=False, timeout=10) as session:
                return await asyncio.wait_for(scenario(session), 20)
        finally:
            server.close()

    return asyncio.run(run())


def test_datagrams_and_streams(certificate: Certificate) -> None:
    """Everything that we open comes back, 50 streams at once and 2 MiB included."""

    async def scenario(session: ClientSession) -> None:
        session.send_datagram(b"a datagram")
        assert await session.receive_datagram() == b"a datagram"

        async def bidi(data: bytes) -> None:
            async with await session.open_bidi_stream() as stream:
                await stream.write(data)
                stream.finish()
                assert await stream.read_all() == data

        await asyncio.gather(*(bidi(bytes([n]) * 5000) for n in range(50)))
        await bidi(bytes(2 << 20))
        async with await session.open_uni_stream() as stream:
            await stream.write(b"one way")
        answer = await session.incoming_uni_streams().__anext__()
        assert await answer.read_all() == b"one way"

    with_session(certificate, "/echo", scenario)


def test_streams_of_the_server(certificate: Certificate) -> None:
    """Both kinds."""

    async def scenario(session: ClientSession) -> None:
        for streams in (session.incoming_bidi_streams(), session.incoming_uni_streams()):
            stream = await streams.__anext__()
            assert await stream.read_all() == b"from the server"

    with_session(certificate, "/push", scenario)


def test_closed_by_the_server(certificate: Certificate) -> None:
    """Code and reason of its capsule."""

    async def scenario(session: ClientSession) -> CloseInfo:
        return await session.wait_closed()

    assert with_session(certificate, "/close", scenario) == CloseInfo(4242, "enough", True)


def test_trailers_of_the_server(certificate: Certificate) -> None:
    """RFC 9114 4.4: nothing but DATA frames on the stream of a CONNECT."""

    async def scenario(session: ClientSession) -> CloseInfo:
        return await session.wait_closed()

    error = with_session(certificate, "/trailers", scenario).error
    assert isinstance(error, ConnectionClosed)
    assert (error.code, error.remote) == (H3ErrorCode.H3_FRAME_UNEXPECTED, False)


def test_reset_by_the_server(certificate: Certificate) -> None:
    """The code of its RESET_STREAM."""

    async def scenario(session: ClientSession) -> int:
        stream = await session.open_bidi_stream()
        await stream.write(b"x")
        with pytest.raises(WebTransportStreamReset) as caught:
            await stream.read_all()
        return caught.value.code

    assert with_session(certificate, "/reset", scenario) == 12


def test_refused_by_the_server(certificate: Certificate) -> None:
    """Its status."""

    async def scenario(session: ClientSession) -> None:
        raise AssertionError("there is no session")

    with pytest.raises(SessionRejected) as caught:
        with_session(certificate, "/nowhere", scenario)
    assert caught.value.status == 404
