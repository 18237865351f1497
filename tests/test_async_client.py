"""The client for asyncio against this library's server: what it does beside the waiting client's tests."""

from __future__ import annotations

import asyncio
import io
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from typing import Any, TypeVar

import pytest
from client_support import KIB, MIB, Application, blocks, digest, silence, streams
from server_support import make_server, until

import quiche_h3
from quiche_h3 import (
    AsyncClient,
    AsyncClientConnection,
    ClientConfig,
    ConnectError,
    ConnectionClosed,
    H3ErrorCode,
    InvalidState,
    PayloadTooLarge,
    Priority,
    RedirectError,
    Request,
    Response,
    Server,
    StatusError,
    StreamClosed,
    StreamReset,
    TimedOut,
    Timeouts,
)

T = TypeVar("T")


@pytest.fixture(scope="module")
def application() -> Iterator[Application]:
    app = Application()
    with app.server.running():
        yield app


@pytest.fixture
def app(application: Application) -> Iterator[Application]:
    """The application with its gates shut."""
    application.held.clear()
    application.release.clear()
    yield application
    application.release.set()


def talk(app: Application, scenario: Callable[[AsyncClientConnection], Awaitable[T]], **options: Any) -> T:
    """Runs the scenario on one connection; returns what it returned."""

    async def run() -> T:
        connecting = quiche_h3.aconnect(app.server.address.url, verify=False, **options)
        async with await connecting as connection:
            return await scenario(connection)

    return asyncio.run(run())


async def write_all(request: quiche_h3.AsyncClientRequest, size: int) -> None:
    for block in blocks(size):
        await request.write(block)


async def sha256(response: quiche_h3.AsyncClientResponse) -> str:
    return digest(iter([chunk async for chunk in response]))


def test_get(app: Application) -> None:
    """A response has status, fields, and a body as bytes, text and JSON (RFC 9114 4.1)."""

    async def scenario(client: AsyncClientConnection) -> None:
        response = await client.get("/hello")
        assert (response.status, await response.text()) == (200, "Hello, HTTP/3!\n")
        assert await response.content() == b"Hello, HTTP/3!\n"
        assert await response.read() == b""
        assert (await client.head("/hello")).headers["content-length"] == "15"
        answer = await (await client.put("/describe?a=1", headers={"X-One": "1"}, data="text")).json()
        assert (answer["method"], answer["path"], answer["body"]) == ("PUT", "/describe?a=1", "text")
        assert answer["headers"] == {"x-one": "1", "content-length": "4"}
        assert (await (await client.post("/describe", json={"a": 1})).json())["body"] == '{"a":1}'
        with pytest.raises(StatusError, match="404"):
            (await client.get("/nowhere")).raise_for_status()
        assert client.info.alpn == "h3"
        assert client.stats()["packets_received"] > 0

    talk(app, scenario)


def test_trailers_and_interim_responses(app: Application) -> None:
    """Fields after the body go both ways, 103 comes before the response (RFC 9114 4.1, RFC 8297)."""

    async def scenario(client: AsyncClientConnection) -> None:
        response = await client.get("/trailers")
        assert await response.content() == b"body"
        assert response.trailers is not None
        assert response.trailers["x-checksum"] == "1234"
        async with await client.open("POST", "/request-trailers") as request:
            await request.write(b"a body")
            await request.send_trailers({"x-sum": "5"})
            answer = await (await request.response()).json()
        assert answer == {"body": "a body", "trailers": {"x-sum": "5"}}
        assert [hint.status for hint in (await client.get("/interim")).interim] == [103]

    talk(app, scenario)


@pytest.mark.parametrize("kind", ["bytes", "iterable", "async", "file"])
def test_upload(app: Application, kind: str) -> None:
    """8 MiB come back whole from an echo, beyond every window in both directions (RFC 9000 4.1)."""
    size = 8 * MIB

    async def pieces() -> AsyncIterator[bytes]:
        for block in blocks(size):
            yield block

    async def scenario(client: AsyncClientConnection) -> str:
        body = b"".join(blocks(size))
        data: Any = {"bytes": body, "iterable": blocks(size), "async": pieces(), "file": io.BytesIO(body)}
        return await sha256(await client.post("/echo", data=data[kind]))

    assert talk(app, scenario) == digest(blocks(size))


