"""HTTP datagrams of requests (RFC 9297): callbacks, iteration, capsules where no datagrams are negotiated."""

from __future__ import annotations

import asyncio
import queue
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any

import pytest
from interop.aioquic_peer import AioquicClient
from server_support import logged, make_server, talk, until

import quiche_h3
from quiche_h3 import (
    ClientConfig,
    ClientConnection,
    DatagramNotEnabled,
    DatagramTooLarge,
    Request,
    RequestDatagramEvent,
    RequestEvent,
    Response,
    RouteError,
    Server,
    StreamClosed,
    StreamReset,
    TimedOut,
    WouldBlock,
)
from quiche_h3.capsules import encode_capsule

CAPSULES = {"capsule-protocol": "?1"}


def echo_server(**fields: Any) -> Server:
    """Echoes the datagrams of GET /echo, for as long as the request is open."""
    server = make_server(**fields)
    # Where the body is capsules, there is no other.
    server.get("/echo")(lambda req: None if req.capsule_protocol else "active\n")
    server.route_h3_datagram("GET", "/echo")(lambda req, res, payload: res.send_h3_datagram(payload))
    server.get("/hello")(lambda: "hello")
    return server


@contextmanager
def connected(server: Server, **fields: Any) -> Iterator[ClientConnection]:
    """The client of a server that runs meanwhile."""
    with (
        server.running() as address,
        quiche_h3.connect(address.url, verify=False, config=ClientConfig(**fields), timeout=10) as client,
    ):
        yield client


def test_callback() -> None:
    """Specification 4.2: a datagram of a request reaches the route's callback, which answers by datagram."""
    server = echo_server()
    with connected(server) as client:
        with client.open("GET", "/echo") as request:
            response = request.response()
            replies = request.datagrams()
            for payload in (b"one", b"", bytes(1000)):
                request.send_datagram(payload)
                assert next(replies) == payload
            with pytest.raises(DatagramTooLarge):
                request.send_datagram(bytes(2000))
            request.end()
            assert response.read_all() == b"active\n"
            assert list(replies) == []  # the response has ended, which ends them
        with pytest.raises(StreamClosed):
            request.send_datagram(b"late")
        assert client.get("/echo").content == b"active\n"  # who ends the request at once waits for nothing
    counted = server.export_metrics()["http3"]
    assert (counted["datagrams_received"], counted["datagrams_sent"], counted["datagrams_dropped"]) == (
        3,
        3,
        0,
    )


def test_a_foreign_client() -> None:
    """The same with aioquic: its datagrams carry the quarter stream ID, and so do those it gets."""
    server = echo_server()

    async def scenario(client: AioquicClient) -> None:
        received: list[tuple[int, bytes]] = []
        before = client.h3_event_received

        def on_event(event: Any) -> None:
            if type(event).__name__ == "DatagramReceived":
                received.append((event.stream_id, event.data))
            else:
                before(event)

        client.h3_event_received = on_event  # type: ignore[method-assign]
        await client.get("/hello")
        stream_id = client._quic.get_next_available_stream_id()
        fields = [(b":method", b"GET"), (b":scheme", b"https"), (b":authority", b"x"), (b":path", b"/echo")]
        client.http.send_headers(stream_id, fields)
        client.http.send_datagram(stream_id, b"hello")
        client.transmit()
        await until(lambda: received)
        assert received == [(stream_id, b"hello")]

    talk(server, scenario, datagrams=True)


@pytest.mark.parametrize("raw", [False, True])
def test_datagrams_that_overtake_their_request(raw: bool) -> None:
    """RFC 9297 2.1: the newest `h3_datagram_queue_len` wait for the request, unless they may be raw ones."""
    server = echo_server(h3_datagram_queue_len=2)
    others: list[bytes] = []
    if raw:
        server.on_datagram(lambda server, connection, payload: others.append(payload))

    async def scenario(client: AioquicClient) -> None:
        received: list[bytes] = []
        before = client.h3_event_received

        def on_event(event: Any) -> None:
            if type(event).__name__ == "DatagramReceived":
                received.append(event.data)
            else:
                before(event)

        client.h3_event_received = on_event  # type: ignore[method-assign]
        assert (await client.get("/hello")).status == 200
        for payload in (b"one", b"two", b"three"):
            client.http.send_datagram(4, payload)
        client.http.send_datagram(400, b"of none that comes")
        client.transmit()
        await until(lambda: server.export_metrics()["http3"]["datagrams_received"] == 4)
        assert client._quic.get_next_available_stream_id() == 4
        client.http.send_headers(4, client.fields("GET", "/echo"))
        client.http.send_datagram(4, b"four")
        client.transmit()
        await until(lambda: b"four" in received)
        assert received == ([b"four"] if raw else [b"three", b"four"])

    talk(server, scenario, datagrams=True)
    assert others == ([b"\1one", b"\1two", b"\1three", b"\x40\x64of none that comes"] if raw else [])
    assert server.export_metrics()["http3"]["datagrams_dropped"] == (0 if raw else 2)


