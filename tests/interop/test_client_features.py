"""What the client can beyond requests and bodies, against servers that it does not share code with."""

from __future__ import annotations

import asyncio
import json
import queue
import socket
import stat
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from client_support import eventually
from cryptography import x509
from net.relay import Relay

import quiche_h3
from quiche_h3 import (
    AsyncClient,
    Client,
    ClientConfig,
    ConnectError,
    ConnectionClosed,
    ConnectTimedOut,
    FileTickets,
    H3ErrorCode,
    MemoryTickets,
    Priority,
    RedirectError,
    StreamReset,
    Timeouts,
)

from . import pattern
from .certificates import Certificate
from .programs import AioquicPeer, GoPeer, Peer, Process, started

MIB = 1 << 20


def described(client: Client, url: str, method: str = "GET", **options: Any) -> dict[str, Any]:
    answer: dict[str, Any] = client.request(method, f"{url}/describe", **options).json()
    return answer


# The pool


def test_one_connection_per_origin(server: Process, cafile: str) -> None:
    """100 requests of ten threads share one connection, which is kept between them (RFC 9114 3.3)."""
    with Client(cafile=cafile) as client:
        with ThreadPoolExecutor(10) as threads:
            texts = list(threads.map(lambda _: client.get(f"{server.url}/hello").text, range(100)))
        assert texts == ["Hello, HTTP/3!"] * 100
        assert list(client.connections()) == [server.url]
        first = described(client, server.url)["client"]
        assert described(client, server.url)["client"] == first


def test_limit_of_connections(peer: Peer, server: Process, certificate: Certificate, cafile: str) -> None:
    """With max_connections in use an idle one makes way; while all are busy a request waits its time."""
    with (
        started(peer.serve(*certificate)) as other,
        Client(cafile=cafile, config=ClientConfig(max_connections=1)) as client,
    ):
        assert client.get(f"{server.url}/hello").text == "Hello, HTTP/3!"
        assert client.get(f"{other.url}/hello").text == "Hello, HTTP/3!"
        assert list(client.connections()) == [other.url]
        with client.send("GET", f"{other.url}/slow"):
            with pytest.raises(ConnectTimedOut, match="all 1 connections were busy") as caught:
                client.get(f"{server.url}/hello", timeout=Timeouts(pool=0.1))
            assert caught.value.phase == "pool"
            waiting = ThreadPoolExecutor(1).submit(client.get, f"{server.url}/hello")
        assert waiting.result(10).text == "Hello, HTTP/3!"


def test_connection_that_ended_in_between(peer: Peer, certificate: Certificate, cafile: str) -> None:
    """A server that went away and came back costs an error at most once; then there is a new connection."""
    config = ClientConfig(idle_timeout_ms=500)
    with Client(cafile=cafile, config=config) as client:
        with started(peer.serve(*certificate), code=None) as process:
            url, port = process.url, process.said["port"]
            assert client.get(f"{url}/hello").status == 200
        while client.connections():
            pass
        with started(peer.serve(*certificate, f"--address=127.0.0.1:{port}")):
            assert client.get(f"{url}/hello").status == 200


def test_more_requests_than_streams(go_peer: GoPeer, certificate: Certificate, cafile: str) -> None:
    """60 requests to a server that takes 5 at a time: the others wait for their stream (RFC 9000 4.6)."""
    with started(go_peer.serve(*certificate, "--max-streams=5")) as process, Client(cafile=cafile) as client:
        requests = [client.send("GET", f"{process.url}/hello") for _ in range(60)]
        assert {request.response().text for request in requests} == {"Hello, HTTP/3!"}


def test_redirects(server: Process, cafile: str) -> None:
    """Followed when asked, by the rules for method, body and credentials (RFC 9110 15.4), up to the limit."""
    with Client(cafile=cafile) as client:
        assert client.get(f"{server.url}/redirect/2").status == 302
        response = client.get(f"{server.url}/redirect/3", follow_redirects=True)
        assert (response.url, len(response.history)) == (f"{server.url}/describe", 3)
        for code, method, body in (
            (301, "GET", ""),
            (303, "GET", ""),
            (307, "POST", "x"),
            (308, "POST", "x"),
        ):
            answer = client.post(
                f"{server.url}/redirect/1?code={code}", data="x", follow_redirects=True
            ).json()
            assert (answer["method"], answer["body"]) == (method, body), code
        with pytest.raises(RedirectError, match="more than 10"):
            client.get(f"{server.url}/redirect/12", follow_redirects=True)
        with pytest.raises(RedirectError, match="source was read"):
            client.post(f"{server.url}/redirect/1?code=307", data=iter([b"x"]), follow_redirects=True)


