"""What a peer may not do to a session, and what it costs us: limits, bad input, and who pays for it."""

from __future__ import annotations

import asyncio
import resource
from typing import Any

import pytest
from server_support import until
from test_webtransport import echo, echo_by_callbacks, server_with
from webtransport_peer import PeerSession, WebTransportClient, soon, talk

from quiche_h3 import (
    CloseInfo,
    DatagramTooLarge,
    Request,
    Response,
    ServerSession,
    WebTransportStream,
    WouldBlock,
)
from quiche_h3.capsules import encode_capsule, encode_varint
from quiche_h3.webtransport_codes import from_wire, to_wire

SESSION_GONE, REJECTED = 0x170D7B68, 0x3994BD84
STREAM_LIMIT, INVALID_STREAM = to_wire(0x1000), to_wire(0x1001)


async def wait(session: ServerSession) -> None:
    """A handler that takes nothing."""
    await session.wait_closed()


def test_the_map_of_codes() -> None:
    """Section 4.4: 32 bits around the reserved codes, there and back, and nothing else comes back."""
    assert to_wire(0) == 0x52E4A40FA8DB
    assert to_wire(0xFFFFFFFF) == 0x52E5AC983162
    for code in (*range(200), 0xFFFFFFE0, 0xFFFFFFFF):
        wire = to_wire(code)
        assert (wire - 0x21) % 0x1F != 0
        assert from_wire(wire) == code
    assert from_wire(0x52E4A40FA8DA) is from_wire(0x52E5AC983163) is from_wire(0x10C) is None
    reserved = next(w for w in range(0x52E4A40FA8DB, 0x52E4A40FA9DB) if (w - 0x21) % 0x1F == 0)
    assert from_wire(reserved) is None
    with pytest.raises(ValueError, match="32"):
        to_wire(1 << 32)


def next_session_id(client: WebTransportClient, streams: int) -> int:
    """The ID of a CONNECT that follows so many bidirectional streams."""
    return client._quic.get_next_available_stream_id() + 4 * streams


def head(session_id: int, *, uni: bool = False) -> bytes:
    """How a stream of the session begins."""
    return encode_varint(0x54 if uni else 0x41) + encode_varint(session_id)


def test_streams_and_datagrams_before_their_session() -> None:
    """Section 4.6, attack row 40: 16 streams and 64 datagrams are kept, no more."""

    async def scenario(client: WebTransportClient) -> None:
        session_id = next_session_id(client, 18)
        early = [client.raw_stream(head(session_id) + b"%d" % n, fin=True) for n in range(18)]
        for n in range(70):
            client.http.send_datagram(session_id, b"%d" % n)
        client.transmit()
        for refused in early[16:]:
            assert await soon(refused.reset_code) == REJECTED
        session = await client.session("/wt")
        assert session.id == session_id
        for n, stream in enumerate(early[:16]):
            assert await stream.read() == b"%d" % n
        assert [await soon(session.datagrams.get()) for _ in range(64)] == [b"%d" % n for n in range(6, 70)]

    talk(server_with(echo), scenario)


def test_streams_that_wait_in_vain() -> None:
    """Section 4.6: after `wt_early_timeout_ms` they go, as does one whose session ID is never whole."""
    server = server_with(echo, wt_early_timeout_ms=200)

    async def scenario(client: WebTransportClient) -> None:
        session_id = next_session_id(client, 2)
        early = client.raw_stream(head(session_id) + b"early")
        cut = client.raw_stream(encode_varint(0x41) + b"\x40")
        for stream in (early, cut):
            assert await soon(stream.reset_code) == await soon(stream.stop_code) == REJECTED
        session = await client.session("/wt")
        assert session.id == session_id
        assert await session.open(b"in time", True).read() == b"in time"

    talk(server, scenario)
    assert server.export_metrics()["webtransport"]["streams_refused"] == 2


@pytest.mark.parametrize("protocol", [b"webtransport", None], ids=["session", "tunnel"])
def test_trailers_on_the_stream_of_a_connect(protocol: bytes | None) -> None:
    """RFC 9114 4.4: nothing but DATA frames."""
    server = server_with(echo)

    @server.route("CONNECT", "")
    async def tunnel(req: Request, res: Response) -> None:
        res.write(b"open")
        assert not [chunk async for chunk in req.body]

    async def scenario(client: WebTransportClient) -> None:
        ordinary: dict[bytes, bytes | None] = (
            {} if protocol else {b":scheme": None, b":path": None, b":protocol": None}
        )
        session = client.connect_session("/wt", head=ordinary)
        assert await session.status() == 200
        client.http.send_headers(session.id, [(b"x", b"y")], True)
        client.transmit()
        assert await soon(client.closed_with) == 0x105

    talk(server, scenario)


