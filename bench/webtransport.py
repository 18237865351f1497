"""WebTransport at scale: ``python -m bench.webtransport [sessions|streams|datagrams] [count]``.

The server is a process of its own, whose memory and CPU time are read from /proc; the client runs here.
"""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
import time
from collections.abc import Awaitable, Callable
from concurrent.futures import Future
from pathlib import Path

from quiche_h3 import ClientConfig, Server, ServerConfig, ServerSession, WebTransportStream
from quiche_h3.asyncio_driver import AsyncioDriver
from quiche_h3.client_engine import ClientEngine, prepare_config
from quiche_h3.client_link import Link
from quiche_h3.urls import Origin, parse_url
from quiche_h3.webtransport_client import ClientSession, SessionRequest, open_session, resolve_session

CONNECTIONS, SESSIONS = 100, 10
AT_ONCE = 64
DATAGRAM = bytes(100)


def serve() -> None:
    """The server process: echoes datagrams and streams by callbacks."""
    server = Server(
        ServerConfig(
            bind_addr="127.0.0.1",
            bind_port=0,
            dev_cert=True,
            initial_max_streams_bidi=200,
            wt_max_streams_bidi=128,
            idle_timeout_ms=120_000,
            wt_session_idle_ms=120_000,
        )
    )

    @server.webtransport("/echo")
    def echo(session: ServerSession) -> None:
        def data(stream: WebTransportStream, chunk: bytes, fin: bool) -> None:
            stream.write(chunk)
            if fin:
                stream.finish()

        session.on_datagram = session.send_datagram
        session.on_bidi_stream = lambda stream: None
        session.on_stream_data = data

    server.on_startup(lambda: print(server.address.url, flush=True))
    server.run()


def memory(pid: int) -> int:
    """Resident KiB of a process."""
    pages = int(Path(f"/proc/{pid}/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") // 1024


def cpu(pid: int) -> float:
    """CPU seconds of a process's main thread; ticks would miss what runs between them."""
    return int(Path(f"/proc/{pid}/schedstat").read_text().split()[0]) / 1e9


class Bench:
    """A client engine, and the server that it talks to."""

    def __init__(self, url: str, pid: int) -> None:
        self.origin: Origin = parse_url(url)[0]
        self.pid = pid
        config = prepare_config(
            ClientConfig(initial_max_streams_bidi=200, idle_timeout_ms=120_000), False, None
        )
        self.engine = ClientEngine(config, AsyncioDriver, webtransport=True)
        self.engine.driver.start()

    async def link(self) -> Link:
        link = self.engine.link(self.origin, 30.0)
        await asyncio.wrap_future(link.connected)
        return link

    async def session(self, link: Link) -> ClientSession:
        opened: Future[ClientSession] = Future()
        asked = SessionRequest(self.origin, "/echo", None, ())
        open_session(link, asked, lambda result: resolve_session(opened, result))
        session = await asyncio.wrap_future(opened)
        return await asyncio.wrap_future(session.established)

    async def close(self) -> None:
        done = asyncio.get_running_loop().create_future()
        self.engine.shutdown(lambda: None if done.done() else done.set_result(None))
        await done
        self.engine.release()


async def sessions(bench: Bench, count: int) -> None:
    """`count` sessions, ten on a connection, each of which echoes a datagram and a stream."""
    before, begun = memory(bench.pid), time.monotonic()
    links = [await bench.link() for _ in range(count // SESSIONS)]
    opened = [await bench.session(link) for link in links for _ in range(SESSIONS)]
    took = time.monotonic() - begun
    for session in opened:
        session.send_datagram(DATAGRAM)
        assert await session.receive_datagram() == DATAGRAM
        stream = await session.open_bidi_stream()
        await stream.write(b"hello")
        stream.finish()
        assert await stream.read_all() == b"hello"
    grown = memory(bench.pid) - before
    print(
        f"{count} sessions over {len(links)} connections: {took:.2f} s to open, {grown / count:.1f} KiB each"
    )


async def streams(bench: Bench, count: int) -> None:
    """`count` short streams in one session, and the server's memory on the way."""
    session = await bench.session(await bench.link())
    left = count

    async def worker() -> None:
        nonlocal left
        while left > 0:
            left -= 1
            stream = await session.open_bidi_stream()
            stream.write(b"0123456789abcdef")
            stream.finish()
            assert await stream.read_all() == b"0123456789abcdef"

    begun, cpu_before = time.monotonic(), cpu(bench.pid)
    tasks = [asyncio.ensure_future(worker()) for _ in range(AT_ONCE)]
    marks: list[int] = []
    while not all(task.done() for task in tasks):
        await asyncio.wait(tasks, timeout=1.0)
        marks.append(memory(bench.pid))
        print(f"  {count - left} streams, {marks[-1]} KiB", flush=True)
    await asyncio.gather(*tasks)
    took = time.monotonic() - begun
    each = (cpu(bench.pid) - cpu_before) / count * 1e6
    print(f"{count} streams in {took:.0f} s: {count / took:.0f}/s, {each:.1f} us of CPU each")
    print(f"memory {marks[0]} -> {marks[-1]} KiB, at most {max(marks)}")


async def datagrams(bench: Bench, count: int) -> None:
    """`count` datagrams of 100 bytes there and back, 64 on their way at once."""
    session = await bench.session(await bench.link())
    back = 0
    done = asyncio.get_running_loop().create_future()

    def received(payload: bytes) -> None:
        nonlocal back
        back += 1
        if back < count:
            session.send_datagram(payload)
        elif not done.done():
            done.set_result(None)

    session.on_datagram = received
    begun, cpu_before = time.monotonic(), cpu(bench.pid)
    for _ in range(AT_ONCE):
        session.send_datagram(DATAGRAM)
    await done
    took, used = time.monotonic() - begun, cpu(bench.pid) - cpu_before
    print(f"{count} datagrams in {took:.1f} s: {count / took:.0f}/s, {used / count * 1e6:.2f} us of CPU each")


BENCHES: dict[str, tuple[Callable[[Bench, int], Awaitable[None]], int]] = {
    "sessions": (sessions, CONNECTIONS * SESSIONS),
    "streams": (streams, 1_000_000),
    "datagrams": (datagrams, 300_000),
}


async def run(url: str, pid: int, names: list[str], count: int | None) -> None:
    for name in names:
        bench = Bench(url, pid)
        function, default = BENCHES[name]
        await function(bench, count or default)
        await bench.close()


def main(arguments: list[str]) -> None:
    if arguments == ["serve"]:
        serve()
        return
    names = [name for name in arguments if name in BENCHES] or list(BENCHES)
    count = next((int(text) for text in arguments if text.isdigit()), None)
    command = [sys.executable, "-m", "bench.webtransport", "serve"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as server:
        assert server.stdout is not None
        url = server.stdout.readline().strip()
        try:
            asyncio.run(run(url, server.pid, names, count))
        finally:
            server.terminate()


if __name__ == "__main__":
    main(sys.argv[1:])
