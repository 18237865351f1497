"""Flow control of sessions (draft-ietf-webtrans-http3-16 section 5.6): the counts, and that they hold."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from server_support import until
from test_webtransport import echo, server_with
from test_webtransport_client import with_async
from webtransport_peer import WebTransportClient, soon, talk

from quiche_h3 import ClientConfig, ClientSession, ServerSession, StreamBlocked
from quiche_h3._core.flow_control import SessionFlow
from quiche_h3.capsules import CapsuleReader, decode_varint, encode_capsule, encode_varint

KIB = 1 << 10
MAX_DATA, MAX_BIDI, MAX_UNI = 0x190B4D3D, 0x190B4D3F, 0x190B4D40
FLOW_CONTROL_ERROR = 0x045D4487


def told(capsules: bytes) -> list[tuple[int, int]]:
    """Type and value of each capsule."""
    reader = CapsuleReader({0x190B4D00 + n: 8 for n in range(0x3D, 0x45)})
    return [(kind, (decode_varint(value) or (0, 0))[0]) for kind, value in reader.feed(capsules)]


def test_what_the_peer_may_send() -> None:
    """Sections 5.6.2 and 5.6.4: limits count from the start; more is given when half of it is used."""
    flow = SessionFlow((1000, 2, 4), (0, 0, 0))
    assert flow.take_data(1000)
    flow.consume(500)
    assert flow.grants() == b""
    flow.consume(1)
    assert told(flow.grants()) == [(MAX_DATA, 1501)]
    assert flow.take_data(501)
    assert not flow.take_data(1)
    assert [flow.take_stream(False) for _ in range(3)] == [True, True, False]
    assert [flow.take_stream(True) for _ in range(5)] == [True] * 4 + [False]
    flow.end_stream(False)
    flow.end_stream(True)
    assert (MAX_UNI, 3) not in told(flow.grants())  # half of two is one: not yet more than that
    flow.end_stream(False)
    assert (MAX_UNI, 4) in told(flow.grants())
    assert flow.take_stream(False)


def test_what_a_cut_stream_may_have_held() -> None:
    """The peer counts bytes that we never see: they are given back, never more than was granted."""
    flow = SessionFlow((1000, 1, 1), (0, 0, 0))
    flow.cut(700)
    assert told(flow.grants()) == [(MAX_DATA, 1700)]
    flow.cut(5000)
    assert told(flow.grants()) == [(MAX_DATA, 2700)]
    assert flow.take_data(2700)
    assert not flow.take_data(1)


@pytest.mark.parametrize(
    ("kind", "value", "good"),
    [
        (MAX_DATA, encode_varint(100), True),
        (MAX_DATA, encode_varint(99), False),
        (MAX_DATA, b"", False),
        (MAX_DATA, b"\x80", False),
        (MAX_DATA, b"\x00\x00", False),
        (MAX_UNI, encode_varint(10), True),
        (MAX_UNI, encode_varint(9), False),
        (MAX_BIDI, encode_varint(1 << 60), True),
        (MAX_BIDI, encode_varint((1 << 60) + 1), False),
        (0x190B4D43, encode_varint(1 << 60), True),
        (0x190B4D43, encode_varint((1 << 60) + 1), False),
        (0x190B4D44, encode_varint(0), True),
        (0x190B4D44, encode_varint((1 << 60) + 1), False),
    ],
)
def test_capsules_of_the_peer(kind: int, value: bytes, good: bool) -> None:
    """Sections 5.6.2 to 5.6.5: limits never shrink, and stream counts end at 2**60."""
    assert SessionFlow((0, 0, 0), (100, 10, 20)).take_capsule(kind, value) is good


@pytest.mark.parametrize("kind", [MAX_DATA, MAX_UNI, MAX_BIDI])
def test_a_limit_that_is_said_again(kind: int) -> None:
    """Draft 16: each has to be larger than the one before. The drafts before had no such rule."""
    for newest in (False, True):
        flow = SessionFlow((0, 0, 0), (100, 10, 20), newest)
        assert flow.take_capsule(kind, encode_varint(101))
        assert flow.take_capsule(kind, encode_varint(101)) is not newest


def test_being_blocked_is_told_once() -> None:
    """Sections 5.6.3 and 5.6.5: one capsule for each limit that we ran into."""
    flow = SessionFlow((0, 0, 0), (0, 1, 2))
    assert told(flow.blocked()) == [(0x190B4D41, 0)]
    assert flow.blocked() == b""
    assert told(flow.streams_blocked(True)) == [(0x190B4D43, 2)]
    assert flow.streams_blocked(True) == b""
    assert flow.take_capsule(MAX_BIDI, encode_varint(3))
    assert told(flow.streams_blocked(True)) == [(0x190B4D43, 3)]
    assert told(flow.streams_blocked(False)) == [(0x190B4D44, 1)]


def small(**fields: int) -> dict[str, Any]:
    """Limits that are soon reached."""
    return {"wt_session_window": 16 * KIB, "wt_max_streams_bidi": 2, "wt_max_streams_uni": 2, **fields}


def test_small_limits_hold_nobody_up() -> None:
    """Data and streams far beyond the first limits pass, both ways, as capsules give more."""

    async def scenario(session: ClientSession) -> None:
        assert session.flow is not None

        async def one(n: int) -> None:
            stream = await session.open_bidi_stream()
            data = bytes([n]) * 40 * KIB
            sending = asyncio.ensure_future(send(stream, data))
            assert await stream.read_all() == data
            await sending

        async def send(stream: Any, data: bytes) -> None:
            await stream.write(data)
            stream.finish()

        await asyncio.gather(*(one(n) for n in range(12)))

    with_async(server_with(echo, **small()), scenario, config=ClientConfig(**small()))


def test_no_more_streams_than_allowed() -> None:
    """`open_bidi_stream_nowait()` raises while the peer's limit is reached, though QUIC has credit."""

    async def handler(session: ServerSession) -> None:
        await session.wait_closed()

    async def scenario(session: ClientSession) -> None:
        for _ in range(2):
            session.open_bidi_stream_nowait()
        with pytest.raises(StreamBlocked):
            session.open_bidi_stream_nowait()
        session.open_uni_stream_nowait()

    with_async(server_with(handler, **small()), scenario)


