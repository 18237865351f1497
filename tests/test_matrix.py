"""The matrix of the specification: each of its numbered lines is a test here, under its number.

What a line asks for is shown from end to end and briefly; other tests go further, and `FURTHER` says where.
"""

from __future__ import annotations

import ast
import time
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from client_support import BLOCK, digest
from conformance import test_h3spec, test_sequences, wire
from conformance.conftest import make_server as memory_server
from conformance.peer import Closed, Peer, good_request
from core.conftest import make_certificate
from core.pair import Handler, Pair, get
from server_support import make_server, until

from quiche_h3 import (
    ConfigError,
    ConnectionClosed,
    DatagramNotEnabled,
    H3ErrorCode,
    Priority,
    QuicheH3Error,
    Request,
    Response,
    Server,
    ServerConfig,
    connect,
)

TESTS = Path(__file__).parent
KIB, MIB = 1 << 10, 1 << 20
NO_APPLICATION_PROTOCOL = 0x178  # RFC 9001 8.1

FURTHER = {
    "1.1": ["test_tls.py", "test_config.py"],
    "2.2": ["core/test_endpoint.py", "interop/test_clients_against_server.py"],
    "3.1": ["test_routing.py", "test_patterns.py", "test_static_directory.py"],
    "4.1": ["conformance/test_fields.py"],
    "5.1": ["test_body.py", "test_server_backpressure.py"],
    "5.2": ["test_server_backpressure.py", "test_response.py"],
    "7.1": ["test_server_lifecycle.py"],
    "8.3": ["test_h3_datagrams.py"],
    "9.2": ["net/test_relay.py"],
    "11.1": [
        "interop/test_clients_against_server.py",
        "interop/test_client_against_servers.py",
        "test_interop_endpoint.py",
    ],
    "11.2": ["conformance/test_h3spec.py", "conformance/test_sequences.py"],
}


@contextmanager
def pair_of(tmp_path: Path, **options: Any) -> Iterator[Pair]:
    """Two endpoints in memory."""
    pair = Pair(make_certificate(tmp_path), **options)
    try:
        yield pair
    finally:
        pair.client.drop_all()
        pair.server.drop_all()


def fetch(pair: Pair, **options: Any) -> Handler:
    return pair.fetch(pair.connect(), **options)


# 1 Config


@pytest.mark.parametrize("field", ["cert_path", "key_path"])
def test_1_1_invalid_certificate_path(field: str, tmp_path: Path) -> None:
    """Invalid cert/key path: server init fails gracefully, with the field's name and nothing bound."""
    files = make_certificate(tmp_path)
    paths = {"cert_path": files.cert_path, "key_path": files.key_path, field: str(tmp_path / "missing.pem")}
    server = Server(ServerConfig(bind_addr="127.0.0.1", bind_port=0, **paths))
    with pytest.raises(ConfigError, match=r"missing\.pem") as caught:
        server.open()
    assert caught.value.field == field
    with pytest.raises(QuicheH3Error):
        _ = server.address


def test_1_2_alpn_mismatch() -> None:
    """ALPN mismatch (client sends `h2`): the handshake fails, others are served."""
    with memory_server() as server:
        peer = Peer(server, alpn="h2").connect()
        assert peer.closed == Closed(NO_APPLICATION_PROTOCOL, app=False)
        good_request(server)


def test_1_3_datagrams_disabled() -> None:
    """`enable_dgram=False`: the datagram API says that they are not enabled."""
    server = make_server(enable_dgram=False)
    server.get("/datagram")(lambda req: server.send_datagram(server.connections[0], b"x"))
    raised: list[Exception] = []

    @server.on_error(DatagramNotEnabled)
    def note(req: Request, res: Response, exc: Exception) -> str:
        raised.append(exc)
        return "not enabled"

    with server.running() as address, connect(address.url, verify=False) as client:
        assert client.get("/datagram").read() == b"not enabled"
        with pytest.raises(DatagramNotEnabled):
            client.send_datagram(b"x")
    assert len(raised) == 1


# 2 Handshake and control


def test_2_1_normal_handshake(tmp_path: Path) -> None:
    """HTTP/3 starts once the handshake is complete, and the settings of both sides arrive."""
    with pair_of(tmp_path) as pair:
        connection = pair.connect()
        assert connection.established
        assert connection.alpn == "h3"
        assert pair.server_app.opened[0].established
        assert connection.context.datagrams_enabled_by_peer
        assert fetch(pair).status == 200


