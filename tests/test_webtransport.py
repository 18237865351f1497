"""WebTransport sessions of a server, with aioquic as the independent client (draft-ietf-webtrans-http3)."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from server_support import logged, make_server, until
from webtransport_peer import WebTransportClient, soon, talk

from quiche_h3 import (
    CloseInfo,
    ConfigError,
    Forbidden,
    InvalidState,
    Server,
    ServerConfig,
    ServerSession,
    SessionClosed,
    StreamReset,
    WebTransportStream,
)

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


def test_several_sessions_beside_requests() -> None:
    """Sessions share a connection with each other and with requests; path parameters, query, state."""
    names: list[str] = []

    async def handler(session: ServerSession) -> None:
        session.state = session.request.params["room"]
        names.append(f"{session.state} {session.request.query['who']} {session.request.headers['x-more']}")
        async for payload in session.datagrams():
            session.send_datagram(session.state.encode() + payload)

    server = server_with(handler, "/chat/:room")

    @server.get("/page")
    def page(request: Any, response: Any) -> str:
        return "a page"

    async def scenario(client: WebTransportClient) -> None:
        fields = [(b"x-more", b"1")]
        red = await client.session("/chat/red?who=a", fields=fields)
        blue = await client.session("/chat/blue?who=b", fields=fields)
        request = client.connect_session("/page", head={b":method": b"GET", b":protocol": None})
        assert await request.status() == 200
        blue.datagram(b"!")
        red.datagram(b"?")
        assert await soon(blue.datagrams.get()) == b"blue!"
        assert await soon(red.datagrams.get()) == b"red?"
        red.close(1, "bye")
        await red.closed()
        blue.datagram(b"again")
        assert await soon(blue.datagrams.get()) == b"blueagain"

    talk(server, scenario)
    assert names == ["red a 1", "blue b 1"]


def test_the_draft_02_answer_and_a_field_of_our_own() -> None:
    """Draft-02 section 3.1: the version is answered where it is asked for; `accept()` adds fields."""

    def handler(session: ServerSession) -> None:
        session.accept({"x-own": "yes"})
        with pytest.raises(InvalidState):
            session.accept()
        with pytest.raises(InvalidState):
            session.reject(404)

    async def scenario(client: WebTransportClient) -> None:
        old = await client.session("/wt", fields=[(b"sec-webtransport-http3-draft02", b"1")])
        assert (await old.answer)[b"sec-webtransport-http3-draft"] == b"draft02"
        new = await client.session("/wt")
        assert b"sec-webtransport-http3-draft" not in await new.answer
        assert (await new.answer)[b"x-own"] == b"yes"

    talk(server_with(handler), scenario)


@pytest.mark.parametrize(
    ("origins", "origin", "status"),
    [
        (None, None, 200),
        (None, b"https://localhost", 200),
        (None, b"https://LOCALHOST:443", 200),
        (None, b"https://localhost:8443", 403),
        (None, b"http://localhost", 403),
        (None, b"https://localhost.example", 403),
        (None, b"https://localhost:99999", 403),
        (None, b"null", 403),
        (["https://a.example"], b"https://a.example", 200),
        (["https://a.example"], b"https://localhost", 403),
        (["https://a.example"], b"https://a.example:444", 403),
        (["*"], b"https://b.example", 200),
        ([], b"https://localhost", 403),
        (lambda origin, request: origin.endswith(request.params["*"]), b"https://x.wt", 200),
        (lambda origin, request: origin.endswith(request.params["*"]), b"https://x.example", 403),
    ],
)
def test_whose_pages_may_open_a_session(origins: Any, origin: bytes | None, status: int) -> None:
    """Section 3.2: the Origin field is checked, by default for the same origin (scheme, host, port)."""

    async def scenario(client: WebTransportClient) -> None:
        fields = [] if origin is None else [(b"origin", origin)]
        session = client.connect_session("/wt", fields=fields)
        assert await session.status() == status

    talk(server_with(echo, "/*", route={"origins": origins}), scenario)


def test_what_is_no_session() -> None:
    """Each answer by its cause: no route 404, GET 405, another protocol 501, errors, too many."""

    def failing(session: ServerSession) -> None:
        raise Forbidden if session.request.query_string else RuntimeError("on purpose")

    async def failing_late(session: ServerSession) -> None:
        session.accept()
        raise RuntimeError("on purpose")

    server = server_with(echo, wt_max_sessions=2)
    server.webtransport("/failing")(failing)
    server.webtransport("/late")(failing_late)

    async def scenario(client: WebTransportClient) -> None:
        async def status(path: str, **options: Any) -> int:
            return await client.connect_session(path, **options).status()

        assert await status("/nowhere") == 404
        assert await status("/wt", head={b":method": b"GET", b":protocol": None}) == 405
        assert await status("/wt", protocol=b"websocket") == 501
        assert await status("/wt", head={b":scheme": b"http"}) == 400
        with logged("quiche_h3") as records:
            assert await status("/failing") == 500
            assert await status("/failing?1") == 403
            late = await client.session("/late")
            assert await soon(late.reset_code) == 0x102
        assert [record.levelname for record in records if record.exc_info] == ["ERROR", "ERROR"]
        await client.session("/wt")
        await client.session("/wt")
        assert await soon(client.connect_session("/wt").reset_code) == 0x10B
        metrics = server.export_metrics()["webtransport"]
        assert (metrics["sessions"], metrics["sessions_active"], metrics["sessions_rejected"]) == (3, 2, 5)
        handlers = server.export_metrics()["handlers"]
        assert handlers["active"] == 2

    talk(server, scenario)


@pytest.mark.parametrize(
    "environment", [{"H3_WEBTRANSPORT": "0"}, {"QUICHE_H3_ENABLE_WEBTRANSPORT": "false"}]
)
def test_it_can_be_turned_off(environment: dict[str, str]) -> None:
    """H3_WEBTRANSPORT=0 and the field take it back: no SETTINGS, a malformed CONNECT (RFC 9220 3)."""
    server = server_with(echo, **ServerConfig.environment(environment))

    async def scenario(client: WebTransportClient) -> None:
        assert await client.connect_session("/wt").status() == 400
        assert not {0x2B603742, 0xC671706A} & (client.http.received_settings or {}).keys()

    talk(server, scenario)


def test_it_needs_datagrams() -> None:
    """Section 3.1: without them there is no WebTransport, which is said before anything is bound."""
    with pytest.raises(ConfigError, match="WebTransport cannot do without datagrams"):
        server_with(echo, enable_dgram=False).open()
    server = server_with(echo, enable_dgram=False, enable_webtransport=False)
    server.open()
    server.close()


@pytest.mark.parametrize("window", [0, 1 << 20])
def test_what_is_announced(window: int) -> None:
    """Section 3.1: 0x2b603742 and 0xc671706a with 0x8 and 0x33; the newest drafts only with flow control."""

    async def scenario(client: WebTransportClient) -> None:
        await client.session("/wt")
        settings = client.http.received_settings or {}
        assert {k: settings.get(k) for k in (0x2B603742, 0xC671706A, 0x8, 0x33)} == {
            0x2B603742: 1,
            0xC671706A: 5,
            0x8: 1,
            0x33: 1,
        }
        newest = {0x14E9CD29: 5, 0x2C7CF000: 1} if window else {}
        assert {k: v for k, v in settings.items() if k in (0x14E9CD29, 0x2C7CF000)} == newest

    talk(server_with(echo, wt_max_sessions=5, wt_session_window=window), scenario)


def test_codes_and_reasons_of_both_sides() -> None:
    """Section 5: the close capsule carries a code of 32 bits and a reason; streams are reset."""
    seen: list[CloseInfo] = []

    async def handler(session: ServerSession) -> None:
        await session.open_uni_stream()
        payload = await session.receive_datagram()
        if payload == b"you":
            session.close(0xFFFFFFFF, "grüße")
            session.close(1, "nothing any more")
        seen.append(await session.wait_closed())
        with pytest.raises(SessionClosed):
            session.send_datagram(b"")
        with pytest.raises(SessionClosed):
            await session.open_uni_stream()

    async def scenario(client: WebTransportClient) -> None:
        first = await client.session("/wt")
        stream = first.open(b"x")
        first.datagram(b"you")
        assert await first.closed() == (0xFFFFFFFF, "grüße")
        assert await soon(stream.reset_code) == await soon(stream.stop_code) == 0x170D7B68
        second = await client.session("/wt")
        second.datagram(b"me")
        second.close(77, "x" * 1024)
        assert await second.closed() == (0, "")
        third = await client.session("/wt")
        third.datagram(b"fin")
        client.http.send_data(third.id, b"", True)
        client.transmit()
        assert await third.closed() == (0, "")
        fourth = await client.session("/wt")
        fourth.datagram(b"reset")
        client._quic.reset_stream(fourth.id, 0x10C)
        client.transmit()
        await until(lambda: len(seen) == 4)

    talk(server_with(handler), scenario)
    assert seen[:3] == [
        CloseInfo(0xFFFFFFFF, "grüße", False),
        CloseInfo(77, "x" * 1024, True),
        CloseInfo(0, "", True),
    ]
    assert isinstance(seen[3].error, StreamReset)
    assert seen[3].error.code == 0x10C


def test_all_the_callbacks() -> None:
    """What a plain handler hears of a session and its streams, in the order in which it happens."""
    heard: list[Any] = []
    halves: list[tuple[bool, bool]] = []

    def handler(session: ServerSession) -> None:
        session.state = "mine"
        session.on_session_established = lambda: heard.append(("open", session.session_id))
        session.on_session_draining = lambda: heard.append("draining")
        session.on_session_closed = heard.append
        session.on_datagram = heard.append
        session.on_bidi_stream = lambda stream: heard.append(("bidi", stream.id))
        session.on_uni_stream = lambda stream: heard.append(("uni", stream.id))
        session.on_stream_data = lambda stream, data, fin: heard.append((data, fin))
        session.on_stream_reset = lambda stream, code: heard.append(("reset", code))

        def closed(stream: WebTransportStream) -> None:
            halves.append((stream.readable, stream.writable))
            heard.append(("over", stream.id))

        session.on_stream_closed = closed

    async def scenario(client: WebTransportClient) -> None:
        def heard_all(*expected: object) -> Any:
            return until(lambda: heard == [*before, *expected])

        before: list[Any] = []
        session = await client.session("/wt")
        await heard_all(("open", session.id))
        before += heard
        session.datagram(b"datagram")
        await heard_all(b"datagram")
        before[:] = heard
        uni = session.open(b"one way", True, uni=True)
        await heard_all(("uni", uni.id), (b"one way", True), ("over", uni.id))
        before[:] = heard
        bidi = session.open(b"both")
        await heard_all(("bidi", bidi.id), (b"both", False))
        before[:] = heard
        bidi.reset(0x52E4A40FA8DB + 7)
        await heard_all(("reset", 7))
        bidi.stop(0x10C)  # no application's
        await heard_all(("reset", 7), ("reset", -1), ("over", bidi.id))
        before[:] = heard
        left = session.open(b"left")
        await heard_all(("bidi", left.id), (b"left", False))
        before[:] = heard
        session.capsule(0x78AE, b"")
        session.close(9, "bye")
        await session.closed()
        await heard_all("draining", ("over", left.id), CloseInfo(9, "bye", True))

    talk(server_with(handler), scenario)
    assert halves == [(False, False)] * 3


def test_bad_codes_and_reasons_of_our_own() -> None:
    """What cannot be sent raises ValueError, and the session goes on."""

    async def handler(session: ServerSession) -> None:
        for code, reason in ((-1, ""), (1 << 32, ""), (0, "x" * 1025)):
            with pytest.raises(ValueError, match="session"):
                session.close(code, reason)
        stream = await session.open_uni_stream()
        with pytest.raises(ValueError, match="32"):
            stream.reset(1 << 32)
        session.send_datagram(b"still here")
        await session.wait_closed()

    async def scenario(client: WebTransportClient) -> None:
        session = await client.session("/wt")
        assert await soon(session.datagrams.get()) == b"still here"

    talk(server_with(handler), scenario)


def test_draining() -> None:
    """Section 4.7: either side may ask for the end; a server that stops asks every session."""
    ends: list[bool] = []

    async def handler(session: ServerSession) -> None:
        session.on_session_draining = lambda: session.send_datagram(b"I see")
        await session.wait_closed()
        ends.append(session.draining)

    server = server_with(handler, drain_timeout_ms=20_000)

    async def scenario(client: WebTransportClient) -> None:
        first = await client.session("/wt")
        first.capsule(0x78AE, b"")
        assert await soon(first.datagrams.get()) == b"I see"
        second = await client.session("/wt")
        server.call_soon_threadsafe(server._begin_drain)
        await until(lambda: second.capsules)
        assert [capsule.kind for capsule in second.capsules] == [0x78AE]
        assert await soon(client.connect_session("/wt").reset_code) == 0x10B
        first.close(0, "")
        second.close(0, "")
        assert await soon(client.closed_with) == 0x100

    talk(server, scenario)
    assert ends == [True, True]