def test_cut_streams_leak_no_credit() -> None:
    """Streams that are reset with data on their way: the session's window does not shrink to nothing."""

    async def handler(session: ServerSession) -> None:
        async for stream in session.incoming_bidi_streams():
            await stream.read(1)
            stream.stop_sending(1)
            stream.finish()

    async def scenario(session: ClientSession) -> None:
        for _ in range(20):
            stream = await session.open_bidi_stream()
            stream.write(bytes(8 * KIB))
            assert await stream.read() == b""

    with_async(server_with(handler, **small()), scenario)


def test_resets_of_the_peer_leak_no_credit() -> None:
    """The final size of a reset says how much was sent: as much is given back, whoever read of it."""

    async def handler(session: ServerSession) -> None:
        async for stream in session.incoming_bidi_streams():
            assert await stream.read(1) == b"x"
            await stream.write(b"!")
            stream.finish()

    async def scenario(session: ClientSession) -> None:
        for n in range(40):
            stream = await session.open_bidi_stream()
            await stream.write(b"x" * (n * 97 % (4 * KIB) + 1))
            assert await stream.read_all() == b"!"
            stream.reset(n)

    with_async(server_with(handler, **small()), scenario)


def run_with_settings(server: Any, scenario: Any, settings: dict[int, int]) -> None:
    """With aioquic, which announces no limits of its own: they are added to its SETTINGS."""

    async def announcing(client: WebTransportClient) -> None:
        await scenario(client)

    original = WebTransportClient.settings
    WebTransportClient.settings = settings
    try:
        talk(server, announcing)
    finally:
        WebTransportClient.settings = original


PEERS_LIMITS = {0x2B61: 1000, 0x2B64: 1, 0x2B65: 1}


async def only_datagrams(session: ServerSession) -> None:
    """Nobody reads the streams."""
    async for payload in session.datagrams():
        session.send_datagram(payload)


