"""A WebTransport application that uses all there is: what browsers and other peers are tried against.

| path | what it does |
| --- | --- |
| /echo | datagrams and bidirectional streams come back; a unidirectional stream comes back on one of ours |
| /push | opens a stream of each kind that says "from the server"; tells the answer to the latter |
| /greeting | sends a datagram, "at once", as soon as it has accepted |
| /digest | answers a bidirectional stream with `{"bytes", "sha256"}` of what was read to its end |
| /pattern | answers a bidirectional stream, which says a size, with as many bytes of the pattern |
| /close | closes the session as the query says: `code`, `reason` |
| /wait | tells how the session ended |
| /reset | resets each stream with the query's `code` after reading its first bytes |
| /stop | stops each stream with the query's `code` after reading its first bytes |
| /aborted | opens a stream for each piece it reads; tells how streams ended, and writes until stopped |
| /unread | takes streams and reads nothing of them |
| /reject | refuses the session with the query's `status` |
| /protocols | knows the subprotocols "bb" and "cc"; sends the name of the chosen one on a stream |

What is told is put into `Told`, from which the test takes it.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import queue
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

from quiche_h3 import (
    ConnectionClosed,
    Server,
    ServerSession,
    WebTransportStream,
    WebTransportStreamError,
    WebTransportStreamReset,
)

from . import pattern

Told = queue.Queue[tuple[str, Any]]
SECONDS = 10.0


async def each(
    streams: AsyncIterator[WebTransportStream], use: Callable[[WebTransportStream], Awaitable[None]]
) -> None:
    """Uses every stream in a task of its own."""

    async def run(stream: WebTransportStream) -> None:
        try:
            await use(stream)
        except (WebTransportStreamError, ConnectionClosed):
            pass  # the peer gave it up, or has gone

    tasks: set[asyncio.Task[None]] = set()
    async for stream in streams:
        task = asyncio.create_task(run(stream))
        tasks.add(task)
        task.add_done_callback(tasks.discard)


def add_sessions(server: Server, told: Told) -> None:
    """Adds the application to a server; any page may open its sessions."""
    for add in (_echoes, _bodies, _ends, _streams_ends, _admission):
        add(server, told)


def _echoes(server: Server, told: Told) -> None:
    @server.webtransport("/echo", origins="*")
    async def echo(session: ServerSession) -> None:
        async def datagrams() -> None:
            async for datagram in session.datagrams():
                session.send_datagram(datagram)

        async def bidi(stream: WebTransportStream) -> None:
            async for chunk in stream:
                await stream.write(chunk)
            stream.finish()

        async def uni(stream: WebTransportStream) -> None:
            async with await session.open_uni_stream() as back:
                async for chunk in stream:
                    await back.write(chunk)

        await asyncio.gather(
            datagrams(),
            each(session.incoming_bidi_streams(), bidi),
            each(session.incoming_uni_streams(), uni),
        )

    @server.webtransport("/push", origins="*")
    async def push(session: ServerSession) -> None:
        async with await session.open_uni_stream() as uni:
            await uni.write(b"from the server")
        bidi = await session.open_bidi_stream()
        await bidi.write(b"from the server")
        bidi.finish()
        told.put(("answer", (await bidi.read_all()).decode()))

    @server.webtransport("/greeting", origins="*")
    async def greeting(session: ServerSession) -> None:
        session.accept()
        session.send_datagram(b"at once")
        await session.wait_closed()


def _bodies(server: Server, told: Told) -> None:
    @server.webtransport("/digest", origins="*")
    async def digest(session: ServerSession) -> None:
        async def answer(stream: WebTransportStream) -> None:
            size, sha256 = 0, hashlib.sha256()
            async for chunk in stream:
                size += len(chunk)
                sha256.update(chunk)
            await stream.write(json.dumps({"bytes": size, "sha256": sha256.hexdigest()}))
            stream.finish()

        await each(session.incoming_bidi_streams(), answer)

    @server.webtransport("/pattern", origins="*")
    async def send_pattern(session: ServerSession) -> None:
        async def answer(stream: WebTransportStream) -> None:
            for chunk in pattern.chunks(int(await stream.read_all())):
                await stream.write(chunk)
            stream.finish()

        await each(session.incoming_bidi_streams(), answer)


def _ends(server: Server, told: Told) -> None:
    @server.webtransport("/close", origins="*")
    async def close(session: ServerSession) -> None:
        query = session.request.query
        session.close(int(query["code"]), query["reason"])

    @server.webtransport("/wait", origins="*")
    async def wait(session: ServerSession) -> None:
        session.accept()
        info = await session.wait_closed()
        told.put(("closed", (info.code, info.reason, info.remote)))


def _streams_ends(server: Server, told: Told) -> None:
    def ending(path: str, end: Callable[[WebTransportStream, int], None]) -> None:
        @server.webtransport(path, origins="*")
        async def session_of(session: ServerSession) -> None:
            async def use(stream: WebTransportStream) -> None:
                await stream.read()
                end(stream, int(session.request.query["code"]))

            await asyncio.gather(
                each(session.incoming_bidi_streams(), use), each(session.incoming_uni_streams(), use)
            )

    ending("/reset", lambda stream, code: stream.reset(code))
    ending("/stop", lambda stream, code: stream.stop_sending(code))

    @server.webtransport("/aborted", origins="*")
    async def aborted(session: ServerSession) -> None:
        async def use(stream: WebTransportStream) -> None:
            async def read() -> None:
                try:
                    while await stream.read():
                        async with await session.open_uni_stream() as begun:
                            await begun.write(b"begun")
                    told.put(("finished", stream.bidirectional))
                except WebTransportStreamReset as reset:
                    told.put(("reset", reset.code))

            async def write() -> None:
                try:
                    while True:
                        await stream.write(b"written")
                        await asyncio.sleep(0.01)
                except WebTransportStreamReset as stopped:
                    told.put(("stopped", stopped.code))

            await asyncio.gather(read(), *([write()] if stream.bidirectional else []))

        await asyncio.gather(
            each(session.incoming_bidi_streams(), use), each(session.incoming_uni_streams(), use)
        )

    @server.webtransport("/unread", origins="*")
    async def unread(session: ServerSession) -> None:
        held = [stream async for stream in session.incoming_uni_streams()]
        told.put(("held", len(held)))


def _admission(server: Server, told: Told) -> None:
    @server.webtransport("/reject", origins="*")
    async def reject(session: ServerSession) -> None:
        session.reject(int(session.request.query["status"]))

    @server.webtransport("/protocols", origins="*", protocols=["bb", "cc"])
    async def protocols(session: ServerSession) -> None:
        async with await session.open_uni_stream() as stream:
            await stream.write(session.protocol or "none")
        await session.wait_closed()
