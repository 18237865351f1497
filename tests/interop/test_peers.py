"""The peers against each other: what they report about this library is worth what they report here.

Each test runs with quic-go as the client of aioquic, and with aioquic as the client of quic-go.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from . import pattern
from .aioquic_peer import AioquicClient, PeerClosed, PeerReset, open_client
from .certificates import Certificate, make_certificate
from .programs import AioquicPeer, GoPeer, Peer, started

MIB = 1 << 20
H3_REQUEST_CANCELLED = 0x10C
H3_MESSAGE_ERROR = 0x10E


class Pair(NamedTuple):
    client: Peer
    url: str


@pytest.fixture(scope="module", params=["quic-go to aioquic", "aioquic to quic-go"])
def pair(
    request: pytest.FixtureRequest, go_peer: GoPeer, aioquic_peer: AioquicPeer, certificate: Certificate
) -> Iterator[Pair]:
    client, server = (
        (go_peer, aioquic_peer) if request.param.startswith("quic-go") else (aioquic_peer, go_peer)
    )
    with started(server.serve(*certificate)) as process:
        yield Pair(client, process.url)


@pytest.fixture(scope="module")
def go_url(go_peer: GoPeer, certificate: Certificate) -> Iterator[str]:
    with started(go_peer.serve(*certificate)) as process:
        yield process.url


def test_get(pair: Pair) -> None:
    """A GET brings status, a header and the body, with the certificate verified (RFC 9114 4.1)."""
    got = pair.client.run("get", pair.url + "/hello")
    assert (got["status"], got["body"]) == (200, "Hello, HTTP/3!")
    got = pair.client.run("get", pair.url + "/nowhere")
    assert got["status"] == 404


def test_get_verifies(pair: Pair, tmp_path: Path) -> None:
    """A certificate that nobody vouches for ends the connection, so that their trust means something."""
    stranger = make_certificate(tmp_path).certificate
    with pytest.raises(RuntimeError, match=r"(?i)certificate"):
        pair.client.trusting(stranger).run("get", pair.url + "/hello")
    assert pair.client.trusting(None).run("get", pair.url + "/hello")["status"] == 200


@pytest.mark.parametrize("connections", [1, 20])
def test_many(pair: Pair, connections: int) -> None:
    """100 requests in flight together, over one connection and over 20, each with the right body."""
    got = pair.client.run(
        "many", pair.url + "/hello", n=100, connections=connections, expect="Hello, HTTP/3!"
    )
    assert got == {"ok": 100, "failed": 0, "connections": connections}


def test_many_sees_a_wrong_body(pair: Pair) -> None:
    """A body other than the expected one fails the command."""
    with pytest.raises(RuntimeError, match='"failed":'):
        pair.client.run("many", pair.url + "/hello", n=2, expect="Hello, HTTP/2!")


def test_upload(pair: Pair) -> None:
    """What the server hashed is what the client sent."""
    got = pair.client.run("upload", pair.url + "/upload", size=3 * MIB + 1)
    assert got["sha256"] == pattern.sha256(3 * MIB + 1)
    assert json.loads(got["body"]) == {"bytes": 3 * MIB + 1, "sha256": got["sha256"]}


def test_download(pair: Pair) -> None:
    """What the client hashed is the pattern, which both sides make on their own."""
    got = pair.client.run("download", pair.url + f"/bytes/{3 * MIB + 1}")
    assert got == {"status": 200, "bytes": 3 * MIB + 1, "sha256": pattern.sha256(3 * MIB + 1)}


def test_trailers(pair: Pair) -> None:
    """Trailers arrive after the body (RFC 9114 4.1)."""
    got = pair.client.run("trailers", pair.url + "/trailers")
    assert (got["status"], got["body"]) == (200, "body before trailers")
    assert {name.lower(): values for name, values in got["trailers"].items()} == {
        "x-trailer": ["after the body"]
    }


def test_slow_holds_the_server_back(
    go_peer: GoPeer, aioquic_peer: AioquicPeer, certificate: Certificate
) -> None:
    """quic-go's ``slow`` keeps its window shut: the server cannot finish, and nothing fails."""
    with started(aioquic_peer.serve(*certificate)) as server:
        slow = go_peer.command("slow", server.url + f"/bytes/{8 * MIB}", window=256 << 10)
        with started(slow) as process:
            assert process.said == {"status": 200}


def test_churn(go_peer: GoPeer, aioquic_peer: AioquicPeer, certificate: Certificate) -> None:
    """One connection after the other, with a request on each."""
    with started(aioquic_peer.serve(*certificate)) as server:
        got = go_peer.run("churn", server.url + "/hello", n=20, connections=4, expect="Hello, HTTP/3!")
    assert got == {"ok": 20, "failed": 0}


