"""What the tests of the server share: a server in a background thread, and aioquic as its client."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from typing import Any, TypeVar

from interop.aioquic_peer import AioquicClient, configure, open_client

from quiche_h3 import Server, ServerConfig

T = TypeVar("T")
Scenario = Callable[[AioquicClient], Awaitable[T]]

KIB, MIB = 1 << 10, 1 << 20


def make_server(**fields: Any) -> Server:
    """A server on a free port of the loopback, with a certificate of its own."""
    return Server(ServerConfig(bind_addr="127.0.0.1", bind_port=0, dev_cert=True, **fields))


@asynccontextmanager
async def client_of(url: str, window: int = MIB, datagrams: bool = False) -> AsyncIterator[AioquicClient]:
    """One connection of aioquic, which takes any certificate; `window` is that of a stream in bytes."""
    configuration = configure(None, window)
    configuration.max_data = max(MIB, window)  # what one stream leaves unread does not close it
    if datagrams:
        configuration.max_datagram_frame_size = 65_536
    async with open_client(url, configuration=configuration) as client:
        yield client


def talk(server: Server, scenario: Scenario[T], **options: Any) -> T:
    """Serve in a background thread, run the scenario on one connection, stop; return what it returned."""

    async def connected(url: str) -> T:
        async with client_of(url, **options) as client:
            return await scenario(client)

    with server.running() as address:
        return asyncio.run(connected(address.url))


def answer_of(server: Server, method: str, path: str, **options: Any) -> tuple[int, bytes]:
    """Status and body of one request."""

    async def scenario(client: AioquicClient) -> tuple[int, bytes]:
        done = await client.request(method, path, **options)
        return done.status, done.body

    return talk(server, scenario)


async def until(condition: Callable[[], object], seconds: float = 10.0) -> None:
    """Wait for what another thread does, which no event of ours tells."""
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "it never came to be"
        await asyncio.sleep(0.005)


async def settled(read: Callable[[], int], seconds: float = 0.5) -> int:
    """The value that `read` keeps for so many seconds: that nothing more happens is no event."""
    value, since, end = read(), time.monotonic(), time.monotonic() + 20
    while time.monotonic() - since < seconds:
        assert time.monotonic() < end, f"it does not settle: {value}"
        await asyncio.sleep(0.02)
        if (now := read()) != value:
            value, since = now, time.monotonic()
    return value


@contextmanager
def logged(name: str = "quiche_h3", level: int = logging.INFO) -> Iterator[list[logging.LogRecord]]:
    """What a logger is told during the block, by whatever thread."""
    records: list[logging.LogRecord] = []

    class Collect(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            records.append(record)

    logger, handler = logging.getLogger(name), Collect()
    before = logger.level
    logger.addHandler(handler)
    logger.setLevel(level)
    try:
        yield records
    finally:
        logger.setLevel(before)
        logger.removeHandler(handler)
