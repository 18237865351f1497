"""The client against this library's server: requests, bodies both ways, trust, failures, what it leaves."""

from __future__ import annotations

import gc
import io
import queue
import subprocess
import sys
import textwrap
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import pytest
from client_support import (
    BLOCK,
    KIB,
    MIB,
    Application,
    blocks,
    digest,
    eventually,
    free_port,
    silence,
    streams,
)

import quiche_h3
from quiche_h3 import (
    Address,
    ClientConfig,
    ClientConnection,
    ClientRequest,
    ConfigError,
    ConnectError,
    ConnectionClosed,
    EventBackend,
    H3ErrorCode,
    HeaderInvalid,
    InvalidState,
    MalformedMessage,
    PayloadTooLarge,
    Request,
    Server,
    ServerConfig,
    StatusError,
    StreamClosed,
    StreamReset,
    TimedOut,
    make_dev_certificate,
)


def write_all(request: ClientRequest, size: int) -> None:
    for chunk in blocks(size):
        request.write(chunk)


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


@pytest.fixture
def client(app: Application) -> Iterator[ClientConnection]:
    with quiche_h3.connect(app.server.address.url, verify=False) as client:
        yield client


def client_threads() -> list[str]:
    """The names of the clients' threads: the server, in the same process, has its own."""
    return [t.name for t in threading.enumerate() if t.name in ("quiche_h3-client", "quiche_h3-upload")]


def test_get(client: ClientConnection) -> None:
    """A response has status, fields, and a body as text; the connection speaks h3 (RFC 9114 3.1, 4.1)."""
    response = client.get("/hello")
    assert (response.status, response.text) == (200, "Hello, HTTP/3!\n")
    assert response.headers["content-type"] == "text/plain; charset=utf-8"
    assert response.content == b"Hello, HTTP/3!\n"
    assert response.read() == b""
    assert response.raise_for_status() is response
    assert client.info.alpn == "h3"
    assert client.info.address == tuple(client.origin)
    assert client.stats()["packets_received"] > 0


def test_status_error(client: ClientConnection) -> None:
    """raise_for_status() raises for 4xx and 5xx, with the status."""
    with pytest.raises(StatusError, match="404") as caught:
        client.get("/nowhere").raise_for_status()
    assert caught.value.status == 404


def test_what_the_server_is_told(client: ClientConnection) -> None:
    """Method, target, authority, fields and body arrive; names in lower case (RFC 9114 4.2, 4.3.1)."""
    answer = client.put("/describe?a=1&b=%20", headers={"X-One": "1"}, data="text").json()
    assert (answer["method"], answer["path"], answer["body"]) == ("PUT", "/describe?a=1&b=%20", "text")
    assert answer["authority"] == f"127.0.0.1:{client.origin.port}"
    assert answer["headers"] == {"x-one": "1", "content-length": "4"}
    answer = client.post("/describe", json={"a": [1, 2]}).json()
    assert answer["body"] == '{"a":[1,2]}'
    assert answer["headers"]["content-type"] == "application/json"
    answer = client.delete("/describe", headers=[("x-two", b"1"), ("x-two", 2)]).json()
    assert (answer["method"], answer["headers"]) == ("DELETE", {"x-two": "2"})


def test_targets(client: ClientConnection) -> None:
    """A full URL of this server is as good as a path; what needs it is percent-encoded (RFC 3986 2.1)."""
    base = f"https://127.0.0.1:{client.origin.port}"
    assert client.get(base + "/hello#fragment").status == 200
    path = client.get("/describe?name=Bücher und mehr").json()["path"]
    assert path == "/describe?name=B%C3%BCcher%20und%20mehr"
    with pytest.raises(ValueError, match="connected to 127"):
        client.get("https://example.com/hello")


