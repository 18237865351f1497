"""Faults of handlers, the process and the machine (docs/faults.md): what it costs is one request."""

from __future__ import annotations

import asyncio
import os
import resource
import signal
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from client_support import eventually
from interop.aioquic_peer import AioquicClient
from server_support import logged, make_server, talk, until

import quiche_h3
from quiche_h3 import (
    ConnectionClosed,
    H3ErrorCode,
    InvalidState,
    Request,
    Response,
    ResponseEnded,
    Server,
    StreamClosed,
    StreamReset,
)

# Handlers that hang


async def hang_async(req: Request, res: Response) -> None:
    await asyncio.Event().wait()


def hang_reading(req: Request, res: Response) -> Iterator[Any]:
    while not req.body.ended:
        yield req.body


@pytest.mark.parametrize("style", ["coroutine", "blocking", "generator"])
def test_a_handler_that_hangs(style: str) -> None:
    """`handler_timeout_ms`: 503, logged and counted; the handler is cancelled, the connection lives."""
    server = make_server(handler_timeout_ms=100, body_grace_ms=0)
    release, ended = threading.Event(), threading.Event()

    def hang_blocking(req: Request, res: Response) -> str:
        release.wait(10)
        try:
            res.write("late")
        except Exception as error:
            ended.set()
            raise error
        return "never sent"

    handlers: dict[str, Any] = {
        "coroutine": hang_async, "blocking": hang_blocking, "generator": hang_reading,
    }  # fmt: skip
    server.post("/", blocking=style == "blocking")(handlers[style])
    server.get("/well")(lambda: "well")

    async def scenario(client: AioquicClient) -> None:
        exchange = client.start(client.fields("POST", "/"), end_stream=style != "generator")
        done = await exchange.complete()
        assert done.status == 503
        assert (await client.get("/well")).body == b"well"
        assert server.export_metrics()["http3"]["overdue_handlers"] == 1
        release.set()
        await until(lambda: server.export_metrics()["handlers"]["active"] == 0)

    with logged() as records:
        talk(server, scenario)
    assert any("has not answered in time" in record.getMessage() for record in records)
    assert ended.is_set() is (style == "blocking")


def test_a_handler_that_has_begun_may_take_its_time() -> None:
    """A response that is on its way is no hanging handler, and neither is a body that still comes."""
    server = make_server(handler_timeout_ms=100)

    @server.get("/events")
    async def events(req: Request, res: Response) -> None:
        await res.write_all("begun")
        await asyncio.sleep(0.4)
        await res.write_all(" ended")

    server.post("/upload")(lambda req: str(len(req.body.read_all())))

    async def scenario(client: AioquicClient) -> None:
        upload = client.start(client.fields("POST", "/upload"), end_stream=False)
        events = asyncio.ensure_future(client.get("/events"))
        for _ in range(8):
            await client.send_body(upload.stream_id, [bytes(100)], False)
            await asyncio.sleep(0.05)
        await client.send_body(upload.stream_id, [b""], True)
        assert (await upload.complete()).body == b"800"
        assert (await events).body == b"begun ended"

    talk(server, scenario)
    assert server.export_metrics()["http3"]["overdue_handlers"] == 0


def test_a_slow_body_for_a_thread() -> None:
    """A blocking handler that waits for a body which comes too slowly: 408, and the loop goes on."""
    server = make_server(body_grace_ms=100, min_body_rate=1000)
    broken: list[str] = []

    @server.post("/", blocking=True)
    def handler(req: Request) -> None:
        try:
            req.body.read_all()
        except Exception as error:
            broken.append(type(error).__name__)
            raise

    async def scenario(client: AioquicClient) -> None:
        exchange = client.start(client.fields("POST", "/"), end_stream=False)
        assert (await exchange.complete()).status == 408
        await until(lambda: broken)

    talk(server, scenario)
    assert broken == ["RequestTimeout"]


@pytest.mark.parametrize("backend", ["auto", "asyncio"])
def test_a_handler_that_blocks_the_loop(backend: str) -> None:
    """The watchdog says where, once; blocking handlers and idle loops are no concern of its."""
    server = make_server(watchdog_ms=50, event_backend=backend)

    @server.get("/block")
    def block_the_loop() -> str:
        time.sleep(0.5)
        return "done"

    @server.get("/thread", blocking=True)
    def thread() -> str:
        time.sleep(0.2)
        return "done"

    async def scenario(client: AioquicClient) -> None:
        assert (await client.get("/thread")).body == b"done"
        assert server.export_metrics()["handlers"]["loop_blocked"] == 0
        assert (await client.get("/block")).body == b"done"
        assert server.export_metrics()["handlers"]["loop_blocked"] == 1

    with logged() as records:
        talk(server, scenario)
    (said,) = [record.getMessage() for record in records if "event loop is blocked" in record.getMessage()]
    assert "block_the_loop" in said
    assert "time.sleep(0.5)" in said
    assert not [t for t in threading.enumerate() if t.name == "quiche_h3-watchdog"]