@pytest.mark.parametrize("kind", [b"\x40\x41", b"\xc0\x00\x00\x00\x00\x00\x00\x41"], ids=["short", "long"])
@pytest.mark.parametrize("more", ["on the stream", "with its end", "on another", "after a reset"])
def test_more_data_than_was_given(more: str, kind: bytes) -> None:
    """Section 5.6.4: up to the limit, heads of streams apart, all is well, though nobody reads.

    A byte more closes the session with WT_FLOW_CONTROL_ERROR when it comes; others go on.
    """
    server = server_with(only_datagrams, **small(wt_session_window=2 * KIB))

    async def scenario(client: WebTransportClient) -> None:
        other, session = await client.session("/wt"), await client.session("/wt")
        stream = client.raw_stream(kind + encode_varint(session.id) + bytes(2 * KIB - 1))
        stream.write(b"x")
        await client.ping()
        session.datagram(b"still here")
        assert await soon(session.datagrams.get()) == b"still here"
        if more == "on another":
            session.open(b"x", uni=True)
        elif more == "after a reset":
            stream.reset(1)  # what it has sent counts all the same, and is given back now
            await until(lambda: server.export_metrics()["webtransport"]["resets_received"])
            session.open(bytes(2 * KIB), uni=True)
            await client.ping()
            assert not session.stop_code.done()
            session.open(b"x")
        else:
            stream.write(b"x", more == "with its end")
        assert await soon(session.stop_code) == FLOW_CONTROL_ERROR
        other.datagram(b"well")
        assert await soon(other.datagrams.get()) == b"well"

    run_with_settings(server, scenario, PEERS_LIMITS)


def test_more_streams_than_were_given() -> None:
    """Section 5.6.2: one more than the limit closes the session with WT_FLOW_CONTROL_ERROR."""

    async def scenario(client: WebTransportClient) -> None:
        session = await client.session("/wt")
        for _ in range(3):
            session.open(b"x")
        assert await soon(session.stop_code) == FLOW_CONTROL_ERROR

    run_with_settings(server_with(only_datagrams, **small()), scenario, PEERS_LIMITS)


def test_data_before_the_session() -> None:
    """Streams that came before their session count too."""

    async def scenario(client: WebTransportClient) -> None:
        session_id = client._quic.get_next_available_stream_id() + 4 * 2
        for _ in range(2):
            client.raw_stream(b"\x40\x41" + encode_varint(session_id) + bytes(KIB))
        session = await client.session("/wt")
        assert session.id == session_id
        session.datagram(b"still here")
        assert await soon(session.datagrams.get()) == b"still here"
        session.open(b"x", uni=True)
        assert await soon(session.stop_code) == FLOW_CONTROL_ERROR

    server = server_with(only_datagrams, **small(wt_session_window=2 * KIB))
    run_with_settings(server, scenario, PEERS_LIMITS)


@pytest.mark.parametrize("protocol", [b"webtransport", b"webtransport-h3"])
@pytest.mark.parametrize("settings", [{}, {0x2B61: 1000}])
def test_how_many_sessions_without_flow_control(settings: dict[int, int], protocol: bytes) -> None:
    """Section 5.1: by the last drafts one; another is reset with H3_REQUEST_REJECTED until that is over."""

    async def scenario(client: WebTransportClient) -> None:
        first = await client.session("/wt", protocol=protocol)
        second = client.connect_session("/wt", protocol=protocol)
        if settings or protocol == b"webtransport":
            assert await second.status() == 200
            return
        assert await soon(second.reset_code) == 0x10B
        assert await first.open(b"as ever", True).read() == b"as ever"
        first.close(0, "")
        await first.closed()
        await client.session("/wt", protocol=protocol)

    run_with_settings(server_with(echo), scenario, settings)


@pytest.mark.parametrize("settings", [{}, {0x2B61: 1000}])
def test_a_peer_that_takes_back(settings: dict[int, int]) -> None:
    """A smaller limit is an error where there is flow control, and ignored where there is none."""

    async def scenario(client: WebTransportClient) -> None:
        session = await client.session("/wt")
        client.http.send_data(session.id, encode_capsule(MAX_DATA, encode_varint(1)), False)
        client.transmit()
        if settings:
            assert await soon(session.stop_code) == FLOW_CONTROL_ERROR
        else:
            assert await session.open(b"as ever", True).read() == b"as ever"

    run_with_settings(server_with(echo), scenario, settings)
