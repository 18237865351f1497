"""`session.serve()`: all that comes is answered side by side; what a peer does is its own affair."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from server_support import logged, until
from test_webtransport import server_with
from webtransport_peer import WebTransportClient, soon, talk

from quiche_h3 import H3ErrorCode, ServerSession, WebTransportStream, WouldBlock
from quiche_h3.webtransport_codes import to_wire


def echo_by(plain: bool) -> Any:
    """Echoes as `echo()` does; datagrams by a plain function or by a coroutine."""

    async def handler(session: ServerSession) -> None:
        async def bidi(stream: WebTransportStream) -> None:
            async for chunk in stream:
                await stream.write(chunk)

        async def uni(stream: WebTransportStream) -> None:
            size = len(await stream.read_all())
            async with await session.open_uni_stream() as answer:
                await answer.write(b"%d" % size)

        async def datagram(payload: bytes) -> None:
            session.send_datagram(payload)

        await session.serve(
            on_bidi_stream=bidi, on_uni_stream=uni, on_datagram=session.send_datagram if plain else datagram
        )

    return handler


@pytest.mark.parametrize("plain", [True, False])
def test_streams_are_answered_side_by_side(plain: bool) -> None:
    """A stream that goes on for ever holds no other up; what a handler returns from is finished."""

    async def scenario(client: WebTransportClient) -> None:
        session = await client.session("/wt")
        endless = session.open(b"beg")
        session.datagram(b"a datagram")
        assert await soon(session.datagrams.get()) == b"a datagram"
        assert await session.open(b"x" * 10_000, True).read() == b"x" * 10_000
        session.open(b"y" * 777, True, uni=True)
        assert await (await soon(session.streams.get())).read() == b"777"
        endless.write(b"in", True)
        assert await endless.read() == b"begin"
        session.close(0, "")
        assert await session.closed() == (0, "")

    talk(server_with(echo_by(plain)), scenario)


def test_what_a_peer_does_ends_one_handler_alone() -> None:
    """Streams that are reset, stopped or too long, a datagram that does not fit: the rest goes on."""
    begun: list[int] = []
    ends: list[str] = []

    async def handler(session: ServerSession) -> None:
        async def bidi(stream: WebTransportStream) -> None:
            begun.append(stream.id)
            try:
                data = await stream.read_all(limit=10)
                while data == b"for ever":
                    await stream.write(bytes(1000))
            except BaseException as error:
                ends.append(type(error).__name__)
                raise

        def datagram(payload: bytes) -> None:
            raise WouldBlock

        await session.serve(on_bidi_stream=bidi, on_datagram=datagram)
        ends.append("returned")

    async def scenario(client: WebTransportClient) -> None:
        session = await client.session("/wt")
        session.datagram(b"lost")
        first = session.open(b"abc")
        await until(lambda: len(begun) == 1)  # a reset at once would leave nothing of the stream to be sent
        first.reset(to_wire(7))
        await until(lambda: ends == ["WebTransportStreamReset"])
        session.open(b"for ever", True).stop(to_wire(8))
        await until(lambda: ends[1:] == ["WebTransportStreamReset"])
        too_long = session.open(b"x" * 100)
        assert await soon(too_long.reset_code) == to_wire(0)
        assert await soon(too_long.stop_code) == to_wire(0)
        assert await session.open(b"", True).read() == b""
        session.open(b"unfinished")
        await until(lambda: len(begun) == 5)
        session.close(0, "")
        await until(lambda: len(ends) == 5)
        assert ends[2:] == ["FlowControl", "SessionClosed", "returned"]

    talk(server_with(handler), scenario)


@pytest.mark.parametrize("plain", [True, False])
def test_an_error_of_the_program(plain: bool) -> None:
    """It cancels the other handlers and is raised by `serve()`: the session ends as by any failure."""
    ends: list[str] = []

    async def handler(session: ServerSession) -> None:
        async def bidi(stream: WebTransportStream) -> None:
            ends.append("began")
            try:
                await stream.read_all()
            except asyncio.CancelledError:
                ends.append("cancelled")
                raise

        async def uni(stream: WebTransportStream) -> None:
            raise LookupError("a mistake")

        def datagram(payload: bytes) -> None:
            raise LookupError("a mistake")

        await session.serve(on_bidi_stream=bidi, on_uni_stream=uni, on_datagram=datagram)

    async def scenario(client: WebTransportClient) -> None:
        session = await client.session("/wt")
        session.open(b"waits")
        await until(lambda: ends == ["began"])  # a datagram would overtake it
        if plain:
            session.datagram(b"go")
        else:
            session.open(b"go", uni=True)
        assert await soon(session.reset_code) == H3ErrorCode.H3_INTERNAL_ERROR

    with logged("quiche_h3") as records:
        talk(server_with(handler), scenario)
    assert ends == ["began", "cancelled"]
    assert any("session handler" in record.getMessage() for record in records)


def test_handlers_may_end_after_their_session() -> None:
    """What came whole before the close is not lost half way: its handler ends before `serve()` returns."""
    done: list[bytes] = []

    async def handler(session: ServerSession) -> None:
        async def uni(stream: WebTransportStream) -> None:
            data = await stream.read_all()
            session.send_datagram(b"read")
            await session.wait_closed()
            await asyncio.sleep(0)
            done.append(data)

        await session.serve(on_uni_stream=uni)
        done.append(b"returned")

    async def scenario(client: WebTransportClient) -> None:
        session = await client.session("/wt")
        session.open(b"to be kept", True, uni=True)
        assert await soon(session.datagrams.get()) == b"read"
        session.close(3, "done")
        await session.closed()
        await until(lambda: len(done) == 2)

    talk(server_with(handler), scenario)
    assert done == [b"to be kept", b"returned"]