def test_priority(server: Process, cafile: str) -> None:
    """A request's priority is in its Priority field (RFC 9218 5)."""
    with Client(cafile=cafile) as client:
        answer = described(client, server.url, priority=Priority(1, True))
        assert answer["headers"]["priority"] == "u=1, i"


def test_priority_of_a_running_request(aioquic: Process, cafile: str) -> None:
    """A priority that is changed later goes out as PRIORITY_UPDATE on the control stream (RFC 9218 7.2)."""
    update = (0x800F0700).to_bytes(4, "big")
    with (
        quiche_h3.connect(aioquic.url, cafile=cafile) as client,
        client.open("POST", "/unidirectional", priority=Priority(3, False)) as request,
    ):
        request.set_priority(Priority(6, True))
        request.set_priority(Priority(0, False))
        with pytest.raises(ValueError, match="0 to 7"):
            request.set_priority(Priority(8, False))
        client.get("/hello")
        request.end()
        sent = bytes.fromhex(request.response().text)
    _, first, second = sent.split(update)
    assert first == b"\x06\x00u=6,i"
    assert second.startswith(b"\x04\x00u=0")


def test_interim_responses(server: Process, cafile: str) -> None:
    """1xx responses come with the final one, in their order (RFC 9114 4.1)."""
    with Client(cafile=cafile) as client:
        response = client.get(f"{server.url}/interim")
        assert (response.status, response.text) == (200, "after two")
        assert [hint.status for hint in response.interim] == [103, 102]
        assert response.interim[0].headers["link"] == "</a.css>"


# Requests that were not processed


def test_rejected_request_is_sent_again(aioquic: Process, cafile: str) -> None:
    """H3_REQUEST_REJECTED: nothing was done with it, so any method is sent once more (RFC 9114 4.1.1)."""
    url = f"{aioquic.url}/rejected"
    with Client(cafile=cafile) as client:
        assert client.post(url, data=b"a body").text == "taken"
        with pytest.raises(StreamReset) as caught:  # its body is gone
            client.post(url, data=iter([b"a body"]))
        assert caught.value.code == H3ErrorCode.H3_REQUEST_REJECTED
        assert client.get(url).text == "taken"
    with Client(cafile=cafile, config=ClientConfig(max_retries=0)) as client, pytest.raises(StreamReset):
        client.get(url)
    with quiche_h3.connect(url, cafile=cafile) as connection:
        assert connection.get("/rejected").text == "taken"


def test_request_beyond_the_goaway(aioquic: Process, cafile: str) -> None:
    """A request that GOAWAY leaves out is sent again on a new connection (RFC 9114 5.2), sync and async."""
    url = f"{aioquic.url}/goaway"
    with Client(cafile=cafile) as client:
        before = described(client, aioquic.url)["client"]
        assert client.post(url, data=b"a body").text == "taken"
        assert described(client, aioquic.url)["client"] == before  # of another connection by the same socket

    async def run() -> str:
        async with AsyncClient(cafile=cafile) as client:
            return await (await client.get(url)).text()

    assert asyncio.run(run()) == "taken"
    with quiche_h3.connect(aioquic.url, cafile=cafile) as connection:
        with pytest.raises(StreamReset):
            connection.get("/goaway")
        assert connection.closed
        with pytest.raises(ConnectionClosed, match="GOAWAY"):
            connection.get("/hello")
        with quiche_h3.connect(aioquic.url, cafile=cafile) as next_one:
            assert next_one.get("/goaway").text == "taken"


def test_graceful_end_of_the_server(go_peer: GoPeer, certificate: Certificate, cafile: str) -> None:
    """After quic-go's GOAWAY the request under way is finished, and no further one is begun."""
    with (
        started(go_peer.serve(*certificate)) as process,
        quiche_h3.connect(process.url, cafile=cafile) as client,
        client.open("POST", "/goaway") as request,
    ):
        response = request.response()
        while not client.closed:
            request.write(b"still here")
        with pytest.raises(ConnectionClosed, match="GOAWAY"):
            client.get("/hello")
        request.end()
        assert response.text == "the last one"