def test_2_2_retry() -> None:
    """Retry on the first flight: the client goes on with the token (RFC 9000 8.1.2)."""
    server = make_server(enable_retry=True)
    server.get("/")(lambda: "after the Retry")
    with server.running() as address, connect(address.url, verify=False) as client:
        assert client.get("/").read() == b"after the Retry"
        assert server.export_metrics()["engine"]["retries_sent"] >= 1  # for each packet of the ClientHello
        assert server.export_metrics()["engine"]["retry_tokens_rejected"] == 0


# 3 Routing


def routed() -> Server:
    server = make_server()
    server.get("/hello")(lambda: "hello")
    server.get("/files/*")(lambda req: "files:" + req.params["*"])
    server.get("/user/:id")(lambda req: "user:" + req.params["id"])
    return server


def test_3_1_exact_and_wildcard() -> None:
    """Exact match `/hello` and wildcard `/files/*`."""
    with routed().running() as address, connect(address.url, verify=False) as client:
        assert client.get("/hello").read() == b"hello"
        assert client.get("/hello/").status == 404
        assert client.get("/files/a/b.txt").read() == b"files:a/b.txt"


def test_3_2_parameters() -> None:
    """Parameterized `/user/:id`."""
    with routed().running() as address, connect(address.url, verify=False) as client:
        assert client.get("/user/42").read() == b"user:42"
        assert client.get("/user/").status == 404
        assert client.get("/user/4/2").status == 404


# 4 Headers and QPACK


def test_4_1_large_header_sets() -> None:
    """Header sets of 8 KiB and more pass within the limits, both ways; above them the answer is 431."""
    server = make_server()

    @server.get("/")
    def mirror(req: Request, res: Response) -> str:
        for name in ("x-a", "x-b", "x-c"):
            res.header(name, req.headers[name])
        return "ok"

    fields = {"x-a": "a" * 4 * KIB, "x-b": "b" * 4 * KIB, "x-c": "c" * 4 * KIB}
    with server.running() as address, connect(address.url, verify=False) as client:
        answer = client.get("/", headers=fields)
        assert {name: answer.headers[name] for name in fields} == fields
        assert client.get("/", headers={f"x-{n}": "a" * 4 * KIB for n in range(10)}).status == 431
        assert client.get("/", headers=fields).status == 200


@pytest.mark.parametrize("capacity", [0, 100, 4096, 1 << 20])
def test_4_2_qpack_tables(capacity: int) -> None:
    """Whatever table capacity a client announces, field sections are read; we announce 0 and use none."""
    with memory_server() as server:
        peer = Peer(server).open((0x1, capacity), (0x7, 16))
        for stream_id in range(0, 40, 4):
            assert peer.fetch(wire.get(), stream_id=stream_id).status == 200
        encoder = next(a.data for a in peer.answers.values() if a.data[:1] == b"\x02")
        assert len(encoder) == 1  # its type, and no instruction
        assert peer.closed is None


# 5 Bodies


