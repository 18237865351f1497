"""This library's server as quic-go and aioquic see it: what they ask for arrives, and its memory stays.

The server runs in a process of its own, so that its memory and descriptors are its alone.
"""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from typing import Any

import pytest
from aioquic.quic.packet import QuicProtocolVersion
from client_support import eventually
from net.relay import Relay

from quiche_h3 import ServerConfig

from . import pattern
from .aioquic_peer import AioquicClient, PeerReset, configure, open_client
from .certificates import Certificate
from .programs import AioquicPeer, GoPeer, Peer, Process, started

KIB, MIB, GIB = 1 << 10, 1 << 20, 1 << 30
H3_REQUEST_CANCELLED = 0x10C
H3_MESSAGE_ERROR = 0x10E


@pytest.fixture(scope="module")
def server(certificate: Certificate) -> Iterator[Process]:
    """The application of apps.py, served by this library; ends with exit code 0 or the tests fail."""
    command = [sys.executable, "-m", "interop.apps", str(certificate.certificate), str(certificate.key)]
    with started(command) as process:
        yield process


@pytest.fixture(params=[16 * MIB, pytest.param(GIB, marks=[pytest.mark.slow, pytest.mark.timeout(600)])])
def large(request: pytest.FixtureRequest) -> int:
    """The size of a large body in bytes: 1 GiB when there is time for it."""
    size: int = request.param
    return size


def settle(read: Callable[[], int], seconds: float = 1.0) -> int:
    """Return the value that ``read`` keeps for ``seconds``. That nothing more happens is no event: look."""
    value, since, end = read(), time.monotonic(), time.monotonic() + 30
    while time.monotonic() - since < seconds:
        assert time.monotonic() < end, f"did not settle: {value}"
        time.sleep(0.05)
        if (now := read()) != value:
            value, since = now, time.monotonic()
    return value


def with_client(
    server: Process, certificate: Certificate, scenario: Callable[[AioquicClient], object]
) -> None:
    """Run an asynchronous scenario with one aioquic connection."""

    async def connected() -> None:
        async with open_client(server.url, str(certificate.certificate)) as client:
            await scenario(client)  # type: ignore[misc]

    asyncio.run(connected())


def test_hello(server: Process, peer: Peer) -> None:
    """Both peers verify the certificate and get the page (RFC 9114 4.1)."""
    got = peer.run("get", server.url + "/hello")
    assert (got["status"], got["body"]) == (200, "Hello, HTTP/3!")
    assert peer.run("get", server.url + "/nowhere")["status"] == 404


@pytest.mark.parametrize("connections", [1, 20])
def test_many(server: Process, peer: Peer, connections: int) -> None:
    """100 GETs in flight together on one connection, and over 20."""
    got = peer.run("many", server.url + "/hello", n=100, connections=connections, expect="Hello, HTTP/3!")
    assert got == {"ok": 100, "failed": 0, "connections": connections}


@pytest.mark.parametrize("path", ["/upload", "/upload-async", "/upload-generator", "/upload-whole"])
def test_upload(server: Process, peer: Peer, path: str) -> None:
    """A body of 900 KiB and a byte arrives whole: blocking, asynchronous, generator, and not streamed."""
    size = 900 * KIB + 1
    got = peer.run("upload", server.url + path, size=size)
    assert json.loads(got["body"]) == {"bytes": size, "sha256": pattern.sha256(size)}


def test_download(server: Process, peer: Peer) -> None:
    """A generator's body of 5 MiB and a byte arrives whole."""
    size = 5 * MIB + 1
    got = peer.run("download", f"{server.url}/bytes/{size}")
    assert got == {"status": 200, "bytes": size, "sha256": pattern.sha256(size)}


def test_empty_bodies(server: Process, peer: Peer) -> None:
    """An empty upload and an empty generator are complete messages, not stalled ones."""
    assert json.loads(peer.run("upload", server.url + "/upload", size=0)["body"])["bytes"] == 0
    assert peer.run("download", server.url + "/bytes/0")["bytes"] == 0


