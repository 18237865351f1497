"""Backpressure in every style of handler, in both directions, and what it leaves alone: everybody else."""

from __future__ import annotations

import asyncio
import json
import threading
from collections.abc import AsyncIterator, Iterator
from typing import Any

import pytest
from server_support import KIB, MIB, client_of, make_server, settled, until

from quiche_h3 import H3ErrorCode, Request, Response, StreamBlocked


class Producer:
    """Handlers of each style that send a large body in chunks and count what they were let go."""

    CHUNK = bytes(32 * KIB)
    COUNT = 256

    def __init__(self) -> None:
        self.produced = 0

    def chunks(self) -> Iterator[bytes]:
        for _ in range(self.COUNT):
            self.produced += len(self.CHUNK)
            yield self.CHUNK

    def generator(self, req: Request, res: Response) -> Iterator[bytes]:
        yield from self.chunks()

    def returned(self, req: Request, res: Response) -> Iterator[bytes]:
        return self.chunks()

    async def coroutine(self, req: Request, res: Response) -> None:
        for chunk in self.chunks():
            await res.write_all(chunk)

    async def async_generator(self, req: Request, res: Response) -> AsyncIterator[bytes]:
        for chunk in self.chunks():
            yield chunk

    def blocking(self, req: Request, res: Response) -> None:
        for chunk in self.chunks():
            res.write_all(chunk)

    def callback(self, req: Request, res: Response) -> None:
        """Neither waits nor yields: writes what is taken, and goes on when it is called back."""
        res.defer()
        rest = b"".join(self.chunks())
        self.produced = 0

        def go_on() -> None:
            nonlocal rest
            try:
                while rest:
                    taken = res.write(rest[: 32 * KIB])
                    self.produced += taken
                    rest = rest[taken:]
            except StreamBlocked:
                res.when_drained(go_on)
            else:
                res.end()

        go_on()


@pytest.mark.parametrize(
    "style", ["generator", "returned", "coroutine", "async_generator", "blocking", "callback"]
)
def test_slow_download_and_a_fast_one(style: str) -> None:
    """A client that does not read stops its producer at window and queue, and nobody else's (spec 7)."""
    server = make_server()
    producers = {"/slow": Producer(), "/fast": Producer()}
    for path, producer in producers.items():
        server.get(path, blocking=style == "blocking")(getattr(producer, style))
    window = 128 * KIB
    total = Producer.COUNT * len(Producer.CHUNK)

    async def both(url: str) -> None:
        async with client_of(url, window) as slow, client_of(url) as fast:
            slow.stop_reading()
            held = slow.start(slow.fields("GET", "/slow"), keep_body=False)
            done = await fast.download("/fast")
            assert (done.status, done.size) == (200, total)
            produced = await settled(lambda: producers["/slow"].produced)
            assert produced <= window + server.config.max_response_queue_bytes + len(Producer.CHUNK)
            slow.send_stop(held.stream_id, H3ErrorCode.H3_REQUEST_CANCELLED)
            await until(lambda: server.export_metrics()["handlers"]["active"] == 0)
            assert (await fast.download("/fast")).size == total

    with server.running() as address:
        asyncio.run(both(address.url))


async def awaited(req: Request) -> dict[str, Any]:
    return {"size": sum([len(chunk) async for chunk in req.body])}


def waited(req: Request) -> dict[str, Any]:
    return {"size": sum(map(len, req.body))}


def test_slow_upload_and_a_fast_one() -> None:
    """An upload that its handlers do not read stops at the window, whatever the style; others go on."""
    server = make_server()
    go = threading.Event()
    window = server.config.initial_max_stream_data_bidi_remote

    async def sleeps(req: Request) -> dict[str, Any]:
        while not go.is_set():  # noqa: ASYNC110 - another thread sets it
            await asyncio.sleep(0.01)
        return await awaited(req)

    def blocks(req: Request) -> dict[str, Any]:
        go.wait(30)
        return waited(req)

    server.post("/coroutine")(sleeps)
    server.post("/blocking", blocking=True)(blocks)
    server.post("/fast")(awaited)

    async def one(url: str, path: str) -> None:
        async with client_of(url) as slow, client_of(url) as fast:
            uploading = asyncio.ensure_future(slow.upload(path, 4 * MIB))
            await until(lambda: slow.exchanges)
            assert window - 16 * KIB < await settled(lambda: slow.sent(0)) <= window
            assert json.loads((await fast.upload("/fast", 2 * MIB)).body)["size"] == 2 * MIB
            assert not uploading.done()
            go.set()
            assert json.loads((await uploading).body)["size"] == 4 * MIB
            go.clear()

    with server.running() as address:
        for path in ("/coroutine", "/blocking"):
            asyncio.run(one(address.url, path))
