"""Blocking handlers of sessions: each in a thread of the pool, with a session that waits."""

from __future__ import annotations

import asyncio
import threading
import time
from typing import Any

import pytest
from server_support import logged, make_server, settled, until
from test_webtransport_client import with_async
from webtransport_peer import PeerSession, WebTransportClient, soon, talk

from quiche_h3 import (
    BlockingServerSession,
    ClientSession,
    CloseInfo,
    ConnectionClosed,
    InvalidState,
    Server,
    SessionClosed,
    StreamClosed,
    TimedOut,
    WebTransportStreamReset,
)


def server_with(handler: Any, **fields: Any) -> Server:
    """A server whose sessions the handler serves in threads."""
    server = make_server(drain_timeout_ms=200, **fields)
    server.webtransport("/wt/:name", blocking=True)(handler)
    return server


def test_every_kind_of_traffic() -> None:
    """Datagrams and streams of all four kinds, the request, two threads in one session, the close."""
    threads: set[str] = set()
    ends: list[CloseInfo | None] = []

    def handler(session: BlockingServerSession) -> None:
        threads.add(threading.current_thread().name)
        assert session.request.params == {"name": "one"}
        session.accept({"x-own": "yes"})
        assert session.max_datagram_size > 1000
        session.send_datagram(session.receive_datagram() + b"!")

        def streams() -> None:
            with next(session.incoming_bidi_streams()) as stream:
                stream.write(stream.read_all())

        other = threading.Thread(target=streams)
        other.start()
        length = len(next(session.incoming_uni_streams()).read_all())
        with session.open_uni_stream() as answer:
            answer.write(b"%d" % length)
        with session.open_bidi_stream() as stream:
            stream.write(b"from the server")
            stream.finish()
            assert stream.read_all() == b"answer"
        other.join()
        session.close(9, "done")
        ends.append(session.close_info)

    async def scenario(client: WebTransportClient) -> None:
        session = await client.session("/wt/one")
        assert (await session.answer)[b"x-own"] == b"yes"
        session.datagram(b"a datagram")
        assert await soon(session.datagrams.get()) == b"a datagram!"
        echoed = session.open(b"x" * 100_000, True)
        session.open(b"y" * 777, True, uni=True)
        answer = await soon(session.streams.get())
        assert await answer.read() == b"777"
        assert await echoed.read() == b"x" * 100_000
        stream_id = 1  # the server's first bidirectional one, which aioquic's HTTP/3 does not tell of
        client._quic.send_stream_data(stream_id, b"answer", True)
        client.transmit()
        assert await session.closed() == (9, "done")
        await until(lambda: ends)

    server = server_with(handler)
    talk(server, scenario)
    assert ends == [CloseInfo(9, "done", False)]
    assert all(name.startswith("quiche_h3-handler") for name in threads)


def test_the_loop_goes_on_meanwhile() -> None:
    """Handlers that sleep, and one that waits for the other, hold up neither each other nor requests."""
    met = threading.Barrier(3, timeout=10)

    def handler(session: BlockingServerSession) -> None:
        session.accept()
        met.wait()
        session.receive_datagram()

    server = server_with(handler)

    @server.get("/page")
    def page() -> str:
        return "a page"

    async def scenario(client: WebTransportClient) -> None:
        sessions = [await client.session(f"/wt/{n}") for n in range(2)]
        request = client.connect_session("/page", head={b":method": b"GET", b":protocol": None})
        assert await request.status() == 200
        await asyncio.to_thread(met.wait)
        for session in sessions:
            session.datagram(b"go")
            assert await session.closed() == (0, "")

    talk(server, scenario)


def test_no_thread_is_free() -> None:
    """`wt_session_threads`: one more session gets 503 at once; when one has ended another is taken."""

    def handler(session: BlockingServerSession) -> None:
        session.accept()
        session.wait_closed()

    server = server_with(handler, wt_session_threads=2)

    async def scenario(client: WebTransportClient) -> None:
        first = [await client.session(f"/wt/{n}") for n in range(2)]
        assert await client.connect_session("/wt/2").status() == 503
        first[0].close(0, "")
        await first[0].closed()
        await until(lambda: server.export_metrics()["handlers"]["active"] == 1)
        await client.session("/wt/3")

    talk(server, scenario)
    metrics = server.export_metrics()
    assert (metrics["handlers"]["rejected_503"], metrics["webtransport"]["sessions_rejected"]) == (1, 1)


def test_how_it_ends() -> None:
    """Rejections, exceptions before and after the session is open, and returns."""

    def handler(session: BlockingServerSession) -> Any:
        name = session.request.params["name"]
        if name == "rejected":
            session.reject(429, {"retry-after": "5"})
            with pytest.raises(SessionClosed):
                session.accept()
            return None
        if name == "returned":
            return 404, "no such room"
        if name == "late":
            session.accept()
        if name in ("early", "late"):
            raise RuntimeError("on purpose")
        return None

    async def scenario(client: WebTransportClient) -> None:
        rejected = client.connect_session("/wt/rejected")
        assert await rejected.status() == 429
        assert (await rejected.answer)[b"retry-after"] == b"5"
        assert await client.connect_session("/wt/returned").status() == 404
        with logged("quiche_h3") as records:
            assert await client.connect_session("/wt/early").status() == 500
            late = await client.session("/wt/late")
            assert await soon(late.reset_code) == 0x102
        assert [record.levelname for record in records if record.exc_info] == ["ERROR", "ERROR"]
        at_once = await client.session("/wt/nothing")  # it returns, which accepts and closes
        assert await at_once.closed() == (0, "")
        await until(lambda: server.export_metrics()["handlers"]["active"] == 0)

    server = server_with(handler)
    talk(server, scenario)
    handlers = server.export_metrics()["handlers"]
    assert (handlers["finished"], handlers["failed"]) == (3, 2)