def test_trailers(server: Process, peer: Peer) -> None:
    """Response trailers arrive after the body (RFC 9114 4.1)."""
    got = peer.run("trailers", server.url + "/trailers")
    assert (got["status"], got["body"]) == (200, "body before trailers")
    assert {name.lower(): values for name, values in got["trailers"].items()} == {
        "x-trailer": ["after the body"]
    }


def test_large_upload_in_constant_memory(server: Process, go_peer: GoPeer, large: int) -> None:
    """A large upload is right by SHA-256 while the server's resident memory grows by less than 8 MiB."""
    go_peer.run("upload", server.url + "/upload", size=4 * MIB)
    before = server.rss()
    server.forget_peak()
    got = go_peer.run("upload", server.url + "/upload", size=large, timeout=600)
    assert json.loads(got["body"]) == {"bytes": large, "sha256": pattern.sha256(large)}
    assert server.peak_rss() - before < 8 * MIB


def test_large_download_in_constant_memory(server: Process, go_peer: GoPeer, large: int) -> None:
    """A large download is right by SHA-256 while the server's resident memory grows by less than 8 MiB."""
    go_peer.run("download", f"{server.url}/bytes/{4 * MIB}")
    before = server.rss()
    server.forget_peak()
    got = go_peer.run("download", f"{server.url}/bytes/{large}", timeout=600)
    assert got == {"status": 200, "bytes": large, "sha256": pattern.sha256(large)}
    assert server.peak_rss() - before < 8 * MIB


def test_client_that_stops_reading(server: Process, go_peer: GoPeer, aioquic_peer: AioquicPeer) -> None:
    """The producer of an unread 1 GiB stops at the flow-control window plus what one response may queue.

    The window is the client's (RFC 9000 4.1), the queue max_response_queue_bytes. Others are served.
    """
    window = 512 * KIB
    total = 0

    def produced() -> int:
        nonlocal total
        got = aioquic_peer.run("get", server.url + "/produced")
        total += int(json.loads(got["body"])["produced"])
        return total

    produced()
    total = 0
    with started(go_peer.command("slow", f"{server.url}/bytes/{GIB}", window=window)) as slow:
        assert slow.said == {"status": 200}
        held = settle(produced)
        one_chunk = len(pattern.BLOCK)
        assert held <= window + ServerConfig().max_response_queue_bytes + one_chunk
        got = go_peer.run("get", server.url + "/hello")
        assert got["body"] == "Hello, HTTP/3!"


def test_upload_that_nobody_reads(server: Process, certificate: Certificate) -> None:
    """An unread upload stops at the stream's initial window (RFC 9000 4.1), then goes on where it stopped."""
    size = 8 * MIB

    async def scenario(client: AioquicClient) -> None:
        exchange = client.start(client.fields("POST", "/unread"), end_stream=False)
        stream_id = exchange.stream_id
        sending = asyncio.ensure_future(client.send_body(stream_id, pattern.chunks(size), True))
        loop = asyncio.get_running_loop()
        held = await loop.run_in_executor(None, settle, lambda: client.sent(stream_id))
        window = ServerConfig().initial_max_stream_data_bidi_remote
        assert window - 16 * KIB < held <= window
        assert (await client.get("/release")).status == 200
        await exchange.complete()
        await sending
        assert json.loads(exchange.body) == {"bytes": size, "sha256": pattern.sha256(size)}

    with_client(server, certificate, scenario)


def test_echo(server: Process, certificate: Certificate) -> None:
    """A body streams up and down at the same time, in both directions far beyond every window."""

    async def scenario(client: AioquicClient) -> None:
        done = await client.request("POST", "/echo", body=pattern.chunks(4 * MIB), keep_body=False)
        assert (done.status, done.size) == (200, 4 * MIB)
        assert done.sha256.hexdigest() == pattern.sha256(4 * MIB)

    with_client(server, certificate, scenario)


def test_request_cancelled_halfway(server: Process, certificate: Certificate) -> None:
    """Cancelled uploads and downloads cost their streams and no more, 250 times over (RFC 9114 4.1.1)."""

    async def scenario(client: AioquicClient) -> None:
        for turn in range(250):
            path = "/echo" if turn % 2 else f"/bytes/{64 * MIB}"
            exchange = client.start(client.fields("POST" if turn % 2 else "GET", path), end_stream=False)
            if turn % 2:
                await client.send_body(exchange.stream_id, [b"part"], False)
            await exchange.response()
            client.reset(exchange.stream_id, H3_REQUEST_CANCELLED)
            client.send_stop(exchange.stream_id, H3_REQUEST_CANCELLED)
            with pytest.raises(PeerReset):
                await exchange.complete()
        assert (await client.get("/hello")).body == b"Hello, HTTP/3!"

    with_client(server, certificate, scenario)