@pytest.mark.parametrize(
    ("arguments", "error"),
    [
        ({"method": "GET\r\n"}, ValueError),
        ({"method": "CONNECT"}, ValueError),
        ({"headers": {"bad name": "1"}}, HeaderInvalid),
        ({"headers": {"x": "a\r\nb: c"}}, HeaderInvalid),
        ({"headers": {"connection": "close"}}, HeaderInvalid),
        ({"headers": [("x", str(n)) for n in range(300)]}, InvalidState),
        ({"data": b"1", "json": 1}, ValueError),
    ],
)
def test_requests_that_are_not_sent(
    client: ClientConnection, arguments: dict[str, Any], error: type[Exception]
) -> None:
    """What would be a malformed request raises and sends nothing (RFC 9114 4.2); the next one is served."""
    with pytest.raises(error):
        client.request(**{"method": "GET", "url": "/hello", **arguments})
    assert client.get("/hello").status == 200


def test_head(client: ClientConnection) -> None:
    """A HEAD response has the length of the body that GET would have, and none (RFC 9110 9.3.2)."""
    response = client.head("/hello")
    assert (response.status, response.headers["content-length"], response.content) == (200, "15", b"")


def test_interim_responses(client: ClientConnection) -> None:
    """103 Early Hints comes before the final response and is kept apart from it (RFC 9114 4.1, RFC 8297)."""
    response = client.get("/interim")
    assert response.status == 200
    assert [(hint.status, hint.headers["link"]) for hint in response.interim] == [
        (103, "</style.css>; rel=preload")
    ]


def test_trailers_both_ways(client: ClientConnection) -> None:
    """Fields after the body arrive in responses and in requests (RFC 9114 4.1)."""
    response = client.get("/trailers")
    assert response.content == b"body"
    assert response.trailers is not None
    assert response.trailers["x-checksum"] == "1234"
    with client.open("POST", "/request-trailers") as request:
        request.write(b"a body")
        request.send_trailers({"x-sum": "5"})
        answer = request.response().json()
    assert answer == {"body": "a body", "trailers": {"x-sum": "5"}}


def test_download(client: ClientConnection) -> None:
    """16 MiB arrive whole, read little by little."""
    size = 16 * MIB
    with client.get(f"/bytes/{size}") as response:
        assert digest(iter(response)) == digest(blocks(size))


@pytest.mark.parametrize("kind", ["bytes", "iterable", "file", "chunks"])
def test_upload(client: ClientConnection, tmp_path: Path, kind: str) -> None:
    """16 MiB come back whole from an echo, far beyond every window in both directions (RFC 9000 4.1)."""
    size = 16 * MIB
    if kind == "chunks":
        with client.open("POST", "/echo") as request, ThreadPoolExecutor(1) as pool:
            reading = pool.submit(lambda: digest(iter(request.response())))
            write_all(request, size)
            request.end()
            assert reading.result() == digest(blocks(size))
        return
    path = tmp_path / "body"
    path.write_bytes(b"".join(blocks(size)))
    with path.open("rb") as file:
        data: Any = {"bytes": path.read_bytes(), "iterable": blocks(size), "file": file}[kind]
        assert digest(iter(client.post("/echo", data=data))) == digest(blocks(size))


def test_length_is_announced(client: ClientConnection, tmp_path: Path) -> None:
    """content-length is sent where it is known: of bytes and of what is left in a file (RFC 9110 8.6)."""
    path = tmp_path / "body"
    path.write_bytes(b"0123456789")
    with path.open("rb") as file:
        file.read(4)
        answer = client.post("/describe", data=file).json()
    assert (answer["body"], answer["headers"]["content-length"]) == ("456789", "6")
    assert "content-length" not in client.post("/describe", data=io.StringIO("text")).json()["headers"]


def test_many_at_once(client: ClientConnection) -> None:
    """250 requests in flight together, more than the server's 100 streams: the others wait (RFC 9000 4.6)."""
    requests = [client.send("GET", "/hello") for _ in range(250)]
    assert all(request.response().text == "Hello, HTTP/3!\n" for request in requests)
    assert sorted(request.stream_id for request in requests) == list(range(0, 1000, 4))


def test_many_threads(client: ClientConnection) -> None:
    """100 requests from 16 threads on one connection, with bodies of their own."""

    def exchange(number: int) -> bool:
        body = f"body {number} ".encode() * 1000
        return client.post("/echo", data=body).content == body

    with ThreadPoolExecutor(16) as pool:
        assert all(pool.map(exchange, range(100)))