def test_cancellation_code(aioquic: Process, cafile: str) -> None:
    """Time out, cancelled task, closed response: the server is told H3_REQUEST_CANCELLED (RFC 9114 4.1.1)."""
    with Client(cafile=cafile) as client:
        told = len(described(client, aioquic.url)["cancelled"])
        with pytest.raises(quiche_h3.TimedOut):
            client.get(f"{aioquic.url}/slow", timeout=Timeouts(read=0.05))
        client.get(f"{aioquic.url}/bytes/{16 * MIB}").close()

        async def run() -> None:
            async with AsyncClient(cafile=cafile) as client:
                with pytest.raises(asyncio.TimeoutError):
                    await asyncio.wait_for(client.get(f"{aioquic.url}/slow"), 0.05)
                await client.get(f"{aioquic.url}/hello")

        asyncio.run(run())
        codes = described(client, aioquic.url)["cancelled"][told:]
    assert len(codes) >= 3
    assert set(codes) == {H3ErrorCode.H3_REQUEST_CANCELLED}


# Sessions


@pytest.fixture
def distant(server: Process) -> Iterator[str]:
    """The server behind a round trip of 20 ms: what comes in 0-RTT is there before the handshake's end."""
    link = "simple-p2p --delay=10ms --bandwidth=100Mbps --queue=100"
    with Relay(link, upstream=("127.0.0.1", server.said["port"])) as relay:
        yield relay.url


def test_resumption(server: Process, cafile: str, tmp_path: Path) -> None:
    """A ticket resumes one session, and each session brings the next ticket (RFC 8446 4.6.1, C.4)."""
    path = tmp_path / "tickets"
    for store in (MemoryTickets(), FileTickets(path)):
        resumed = []
        for _ in range(3):
            with quiche_h3.connect(server.url, cafile=cafile, tickets=store) as client:
                resumed.append(client.get("/describe").json()["resumed"])
                assert client.info.resumed is resumed[-1]
        assert resumed == [False, True, True]
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    # What was trusted without verification resumes nothing that is verified.
    store = MemoryTickets()
    with quiche_h3.connect(server.url, verify=False, tickets=store) as client:
        assert client.get("/hello").status == 200
    with quiche_h3.connect(server.url, cafile=cafile, tickets=store) as client:
        assert not client.info.resumed


@pytest.mark.parametrize("early_data", ["never", "safe", "all"])
def test_early_data(distant: str, cafile: str, early_data: str) -> None:
    """In 0-RTT go safe requests alone, unless all are asked for, and none by default (RFC 8470 4)."""
    store = MemoryTickets()
    config = ClientConfig(early_data=early_data)
    seen = []
    for method in ("GET", "GET", "POST"):
        with Client(cafile=cafile, config=config, tickets=store) as client:
            body = "x" if method == "POST" else None
            response = client.request(method, f"{distant}/describe", data=body)
            answer = response.json()
            assert answer["early"] is response.early_data
            assert answer["body"] == ("x" if method == "POST" else "")
            seen.append(answer["early"])
            assert client.get(f"{distant}/hello").status == 200  # and the next ticket has come
    assert (
        seen == {"never": [False] * 3, "safe": [False, True, False], "all": [False, True, True]}[early_data]
    )


def test_too_early(distant: str, cafile: str) -> None:
    """A server that answers 425 in 0-RTT gets the request again after the handshake (RFC 8470 5.2)."""
    store = MemoryTickets()
    for expected in (False, True):
        with Client(cafile=cafile, config=ClientConfig(early_data="safe"), tickets=store) as client:
            response = client.get(f"{distant}/too-early")
            assert (response.status, response.json()["early"]) == (200, False)
            assert next(iter(client.connections().values())).resumed is expected

    async def run() -> int:
        config = ClientConfig(early_data="safe")
        async with AsyncClient(cafile=cafile, config=config, tickets=store) as client:
            return (await client.get(f"{distant}/too-early")).status

    assert asyncio.run(run()) == 200


def test_early_data_rejected(peer: Peer, certificate: Certificate, cafile: str) -> None:
    """A server that forgot our session takes the request all the same, in 1-RTT (RFC 9001 4.6.2)."""
    store = MemoryTickets()
    config = ClientConfig(early_data="safe")
    address = "--address=127.0.0.1:0"
    for turn in range(2):
        with started(peer.serve(*certificate, address)) as process:
            address = f"--address=127.0.0.1:{process.said['port']}"
            with Client(cafile=cafile, config=config, tickets=store) as client:
                answer = described(client, process.url)
                assert (answer["early"], answer["resumed"]) == (False, False), turn
                assert client.connections()[process.url].resumed is False
                body = client.get(f"{process.url}/bytes/{MIB}").content
                assert body == b"".join(pattern.chunks(MIB))


