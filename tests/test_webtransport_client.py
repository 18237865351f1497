"""Our own client against our own server, waiting and in asyncio, with one set of scenarios."""

from __future__ import annotations

import asyncio
import hashlib
import threading
from collections.abc import Awaitable, Callable
from typing import Any, TypeVar

import pytest
from test_webtransport import echo, echo_by_callbacks, server_with

from quiche_h3 import (
    BlockingSession,
    ClientSession,
    CloseInfo,
    ConnectError,
    FlowControl,
    InvalidState,
    ServerSession,
    SessionClosed,
    SessionRejected,
    StreamClosed,
    TimedOut,
    WebTransportStream,
    WebTransportStreamReset,
    aconnect_webtransport,
    connect_webtransport,
)

T = TypeVar("T")
KIB, MIB = 1 << 10, 1 << 20


def with_async(
    server: Any, scenario: Callable[[ClientSession], Awaitable[T]], path: str = "/wt", **options: Any
) -> T:
    """Runs the scenario with a session in asyncio, against the server in a thread of its own."""

    async def run(url: str) -> T:
        async with await aconnect_webtransport(url + path, verify=False, timeout=10, **options) as session:
            return await asyncio.wait_for(scenario(session), 30)

    with server.running() as address:
        return asyncio.run(run(address.url))


def with_blocking(
    server: Any, scenario: Callable[[BlockingSession], T], path: str = "/wt", **options: Any
) -> T:
    """Runs the scenario with a session that waits."""
    with (
        server.running() as address,
        connect_webtransport(address.url + path, verify=False, timeout=10, **options) as session,
    ):
        return scenario(session)


async def write_for_ever(stream: WebTransportStream) -> None:
    """Until the peer stops it."""
    while True:
        await stream.write(b"x")
        await asyncio.sleep(0)


@pytest.mark.parametrize("handler", [echo, echo_by_callbacks])
def test_everything_in_asyncio(handler: Any) -> None:
    """Datagrams and streams of all four kinds, by the calls of the asynchronous client."""

    async def scenario(session: ClientSession) -> None:
        session.send_datagram(b"one")
        assert await session.receive_datagram() == b"one"
        async with await session.open_bidi_stream() as stream:
            await stream.write(b"abc")
            stream.finish()
            assert await stream.read_all() == b"abc"
        async with await session.open_uni_stream() as stream:
            await stream.write(bytes(5000))
        async for answer in session.incoming_uni_streams():
            assert await answer.read_all() == b"5000"
            with pytest.raises(InvalidState):
                await stream.read()
            break
        assert session.stats["streams_opened"] == 2
        assert session.stats["streams_accepted"] == 1

    with_async(server_with(handler), scenario)


@pytest.mark.parametrize("handler", [echo, echo_by_callbacks])
def test_everything_with_waiting(handler: Any) -> None:
    """The same by the calls of the client that waits."""

    def scenario(session: BlockingSession) -> None:
        session.send_datagram(b"one")
        assert session.receive_datagram() == b"one"
        with session.open_bidi_stream() as stream:
            stream.write(b"abc")
            stream.finish()
            assert stream.read_all() == b"abc"
        with session.open_uni_stream() as stream:
            stream.write(bytes(5000))
        answer = next(session.incoming_uni_streams())
        assert answer.read_all() == b"5000"
        with pytest.raises(TimedOut):
            session.receive_datagram(timeout=0.05)

    with_blocking(server_with(handler), scenario)


def test_callbacks_of_the_waiting_client() -> None:
    """Callbacks can be set on a client's session as on a server's."""
    got: list[object] = []
    came, done = threading.Event(), threading.Event()

    def datagram(payload: bytes) -> None:
        got.append(payload)
        came.set()

    def closed(info: CloseInfo) -> None:
        got.append(info)
        done.set()

    async def handler(session: ServerSession) -> None:
        session.send_datagram(await session.receive_datagram())
        await session.receive_datagram()
        session.close(7, "enough")

    def scenario(session: BlockingSession) -> None:
        session.on_datagram = datagram
        session.on_session_closed = closed
        session.send_datagram(b"x")
        assert came.wait(10)
        session.send_datagram(b"that was all")
        assert done.wait(10)
        assert got == [b"x", CloseInfo(7, "enough", True)]

    with_blocking(server_with(handler), scenario)