def test_the_last_datagrams_before_the_close() -> None:
    """Those that come in one packet with the close capsule are not lost, and can be read after it."""
    got: list[bytes] = []

    async def handler(session: ServerSession) -> None:
        await session.wait_closed()
        got.extend([payload async for payload in session.datagrams()])

    async def scenario(client: WebTransportClient) -> None:
        session = await client.session("/wt")
        for payload in (b"one", b"two"):
            client.http.send_datagram(session.id, payload)
        session.close(0, "")  # sends them too
        await session.closed()
        await until(lambda: len(got) == 2)

    talk(server_with(handler), scenario)
    assert got == [b"one", b"two"]


def watch(session: PeerSession, order: list[str]) -> None:
    """Writes down what came before the response and what after it."""
    queue: Any = session.datagrams
    put = queue.put_nowait

    def note(payload: bytes) -> None:
        order.append("datagram" if session.answer.done() else "too early")
        put(payload)

    queue.put_nowait = note


def test_datagrams_do_not_overtake_the_response() -> None:
    """What is sent right after `accept()` leaves after the response, as many as the queue holds."""

    async def handler(session: ServerSession) -> None:
        session.accept()
        for n in range(4):
            session.send_datagram(b"%d" % n)
        with pytest.raises(WouldBlock):
            session.send_datagram(b"too many")
        with pytest.raises(DatagramTooLarge):
            session.send_datagram(bytes(5000))
        await session.wait_closed()

    def plain(session: ServerSession) -> None:
        session.on_session_established = lambda: session.send_datagram(b"0")

    async def scenario(client: WebTransportClient) -> None:
        for path, expected in (("/wt", [b"0", b"1", b"2", b"3"]), ("/plain", [b"0"])):
            session = client.connect_session(path)
            order: list[str] = []
            watch(session, order)
            assert [await soon(session.datagrams.get()) for _ in expected] == expected
            assert set(order) == {"datagram"}

    server = server_with(handler, dgram_send_queue_len=4)
    server.webtransport("/plain")(plain)
    talk(server, scenario)
    metrics = server.export_metrics()["webtransport"]
    assert (metrics["datagrams_sent"], metrics["datagrams_dropped"]) == (5, 1)


def test_streams_of_a_session_that_is_gone() -> None:
    """Section 4.6, attack row 41: WT_SESSION_GONE, for both kinds; its datagrams are dropped."""

    async def scenario(client: WebTransportClient) -> None:
        session = await client.session("/wt")
        session.close(0, "")
        await session.closed()
        late = session.open(b"x")
        assert await soon(late.reset_code) == await soon(late.stop_code) == SESSION_GONE
        uni = session.open(b"x", uni=True)
        assert await soon(uni.stop_code) == SESSION_GONE
        session.datagram(b"x")
        again = await client.session("/wt")
        assert await again.open(b"fine", True).read() == b"fine"

    talk(server_with(echo), scenario)


@pytest.mark.parametrize("session_id", [1, 2, 3, 7])
@pytest.mark.parametrize("uni", [False, True])
def test_a_session_id_that_is_none(session_id: int, uni: bool) -> None:
    """Section 4.1, attack row 41: not of a client's bidirectional stream: H3_ID_ERROR."""

    async def scenario(client: WebTransportClient) -> None:
        client.raw_stream(head(session_id, uni=uni) + b"x", uni=uni)
        assert await soon(client.closed_with) == 0x108

    talk(server_with(echo), scenario)


def test_streams_without_a_whole_header() -> None:
    """An end before the session ID is whole, as browsers do it, harms nobody and leaves nothing."""

    async def scenario(client: WebTransportClient) -> None:
        session = await client.session("/wt")
        streams = [client.raw_stream(head(1 << 14, uni=uni)[:3], uni=uni) for uni in (False, True)]
        for stream in streams:
            stream.reset(0x10C)
        for data in (b"", b"\x40", b"\x40\x54", b"\x40\x54\x80"):
            client.raw_stream(data, uni=True, fin=True)
        client.raw_stream(b"\x40\x41\x80", fin=True)
        reset = client.raw_stream(b"\x40\x54", uni=True)
        reset.reset(0x10C)
        assert await session.open(b"alive", True).read() == b"alive"

    server = server_with(echo)
    talk(server, scenario)
    assert server.export_metrics()["webtransport"]["streams_active"] == 0


def test_a_stream_of_an_ordinary_request() -> None:
    """`wt_app_err_invalid_stream`: the ID is that of a request, which is no session."""
    server = server_with(echo)

    @server.get("/slow")
    async def slow(request: Any, response: Any) -> str:
        await asyncio.sleep(3600)
        return ""

    async def scenario(client: WebTransportClient) -> None:
        request = client.connect_session("/slow", head={b":method": b"GET", b":protocol": None})
        await until(lambda: server.export_metrics()["handlers"]["active"])
        stream = client.raw_stream(head(request.id) + b"x")
        assert await soon(stream.reset_code) == INVALID_STREAM

    talk(server, scenario)