def test_unread_body_shuts_the_window(app: Application, client: ClientConnection) -> None:
    """What nobody reads stays with the server: window and queue full, it stops (RFC 9000 4.1)."""
    app.produced = 0
    with client.get(f"/bytes/{64 * MIB}") as response:
        response.read(1)
        window = ClientConfig().initial_max_stream_data_bidi_local
        queue_bytes = ServerConfig().max_response_queue_bytes
        eventually(lambda: app.produced >= window)
        assert client.get("/hello").status == 200
        # quiche may have doubled the window for the bytes that were read ahead.
        assert app.produced <= 2 * window + queue_bytes + len(BLOCK)


def test_body_is_produced_as_it_is_taken(app: Application, client: ClientConnection) -> None:
    """An iterable is pulled no faster than the server takes it: the window and our queue, no more."""
    pulled = 0

    def source() -> Iterator[bytes]:
        nonlocal pulled
        for chunk in blocks(32 * MIB):
            pulled += len(chunk)
            yield chunk

    request = client.send("POST", "/unread", data=source())
    assert app.held.wait(10)
    window = ServerConfig().initial_max_stream_data_bidi_remote
    eventually(lambda: pulled >= window)
    assert client.get("/hello").status == 200
    assert pulled <= window + 2 * 256 * KIB + 2 * len(BLOCK)
    app.release.set()
    assert request.response().json() == {"bytes": 32 * MIB}


def test_early_answer(client: ClientConnection) -> None:
    """A server that answers and stops the upload with H3_NO_ERROR is heard all the same (RFC 9114 4.1)."""
    response = client.post("/refuse", data=blocks(64 * MIB))
    assert (response.status, response.content) == (413, b"too much")
    with client.open("POST", "/refuse") as request:
        assert request.response().status == 413
        with pytest.raises(StreamClosed):
            write_all(request, 100 * len(BLOCK))


def test_body_source_that_fails(app: Application, client: ClientConnection) -> None:
    """What the body's source raises comes out of response(), and the request is cancelled."""

    def source() -> Iterator[bytes]:
        yield b"a beginning"
        raise LookupError("no more of it")

    with pytest.raises(LookupError, match="no more of it"):
        client.post("/request-trailers", data=source())
    wrong: Any = iter([12])
    with pytest.raises(TypeError):
        client.post("/request-trailers", data=wrong)
    eventually(lambda: streams(app) == 0)
    assert client.get("/hello").status == 200


def test_reset_by_the_server(client: ClientConnection) -> None:
    """A reset reaches the reader with its code, after which the connection goes on (RFC 9114 8.1)."""
    with pytest.raises(StreamReset) as caught:
        client.get("/reset").read_all()
    assert (caught.value.code, caught.value.remote) == (H3ErrorCode.H3_REQUEST_REJECTED, True)
    assert client.get("/hello").status == 200


def test_length_that_is_not_kept(client: ClientConnection) -> None:
    """A body of another length than announced makes the response malformed (RFC 9114 4.1.2)."""
    with pytest.raises(MalformedMessage, match="the body has 6 bytes, its content-length is 10") as caught:
        client.get("/short").read_all()
    assert (caught.value.code, caught.value.remote) == (H3ErrorCode.H3_MESSAGE_ERROR, False)


def test_limit_of_read_all(client: ClientConnection) -> None:
    """read_all(limit) raises PayloadTooLarge instead of filling the memory."""
    with client.get(f"/bytes/{MIB}") as response, pytest.raises(PayloadTooLarge):
        response.read_all(100 * KIB)


def test_dropped_requests_are_cancelled(app: Application, client: ClientConnection) -> None:
    """A request or response that nobody holds any more costs the server nothing: 300 of each, then one."""
    for _ in range(300):
        client.get(f"/bytes/{4 * MIB}")
        client.open("POST", "/echo")
    gc.collect()
    assert client.get("/hello").status == 200
    eventually(lambda: streams(app) == 0)


