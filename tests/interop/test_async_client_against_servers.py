"""The client for asyncio against quic-go and aioquic: what it can, feature by feature.

What it makes of servers that fail is in test_client_failures.py.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import stat
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest
from client_support import silence
from net.relay import Relay
from server_support import settled

import quiche_h3
from quiche_h3 import (
    AsyncClient,
    AsyncClientRequest,
    AsyncClientResponse,
    ClientConfig,
    ConnectError,
    ConnectTimedOut,
    FileTickets,
    H3ErrorCode,
    MemoryTickets,
    Priority,
    RedirectError,
    StreamReset,
    TimedOut,
    Timeouts,
)

from . import pattern
from .certificates import Certificate
from .programs import GoPeer, Peer, Process, started

MIB = 1 << 20


def talk(scenario: Callable[[AsyncClient], Awaitable[None]], **options: Any) -> None:
    """Runs the scenario with a client."""

    async def run() -> None:
        async with AsyncClient(**options) as client:
            await scenario(client)

    asyncio.run(run())


async def described(client: AsyncClient, url: str, method: str = "GET", **options: Any) -> dict[str, Any]:
    answer: dict[str, Any] = await (await client.request(method, f"{url}/describe", **options)).json()
    return answer


async def write_for_ever(request: AsyncClientRequest) -> None:
    while True:
        await request.write(bytes(65_536))


async def sha256(response: AsyncClientResponse) -> str:
    digest = hashlib.sha256()
    async for chunk in response:
        digest.update(chunk)
    return digest.hexdigest()


def test_one_connection_per_origin(server: Process, cafile: str) -> None:
    """200 tasks share one connection, on which their requests go side by side (RFC 9114 3.3)."""

    async def scenario(client: AsyncClient) -> None:
        responses = await asyncio.gather(*(client.get(f"{server.url}/hello") for _ in range(200)))
        assert [await response.text() for response in responses] == ["Hello, HTTP/3!"] * 200
        assert list(client.connections()) == [server.url]
        peers = {(await described(client, server.url))["client"] for _ in range(3)}
        assert len(peers) == 1

    talk(scenario, cafile=cafile)


def test_limit_of_connections(peer: Peer, server: Process, certificate: Certificate, cafile: str) -> None:
    """With max_connections in use an idle one makes way; while all are busy a task waits its time."""

    async def scenario(client: AsyncClient) -> None:
        assert (await client.get(f"{server.url}/hello")).status == 200
        assert (await client.get(f"{other.url}/hello")).status == 200
        assert list(client.connections()) == [other.url]
        slow = asyncio.ensure_future(client.get(f"{other.url}/slow"))
        await asyncio.sleep(0)
        with pytest.raises(ConnectTimedOut, match="all 1 connections were busy") as caught:
            await client.get(f"{server.url}/hello", timeout=Timeouts(pool=0.1))
        assert caught.value.phase == "pool"
        waiting = asyncio.ensure_future(client.get(f"{server.url}/hello"))
        await asyncio.sleep(0)
        slow.cancel()
        assert await (await waiting).text() == "Hello, HTTP/3!"

    with started(peer.serve(*certificate)) as other:
        talk(scenario, cafile=cafile, config=ClientConfig(max_connections=1))


def test_bodies(server: Process, cafile: str) -> None:
    """Bytes, an asynchronous iterable, and both directions of one request at once, with trailers."""
    size = 4 * MIB

    async def pieces() -> AsyncIterator[bytes]:
        for chunk in pattern.chunks(size):
            yield chunk

    async def scenario(client: AsyncClient) -> None:
        expected = {"bytes": size, "sha256": pattern.sha256(size)}
        for body in (b"".join(pattern.chunks(size)), pieces(), pattern.chunks(size)):
            assert await (await client.post(f"{server.url}/upload", data=body)).json() == expected
        async with await client.open("POST", f"{server.url}/echo", headers={"trailer": "x-sum"}) as request:
            response = await request.response()
            reading = asyncio.ensure_future(sha256(response))
            for chunk in pattern.chunks(size):
                await request.write(chunk)
            await request.send_trailers({"x-sum": "after the request"})
            assert await reading == pattern.sha256(size)
        assert response.trailers is not None
        assert response.trailers["x-sum"] == "after the request"

    talk(scenario, cafile=cafile)


def test_backpressure(peer: Peer, server: Process, cafile: str) -> None:
    """What nobody reads stays with the server, and what it does not take is not produced (RFC 9000 4.1)."""
    config = ClientConfig(
        initial_max_data=MIB,
        initial_max_stream_data_bidi_local=64 * 1024,
        max_connection_window=MIB,
        max_stream_window=MIB,
    )
    produced = 0

    async def pieces() -> AsyncIterator[bytes]:
        nonlocal produced
        while True:
            produced += 65_536
            yield bytes(65_536)

    async def scenario(connection: quiche_h3.AsyncClientConnection) -> None:
        async with await connection.get(f"/bytes/{64 * MIB}") as response:
            await response.read(1)
            assert await settled(lambda: connection.stats()["bytes_received"]) < 4 * MIB
        if not isinstance(peer, GoPeer):
            return  # aioquic reads whatever comes
        # /slow reads nothing: the server's windows fill up, and our queue.
        sending = asyncio.ensure_future(connection.post("/slow", data=pieces()))
        assert 0 < await settled(lambda: produced) < 20 * MIB
        sending.cancel()

    async def run() -> None:
        async with await quiche_h3.aconnect(server.url, cafile=cafile, config=config) as connection:
            await scenario(connection)

    asyncio.run(run())


def test_interim_responses_and_priorities(server: Process, cafile: str) -> None:
    """1xx responses come with the final one (RFC 9114 4.1); a priority is in its field (RFC 9218 5)."""

    async def scenario(client: AsyncClient) -> None:
        response = await client.get(f"{server.url}/interim")
        assert (response.status, await response.text()) == (200, "after two")
        assert [hint.status for hint in response.interim] == [103, 102]
        assert response.interim[0].headers["link"] == "</a.css>"
        answer = await described(client, server.url, priority=Priority(1, True))
        assert answer["headers"]["priority"] == "u=1, i"

    talk(scenario, cafile=cafile)


def test_priority_update_and_datagrams(aioquic: Process, cafile: str) -> None:
    """PRIORITY_UPDATE of a running request (RFC 9218 7.2), QUIC and HTTP datagrams (RFC 9221, RFC 9297)."""

    async def run() -> None:
        async with await quiche_h3.aconnect(aioquic.url, cafile=cafile) as connection:
            request = await connection.open("POST", "/unidirectional", priority=Priority(3, False))
            request.set_priority(Priority(6, True))
            await (await connection.get("/hello")).content()
            await request.end()
            sent = bytes.fromhex(await (await request.response()).text())
            assert sent.split((0x800F0700).to_bytes(4, "big"))[1].startswith(b"\x06\x00u=6,i")
            came: asyncio.Queue[bytes] = asyncio.Queue()
            connection.on_datagram(came.put_nowait)
            connection.send_datagram(b"\x3fabc")
            assert await asyncio.wait_for(came.get(), 5) == b"\x3fcba"
            echo = await connection.open("POST", "/echo")
            await echo.response()
            echo.send_datagram(b"one")
            assert await asyncio.wait_for(echo.datagrams().__anext__(), 5) == b"eno"

    asyncio.run(run())


def test_cancellation_and_timeouts(server: Process, cafile: str) -> None:
    """A cancelled task, a closed response and each phase's limit end their request, and no other."""

    async def scenario(client: AsyncClient) -> None:
        for _ in range(20):
            with pytest.raises(asyncio.TimeoutError):
                await asyncio.wait_for(client.get(f"{server.url}/slow"), 0.01)
        for _ in range(50):
            response = await client.get(f"{server.url}/bytes/{4 * MIB}")
            reading = asyncio.ensure_future(sha256(response))
            await asyncio.sleep(0)
            reading.cancel()
        with pytest.raises(TimedOut) as caught:
            await client.get(f"{server.url}/slow", timeout=Timeouts(read=0.05))
        assert caught.value.phase == "read"
        request = await client.open("POST", f"{server.url}/slow", timeout=Timeouts(write=0.2))
        with pytest.raises(TimedOut) as caught:
            await write_for_ever(request)
        assert caught.value.phase == "write"
        with silence() as silent, pytest.raises(ConnectTimedOut) as caught:
            await client.get(silent, timeout=Timeouts(connect=0.1))
        assert caught.value.phase == "connect"
        assert await (await client.get(f"{server.url}/hello")).text() == "Hello, HTTP/3!"

    talk(scenario, cafile=cafile)


