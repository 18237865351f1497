"""A server on aioquic, or on qh3, which has the same interface: no framework, no task per request, uvloop.

`... PACKAGE CERTIFICATE KEY`, where PACKAGE is aioquic or qh3.
"""

from __future__ import annotations

import asyncio
import json
import sys
from collections.abc import Iterator
from importlib import import_module
from typing import Any

from .content import HELLO, chunks

PACKAGE = sys.argv[1]
protocol: Any = import_module(f"{PACKAGE}.asyncio.protocol")
http: Any = import_module(f"{PACKAGE}.h3.connection")
http_events: Any = import_module(f"{PACKAGE}.h3.events")
quic_events: Any = import_module(f"{PACKAGE}.quic.events")
configuration: Any = import_module(f"{PACKAGE}.quic.configuration")
serve: Any = import_module(f"{PACKAGE}.asyncio.server").serve
SEND_BUFFER = 1 << 20


class Connection(protocol.QuicConnectionProtocol):  # type: ignore[misc]  # its class is known at run time only
    """One connection: answers in the event itself, and sends bodies as acknowledgements make room."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.http = http.H3Connection(
            self._quic, enable_webtransport=True
        )  # which is how datagrams are enabled
        self.downloads: dict[int, Iterator[bytes]] = {}
        self.uploads: dict[int, int] = {}
        self.sessions: set[int] = set()

    def quic_event_received(self, event: Any) -> None:
        if isinstance(event, quic_events.DatagramFrameReceived):
            self._quic.send_datagram_frame(event.data)
            return
        for h3_event in self.http.handle_event(event):
            self.h3_event_received(h3_event)

    def h3_event_received(self, event: Any) -> None:
        if isinstance(event, http_events.HeadersReceived):
            self.request(event.stream_id, dict(event.headers)[b":path"])
        elif isinstance(event, http_events.DataReceived):
            if event.stream_id in self.uploads:
                self.uploads[event.stream_id] += len(event.data)
                if event.stream_ended:
                    self.respond(event.stream_id, str(self.uploads.pop(event.stream_id)).encode())
            elif event.stream_ended and event.stream_id in self.sessions:
                self.sessions.discard(event.stream_id)
                self.http.send_data(event.stream_id, b"", True)

    def request(self, stream_id: int, path: bytes) -> None:
        if path == b"/hello":
            self.respond(stream_id, HELLO.encode())
        elif path == b"/upload":
            self.uploads[stream_id] = 0
        elif path == b"/datagrams":
            self.sessions.add(stream_id)
            self.http.send_headers(stream_id, [(b":status", b"200")])
        else:
            size = path.rpartition(b"/")[2]
            self.http.send_headers(stream_id, [(b":status", b"200"), (b"content-length", size)])
            self.downloads[stream_id] = chunks(int(size))

    def respond(self, stream_id: int, body: bytes) -> None:
        fields = [
            (b":status", b"200"),
            (b"content-type", b"text/plain; charset=utf-8"),
            (b"content-length", str(len(body)).encode()),
        ]
        self.http.send_headers(stream_id, fields)
        self.http.send_data(stream_id, body, True)

    def transmit(self) -> None:
        for stream_id in list(self.downloads):
            self.feed(stream_id)
        super().transmit()

    def feed(self, stream_id: int) -> None:
        """Keeps SEND_BUFFER bytes with the library, which would take a body of any size."""
        while self.queued(stream_id) < SEND_BUFFER:
            chunk = next(self.downloads[stream_id], b"")
            self.http.send_data(stream_id, chunk, not chunk)
            if not chunk:
                del self.downloads[stream_id]
                return

    def queued(self, stream_id: int) -> int:
        if PACKAGE == "qh3":
            size: int = self._quic.get_send_buffer_size(stream_id)
            return size
        return len(self._quic._streams[stream_id].sender._buffer)  # aioquic has no public way to ask


async def main(certificate: str, key: str) -> None:
    config = configuration.QuicConfiguration(
        is_client=False, alpn_protocols=["h3"], max_datagram_size=1350, max_datagram_frame_size=65_536
    )
    config.load_cert_chain(certificate, key)
    server = await serve("127.0.0.1", 0, configuration=config, create_protocol=Connection)
    print(json.dumps({"port": server._transport.get_extra_info("sockname")[1]}), flush=True)
    await asyncio.get_running_loop().run_in_executor(None, sys.stdin.read)
    server.close()


if __name__ == "__main__":
    import_module("uvloop").new_event_loop().run_until_complete(main(*sys.argv[2:]))
