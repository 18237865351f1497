"""This library's client against servers that it did not write: quic-go and aioquic."""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from cli_support import run

import quiche_h3
from quiche_h3 import ClientConnection, ConnectError, ConnectionClosed, StreamingError, TimedOut

from . import pattern
from .certificates import Certificate, make_certificate
from .programs import GoPeer, Peer, Process, started

KIB, MIB, GIB = 1 << 10, 1 << 20, 1 << 30


@pytest.fixture
def client(server: Process, certificate: Certificate) -> Iterator[ClientConnection]:
    with quiche_h3.connect(server.url, cafile=str(certificate.certificate)) as client:
        yield client


def sha256(chunks: Iterator[bytes]) -> str:
    digest = hashlib.sha256()
    for chunk in chunks:
        digest.update(chunk)
    return digest.hexdigest()


def test_get(client: ClientConnection) -> None:
    """Certificate verified, h3 negotiated, status and body as they should be (RFC 9114 3.1, 4.1)."""
    response = client.get("/hello")
    assert (response.status, response.text) == (200, "Hello, HTTP/3!")
    assert client.get("/nowhere").status == 404
    assert client.info.alpn == "h3"


@pytest.mark.parametrize("host", ["localhost", "127.0.0.1"])
def test_trust(server: Process, certificate: Certificate, tmp_path: Path, host: str) -> None:
    """Name and address are verified against the certificate; a stranger's authority does not help."""
    url = f"https://{host}:{server.said['port']}/"
    with quiche_h3.connect(url, cafile=str(certificate.certificate)) as client:
        assert client.get("/hello").status == 200
    stranger = make_certificate(tmp_path).certificate
    for cafile in (None, str(stranger)):
        with pytest.raises(ConnectError, match=f"certificate is not accepted for {host}"):
            quiche_h3.connect(url, cafile=cafile)
    with quiche_h3.connect(url, verify=False) as client:
        assert client.get("/hello").status == 200


def test_system_store(server: Process, certificate: Certificate, tmp_path: Path) -> None:
    """The system's authorities are trusted, beside those of cafile; SSL_CERT_FILE says where they are."""
    stranger = make_certificate(tmp_path).certificate
    for extra in ((), ("--ca", stranger)):
        command = ("get", *extra, f"https://localhost:{server.said['port']}/hello")
        done = run(*command, SSL_CERT_FILE=str(certificate.certificate))
        assert (done.returncode, done.stdout) == (0, "Hello, HTTP/3!"), done.stderr
        assert run(*command, SSL_CERT_FILE=str(stranger)).returncode == 60


def test_many(client: ClientConnection) -> None:
    """100 requests in flight on one connection, from one thread and from many."""
    requests = [client.send("GET", "/hello") for _ in range(100)]
    assert all(request.response().text == "Hello, HTTP/3!" for request in requests)
    with ThreadPoolExecutor(10) as pool:
        texts = list(pool.map(lambda _: client.get("/hello").text, range(100)))
    assert texts == ["Hello, HTTP/3!"] * 100


def test_post(client: ClientConnection) -> None:
    """A body of bytes, of an iterable, and none at all arrive whole by SHA-256."""
    size = 900 * KIB + 1
    body = b"".join(pattern.chunks(size))
    expected = {"bytes": size, "sha256": pattern.sha256(size)}
    assert client.post("/upload", data=body).json() == expected
    assert client.post("/upload", data=pattern.chunks(size)).json() == expected
    assert client.post("/upload").json()["bytes"] == 0
    assert client.post("/upload", data=iter(())).json()["bytes"] == 0


@pytest.mark.parametrize(
    "size",
    [16 * MIB, pytest.param(GIB, marks=[pytest.mark.slow, pytest.mark.timeout(900)])],
    ids=["16MiB", "1GiB"],
)
def test_large(client: ClientConnection, go_peer: GoPeer, peer: Peer, size: int) -> None:
    """A large body comes and goes whole, streamed."""
    if size == GIB and peer is not go_peer:
        pytest.skip("aioquic would take minutes for a GiB")
    with client.get(f"/bytes/{size}") as response:
        assert sha256(iter(response)) == pattern.sha256(size)
    answer = client.post("/upload", data=pattern.chunks(size)).json()
    assert answer == {"bytes": size, "sha256": pattern.sha256(size)}


def test_both_ways_at_once(client: ClientConnection) -> None:
    """16 MiB through an echo, far beyond every window, with trailers after it and back (RFC 9114 4.1)."""
    size = 16 * MIB
    with client.open("POST", "/echo", headers={"trailer": "x-checksum"}) as request:
        response = request.response()
        sums: list[str] = []
        reader = threading.Thread(target=lambda: sums.append(sha256(iter(response))))
        reader.start()
        for chunk in pattern.chunks(size):
            request.write(chunk)
        request.send_trailers({"x-checksum": "after the request"})
        reader.join()
    assert sums == [pattern.sha256(size)]
    assert response.trailers is not None
    assert response.trailers["x-checksum"] == "after the request"


def test_response_trailers(client: ClientConnection) -> None:
    """Fields after the body, there once the body was read (RFC 9114 4.1)."""
    response = client.get("/trailers")
    assert response.text == "body before trailers"
    assert response.trailers is not None
    assert response.trailers["x-trailer"] == "after the body"


def test_cancelled(client: ClientConnection) -> None:
    """Cancelled downloads and uploads cost their streams and no more, 200 times over (RFC 9114 4.1.1)."""
    for turn in range(200):
        if turn % 2:
            client.get(f"/bytes/{4 * MIB}").close()
        else:
            with client.open("POST", "/echo") as request:
                request.write(b"a part of it")
                assert request.response().status == 200
    assert client.get("/hello").status == 200


def test_timeout(client: ClientConnection) -> None:
    """A response that does not come in time: TimedOut, and the connection goes on."""
    with client.open("POST", "/upload") as request, pytest.raises(TimedOut):
        request.response(timeout=0.1)
    assert client.get("/hello").status == 200


def test_server_gone(peer: Peer, certificate: Certificate) -> None:
    """A server that ends: what is under way and what comes later raise, nothing hangs."""
    with (
        started(peer.serve(*certificate), code=None) as process,
        quiche_h3.connect(
            process.url,
            cafile=str(certificate.certificate),
            config=quiche_h3.ClientConfig(idle_timeout_ms=1500),
        ) as client,
    ):
        request = client.open("POST", "/upload")
        request.write(b"the beginning")
        process.popen.terminate()
        with pytest.raises(StreamingError):
            request.response()
        with pytest.raises(ConnectionClosed):
            client.get("/hello")