def test_sent_again(aioquic: Process, cafile: str) -> None:
    """H3_REQUEST_REJECTED and GOAWAY: nothing was done, so it is sent once more (RFC 9114 4.1.1, 5.2)."""

    async def scenario(client: AsyncClient) -> None:
        for path in ("/rejected", "/goaway"):
            response = await client.post(f"{aioquic.url}{path}", data=b"a body")
            assert await response.text() == "taken"
        with pytest.raises(StreamReset) as caught:
            await client.post(f"{aioquic.url}/rejected", data=iter([b"its source was read"]))
        assert caught.value.code == H3ErrorCode.H3_REQUEST_REJECTED
        assert await (await client.get(f"{aioquic.url}/rejected")).text() == "taken"

    talk(scenario, cafile=cafile)


def test_redirects_and_cookies(server: Process, cafile: str) -> None:
    """Redirects are followed when asked for (RFC 9110 15.4); cookies are the program's own affair."""

    async def scenario(client: AsyncClient) -> None:
        response = await client.get(f"{server.url}/redirect/3", follow_redirects=True)
        assert (response.url, len(response.history)) == (f"{server.url}/describe", 3)
        for code, method, body in (
            (302, "GET", ""),
            (303, "GET", ""),
            (307, "POST", "x"),
            (308, "POST", "x"),
        ):
            url = f"{server.url}/redirect/1?code={code}"
            answer = await (await client.post(url, data="x", follow_redirects=True)).json()
            assert (answer["method"], answer["body"]) == (method, body), code
        with pytest.raises(RedirectError, match="more than 10"):
            await client.get(f"{server.url}/redirect/12", follow_redirects=True)
        response = await client.get(f"{server.url}/cookie/set")
        assert response.headers.getlist("set-cookie") == ["a=1", "b=2"]
        assert "cookie" not in (await described(client, server.url))["headers"]
        answer = await described(client, server.url, headers={"cookie": "a=1"})
        assert answer["headers"]["cookie"] == "a=1"

    talk(scenario, cafile=cafile)


