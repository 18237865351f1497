"""An HTTP/3 server on aioquic with the routes of the Go one: /hello /bytes/N /upload /echo /trailers."""

from __future__ import annotations

import asyncio
import hashlib
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from aioquic.asyncio.server import QuicServer, serve
from aioquic.h3.events import DataReceived, H3Event, HeadersReceived
from aioquic.quic.configuration import QuicConfiguration
from aioquic.quic.connection import QuicConnection
from aioquic.quic.events import ConnectionTerminated, QuicEvent, StreamReset

from . import pattern
from .aioquic_peer import H3Protocol, PeerClosed, PeerReset


class RequestStream:
    """A request whose body arrives in a queue: bytes, then None, or an exception when it was cut short."""

    def __init__(self, stream_id: int, headers: list[tuple[bytes, bytes]]) -> None:
        self.stream_id = stream_id
        self.fields = dict(headers)
        self.trailers: list[tuple[bytes, bytes]] = []
        self.queue: asyncio.Queue[bytes | Exception | None] = asyncio.Queue()

    async def body(self) -> AsyncIterator[bytes]:
        while (item := await self.queue.get()) is not None:
            if isinstance(item, Exception):
                raise item
            yield item


class AioquicServer(H3Protocol):
    """One connection of the server."""

    def __init__(self, quic: QuicConnection, stream_handler: Any = None) -> None:
        super().__init__(quic, stream_handler)
        self.requests: dict[int, RequestStream] = {}
        self.tasks: set[asyncio.Task[None]] = set()

    def quic_event_received(self, event: QuicEvent) -> None:
        if isinstance(event, ConnectionTerminated):
            for request in self.requests.values():
                request.queue.put_nowait(PeerClosed(event))
        elif isinstance(event, StreamReset) and event.stream_id in self.requests:
            self.requests[event.stream_id].queue.put_nowait(PeerReset(event.error_code))
        super().quic_event_received(event)

    def h3_event_received(self, event: H3Event) -> None:
        if not isinstance(event, HeadersReceived | DataReceived):
            return
        request = self.requests.get(event.stream_id)
        if isinstance(event, DataReceived):
            if request and event.data:
                request.queue.put_nowait(event.data)
        elif request:
            request.trailers = event.headers
        else:
            request = self.requests[event.stream_id] = RequestStream(event.stream_id, event.headers)
            task = asyncio.ensure_future(self.run(request))
            self.tasks.add(task)
            task.add_done_callback(self.tasks.discard)
        if request and event.stream_ended:
            request.queue.put_nowait(None)

    async def run(self, request: RequestStream) -> None:
        try:
            await self.answer(request)
        except (PeerReset, PeerClosed):
            pass  # there is nobody to answer
        finally:
            del self.requests[request.stream_id]

    async def answer(self, request: RequestStream) -> None:
        path, stream_id = request.fields[b":path"].decode(), request.stream_id
        if path == "/hello":
            await self.respond(stream_id, b"Hello, HTTP/3!")
        elif path.startswith("/bytes/"):
            size = int(path[len("/bytes/") :])
            self.send_status(stream_id, 200, (b"content-length", str(size).encode()))
            await self.send_body(stream_id, pattern.chunks(size), True)
        elif path == "/upload":
            size, digest = 0, hashlib.sha256()
            async for chunk in request.body():
                size += len(chunk)
                digest.update(chunk)
            await self.respond(stream_id, json.dumps({"bytes": size, "sha256": digest.hexdigest()}).encode())
        elif path == "/echo":
            self.send_status(stream_id, 200)
            self.transmit()  # the client may wait for the status before it sends a body
            async for chunk in request.body():
                await self.send_body(stream_id, [chunk], False)
            self.finish(stream_id, request.trailers)
        elif path == "/trailers":
            self.send_status(stream_id, 200)
            await self.send_body(stream_id, [b"body before trailers"], False)
            self.finish(stream_id, [(b"x-trailer", b"after the body")])
        else:
            await self.respond(stream_id, b"not found", 404)

    def send_status(self, stream_id: int, status: int, *headers: tuple[bytes, bytes]) -> None:
        self.http.send_headers(stream_id, [(b":status", str(status).encode()), *headers])

    async def respond(self, stream_id: int, body: bytes, status: int = 200) -> None:
        self.send_status(stream_id, status, (b"content-length", str(len(body)).encode()))
        await self.send_body(stream_id, [body], True)

    def finish(self, stream_id: int, trailers: list[tuple[bytes, bytes]]) -> None:
        if trailers:
            self.http.send_headers(stream_id, trailers, end_stream=True)
        else:
            self.http.send_data(stream_id, b"", True)
        self.transmit()


@asynccontextmanager
async def serving(certificate: str, key: str, host: str = "127.0.0.1", port: int = 0) -> AsyncIterator[int]:
    """Serve until the end of the block; yields the port."""
    configuration = QuicConfiguration(is_client=False, alpn_protocols=["h3"], max_datagram_size=1350)
    configuration.load_cert_chain(certificate, key)
    server: QuicServer = await serve(host, port, configuration=configuration, create_protocol=AioquicServer)
    assert server._transport is not None
    try:
        yield server._transport.get_extra_info("sockname")[1]
    finally:
        server.close()
