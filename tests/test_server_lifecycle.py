"""How a server starts, drains, stops, and what is left of it: nothing."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import os
import signal
import subprocess
import sys
import threading
import time
import weakref
from collections.abc import Awaitable, Callable, Iterator
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import pytest
from aioquic._buffer import Buffer, BufferReadError
from aioquic.quic.events import QuicEvent, StreamDataReceived
from interop.aioquic_peer import AioquicClient
from server_support import KIB, client_of, logged, make_server, until

from quiche_h3 import H3ErrorCode, InvalidState, Request, Server

GOAWAY = 7

PROGRAM = """
import asyncio, sys, threading, time
from quiche_h3 import Server, ServerConfig

server = Server(ServerConfig(bind_addr="127.0.0.1", bind_port=0, dev_cert=True, **{fields}))
server.on_startup(lambda: print(server.address.port, flush=True))
server.on_shutdown(lambda: print("shutdown", flush=True))
server.get("/")(lambda: "hello")

def work(req):
    print("working", flush=True)
    time.sleep(float(req.params["seconds"]))
    return "worked"

async def work_async(req):
    print("working", flush=True)
    await asyncio.sleep(float(req.params["seconds"]))
    return "worked"

if {is_async}:
    server.get("/work/:seconds")(work_async)
else:
    server.get("/work/:seconds", blocking=True)(work)
{run}
print("ended", flush=True)
"""


class Program:
    """A server in a process of its own."""

    def __init__(self, run: str = "server.run()", is_async: bool = False, **fields: Any) -> None:
        source = PROGRAM.format(fields=fields, run=run, is_async=is_async)
        environment = os.environ | {"PYTHONPATH": str(Path(__file__).parents[1])}
        self.process = subprocess.Popen(
            [sys.executable, "-c", source], stdout=subprocess.PIPE, text=True, env=environment
        )
        self.url = f"https://127.0.0.1:{self.line()}"

    def line(self) -> str:
        assert self.process.stdout is not None
        return self.process.stdout.readline().strip()

    def __enter__(self) -> Program:
        return self

    def __exit__(self, *exc: object) -> None:
        self.process.kill()
        self.process.communicate()

    async def ended(self, seconds: float = 10) -> list[str]:
        """Wait for the end, which must be a good one; return what was printed since."""
        loop = asyncio.get_running_loop()
        out, _ = await loop.run_in_executor(None, lambda: self.process.communicate(timeout=seconds))
        assert self.process.returncode == 0
        return str(out).split()


def goaways(client: AioquicClient) -> list[int]:
    """The stream IDs of GOAWAY frames (RFC 9114 5.2), collected as they come: aioquic ignores them."""
    seen: list[int] = []
    control = bytearray()
    handle = client.quic_event_received

    def received(event: QuicEvent) -> None:
        if isinstance(event, StreamDataReceived) and event.stream_id == 3:
            control.extend(event.data)
            seen[:] = goaway_ids(bytes(control))
        handle(event)

    client.quic_event_received = received  # type: ignore[method-assign]
    return seen


def goaway_ids(control: bytes) -> Iterator[int]:
    """What the GOAWAY frames on a control stream say, which may be seen from any of its frames on."""
    buffer = Buffer(data=control)
    try:
        if control[0] == 0:  # the stream's type
            buffer.pull_uint_var()
        while not buffer.eof():
            kind, size = buffer.pull_uint_var(), buffer.pull_uint_var()
            payload = buffer.pull_bytes(size)
            if kind == GOAWAY:
                yield Buffer(data=payload).pull_uint_var()
    except BufferReadError:
        pass  # the rest is on its way


def scenario_of(url: str, scenario: Callable[[AioquicClient], Awaitable[None]]) -> None:
    async def run() -> None:
        async with client_of(url) as client:
            await scenario(client)

    asyncio.run(run())


def test_suspended() -> None:
    """SIGSTOP, SIGCONT: each connection whose time has passed ends once, and no timer fires for ever."""
    run = """
