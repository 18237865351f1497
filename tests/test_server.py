"""The server around its handlers: hooks, datagrams, connections, metrics, logs, addresses, refusals."""

from __future__ import annotations

import asyncio
import json
import logging
import os
import socket
import threading
from pathlib import Path
from typing import Any

import pytest
from aioquic.quic.events import DatagramFrameReceived, QuicEvent
from interop.aioquic_peer import AioquicClient, PeerClosed, open_client
from server_support import client_of, logged, make_server, talk, until

import quiche_h3
from quiche_h3 import (
    ConfigError,
    Connection,
    ConnectionClosed,
    DatagramTooLarge,
    H3ErrorCode,
    InvalidState,
    Request,
    Response,
    RouteError,
    Router,
    Server,
    ServerConfig,
    WouldBlock,
)

# Hooks


@pytest.mark.parametrize("backend", ["auto", "asyncio"])
def test_hooks(backend: str) -> None:
    """Startup once bound, connect and close with what is known of the connection, shutdown at the end."""
    server = make_server(event_backend=backend)
    calls: list[tuple[Any, ...]] = []
    server.get("/")(lambda: "hello")

    @server.on_startup
    def startup() -> None:
        calls.append(("startup", server.address.port > 0))

    @server.on_connect
    def connect(connection: Connection) -> None:
        connection.state = "mine"
        calls.append(("connect", connection.id, connection.established, connection.alpn))

    @server.on_close
    def close(connection: Connection) -> None:
        reason = connection.close_reason
        assert isinstance(reason, ConnectionClosed)
        calls.append(
            ("close", connection.id, connection.state, reason.remote, connection.stats()["bytes_sent"] > 0)
        )

    @server.on_shutdown
    def shutdown() -> None:
        calls.append(("shutdown", len(server.connections)))

    async def scenario(client: AioquicClient) -> None:
        await client.get("/")

    talk(server, scenario)
    assert calls == [
        ("startup", True), ("connect", 1, True, "h3"), ("close", 1, "mine", True, True), ("shutdown", 0),
    ]  # fmt: skip


def test_hook_that_fails() -> None:
    """An exception in on_connect or on_close is logged and harms nobody."""
    server = make_server()
    server.get("/")(lambda: "hello")

    @server.on_connect
    @server.on_close
    def fail(connection: Connection) -> None:
        raise ValueError("mine")

    async def scenario(client: AioquicClient) -> None:
        assert (await client.get("/")).body == b"hello"

    with logged() as records:
        talk(server, scenario)
    assert len([r for r in records if r.exc_info]) == 2


def test_connect_hook_may_refuse() -> None:
    """on_connect may close the connection with a code of its own."""
    server = make_server()
    server.on_connect(lambda connection: connection.close(0x1234, "not you"))

    async def scenario(client: AioquicClient) -> None:
        closed = await client.closed()
        assert (closed.code, closed.reason, closed.frame_type) == (0x1234, "not you", None)

    talk(server, scenario)


# Connections


def test_connection() -> None:
    """What a handler can learn of its connection, and its state, which is the program's own."""
    server = make_server()
    seen: list[Connection] = []

    @server.get("/")
    def handler(req: Request) -> dict[str, Any]:
        connection = req.connection
        seen.append(connection)
        connection.state = (connection.state or 0) + 1
        stats = connection.stats()
        return {
            "state": connection.state, "alpn": connection.alpn, "name": connection.server_name,
            "resumed": connection.resumed, "peer": list(connection.peer_address), "closed": connection.closed,
            "rtt": 0 < stats["rtt"] < 5, "received": stats["packets_received"] > 0,
        }  # fmt: skip

    async def run(url: str) -> None:
        async with open_client(url.replace("127.0.0.1", "localhost")) as client:
            for turn in (1, 2):
                got = json.loads((await client.get("/")).body)
                peer = got.pop("peer")
                assert got == {
                    "state": turn, "alpn": "h3", "name": "localhost", "resumed": False, "closed": False,
                    "rtt": True, "received": True,
                }  # fmt: skip
                assert peer[0].endswith("127.0.0.1")
            assert server.connections == seen[:1]
        await until(lambda: not server.connections)

    with server.running() as address:
        asyncio.run(run(address.url))
    connection = seen[0]
    assert connection.closed
    assert isinstance(connection.close_reason, ConnectionClosed)
    assert connection.stats() == {}
    connection.close()  # changes nothing any more
    with pytest.raises(ConnectionClosed):
        server.send_datagram(connection, b"late")