def test_timeouts(app: Application, client: ClientConnection) -> None:
    """A wait that is too long raises TimedOut, a TimeoutError; it ends the request, not the connection."""
    with pytest.raises(TimedOut):
        client.get("/hold", timeout=0.05)
    request = client.send("GET", "/hold")
    with pytest.raises(TimeoutError):
        request.response(timeout=0.05)
    with pytest.raises(TimedOut):
        request.response()
    with client.open("POST", "/unread", timeout=0.1) as upload, pytest.raises(TimedOut):
        write_all(upload, 32 * MIB)
    app.release.set()
    assert client.get("/hello").text == "Hello, HTTP/3!\n"


def test_datagrams(client: ClientConnection) -> None:
    """QUIC datagrams go both ways (RFC 9221); a callback may send, and is told when it tries to wait."""
    received: queue.Queue[Any] = queue.Queue()

    @client.on_datagram
    def on_datagram(payload: bytes) -> None:
        received.put(payload)
        if payload == b"tixe":
            try:
                client.get("/hello")
            except InvalidState as exc:
                received.put(exc)

    client.send_datagram(b"0123")
    assert received.get(timeout=10) == b"3210"
    client.send_datagram(b"exit")
    assert received.get(timeout=10) == b"tixe"
    assert isinstance(received.get(timeout=10), InvalidState)
    with pytest.raises(quiche_h3.DatagramTooLarge):
        client.send_datagram(bytes(5000))


def serving(names: tuple[str, ...], addresses: tuple[str, ...], path: Path, **options: Any) -> Server:
    """A server with a certificate for these names, which it leaves in `path`."""
    cert, key = make_dev_certificate(names, addresses)
    path.write_bytes(cert)
    server = Server(ServerConfig(cert_pem=cert, key_pem=key, bind_addr="127.0.0.1", bind_port=0, **options))
    server.get("/")(lambda: "trusted")
    return server


@pytest.mark.parametrize("host", ["localhost", "127.0.0.1"])
def test_trust(tmp_path: Path, host: str) -> None:
    """A certificate is accepted from its authority, for its names and addresses (RFC 9110 4.3.4, 4.3.5)."""
    path = tmp_path / "cert.pem"
    with serving(("localhost",), ("127.0.0.1",), path).running() as address:
        url = f"https://{host}:{address.port}"
        with quiche_h3.connect(url, cafile=str(path)) as client:
            assert client.get("/").text == "trusted"
            assert quiche_h3.ClientConfig().verify
        with pytest.raises(ConnectError, match="unknown_ca") as caught:
            quiche_h3.connect(url)
        cause = caught.value.__cause__
        assert isinstance(cause, ConnectionClosed)
        assert (cause.app, cause.code, cause.remote) == (False, 0x130, False)
        with quiche_h3.connect(url, config=ClientConfig(verify=False)) as client:
            assert client.get("/").status == 200


@pytest.mark.parametrize("host", ["localhost", "127.0.0.1"])
def test_certificate_of_somebody_else(tmp_path: Path, host: str) -> None:
    """A certificate of a trusted authority for another name or address is refused (RFC 9110 4.3.4, 4.3.5)."""
    path = tmp_path / "cert.pem"
    server = serving(("other.example",), ("127.0.0.2",), path)
    seen: list[Request] = []
    server.get("/seen")(lambda req: seen.append(req))
    with server.running() as address:
        url = f"https://{host}:{address.port}"
        with pytest.raises(ConnectError, match=f"not accepted for {host}: it is not for this name"):
            quiche_h3.connect(url, cafile=str(path))
        config = ClientConfig(server_name="other.example")
        with quiche_h3.connect(url, cafile=str(path), config=config) as client:
            assert client.get("/").text == "trusted"
    assert not seen


@pytest.mark.parametrize(
    ("url", "error", "text"),
    [
        ("http://localhost/", ValueError, "https://"),
        ("localhost:4433", ValueError, "https://"),
        ("https://localhost:99999/", ValueError, "Port"),
        ("https://nowhere.invalid/", ConnectError, "nowhere.invalid has no address"),
        ("https://[2001:db8::1]:4433/", ConnectError, r"no connection to \[2001:db8::1\]:4433"),
    ],
)
def test_nobody_to_talk_to(url: str, error: type[Exception], text: str) -> None:
    """Each way not to reach a server has an error that names it."""
    with pytest.raises(error, match=text):
        quiche_h3.connect(url, timeout=0.2)


