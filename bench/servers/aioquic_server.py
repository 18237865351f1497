"""A bare aioquic server: no framework, no task per request, uvloop when it is installed.

``aioquic_server.py CERTIFICATE KEY`` prints its port as JSON and ends with its standard input.
"""

from __future__ import annotations

import asyncio
import hashlib
import importlib
import json
import sys
from typing import Any

from aioquic.asyncio.protocol import QuicConnectionProtocol
from aioquic.asyncio.server import serve
from aioquic.h3.connection import H3Connection
from aioquic.h3.events import DataReceived, H3Event, HeadersReceived
from aioquic.quic.configuration import QuicConfiguration
from aioquic.quic.connection import QuicConnection
from aioquic.quic.events import QuicEvent

BLOCK = hashlib.shake_256(b"quiche_h3").digest(65_521)
SEND_BUFFER = 1 << 20


class Connection(QuicConnectionProtocol):
    """One connection: answers in the event itself, and sends bodies as acknowledgements make room."""

    def __init__(self, quic: QuicConnection, stream_handler: Any = None) -> None:
        super().__init__(quic, stream_handler)
        self.http = H3Connection(quic)
        self.downloads: dict[int, int] = {}
        self.uploads: dict[int, int] = {}

    def quic_event_received(self, event: QuicEvent) -> None:
        for h3_event in self.http.handle_event(event):
            self.h3_event_received(h3_event)

    def h3_event_received(self, event: H3Event) -> None:
        if isinstance(event, HeadersReceived):
            path = dict(event.headers)[b":path"]
            if path == b"/hello":
                self.respond(event.stream_id, b"Hello, HTTP/3!")
            elif path == b"/upload":
                self.uploads[event.stream_id] = 0
            else:
                size = int(path.rpartition(b"/")[2])
                length = str(size).encode()
                self.http.send_headers(event.stream_id, [(b":status", b"200"), (b"content-length", length)])
                self.downloads[event.stream_id] = size
        elif isinstance(event, DataReceived) and event.stream_id in self.uploads:
            self.uploads[event.stream_id] += len(event.data)
            if event.stream_ended:
                self.respond(event.stream_id, str(self.uploads.pop(event.stream_id)).encode())

    def respond(self, stream_id: int, body: bytes) -> None:
        length = str(len(body)).encode()
        self.http.send_headers(stream_id, [(b":status", b"200"), (b"content-length", length)])
        self.http.send_data(stream_id, body, True)

    def transmit(self) -> None:
        for stream_id in list(self.downloads):
            self.feed(stream_id)
        super().transmit()

    def feed(self, stream_id: int) -> None:
        """Keep SEND_BUFFER bytes with aioquic, which has no signal for room in its buffer."""
        left = self.downloads[stream_id]
        sender = self._quic._streams[stream_id].sender
        while left and len(sender._buffer) < SEND_BUFFER:
            chunk = BLOCK[:left]
            left -= len(chunk)
            self.http.send_data(stream_id, chunk, not left)
        if left:
            self.downloads[stream_id] = left
        else:
            del self.downloads[stream_id]


async def main(certificate: str, key: str) -> None:
    configuration = QuicConfiguration(is_client=False, alpn_protocols=["h3"], max_datagram_size=1350)
    configuration.load_cert_chain(certificate, key)
    server = await serve("127.0.0.1", 0, configuration=configuration, create_protocol=Connection)
    assert server._transport is not None
    print(json.dumps({"port": server._transport.get_extra_info("sockname")[1]}), flush=True)
    await asyncio.get_running_loop().run_in_executor(None, sys.stdin.read)
    server.close()


def new_loop() -> asyncio.AbstractEventLoop:
    try:
        loop: asyncio.AbstractEventLoop = importlib.import_module("uvloop").new_event_loop()
    except ImportError:
        return asyncio.new_event_loop()
    return loop


if __name__ == "__main__":
    new_loop().run_until_complete(main(*sys.argv[1:]))