@pytest.mark.parametrize("early_data", ["never", "safe", "all"])
def test_tickets_and_early_data(server: Process, cafile: str, tmp_path: Path, early_data: str) -> None:
    """Tickets in memory and in a file resume sessions; in 0-RTT goes what was asked for (RFC 8470)."""
    link = "simple-p2p --delay=10ms --bandwidth=100Mbps --queue=100"
    path = tmp_path / "tickets"
    with Relay(link, upstream=("127.0.0.1", server.said["port"])) as relay:
        for store in (MemoryTickets(), FileTickets(path)):
            seen: list[bool] = []

            async def scenario(client: AsyncClient, seen: list[bool] = seen) -> None:
                method = ("GET", "GET", "POST")[len(seen)]
                response = await client.request(method, f"{relay.url}/describe")
                answer = await response.json()
                assert answer["early"] is response.early_data
                seen.append(answer["early"])
                await (await client.get(f"{relay.url}/hello")).content()  # and the next ticket has come
                assert client.connections()[relay.url].resumed is (len(seen) > 1)

            for _ in range(3):
                talk(scenario, cafile=cafile, config=ClientConfig(early_data=early_data), tickets=store)
            assert (
                seen
                == {"never": [False] * 3, "safe": [False, True, False], "all": [False, True, True]}[
                    early_data
                ]
            )
    assert stat.S_IMODE(path.stat().st_mode) == 0o600


def test_logs(server: Process, cafile: str, tmp_path: Path) -> None:
    """Secrets go into the key log, what happens into a qlog file per connection."""
    keys, logs = tmp_path / "keys", tmp_path / "qlog"

    async def scenario(client: AsyncClient) -> None:
        assert (await client.get(f"{server.url}/hello")).status == 200

    talk(scenario, cafile=cafile, config=ClientConfig(keylog_path=str(keys), qlog_dir=str(logs)))
    assert "CLIENT_TRAFFIC_SECRET_0" in keys.read_text()
    (log,) = logs.iterdir()
    assert len([json.loads(line) for line in log.read_text().split("\x1e") if line.strip()]) > 10


def test_moving(server: Process, cafile: str) -> None:
    """A download goes on while the client migrates (RFC 9000 9.2), and while a NAT moves it (9.3)."""
    size = 2 * MIB
    scenario = "rebind --delay=5ms --bandwidth=20Mbps --queue=100 --first-rebind=200ms --rebind-freq=400ms"

    async def run(url: str, moves: int) -> None:
        async with await quiche_h3.aconnect(url, cafile=cafile) as connection:
            async with await connection.get(f"/bytes/{size}") as response:
                body = await response.read(1000)
                for _ in range(moves):
                    assert connection.info.local_address != await connection.migrate()
                    body += await response.read(100_000)
                body += await response.read_all()
            assert body == b"".join(pattern.chunks(size))

    asyncio.run(run(server.url, 3))
    with Relay(scenario, upstream=("127.0.0.1", server.said["port"])) as relay:
        asyncio.run(run(relay.url, 0))


def test_certificates(go_peer: GoPeer, certificate: Certificate, cafile: str) -> None:
    """The server's is verified for its name; ours is shown to a server that demands one (RFC 8446 4.4.2)."""
    pem, key = certificate

    async def scenario(client: AsyncClient) -> None:
        assert (await described(client, process.url))["subject"]

    async def refused(client: AsyncClient) -> None:
        with pytest.raises(ConnectError, match=r"certificate is not accepted for 127\.0\.0\.1"):
            await client.get(f"{process.url}/hello")

    with started(go_peer.serve(pem, key, f"--client-ca={pem}")) as process:
        talk(
            scenario, cafile=cafile, config=ClientConfig(client_cert_path=str(pem), client_key_path=str(key))
        )
        talk(refused)