server.get("/timed-out")(lambda: str(server.export_metrics()["connections"]["timed_out"]))
server.run()"""

    async def scenario() -> None:
        async with AsyncExitStack() as stack:
            for _ in range(20):
                client = await stack.enter_async_context(client_of(program.url))
                assert (await client.get("/")).status == 200
            program.process.send_signal(signal.SIGSTOP)
            await asyncio.sleep(1.0)  # the fault itself
            before = cpu_seconds(program.process.pid)
            program.process.send_signal(signal.SIGCONT)
            async with client_of(program.url) as client:
                assert (await client.get("/timed-out")).body == b"20"
                assert (await client.get("/")).body == b"hello"
        assert cpu_seconds(program.process.pid) - before < 0.3

    with Program(run, idle_timeout_ms=500) as program:
        asyncio.run(scenario())


def cpu_seconds(pid: int) -> float:
    return time.clock_gettime(~pid << 3 | 2)  # as clock_getcpuclockid(3) makes it on Linux


@pytest.mark.parametrize("is_async", [False, True])
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_signal_drains(number: signal.Signals, is_async: bool) -> None:
    """A signal: GOAWAY, what is in flight finishes, new requests are rejected, H3_NO_ERROR, exit code 0."""
    with Program(is_async=is_async) as program:

        async def scenario(client: AioquicClient) -> None:
            seen = goaways(client)
            assert (await client.get("/")).body == b"hello"
            working = asyncio.ensure_future(client.get("/work/1"))
            await until(lambda: client.exchanges.keys() >= {4})
            assert await asyncio.get_running_loop().run_in_executor(None, program.line) == "working"
            program.process.send_signal(number)
            await until(lambda: seen)
            assert seen == [8]
            with pytest.raises(Exception, match="reset with 0x10b"):  # H3_REQUEST_REJECTED
                await client.get("/")
            done = await working
            assert (done.status, done.body) == (200, b"worked")
            closed = await client.closed()
            assert (closed.code, closed.frame_type) == (H3ErrorCode.H3_NO_ERROR, None)
            assert await program.ended() == ["shutdown", "ended"]

        scenario_of(program.url, scenario)


@pytest.mark.parametrize("is_async", [False, True])
def test_second_signal_stops_at_once(is_async: bool) -> None:
    """The second signal does not wait for what is in flight, blocking handlers included."""
    with Program(is_async=is_async) as program:

        async def scenario(client: AioquicClient) -> None:
            seen = goaways(client)
            working = asyncio.ensure_future(client.get("/work/60"))
            assert await asyncio.get_running_loop().run_in_executor(None, program.line) == "working"
            program.process.send_signal(signal.SIGTERM)
            await until(lambda: seen)
            assert program.process.poll() is None
            program.process.send_signal(signal.SIGTERM)
            assert (await client.closed(5)).code == H3ErrorCode.H3_NO_ERROR
            assert await program.ended(5) == ["shutdown", "ended"]
            with contextlib.suppress(ConnectionError):
                await working

        scenario_of(program.url, scenario)


@pytest.mark.parametrize("is_async", [False, True])
def test_drain_timeout(is_async: bool) -> None:
    """What does not finish within drain_timeout_ms is cut off."""
    with Program(is_async=is_async, drain_timeout_ms=300) as program:

        async def scenario(client: AioquicClient) -> None:
            working = asyncio.ensure_future(client.get("/work/60"))
            assert await asyncio.get_running_loop().run_in_executor(None, program.line) == "working"
            start = time.monotonic()
            program.process.send_signal(signal.SIGTERM)
            assert (await client.closed(5)).code == H3ErrorCode.H3_NO_ERROR
            assert 0.25 < time.monotonic() - start < 3
            assert await program.ended(5) == ["shutdown", "ended"]
            with contextlib.suppress(ConnectionError):
                await working

        scenario_of(program.url, scenario)


def test_idle_server_stops_at_once() -> None:
    """Without a request in flight nothing is waited for, though there are connections."""
    with Program() as program:

        async def scenario(client: AioquicClient) -> None:
            await client.get("/")
            start = time.monotonic()
            program.process.send_signal(signal.SIGINT)
            assert (await client.closed(5)).code == H3ErrorCode.H3_NO_ERROR
            await program.ended()
            assert time.monotonic() - start < 3

        scenario_of(program.url, scenario)


@pytest.mark.parametrize("loop", ["asyncio.run", "uvloop.run"])
def test_signal_under_serve(loop: str) -> None:
    """`await serve()` heeds signals in asyncio and uvloop alike, and returns."""
    if loop.startswith("uvloop"):
        pytest.importorskip("uvloop")
    with Program(run=f"import uvloop\n{loop}(server.serve())", is_async=True) as program:

        async def scenario(client: AioquicClient) -> None:
            assert (await client.get("/")).body == b"hello"
            working = asyncio.ensure_future(client.get("/work/0.5"))
            assert await asyncio.get_running_loop().run_in_executor(None, program.line) == "working"
            program.process.send_signal(signal.SIGTERM)
            assert (await working).body == b"worked"
            assert await program.ended() == ["shutdown", "ended"]

        scenario_of(program.url, scenario)


def test_handlers_of_signals_run_promptly() -> None:
    """A Python signal handler of the program runs while the server waits for packets; it goes on."""
    run = "import signal\nsignal.signal(signal.SIGUSR1, lambda *_: print('heard', flush=True))\nserver.run()"
    with Program(run=run) as program:
        start = time.monotonic()
        program.process.send_signal(signal.SIGUSR1)
        assert program.line() == "heard"
        assert time.monotonic() - start < 2

        async def scenario(client: AioquicClient) -> None:
            assert (await client.get("/")).body == b"hello"

        scenario_of(program.url, scenario)


def test_signal_handlers_are_given_back() -> None:
    """After run() SIGINT is Python's again."""
    before = signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)
    server = make_server()
    during: list[Any] = []

    def look_and_stop() -> None:
        during.append(signal.getsignal(signal.SIGINT))
        server.stop()

    @server.on_startup
    def stop() -> None:
        threading.Timer(0.1, look_and_stop).start()

    server.run()
    assert during[0] not in before
    assert (signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)) == before