def test_capsules_are_never_raw_datagrams() -> None:
    """Where the request speaks of datagrams its own wait for the handler, whoever takes raw ones."""
    server = make_server()
    raw: list[bytes] = []
    server.on_datagram(lambda server, connection, payload: raw.append(payload))

    @server.post("/")
    async def later(req: Request, res: Response) -> None:
        await until(lambda: server.export_metrics()["http3"]["datagrams_received"] == 2)
        async for payload in res.h3_datagrams():
            res.send_h3_datagram(payload)

    with connected(server) as client, client.open("POST", "/", headers=CAPSULES) as request:
        assert client.get("/").status == 405  # the server's SETTINGS are there: no capsules any more
        request.send_datagram(b"one")
        request.send_datagram(b"two")
        replies = request.datagrams()
        assert [next(replies), next(replies)] == [b"one", b"two"]
        client.send_datagram(b"\x40raw")
        request.end()
        assert request.response().read_all() == b""
    assert raw == [b"\x40raw"]


def test_in_asyncio() -> None:
    """The client for asyncio: `async for` over a request's datagrams, which end with the response."""

    async def scenario(url: str) -> None:
        async with await quiche_h3.aconnect(url, verify=False) as client:
            request = await client.open("GET", "/echo")
            response = await request.response()
            replies = request.datagrams()
            for payload in (b"one", b"two"):
                request.send_datagram(payload)
                assert await anext(replies) == payload
            await request.end()
            assert await response.read_all() == b"active\n"
            assert [payload async for payload in replies] == []

    with echo_server().running() as address:
        asyncio.run(scenario(address.url))


def test_iteration_in_async_and_blocking_handlers() -> None:
    """`async for` over a request's datagrams, and `for` in a thread; both end with the request."""
    server = make_server()

    @server.post("/async")
    async def sum_async(req: Request, res: Response) -> str:
        res.write(b"")  # tells the client that it may send
        return str(sum([int(payload) async for payload in res.h3_datagrams()]))

    @server.post("/thread", blocking=True)
    def sum_blocking(req: Request, res: Response) -> str:
        datagrams = res.h3_datagrams()
        res.write_all("go")
        total = sum(map(int, datagrams))  # type: ignore[call-overload]
        return str(total)

    @server.post("/cut", blocking=True)
    def cut(req: Request, res: Response) -> None:
        res.write(b"")
        try:
            for _ in res.h3_datagrams():  # type: ignore[attr-defined]
                pass
        except StreamReset as exc:
            broken.put(exc.code)

    broken: queue.SimpleQueue[int] = queue.SimpleQueue()
    with connected(server) as client:
        with client.open("POST", "/thread") as request:
            response = request.response()
            assert response.read() == b"go"
            for number in (1, 2, 39):
                request.send_datagram(b"%d" % number)
            request.end()
            assert response.read_all() == b"42"
        with client.open("POST", "/cut") as request:
            request.response()
            request.cancel(0x10C)
        assert broken.get(timeout=10) == 0x10C
        with client.open("POST", "/async") as request:
            request.response()
            request.send_datagram(b"1")
            request.send_datagram(b"2")
            request.end()
            assert request.response().read_all() == b"3"


def test_the_newest_are_kept() -> None:
    """Row 31: what nobody takes is dropped, the oldest first, and counted; the request goes on."""
    server = make_server(h3_datagram_queue_len=4)
    ready = threading.Event()

    @server.post("/")
    async def hold(req: Request, res: Response) -> str:
        datagrams = res.h3_datagrams()
        res.write(b"")
        await req.body.read_all()  # the client sends meanwhile
        return ",".join([payload.decode() async for payload in datagrams])

    with connected(server) as client, client.open("POST", "/") as request:
        request.response()
        for number in range(10):
            request.send_datagram(b"%d" % number)
        while server.export_metrics()["http3"]["datagrams_received"] < 10:
            ready.wait(0.005)  # what another thread does, which nothing tells
        request.end()
        assert request.response().read_all() == b"6,7,8,9"
    assert server.export_metrics()["http3"]["datagrams_dropped"] == 6


def test_capsules_where_datagrams_are_not_negotiated() -> None:
    """RFC 9297 3.5: with the capsule protocol both sides fall back to DATAGRAM capsules, else it fails."""
    server = echo_server(enable_dgram=False)
    with connected(server) as client:
        with client.open("GET", "/echo", headers=CAPSULES) as request:
            replies = request.datagrams()
            for payload in (b"one", b"", bytes(20_000)):
                request.send_datagram(payload)
                assert next(replies) == payload
            assert request.response().headers["capsule-protocol"] == "?1"
            with pytest.raises(DatagramTooLarge):
                request.send_datagram(bytes(70_000))
            request.end()
        with client.open("GET", "/echo") as request:
            request.response()
            with pytest.raises(DatagramNotEnabled):
                request.send_datagram(b"x")
        with pytest.raises(DatagramNotEnabled):
            client.send_datagram(b"x")  # specification 11, 1.3 and 8.1