def test_load_checks_bodies(go_peer: GoPeer, aioquic_peer: AioquicPeer, certificate: Certificate) -> None:
    """The benchmark's generator counts requests and CPU time, and fails on a body that is not the pattern."""
    with started(aioquic_peer.serve(*certificate)) as server:
        options: dict[str, Any] = {"connections": 2, "streams": 3, "duration": 0.2}
        got = go_peer.run("load", server.url + "/bytes/100000", size=100_000, **options)
        assert got["ok"] >= 6
        assert got["failed"] == 0
        assert got["cpu_seconds"] > 0
        with pytest.raises(RuntimeError, match="100000 bytes instead of 99999"):
            go_peer.run("load", server.url + "/bytes/100000", size=99_999, **options)
        with pytest.raises(RuntimeError, match="wrong byte"):
            go_peer.run("load", server.url + "/hello", size=14, **options)


def test_figures_of_a_process(aioquic_peer: AioquicPeer, certificate: Certificate) -> None:
    """Memory, its peak, CPU time and descriptors are those of the server's process and move with its work."""
    with started(aioquic_peer.serve(*certificate)) as server:
        aioquic_peer.run("download", server.url + "/hello")  # it has started, and opened what it keeps
        cpu, descriptors = server.cpu_seconds(), server.descriptors()
        aioquic_peer.run("download", server.url + f"/bytes/{4 * MIB}")
        assert server.cpu_seconds() - cpu > 0.02
        assert server.descriptors() == descriptors
        assert 10 * MIB < server.rss() <= server.peak_rss() < 500 * MIB
        server.forget_peak()
        assert server.peak_rss() - server.rss() < MIB


def test_echo_and_request_trailers(go_url: str, certificate: Certificate) -> None:
    """aioquic streams a body and trailers up while the echo streams them down."""

    async def scenario() -> None:
        async with open_client(go_url, str(certificate.certificate)) as client:
            done = await client.request(
                "POST", "/echo", body=pattern.chunks(300_000), trailers=[(b"x-end", b"1")], keep_body=False,
                headers=[(b"trailer", b"x-end")],
            )  # fmt: skip
            assert (done.status, done.size) == (200, 300_000)
            assert done.sha256.hexdigest() == pattern.sha256(300_000)
            assert done.trailers == [(b"x-end", b"1")]

    asyncio.run(scenario())


def test_malformed_request_is_seen_as_reset(go_url: str, certificate: Certificate) -> None:
    """``start`` sends what it is given: an uppercase name (RFC 9114 4.2) ends that stream and no more."""

    async def scenario() -> None:
        async with open_client(go_url, str(certificate.certificate)) as client:
            exchange = client.start(client.fields("GET", "/hello", [(b"X-Upper", b"1")]))
            with pytest.raises(PeerReset) as caught:
                await exchange.complete()
            assert caught.value.code == H3_MESSAGE_ERROR
            assert (await client.get("/hello")).body == b"Hello, HTTP/3!"

    asyncio.run(scenario())


def test_connection_error_is_seen_as_close(go_url: str, certificate: Certificate) -> None:
    """A second control stream is a connection error, H3_STREAM_CREATION_ERROR (RFC 9114 6.2.1)."""

    async def scenario() -> None:
        async with open_client(go_url, str(certificate.certificate)) as client:
            await client.get("/hello")
            client.open_unidirectional(b"\x00\x04\x00")
            error = await client.closed()
            assert (error.code, error.frame_type) == (0x103, None)
            with pytest.raises(PeerClosed):
                await client.get("/hello")

    asyncio.run(scenario())


def test_reset_and_stop_sending_leave_the_connection(go_url: str, certificate: Certificate) -> None:
    """A request cancelled in both directions costs its stream and no more (RFC 9114 4.1.1)."""

    async def scenario(client: AioquicClient) -> None:
        exchange = client.start(client.fields("POST", "/echo"), end_stream=False)
        await exchange.response()
        client.reset(exchange.stream_id, H3_REQUEST_CANCELLED)
        client.send_stop(exchange.stream_id, H3_REQUEST_CANCELLED)
        with pytest.raises(PeerReset):
            await exchange.complete()
        assert (await client.get("/hello")).status == 200

    async def connected() -> None:
        async with open_client(go_url, str(certificate.certificate)) as client:
            await scenario(client)

    asyncio.run(connected())


def test_stop_reading_shuts_the_window(go_url: str, certificate: Certificate) -> None:
    """After ``stop_reading`` only the credit given before arrives: 1 MiB at the start (RFC 9000 4.1)."""

    async def scenario() -> None:
        async with open_client(go_url, str(certificate.certificate)) as client:
            client.stop_reading()
            exchange = client.start(client.fields("GET", f"/bytes/{8 * MIB}"), keep_body=False)
            with pytest.raises(asyncio.TimeoutError):
                await exchange.complete(timeout=1.5)
            assert MIB - 65_536 < exchange.size <= MIB

    asyncio.run(scenario())