def test_handler_closes_its_connection() -> None:
    """A handler may close its connection; its code and reason arrive (RFC 9114 8)."""
    server = make_server()
    server.get("/")(lambda req: req.connection.close(H3ErrorCode.H3_EXCESSIVE_LOAD, "enough"))

    async def scenario(client: AioquicClient) -> None:
        with pytest.raises(PeerClosed) as caught:
            await client.get("/")
        assert (caught.value.code, caught.value.reason) == (H3ErrorCode.H3_EXCESSIVE_LOAD, "enough")

    talk(server, scenario)


def test_client_without_server_name() -> None:
    """`server_name_required` refuses clients that send no name: unrecognized_name (RFC 6066 3)."""
    server = make_server(server_name_required=True)
    server.get("/")(lambda: "hello")

    async def run(url: str) -> None:
        async with open_client(url.replace("127.0.0.1", "localhost")) as client:
            assert (await client.get("/")).body == b"hello"
        async with open_client(url) as client:  # an address is no name: none is sent
            assert (await client.closed()).code == 0x100 + 112

    with server.running() as address:
        asyncio.run(run(address.url))


# Datagrams (RFC 9221)


class DatagramClient:
    """Collects the datagrams that a client receives, ahead of its HTTP/3, to which they are RFC 9297's."""

    def __init__(self, client: AioquicClient) -> None:
        self.received: list[bytes] = []
        before = client.quic_event_received

        def received(event: QuicEvent) -> None:
            if isinstance(event, DatagramFrameReceived):
                self.received.append(event.data)
            else:
                before(event)

        client.quic_event_received = received  # type: ignore[method-assign]


def test_datagrams() -> None:
    """Datagrams are echoed, each one whole; one that is too large is refused by name (spec 4.2)."""
    server = make_server()
    failures: list[Exception] = []

    @server.on_datagram
    def echo(the_server: Server, connection: Connection, payload: bytes) -> None:
        assert the_server is server
        if payload == b"fail":
            raise ValueError("mine")
        for bad in (bytes(70_000), bytes(1500)):
            try:
                server.send_datagram(connection, bad)
            except DatagramTooLarge as error:
                failures.append(error)
        server.send_datagram(connection, payload)

    async def scenario(client: AioquicClient) -> None:
        box = DatagramClient(client)
        sent = [b"one", b"", b"fail", bytes(1000)]
        for payload in sent:
            client._quic.send_datagram_frame(payload)
            client.transmit()
        await until(lambda: len(box.received) == 3)
        assert sorted(box.received) == sorted([b"one", b"", bytes(1000)])

    with logged() as records:
        talk(server, scenario, datagrams=True)
    assert len(failures) == 6
    assert len([r for r in records if r.exc_info]) == 1
    counted = server.export_metrics()
    assert counted["connections"]["datagrams_received"] == 4
    assert counted["connections"]["datagrams_sent"] == 3


def test_datagram_queue_is_bounded() -> None:
    """More datagrams than the queue holds raise WouldBlock, and none is kept beyond it (spec 4.1)."""
    server = make_server(dgram_send_queue_len=10)
    taken: list[int] = []

    @server.on_datagram
    def flood(the_server: Server, connection: Connection, payload: bytes) -> None:
        with pytest.raises(WouldBlock):  # noqa: PT012 - how often it goes well is what is asked
            for turn in range(1000):
                server.send_datagram(connection, b"x")
                taken.append(turn)

    async def scenario(client: AioquicClient) -> None:
        client._quic.send_datagram_frame(b"go")
        client.transmit()
        await until(lambda: taken)

    talk(server, scenario, datagrams=True)
    assert len(taken) == 10


def test_h3_datagram() -> None:
    """A datagram of a request has the quarter of its stream ID before it (RFC 9297 2.1)."""
    server = make_server()

    @server.get("/")
    def handler(req: Request, res: Response) -> str:
        res.send_h3_datagram(b"payload")
        return str(req.stream_id)

    async def run(url: str) -> None:
        async with client_of(url, datagrams=True) as client:
            box = DatagramClient(client)
            for turn in range(2):
                done = await client.get("/")
                assert done.body == str(4 * turn).encode()
                await until(lambda: len(box.received) > turn)  # noqa: B023
                assert box.received[turn] == bytes([turn]) + b"payload"

    with server.running() as address:
        asyncio.run(run(address.url))


# Metrics and logs