def test_many_at_once(app: Application) -> None:
    """250 requests in flight together, more than the server's 100 streams: the others wait (RFC 9000 4.6)."""

    async def scenario(client: AsyncClientConnection) -> None:
        responses = await asyncio.gather(*(client.get("/hello") for _ in range(250)))
        assert {await response.text() for response in responses} == {"Hello, HTTP/3!\n"}

    talk(app, scenario)


def test_body_is_produced_as_it_is_taken(app: Application) -> None:
    """An asynchronous iterable is pulled no faster than the server takes it."""
    pulled = 0

    async def source() -> AsyncIterator[bytes]:
        nonlocal pulled
        for block in blocks(32 * MIB):
            pulled += len(block)
            yield block

    async def scenario(client: AsyncClientConnection) -> None:
        request = await client.send("POST", "/unread", data=source())
        await until(app.held.is_set)
        window = quiche_h3.ServerConfig().initial_max_stream_data_bidi_remote
        await until(lambda: pulled >= window)
        assert (await client.get("/hello")).status == 200
        assert pulled <= window + 2 * 256 * KIB + 2 * 65_521
        app.release.set()
        assert await (await request.response()).json() == {"bytes": 32 * MIB}

    talk(app, scenario)


def test_cancelled_task(app: Application) -> None:
    """A task that is cancelled while it waits gives up its stream on the server too (RFC 9114 4.1.1)."""

    async def scenario(client: AsyncClientConnection) -> None:
        for awaiting in (
            client.post("/unread", data=b"1"),
            client.request("POST", "/unread", data=blocks(32 * MIB)),
        ):
            app.held.clear()
            task = asyncio.ensure_future(awaiting)
            await until(app.held.is_set)
            assert streams(app) == 1
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
            app.release.set()
            await until(lambda: streams(app) == 0)
            app.release.clear()
        assert (await client.get("/hello")).status == 200

    talk(app, scenario)


def test_timeouts(app: Application) -> None:
    """Each phase has its own limit; a wait that is too long ends the request, not the connection."""

    async def scenario(client: AsyncClientConnection) -> None:
        with pytest.raises(TimedOut) as caught:
            await client.get("/hold", timeout=Timeouts(read=0.05))
        assert caught.value.phase == "read"
        upload = await client.open("POST", "/unread", timeout=Timeouts(write=0.05))
        with pytest.raises(TimedOut) as caught:
            await write_all(upload, 32 * MIB)
        assert caught.value.phase == "write"
        app.release.set()
        assert (await client.get("/hello")).status == 200

    talk(app, scenario)
    with pytest.raises(ValueError, match="not above 0"):
        Timeouts(read=0)


def test_failures(app: Application) -> None:
    """Resets, lengths that are not kept, limits and early answers come as with the waiting client."""

    async def scenario(client: AsyncClientConnection) -> None:
        with pytest.raises(StreamReset) as caught:
            await (await client.get("/reset")).read_all()
        assert caught.value.code == H3ErrorCode.H3_REQUEST_REJECTED
        with pytest.raises(StreamReset):
            await (await client.get("/short")).read_all()
        with pytest.raises(PayloadTooLarge):
            await (await client.get(f"/bytes/{MIB}")).read_all(100 * KIB)
        response = await client.post("/refuse", data=blocks(64 * MIB))
        assert (response.status, await response.content()) == (413, b"too much")
        async with await client.open("POST", "/refuse") as request:
            assert (await request.response()).status == 413
            with pytest.raises(StreamClosed):
                await write_all(request, 8 * MIB)

        async def broken() -> AsyncIterator[bytes]:
            yield b"a beginning"
            raise LookupError("no more of it")

        with pytest.raises(LookupError, match="no more of it"):
            await client.post("/request-trailers", data=broken())
        await until(lambda: streams(app) == 0)

    talk(app, scenario)


def test_dropped_requests_are_cancelled(app: Application) -> None:
    """A request or response that nobody holds any more costs the server nothing."""

    async def scenario(client: AsyncClientConnection) -> None:
        for _ in range(150):
            await client.get(f"/bytes/{4 * MIB}")
            await client.open("POST", "/echo")
        assert (await client.get("/hello")).status == 200
        await until(lambda: streams(app) == 0)

    talk(app, scenario)