def late_calls(server: Server, req: Request, res: Response) -> list[Callable[[], object]]:
    return [
        lambda: res.write(b"x"),
        lambda: res.end(b"x"),
        lambda: res.inform(103, {"x": "y"}),
        lambda: res.send_trailers({"x": "y"}),
        lambda: res.send_h3_datagram(b"x"),
        lambda: server.send_datagram(req.connection, b"x"),
    ]


def test_a_handler_keeps_what_is_gone() -> None:
    """After the end of the stream, and of the connection, every late call raises; none sends anything."""
    server = make_server()
    kept: list[tuple[Request, Response]] = []

    @server.post("/")
    async def handler(req: Request, res: Response) -> str:
        kept.append((req, res))
        await req.body.read_all()
        return "done"

    async def scenario(client: AioquicClient) -> None:
        assert (await client.request("POST", "/", body=[b"body"])).status == 200
        exchange = client.start(client.fields("POST", "/"), end_stream=False)
        await until(lambda: len(kept) == 2)
        client._quic.reset_stream(exchange.stream_id, H3ErrorCode.H3_REQUEST_CANCELLED)
        client.transmit()
        await until(lambda: server.export_metrics()["handlers"]["active"] == 0)

    talk(server, scenario)
    for req, res in kept:
        for call in late_calls(server, req, res):
            with pytest.raises((ResponseEnded, StreamClosed, StreamReset, ConnectionClosed)):
                call()
        assert (req.method, req.path, req.headers.get("x")) == ("POST", "/", None)
        assert req.connection.closed


# The client goes


@pytest.mark.parametrize("silent", [False, True])
def test_a_client_that_vanishes(silent: bool) -> None:
    """In mid-upload and mid-download: handlers are cancelled once, by a close or the idle timeout."""
    server = make_server(idle_timeout_ms=300)
    cancelled: list[str] = []
    closed: list[int] = []

    @server.route(["GET", "POST"], "/")
    async def handler(req: Request, res: Response) -> None:
        try:
            await req.body.read_all()
            while True:
                await res.write_all(bytes(65_536))
        except BaseException as error:
            cancelled.append(type(error).__name__)
            raise

    server.on_close(lambda connection: closed.append(connection.id))

    async def scenario(client: AioquicClient) -> None:
        client.start(client.fields("POST", "/"), end_stream=False)
        client.start(client.fields("GET", "/"), keep_body=False)
        await until(lambda: server.export_metrics()["handlers"]["active"] == 2)
        if silent:
            client.transmit = lambda: None  # type: ignore[method-assign]
            await until(lambda: closed)
            del client.transmit

    talk(server, scenario)
    assert cancelled == ["CancelledError"] * 2
    assert len(closed) == 1
    counted = server.export_metrics()["handlers"]
    assert (counted["cancelled"], counted["active"]) == (2, 0)


# The process


def in_child(function: Callable[[], None]) -> None:
    """Calls the function in a forked child, which must get to its end."""
    pid = os.fork()
    if pid == 0:
        code = 1
        try:
            function()
            code = 0
        finally:
            os._exit(code)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0


def test_fork() -> None:
    """A child of the process must not touch connections and sockets: the parent feels nothing of it."""
    server = make_server()
    server.get("/")(lambda: "hello")

    with server.running() as address, quiche_h3.connect(address.url, verify=False, timeout=10) as client:
        assert client.get("/").text == "hello"

        def child() -> None:
            with pytest.raises(InvalidState, match="forked"):
                client.get("/")
            with pytest.raises(RuntimeError, match="forked"):
                server._endpoint.receive(0)  # type: ignore[union-attr]
            client.close()
            server.stop()

        in_child(child)
        assert client.get("/").text == "hello"


def test_no_descriptors_left(tmp_path: Path) -> None:
    """Files get 503, logs are given up and counted, requests and new connections are served."""
    server = make_server(keylog_path=tmp_path / "keys", qlog_dir=tmp_path / "qlog")
    server.static("/files", tmp_path)
    server.get("/")(lambda: "hello")
    (tmp_path / "a.txt").write_text("a")

    async def scenario(client: AioquicClient) -> tuple[int, int, int]:
        soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        lowest = os.open(os.devnull, os.O_RDONLY)
        os.close(lowest)
        resource.setrlimit(resource.RLIMIT_NOFILE, (lowest, hard))
        try:
            answers = (await client.get("/files/a.txt")).status, (await client.get("/")).status
        finally:
            resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
        return *answers, (await client.get("/files/a.txt")).status

    assert talk(server, scenario) == (503, 200, 200)


