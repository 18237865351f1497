"""WebTransport sessions of a server, with aioquic as the independent client (draft-ietf-webtrans-http3)."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from server_support import make_server
from webtransport_peer import WebTransportClient, soon, talk

from quiche_h3 import Server, ServerSession, WebTransportStream

OPTIONS = {"drain_timeout_ms": 200}


def server_with(
    handler: Any, pattern: str = "/wt", *, route: dict[str, Any] | None = None, **fields: Any
) -> Server:
    """A server whose sessions the handler serves."""
    server = make_server(**{**OPTIONS, **fields})
    server.webtransport(pattern, **(route or {}))(handler)
    return server


async def echo(session: ServerSession) -> None:
    """Datagrams come back, bidirectional streams too, of a unidirectional one its length on another."""

    async def datagrams() -> None:
        async for payload in session.datagrams():
            session.send_datagram(payload)

    async def bidi() -> None:
        async for stream in session.incoming_bidi_streams():
            async for chunk in stream:
                await stream.write(chunk)
            stream.finish()

    async def uni() -> None:
        async for stream in session.incoming_uni_streams():
            size = len(await stream.read_all())
            async with await session.open_uni_stream() as answer:
                await answer.write(b"%d" % size)

    await asyncio.gather(datagrams(), bidi(), uni())


def echo_by_callbacks(session: ServerSession) -> None:
    """The same by callbacks."""
    sizes: dict[int, int] = {}

    def data(stream: WebTransportStream, chunk: bytes, fin: bool) -> None:
        if stream.bidirectional:
            stream.write(chunk)
            if fin:
                stream.finish()
            return
        sizes[stream.id] = sizes.get(stream.id, 0) + len(chunk)
        if fin:
            answer = session.open_uni_stream_nowait()
            answer.write(b"%d" % sizes.pop(stream.id))
            answer.finish()

    session.on_datagram = session.send_datagram
    session.on_bidi_stream = session.on_uni_stream = lambda stream: None
    session.on_stream_data = data


@pytest.mark.parametrize("handler", [echo, echo_by_callbacks])
@pytest.mark.parametrize("protocol", [b"webtransport", b"webtransport-h3"])
def test_every_kind_of_traffic(handler: Any, protocol: bytes) -> None:
    """Both handler styles, datagrams and streams of all four kinds; both values of :protocol."""

    async def scenario(client: WebTransportClient) -> None:
        session = await client.session("/wt", protocol=protocol)
        session.datagram(b"a datagram")
        assert await soon(session.datagrams.get()) == b"a datagram"
        assert await session.open(b"x" * 10_000, True).read() == b"x" * 10_000
        session.open(b"y" * 777, True, uni=True)
        answer = await soon(session.streams.get())
        assert await answer.read() == b"777"
        session.close(0, "")
        assert await session.closed() == (0, "")

    talk(server_with(handler), scenario)