# Stopping from within the program


@pytest.mark.parametrize("backend", ["auto", "asyncio"])
def test_stop_from_a_handler(backend: str) -> None:
    """A handler may stop the server; its own response still arrives, whole."""
    server = make_server(event_backend=backend)

    @server.get("/stop")
    def stop(req: Request) -> bytes:
        server.stop()
        return bytes(2 << 20)

    async def run(url: str) -> None:
        async with client_of(url) as client:
            assert len((await client.get("/stop")).body) == 2 << 20
            assert (await client.closed()).code == H3ErrorCode.H3_NO_ERROR

    address = server.start()
    asyncio.run(run(address.url))
    server.stop()


@pytest.mark.parametrize("backend", ["auto", "asyncio"])
def test_stop_before_run(backend: str) -> None:
    """A stop() that comes before run() is not lost."""
    server = make_server(event_backend=backend)
    server.stop()
    server.run()


def test_a_server_runs_once() -> None:
    """After its end every way to start a server again is refused, and the end may come again."""
    server = make_server()
    with server as address:
        assert address.port
        with pytest.raises(InvalidState):
            server.start()
        with pytest.raises(InvalidState):
            server.run()
    for start in (
        server.start,
        server.run,
        server.open,
        server.next_event,
        lambda: asyncio.run(server.serve()),
    ):
        with pytest.raises(InvalidState):
            start()
    server.stop()
    server.close()


def test_open_then_run() -> None:
    """open() binds, so that the address is known before the server runs; close() gives back."""
    server = make_server()
    server.open()
    port = server.address.port
    with server.running() as address:
        assert address.port == port
    other = make_server()
    other.open()
    before = len(os.listdir("/proc/self/fd"))  # noqa: PTH208
    other.close()
    other.close()
    assert len(os.listdir("/proc/self/fd")) < before  # noqa: PTH208