@pytest.mark.parametrize("uni", [False, True])
def test_how_many_streams_at_once(uni: bool) -> None:
    """`wt_max_streams_*`: one more is refused; when one has ended another is taken."""

    async def scenario(client: WebTransportClient) -> None:
        session = await client.session("/wt")
        first = [session.open(b"x", uni=uni) for _ in range(3)]
        refused = session.open(b"x", uni=uni)
        assert await soon(refused.stop_code) == to_wire(4711)
        first[0].write(b"", True)
        if uni:
            await soon(session.streams.get())
        else:
            await first[0].read()
        another = session.open(b"y", True, uni=uni)
        if uni:
            await soon(session.streams.get())
        else:
            assert await another.read() == b"y"

    server = server_with(
        echo_by_callbacks, wt_max_streams_uni=3, wt_max_streams_bidi=3, wt_app_err_stream_limit=4711
    )
    talk(server, scenario)


def test_rates() -> None:
    """`wt_max_stream_rate` and `wt_max_datagram_rate`: what comes too fast is not taken, and counted."""
    sessions: list[ServerSession] = []

    async def handler(session: ServerSession) -> None:
        sessions.append(session)
        await session.wait_closed()

    async def scenario(client: WebTransportClient) -> None:
        session = await client.session("/wt")
        for _ in range(8):
            session.open(b"x")
        for _ in range(20):
            session.datagram(b"x")

        def counted() -> bool:
            stats = sessions[0].stats
            return (
                stats["streams_accepted"] + stats["streams_refused"] == 8 and stats["datagrams_dropped"] >= 12
            )

        await until(counted)
        session.close(0, "")
        await session.closed()

    talk(server_with(handler, wt_max_stream_rate=3, wt_max_datagram_rate=5), scenario)
    assert 3 <= sessions[0].stats["streams_accepted"] <= 5
    assert 12 <= sessions[0].stats["datagrams_dropped"] <= 15


def test_datagrams_that_nobody_takes() -> None:
    """The oldest are dropped, and counted: `wt_max_queued_datagrams`."""
    got: list[bytes] = []

    async def handler(session: ServerSession) -> None:
        session.accept()
        stream = await session.incoming_uni_streams().__anext__()
        await stream.read_all()
        assert session.stats["datagrams_dropped"] == 6
        got.extend([await session.receive_datagram() for _ in range(4)])

    async def scenario(client: WebTransportClient) -> None:
        session = await client.session("/wt")
        for n in range(10):
            session.datagram(b"%d" % n)
        session.open(b"now", True, uni=True)
        assert await session.closed() == (0, "")

    talk(server_with(handler, wt_max_queued_datagrams=4), scenario)
    assert got == [b"6", b"7", b"8", b"9"]


def test_a_session_without_traffic() -> None:
    """`wt_session_idle_ms`: it is closed with a reason; one with traffic is not."""
    ends: list[CloseInfo] = []

    async def handler(session: ServerSession) -> None:
        async for payload in session.datagrams():
            session.send_datagram(payload)
        if session.close_info is not None:
            ends.append(session.close_info)

    server = server_with(handler, wt_session_idle_ms=300)

    async def scenario(client: WebTransportClient) -> None:
        idle, busy = await client.session("/wt"), await client.session("/wt")
        end = asyncio.ensure_future(idle.closed())
        while not end.done():
            busy.datagram(b"tick")
            await soon(busy.datagrams.get())
            await asyncio.sleep(0.02)
        assert end.result() == (0, "idle")
        assert not busy.ended.done()

    talk(server, scenario)
    assert ends[0] == CloseInfo(0, "idle", False)
    assert server.export_metrics()["webtransport"]["sessions_idle"] == 1


@pytest.mark.parametrize(
    "data",
    [
        encode_capsule(0x2843, bytes(4) + b"x" * 1025),
        encode_varint(0x2843) + encode_varint(1 << 40),
        encode_capsule(0x2843, bytes(3)),
        encode_capsule(0x2843, bytes(4) + b"\xff"),
        encode_capsule(0x78AE, b"x"),
        encode_capsule(0x190B4D3E, b"\x00\x00"),
        encode_capsule(0x190B4D42, b"\x00\x00"),
        encode_capsule(0x2843, bytes(4)) + b"\0",
    ],
    ids=[
        "long reason",
        "huge",
        "no code",
        "no UTF-8",
        "drain with a value",
        "limit of a stream",
        "a stream that is blocked",
        "more after the close",
    ],
)
def test_malformed_capsules(data: bytes) -> None:
    """Section 5, RFC 9297 3.3, attack row 42: the CONNECT stream is reset with H3_MESSAGE_ERROR."""

    async def scenario(client: WebTransportClient) -> None:
        session = await client.session("/wt")
        client.http.send_data(session.id, data, False)
        client.transmit()
        assert await soon(session.stop_code) == 0x10E

    talk(server_with(wait), scenario)