def test_metrics() -> None:
    """Every counter tells what happened (spec 8)."""
    server = make_server()

    async def read(req: Request) -> str:
        return str(len(await req.body.read_all()))

    server.post("/")(read)
    server.get("/fail")(lambda: 1 // 0)

    async def run(url: str) -> dict[str, Any]:
        async with client_of(url) as client:
            for _ in range(3):
                assert (await client.request("POST", "/", body=[bytes(1000)])).body == b"1000"
            assert (await client.get("/nowhere")).status == 404
            assert (await client.get("/fail")).status == 500
            exchange = client.start(client.fields("POST", "/"), end_stream=False)
            await until(lambda: server.export_metrics()["handlers"]["active"] == 1)
            now = server.export_metrics()
            client.reset(exchange.stream_id, H3ErrorCode.H3_REQUEST_CANCELLED)
            await until(lambda: server.export_metrics()["handlers"]["cancelled"] == 1)
        await until(lambda: not server.connections)
        return now

    with server.running() as address:
        now = asyncio.run(run(address.url))
    assert (now["connections"]["connections"], now["connections"]["half_open"]) == (1, 0)
    assert now["connections"]["cids"] > 1
    assert 0 < now["connections"]["rtt"]["min_ms"] <= now["connections"]["rtt"]["max_ms"] < 5000
    end = json.loads(json.dumps(server.export_metrics()))
    assert set(end) == {"engine", "connections", "http3", "handlers", "webtransport"}
    handlers = end["handlers"]
    assert handlers == {
        "started": 6, "finished": 4, "failed": 1, "cancelled": 1, "active": 0, "blocking_active": 0,
        "blocking_queued": 0, "rejected_503": 0, "loop_blocked": 0,
    }  # fmt: skip
    http3 = end["http3"]
    assert http3["requests"] == 6
    assert http3["responses"] == {"1xx": 0, "2xx": 3, "3xx": 0, "4xx": 1, "5xx": 1}
    assert http3["body_bytes_received"] == 3000
    assert http3["body_bytes_sent"] == 12 + len("404 Not found\n") + len("500 Internal Server Error\n")
    assert http3["resets_received"] == 1
    connections = end["connections"]
    assert (connections["accepted"], connections["closed"], connections["closed_by_peer"]) == (1, 1, 1)
    assert (connections["connections"], connections["cids"]) == (0, 0)
    engine = end["engine"]
    assert 0 < engine["datagrams_received"] <= connections["packets_received"] + engine["unknown_dropped"]
    assert engine["bytes_sent"] >= connections["bytes_sent"] > 1000
    assert connections["bytes_received"] > 3000


def test_metrics_before_anything() -> None:
    """Metrics and addresses of a server that is not bound are asked for too early."""
    server = make_server()
    for ask in (server.export_metrics, lambda: server.address, lambda: server.certificate_sha256):
        with pytest.raises(InvalidState):
            ask()
    assert server.connections == []


def test_access_log() -> None:
    """One line per answered request, whatever its handler's style, errors and refusals included."""
    server = make_server(access_log=True, max_path_length=100)

    async def read(req: Request) -> str:
        return str(len(await req.body.read_all()))

    server.get("/plain")(lambda: "hello")
    server.post("/async")(read)
    server.get("/blocking", blocking=True)(lambda: "hello")
    server.get("/fail")(lambda: 1 // 0)
    server.get("/generator")(lambda: iter(["a", "b"]))
    wanted = [
        ("GET", "/plain?x=1", 200, 5), ("POST", "/async", 200, 4), ("GET", "/blocking", 200, 5),
        ("GET", "/fail", 500, 26), ("GET", "/generator", 200, 2), ("GET", "/nowhere", 404, 14),
        ("OPTIONS", "/plain", 204, 0), ("HEAD", "/plain", 200, 0),
    ]  # fmt: skip

    async def scenario(client: AioquicClient) -> None:
        for method, path, _, _ in wanted:
            await client.request(method, path, body=[bytes(1000)] if method == "POST" else ())
        assert (await client.get("/" + "a" * 100)).status == 414
        malformed = client.start(client.fields("GET", "/", [(b"x-a", b"b\0")]))
        assert (await malformed.response()).status == 400

    with logged("quiche_h3.access") as records:
        talk(server, scenario)
    lines: list[Any] = [record.args for record in records]
    assert [(x["method"], x["path"], x["status"], x["bytes"]) for x in lines[: len(wanted)]] == wanted
    assert [x["stream_id"] for x in lines[: len(wanted)]] == [4 * i for i in range(len(wanted))]
    assert [x["status"] for x in lines[len(wanted) :]] == [414, 400]
    assert all(0 <= x["duration_ms"] < 10_000 and x["conn_id"] == 1 for x in lines)


def test_no_access_log_by_default() -> None:
    """Without `access_log` there is no line."""
    server = make_server()
    server.get("/")(lambda: "hello")

    async def scenario(client: AioquicClient) -> None:
        await client.get("/")

    with logged("quiche_h3.access") as records:
        talk(server, scenario)
    assert records == []


# Routers


def test_routers_under_prefixes() -> None:
    """Mounted routers keep their middleware and error handlers to themselves."""
    server, api = make_server(), Router()

    class Mine(Exception):
        pass

    def fail(req: Request) -> None:
        raise Mine

    api.on_error(Mine)(lambda req, res, exc: (409, "mine"))
    api.get("/fail")(fail)
    api.get("/:name")(lambda req: req.params["name"])
    server.mount("/api", api)
    server.get("/fail")(fail)

    async def scenario(client: AioquicClient) -> None:
        assert (await client.get("/api/x")).body == b"x"
        assert ((await client.get("/api/fail")).status, (await client.get("/fail")).status) == (409, 500)

    talk(server, scenario)


def test_duplicate_route() -> None:
    """A pattern that is taken is refused when it is registered."""
    server = make_server()
    server.get("/a/:x")(lambda: "1")
    with pytest.raises(RouteError):
        server.get("/a/{y}")(lambda: "2")


# Addresses and configuration


def bound(port: int, host: str = "127.0.0.1") -> bool:
    """Whether somebody has the UDP port."""
    with socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET, socket.SOCK_DGRAM) as sock:
        try:
            sock.bind((host, port))
        except OSError:
            return True
        return False


def test_several_addresses() -> None:
    """A list of addresses is bound to the same port, IPv6 among them; each is served."""
    server = Server(ServerConfig(bind_addr=["127.0.0.1", "127.0.0.2", "::1"], bind_port=0, dev_cert=True))
    server.get("/")(lambda req: req.local_address[0])

    async def run() -> None:
        for address in server.addresses:
            async with client_of(address.url) as client:
                assert (await client.get("/")).body.decode().endswith(address.host)

    with server.running():
        assert [a.host for a in server.addresses] == ["127.0.0.1", "127.0.0.2", "::1"]
        assert len({a.port for a in server.addresses}) == 1
        assert server.addresses[2].url == f"https://[::1]:{server.address.port}"
        asyncio.run(run())


def test_dual_stack() -> None:
    """``::`` with dual_stack serves IPv4 as well, without it IPv6 alone."""
    server = Server(ServerConfig(bind_addr="::", bind_port=0, dev_cert=True))
    server.get("/")(lambda req: req.peer_address[0])

    async def run(port: int) -> None:
        for host in ("127.0.0.1", "[::1]"):
            async with client_of(f"https://{host}:{port}") as client:
                assert (await client.get("/")).body.decode().endswith(host.strip("[]"))

    with server.running() as address:
        asyncio.run(run(address.port))
    alone = Server(ServerConfig(bind_addr="::", bind_port=0, dual_stack=False, dev_cert=True))
    with alone.running() as address:
        assert not bound(address.port)
        assert bound(address.port, "::")


def test_port_in_use() -> None:
    """A port that somebody has is one clear error, and nothing stays bound."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as taken:
        taken.bind(("127.0.0.2", 0))
        port = taken.getsockname()[1]
        config = ServerConfig(bind_addr=["127.0.0.1", "127.0.0.2"], bind_port=port, dev_cert=True)
        before = len(os.listdir("/proc/self/fd"))  # noqa: PTH208
        for method in ("start", "run", "open"):
            with pytest.raises(ConfigError) as caught:
                getattr(Server(config), method)()
            assert caught.value.field in ("bind_port", "bind_addr")
            assert "\n" not in str(caught.value)
            assert str(port) in str(caught.value)
        assert not bound(port)
        assert len(os.listdir("/proc/self/fd")) == before  # noqa: PTH208


@pytest.mark.parametrize(
    "fields",
    [
        {"cert_path": "/nowhere/cert.pem", "key_path": "/nowhere/key.pem"},
        {"cert_pem": b"nonsense", "key_pem": b"nonsense"},
        {"dev_cert": True, "bind_addr": "192.0.2.1"},
        {"dev_cert": True, "bind_addr": "localhost"},
        {"dev_cert": True, "alpn_protocols": ["h3", "h2"]},
        {},
    ],
)
def test_bad_configuration(fields: dict[str, Any]) -> None:
    """What cannot be used is one line that names the field, before anything is bound."""
    before = len(os.listdir("/proc/self/fd"))  # noqa: PTH208
    with pytest.raises(ConfigError) as caught:
        Server(ServerConfig(**{"bind_port": 0, **fields})).start()
    assert "\n" not in str(caught.value)
    assert len(os.listdir("/proc/self/fd")) == before  # noqa: PTH208


def test_mismatched_key(tmp_path: Path) -> None:
    """A key of another certificate is found out before anything is bound."""
    from quiche_h3 import make_dev_certificate

    (cert, _), (_, key) = make_dev_certificate(), make_dev_certificate()
    with pytest.raises(ConfigError) as caught:
        Server(ServerConfig(bind_port=0, cert_pem=cert, key_pem=key)).start()
    assert "key" in caught.value.field


def test_qlog_and_keylog(tmp_path: Path) -> None:
    """A qlog file per connection, TLS secrets for whoever debugs, as configured."""
    server = make_server(qlog_dir=tmp_path / "qlogs", keylog_path=tmp_path / "keys")
    server.get("/")(lambda: "hello")

    async def scenario(client: AioquicClient) -> None:
        await client.get("/")

    talk(server, scenario)
    (qlog,) = (tmp_path / "qlogs").iterdir()
    assert "quic:packet_received" in qlog.read_text() or "transport:packet_received" in qlog.read_text()
    assert "CLIENT_TRAFFIC_SECRET_0" in (tmp_path / "keys").read_text()


def test_many_connections_and_requests() -> None:
    """100 requests at once on one connection and 100 over 20, all right (issue of the first milestone)."""
    server = make_server()
    server.get("/:n")(lambda req: req.params["n"])

    async def ask(client: AioquicClient, numbers: range) -> bool:
        got = await asyncio.gather(*(client.get(f"/{n}") for n in numbers))
        return [done.body.decode() for done in got] == [str(n) for n in numbers]

    async def one(url: str, numbers: range) -> bool:
        async with client_of(url) as client:
            return await ask(client, numbers)

    async def run(url: str) -> None:
        assert await one(url, range(100))
        assert all(await asyncio.gather(*(one(url, range(5 * n, 5 * n + 5)) for n in range(20))))

    with server.running() as address:
        asyncio.run(run(address.url))


def test_call_soon_threadsafe() -> None:
    """Functions of other threads are called in the server's thread, in order."""
    server = make_server()
    names: list[str] = []
    done = threading.Event()
    with pytest.raises(InvalidState):
        server.call_soon_threadsafe(print)
    with server.running():
        for _ in range(3):
            server.call_soon_threadsafe(lambda: names.append(threading.current_thread().name))
        server.call_soon_threadsafe(done.set)
        assert done.wait(10)
    assert names == ["quiche_h3-server"] * 3
    with pytest.raises(InvalidState):
        server.call_soon_threadsafe(print)


def test_server_logs_where_it_serves() -> None:
    """The addresses are logged at level info."""
    server = make_server()
    with logged(level=logging.INFO) as records, server.running() as address:
        pass
    assert f"serving HTTP/3 on {address.url}" in [r.getMessage() for r in records]


def test_connections_may_be_asked_from_other_threads() -> None:
    """docs/architecture.md, Threads: statistics, names and close() wait for the passes without the GIL."""
    body = b"x" * (2 << 20)
    server = make_server()
    server.get("/large")(lambda: body)
    asked = 0
    stop = threading.Event()

    def ask() -> None:
        nonlocal asked
        while not stop.is_set():
            server.export_metrics()
            for connection in server.connections:
                asked += bool(connection.stats()) and connection.alpn == "h3"

    with server.running() as address, quiche_h3.connect(address.url, verify=False) as client:
        askers = [threading.Thread(target=ask) for _ in range(2)]
        for thread in askers:
            thread.start()
        for _ in range(4):
            assert len(client.get("/large").read_all()) == len(body)
        stop.set()
        for thread in askers:
            thread.join()
        (connection,) = server.connections
        connection.close(0x123, "enough")

        def fetch() -> None:
            for _ in range(1000):
                client.get("/large").read_all()

        with pytest.raises(ConnectionClosed) as caught:
            fetch()
        assert caught.value.code == 0x123
    assert asked > 10
