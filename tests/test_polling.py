"""The polling mode: no handlers, events taken one by one and answered when the program likes (spec 17)."""

from __future__ import annotations

import asyncio
import signal
import threading
import time
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Any

import pytest
from interop.aioquic_peer import AioquicClient, PeerClosed, PeerReset
from server_support import KIB, MIB, client_of, make_server, settled, until

from quiche_h3 import (
    BodyEvent,
    ClosedEvent,
    ConnectionClosed,
    DatagramEvent,
    Event,
    FailedEvent,
    FinishedEvent,
    H3ErrorCode,
    InvalidState,
    PayloadTooLarge,
    RequestEvent,
    Server,
    StreamReset,
)


@contextmanager
def asking(
    server: Server, scenario: Callable[[AioquicClient], Awaitable[Any]], **options: Any
) -> Iterator[list[Any]]:
    """A client in a thread of its own while the test polls; its result is in the list afterwards."""
    result: list[Any] = []

    async def run() -> None:
        async with client_of(server.address.url, **options) as client:
            result.append(await scenario(client))

    def thread() -> None:
        try:
            asyncio.run(run())
        except BaseException as failure:
            result.append(failure)

    server.open()
    running = threading.Thread(target=thread)
    running.start()
    yield result
    end = time.monotonic() + 10
    while running.is_alive() and time.monotonic() < end:
        server.next_event(0.01)
    running.join(1)
    server.close()
    assert result
    if isinstance(result[0], BaseException):
        raise result[0]


def wait(server: Server, kind: type[Event]) -> Any:
    """The next event, which must be of this kind; body events that came before it are taken for read."""
    while True:
        event = server.next_event(10)
        assert event is not None, f"no {kind.__name__} came"
        if isinstance(event, kind):
            return event
        assert isinstance(event, BodyEvent), event


def test_request_answered_later() -> None:
    """Requests are answered in any order, each when the program likes."""
    server = make_server(server_header="poll")

    async def scenario(client: AioquicClient) -> list[tuple[bytes, str | None]]:
        done = await asyncio.gather(client.get("/1"), client.get("/2"))
        return [(d.body, d.header("server")) for d in done]

    with asking(server, scenario) as result:
        events = [server.next_event(10) for _ in range(4)]
        first, second = (event for event in events if isinstance(event, RequestEvent))
        assert sum(isinstance(event, FinishedEvent) for event in events) == 2
        assert [e.request.path for e in (first, second)] == ["/1", "/2"]
        second.response.end("two")
        first.response.json(["one"])
    assert result == [[(b'["one"]', "poll"), (b"two", "poll")]]
    handlers = server.export_metrics()["handlers"]
    assert (handlers["started"], handlers["finished"], handlers["active"]) == (2, 2, 0)


def test_body_events() -> None:
    """Body events say when to read; after the last byte comes FinishedEvent, with the trailers."""
    server = make_server()

    async def scenario(client: AioquicClient) -> bytes:
        body = [b"x" * 50_000] * 10
        return (await client.request("POST", "/", body=body, trailers=[(b"x-t", b"1")])).body

    with asking(server, scenario) as result:
        started = wait(server, RequestEvent)
        request, size, reads = started.request, 0, 0
        while True:
            event = server.next_event(10)
            if isinstance(event, FinishedEvent):
                break
            assert isinstance(event, BodyEvent)
            assert event.request is request
            reads += 1
            for chunk in request.body:
                size += len(chunk)
        assert request.body.ended
        assert dict(request.trailers) == {"x-t": "1"}
        started.response.end(str(size))
    assert (size, result) == (500_000, [b"500000"])
    assert 0 < reads < 500


def test_body_that_is_not_read() -> None:
    """What nobody reads stays with the client, and an answer tells it to keep it (RFC 9114 4.1)."""
    server = make_server()

    async def scenario(client: AioquicClient) -> tuple[int, int | None]:
        exchange = client.start(client.fields("POST", "/"), end_stream=False)
        sending = asyncio.ensure_future(client.send_body(exchange.stream_id, [bytes(64 * KIB)] * 64, True))
        sent = await settled(lambda: client.sent(exchange.stream_id), 0.2)
        assert not exchange.answered.done()
        await exchange.complete()
        await until(lambda: exchange.stop_sending is not None)
        sending.cancel()
        return sent, exchange.stop_sending

    with asking(server, scenario) as result:
        event = wait(server, RequestEvent)
        end = time.monotonic() + 1
        while time.monotonic() < end:
            assert not isinstance(server.next_event(0.1), FinishedEvent)
        event.response.status(403).end()
    sent, code = result[0]
    assert (sent <= MIB, code) == (True, H3ErrorCode.H3_NO_ERROR)


def test_streamed_response() -> None:
    """A response may be an iterator, pulled as the client takes it, while other events go on."""
    server = make_server()

    async def scenario(client: AioquicClient) -> tuple[int, bytes]:
        down, hello = await asyncio.gather(client.download("/down"), client.get("/hello"))
        return down.size, hello.body

    with asking(server, scenario) as result:
        for _ in range(2):
            event = server.next_event(10)
            while not isinstance(event, RequestEvent):
                event = server.next_event(10)
            if event.request.path == "/down":
                event.response.produce(iter([bytes(64 * KIB)] * 64))
            else:
                event.response.end("hello")
    assert result == [(4 * MIB, b"hello")]


def test_datagrams_and_closed() -> None:
    """Datagrams and the ends of connections are events."""
    server = make_server()

    async def scenario(client: AioquicClient) -> None:
        client._quic.send_datagram_frame(b"\0hello")
        client.transmit()
        await asyncio.sleep(0.1)

    with asking(server, scenario, datagrams=True):
        event = wait(server, DatagramEvent)
        assert event.payload == b"\0hello"
        closed = wait(server, ClosedEvent)
        assert closed.connection is event.connection
        assert isinstance(closed.error, ConnectionClosed)
        assert (closed.error.remote, closed.connection.closed) == (True, True)