@pytest.mark.parametrize("ending", ["at once", "in a capsule", "by a FIN"])
def test_what_comes_before_the_answer(ending: str) -> None:
    """Section 3.2: before the session is accepted there are no capsules; then those that came count."""
    infos: list[CloseInfo] = []
    accept = asyncio.Event()
    loops: list[asyncio.AbstractEventLoop] = []

    async def handler(session: ServerSession) -> None:
        loops.append(asyncio.get_running_loop())
        await accept.wait()
        assert session.close_info is None
        session.accept()
        infos.append(await session.wait_closed())

    async def scenario(client: WebTransportClient) -> None:
        if ending == "at once":  # with the field section
            session = client.connect_session("/wt", fin=True)
        else:
            session = client.connect_session("/wt")
            data = encode_capsule(0x2843, (3).to_bytes(4, "big") + b"changed my mind")
            client.http.send_data(session.id, data if ending == "in a capsule" else b"", True)
            client.transmit()
        await until(lambda: loops)
        await client.ping()
        loops[0].call_soon_threadsafe(accept.set)
        assert await session.status() == 200
        assert await session.closed() == (0, "")

    talk(server_with(handler), scenario)
    expected = (3, "changed my mind") if ending == "in a capsule" else (0, "")
    assert infos == [CloseInfo(*expected, True)]


def test_capsules_of_a_session_that_is_refused() -> None:
    """Section 3.2: they are discarded, malformed ones too."""

    async def handler(session: ServerSession) -> None:
        session.reject(429)

    async def scenario(client: WebTransportClient) -> None:
        session = client.connect_session("/wt")
        client.http.send_data(session.id, encode_capsule(0x2843, b"x"), False)
        client.transmit()
        assert await session.status() == 429
        await soon(session.ended)

    talk(server_with(handler), scenario)


def test_a_session_that_ends_inside_of_a_capsule() -> None:
    """RFC 9297 3.3: a body that ends there is malformed."""
    infos: list[CloseInfo] = []

    async def handler(session: ServerSession) -> None:
        infos.append(await session.wait_closed())

    async def scenario(client: WebTransportClient) -> None:
        session = await client.session("/wt")
        client.http.send_data(session.id, b"\x68\x43\x05\x00", True)
        client.transmit()
        assert await soon(session.reset_code) == 0x10E

    talk(server_with(handler), scenario)
    assert infos[0].error is not None


def test_a_huge_unknown_capsule() -> None:
    """RFC 9297 3.2, attack row 42: it is skipped and not kept; the session goes on."""

    async def scenario(client: WebTransportClient) -> None:
        session = await client.session("/wt")
        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        client.http.send_data(session.id, encode_varint(0x29) + encode_varint(16 << 20), False)
        for _ in range(16):
            client.http.send_data(session.id, bytes(1 << 20), False)
            client.transmit()
            await client.ping()
        session.datagram(b"after")
        assert await soon(session.datagrams.get()) == b"after"
        session.close(5, "")
        assert await session.closed() == (0, "")
        # The client is in this process too, and keeps what is not acknowledged yet.
        assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 48 << 10

    talk(server_with(echo), scenario)


def test_a_peer_that_takes_no_capsules() -> None:
    """GHSA-px4r, attack row 42: capsules queue up to 4,096 bytes, then the stream is reset; nothing waits."""

    async def handler(session: ServerSession) -> None:
        session.accept()
        while session.stream.sending:
            session.drain()
        session.close(1, "never waits")

    async def scenario(client: WebTransportClient) -> None:
        session = client.connect_session("/wt")
        assert await soon(session.reset_code) == 0x107

    talk(server_with(handler), scenario, max_stream_data=128)


def test_a_small_share_of_each_turn() -> None:
    """`wt_write_quota_per_tick`: a large stream comes whole, and others meanwhile."""

    def handler(session: ServerSession) -> None:
        def begin(stream: WebTransportStream) -> None:
            stream.write(bytes(200_000) if stream.id == first else b"small")
            stream.finish()

        first = session.session_id + 4
        session.on_bidi_stream = begin

    order: list[str] = []

    async def scenario(client: WebTransportClient) -> None:
        session: PeerSession = await client.session("/wt")
        large, small = session.open(b"", True), session.open(b"", True)
        large.ended.add_done_callback(lambda f: order.append("large"))
        small.ended.add_done_callback(lambda f: order.append("small"))
        assert await large.read() == bytes(200_000)
        assert await small.read() == b"small"

    talk(server_with(handler, wt_write_quota_per_tick=1024), scenario)
    assert order == ["small", "large"]
