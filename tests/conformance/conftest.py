"""The server that all these clients talk to."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest

from quiche_h3 import Request

from .peer import MemoryServer, Peer


def make_server(**fields: Any) -> MemoryServer:
    """`/` answers; `/body` says how long the body was; `/early` answers before the body is there."""
    server = MemoryServer(**fields)

    @server.get("/")
    def hello(req: Request) -> str:
        server.calls.append(req.path)
        return "Hello"

    @server.post("/body")
    def body(req: Request) -> str:
        server.calls.append(req.path)
        return str(len(req.body.read()))

    @server.route(["GET", "POST"], "/early")
    def early(req: Request) -> Iterator[bytes]:
        server.calls.append(req.path)
        yield b"early"

    return server


@pytest.fixture
def server() -> Iterator[MemoryServer]:
    """A server with the defaults."""
    with make_server() as server:
        yield server


@pytest.fixture
def peer(server: MemoryServer) -> Peer:
    """A client that is well-behaved so far."""
    return Peer(server).open()


@pytest.fixture
def make_peer(server: MemoryServer) -> Callable[..., Peer]:
    """Makes clients that have not connected yet."""
    return lambda **options: Peer(server, **options)