# The connection


def test_retry(peer: Peer, certificate: Certificate, cafile: str) -> None:
    """A server that sends Retry gets the token back, also with 0-RTT in the first flight (RFC 9000 8.1.2)."""
    store = MemoryTickets()
    with started(peer.serve(*certificate, "--retry")) as process:
        for _ in range(2):
            config = ClientConfig(early_data="safe")
            with Client(cafile=cafile, config=config, tickets=store) as client:
                assert described(client, process.url)["method"] == "GET"
                assert client.post(f"{process.url}/upload", data=b"x" * 100_000).json()["bytes"] == 100_000


def test_key_update_by_the_server(aioquic: Process, cafile: str) -> None:
    """aioquic updates its keys in mid-connection, three times, and we follow each time (RFC 9001 6)."""
    with quiche_h3.connect(aioquic.url, cafile=cafile) as client:
        phases = []
        for _ in range(3):
            assert client.get("/new-keys").text == "with new keys"
            phases.append(client.get("/describe").json()["key_phase"])
            assert client.get(f"/bytes/{MIB}").content == b"".join(pattern.chunks(MIB))
        assert phases == [1, 0, 1]


def test_server_of_another_version(aioquic_peer: AioquicPeer, certificate: Certificate, cafile: str) -> None:
    """Version Negotiation that offers none of ours: said at once, and by its name (RFC 9000 6.2)."""
    with (
        started(aioquic_peer.serve(*certificate, f"--version={0x6B3343CF}")) as process,
        pytest.raises(ConnectError, match="speaks no version of QUIC"),
    ):
        quiche_h3.connect(process.url, cafile=cafile, config=ClientConfig(connect_timeout_ms=5000))


def test_server_of_another_protocol(aioquic_peer: AioquicPeer, certificate: Certificate, cafile: str) -> None:
    """A server that speaks no HTTP/3 says so by its TLS alert (RFC 7301 3.2)."""
    with (
        started(aioquic_peer.serve(*certificate, "--alpn=hq-interop")) as process,
        pytest.raises(ConnectError, match=r"no_application_protocol|handshake_failure"),
    ):
        quiche_h3.connect(process.url, cafile=cafile)


def test_code_of_the_close(aioquic: Process, cafile: str) -> None:
    """A client that goes says H3_NO_ERROR (RFC 9114 5.2), sync and async."""

    async def run() -> None:
        async with AsyncClient(cafile=cafile) as client:
            await client.get(f"{aioquic.url}/hello")

    with Client(cafile=cafile) as watcher:
        before = len(described(watcher, aioquic.url)["closed"])
        with quiche_h3.connect(aioquic.url, cafile=cafile) as client:
            client.get("/hello")
        asyncio.run(run())
        codes: list[int] = []

        def told() -> bool:
            codes[:] = described(watcher, aioquic.url)["closed"][before:]
            return len(codes) >= 2

        eventually(told)
        assert codes == [H3ErrorCode.H3_NO_ERROR] * 2


def test_migration(server: Process, cafile: str) -> None:
    """A download goes on while the client changes its port three times; the server sees it (RFC 9000 9)."""
    size = 4 * MIB
    with quiche_h3.connect(server.url, cafile=cafile) as client:
        ports = {client.info.local_address[1]}
        with client.get(f"/bytes/{size}") as response:
            received = response.read(1000)
            for _ in range(3):
                host, port = client.migrate()
                assert client.info.local_address == (host, port)
                ports.add(port)
                received += response.read(100_000)
            received += response.read_all()
        assert received == b"".join(pattern.chunks(size))
        assert len(ports) == 4
        assert client.get("/describe").json()["client"].endswith(f":{port}")
        with pytest.raises(OSError, match="is not an address of this machine"):
            client.migrate("192.0.2.1")
        assert client.get("/hello").status == 200

    async def run() -> None:
        async with await quiche_h3.aconnect(server.url, cafile=cafile) as client:
            _, port = await client.migrate("127.0.0.1")
            answer = await (await client.get("/describe")).json()
            assert answer["client"].endswith(f":{port}")

    asyncio.run(run())