@pytest.mark.parametrize(
    ("body", "code"),
    [(encode_capsule(0, b"hello")[:-1], 0x10E), (b"\x00\x80\x02\x00\x00" + bytes(10), 0x33)],
    ids=["cut off", "too large"],
)
def test_bad_capsules(body: bytes, code: int) -> None:
    """RFC 9297 3.3: a capsule that the request's end cuts off, or that is too large, ends the request."""
    server = echo_server()
    with connected(server) as client:
        with client.open("GET", "/echo", headers=CAPSULES) as request:
            request.response()
            request.write(body)
            with suppress(StreamReset):  # it may be refused already
                request.end()
            with pytest.raises(StreamReset) as caught:
                list(request.datagrams())
            assert caught.value.code == code
        assert client.get("/hello").content == b"hello"


def test_unknown_capsules_are_passed_over() -> None:
    """RFC 9297 3.2: capsules of unknown types are skipped without being kept."""
    with connected(echo_server()) as client, client.open("GET", "/echo", headers=CAPSULES) as request:
        request.response()
        replies = request.datagrams()
        request.write(encode_capsule(0x2A, bytes(100_000)) + encode_capsule(0, b"after"))
        assert next(replies) == b"after"


def test_a_callback_that_raises() -> None:
    """It is logged, a DatagramError is not; the request goes on."""
    server = make_server()
    server.get("/")(lambda: "")

    @server.route_h3_datagram("GET", "/")
    def on_datagram(req: Request, res: Response, payload: bytes) -> None:
        if payload == b"raise":
            raise ZeroDivisionError
        if payload == b"large":
            res.send_h3_datagram(bytes(70_000))
        res.send_h3_datagram(payload)

    with logged() as records, connected(server) as client, client.open("GET", "/") as request:
        request.response()
        replies = request.datagrams()
        for payload in (b"raise", b"large", b"good"):
            request.send_datagram(payload)
        assert next(replies) == b"good"
    assert len([r for r in records if r.exc_info]) == 1


def test_a_full_queue() -> None:
    """Specification 4.1: WouldBlock when the queue is full, and nothing is kept beyond it."""
    server = make_server(dgram_send_queue_len=8)
    taken: list[int] = []

    @server.get("/")
    def flood(req: Request, res: Response) -> str:
        with pytest.raises(WouldBlock):  # noqa: PT012 - how often it goes well is what is asked
            for turn in range(100):
                res.send_h3_datagram(b"x")
                taken.append(turn)
        return "done"

    with connected(server) as client:
        assert client.get("/").content == b"done"
    assert len(taken) == 8
    assert server.export_metrics()["http3"]["datagrams_dropped"] == 1


def test_waiting_too_long_ends_nothing() -> None:
    """A datagram that does not come raises TimedOut, the request goes on."""
    with connected(echo_server()) as client, client.open("GET", "/echo") as request:
        request.response()
        with pytest.raises(TimedOut):
            next(request.datagrams(timeout=0.05))
        request.send_datagram(b"still here")
        assert next(request.datagrams()) == b"still here"


def test_polling() -> None:
    """In the polling mode a request's datagram is an event of its own."""
    server = make_server()
    server.open()
    replies: list[bytes] = []

    def run(url: str) -> None:
        with quiche_h3.connect(url, verify=False, timeout=10) as client, client.open("GET", "/") as request:
            request.response()
            request.send_datagram(b"hello")
            replies.append(next(request.datagrams()))

    thread = threading.Thread(target=run, args=(server.address.url,))
    thread.start()
    while not replies:
        event = server.next_event(10)
        if isinstance(event, RequestEvent):
            event.response.write(b"")
        elif isinstance(event, RequestDatagramEvent):
            assert event.request.path == "/"
            event.response.send_h3_datagram(event.payload + b"!")
    server.close()
    thread.join()
    assert replies == [b"hello!"]


def test_registration_errors() -> None:
    """A callback needs a route whose handler runs in the loop, and three arguments."""
    server = make_server()
    server.get("/blocking", blocking=True)(lambda: "x")
    server.get("/:name")(lambda: "x")

    def callback(req: Request, res: Response, payload: bytes) -> None: ...

    for methods, pattern in (("GET", "/no/where"), ("POST", "/:name"), ("GET", "/blocking")):
        with pytest.raises(RouteError):
            server.route_h3_datagram(methods, pattern)(callback)
    with pytest.raises(RouteError):
        server.route_h3_datagram("GET", "/:name")(lambda req, res: None)  # type: ignore[type-var]
    assert server.route_h3_datagram("GET", "/:id")(callback) is callback