def test_what_the_peer_ends() -> None:
    """A thread that waits learns of resets, of the close and of the connection's end."""
    seen: list[object] = []

    def handler(session: BlockingServerSession) -> None:
        session.accept()
        stream = next(session.incoming_bidi_streams())
        assert stream.read(1) == b"x"
        session.send_datagram(b"it is here")
        with pytest.raises(WebTransportStreamReset) as caught:
            stream.read_all()
        seen.append(caught.value.code)
        with pytest.raises((SessionClosed, ConnectionClosed)) as ended:
            session.receive_datagram()
        seen.append(type(ended.value))
        assert list(session.incoming_uni_streams()) == []
        with pytest.raises((SessionClosed, ConnectionClosed)):
            session.open_bidi_stream()
        seen.append(session.close_info.code if session.close_info else None)

    async def one(session: PeerSession) -> None:
        stream = session.open(b"x")
        await soon(session.datagrams.get())
        stream.reset(0x52E4A40FA8DB + 12)

    async def scenario(client: WebTransportClient) -> None:
        session = await client.session("/wt/1")
        await one(session)
        await until(lambda: seen)
        session.close(5, "")
        await session.closed()
        await until(lambda: len(seen) == 3)
        await one(await client.session("/wt/2"))
        await until(lambda: len(seen) == 4)
        client.close()
        await until(lambda: len(seen) == 6)

    talk(server_with(handler), scenario)
    assert seen == [12, SessionClosed, 5, 12, ConnectionClosed, 0]


def test_timeouts() -> None:
    """Each wait may have its own; what comes after it is not lost."""

    def handler(session: BlockingServerSession) -> None:
        session.accept()
        began = time.monotonic()
        with pytest.raises(TimedOut):
            session.receive_datagram(timeout=0.05)
        with pytest.raises(TimedOut):
            session.wait_closed(timeout=0.05)
        assert time.monotonic() - began >= 0.1
        stream = session.open_bidi_stream()
        with pytest.raises(TimedOut):
            stream.read(timeout=0.05)
        stream.finish()
        with pytest.raises(StreamClosed):
            stream.write(b"")
        session.send_datagram(b"now")
        assert session.receive_datagram() == b"later"

    async def scenario(client: WebTransportClient) -> None:
        session = await client.session("/wt/1")
        assert await soon(session.datagrams.get()) == b"now"
        session.datagram(b"later")
        assert await session.closed() == (0, "")

    talk(server_with(handler), scenario)


def test_a_writer_waits_for_its_reader() -> None:
    """Backpressure: `write()` returns when there is room; memory holds no more than the limits say."""
    wrote: list[int] = []

    def handler(session: BlockingServerSession) -> None:
        with session.open_uni_stream() as stream:
            for n in range(64):
                stream.write(bytes(64 << 10))
                wrote.append(n)
        session.wait_closed()

    async def scenario(session: ClientSession) -> None:
        stream = await session.incoming_uni_streams().__anext__()
        await until(lambda: wrote)
        # The stream's window, what may wait, and one write.
        assert await settled(lambda: len(wrote)) <= 16 + 4 + 1
        assert len(await stream.read_all()) == 64 << 16

    with_async(server_with(handler), scenario, path="/wt/1")
    assert len(wrote) == 64


def test_callbacks() -> None:
    """They run in the loop's thread: plain calls work there at once, waiting does not."""
    wrong: list[BaseException] = []

    def handler(session: BlockingServerSession) -> None:
        def datagram(payload: bytes) -> None:
            session.send_datagram(payload)
            try:
                session.receive_datagram()
            except InvalidState as exc:
                wrong.append(exc)

        session.on_session_established = lambda: session.send_datagram(b"welcome")
        session.on_datagram = datagram
        session.accept()
        session.wait_closed()

    async def scenario(client: WebTransportClient) -> None:
        session = await client.session("/wt/1")
        assert await soon(session.datagrams.get()) == b"welcome"
        session.datagram(b"back")
        assert await soon(session.datagrams.get()) == b"back"

    talk(server_with(handler), scenario)
    assert len(wrong) == 1


def test_the_server_stops() -> None:
    """Threads that wait are let go, whatever they wait for, and what they call then raises."""
    ended = threading.Event()
    left: list[BaseException] = []

    def handler(session: BlockingServerSession) -> None:
        session.accept()
        try:
            session.receive_datagram()
        except (SessionClosed, ConnectionClosed) as exc:
            left.append(exc)
        stopped.wait(10)
        try:
            session.drain()
        except (SessionClosed, ConnectionClosed) as exc:
            left.append(exc)
        ended.set()

    stopped = threading.Event()

    async def scenario(client: WebTransportClient) -> None:
        await client.session("/wt/1")

    talk(server_with(handler), scenario)
    stopped.set()
    assert ended.wait(10)
    assert len(left) == 2