def test_codes_and_reasons_both_ways() -> None:
    """Section 5: the code and the reason of either side reach the other."""
    seen: list[CloseInfo] = []

    async def handler(session: ServerSession) -> None:
        seen.append(await session.wait_closed())

    async def scenario(session: ClientSession) -> None:
        session.close(0xFFFFFFFF, "grüße")
        assert session.close_info == CloseInfo(0xFFFFFFFF, "grüße", False)
        with pytest.raises(SessionClosed, match="closed by us with code 4294967295: grüße"):
            session.send_datagram(b"")
        session.close(1, "again changes nothing")

    with_async(server_with(handler), scenario)
    assert seen == [CloseInfo(0xFFFFFFFF, "grüße", True)]


def test_reset_and_stop_codes_both_ways() -> None:
    """Section 4.4: codes of 32 bits arrive as they were given, on streams of either side."""
    seen: list[tuple[str, int]] = []
    codes = [0, 29, 30, 31, 255, 0xFFFFFFFF]

    async def handler(session: ServerSession) -> None:
        async for stream in session.incoming_bidi_streams():
            await stream.write(await stream.read(1))  # else the reset would overtake the stream's first bytes
            try:
                await stream.read_all()
            except WebTransportStreamReset as exc:
                seen.append(("reset", exc.code))
            try:
                await write_for_ever(stream)
            except WebTransportStreamReset as exc:
                seen.append(("stop", exc.code))
            code = seen[-1][1]
            answer = await session.open_bidi_stream()
            await answer.write(b"!")
            assert await answer.read() == b"!"
            answer.reset(code)
            answer.stop_sending(code)

    async def scenario(session: ClientSession) -> None:
        answers = session.incoming_bidi_streams()
        for code in codes:
            stream = await session.open_bidi_stream()
            await stream.write(b"1 and more")
            assert await stream.read(1) == b"1"
            stream.reset(code)
            stream.stop_sending(code)
            with pytest.raises(StreamClosed):
                await stream.write(b"")
            with pytest.raises(StreamClosed):
                await stream.read()
            answer = await answers.__anext__()
            await answer.write(b"!")
            with pytest.raises(WebTransportStreamReset, match=f"code {code}$") as caught:
                await answer.read_all()
            assert caught.value.code == code
            with pytest.raises(WebTransportStreamReset, match=f"code {code}$"):
                await write_for_ever(answer)

    with_async(server_with(handler), scenario)
    assert seen == [(kind, code) for code in codes for kind in ("reset", "stop")]


@pytest.mark.parametrize("size", [0, 1, 8 * MIB])
def test_a_large_stream_both_ways(size: int) -> None:
    """8 MiB come back byte for byte; so does nothing at all."""
    data = hashlib.shake_128(b"seed").digest(size)

    async def scenario(session: ClientSession) -> None:
        stream = await session.open_bidi_stream()

        async def send() -> None:
            for at in range(0, size, 100_000):
                await stream.write(data[at : at + 100_000])
            stream.finish()

        task = asyncio.ensure_future(send())
        assert await stream.read_all() == data
        await task

    with_async(server_with(echo), scenario)


def test_fifty_streams_at_once() -> None:
    """50 streams at once, each with its own data, by both clients' limits on open streams."""

    async def scenario(session: ClientSession) -> None:
        async def one(n: int) -> None:
            async with await session.open_bidi_stream() as stream:
                data = bytes([n]) * 10_000
                await stream.write(data)
                stream.finish()
                assert await stream.read_all() == data

        await asyncio.gather(*(one(n) for n in range(50)))

    with_async(server_with(echo, wt_max_streams_bidi=64), scenario)