def test_no_memory_left() -> None:
    """RLIMIT_AS: what a handler cannot have is its own 500, and the next request has all it needs."""
    server = make_server()

    def greedy() -> bytes:
        return bytes(1 << 30)

    server.get("/greedy")(greedy)
    server.get("/")(lambda: "hello")

    async def scenario(client: AioquicClient) -> list[int]:
        return [(await client.get(path)).status for path in ("/greedy", "/", "/greedy", "/")]

    soft, hard = resource.getrlimit(resource.RLIMIT_AS)
    pages = int(Path("/proc/self/statm").read_text().split()[0])
    resource.setrlimit(resource.RLIMIT_AS, (pages * resource.getpagesize() + (256 << 20), hard))
    try:
        with logged("quiche_h3") as records:
            assert talk(server, scenario) == [500, 200, 500, 200]
    finally:
        resource.setrlimit(resource.RLIMIT_AS, (soft, hard))
    assert len([record for record in records if record.exc_info and record.exc_info[0] is MemoryError]) == 2


@pytest.fixture
def small_files() -> Iterator[None]:
    """As on a full disk: no file of this process grows beyond 64 KiB."""
    before = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (65_536, hard))
    yield
    resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    signal.signal(signal.SIGXFSZ, before)


def test_full_disk(tmp_path: Path, small_files: None) -> None:
    """qlog and key log with no room left: every request is served, whole."""
    server = make_server(keylog_path=tmp_path / "keys", qlog_dir=tmp_path / "qlog")
    server.get("/")(lambda: bytes(1_000_000))
    (tmp_path / "keys").write_bytes(bytes(65_536))

    async def scenario(client: AioquicClient) -> None:
        for _ in range(3):
            assert len((await client.get("/")).body) == 1_000_000

    talk(server, scenario)
    (qlog,) = (tmp_path / "qlog").iterdir()
    assert qlog.stat().st_size == (tmp_path / "keys").stat().st_size == 65_536


@pytest.mark.parametrize("which", ["qlog", "key log"])
def test_logs_that_break_off(which: str, tmp_path: Path, small_files: None) -> None:
    """Writes that fail in mid-connection are counted for each connection, and said once."""
    keys = tmp_path / "keys"
    logs = {"qlog_dir": tmp_path / "qlog"} if which == "qlog" else {"keylog_path": keys}
    server = make_server(**logs)
    server.get("/")(lambda: bytes(1_000_000))
    if which == "key log":
        keys.write_bytes(bytes(65_536))
    with logged("quiche_h3.quic") as records, server.running() as address:
        for number in range(3):
            with quiche_h3.connect(address.url, verify=False) as client:
                assert len(client.get("/").content) == 1_000_000
                assert server.export_metrics()["engine"]["log_failures"] == number + 1
    assert server.export_metrics()["engine"]["log_failures"] == 3
    assert len([record for record in records if "could not be written" in record.getMessage()]) == 1


def test_logs_that_cannot_be_had(tmp_path: Path) -> None:
    """A qlog directory that is gone: connections go without, which is counted and said once."""
    server = make_server(qlog_dir=tmp_path / "qlog")
    server.get("/")(lambda: "hello")
    with logged("quiche_h3.quic") as records, server.running() as address:
        (tmp_path / "qlog").rmdir()
        for _ in range(3):
            with quiche_h3.connect(address.url, verify=False) as client:
                assert client.get("/").text == "hello"
    assert server.export_metrics()["engine"]["log_failures"] == 3
    assert len([record for record in records if "qlog" in record.getMessage()]) == 1


def test_wall_clock(monkeypatch: pytest.MonkeyPatch) -> None:
    """A jump of the wall clock by a day, either way, changes nothing for what waits."""
    server = make_server(idle_timeout_ms=5000)
    server.get("/")(lambda: "hello")
    now = time.time
    with server.running() as address, quiche_h3.connect(address.url, verify=False) as client:
        for jump in (86_400, -86_400):
            monkeypatch.setattr(time, "time", lambda jump=jump: now() + jump)
            assert client.get("/").text == "hello"
            with quiche_h3.connect(address.url, verify=False) as other:
                assert other.get("/").text == "hello"
        assert not client.closed


def test_nothing_waits_by_the_wall_clock() -> None:
    """The sources ask for it where a date is said, or a ticket or token is dated that others read too."""
    root = Path(quiche_h3.__file__).parent
    asking = {
        path.relative_to(root).as_posix()
        for path in root.rglob("*.*")
        if path.suffix in (".py", ".pyx", ".h", ".c", ".pxd")
        and any(
            name in path.read_text()
            for name in ("time.time(", "CLOCK_REALTIME", "gettimeofday", "time(NULL)")
        )
    }
    assert asking == {"_core/fields.pyx", "_core/tokens.py", "files.py", "tickets.py"}


def test_the_server_object_may_be_dropped_anyhow() -> None:
    """A server that was opened and never run gives everything back when it is closed."""
    before = len(os.listdir("/proc/self/fd"))  # noqa: PTH208
    server: Server = make_server()
    server.open()
    server.close()
    del server
    eventually(lambda: len(os.listdir("/proc/self/fd")) == before)  # noqa: PTH208