def test_rebinding(server: Process, cafile: str) -> None:
    """A NAT that gives the client a new port again and again does not stop a transfer (RFC 9000 9.3)."""
    scenario = "rebind --delay=5ms --bandwidth=20Mbps --queue=100 --first-rebind=200ms --rebind-freq=400ms"
    with Relay(scenario, upstream=("127.0.0.1", server.said["port"])) as relay:
        url = f"https://127.0.0.1:{relay.port}"
        with quiche_h3.connect(url, cafile=cafile) as client:
            size = 2 * MIB
            assert client.get(f"/bytes/{size}").content == b"".join(pattern.chunks(size))
            answer = client.post("/upload", data=pattern.chunks(size)).json()
            assert answer == {"bytes": size, "sha256": pattern.sha256(size)}


def test_http_datagrams(aioquic: Process, cafile: str) -> None:
    """HTTP datagrams belong to their request (RFC 9297 2.1), here of two requests at once."""

    async def run() -> None:
        async with await quiche_h3.aconnect(aioquic.url, cafile=cafile) as client:
            requests = [await client.open("POST", "/echo") for _ in range(2)]
            for request in requests:
                await request.response()
            requests[1].send_datagram(b"second")
            requests[0].send_datagram(b"first")
            got = [await asyncio.wait_for(request.datagrams().__anext__(), 10) for request in requests]
            assert got == [b"tsrif", b"dnoces"]

    asyncio.run(run())


def test_quic_datagrams(aioquic: Process, cafile: str) -> None:
    """Datagrams of no request go both ways (RFC 9221), from the first on; aioquic turns them round."""
    for number in range(20):
        with quiche_h3.connect(aioquic.url, cafile=cafile) as client:
            came: queue.SimpleQueue[bytes] = queue.SimpleQueue()
            client.on_datagram(came.put)
            client.send_datagram(b"\x3f%02d" % number)
            assert came.get(timeout=5) == b"\x3f" + (b"%02d" % number)[::-1]


def test_client_certificate(go_peer: GoPeer, certificate: Certificate, cafile: str) -> None:
    """A server that demands a certificate gets ours; without one the handshake fails (RFC 8446 4.4.2)."""
    pem, key = certificate
    name = x509.load_pem_x509_certificate(pem.read_bytes()).subject
    with started(go_peer.serve(pem, key, f"--client-ca={pem}")) as process:
        config = ClientConfig(client_cert_path=str(pem), client_key_path=str(key))
        with Client(cafile=cafile, config=config) as client:
            assert (
                described(client, process.url)["subject"]
                == name.get_attributes_for_oid(x509.NameOID.COMMON_NAME)[0].value
            )
        with Client(cafile=cafile) as client, pytest.raises((ConnectError, ConnectionClosed), match="certif"):
            client.get(f"{process.url}/hello")
    with pytest.raises(quiche_h3.ConfigError, match="client_key_path"):
        Client(config=ClientConfig(client_cert_path=str(pem)))


def test_logs(server: Process, cafile: str, tmp_path: Path) -> None:
    """Secrets go into the key log, what happens into a qlog file per connection."""
    keys, logs = tmp_path / "keys", tmp_path / "qlog"
    config = ClientConfig(keylog_path=str(keys), qlog_dir=str(logs))
    with Client(cafile=cafile, config=config) as client:
        assert client.get(f"{server.url}/hello").status == 200
    labels = {line.split()[0] for line in keys.read_text().splitlines()}
    assert {"CLIENT_HANDSHAKE_TRAFFIC_SECRET", "SERVER_TRAFFIC_SECRET_0"} <= labels
    (log,) = logs.iterdir()
    events = [json.loads(line) for line in log.read_text().split("\x1e") if line.strip()]
    assert len(events) > 10


def test_silent_address_first(server: Process, cafile: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """An IPv6 address that is silent delays the IPv4 one by an instant and no more (RFC 8305 5)."""
    with socket.socket(socket.AF_INET6, socket.SOCK_DGRAM) as silent:
        silent.bind(("::1", 0))
        port = server.said["port"]
        found = [
            (socket.AF_INET6, 2, 17, "", ("::1", silent.getsockname()[1], 0, 0)),
            (socket.AF_INET, 2, 17, "", ("127.0.0.1", port)),
        ]
        monkeypatch.setattr("socket.getaddrinfo", lambda *args, **kwargs: found)
        with Client(cafile=cafile, config=ClientConfig(connect_timeout_ms=5000)) as client:
            assert client.get(f"https://localhost:{port}/hello").status == 200
            (info,) = client.connections().values()
            assert info.address == ("127.0.0.1", port)
            assert info.handshake_s < 2