def test_request_that_fails() -> None:
    """A request that the client resets, and one whose connection ends, fail; later writes raise why."""
    server = make_server()

    async def scenario(client: AioquicClient) -> None:
        for _ in range(2):
            exchange = client.start(client.fields("POST", "/"), end_stream=False)
            await client.send_body(exchange.stream_id, [b"part"], False)
        await asyncio.sleep(0.1)
        client.reset(0, H3ErrorCode.H3_REQUEST_CANCELLED)
        await asyncio.sleep(0.1)

    with asking(server, scenario):
        wait(server, RequestEvent)
        wait(server, RequestEvent)
        reset = wait(server, FailedEvent)
        assert isinstance(reset.error, StreamReset)
        assert (reset.request.stream_id, reset.error.code) == (0, H3ErrorCode.H3_REQUEST_CANCELLED)
        with pytest.raises(StreamReset):
            reset.request.body.read()
        events = [server.next_event(10) for _ in range(2)]
        assert {type(e) for e in events} == {FailedEvent, ClosedEvent}
        (gone,) = (e for e in events if isinstance(e, FailedEvent))
        assert isinstance(gone.error, ConnectionClosed)
        with pytest.raises(ConnectionClosed):
            gone.response.end("too late")
    handlers = server.export_metrics()["handlers"]
    assert (handlers["cancelled"], handlers["active"]) == (2, 0)


def test_limits() -> None:
    """Limits are kept before the program hears of a request, and while it reads one."""
    server = make_server(max_request_body_size=1000)

    async def scenario(client: AioquicClient) -> list[int]:
        large = [(b"content-length", b"1001")]
        first = await client.request("POST", "/", headers=large, body=[bytes(1001)])
        second = await client.request("POST", "/", body=[bytes(1001)])
        third = client.start(client.fields("POST", "/", [(b"content-length", b"5")]), end_stream=False)
        await client.send_body(third.stream_id, [b"four"], True)
        with pytest.raises(PeerReset):
            await third.complete()
        return [first.status, second.status]

    with asking(server, scenario) as result:
        event = wait(server, RequestEvent)
        assert event.request.stream_id == 4
        with pytest.raises(PayloadTooLarge):  # noqa: PT012 - with which piece is not known
            while not event.request.body.ended:
                wait(server, BodyEvent) if not event.request.body.read() else None
        event.response.status(413).end()
        body = wait(server, RequestEvent)
        while not isinstance(event, FailedEvent):
            event = server.next_event(10)
            if isinstance(event, BodyEvent):
                with suppress(StreamReset):  # it broke after the event was queued
                    event.request.body.read()
        assert event.request is body.request
    assert result == [[413, 413]]


def test_timeouts() -> None:
    """0 only looks, a number waits as long, and None is the answer."""
    server = make_server()
    server.open()
    for timeout in (0.0, 0.05, 0.2):
        start = time.monotonic()
        assert server.next_event(timeout) is None
        assert timeout * 0.9 <= time.monotonic() - start < timeout + 1
    server.close()


def test_hooks_in_polling_mode() -> None:
    """Startup and shutdown hooks run in this mode too, and close() may be called twice."""
    server = make_server()
    calls: list[str] = []
    server.on_startup(lambda: calls.append("startup"))
    server.on_shutdown(lambda: calls.append("shutdown"))
    assert server.next_event(0) is None
    assert calls == ["startup"]
    server.close()
    server.close()
    assert calls == ["startup", "shutdown"]
    assert server.next_event(0) is None


def test_stop_drains() -> None:
    """stop() sends GOAWAY; requests may still be answered; then next_event() is None for ever."""
    server = make_server()

    async def scenario(client: AioquicClient) -> bytes:
        first = await client.get("/")
        with pytest.raises(PeerClosed) as caught:
            raise await client.closed()
        assert caught.value.code == H3ErrorCode.H3_NO_ERROR
        return first.body

    with asking(server, scenario) as result:
        event = wait(server, RequestEvent)
        server.stop()
        end = time.monotonic() + 0.2
        while time.monotonic() < end:
            server.next_event(0.05)
        event.response.end("still here")
        while (last := server.next_event(10)) is not None:
            assert isinstance(last, FinishedEvent | ClosedEvent)
        start = time.monotonic()
        assert server.next_event() is None
        assert time.monotonic() - start < 1
    assert result == [b"still here"]


def test_stop_from_another_thread_ends_the_wait() -> None:
    """A program that waits for ever wakes up when the server is stopped."""
    server = make_server()
    server.open()
    threading.Timer(0.2, server.stop).start()
    assert server.next_event() is None


def test_handlers_of_signals_run_while_polling() -> None:
    """A Python signal handler runs promptly, and what it raises comes out of next_event()."""

    class Hup(Exception):
        pass

    def raise_it(*_: object) -> None:
        raise Hup

    server = make_server()
    before = signal.signal(signal.SIGHUP, raise_it)
    try:
        assert server.next_event(0) is None
        timer = threading.Timer(0.2, lambda: signal.raise_signal(signal.SIGHUP))
        timer.start()
        start = time.monotonic()
        with pytest.raises(Hup):
            server.next_event(10)
        assert time.monotonic() - start < 5
    finally:
        signal.signal(signal.SIGHUP, before)
        server.close()


def test_polling_and_running_exclude_each_other() -> None:
    """A server that is polled cannot be run."""
    server = make_server()
    server.next_event(0)
    for start in (server.run, server.start):
        with pytest.raises(InvalidState):
            start()
    server.close()