@pytest.mark.parametrize("backend", ["auto", "asyncio"])
def test_startup_hook_that_fails(backend: str) -> None:
    """What a startup hook raises comes out of start() and run(); nothing stays bound."""
    for method in ("start", "run"):
        server = make_server(event_backend=backend)
        ended: list[int] = []
        server.on_startup(lambda: 1 // 0)
        server.on_shutdown(lambda: ended.append(1))  # noqa: B023
        before = threading.active_count(), len(os.listdir("/proc/self/fd"))  # noqa: PTH208
        with pytest.raises(ZeroDivisionError):
            getattr(server, method)()
        assert (threading.active_count(), len(os.listdir("/proc/self/fd"))) == before  # noqa: PTH208
        assert ended == []


# Draining


class Lossy:
    """Loses the datagrams that a client receives while `losing`."""

    def __init__(self, client: AioquicClient) -> None:
        self.losing = False
        receive = client.datagram_received
        client._transport._protocol = client  # type: ignore[union-attr]

        def received(data: bytes | str, addr: Any) -> None:
            if not self.losing:
                receive(data, addr)

        client.datagram_received = received  # type: ignore[method-assign]


@pytest.mark.parametrize("size", [100, 60_000])
def test_drain_waits_for_the_client_to_have_it_all(size: int) -> None:
    """What is in flight has finished when the client has it, not when it was sent: packets get lost."""
    server = make_server()
    started, go = threading.Event(), threading.Event()

    @server.get("/", blocking=True)
    def handler(req: Request) -> bytes:
        started.set()
        go.wait(10)
        return bytes(size)

    async def run(url: str) -> None:
        async with client_of(url) as client:
            lossy = Lossy(client)
            asking = asyncio.ensure_future(client.get("/"))
            await until(started.is_set)
            stopping = asyncio.get_running_loop().run_in_executor(None, server.stop)
            await asyncio.sleep(0.1)
            lossy.losing = True
            go.set()
            await asyncio.sleep(0.2)
            lossy.losing = False
            assert len((await asking).body) == size
            await stopping

    with server.running() as address:
        asyncio.run(run(address.url))


def test_drain_takes_no_new_connection() -> None:
    """While it drains, a server accepts nobody."""
    server = make_server()
    started, go = threading.Event(), threading.Event()

    @server.get("/", blocking=True)
    def handler(req: Request) -> str:
        started.set()
        go.wait(10)
        return "done"

    async def run(url: str) -> None:
        async with client_of(url) as client:
            seen = goaways(client)
            asking = asyncio.ensure_future(client.get("/"))
            await until(started.is_set)
            stopping = asyncio.get_running_loop().run_in_executor(None, server.stop)
            await until(lambda: seen)
            with pytest.raises(asyncio.TimeoutError):
                await asyncio.wait_for(client_of(url).__aenter__(), 0.5)
            assert server.export_metrics()["connections"]["refused"] > 0
            go.set()
            assert (await asking).body == b"done"
            await stopping

    with server.running() as address:
        asyncio.run(run(address.url))


def test_drain_of_slow_uploads_and_downloads() -> None:
    """Bodies on their way in both directions are finished within the drain."""
    server = make_server()

    @server.get("/")
    def download(req: Request) -> Iterator[bytes]:
        for _ in range(100):
            yield bytes(64 * KIB)

    @server.post("/")
    async def upload(req: Request) -> str:
        return str(len(await req.body.read_all()))

    async def run(url: str) -> None:
        async with client_of(url, 128 * KIB) as client:
            seen = goaways(client)
            down = client.start(client.fields("GET", "/"), keep_body=False)
            up = client.start(client.fields("POST", "/"), end_stream=False)
            await client.send_body(up.stream_id, [bytes(1000)], False)
            await until(lambda: server.export_metrics()["handlers"]["active"] == 2)
            stopping = asyncio.get_running_loop().run_in_executor(None, server.stop)
            await until(lambda: seen)
            await client.send_body(up.stream_id, [bytes(1000)], True)
            assert (await up.complete()).body == b"2000"
            assert (await down.complete()).size == 100 * 64 * KIB
            await stopping

    with server.running() as address:
        asyncio.run(run(address.url))


# serve()


def test_serve_and_cancel() -> None:
    """Cancelling serve() drains first; the task is cancelled nonetheless."""
    server = make_server()

    @server.get("/")
    async def handler(req: Request) -> str:
        await asyncio.sleep(0.3)
        return "done"

    async def main() -> None:
        serving = asyncio.ensure_future(server.serve())
        await asyncio.sleep(0)
        async with client_of(server.address.url) as client:
            asking = asyncio.ensure_future(client.get("/"))
            await until(lambda: server.export_metrics()["handlers"]["active"] == 1)
            serving.cancel()
            assert (await asking).body == b"done"
            with pytest.raises(asyncio.CancelledError):
                await serving

    asyncio.run(main())


def test_serve_beside_other_tasks() -> None:
    """The program's own tasks run beside the server, and stop() ends serve()."""
    server = make_server()
    ticks = 0

    @server.get("/")
    async def handler(req: Request) -> str:
        return str(ticks)

    async def tick() -> None:
        nonlocal ticks
        while True:
            ticks += 1
            await asyncio.sleep(0.01)

    async def main() -> None:
        ticking = asyncio.ensure_future(tick())
        serving = asyncio.ensure_future(server.serve())
        await asyncio.sleep(0)
        async with client_of(server.address.url) as client:
            first = int((await client.get("/")).body)
            await asyncio.sleep(0.1)
            assert int((await client.get("/")).body) > first
        server.stop()
        await serving
        ticking.cancel()

    asyncio.run(main())


def test_second_cancellation_stops_at_once() -> None:
    """A task that is cancelled again does not wait for the drain; its handlers are heard out."""
    server = make_server()
    ended: list[str] = []

    @server.get("/")
    async def handler(req: Request) -> None:
        try:
            await asyncio.sleep(60)
        finally:
            ended.append("handler")

    async def main() -> None:
        serving = asyncio.ensure_future(server.serve())
        await asyncio.sleep(0)
        async with client_of(server.address.url) as client:
            client.start(client.fields("GET", "/"))
            await until(lambda: server.export_metrics()["handlers"]["active"] == 1)
            serving.cancel()
            await asyncio.sleep(0.1)
            assert not serving.done()
            serving.cancel()
            with pytest.raises(asyncio.CancelledError):
                await serving
            assert ended == ["handler"]

    with logged("asyncio") as records:
        asyncio.run(main())
        gc.collect()
    assert [r.getMessage() for r in records if "destroyed" in r.getMessage()] == []


# Nothing is left


@pytest.mark.slow
@pytest.mark.parametrize("style", ["plain", "async", "blocking"])
def test_fifty_servers_leave_nothing(style: str) -> None:
    """After fifty servers there are the threads, descriptors and objects of one."""

    async def handler_async(req: Request) -> str:
        return "hello"

    def cycle() -> weakref.ref[Server]:
        server = make_server()
        server.get("/", blocking=style == "blocking")(handler_async if style == "async" else lambda: "hello")

        async def run(url: str) -> None:
            async with client_of(url) as client:
                assert (await client.get("/")).body == b"hello"

        with server.running() as address:
            asyncio.run(run(address.url))
        return weakref.ref(server)

    def census() -> tuple[int, int, int]:
        end = time.monotonic() + 5
        while any(t.name.startswith("quiche_h3") for t in threading.enumerate()) and time.monotonic() < end:
            time.sleep(0.01)  # threads of handlers end by themselves
        gc.collect()
        ours = sum(f"{type(o).__module__}".startswith("quiche_h3.") for o in gc.get_objects())
        return threading.active_count(), len(os.listdir("/proc/self/fd")), ours  # noqa: PTH208

    assert all(cycle is not None for cycle in (cycle(), cycle()))
    before = census()
    servers = [cycle() for _ in range(50)]
    after = census()
    assert [server() for server in servers] == [None] * 50
    assert after == before


def test_program_that_ends_without_stop() -> None:
    """A program that started a server and just ends, ends."""
    with Program(run="server.start()") as program:
        asyncio.run(program.ended())


def test_stop_is_told_what_killed_the_server() -> None:
    """An error that ended the server's thread comes out of stop()."""
    server = make_server()
    server.on_shutdown(lambda: 1 // 0)
    server.start()
    with logged() as records, pytest.raises(ZeroDivisionError):
        server.stop()
    assert [r for r in records if r.exc_info]
    server.stop()