def test_wrong_configuration(tmp_path: Path) -> None:
    """Configuration errors name the field before anything is sent."""
    cases: list[tuple[dict[str, Any], str]] = [
        ({"cafile": str(tmp_path / "none")}, "cafile"),
        ({"config": ClientConfig(event_backend=EventBackend.ASYNCIO)}, "event_backend"),
        ({"config": ClientConfig(alpn_protocols=["h2"])}, "alpn_protocols"),
        ({"keep_alive_s": 0.0}, "keep_alive_s"),
    ]
    for arguments, field in cases:
        with pytest.raises(ConfigError, match=field):
            quiche_h3.connect("https://localhost:1", **arguments)


def test_no_answer() -> None:
    """A server that is silent: ConnectError within the time given, and no thread is left."""
    begin = time.monotonic()
    with silence() as url:
        with pytest.raises(ConnectError, match=r"no answer from 127\.0\.0\.1 within 0\.2 s"):
            quiche_h3.connect(url, timeout=0.2)
        with pytest.raises(ConnectError, match=r"no answer"):
            quiche_h3.connect(url, config=ClientConfig(connect_timeout_ms=200))
    assert time.monotonic() - begin < 5
    assert not client_threads()


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux tells of ICMP without a connected socket")
def test_nobody_listens() -> None:
    """ICMP port unreachable ends the attempt at once."""
    begin = time.monotonic()
    with pytest.raises(ConnectError, match="nobody listens there"):
        quiche_h3.connect(f"https://127.0.0.1:{free_port()}", timeout=30)
    assert time.monotonic() - begin < 5
    assert not client_threads()


@pytest.mark.parametrize("silent", [True, False])
def test_second_address(silent: bool, monkeypatch: pytest.MonkeyPatch, app: Application) -> None:
    """Of a name's addresses the first that answers is taken, soon after the silent one (RFC 8305 5)."""
    port = app.server.address.port
    found = [(2, 2, 17, "", ("127.0.0.99", port)), (2, 2, 17, "", ("127.0.0.1", port))]
    monkeypatch.setattr("socket.getaddrinfo", lambda *args, **kwargs: found)
    begin = time.monotonic()
    with (
        silence("127.0.0.99", port) if silent else nullcontext(),
        quiche_h3.connect(f"https://two.example:{port}", verify=False) as client,
    ):
        assert client.info.address[0] == "127.0.0.1"
        assert client.get("/hello").status == 200
    assert time.monotonic() - begin < 5


def test_server_gone() -> None:
    """A server that stops at once: who waits gets ConnectionClosed, and so does every later request."""
    app = Application()
    with quiche_h3.connect(app.server.start().url, verify=False) as client:
        request = client.send("GET", "/hold")
        upload = client.send("POST", "/unread", data=blocks(32 * MIB))
        eventually(lambda: streams(app) == 2)
        stopper = threading.Thread(target=app.server.stop)
        stopper.start()
        app.server.stop()
        stopper.join()
        for pending in (request, upload):
            with pytest.raises(ConnectionClosed) as caught:
                pending.response()
            assert (caught.value.app, caught.value.code, caught.value.remote) == (True, 0x100, True)
        assert client.closed
        for late in (client.get, client.delete):
            with pytest.raises(ConnectionClosed):
                late("/hello")
        assert client.stats() == {}
    app.release.set()


def test_goaway() -> None:
    """After GOAWAY what is under way is finished, and a new request raises at once (RFC 9114 5.2)."""
    app = Application()
    with quiche_h3.connect(app.server.start().url, verify=False) as client:
        request = client.send("GET", "/hold")
        assert app.held.wait(10)
        stopper = threading.Thread(target=app.server.stop)
        stopper.start()
        eventually(lambda: client.closed)
        with pytest.raises(ConnectionClosed, match="GOAWAY"):
            client.get("/hello")
        app.release.set()
        assert request.response().text == "released"
        stopper.join()