def test_a_reader_that_is_slow_stops_the_writer() -> None:
    """Backpressure: nobody reads, so the window closes, the queue fills, and the writer waits."""
    wrote = 0
    reading = asyncio.Event()

    async def handler(session: ServerSession) -> None:
        nonlocal wrote
        stream = await session.open_uni_stream()
        for _ in range(640):
            await stream.write(bytes(16 * KIB))
            wrote += 16 * KIB
        stream.finish()
        await session.wait_closed()

    async def scenario(session: ClientSession) -> None:
        stream = await session.incoming_uni_streams().__anext__()
        before = -1
        while wrote != before or not wrote:
            before = wrote
            await asyncio.sleep(0.1)
        # The stream's first window, what the server may queue, and one write.
        assert wrote <= MIB + 256 * KIB + 2 * 16 * KIB
        assert len(await stream.read_all()) == 10 * MIB
        reading.set()

    with_async(server_with(handler), scenario)
    assert wrote == 10 * MIB


def test_plain_writes_are_bounded() -> None:
    """`wt_stream_pending_max`: who does not await gets FlowControl, and nothing is taken."""
    told: list[int] = []

    async def handler(session: ServerSession) -> None:
        stream = session.open_uni_stream_nowait()
        taken = 0
        try:
            while True:
                stream.write(bytes(10_000))
                taken += 10_000
        except FlowControl:
            told.append(taken)
        stream.finish()
        await session.wait_closed()

    async def scenario(session: ClientSession) -> None:
        stream = await session.incoming_uni_streams().__anext__()
        assert len(await stream.read_all()) == told[0] < 3 * MIB

    with_async(server_with(handler, wt_stream_pending_max=64 * KIB), scenario)


def test_a_window_that_is_open_again() -> None:
    """A paused callback reader closes its window, and what waits comes when it resumes."""
    sizes: list[int] = []
    ended = threading.Event()
    streams: list[WebTransportStream] = []

    def handler(session: ServerSession) -> None:
        def data(stream: WebTransportStream, chunk: bytes, fin: bool) -> None:
            sizes.append(len(chunk))
            if len(sizes) == 1:
                streams.append(stream)
                stream.pause()
            if fin:
                ended.set()

        session.on_uni_stream = lambda stream: None
        session.on_stream_data = data
        session.on_datagram = lambda payload: streams[0].resume()

    def scenario(session: BlockingSession) -> None:
        with session.open_uni_stream() as stream:
            for _ in range(16):
                stream.write(bytes(16 * KIB))
        assert not ended.wait(0.2)
        assert len(sizes) == 1
        session.send_datagram(b"go on")
        assert ended.wait(10)
        assert sum(sizes) == 256 * KIB

    with_blocking(server_with(handler), scenario)


@pytest.mark.parametrize("status", [403, 404, 429])
def test_a_rejected_session(status: int) -> None:
    """`reject()`: the client gets the status and the fields."""

    def handler(session: ServerSession) -> None:
        session.reject(status, {"retry-after": "5"})

    with pytest.raises(SessionRejected) as caught:
        with_blocking(server_with(handler), lambda session: None)
    assert caught.value.status == status


def test_no_webtransport_there() -> None:
    """A server that does not offer it is not asked: its SETTINGS say so (section 3.1)."""
    with pytest.raises(SessionRejected, match="does not offer WebTransport"):
        with_blocking(server_with(echo, enable_webtransport=False), lambda session: None)


def test_a_subprotocol() -> None:
    """Section 3.4: the client's first that the server knows; none where they have none in common."""

    def protocol_of(**options: Any) -> str | None:
        server = server_with(echo, route={"protocols": ["b", 'q"uo\\te', "a"]})
        return with_blocking(server, lambda session: session.protocol, **options)

    assert protocol_of(protocols=["x", "a", "b"]) == "a"
    assert protocol_of(protocols=['q"uo\\te']) == 'q"uo\\te'
    assert protocol_of(protocols=["x"]) is None
    assert protocol_of() is None


def test_nobody_is_there() -> None:
    """A connection that cannot be made is a ConnectError, in both clients."""
    with pytest.raises(ConnectError):
        connect_webtransport("https://127.0.0.1:1/wt", verify=False, timeout=0.3)
    with pytest.raises(ConnectError):
        asyncio.run(aconnect_webtransport("https://127.0.0.1:1/wt", verify=False, timeout=0.3))
