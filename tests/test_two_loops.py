"""Several loops in one process share the core's buffers, and nothing else."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest
from client_support import MIB, Application, blocks, digest

import quiche_h3


@pytest.fixture
def hasty() -> Iterator[None]:
    """Threads take turns as often as the interpreter lets them."""
    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    yield
    sys.setswitchinterval(interval)


def test_bodies_of_several_loops(hasty: None) -> None:
    """A client in asyncio and three with loops of their own: every body arrives as it was sent.

    What the core has received lies in a buffer that all loops share, until it is copied.
    """
    size = 4 * MIB
    application = Application()
    with application.server.running() as address:

        async def awaited() -> str:
            async with await quiche_h3.aconnect(address.url, verify=False) as client:
                response = await client.post("/echo", data=blocks(size))
                return digest(iter([chunk async for chunk in response]))

        def exchange(number: int) -> str:
            if number % 2:
                return asyncio.run(awaited())
            with quiche_h3.connect(address.url, verify=False) as client:
                return digest(iter(client.post("/echo", data=blocks(size))))

        with ThreadPoolExecutor(4) as threads:
            assert set(threads.map(exchange, range(8))) == {digest(blocks(size))}