def test_5_1_streamed_upload() -> None:
    """A request body in chunks goes to /dev/null as it comes."""
    server = make_server()

    @server.post("/", blocking=True)
    def discard(req: Request) -> str:
        with Path("/dev/null").open("wb") as file:
            return str(sum(map(file.write, req.body)))

    with server.running() as address, connect(address.url, verify=False) as client:
        size = 20 * MIB
        chunks = (bytes(64 * KIB) for _ in range(size // (64 * KIB)))
        assert client.post("/", data=chunks).read() == b"%d" % size


def test_5_2_streamed_response_with_backpressure() -> None:
    """A producer is asked only for what goes out: it waits while the client reads nothing; all arrives."""
    server, produced = make_server(), [0]
    size = 20 * MIB

    @server.get("/")
    def produce(req: Request) -> Iterator[bytes]:
        while produced[0] < size:
            produced[0] += len(BLOCK)
            yield BLOCK

    with server.running() as address, connect(address.url, verify=False) as client:
        answer = client.get("/")
        before = -1
        while before != produced[0]:  # until it stands still
            before = produced[0]
            time.sleep(0.2)
        assert 0 < before < size / 2
        received = digest(iter(answer))
    assert received == digest(BLOCK for _ in range(-(-size // len(BLOCK))))


def test_5_3_trailers() -> None:
    """Trailers come after the body and are told apart from the header section (RFC 9114 4.1)."""
    server = make_server()

    @server.get("/")
    def handler(req: Request, res: Response) -> None:
        res.write_all(b"body")
        res.send_trailers({"x-checksum": "abc"})

    with server.running() as address, connect(address.url, verify=False) as client:
        answer = client.get("/")
        assert answer.read_all() == b"body"
        assert "x-checksum" not in answer.headers
        assert answer.trailers is not None
        assert answer.trailers["x-checksum"] == "abc"


# 6 Priority


def test_6_1_priority_of_the_server() -> None:
    """A server's word on priority is the response's field, which the client sees (RFC 9218 5 and 7.2)."""
    server = make_server()

    @server.get("/")
    def handler(req: Request, res: Response) -> str:
        res.header("priority", "u=1, i")
        return "ranked"

    with server.running() as address, connect(address.url, verify=False) as client:
        assert client.get("/").headers["priority"] == "u=1, i"


def test_6_2_reprioritisation_by_the_client() -> None:
    """A client that changes its mind is heard while the response waits; what it said can be taken, once."""
    server = make_server()

    @server.get("/")
    async def handler(req: Request, res: Response) -> str:
        await until(lambda: req.priority == Priority(6, True))  # it may have come with the request
        said = req.take_last_priority_update()
        assert req.take_last_priority_update() is None
        return str(said)

    with server.running() as address, connect(address.url, verify=False) as client:
        request = client.send("GET", "/", headers={"priority": "u=2"})
        request.set_priority(Priority(6, True))
        assert request.response().text == "u=6,i"


# 7 GOAWAY


def test_7_1_goaway() -> None:
    """Server GOAWAY: what is in flight completes, new requests are rejected (RFC 9114 5.2)."""
    with memory_server() as server:
        peer = Peer(server).open()
        post = wire.headers(wire.request(b"/body", b"POST"))
        peer.fetch(post, fin=False)
        server.connections[0].context.goaway()
        peer.pump()
        control = next(a.data for a in peer.answers.values() if a.data[:1] == b"\0")
        assert (wire.GOAWAY, wire.varint(4)) in wire.read_frames(bytes(control[1:]))
        late = peer.fetch(wire.get(), stream_id=4)
        assert late.reset == H3ErrorCode.H3_REQUEST_REJECTED
        assert peer.fetch(wire.frame(wire.DATA, b"body")).body == b"4"
        assert server.calls == ["/body"]


# 8 DATAGRAM


def test_8_1_datagrams_disabled(tmp_path: Path) -> None:
    """Disabled on either side: sending is an error, and nothing else breaks."""
    for options in ({"server": {"enable_dgram": False}}, {"client": {"enable_dgram": False}}):
        with pair_of(tmp_path, **options) as pair:
            connection = pair.connect()
            for end in (connection, pair.server_app.opened[0]):
                with pytest.raises(DatagramNotEnabled):
                    end.context.send_datagram(b"x")
            assert pair.fetch(connection).status == 200


def test_8_2_echo_under_loss(tmp_path: Path) -> None:
    """Echo: with nothing lost all come back; what is lost is not sent again, and breaks nothing."""
    for loss in (0.0, 0.05):
        with pair_of(tmp_path) as pair:
            connection = pair.connect()
            pair.server_app.instead["datagram"] = lambda c, payload: c.context.send_datagram(payload)
            pair.up.loss = pair.down.loss = loss
            for number in range(600):
                connection.context.send_datagram(b"%d" % number)
                pair.settle()
            back = pair.client_app.datagrams
            assert len(set(back)) == len(back)
            assert abs(len(back) / 600 - (1 - loss) ** 2) < 0.04
            pair.up.loss = pair.down.loss = 0.0
            assert pair.fetch(connection).status == 200


def test_8_3_http_datagrams() -> None:
    """Datagrams bound to a request, once the SETTINGS of the peer were processed (RFC 9297 2.1)."""
    with memory_server() as server:
        got: list[bytes] = []

        @server.get("/datagrams")
        def handler(req: Request) -> Iterator[bytes]:
            yield b"open"

        @server.route_h3_datagram("GET", "/datagrams")
        def on_datagram(req: Request, res: Response, payload: bytes) -> None:
            got.append(payload)
            res.send_h3_datagram(payload.upper())

        peer = Peer(server).open((0x33, 1))
        peer.fetch(wire.headers(wire.request(b"/datagrams")), fin=False)
        peer.quic.send_datagram_frame(wire.varint(0) + b"payload")
        peer.pump()
        assert got == [b"payload"]
        assert peer.datagrams == [wire.varint(0) + b"PAYLOAD"]


# 9 Timeouts and loss


def test_9_1_idle_timeout(tmp_path: Path) -> None:
    """The idle timeout of the configuration closes connections, and no sooner (RFC 9000 10.1)."""
    with pair_of(tmp_path, server={"idle_timeout_ms": 300}) as pair:
        connection = pair.connect()
        began = time.monotonic()
        pair.run(lambda: pair.server_app.closed and connection.closed)
        assert 0.2 < time.monotonic() - began < 2
        reason = pair.server_app.closed[0].close_reason
        assert isinstance(reason, ConnectionClosed)
        assert reason.reason == b"idle timeout"


def test_9_2_loss(tmp_path: Path) -> None:
    """1 to 5 % lost: every body is right; the more is lost, the more is sent again, and not much more."""
    body = BLOCK * 16
    sent = {}
    for loss in (0.0, 0.01, 0.05):
        with pair_of(tmp_path, seed=5) as pair:
            pair.server_app.answer_with(body)
            connection = pair.connect()
            pair.up.loss = pair.down.loss = loss
            pair.up.delay = pair.down.delay = 0.002
            before = pair.down.bytes_sent
            for _ in range(3):
                handler = pair.request(connection)
                pair.run(partial(getattr, handler, "over"), 30)
                assert bytes(handler.body) == body
            sent[loss] = pair.down.bytes_sent - before
    assert sent[0.0] < sent[0.01] < sent[0.05] < 1.3 * sent[0.0]


# 10 Close


def test_10_1_close_with_a_code(tmp_path: Path) -> None:
    """A close with an error code reaches the other side's handlers, each once."""
    with pair_of(tmp_path) as pair:
        handlers: list[Handler] = []
        pair.server_app.on_request = lambda stream: handlers.append(pair.server_app.listen(stream))
        connection = pair.connect()
        mine = pair.request(connection, get())
        pair.run(lambda: handlers)
        connection.close(0x1234, "going away")
        pair.run(lambda: pair.server_app.closed)
        for handler, remote in ((handlers[0], True), (mine, False)):
            pair.run(partial(getattr, handler, "error"))
            assert handler.calls.count("closed") == 1
            assert handler.error is not None
            assert (handler.error.app, handler.error.code, handler.error.remote) == (True, 0x1234, remote)
        assert handlers[0].error is not None
        assert handlers[0].error.reason == b"going away"


# 11 Interop


def test_11_1_interop() -> None:
    """Independent peers in both roles, and the interop runner's endpoint: as tests of their own."""
    for name in FURTHER["11.1"]:
        assert functions_of(name)


def test_11_2_invalid_sequences() -> None:
    """Invalid sequences bring the right errors and closes: as tests of their own, and none too few."""
    assert len(test_h3spec.TRANSPORT) + len(test_h3spec.HTTP3) + len(test_h3spec.MALFORMED) == 49
    assert len(test_sequences.CASES) > 100


# None is left out

LINES = [
    "1.1",
    "1.2",
    "1.3",
    "2.1",
    "2.2",
    "3.1",
    "3.2",
    "4.1",
    "4.2",
    "5.1",
    "5.2",
    "5.3",
    "6.1",
    "6.2",
    "7.1",
    "8.1",
    "8.2",
    "8.3",
    "9.1",
    "9.2",
    "10.1",
    "11.1",
    "11.2",
]


def functions_of(name: str) -> list[str]:
    """The tests of a module, which must be there."""
    tree = ast.parse((TESTS / name).read_text())
    return [
        n.name
        for n in ast.walk(tree)
        if isinstance(n, ast.FunctionDef | ast.AsyncFunctionDef) and n.name.startswith("test_")
    ]


def test_every_line_has_its_test() -> None:
    """Each number stands in the name of one test at least, and what further tests are named for it exist."""
    numbers = {".".join(name.split("_")[1:3]) for name in functions_of("test_matrix.py")}
    assert sorted(set(LINES) - numbers) == []
    for names in FURTHER.values():
        for name in names:
            assert functions_of(name), name
