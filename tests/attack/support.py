"""What the attacks share: a server in memory whose handlers write down what they see, and measures."""

from __future__ import annotations

import ctypes
import gc
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from conformance import wire
from conformance.peer import MemoryServer, Peer

KIB, MIB = 1 << 10, 1 << 20
FULL = os.environ.get("FULL_ATTACKS", "0") not in ("", "0")
"""The counts that reliability is stated with; without it the same attacks run at a tenth of them or less."""


def count(full: int, short: int) -> int:
    """How often an attack is repeated."""
    return full if FULL else short


def make_server(**fields: Any) -> MemoryServer:
    """A server with the routes that the attacks go for. `calls` names the handlers that ran."""
    server = MemoryServer(**fields)
    calls = server.calls

    @server.get("/")
    def hello(req: Any, res: Any) -> str:
        calls.append("/")
        return "Hello"

    @server.get("/big")
    def big(req: Any, res: Any) -> Any:
        calls.append("/big")
        while True:
            yield bytes(16 * KIB)

    @server.post("/echo")
    def echo(req: Any, res: Any) -> bytes:
        calls.append("/echo")
        return bytes(req.body.read())

    @server.post("/upload")
    def upload(req: Any, res: Any) -> Any:
        """Reads as it comes."""
        calls.append("/upload")
        total = 0
        while not req.body.ended:
            total += sum(map(len, req.body))
            yield req.body
        yield str(total)

    return server


def resident() -> int:
    """Resident memory of this process in bytes, garbage collected, what was freed given back."""
    gc.collect()
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)  # of glibc
    if trim is not None:
        trim(0)
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def wait(server: MemoryServer, condition: Callable[[], object], seconds: float = 10.0) -> None:
    """Turns the server whenever one of its deadlines has come, until the condition holds."""
    endpoint: Any = server._endpoint
    end = time.monotonic() + seconds
    while not condition():
        now = time.monotonic()
        assert now < end, "it never came to be"
        deadline = endpoint.deadline()
        due = end if deadline is None else min(deadline / 1e9, end)
        if due > now:
            time.sleep(min(due - now, 0.05))  # the network may have something for it, too
        server.turn()


def metrics(server: MemoryServer, group: str) -> dict[str, Any]:
    """One group of the server's counters."""
    found: dict[str, Any] = server.export_metrics()[group]
    return found


def is_well(server: MemoryServer) -> None:
    """The next client is served as if nothing had been."""
    peer = Peer(server).open()
    answer = peer.fetch(wire.get())
    assert (answer.status, answer.body, answer.fin) == (200, b"Hello", True)