def test_idle_timeout_and_keep_alive(app: Application) -> None:
    """An idle connection is dropped after idle_timeout_ms, unless PINGs keep it (RFC 9000 10.1)."""
    url = app.server.address.url
    config = ClientConfig(idle_timeout_ms=300)
    with (
        quiche_h3.connect(url, verify=False, config=config, keep_alive_s=0.1) as kept,
        quiche_h3.connect(url, verify=False, config=config) as idle,
    ):
        eventually(lambda: idle.closed)
        with pytest.raises(ConnectionClosed, match="idle"):
            idle.get("/hello")
        eventually(lambda: kept.stats()["packets_sent"] > 12)
        assert kept.get("/hello").status == 200


def test_migration_that_is_not_wanted() -> None:
    """A server that sends disable_active_migration has its will (RFC 9000 9)."""
    server = Server(
        ServerConfig(dev_cert=True, bind_addr="127.0.0.1", bind_port=0, disable_active_migration=True)
    )
    server.get("/hello")(lambda: "here")
    with server.running() as address, quiche_h3.connect(address.url, verify=False) as client:
        with pytest.raises(InvalidState, match="disable_active_migration"):
            client.migrate()
        assert client.get("/hello").text == "here"


def test_preferred_address_of_the_server() -> None:
    """The client goes to the port that the server prefers, and may then migrate although it was asked not to.

    RFC 9000 18.2: disable_active_migration does not hold any more once the preferred address is in use.
    """
    config = ServerConfig(
        dev_cert=True,
        bind_addr="127.0.0.1",
        bind_port=0,
        preferred_address_v4=f"127.0.0.1:{free_port()}",
        disable_active_migration=True,
    )
    server = Server(config)
    server.get("/where")(lambda req: "{}:{}".format(*req.connection.local_address))
    with server.running() as address, quiche_h3.connect(address.url, verify=False) as client:
        assert client.info.address == (address.host, address.port)
        eventually(lambda: client.get("/where").text == config.preferred_address_v4)
        assert server.export_metrics()["connections"]["preferred_moves"] == 1
        local = client.migrate()
        assert client.get("/where").text == config.preferred_address_v4
        assert [peer.peer_address for peer in server.connections] == [local]


def test_close_leaves_nothing(app: Application) -> None:
    """After close() neither threads nor descriptors are left, and the server was told; twice is fine."""

    def descriptors_after_close() -> int:
        client = quiche_h3.connect(app.server.address.url, verify=False)
        upload = client.send("POST", "/unread", data=blocks(32 * MIB))
        download = client.get(f"/bytes/{32 * MIB}")
        client.close()
        client.close()
        assert not client_threads()
        for broken in (upload.response, download.read_all, lambda: client.get("/hello")):
            with pytest.raises(ConnectionClosed):
                broken()
        eventually(lambda: streams(app) == 0)
        return len(list(Path("/proc/self/fd").iterdir()))

    first = descriptors_after_close()  # the server, in the same process, has opened what it needs by then
    assert descriptors_after_close() == first
    app.release.set()


def test_dropped_client_is_closed(app: Application) -> None:
    """A client that nobody holds any more is closed; a response keeps its client alive."""
    response = quiche_h3.connect(app.server.address.url, verify=False).get("/hello")
    gc.collect()
    assert response.text == "Hello, HTTP/3!\n"
    del response
    gc.collect()
    eventually(lambda: not client_threads())


def test_exit_with_open_client(app: Application) -> None:
    """A program that ends without closing its client ends at once, silently, with its own exit code."""
    program = f"""
        import itertools, sys, quiche_h3
        client = quiche_h3.connect({app.server.address.url!r}, verify=False)
        response = client.get("/bytes/100000000")
        upload = client.send("POST", "/unread", data=itertools.repeat(bytes(65536)))
        print(response.status)
        sys.exit(7)
    """
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(program)],
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
    )
    assert (done.returncode, done.stdout, done.stderr) == (7, "200\n", "")
    eventually(lambda: not app.server.connections)


def test_address_of_server_is_a_url() -> None:
    """The URL that a server gives for itself is one that the client takes."""
    assert Address("::1", 4433).url == "https://[::1]:4433"
