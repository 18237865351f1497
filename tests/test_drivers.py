"""The loops that run a server: libev with each backend, the program's own loop, asyncio."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import AsyncIterator, Callable
from typing import Any

import pytest
from interop.aioquic_peer import AioquicClient
from server_support import client_of, make_server, talk

from quiche_h3 import EventBackend, InvalidState, Request, Server, ServerSession, connect_webtransport, ev


def beside(server: Server, scenario: Callable[[AioquicClient], Any], run: Callable[[], None]) -> Any:
    """Run the server in this thread, the client in another one that stops it at the end."""
    result: list[Any] = []

    async def client() -> None:
        async with client_of(server.address.url) as connected:
            result.append(await scenario(connected))

    def thread() -> None:
        try:
            asyncio.run(client())
        except BaseException as failure:
            result.append(failure)
        finally:
            server.stop()

    server.open()
    running = threading.Thread(target=thread)
    running.start()
    run()
    running.join(10)
    if isinstance(result[0], BaseException):
        raise result[0]
    return result[0]


async def hello(client: AioquicClient) -> bytes:
    return (await client.get("/")).body


@pytest.mark.parametrize("backend", [b.value for b in EventBackend if b is not EventBackend.KQUEUE])
def test_backends(backend: str) -> None:
    """A server runs on every backend that this machine has; one it has not is a clear error."""
    server = make_server(event_backend=backend)
    server.get("/")(lambda: "hello")
    try:
        assert talk(server, hello) == b"hello"
    except (ValueError, RuntimeError, OSError) as refusal:
        if backend in ("auto", "epoll", "poll", "select", "asyncio"):
            raise
        if backend not in str(refusal):
            raise


def test_own_loop() -> None:
    """The program's own loop runs its own watchers beside the server, and is left to the program."""
    server, loop = make_server(), ev.Loop()
    ticks = 0

    def tick(watcher: object, events: int) -> None:
        nonlocal ticks
        ticks += 1

    server.get("/")(lambda: str(ticks))
    timer = ev.Timer(loop, 0.0, 0.01, tick)
    timer.start()

    async def scenario(client: AioquicClient) -> bool:
        first = int(await hello(client))
        await asyncio.sleep(0.2)
        return int(await hello(client)) > first

    assert beside(server, scenario, lambda: server.run(loop=loop))
    assert timer.active
    before = ticks
    loop.post(loop.stop)
    threading.Timer(0.1, loop.stop).start()
    loop.run(once=True)
    assert ticks >= before
    timer.stop()
    loop.close()


def test_own_loop_and_async_handlers() -> None:
    """libev cannot run async handlers: that is said when the server starts, not with the first request."""

    async def handler(req: Request) -> str:
        return "hello"

    server, loop = make_server(), ev.Loop()
    server.get("/")(handler)
    with pytest.raises(InvalidState):
        server.run(loop=loop)
    server.close()
    loop.close()


@pytest.mark.parametrize("kind", ["coroutine", "async generator", "plain"])
def test_async_handlers_select_asyncio(kind: str) -> None:
    """With an async handler among the routes, also a mounted one, run() uses asyncio; else libev."""
    from quiche_h3 import Router

    async def coroutine(req: Request) -> str:
        return type(asyncio.get_running_loop()).__name__

    async def generator(req: Request) -> AsyncIterator[str]:
        yield type(asyncio.get_running_loop()).__name__

    def plain(req: Request) -> str:
        with pytest.raises(RuntimeError):
            asyncio.get_running_loop()
        return "libev"

    server, router = make_server(), Router()
    router.get("/")({"coroutine": coroutine, "async generator": generator, "plain": plain}[kind])
    server.mount("/x", router)

    async def scenario(client: AioquicClient) -> bytes:
        return (await client.get("/x/")).body

    got = beside(server, scenario, server.run)
    assert (got == b"libev") == (kind == "plain")


@pytest.mark.parametrize("backend", ["auto", "asyncio"])
def test_idle_server_sleeps(backend: str) -> None:
    """With a connection open and nothing to do, the server burns no CPU time."""
    server = make_server(event_backend=backend)
    server.get("/")(lambda: "hello")

    async def scenario(client: AioquicClient) -> float:
        await hello(client)
        await asyncio.sleep(0.3)  # the last acknowledgements
        before = time.process_time()
        await asyncio.sleep(1)
        return time.process_time() - before

    assert talk(server, scenario) < 0.1


@pytest.mark.parametrize("backend", ["auto", "asyncio"])
def test_idle_timeout(backend: str) -> None:
    """Deadlines are kept without a packet that wakes the loop: an idle connection goes (RFC 9000 10.1)."""
    server = make_server(event_backend=backend, idle_timeout_ms=300)
    gone = threading.Event()
    server.on_close(lambda connection: gone.set())

    async def scenario(client: AioquicClient) -> bool:
        return await asyncio.get_running_loop().run_in_executor(None, gone.wait, 5)

    assert talk(server, scenario)
    assert server.export_metrics()["connections"]["timed_out"] == 1


@pytest.mark.parametrize("backend", ["auto", "asyncio"])
def test_callback_that_raises(backend: str) -> None:
    """What a function given to call_soon_threadsafe raises is logged, and the server goes on."""
    server = make_server(event_backend=backend)
    server.get("/")(lambda: "hello")

    async def scenario(client: AioquicClient) -> bytes:
        server.call_soon_threadsafe(lambda: 1 // 0)
        return await hello(client)

    assert talk(server, scenario) == b"hello"


def test_what_a_waiting_handler_writes_leaves_with_the_acknowledgement() -> None:
    """In asyncio a handler that a packet wakes answers in the packet that acknowledges it, not in another."""
    server = make_server()

    @server.webtransport("/echo")
    async def echo(session: ServerSession) -> None:
        async for payload in session.datagrams():
            session.send_datagram(payload)

    with (
        server.running() as address,
        connect_webtransport(f"{address.url}/echo", verify=False) as session,
    ):
        replies = iter(session.datagrams())
        before = 0
        for i in range(60):
            if i == 10:
                before = server.connections[0].stats()["packets_sent"]
            session.send_datagram(b"%d" % i)
            assert next(replies) == b"%d" % i
        sent = server.connections[0].stats()["packets_sent"] - before
    assert sent < 75  # 100 with packets that only acknowledge