def test_datagrams(app: Application) -> None:
    """QUIC datagrams go both ways (RFC 9221)."""

    async def scenario(client: AsyncClientConnection) -> None:
        received: asyncio.Queue[bytes] = asyncio.Queue()
        client.on_datagram(received.put_nowait)
        client.send_datagram(b"0123")
        assert await asyncio.wait_for(received.get(), 10) == b"3210"

    talk(app, scenario)


def test_priority() -> None:
    """RFC 9218 7: a request may be ranked anew while its response is on its way."""
    server = make_server()

    @server.get("/")
    async def handler(req: Request, res: Response) -> str:
        res.write("begun ")
        await until(lambda: req.priority.urgency == 1)
        return req.take_last_priority_update() or ""

    async def scenario(url: str) -> None:
        async with await quiche_h3.aconnect(url, verify=False) as client:
            request = await client.open("GET", "/")
            response = await request.response()
            with pytest.raises(ValueError, match="urgency"):
                request.set_priority(Priority(8, False))
            request.set_priority(Priority(1, True))
            assert await response.read_all() == b"begun u=1,i"

    with server.running() as address:
        asyncio.run(scenario(address.url))


def test_nobody_to_talk_to() -> None:
    """A server that is silent is a ConnectError within the time given."""

    async def connect(url: str) -> None:
        with pytest.raises(ConnectError, match=r"no answer from 127\.0\.0\.1 within 0\.2 s"):
            await quiche_h3.aconnect(url, timeout=0.2)
        async with AsyncClient(timeout=0.2) as client:
            with pytest.raises(ConnectError, match="no answer"):
                await client.get(url)

    with silence() as url:
        asyncio.run(connect(url))


def test_close(app: Application) -> None:
    """After close() everything under way fails with ConnectionClosed, later requests too; twice is fine."""

    async def run() -> None:
        client = AsyncClient(verify=False)
        pending = asyncio.ensure_future(client.get(app.server.address.url + "/hold"))
        await until(app.held.is_set)
        await asyncio.gather(client.close(), client.close())
        with pytest.raises(ConnectionClosed):
            await pending
        with pytest.raises(ConnectionClosed):
            await client.get(app.server.address.url + "/hello")
        await until(lambda: streams(app) == 0)

    asyncio.run(run())


def test_pool_and_redirects(app: Application) -> None:
    """One client, two servers: a connection each; a redirect is followed on request, up to the limit."""
    other = Server(quiche_h3.ServerConfig(dev_cert=True, bind_addr="127.0.0.1", bind_port=0))
    url = app.server.address.url
    other.get("/to-hello")(lambda req, res: res.redirect(f"{url}/hello", 302))
    other.get("/loop")(lambda req, res: res.redirect("/loop", 302))

    async def run() -> None:
        async with AsyncClient(verify=False, config=ClientConfig(max_redirects=3)) as client:
            response = await client.get(f"{other.address.url}/to-hello", follow_redirects=True)
            assert await response.text() == "Hello, HTTP/3!\n"
            assert (response.url, [r.status for r in response.history]) == (f"{url}/hello", [302])
            assert (await client.get(f"{other.address.url}/to-hello")).status == 302
            assert set(client.connections()) == {url, other.address.url}
            with pytest.raises(RedirectError, match="more than 3"):
                await client.get(f"{other.address.url}/loop", follow_redirects=True)
            await asyncio.gather(*(client.get(f"{url}/hello") for _ in range(20)))
            assert len(app.server.connections) == 1

    with other.running():
        asyncio.run(run())


def test_loops(app: Application) -> None:
    """A client belongs to one event loop: another gets a clear error, one that has ended is no obstacle."""
    url = app.server.address.url
    client = AsyncClient(verify=False)

    async def get() -> str:
        return await (await client.get(f"{url}/hello")).text()

    loop = asyncio.new_event_loop()
    assert loop.run_until_complete(get()) == "Hello, HTTP/3!\n"
    with pytest.raises(InvalidState, match="one for each"):
        asyncio.run(get())
    loop.close()
    asyncio.run(client.close())
    with pytest.raises(ConnectionClosed):
        asyncio.run(get())