@pytest.mark.parametrize("field", [(b"X-Upper", b"1"), (b"connection", b"close"), (b"bad name", b"1")])
def test_malformed_request(server: Process, certificate: Certificate, field: tuple[bytes, bytes]) -> None:
    """A malformed field is a stream error, H3_MESSAGE_ERROR, and the connection lives on (RFC 9114 4.1.2)."""

    async def scenario(client: AioquicClient) -> None:
        exchange = client.start(client.fields("GET", "/hello", [field]))
        (outcome,) = await asyncio.gather(exchange.complete(), return_exceptions=True)
        if isinstance(outcome, PeerReset):
            assert outcome.code == H3_MESSAGE_ERROR
        else:
            assert exchange.status == 400
        assert (await client.get("/hello")).body == b"Hello, HTTP/3!"

    with_client(server, certificate, scenario)


@pytest.mark.parametrize(
    "count", [300, pytest.param(10_000, marks=[pytest.mark.slow, pytest.mark.timeout(600)])]
)
def test_connections_leave_nothing_behind(server: Process, go_peer: GoPeer, count: int) -> None:
    """After ``count`` connections memory, descriptors and objects are back where 300 before had left them."""
    options: dict[str, Any] = {"connections": 8, "expect": "Hello, HTTP/3!"}

    def live() -> dict[str, int]:
        """What lives, once every connection but the one that asks is gone: they close in their own time."""
        end = time.monotonic() + 30
        while (found := json.loads(go_peer.run("get", server.url + "/live")["body"]))["Connection"] > 1:
            assert time.monotonic() < end, f"connections stay: {found}"
            time.sleep(0.1)
        return dict(found)

    assert go_peer.run("churn", server.url + "/hello", n=300, **options)["failed"] == 0
    objects, descriptors, memory = live(), server.descriptors(), server.rss()
    got = go_peer.run("churn", server.url + "/hello", n=count, timeout=600, **options)
    assert got == {"ok": count, "failed": 0}
    after = live()
    assert abs(after.pop("blocks") - objects.pop("blocks")) < 500
    assert after == objects
    assert settle(server.descriptors) <= descriptors
    assert server.rss() - memory < 2 * MIB


def test_version_negotiation(server: Process, certificate: Certificate) -> None:
    """RFC 9000 6: a client that begins with an unknown version is told of ours, and comes back with it."""
    configuration = configure(str(certificate.certificate))
    configuration.original_version = 0x1A2A3A4A  # reserved (RFC 9000 15)
    configuration.supported_versions = [0x1A2A3A4A, QuicProtocolVersion.VERSION_1]

    async def run() -> tuple[bytes, int | None]:
        async with open_client(server.url, configuration=configuration) as client:
            return (await client.get("/hello")).body, client._quic._version

    assert asyncio.run(run()) == (b"Hello, HTTP/3!", QuicProtocolVersion.VERSION_1)


def test_stateless_reset(go_peer: GoPeer) -> None:
    """RFC 9000 10.3: a server that was killed and started again ends quic-go's upload at once."""

    def serve(port: int) -> AbstractContextManager[Process]:
        options = json.dumps({"secret_key": "ab" * 32, "bind_port": port, "max_request_body_size": 2 * GIB})
        return started([sys.executable, "-m", "net.site", "serve", options], code=None)

    with serve(0) as first, Relay("simple-p2p", upstream=("127.0.0.1", first.said["port"])) as relay:
        command = go_peer.trusting(None).command("upload", f"{relay.url}/sha256", size=GIB, timeout=60)
        with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as client:
            eventually(lambda: len(relay.log) >= 200)
            first.popen.kill()
            first.popen.wait()
            with serve(first.said["port"]):
                _, told = client.communicate(timeout=30)
    assert client.returncode == 1
    assert "stateless reset" in told
